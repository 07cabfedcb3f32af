"""Care, rule by rule, through the API."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from uuid_utils.compat import uuid7

from app.store.tables.every import metadata
from tests.driver import PHQ9, day, now


@pytest.fixture
def episode(partner):
    return partner.add_episode()


# People


def test_a_patient_needs_no_name_and_has_none(partner):
    made = partner.add_patient(external_ref="emr-9", time_zone="Europe/Madrid")
    assert set(made) == {
        *("id", "version", "created_at", "updated_at", "external_ref", "birth_year", "sex", "locale", "time_zone", "merged_into"),
        *("restricted_because", "legal_hold"),
    }
    assert UUID(made["id"]).version == 7
    assert partner.send("POST", "/v1/patients", {"name": "Ana"}).status_code == 422


def test_a_clinician_who_left_is_refused_within_seconds_and_the_partners_key_stays_the_backends(partner, episode):
    refused = partner.send("PATCH", f"/v1/patients/{episode.patient_id}", {"external_ref": "x"}, token=episode.token, If_Match='"1.1"')
    assert refused.json()["type"] == "/problems/backend-only"
    cover = partner.clinician_token(episode.cover)
    team = partner.send("POST", f"{episode.path}/care-team", {"clinician_id": episode.cover, "role": "lead"}, token=cover)
    assert team.json()["type"] == "/problems/lead-decides"
    partner.patch(f"/v1/clinicians/{episode.lead}", {"active": False}, '"1.1"')
    deadline = time.monotonic() + 5
    while partner.send("GET", episode.path, token=episode.token).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert partner.send("GET", episode.path, token=cover).status_code == 200


def test_the_newest_consent_counts_and_a_withdrawal_shuts_the_gate(partner, episode):
    episode.consent()
    assert episode.phase()["transitions"][0]["open"]
    body = {"purpose": "treatment", "given": False, "wording": "v1", "decided_at": now(days=1), "note": "By telephone."}
    partner.post(f"/v1/patients/{episode.patient_id}/consents", body)
    assert [u["code"] for u in episode.phase()["transitions"][0]["unmet"]] == ["consent_recorded"]
    listed = partner.get(f"/v1/patients/{episode.patient_id}/consents")["items"]
    assert [(c["given"], c["note"]) for c in listed] == [(True, None), (False, "By telephone.")]


def test_an_episode_keeps_the_protocols_version_and_has_one_lead(partner, episode):
    assert (episode.row["protocol_code"], episode.row["protocol_version"]) == ("IPT-12", 1)
    assert (episode.row["status"], episode.row["phase"]) == ("referred", "screening")
    team = {m["clinician_id"]: m for m in partner.get(f"{episode.path}/care-team")["items"]}
    assert {c: m["role"] for c, m in team.items()} == {episode.lead: "lead", episode.cover: "cover"}
    lead = team[episode.lead]
    refused = partner.send("DELETE", f"{episode.path}/care-team/{lead['id']}", If_Match='"1.1"')
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/lead-needed")
    partner.post(f"{episode.path}/care-team", {"clinician_id": episode.cover, "role": "lead"})
    roles = {m["clinician_id"]: m["role"] for m in partner.get(f"{episode.path}/care-team")["items"]}
    assert roles == {episode.lead: "member", episode.cover: "lead"}
    member = next(m for m in partner.get(f"{episode.path}/care-team")["items"] if m["role"] == "member")
    assert partner.send("DELETE", f"{episode.path}/care-team/{member['id']}", If_Match=f'"{member["version"]}.1"').status_code == 204


def test_a_clinicians_token_sees_its_caseload_only(partner, episode):
    outside = partner.add_episode()
    alert = outside.assess({**PHQ9, "9": 1})["risk_alert"]
    mine = episode.token
    assert [e["id"] for e in partner.get("/v1/episodes", token=mine)["items"]] == [episode.id]
    assert [p["id"] for p in partner.get("/v1/patients", token=mine)["items"]] == [episode.patient_id]
    assert partner.get("/v1/risk-alerts", token=mine)["items"] == []
    for path in (outside.path, f"{outside.path}/inventory", f"/v1/patients/{outside.patient_id}", f"/v1/risk-alerts/{alert['id']}"):
        assert partner.send("GET", path, token=mine).status_code == 404
    closing = partner.send("POST", f"/v1/risk-alerts/{alert['id']}/closure", {"closing_note": "x"}, token=mine)
    assert closing.status_code == 404
    assert partner.send("POST", f"{outside.path}/care-team", {"clinician_id": episode.lead, "role": "member"}, token=mine).status_code == 404
    assert partner.send("POST", "/v1/patients", {}, token=mine).json()["type"] == "/problems/backend-only"


# Inventory


def test_names_and_free_text_are_sealed_in_the_database(partner, episode, on_database):
    planted = "planted-plaintext-7"
    episode.add_relationship(label=planted, expects_of_other=planted)
    partner.post(f"{episode.path}/goals", {"text": planted})
    partner.put(f"{episode.path}/indicators", {"answers": {"old_role_mourned": {"value": "present", "quote": planted}}})
    partner.put(f"{episode.path}/formulation", {"text": planted, "areas": ["grief"]})
    episode.hold(summary=planted)
    partner.put(f"{episode.path}/termination", {"ending_as_loss": planted, "gains": [{"gain": planted}]})

    async def job(database):
        found = {}
        async with database.transaction(UUID(partner.partner_id)) as connection:
            for name in metadata.tables:
                if name not in {"partner", "signing_key", "revocation", "security_event"}:
                    rows = await connection.rows(sa.text(f"SELECT * FROM {name}"))
                    found[name] = repr(rows)
        return found

    assert [name for name, rows in on_database(job, "ipt_owner").items() if planted in rows] == []
    assert partner.get(f"{episode.path}/inventory")["relationships"][0]["label"] == planted


def test_an_inventory_is_revised_and_says_what_is_missing(partner, episode):
    person = episode.add_relationship(closeness_now=2, closeness_wished=1, confiding=2)
    partner.patch(f"{episode.path}/relationships/{person['id']}", {"expects_of_other": "a", "other_expects": "b"}, '"1.1"')
    found = partner.get(f"{episode.path}/inventory")
    assert (found["measures"]["relationships"], found["measures"]["confidants"], found["measures"]["mean_closeness_gap"]) == (1, 1, 1.0)
    assert found["relationships"][0]["expects_of_other"] == "a"
    assert found["next_questions"][0].startswith("Who else matters")
    partner.send("DELETE", f"{episode.path}/relationships/{person['id']}", If_Match='"2.1"')
    assert partner.get(f"{episode.path}/inventory")["relationships"] == []
    assert partner.send("GET", f"{episode.path}/relationships/{person['id']}").status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("relationships", {"label": "M.", "relation_type": "parent", "status": "deceased", "death_date": "2099-01-01"}),
        ("relationships", {"label": "M.", "relation_type": "parent", "death_date": "2020-01-01"}),
        ("relationships", {"label": "Maria Lopez", "relation_type": "parent"}),
        ("relationships", {"label": "M.", "relation_type": "parent", "closeness_now": 9}),
        ("life-events", {"type": "death", "happened_on": "2099-01-01"}),
        ("life-events", {"type": "sadness"}),
        ("problems", {"text": "x", "severity": 11}),
        ("goals", {"text": "x", "met_on": "2099-01-01"}),
    ],
)
def test_impossible_histories_are_refused_with_where(partner, episode, path, body):
    answer = partner.send("POST", f"{episode.path}/{path}", body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"]


def test_a_safety_mark_opens_a_safeguarding_alert_and_cannot_be_lifted_alone(service):
    with service.partner(setting={"risk_responder": None}) as partner:
        episode = partner.add_episode()
        person = episode.add_relationship(safety="violence")  # a disclosure is recorded though no duty contact is named
        alert = partner.get(f"/v1/risk-alerts?episode_id={episode.id}")["items"][0]
        assert (alert["kind"], alert["level"], alert["triggers"][0]["safety"]) == ("safeguarding", "urgent", "violence")
        assert alert["responder"] == "lead clinician of the episode"
        lifted = partner.send("PATCH", f"{episode.path}/relationships/{person['id']}", {"safety": "none"}, If_Match='"1.1"', token=episode.token)
        assert (lifted.status_code, lifted.json()["type"]) == (403, "/problems/safety-bar-stays")


def test_a_safety_mark_bars_new_dispute_strategies_with_that_person_and_nothing_else(partner, episode):
    marked, other = episode.add_relationship(), episode.add_relationship()
    episode.indicators(continuing_relation_with_other={"value": "present", "relationship_id": marked["id"]})
    area = episode.focus(primary="role_dispute")["focus_areas"][0]
    path = f"{episode.path}/focus-areas/{area['id']}"
    before = {"relationship_id": marked["id"], "strategies": [{"code": "review_symptoms"}, {"code": "determine_the_stage"}]}
    partner.patch(path, before, '"1.1"')
    partner.patch(f"{episode.path}/relationships/{marked['id']}", {"safety": "violence"}, '"1.1"')
    partner.patch(path, {"clinician_progress": 3}, '"2.1"')
    more = {"strategies": [*before["strategies"], {"code": "find_parallels"}]}
    for wrong in (more, more | {"relationship_id": None}):
        assert partner.send("PATCH", path, wrong, If_Match='"3.1"').json()["type"] == "/problems/safety-bars-strategies"
    again = partner.send("GET", f"{episode.path}/focus")
    noted = partner.put(f"{episode.path}/focus", {"primary": "role_dispute", "patient_agreed": True}, etag=again.headers["etag"], token=episode.token)
    assert noted["flags"] == ["dispute_with_safety_mark"]
    blame = {"communication_fault_visible": {"value": "present", "relationship_id": marked["id"]}}
    refused = partner.send("PUT", f"{episode.path}/indicators", {"answers": blame}, If_Match='"1.1"')
    assert refused.json()["errors"][0]["pointer"] == "/answers/communication_fault_visible"
    joint = {"starts_at": now(days=-7), "techniques": [{"code": "joint_session"}]}
    for who in ({}, {"joint_relationship_id": marked["id"]}):
        assert partner.send("POST", f"{episode.path}/sessions", joint | who).json()["type"] == "/problems/joint-session-barred"
    assert partner.send("POST", f"{episode.path}/sessions", joint | {"joint_relationship_id": other["id"]}).status_code == 201
    held = episode.hold(techniques=[{"code": "joint_session"}], strategies=["find_parallels"])
    assert held["flags"] == ["joint_session_with_safety_mark", "dispute_strategy_beside_safety_mark"]


# Indicators, classification, focus


def test_a_classification_shows_every_contribution_and_decides_nothing(partner, episode):
    event = episode.add_event(happened_on=day(days=210), linked_to_onset="clear")
    answers = {
        "role_change_identified": {"value": "present", "life_event_id": event["id"]},
        "onset_linked_to_change": {"value": "present", "life_event_id": event["id"], "quote": "Since I stopped working."},
        "patient_names_the_change": "present",
    }
    assert partner.send("POST", f"{episode.path}/classification", {}).json()["type"] == "/problems/indicators-missing"
    episode.indicators(**answers)
    run = partner.post(f"{episode.path}/classification", {})
    result = run["result"]
    assert (result["ruleset"], result["outcome"], result["decision_status"]) == ("1.0", "provisional", "awaiting_clinician")
    transition = next(a for a in result["areas"] if a["area"] == "role_transition")
    assert {c["indicator"]: c["points"] for c in transition["contributions"] if c["points"]} == {
        "onset_linked_to_change": 4,
        "patient_names_the_change": 3,
    }
    assert result["questions"][0]["indicator"] in {"significant_person_died", "continuing_relation_with_other"}
    assert partner.get(f"{episode.path}/classification")["id"] == run["id"]
    assert partner.send("GET", f"{episode.path}/focus").status_code == 404
    assert partner.get(f"{episode.path}/indicators")["quotes"] == {"onset_linked_to_change": "Since I stopped working."}


def test_a_run_sees_what_has_changed_since_the_answers(partner, episode):
    person, event = episode.add_relationship(), episode.add_event(happened_on=day(days=210), linked_to_onset="clear")
    episode.indicators(
        continuing_relation_with_other={"value": "present", "relationship_id": person["id"]},
        communication_fault_visible={"value": "present", "relationship_id": person["id"]},
        role_change_identified={"value": "present", "life_event_id": event["id"]},
    )
    partner.patch(f"{episode.path}/relationships/{person['id']}", {"safety": "coercion"}, '"1.1"')
    result = partner.post(f"{episode.path}/classification", {})["result"]
    dispute = next(a for a in result["areas"] if a["area"] == "role_dispute")
    assert {c["indicator"]: c["answer"] for c in dispute["contributions"]}["communication_fault_visible"] == "unknown"
    partner.send("DELETE", f"{episode.path}/life-events/{event['id']}", If_Match='"1.1"')
    gone = partner.send("POST", f"{episode.path}/classification", {})
    assert gone.json()["errors"][0]["pointer"] == "/answers/role_change_identified/life_event_id"


def test_contradicting_indicators_are_a_422_by_name(partner, episode):
    answers = {"onset_linked_to_death": {"value": "present"}, "death_mourned_and_remote": {"value": "present"}}
    refused = partner.send("PUT", f"{episode.path}/indicators", {"answers": answers}, If_None_Match="*")
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/answers/death_mourned_and_remote"


def test_the_classifier_can_be_switched_off_and_the_clinician_decides_without_it(service):
    with service.partner(setting={"classifier_on": False}) as partner:
        episode = partner.add_episode()
        episode.indicators(role_change_identified="present")
        assert partner.send("POST", f"{episode.path}/classification", {}).json()["type"] == "/problems/classifier-off"
        assert episode.focus()["agrees_with_suggestion"] is None


def test_a_bare_client_cannot_decide_a_focus(partner, episode):
    refused = partner.send("PUT", f"{episode.path}/focus", {"primary": "grief", "patient_agreed": True}, If_None_Match="*")
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/clinician-only")


def test_a_focus_has_one_or_two_areas_and_a_change_needs_a_reason_and_keeps_the_work(partner, episode):
    first = episode.focus(primary="grief", secondary="role_transition")
    assert first["flags"] == ["no_death_recorded"]
    assert [(a["area"], a["place"]) for a in first["focus_areas"]] == [("grief", "primary"), ("role_transition", "secondary")]
    assert first["decided_by"] == episode.lead
    path, etag = f"{episode.path}/focus", '"1.1"'
    same = partner.send("PUT", path, {"primary": "grief", "secondary": "grief", "patient_agreed": True}, token=episode.token, If_Match=etag)
    assert same.status_code == 422
    unreasoned = partner.send("PUT", path, {"primary": "role_dispute", "patient_agreed": True}, token=episode.token, If_Match=etag)
    assert unreasoned.json()["errors"][0]["pointer"] == "/reason"
    changed = partner.put(
        path, {"primary": "role_transition", "reason": "The loss is mourned.", "patient_agreed": True}, etag=etag, token=episode.token
    )
    assert {a["area"]: (a["place"], a["status"]) for a in changed["focus_areas"]} == {
        "grief": ("primary", "closed"),
        "role_transition": ("primary", "active"),
    }


def test_work_in_a_focus_area_knows_its_own_sub_states_and_strategies(partner, episode):
    area = episode.focus(primary="grief")["focus_areas"][0]
    path = f"{episode.path}/focus-areas/{area['id']}"
    for wrong, status in (
        ({"sub_state": "impasse"}, 422),
        ({"strategies": [{"code": "find_parallels"}]}, 422),
        ({"life_event_id": str(uuid4())}, 404),
    ):
        assert partner.send("PATCH", path, wrong, If_Match='"1.1"').status_code == status
    assert partner.send("GET", path).headers["etag"] == '"1.1"'
    done = partner.patch(
        path, {"sub_state": "delayed", "strategies": [{"code": "explore_feelings", "done_on": day()}], "work": "The funeral."}, '"1.1"'
    )
    assert (done["sub_state"], done["strategies"][0]["done_on"], done["work"]) == ("delayed", day(), "The funeral.")


# Phases


def test_a_shut_gate_names_every_unmet_condition(partner, episode):
    episode.into_initial()
    shut = episode.enter("middle")
    assert (shut.status_code, shut.json()["type"]) == (409, "/problems/phase-gate-shut")
    assert {u["code"] for u in shut.json()["unmet"]} == {
        "diagnosis_named",
        "risk_assessed",
        "baseline_measured",
        "inventory_taken",
        "problem_area_chosen",
        "formulation_told",
        "contract_agreed",
        "initial_sessions_held",
    }
    assert all(u["source"] for u in shut.json()["unmet"])
    assert episode.phase()["phase"] == "initial"


def test_a_clinician_may_override_with_a_reason_and_a_partners_app_may_not(partner, episode):
    episode.into_initial()
    app = episode.enter("middle", reason="we know better")
    assert (app.status_code, app.json()["type"]) == (403, "/problems/override-by-clinician-only")
    done = episode.enter("middle", reason="Transferred in week six.", token=episode.token)
    assert done.status_code == 201
    assert len(done.json()["overridden"]) == 8
    steps = partner.get(f"{episode.path}/phase/transitions")["items"]
    assert [(s["to_phase"], s["reason"]) for s in steps] == [("initial", None), ("middle", "Transferred in week six.")]
    assert [e["detail"] for e in partner.get(f"{episode.path}/timeline")["items"] if e["kind"] == "phase"] == ["screening", "overridden"]
    assert done.json()["reason"] == "Transferred in week six."
    assert partner.get(episode.path)["phase"] == "middle"


def test_phases_follow_each_other_and_a_race_enters_once(partner, episode):
    episode.ready_for_middle()
    assert episode.enter("termination").json()["type"] == "/problems/phase-not-next"
    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(lambda _: episode.enter("middle").status_code, range(6)))
    assert statuses == [201] + [409] * 5


def test_the_phase_shows_plan_checklist_and_proposal(partner, episode):
    episode.into_middle()
    view = episode.phase()
    assert view["plan"] == {"initial": [1, 3], "middle": [4, 9], "termination": [10, 12], "departures": []}
    assert (view["sessions_held"], view["sessions_left"]) == (3, 9)
    assert {t["code"]: t["status"] for t in view["tasks"]}["contract_agreed"] == "done"
    assert view["proposals"] == ["make_up_lost_sessions"]  # nine sessions, and the end date has passed
    for days in range(48, 42, -1):
        episode.hold(days=days)
    assert "start_termination" in episode.phase()["proposals"]


def test_tasks_met_by_facts_cannot_be_ticked_and_waivers_are_the_clinicians(partner, episode):
    path = f"{episode.path}/phase/tasks"
    assert partner.send("PUT", f"{path}/inventory_taken", {"status": "done"}, If_None_Match="*").json()["type"] == "/problems/task-met-by-fact"
    assert partner.send("PUT", f"{path}/nonsense", {"status": "done"}, If_None_Match="*").status_code == 404
    waiver = {"status": "waived", "reason": "No living relatives."}
    assert partner.send("PUT", f"{path}/inventory_taken", waiver, If_None_Match="*").status_code == 403
    made = partner.put(f"{path}/inventory_taken", waiver, token=episode.token)
    assert (made["reason"], made["recorded_by"]) == ("No living relatives.", episode.lead)


def test_an_amendment_of_the_contract_says_why_and_how_severe(partner, episode):
    path, body = f"{episode.path}/contract", {"sessions": 12, "starts_on": day(days=120), "ends_on": day()}
    crowded = partner.send("PUT", path, body | {"ends_on": day(days=90)}, If_None_Match="*")
    assert crowded.json()["errors"][0]["pointer"] == "/ends_on"
    partner.put(path, body | {"sessions": 16})
    body["patient_agreed"] = True
    partner.put(path, body, etag='"1.1"')
    unreasoned = partner.send("PUT", path, body | {"sessions": 16}, If_Match='"2.1"')
    assert {e["pointer"] for e in unreasoned.json()["errors"]} == {"/reason", "/severity"}
    amended = partner.put(path, body | {"sessions": 16, "reason": "Still unwell.", "severity": "severe"}, etag='"2.1"')
    assert (amended["sessions"], amended["severity"], amended["version"]) == (16, "severe", 3)


@pytest.mark.parametrize(("sessions", "status"), [(12, 201), (11, 422), (13, 422), (15, 422), (16, 201), (20, 201)])
def test_a_contract_keeps_to_its_protocol_and_an_extension_adds_four_or_more(partner, episode, sessions, status):
    body = {"sessions": sessions, "starts_on": day(days=140), "ends_on": day()}
    assert partner.send("PUT", f"{episode.path}/contract", body, If_None_Match="*").status_code == status


# Sessions


def test_a_session_gets_its_number_when_it_is_held_and_parallel_ones_get_their_own(partner, episode):
    planned = partner.post(f"{episode.path}/sessions", {"starts_at": now(days=1)})
    assert planned["number"] is None
    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(lambda _: episode.hold(days=2)["number"], range(6)))
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]
    held = partner.patch(f"{episode.path}/sessions/{planned['id']}", {"status": "held", "minutes": 50, "attendance": "attended"}, '"1.1"')
    assert held["number"] == 7
    again = partner.send("PATCH", f"{episode.path}/sessions/{planned['id']}", {"status": "missed"}, If_Match='"2.1"')
    assert again.json()["type"] == "/problems/session-not-scheduled"


def test_a_held_session_is_recorded_in_every_phase_and_flagged_when_unusual(partner, episode):
    assert episode.hold(days=120)["flags"] == ["before_episode"]
    partner.put(f"{episode.path}/contract", {"sessions": 12, "starts_on": day(days=90), "ends_on": day(days=10)})
    assert episode.hold(days=5)["flags"] == ["after_agreed_end"]
    partner.post(f"{episode.path}/early-ending", {"reason": "moved", "ended_on": day(days=5)})
    assert episode.hold(days=1)["status"] == "held"
    assert episode.assess({**PHQ9, "9": 1}, days=0)["risk_alert"]["status"] == "open"


@pytest.mark.parametrize(
    "wrong",
    [
        {"starts_at": now(days=-1)},
        {"attendance": "did_not_attend"},
        {"techniques": [{"code": "hypnosis"}]},
        {"strategies": ["nonsense"]},
        {"focus_areas": ["sadness"]},
        {"mood": 11},
    ],
)
def test_a_session_that_cannot_be_is_refused(partner, episode, wrong):
    body = {"starts_at": now(days=1), "status": "held", "minutes": 50, **wrong}
    assert partner.send("POST", f"{episode.path}/sessions", body).status_code == 422


def test_what_was_missed_can_turn_out_to_have_been_held_and_odd_sessions_are_flagged(partner, episode):
    missed = partner.post(f"{episode.path}/sessions", {"starts_at": now(days=1), "status": "missed", "external_ref": "s-1"})
    held = partner.patch(f"{episode.path}/sessions/{missed['id']}", {"status": "held"}, '"1.1"')
    assert (held["number"], held["flags"]) == (1, ["minutes_missing"])
    areas = ["grief", "role_dispute", "role_transition"]
    assert episode.hold(focus_areas=areas)["flags"] == ["more_than_two_areas"]
    assert episode.hold(focus_areas=["grief"], strategies=["find_parallels"])["flags"] == ["strategy_outside_focus"]
    partner.patch(f"{episode.path}/sessions/{missed['id']}", {"entered_in_error": True, "error_reason": "x"}, '"2.1"')
    anew = partner.post(f"{episode.path}/sessions", {"starts_at": now(days=1), "status": "held", "minutes": 50, "external_ref": "s-1"})
    assert [s["id"] for s in partner.get("/v1/sessions?external_ref=s-1")["items"]] == [missed["id"], anew["id"]]


def test_a_session_recorded_late_keeps_the_phase_of_its_day(partner, episode):
    episode.consent()
    assert episode.enter("initial", occurred_at=now(days=80)).status_code == 201
    assert episode.enter("middle", occurred_at=now(days=40), reason="Transferred.", token=episode.token).status_code == 201
    assert [episode.hold(days=d)["phase"] for d in (90, 60, 20)] == ["screening", "initial", "middle"]


def test_a_wrong_session_is_marked_not_removed_and_its_number_is_free_again(partner, episode):
    first = episode.hold(days=3)
    marked = partner.patch(f"{episode.path}/sessions/{first['id']}", {"entered_in_error": True, "error_reason": "Other patient."}, '"1.1"')
    assert marked["error_reason"] == "Other patient."
    assert episode.phase()["sessions_held"] == 0
    assert episode.hold(days=2)["number"] == 1
    assert len(partner.get(f"{episode.path}/sessions")["items"]) == 2


# Assessments and alerts


def test_a_total_is_the_servers_and_comes_with_band_and_caseness(partner, episode):
    found = episode.assess({str(n): 2 for n in range(1, 9)} | {"9": 0})
    assert (found["total"], found["band"], found["is_case"], found["risk_alert"]) == (16, "moderately_severe", True, None)
    assert found["notice"]["no_evidence_of_safety"].endswith("does not exclude risk.")
    assert found["notice"]["crisis_text"] == "Call the crisis line of your region."
    assert (
        partner.send("POST", f"{episode.path}/assessments", {"instrument": "PHQ-9", "answers": PHQ9, "answered_at": now(), "total": 3}).status_code
        == 422
    )


def test_a_positive_risk_item_opens_an_alert_in_the_same_answer_with_the_crisis_text(partner, episode):
    found = episode.assess({**PHQ9, "9": 2}, days=0)
    alert = found["risk_alert"]
    assert (alert["level"], alert["status"], alert["responder"]) == ("urgent", "open", "duty@example.org")
    due = datetime.fromisoformat(alert["due_at"]) - datetime.fromisoformat(alert["opened_at"])
    assert due == timedelta(hours=4)
    assert found["notice"]["crisis_text"] == "Call the crisis line of your region."
    assert "not monitored" in found["notice"]["not_monitored"]


def test_a_missing_risk_item_is_an_unknown_risk_and_there_is_no_total(partner, episode):
    found = episode.assess({str(n): 1 for n in range(1, 9)})
    assert (found["total"], found["partial_sum"], found["missing"]) == (None, 8, [9])
    assert (found["risk_alert"]["level"], found["risk_alert"]["triggers"][0]["reason"]) == ("review", "risk_item_not_answered")


def test_a_repeated_answer_appends_to_the_open_alert_and_raises_it(partner, episode):
    first = episode.assess({**PHQ9, "9": 1}, days=0)["risk_alert"]
    second = episode.assess({**PHQ9, "9": 3}, days=0)["risk_alert"]
    assert second["id"] == first["id"]
    assert (second["level"], len(second["triggers"])) == ("urgent", 2)
    assert second["due_at"] < first["due_at"]
    third = episode.assess({**PHQ9, "9": 1}, days=0)["risk_alert"]
    assert (third["level"], third["due_at"]) == ("urgent", second["due_at"])


def test_a_late_answer_is_appended_and_does_not_alarm_as_if_new(partner, episode):
    alert = episode.assess({**PHQ9, "9": 2}, days=0)["risk_alert"]
    seen = partner.post(f"/v1/risk-alerts/{alert['id']}/acknowledgements", {}, token=episode.token)
    late = episode.assess({**PHQ9, "9": 1}, days=40)["risk_alert"]
    assert (late["status"], late["due_at"], late["acknowledged_by"]) == ("acknowledged", seen["due_at"], episode.lead)
    assert late["triggers"][1]["received_late_seconds"] > 39 * 86_400
    higher = partner.add_episode()
    low = higher.assess({**PHQ9, "9": 1}, days=0)["risk_alert"]
    partner.post(f"/v1/risk-alerts/{low['id']}/acknowledgements", {}, token=higher.token)
    raised = higher.assess({**PHQ9, "9": 3}, days=3)["risk_alert"]
    assert (raised["status"], raised["level"]) == ("open", "urgent")


def test_a_fresh_answer_takes_the_lateness_off_an_alert(partner, episode):
    assert episode.assess({**PHQ9, "9": 1}, days=20)["risk_alert"]["received_late_seconds"]
    fresh = episode.assess({**PHQ9, "9": 2}, days=0)["risk_alert"]
    assert fresh["received_late_seconds"] is None
    due = datetime.fromisoformat(fresh["due_at"]) - datetime.fromisoformat(fresh["updated_at"])
    assert due <= timedelta(hours=4)


def test_an_answer_from_a_clock_that_is_ahead_is_taken_and_noted(partner, episode):
    found = episode.assess({**PHQ9, "9": 3}, days=-400)
    assert found["risk_alert"]["level"] == "urgent"
    assert 399 * 86_400 < found["clock_ahead_seconds"] <= 400 * 86_400
    assert found["answered_at"] <= found["created_at"]


def test_a_blank_form_is_an_unknown_risk(partner, episode):
    found = episode.assess({"1": None}, days=0)
    assert (found["total"], found["partial_sum"], found["risk_alert"]["triggers"][0]["reason"]) == (None, 0, "risk_item_not_answered")
    assert found["notice"]["crisis_text"]


def test_a_repeated_answer_with_its_own_id_shows_its_alert_again(partner, episode):
    body = {"id": str(uuid7()), "instrument": "PHQ-9", "answers": {**PHQ9, "9": 1}, "answered_at": now()}
    first = partner.send("POST", f"{episode.path}/assessments", body)
    again = partner.send("POST", f"{episode.path}/assessments", body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["risk_alert"]["id"] == first.json()["risk_alert"]["id"]
    assert len(again.json()["risk_alert"]["triggers"]) == 1


def test_the_crisis_text_is_the_partners_by_language_and_at_hand_beforehand(service):
    texts = {"default": "Default.", "es": "En español."}
    with service.partner(setting={"crisis_text": texts}) as partner:
        for locale, text in (("es-ES", "En español."), ("es", "En español."), ("de", "Default.")):
            assert partner.get(f"/v1/crisis-text?locale={locale}")["text"] == text
        patient = partner.add_patient(locale="es-MX")
        episode = partner.add_episode(patient=patient)
        assert episode.assess({**PHQ9, "9": 1}, days=0)["notice"]["crisis_text"] == "En español."


def test_parallel_answers_make_one_alert_and_lose_none(partner, episode):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: episode.assess({**PHQ9, "9": 1}, days=0), range(8)))
    alerts = partner.get(f"/v1/risk-alerts?episode_id={episode.id}")["items"]
    assert [len(a["triggers"]) for a in alerts] == [8]


def test_a_late_answer_says_how_late_it_came(partner, episode):
    alert = episode.assess({**PHQ9, "9": 1}, days=3)["risk_alert"]
    assert 3 * 86_400 - 60 < alert["received_late_seconds"] < 3 * 86_400 + 60
    assert episode.assess({**PHQ9, "9": 0}, days=0)["received_late_seconds"] is None


def test_an_alert_is_acknowledged_and_closed_by_a_clinician_of_the_team_with_a_note(partner, episode):
    alert = episode.assess({**PHQ9, "9": 1}, days=0)["risk_alert"]
    path = f"/v1/risk-alerts/{alert['id']}"
    for where, body in ((f"{path}/acknowledgements", {}), (f"{path}/closure", {"closing_note": "x"})):
        assert partner.send("POST", where, body).json()["type"] == "/problems/clinician-only"
    seen = partner.post(f"{path}/acknowledgements", {"acknowledgement_note": "Calling."}, token=episode.token)
    assert (seen["status"], seen["acknowledged_by"]) == ("acknowledged", episode.lead)
    assert partner.send("POST", f"{path}/closure", {}, token=episode.token).status_code == 422
    cover = partner.clinician_token(episode.cover)
    closed = partner.post(f"{path}/closure", {"closing_note": "Seen at home."}, token=cover)
    assert (closed["status"], closed["closed_by"], closed["closing_note"]) == ("closed", episode.cover, "Seen at home.")
    assert partner.send("POST", f"{path}/closure", {"closing_note": "x"}, token=cover).json()["type"] == "/problems/alert-already-closed"
    assert episode.assess({**PHQ9, "9": 1}, days=0)["risk_alert"]["id"] != alert["id"]


def test_closing_fakes_no_acknowledgement(partner, episode):
    alert = episode.assess({**PHQ9, "9": 1}, days=0)["risk_alert"]
    closed = partner.post(f"/v1/risk-alerts/{alert['id']}/closure", {"closing_note": "Seen."}, token=episode.token)
    assert (closed["status"], closed["acknowledged_at"], closed["closed_by"]) == ("closed", None, episode.lead)


def test_a_new_answer_reopens_an_acknowledged_alert(partner, episode):
    alert = episode.assess({**PHQ9, "9": 1}, days=0)["risk_alert"]
    partner.post(f"/v1/risk-alerts/{alert['id']}/acknowledgements", {}, token=episode.token)
    again = episode.assess({**PHQ9, "9": 1}, days=0)["risk_alert"]
    assert (again["id"], again["status"], again["acknowledged_at"]) == (alert["id"], "open", None)


def test_a_correction_takes_the_score_out_and_leaves_the_alert(partner, episode):
    found = episode.assess({**PHQ9, "9": 1})
    body = {"entered_in_error": True, "error_reason": "Another patient's answers."}
    partner.patch(f"{episode.path}/assessments/{found['id']}", body, '"1.1"')
    assert partner.get(f"{episode.path}/trajectory")["instruments"] == []
    assert partner.get(f"/v1/risk-alerts/{found['risk_alert']['id']}")["status"] == "open"


def test_without_a_risk_responder_no_risk_item_is_collected(service):
    with service.partner(setting={"risk_responder": None}) as partner:
        episode = partner.add_episode()
        body = {"instrument": "PHQ-9", "answers": PHQ9, "answered_at": now()}
        assert partner.send("POST", f"{episode.path}/assessments", body).json()["type"] == "/problems/risk-responder-missing"
        assert episode.assess(instrument="GAD-7")["total"] == 7


@pytest.mark.parametrize("answers", [{"10": 1}, {"0": 1}, {"1": 4}, {"1": -1}, {"1": 1.5}, {"1": "2"}, {"1": True}, {"x": 1}])
def test_answers_out_of_range_are_refused(partner, episode, answers):
    body = {"instrument": "PHQ-9", "answers": answers, "answered_at": now()}
    assert partner.send("POST", f"{episode.path}/assessments", body).status_code == 422


def test_the_trajectory_compares_with_the_baseline(partner, episode):
    for days, value in ((40, 2), (30, 1), (20, 1)):
        episode.assess({str(n): value for n in range(1, 9)} | {"9": 0}, days=days)
    line = partner.get(f"{episode.path}/trajectory")["instruments"][0]
    assert (line["baseline"], line["latest"]) == (16, 8)
    assert line["points"][0]["change"] is None
    assert line["points"][1]["change"] == {
        "points": 8,
        "reliable": "improvement",
        "response": True,
        "remission": False,
        "on_track": None,
        "index": 3.02,
    }


# The ending


def test_a_course_ends_through_its_work(partner, episode):
    episode.into_middle()
    assert episode.enter("termination").json()["type"] == "/problems/clinician-only"
    assert episode.enter("termination", token=episode.token).status_code == 201
    shut = episode.enter("follow_up", token=episode.token)
    assert {"end_date_named", "gains_credited", "warning_signs_listed", "maintenance_decided", "final_measure_taken", "alternative_offered"} & {
        u["code"] for u in shut.json()["unmet"]
    }
    record = {
        "end_date": day(days=6),
        "end_date_told_on": day(days=30),
        "ending_as_loss": "x",
        "symptoms_compared": "x",
        "gains": [{"gain": "x"}],
        "remaining_problems": [],
        "warning_signs": [{"sign": "x", "type": "sleep", "first_step": "y"}],
        "contingency_plan": {"who": "a", "where": "b", "when": "c"},
        "maintenance_decision": "declined",
        "alternative_offered": "A referral was offered.",
        "final_assessment": "refused",
        "final_assessment_reason": "Did not wish to.",
    }
    made = partner.put(f"{episode.path}/termination", record)
    assert all(made["tasks_met"].values())
    assert made["told_at_session"] == 3
    assert partner.send("GET", f"{episode.path}/termination").headers["etag"].startswith('"1.1-')
    assert episode.enter("follow_up").json()["type"] == "/problems/clinician-only"
    done = episode.enter("follow_up", occurred_at=now(days=6), token=episode.token)
    assert done.status_code == 201, done.text
    ended = partner.get(episode.path)
    assert (ended["status"], ended["phase"]) == ("completed", "follow_up")
    booked = partner.post(f"{episode.path}/follow-ups", {"months": 3})
    assert booked["due_on"] > ended["ended_at"][:10]
    assert partner.send("POST", f"{episode.path}/follow-ups", {"months": 3}).json()["type"] == "/problems/follow-up-booked"
    assert partner.send("PATCH", f"{episode.path}/follow-ups/{booked['id']}", {"status": "held"}, If_Match='"1.1"').status_code == 422
    assert episode.enter("initial").json()["type"] == "/problems/episode-not-running"


def test_an_unplanned_ending_keeps_its_reason_its_tasks_and_the_last_total(partner, episode):
    episode.into_middle()
    made = partner.post(f"{episode.path}/early-ending", {"reason": "practical", "ended_on": day(days=1), "note": "Travel."})
    assert (made["last_total"], made["tasks_done"]) == (8, [])
    assert partner.get(episode.path)["status"] == "ended_early"
    risk = partner.send("PATCH", f"{episode.path}/early-ending", {"tasks_done": ["risk_checked_by_clinician"]}, If_Match='"1.1"')
    assert risk.json()["type"] == "/problems/clinician-only"
    done = partner.patch(f"{episode.path}/early-ending", {"tasks_done": ["letter_sent"]}, '"1.1"')
    assert (done["tasks_done"], done["note"]) == (["letter_sent"], "Travel.")
    assert partner.send("POST", f"{episode.path}/early-ending", {"reason": "moved", "ended_on": day()}).status_code == 409


def test_the_timeline_tells_the_course_in_codes(partner, episode):
    episode.into_middle()
    episode.add_event(happened_on=day(days=210), note="planted-plaintext")
    entries = partner.get(f"{episode.path}/timeline")["items"]
    assert {e["kind"] for e in entries} >= {"illness_onset", "referral", "life_event", "session", "assessment", "phase", "focus"}
    assert "planted" not in str(entries)
