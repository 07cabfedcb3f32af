"""Groups, couples, settings, transfer, duplicates, import and export."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from uuid_utils.compat import uuid7

from app.store.tables.every import metadata
from tests.driver import OWN_PROTOCOL, PHQ9, Device, day, mutation, now

# Groups


def group_of(partner, size):
    group = partner.add_group()
    return group, [partner.add_group_member(group)[1] for _ in range(size)]


def test_one_session_of_a_group_is_one_session_in_each_members_record(partner):
    group, members = group_of(partner, 3)
    leader = partner.clinician_token(group["lead_clinician_id"])
    parts = [{"episode_id": m.id, "mood": n, "summary": f"part {n}"} for n, m in enumerate(members)]
    parts[2]["attendance"] = "did_not_attend"
    body = {"id": str(uuid7()), "starts_at": now(days=1), "minutes": 90, "techniques": [{"code": "role_play"}], "participants": parts}
    made = partner.post(f"/v1/groups/{group['id']}/sessions", body)
    again = partner.send("POST", f"/v1/groups/{group['id']}/sessions", body)
    assert (again.status_code, again.json()["id"], len(again.json()["sessions"])) == (200, made["id"], 3)
    for n, member in enumerate(members):
        own = partner.get(f"{member.path}/sessions")["items"]
        assert [(s["group_session_id"], s["status"], s["mood"]) for s in own] == [(made["id"], "missed" if n == 2 else "held", n)]
        others = [m.id for m in members if m is not member] + [f"part {k}" for k in range(3) if k != n]
        for view in ("", "/sessions", "/timeline", "/summary", "/due", "/inventory/circles.svg"):
            shown = partner.send("GET", member.path + view).text
            assert not [o for o in others if o in shown], view
    fewer = body | {"participants": parts[:1]}
    assert partner.send("POST", f"/v1/groups/{group['id']}/sessions", fewer).json()["type"] == "/problems/id-taken"
    assert (
        partner.send("POST", f"/v1/groups/{group['id']}/sessions", body, token=leader).status_code == 404
    )  # leads the group, is in no member's care team
    note = f"/v1/groups/{group['id']}/sessions/{made['id']}/process-note"
    partner.put(note, {"text": "Two spoke."}, etag='"1.1"', token=leader)
    assert partner.get(note, token=leader)["process_note"] == "Two spoke."
    assert partner.send("GET", note, token=members[0].token).status_code == 404
    assert partner.send("GET", note).json()["type"] == "/problems/clinician-only"
    assert "Two spoke." not in str(partner.get(f"/v1/groups/{group['id']}/sessions"))


def test_a_group_takes_members_of_its_protocol_until_it_is_full(partner):
    group, _ = group_of(partner, 9)
    stranger = partner.add_episode()
    wrong = partner.send("POST", f"/v1/groups/{group['id']}/members", {"episode_id": stranger.id})
    assert wrong.json()["type"] == "/problems/member-of-another-protocol"
    more = [partner.add_episode(protocol="IPT-G-WHO") for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda e: partner.send("POST", f"/v1/groups/{group['id']}/members", {"episode_id": e.id}), more))
    assert sorted(a.status_code for a in answers) == [201, 409, 409]
    assert len(partner.get(f"/v1/groups/{group['id']}/members")["items"]) == 10
    member = partner.get(f"/v1/groups/{group['id']}/members")["items"][0]
    path = f"/v1/groups/{group['id']}/members/{member['id']}"
    assert partner.patch(path, {"confidentiality_agreed_on": day(days=1)}, '"1.1"')["confidentiality_agreed_on"] == day(days=1)
    assert partner.send("PATCH", path, {"left_on": "1950-01-01"}, If_Match='"2.1"').json()["type"] == "/problems/dates-out-of-order"
    partner.patch(path, {"left_on": day()}, '"2.1"')
    waiting = next(e for e, a in zip(more, answers, strict=True) if a.status_code == 409)
    partner.post(f"/v1/groups/{group['id']}/members", {"episode_id": waiting.id})
    assert partner.send("PATCH", path, {"left_on": None}, If_Match='"3.1"').json()["type"] == "/problems/group-full"
    partner.patch(f"/v1/groups/{group['id']}", {"status": "ended"}, '"1.1"')
    assert partner.send("PATCH", path, {"left_on": None}, If_Match='"3.1"').json()["type"] == "/problems/group-ended"
    assert (
        partner.send("POST", "/v1/groups", {"protocol": "IPT-16", "lead_clinician_id": group["lead_clinician_id"]}).json()["type"]
        == "/problems/not-a-group-protocol"
    )


def test_a_clinician_sees_only_groups_that_they_lead_or_cover(partner):
    group, members = group_of(partner, 1)
    leader = partner.clinician_token(group["lead_clinician_id"])
    assert [g["id"] for g in partner.get("/v1/groups", token=leader)["items"]] == [group["id"]]
    assert partner.get("/v1/groups", token=members[0].token)["items"] == []
    assert partner.send("GET", f"/v1/groups/{group['id']}", token=members[0].token).status_code == 404


# Couples


def test_both_views_stand_side_by_side_only_when_each_agreed_and_was_seen_alone(partner):
    couple = partner.add_couple()
    lead = partner.add_clinician()["id"]
    for side in ("first", "second"):
        partner.post(f"/v1/episodes/{couple[f'{side}_episode_id']}/care-team", {"clinician_id": lead, "role": "member"})
    token = partner.clinician_token(lead)
    views = f"/v1/couples/{couple['id']}/views"
    shut = partner.send("GET", views, token=token, X_Request_Id="same")
    assert shut.json()["type"] == "/problems/couple-view-not-open"
    agreed = {f"{side}_{what}": day(days=1) for side in ("first", "second") for what in ("screened_alone_on", "agreed_on")}
    assert partner.send("PATCH", f"/v1/couples/{couple['id']}", agreed, If_Match='"1.1"').json()["type"] == "/problems/clinician-only"
    partner.patch(f"/v1/couples/{couple['id']}", agreed, '"1.1"', token=token)
    found = partner.get(views, token=token)
    assert (found["first"]["closeness_now"], found["second"]["closeness_now"], found["apart"]) == (1, 3, ["closeness_now"])
    person = f"/v1/episodes/{couple['first_episode_id']}/relationships/{couple['first_relationship_id']}"
    partner.patch(person, {"safety": "coercion"}, '"1.1"')
    key = {"Idempotency_Key": str(uuid4())}
    again = {"first_agreed_on": day(days=2)}
    assert partner.send("PATCH", f"/v1/couples/{couple['id']}", again, token=token, If_Match='"2.1"', **key).status_code == 200
    barred = partner.send("GET", views, token=token, X_Request_Id="same")
    assert (barred.status_code, barred.content) == (shut.status_code, shut.content)  # it does not say why
    for side in ("first", "second"):
        team = f"/v1/episodes/{couple[f'{side}_episode_id']}/care-team"
        tie = next(m for m in partner.get(team)["items"] if m["clinician_id"] == lead)
        assert partner.send("DELETE", f"{team}/{tie['id']}", If_Match=f'"{tie["version"]}.1"').status_code == 204
    replayed = partner.send("PATCH", f"/v1/couples/{couple['id']}", again, token=token, If_Match='"2.1"', **key)
    assert replayed.status_code == 404  # a kept answer shows nothing outside the caseload of today
    outside = partner.clinician_token(partner.add_clinician()["id"])
    assert partner.send("GET", f"/v1/couples/{couple['id']}", token=outside).status_code == 404


# Settings, transfer, duplicates


def test_a_partner_changes_its_responder_its_crisis_texts_and_its_classifier(service):
    with service.partner() as partner:
        settings = partner.get("/v1/settings")
        assert settings["risk_responder"] == "duty@example.org"
        texts = {"default": "Call.", "es": "Llame."}
        changed = partner.patch("/v1/settings", {"crisis_text": texts, "classifier_on": False}, '"1.1"')
        assert (changed["version"], changed["risk_responder"]) == (2, "duty@example.org")
        assert partner.get("/v1/crisis-text?locale=es-ES")["text"] == "Llame."
        assert partner.send("PATCH", "/v1/settings", {"classifier_on": True}, If_Match='"1.1"').status_code == 412
        assert partner.send("PATCH", "/v1/settings", {"crisis_text": {"es": "x"}}, If_Match='"2.1"').status_code == 422
        episode = partner.add_episode()
        episode.indicators(role_change_identified="present")
        assert partner.send("POST", f"{episode.path}/classification", {}).json()["type"] == "/problems/classifier-off"


def test_a_caseload_is_handed_over_with_every_role(partner):
    episodes = [partner.add_episode() for _ in range(3)]
    for episode in episodes[1:]:
        partner.post(f"{episode.path}/care-team", {"clinician_id": episodes[0].lead, "role": "lead"})
    to = partner.add_clinician()["id"]
    partner.post(f"{episodes[1].path}/care-team", {"clinician_id": to, "role": "supervisor"})
    done = partner.post(f"/v1/clinicians/{episodes[0].lead}/transfer", {"to_clinician_id": to})
    assert (set(done["episode_ids"]), done["left"]) == ({e.id for e in episodes}, 0)
    token = partner.clinician_token(to)
    assert len(partner.get("/v1/episodes", token=token)["items"]) == 3
    assert partner.get("/v1/episodes", token=episodes[0].token)["items"] == []
    for episode in episodes:
        roles = {m["clinician_id"]: m["role"] for m in partner.get(f"{episode.path}/care-team")["items"]}
        assert roles[to] == "lead"
    cover = partner.send("POST", f"/v1/clinicians/{to}/transfer", {"to_clinician_id": episodes[0].cover})
    assert cover.json()["type"] == "/problems/cover-is-lead"
    assert partner.send("POST", f"/v1/clinicians/{to}/transfer", {"to_clinician_id": to}).status_code == 422
    assert partner.send("POST", f"/v1/clinicians/{to}/transfer", {"to_clinician_id": str(uuid4())}).status_code == 404


def test_transfers_at_once_hand_over_once(partner):
    episodes = [partner.add_episode() for _ in range(3)]
    for episode in episodes[1:]:
        partner.post(f"{episode.path}/care-team", {"clinician_id": episodes[0].lead, "role": "lead"})
    to = [partner.add_clinician()["id"] for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda c: partner.send("POST", f"/v1/clinicians/{episodes[0].lead}/transfer", {"to_clinician_id": c}), to))
    assert {a.status_code for a in answers} == {200}
    assert sorted(len(a.json()["episode_ids"]) for a in answers) == [0, 0, 0, 3]


def test_a_duplicate_registration_counts_as_the_same_person_and_can_be_split_again(partner):
    twice = partner.add_episode()
    twice.consent()
    kept = partner.add_patient()
    episode = partner.add_episode(patient=kept)
    assert [u["code"] for u in episode.phase()["transitions"][0]["unmet"]] == ["consent_recorded"]
    path = f"/v1/patients/{kept['id']}/duplicates"
    merged = partner.post(path, {"patient_id": twice.patient_id})
    assert merged["merged_into"] == kept["id"]
    assert {e["id"] for e in partner.get(f"/v1/episodes?patient_id={kept['id']}")["items"]} == {twice.id, episode.id}
    assert episode.phase()["transitions"][0]["open"]
    assert partner.send("POST", path, {"patient_id": twice.patient_id}).json()["type"] == "/problems/already-merged"
    assert (
        partner.send("POST", f"/v1/patients/{twice.patient_id}/duplicates", {"patient_id": kept["id"]}).json()["type"] == "/problems/already-merged"
    )
    assert partner.send("POST", path, {"patient_id": kept["id"]}).status_code == 422
    assert [p["id"] for p in partner.get(path)["items"]] == [twice.patient_id]
    assert partner.send("DELETE", f"{path}/{twice.patient_id}", If_Match=f'"{merged["version"]}.1"').status_code == 204
    assert not episode.phase()["transitions"][0]["open"]


def test_two_merges_the_other_way_round_at_once_leave_one(partner):
    one, other = partner.add_patient()["id"], partner.add_patient()["id"]
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(lambda p: partner.send("POST", f"/v1/patients/{p[0]}/duplicates", {"patient_id": p[1]}), [(one, other), (other, one)])
        )
    assert sorted(a.status_code for a in answers) == [200, 409]


# Import and export


def counted(on_database, partner):
    async def job(database):
        found = {}
        async with database.transaction(UUID(partner.partner_id)) as connection:
            for name in ("patient", "episode", "change", "risk_alert", "session", "patient_key"):
                found[name] = await connection.value(
                    sa.select(sa.func.count())
                    .select_from(metadata.tables[name])
                    .where(metadata.tables[name].c.partner_id == UUID(partner.partner_id))
                )
        return found

    return on_database(job, "ipt_owner")


def test_a_caseload_is_imported_at_any_phase_and_wakes_nobody(partner):
    risky = {**PHQ9, "9": 3}
    answers = [
        {"instrument": "PHQ-9", "answers": risky, "answered_at": now(days=90)},
        {"instrument": "PHQ-9", "answers": PHQ9, "answered_at": now(days=9)},
    ]
    calm = partner.import_row(assessments=answers)
    calm["focus"] = {"primary": "grief", "patient_agreed": True, "decided_at": now(days=40)}
    calm["contract"] = {"sessions": 12, "starts_on": day(days=90), "ends_on": day(days=6), "patient_agreed": True}
    worry = partner.import_row(assessments=list(reversed(answers[:1])))
    job = partner.post("/v1/imports", {"rows": [calm, worry]})
    assert (job["loaded"], [r["ok"] for r in job["report"]]) == (2, True and [True, True])
    first, second = (f"/v1/episodes/{r['episode_id']}" for r in job["report"])
    view = partner.get(first)
    assert (view["phase"], view["status"], view["imported"]) == ("middle", "active", True)
    phase = partner.get(f"{first}/phase")
    assert (phase["sessions_held"], phase["sessions_left"]) == (1, 11)
    assert partner.get(f"{first}/focus")["flags"] == ["imported"]
    assert partner.get(f"{first}/phase/transitions")["items"][0]["overridden"][0]["code"] == "imported"
    assert partner.get(f"{first}/sessions")["items"][0]["imported"] is True
    assert partner.get(f"/v1/risk-alerts?episode_id={first.rpartition('/')[2]}")["items"] == []
    alert = partner.get(f"/v1/risk-alerts?episode_id={second.rpartition('/')[2]}")["items"][0]
    assert (alert["level"], alert["triggers"][0]["answer_level"], alert["received_late_seconds"] > 86_400) == ("review", "urgent", True)


def test_a_row_that_breaks_a_rule_is_refused_whole_with_where_and_the_others_are_loaded(partner, on_database):
    before = counted(on_database, partner)
    good, bad = partner.import_row(), partner.import_row()
    bad["relationships"].append({"label": "aunt", "relation_type": "other_family", "status": "current", "death_date": day(days=3)})
    worse = partner.import_row()
    worse["episode"]["placed"] = {"phase": "follow_up", "status": "active", "since": now(days=3)}
    foreign = partner.import_row()
    foreign["episode"]["lead_clinician_id"] = str(uuid4())
    job = partner.post("/v1/imports", {"rows": [bad, good, worse, foreign]})
    assert [r["ok"] for r in job["report"]] == [False, True, False, False]
    assert job["report"][0]["errors"][0]["pointer"] == "/relationships/1/status"
    assert job["report"][2]["errors"][0]["pointer"] == "/episode/placed/phase"
    assert job["report"][3]["problem"] == "NotFound"
    after = counted(on_database, partner)
    assert (after["patient"] - before["patient"], after["episode"] - before["episode"]) == (1, 1)
    assert after["patient_key"] - before["patient_key"] == 1


def test_a_dry_run_checks_everything_and_keeps_nothing_but_its_report(partner, on_database):
    rows = [partner.import_row(), partner.import_row()]
    before = counted(on_database, partner)
    job = partner.post("/v1/imports", {"dry_run": True, "rows": rows})
    assert (job["loaded"], job["dry_run"]) == (2, True)
    after = counted(on_database, partner)
    assert after == before | {"change": before["change"] + 1}  # the job itself
    assert partner.send("GET", f"/v1/episodes/{job['report'][0]['episode_id']}").status_code == 404
    assert partner.get(f"/v1/imports/{job['id']}")["report"] == job["report"]


def test_an_import_sent_again_loads_nothing_twice(partner):
    row = partner.import_row()
    row["patient"]["id"], row["episode"]["id"] = str(uuid7()), str(uuid7())
    first = partner.post("/v1/imports", {"rows": [row]})
    row["sessions"].reverse()
    second = partner.post("/v1/imports", {"rows": [row]})
    assert len(partner.get(f"/v1/patients/{row['patient']['id']}/consents")["items"]) == 1
    assert (first["report"][0]["new"], second["report"][0]["new"]) == (True, False)
    assert first["report"][0]["episode_id"] == second["report"][0]["episode_id"]
    assert len(partner.get(f"/v1/episodes/{row['episode']['id']}/sessions")["items"]) == 1


def test_an_import_with_its_own_id_is_run_once_however_often_it_is_sent(partner, on_database):
    before = counted(on_database, partner)
    body = {"id": str(uuid7()), "rows": [partner.import_row() for _ in range(3)]}
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: partner.send("POST", "/v1/imports", body), range(3)))
    assert sorted(a.status_code for a in answers) == [200, 200, 201]
    assert len({a.json()["report"][0]["episode_id"] for a in answers}) == 1
    assert counted(on_database, partner)["patient"] - before["patient"] == 3
    other = partner.send("POST", "/v1/imports", body | {"rows": body["rows"][:2]})
    assert other.json()["type"] == "/problems/id-taken"


def test_impossible_places_and_decisions_are_refused_with_where(partner):
    later = "2100-01-01T00:00:00Z"
    rows = [partner.import_row() for _ in range(4)]
    rows[0]["episode"]["placed"]["since"] = later
    rows[1]["focus"] = {"primary": "grief", "patient_agreed": True, "decided_at": later}
    rows[2]["focus"] = {"primary": "grief", "secondary": "grief", "patient_agreed": True, "decided_at": now(days=3)}
    rows[3]["sessions"] = [{"starts_at": later, "status": "held"}, {"starts_at": now(days=9), "status": "held"}]
    report = partner.post("/v1/imports", {"rows": rows})["report"]
    pointers = [r["errors"][0]["pointer"] for r in report]
    assert pointers == ["/episode/placed/since", "/focus/decided_at", "/focus/secondary", "/sessions/0/starts_at"]


def test_answers_of_one_moment_all_count(partner):
    at = now(days=3)
    answers = [{"instrument": "PHQ-9", "answers": {**PHQ9, "9": v}, "answered_at": at} for v in (3, 0)]
    job = partner.post("/v1/imports", {"rows": [partner.import_row(assessments=answers)]})
    assert len(partner.get(f"/v1/risk-alerts?episode_id={job['report'][0]['episode_id']}")["items"]) == 1


def test_the_export_holds_every_table_of_every_patient_and_notes_only_with_their_scope(partner):
    episode = partner.add_episode().into_middle()
    session = partner.get(f"{episode.path}/sessions")["items"][0]
    partner.put(f"{episode.path}/sessions/{session['id']}/note", {"text": "secret-note"}, token=episode.token)
    episode.add_relationship(label="aunt")
    partner.add_patient()
    phone = Device(partner, episode.cover)
    phone.push(mutation("session_note", "create", episode_id=episode.id, session_id=session["id"], text="secret-note of another"))
    whole = partner.get("/v1/exports/charts")
    assert len(whole["items"]) == 2
    chart = next(c for c in whole["items"] if c["episode"])
    assert "aunt" in {p["label"] for p in chart["relationship"]}
    assert chart["session_note"][0]["text"] == "secret-note"
    assert chart["formulation"][0]["text"] == "Because."
    assert chart["sync_conflict"][0]["fields"]["text"] == "secret-note of another"
    narrow = partner.new_token(grant_type="client_credentials", scope="exports:read")["access_token"]
    assert "secret-note" not in partner.send("GET", "/v1/exports/charts", token=narrow).text
    first = partner.get("/v1/exports/charts?limit=1")
    assert partner.get(f"/v1/exports/charts?limit=1&cursor={first['next']}")["next"] is None
    assert not {"wrapped", "sealed", "partner_id"} & {
        k for c in whole["items"] for rows in c.values() if isinstance(rows, list) for r in rows for k in r
    }


@pytest.mark.parametrize("rows", [[], [{}], "x", [None]])
def test_an_import_out_of_shape_is_refused_at_the_door(partner, rows):
    assert partner.send("POST", "/v1/imports", {"rows": rows}).status_code == 422
    assert OWN_PROTOCOL
