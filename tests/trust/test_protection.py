"""Consent by purpose, restriction and retention: one rule before every way that leads to a chart."""

from datetime import timedelta

import pytest

from tests.driver import PATIENT, PHQ9, Device, day, mutation, now


def decide(partner, patient_id, *, given, purpose="treatment", **more):
    body = {"purpose": purpose, "given": given, "wording": "v1", "decided_at": now(), **more}
    return partner.send("POST", f"/v1/patients/{patient_id}/consents", body)


def restrict(partner, patient_id, because="objection_pending", *, hold=False):
    etag = partner.send("GET", f"/v1/patients/{patient_id}/protection").headers["etag"]
    return partner.put(f"/v1/patients/{patient_id}/protection", {"restricted_because": because, "legal_hold": hold}, etag=etag)


# Consent


def test_after_consent_to_treatment_was_withdrawn_the_record_is_kept_and_ended_and_nothing_new_is_treated(partner):
    episode = partner.add_episode().into_middle()
    session = partner.post(f"{episode.path}/sessions", {"starts_at": now(days=-3)})
    assert decide(partner, episode.patient_id, given=False).status_code == 201
    refused = [
        ("POST", f"{episode.path}/sessions", {"starts_at": now(days=-7)}),
        ("POST", f"{episode.path}/goals", {"text": "x"}),
        ("POST", f"{episode.path}/assessment-requests", {"instrument": "PHQ-9", "due_at": now(days=-2)}),
        ("POST", f"{episode.path}/homework", {"task": "x"}),
        ("POST", f"{episode.path}/phase/transitions", {"to": "termination"}),
        ("POST", f"{episode.path}/relationships", {"label": "M.", "relation_type": "friend"}),
    ]
    for method, path, body in refused:
        answer = partner.send(method, path, body)
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/consent-withdrawn"), path
    assert partner.get(f"{episode.path}/timeline")
    answers = {"instrument": "PHQ-9", "answers": {**PHQ9, "9": 3}, "answered_at": now()}
    assert partner.post(f"{episode.path}/assessments", answers)["risk_alert"]["status"] == "open", "an answer is never in the way"
    held = {"starts_at": now(days=1), "status": "held", "minutes": 50, "attendance": "attended"}
    assert partner.send("POST", f"{episode.path}/sessions", held).status_code == 201, "what took place is recorded"
    note = partner.send("PUT", f"{episode.path}/sessions/{session['id']}/note", {"text": "Told me."}, token=episode.token, If_None_Match="*")
    assert note.status_code == 201, note.text
    cancelled = partner.send("PATCH", f"{episode.path}/sessions/{session['id']}", {"status": "cancelled"}, If_Match='"1.1"')
    assert cancelled.status_code == 200, cancelled.text
    ended = partner.send("POST", f"{episode.path}/early-ending", {"reason": "patient_decision", "ended_on": day()}, token=episode.token)
    assert ended.status_code in {201, 422}, ended.text
    assert decide(partner, episode.patient_id, given=True).status_code == 201
    assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}).status_code in {201, 409}


def test_a_withdrawal_binds_phones_and_what_they_wrote_offline_is_kept(partner):
    episode = partner.add_episode()
    phone = Device(partner, episode.lead)
    decide(partner, episode.patient_id, given=False)
    result = phone.push(mutation("goal", "create", episode_id=episode.id, text="x", term="short"))[0]
    assert (result["status"], result["problem"]["type"]) == ("rejected", "/problems/consent-withdrawn")
    taken = phone.push(mutation("consent", "create", patient_id=episode.patient_id, purpose="treatment", given=True, wording="v1", decided_at=now()))[
        0
    ]
    assert taken["status"] == "applied", taken


def test_a_withdrawal_on_one_registration_binds_the_other(partner):
    episode, twin = partner.add_episode(), partner.add_patient()
    partner.post(f"/v1/patients/{twin['id']}/duplicates", {"patient_id": episode.patient_id})
    decide(partner, twin["id"], given=False)
    assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}).status_code == 403


def test_the_newest_decision_counts_not_the_last_recorded(partner):
    episode = partner.add_episode()
    decide(partner, episode.patient_id, given=False, decided_at=now(days=5))
    decide(partner, episode.patient_id, given=True, decided_at=now(days=3))
    assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}).status_code == 201
    decide(partner, episode.patient_id, given=False, decided_at=now(days=4))
    assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}).status_code == 201


def test_without_consent_to_sharing_no_letter_is_made(partner):
    episode = partner.add_episode()
    assert partner.send("GET", f"{episode.path}/summary.html").status_code == 200
    decide(partner, episode.patient_id, given=False, purpose="data_sharing")
    for kind in ("html", "pdf"):
        answer = partner.send("GET", f"{episode.path}/summary.{kind}")
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/sharing-refused")
    assert partner.send("GET", f"{episode.path}/summary").status_code == 200, "the partner itself still reads it"


def test_a_guardian_decides_for_a_minor(partner):
    child = partner.add_patient(birth_year=int(day()[:4]) - 13)
    refused = decide(partner, child["id"], given=True)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/guardian-needed")
    assert decide(partner, child["id"], given=True, given_by="guardian").status_code == 201
    youth = partner.add_patient(birth_year=int(day()[:4]) - 17)
    assert decide(partner, youth["id"], given=True).status_code == 201
    etag = partner.send("GET", "/v1/settings").headers["etag"]
    partner.patch("/v1/settings", {"consent_age": 18}, etag)
    assert decide(partner, youth["id"], given=True).status_code == 422


# Restriction


def test_a_restricted_chart_is_closed_to_every_way_but_safety_and_rights(partner):
    episode = partner.add_episode()
    alert = episode.assess({**PHQ9, "9": 1})["risk_alert"]
    patient = f"/v1/patients/{episode.patient_id}"
    assert restrict(partner, episode.patient_id)["restricted_because"] == "objection_pending"
    for token in (partner.token, episode.token):
        for path in (episode.path, f"{episode.path}/inventory", f"{episode.path}/timeline", f"{episode.path}/summary", f"{episode.path}/sessions"):
            answer = partner.send("GET", path, token=token)
            assert (answer.status_code, answer.json()["type"]) == (403, "/problems/processing-restricted"), path
        assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}, token=token).status_code == 403
        assert partner.send("PUT", f"{episode.path}/termination", {"ending_as_loss": "x"}, token=token, If_None_Match="*").status_code == 403
    assert episode.id not in {e["id"] for e in partner.get("/v1/episodes?limit=100")["items"]}
    assert [d for d in partner.get("/v1/due?limit=100")["items"] if d.get("episode_id") == episode.id] == []
    assert [a["id"] for a in partner.get(f"/v1/risk-alerts?episode_id={episode.id}")["items"]] == [alert["id"]]
    acknowledged = partner.send("POST", f"/v1/risk-alerts/{alert['id']}/acknowledgements", {}, token=episode.token)
    assert acknowledged.status_code in {200, 201}, acknowledged.text
    assert partner.get(patient)["restricted_because"] == "objection_pending"
    assert decide(partner, episode.patient_id, given=True).status_code == 201
    assert partner.post(f"{patient}/export", {})["registrations"]
    restrict(partner, episode.patient_id, None)
    assert partner.get(episode.path)["id"] == episode.id


def test_phones_forget_a_restricted_chart_and_get_it_back(partner):
    episode = partner.add_episode()
    episode.add_relationship()
    doctor = Device(partner, episode.lead).pull()
    patient = Device(partner, episode.patient_id, kind=PATIENT)
    held = set(doctor.rows)
    assert {kind for kind, _ in held} >= {"patient", "episode", "relationship"}
    restrict(partner, episode.patient_id)
    assert doctor.pull().rows == {}
    assert (
        doctor.push(mutation("goal", "create", episode_id=episode.id, text="x", term="short"))[0]["problem"]["type"]
        == "/problems/processing-restricted"
    )
    assert partner.send("GET", "/v1/sync/pull?since=0", token=patient.token).status_code == 200, "the person it protects is not bound"
    restrict(partner, episode.patient_id, None)
    assert set(doctor.pull().rows) >= held


def test_emergency_access_opens_a_restricted_chart(partner):
    episode = partner.add_episode()
    restrict(partner, episode.patient_id, "needed_for_claims")
    outsider = partner.clinician_token(partner.add_clinician()["id"])
    reason = "On call: the patient has called the crisis line tonight."
    partner.post("/v1/break-glass", {"patient_id": episode.patient_id, "reason": reason}, token=outsider)
    assert partner.send("GET", episode.path, token=outsider).status_code == 200


def test_protection_needs_its_scope_and_what_was_seen(partner, service):
    patient = partner.add_patient()
    path = f"/v1/patients/{patient['id']}/protection"
    body = {"restricted_because": None, "legal_hold": True}
    assert partner.send("PUT", path, body).status_code == 428
    assert partner.send("PUT", path, body, If_Match='"9.1"').status_code == 412
    assert partner.send("PUT", path, body | {"restricted_because": "because"}, If_Match='"1.1"').status_code == 422
    assert partner.send("GET", path, token=partner.clinician_token(partner.add_clinician()["id"])).status_code in {403, 404}
    states = [v["state"] for v in partner.get(f"/v1/patients/{patient['id']}/history")["items"]]
    assert [s["legal_hold"] for s in states] == [False]


def test_a_restriction_is_the_persons_by_every_registration_and_a_merge_carries_it_over(partner):
    one, two, third = partner.add_episode(), partner.add_episode(), partner.add_episode()
    partner.post(f"/v1/patients/{one.patient_id}/duplicates", {"patient_id": two.patient_id})
    restrict(partner, one.patient_id)
    for episode in (one, two):
        assert partner.send("GET", episode.path, token=episode.token).status_code == 403
    restrict(partner, one.patient_id, None)
    assert partner.send("GET", two.path, token=two.token).status_code == 200
    restrict(partner, third.patient_id, hold=True)
    alone = partner.add_episode()
    partner.post(f"/v1/patients/{third.patient_id}/duplicates", {"patient_id": alone.patient_id})
    assert partner.send("GET", alone.path, token=alone.token).status_code == 403
    assert partner.get(f"/v1/patients/{alone.patient_id}")["legal_hold"] is True


def test_under_a_restriction_a_patients_answer_still_raises_the_alarm(partner):
    episode = partner.add_episode()
    phone = Device(partner, episode.patient_id, kind=PATIENT)
    restrict(partner, episode.patient_id)
    body = {"instrument": "PHQ-9", "answers": {**PHQ9, "9": 3}, "answered_at": now()}
    assert partner.send("POST", f"{episode.path}/assessments", body, token=phone.token).status_code == 201
    assert partner.get(f"/v1/risk-alerts?episode_id={episode.id}")["items"]


def test_a_restriction_holds_in_replays_lists_groups_and_for_clinicians(partner):
    group = partner.add_group()
    member, episode = partner.add_group_member(group)
    body = {"label": "Anna", "relation_type": "friend"}
    first = partner.send("POST", f"{episode.path}/relationships", body, Idempotency_Key="before")
    phone, second = Device(partner, episode.lead), Device(partner, episode.cover)
    phone.push(mutation("relationship", "update", first.json()["id"], 1, label="Berta"))
    second.push(mutation("relationship", "update", first.json()["id"], 1, label="Cilly"))
    assert partner.get("/v1/sync/conflicts")["items"]
    restrict(partner, episode.patient_id)
    again = partner.send("POST", f"{episode.path}/relationships", body, Idempotency_Key="before")
    assert again.status_code == 403
    assert partner.get("/v1/sync/conflicts")["items"] == []
    assert partner.get(f"/v1/groups/{group['id']}/members")["items"] == []
    assert partner.send("GET", f"/v1/groups/{group['id']}/members/{member['id']}").status_code == 404
    patient = f"/v1/patients/{episode.patient_id}"
    assert partner.send("PATCH", patient, {"birth_year": 1999}, token=episode.token, If_Match='"2.1"').status_code == 403
    assert partner.send("GET", patient, token=episode.token).status_code == 403
    assert partner.get("/v1/exports/charts")["items"], "a partner that leaves takes all of it along"


def test_care_is_not_taken_up_again_after_consent_was_withdrawn(partner):
    episode = partner.add_episode().into_middle()
    partner.post(f"{episode.path}/status-changes", {"command": "pause", "reason": "x"})
    decide(partner, episode.patient_id, given=False)
    assert partner.send("POST", f"{episode.path}/status-changes", {"command": "resume", "reason": "x"}).status_code == 403
    assert partner.send("POST", f"{episode.path}/maintenance", {"kind": "maintenance"}).status_code == 403


# Retention


@pytest.fixture
def ended(partner):
    """A patient whose only course has ended, and one whose goes on."""
    closed, running = partner.add_episode(patient=partner.add_patient(birth_year=1980)), partner.add_episode()
    answer = partner.send("POST", f"{closed.path}/early-ending", {"reason": "moved", "ended_on": day()}, token=closed.token)
    assert answer.status_code == 201, answer.text
    return closed, running


def test_what_is_due_is_listed_and_nothing_is_changed(partner, ended, upkept):
    assert partner.send("GET", "/v1/retention/due").json()["type"] == "/problems/retention-unset"
    etag = partner.send("GET", "/v1/settings").headers["etag"]
    partner.patch("/v1/settings", {"retention": {"years": 1}}, etag)
    assert partner.get("/v1/retention/due")["items"] == []
    assert upkept("retire_records", later=timedelta(days=800)) == 0, "listed only: the partner has not asked for erasure"


def test_what_is_due_is_erased_when_the_partner_says_so_and_a_hold_keeps_it(partner, ended, upkept):
    closed, running = ended
    held = partner.add_patient()
    etag = partner.send("GET", "/v1/settings").headers["etag"]
    partner.patch("/v1/settings", {"retention": {"years": 1, "erase": True}}, etag)
    restrict(partner, held["id"], None, hold=True)
    if partner.get(closed.path)["status"] != "closed":
        etag = partner.send("GET", closed.path).headers["etag"]
        answer = partner.send("POST", f"{closed.path}/status-changes", {"command": "close", "reason": "x"}, token=closed.token)
        assert answer.status_code == 201, answer.text
    assert upkept("retire_records", later=timedelta(days=300)) == 0
    assert upkept("retire_records", later=timedelta(days=800)) == 1
    assert partner.get(f"/v1/patients/{closed.patient_id}/erasure")["requested_by"] == "retention"
    assert partner.get(f"/v1/patients/{held['id']}")["legal_hold"] is True
    assert partner.get(running.path)["id"] == running.id


@pytest.mark.parametrize("retention", [{"years": 0}, {"years": 101}, {"years": 5, "minors_until_age": 17}, {"years": 5, "surprise": 1}, 5])
def test_a_retention_out_of_rule_is_a_422(partner, retention):
    etag = partner.send("GET", "/v1/settings").headers["etag"]
    assert partner.send("PATCH", "/v1/settings", {"retention": retention}, If_Match=etag).status_code == 422


def closed_course(partner, **patient):
    episode = partner.add_episode(patient=partner.add_patient(birth_year=1980, **patient))
    partner.post(f"{episode.path}/early-ending", {"reason": "moved", "ended_on": day()}, token=episode.token)
    if partner.get(episode.path)["status"] != "closed":
        partner.post(f"{episode.path}/status-changes", {"command": "close", "reason": "x"}, token=episode.token)
    return episode


def keep_years(partner, years=1):
    etag = partner.send("GET", "/v1/settings").headers["etag"]
    partner.patch("/v1/settings", {"retention": {"years": years, "erase": True}}, etag)


def test_who_is_in_treatment_by_another_registration_is_not_retired(partner, upkept):
    pairs = [(partner.add_episode(), closed_course(partner)) for _ in range(2)]
    (one, old), (other, older) = pairs
    partner.post(f"/v1/patients/{one.patient_id}/duplicates", {"patient_id": old.patient_id})
    partner.post(f"/v1/patients/{older.patient_id}/duplicates", {"patient_id": other.patient_id})
    keep_years(partner)
    assert upkept("retire_records", later=timedelta(days=800)) == 0
    for running, _ in pairs:
        assert partner.get(running.path)["id"] == running.id


def test_a_hold_on_another_registration_keeps_the_person_and_stops_nobody_else(partner, upkept):
    held, twin, other = closed_course(partner), closed_course(partner), closed_course(partner)
    partner.post(f"/v1/patients/{held.patient_id}/duplicates", {"patient_id": twin.patient_id})
    restrict(partner, held.patient_id, None, hold=True)
    keep_years(partner)
    assert upkept("retire_records", later=timedelta(days=800)) == 1
    assert partner.get(f"/v1/patients/{other.patient_id}/erasure")["requested_by"] == "retention"
    for episode in (held, twin):
        assert partner.get(episode.path)["id"] == episode.id
