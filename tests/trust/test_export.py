"""The export of everything held of a person: complete against the tables, in JSON and to read."""

import re

from app.actions.subject import HELD_OTHERWISE
from app.store.tables.every import SHARED_TABLES, metadata
from tests.driver import PATIENT, Device
from tests.trust.test_erasure import PLANTED, planted_course

NOT_OF_A_PATIENT = {  # every other table of a partner, with the reason why it holds nothing of a patient
    "partner_setting": "settings",
    "client": "apps",
    "client_secret": "apps",
    "client_key": "apps",
    "used_assertion": "ids of assertions",
    "used_proof": "ids of proofs",
    "clinician": "staff",
    "change_clock": "a counter",
    "outcome_quarter": "when a quarter was frozen",
    "outcome_release": "numbers with noise",
    "outcome_budget": "what was spent on them",
    "outcome_spend": "what was spent on them",
    "outcome_member": "a partner's declared size",
    "outcome_extract": "orders and manifests",
    "outcome_file": "generalised records under pseudonyms whose key is destroyed, for a day",
    "outcome_link": "digests of links",
    "audit_seal": "hashes",
    "therapy_group": "the group, not its members",
    "group_session": "the group's session: who took part stands in `session`",
    "couple": "exported as the own side of the couple",
    "device": "exported by person_id",
    "partner_protocol": "protocols",
    "import_job": "ids and faults of rows; what was loaded is in the record",
    "webhook_endpoint": "receivers",
    "webhook_secret": "receivers",
    "webhook_position": "receivers",
}


def test_every_table_is_exported_or_says_why_not():
    for name, table in metadata.tables.items():
        if name in SHARED_TABLES:
            continue
        if "patient_id" in table.c or name == "patient":
            assert name not in NOT_OF_A_PATIENT, name
        else:
            assert name in NOT_OF_A_PATIENT, f"{name}: does it hold anything of a patient?"
    assert set(HELD_OTHERWISE) <= set(metadata.tables)
    assert all(len(reason) > 20 for reason in HELD_OTHERWISE.values())


def test_an_export_holds_every_planted_text_every_version_and_every_access(partner):
    episode, _, _ = planted_course(partner)
    partner.patch(episode.path, {"risk_screened": False}, '"1.1"')
    answer = partner.send("POST", f"/v1/patients/{episode.patient_id}/export", {})
    found = answer.json()
    written = [w for w in PLANTED if w not in answer.text]
    assert written == []
    (record,) = found["registrations"]
    assert record["patient"]["external_ref"] == PLANTED[0]
    assert {"relationship", "life_event", "problem", "goal", "session", "session_note", "assessment", "risk_alert", "consent", "device"} <= set(
        record
    )
    assert {"break_glass", "sync_conflict", "care_team"} <= set(record)
    versions = [(v["entity"], v["version"]) for v in record["history"] if v["entity"] == "episode"]
    assert versions == [("episode", 1), ("episode", 2)]
    assert any(a["action"] == "read" for a in found["accesses"])
    assert found["left_out"] == []


def test_notes_are_left_out_for_a_token_without_their_scope_and_it_says_so(partner):
    episode, _, _ = planted_course(partner)
    token = partner.new_token(grant_type="client_credentials", scope="rights:write")["access_token"]
    answer = partner.send("POST", f"/v1/patients/{episode.patient_id}/export", {}, token=token)
    note = PLANTED[7]
    assert answer.json()["left_out"] == ["session_note"]
    assert partner.get(f"{episode.path}/timeline")
    text = answer.text
    assert [w for w in PLANTED if w not in text] == [note]


def test_an_export_to_read_shows_everything_and_runs_nothing(partner):
    episode = partner.add_episode()
    evil = '<script>alert(1)</script> & "quotes" \' =cmd'
    episode.add_relationship(label=evil)
    page = partner.send("POST", f"/v1/patients/{episode.patient_id}/export?format=html", {})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quotes&quot; &#x27; =cmd" in page.text
    assert "Who saw or changed it" in page.text
    assert not re.search(r"""(src|href)=""", page.text), "it fetches nothing"


def test_a_couple_shows_the_own_side_only(partner):
    couple = partner.add_couple()
    first = partner.get(f"/v1/episodes/{couple['first_episode_id']}")
    (record,) = partner.post(f"/v1/patients/{first['patient_id']}/export", {})["registrations"]
    assert record["couple"][0]["first_episode_id"] == couple["first_episode_id"]
    assert couple["second_episode_id"] not in str(record)


def test_every_registration_of_the_person_is_in_it(partner):
    one, two = partner.add_patient(), partner.add_patient()
    Device(partner, two["id"], kind=PATIENT)
    partner.post(f"/v1/patients/{one['id']}/duplicates", {"patient_id": two["id"]})
    for asked in (one, two):
        found = partner.post(f"/v1/patients/{asked['id']}/export", {})
        assert {r["id"] for r in found["registrations"]} == {one["id"], two["id"]}


def test_an_export_is_the_backends_and_another_partners_patient_is_not_there(partner, other_partner):
    patient = other_partner.add_patient()
    assert partner.send("POST", f"/v1/patients/{patient['id']}/export", {}).status_code == 404
    token = partner.clinician_token(partner.add_clinician()["id"])
    assert partner.send("POST", f"/v1/patients/{patient['id']}/export", {}, token=token).status_code == 403
