"""The whole of a course through the API: status, worklist, proposals, trajectory, outcome, summary, linked courses, history."""

import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from uuid_utils.compat import uuid7

from tests.driver import GAD7, OWN_PROTOCOL, PHQ9, day, now


@pytest.fixture
def episode(partner):
    return partner.add_episode()


def command(episode, name, *, token=None, **fields):
    return episode.partner.send("POST", f"{episode.path}/status-changes", {"command": name, **fields}, token=token)


# Status


def test_a_course_is_paused_resumed_held_for_risk_and_closed_by_whom_it_may(partner, episode):
    episode.into_initial()
    assert command(episode, "pause").status_code == 422
    assert command(episode, "pause", reason="Travels.").json()["to_status"] == "paused"
    assert partner.get(episode.path)["status"] == "paused"
    episode.hold(days=3)  # never in the way of care
    assert command(episode, "resume").json()["to_status"] == "active"
    assert command(episode, "hold_for_risk", reason="x").json()["type"] == "/problems/clinician-only"
    assert command(episode, "hold_for_risk", reason="Plan made.", token=episode.token).status_code == 201
    assert episode.phase()["risk_hold"] is True
    assert not {i["kind"] for i in partner.get(f"{episode.path}/due")["items"]} & {"measure", "question", "proposal", "homework"}
    assert command(episode, "close", token=episode.token).json()["type"] == "/problems/command-unfit"
    assert [c["command"] for c in partner.get(f"{episode.path}/status-changes")["items"]] == ["pause", "resume", "hold_for_risk"]


def test_a_course_that_ended_early_is_taken_up_again_and_can_end_early_once_more(partner, episode):
    episode.into_middle()
    ending = f"{episode.path}/early-ending"
    partner.post(ending, {"reason": "moved", "ended_on": day(days=5)})
    assert {i["code"] for i in partner.get(f"{episode.path}/due")["items"] if i["kind"] == "task"} == {
        "contact_attempted_twice", "risk_checked_by_clinician", "letter_sent", "last_measure_carried",
    }  # fmt: skip
    assert command(episode, "re_engage", reason="Came back.", token=episode.token).status_code == 201
    back = partner.get(episode.path)
    assert (back["status"], back["phase"], back["ended_at"]) == ("active", "middle", None)
    again = partner.post(ending, {"reason": "better_enough", "ended_on": day(days=1)})
    assert (again["reason"], again["version"]) == ("better_enough", 2)
    assert partner.get(f"{episode.path}/outcome")["end_code"] == "47"
    alert = episode.assess({**PHQ9, "9": 1}, days=0)["risk_alert"]
    assert command(episode, "close", token=episode.token).json()["type"] == "/problems/record-open"
    partner.post(f"/v1/risk-alerts/{alert['id']}/closure", {"closing_note": "Spoken."}, token=episode.token)
    assert command(episode, "close", token=episode.token).json()["to_status"] == "closed"
    assert episode.hold(days=0, starts_at=now(minutes=1))["number"] == 4  # closed, and still never refused
    assert command(episode, "reopen", reason="A letter.", token=episode.token).json()["to_status"] == "ended_early"


def test_maintenance_is_an_episode_of_its_own_that_names_the_one_it_follows(partner, episode):
    assert partner.send("POST", f"{episode.path}/maintenance", {}).json()["type"] == "/problems/course-not-ended"
    cover = partner.clinician_token(episode.cover)
    stranger = {"lead_clinician_id": partner.add_clinician()["id"]}
    assert partner.send("POST", f"{episode.path}/maintenance", stranger, token=cover).json()["type"] == "/problems/lead-decides"
    episode.into_middle()
    episode.enter("termination", token=episode.token)
    made = partner.post(f"{episode.path}/maintenance", {"age_at_referral": 41, "id": str(uuid7())}, token=episode.token)
    assert (made["protocol_code"], made["continues_episode_id"], made["continues_as"], made["phase"]) == (
        "IPT-M",
        episode.id,
        "maintenance",
        "screening",
    )
    assert [e["id"] for e in partner.get(f"{episode.path}/maintenance")["items"]] == [made["id"]]
    team = {m["role"]: m["clinician_id"] for m in partner.get(f"/v1/episodes/{made['id']}/care-team")["items"]}
    assert team == {"lead": episode.lead, "cover": episode.cover}
    path = f"/v1/episodes/{made['id']}"
    partner.patch(path, {"contraindications": [], "risk_screened": True}, '"1.1"')
    options = partner.get(f"{path}/phase")["transitions"]
    assert options == [{"to": "middle", "open": True, "unmet": []}]  # no phases of its own: the work goes on


# Protocols


def test_dynamic_and_metacognitive_therapy_run_without_the_four_areas_and_say_why(partner):
    episode = partner.add_episode(protocol="DIT").into_initial()
    refused = partner.send("PUT", f"{episode.path}/indicators", {"answers": {}}, If_None_Match="*").json()
    assert refused["type"] == "/problems/protocol-without-areas"
    assert "psychodynamic" in refused["detail"]
    assert partner.put(f"{episode.path}/formulation", {"text": "One focus.", "areas": []})["areas"] == []
    assert partner.send("PUT", f"{episode.path}/formulation", {"text": "x", "areas": ["grief"]}, If_Match='"1.1"').status_code == 409
    codes = {t["code"] for t in episode.phase()["tasks"]}
    assert {"affective_focus_formulated", "goodbye_letter_given"} <= codes
    assert not {"problem_area_chosen", "sick_role_given"} & codes
    unphased = partner.add_episode(protocol="MIT").consent() and partner.add_episode(protocol="MIT")
    assert unphased.phase()["plan"] is None


def test_a_partner_registers_its_own_protocol_by_the_same_rules_and_a_course_keeps_its_version(partner, other_partner):
    made = partner.post("/v1/partner-protocols", {"definition": OWN_PROTOCOL})
    assert (made["protocol_version"], made["protocol"]["origin"]) == (1, "partner")
    again = partner.send("POST", "/v1/partner-protocols", {"definition": OWN_PROTOCOL})
    assert (again.status_code, again.json()["id"]) == (200, made["id"])
    first = partner.add_episode(protocol="ACME-IPT-10")
    newer = partner.post("/v1/partner-protocols", {"definition": {**OWN_PROTOCOL, "minutes": 60}})
    assert newer["protocol_version"] == 2
    second = partner.add_episode(protocol="ACME-IPT-10")
    assert [e.row["protocol_version"] for e in (first, second)] == [1, 2]
    assert "leaflet_given" in {t["code"] for t in first.phase()["tasks"]}
    unknown = other_partner.send("POST", "/v1/episodes", {**_episode_body(other_partner), "protocol": "ACME-IPT-10"})
    assert unknown.json()["type"] == "/problems/protocol-unknown"
    assert partner.send("POST", "/v1/partner-protocols", {"definition": {**OWN_PROTOCOL, "code": "IPT-16"}}).status_code == 409


def _episode_body(partner):
    return {"patient_id": partner.add_patient()["id"], "referred_on": day(days=9), "lead_clinician_id": partner.add_clinician()["id"]}


@pytest.mark.parametrize(
    ("broken", "pointer"),
    [
        ({"sessions_min": "10"}, "/sessions_min"),
        ({"sessions_min": True}, "/sessions_min"),
        ({"sessions_max": 10**20}, "/sessions_max"),
        ({"sessions_min": 11}, "/sessions_min"),
        ({"boundaries": {"initial": [1, 2], "middle": [4, 8], "termination": [9, 10]}}, "/boundaries"),
        ({"boundaries": {"initial": "x", "middle": None, "termination": {}}}, "/boundaries/initial"),
        ({"boundaries": []}, "/boundaries"),
        ({"four_areas": False}, "/no_areas_reason"),
        ({"format": "group"}, "/group_min"),
        ({"format": ["group"]}, "/format"),
        ({"instruments": [{"code": "NONE", "due": "every_session"}]}, "/instruments/0/code"),
        ({"instruments": [{"code": {"a": 1}, "due": []}]}, "/instruments/0/code"),
        ({"instruments": "x"}, "/instruments"),
        ({"instruments": []}, "/instruments"),
        ({"sources": [7]}, "/sources/0"),
        ({"extra_tasks": [{"code": "Not a slug", "phase": "initial", "title": "x", "source": "x"}]}, "/extra_tasks/0/code"),
        ({"without_tasks": [1]}, "/without_tasks/0"),
        ({"surprise": 1}, "/surprise"),
        ({"code": "lower"}, "/code"),
        ({"name": None}, "/name"),
        ({"name": " "}, "/name"),
        ({"population": "a\u0001b"}, "/population"),
        ({"extra_tasks": [{"code": "a_b", "phase": "initial", "title": "x", "source": "x", "gate": []}]}, "/extra_tasks/0/gate"),
        ({"extra_tasks": [{"code": "a_b", "phase": "initial", "title": "x", "source": "x", "gate": None}]}, "/extra_tasks/0/gate"),
        ({"extra_tasks": [{"code": "inventory_taken", "phase": "initial", "title": "x", "source": "x"}]}, "/extra_tasks/0/code"),
        ({"instruments": [{"code": "PHQ-9", "due": "monthly", "respondent": None}]}, "/instruments/0/respondent"),
        ({"instruments": [{"code": "PHQ-9", "due": "monthly", "respondent": "parent"}]}, "/instruments/0/respondent"),
        ({"without_tasks": ["risk_assessed"]}, "/without_tasks/0"),
    ],
)
def test_a_protocol_that_breaks_a_rule_is_refused_with_a_pointer(partner, broken, pointer):
    answer = partner.send("POST", "/v1/partner-protocols", {"definition": {**OWN_PROTOCOL, **broken}})
    assert answer.status_code == 422, answer.text
    assert pointer in [e["pointer"] for e in answer.json()["errors"]]


def test_a_course_has_the_format_of_its_protocol(partner):
    body = {**_episode_body(partner), "protocol": "IPT-G-WHO"}
    assert partner.send("POST", "/v1/episodes", body | {"format": "individual"}).json()["type"] == "/problems/format-of-another-protocol"
    assert partner.post("/v1/episodes", body)["format"] == "group"


# Classification: proposals, history, agreement


def test_the_inventory_proposes_and_the_clinician_confirms_or_refuses(partner, episode):
    wife = episode.add_relationship(label="wife", conflict_level=3, conflict_style="mixed", expectation_mismatch="severe", linked_to_onset="clear")
    path = f"{episode.path}/indicator-proposals"
    found = {p["indicator"]: p for p in partner.get(path)["items"]}
    assert set(found) == {"continuing_relation_with_other", "nonreciprocal_expectations", "onset_linked_to_conflict", "overt_or_covert_quarrels"}
    one = found["nonreciprocal_expectations"]
    decide = f"{path}/{one['id']}/decision"
    assert partner.send("POST", decide, {"decision": "confirm"}).json()["type"] == "/problems/clinician-only"
    assert partner.post(decide, {"decision": "confirm"}, token=episode.token)["status"] == "confirmed"
    answers = partner.get(f"{episode.path}/indicators")["answers"]
    assert answers["nonreciprocal_expectations"] == {"value": "present", "relationship_id": wife["id"], "life_event_id": None}
    assert partner.send("POST", decide, {"decision": "refuse"}, token=episode.token).json()["type"] == "/problems/proposal-decided"
    refused = found["overt_or_covert_quarrels"]["id"]
    partner.post(f"{path}/{refused}/decision", {"decision": "refuse", "reason": "Teasing."}, token=episode.token)
    assert {p["id"]: p["status"] for p in partner.get(path)["items"]}[refused] == "refused"
    assert "overt_or_covert_quarrels" not in partner.get(f"{episode.path}/indicators")["answers"]
    etag = f'"{wife["version"]}.1"'
    partner.patch(f"{episode.path}/relationships/{wife['id']}", {"conflict_style": "covert"}, etag)
    now_open = [p for p in partner.get(path)["items"] if p["indicator"] == "overt_or_covert_quarrels" and p["status"] == "open"]
    assert len(now_open) == 1  # the facts changed: it is proposed anew


def test_a_text_proposes_only_possible_with_its_span_and_present_needs_a_reason(partner, episode):
    path = f"{episode.path}/indicator-proposals"
    text = "Since I retired I miss my work."
    made = partner.post(path, {"indicator": "old_role_mourned", "text": text, "start": 16, "end": 30})
    assert (made["value"], made["quote"], made["origin"]) == ("possible", "I miss my work", "text")
    gate = partner.send("POST", path, {"indicator": "role_change_identified", "text": text, "start": 0, "end": 5})
    assert gate.json()["type"] == "/problems/gate-not-from-text"
    decide = f"{path}/{made['id']}/decision"
    assert partner.send("POST", decide, {"decision": "confirm", "value": "present"}, token=episode.token).status_code == 422
    partner.post(decide, {"decision": "confirm", "value": "present", "reason": "Said so when asked."}, token=episode.token)
    stands = partner.get(f"{episode.path}/indicators")
    assert stands["answers"]["old_role_mourned"]["value"] == "present"
    assert stands["quotes"] == {"old_role_mourned": "I miss my work"}


def test_runs_and_decisions_are_kept_and_compared(partner, episode):
    episode.indicators(
        role_change_identified="present", onset_linked_to_change="present", old_role_mourned="present", new_demands_beyond_skill="present"
    )
    for _ in range(2):
        partner.post(f"{episode.path}/classification", {})
    runs = partner.get(f"{episode.path}/classifications")["items"]
    assert len(runs) == 2
    assert partner.get(f"{episode.path}/classifications/{runs[0]['id']}")["result"] == runs[1]["result"]
    episode.focus()
    partner.put(
        f"{episode.path}/focus", {"primary": "grief", "reason": "A death came out.", "patient_agreed": True}, etag='"1.1"', token=episode.token
    )
    versions = partner.get(f"{episode.path}/focus/history")["items"]
    assert [(v["version"], v["state"]["primary_area"]) for v in versions] == [(1, "role_transition"), (2, "grief")]
    assert versions[1]["state"]["reason"] == "A death came out."
    found = partner.get("/v1/classification-agreement")
    assert (found["decisions"], found["primary"]["kappa"], found["override_rate"]) == (1, None, None)  # too few to show
    assert partner.send("GET", "/v1/classification-agreement", token=episode.token).json()["type"] == "/problems/backend-only"


# Inventory: versions, comparison, safety


def test_every_version_of_the_inventory_is_kept_and_two_moments_compared(partner, episode):
    person = episode.add_relationship(closeness_now=3, closeness_wished=1, support_received_emotional=1, support_given_emotional=3)
    gone = episode.add_relationship(label="aunt")
    time.sleep(0.05)  # moments of record are whole milliseconds, and never fall back: two writes of one millisecond lie apart
    start = datetime.now(UTC).isoformat()
    time.sleep(0.05)
    path = f"{episode.path}/relationships/{person['id']}"
    partner.patch(path, {"closeness_now": 2, "satisfying": "We talk."}, '"1.1"')
    partner.send("DELETE", f"{episode.path}/relationships/{gone['id']}", If_Match='"1.1"')
    episode.add_event(happened_on=day(days=30))
    found = partner.send("GET", f"{episode.path}/inventory/changes", token=episode.token).status_code
    assert found == 422
    changes = partner.get(f"{episode.path}/inventory/changes?from={start.replace('+', '%2B')}")
    assert {c["id"]: c["change"] for c in changes["relationships"]} == {person["id"]: "changed", gone["id"]: "removed"}
    fields = {f["field"]: (f["before"], f["after"]) for c in changes["relationships"] for f in c["fields"]}
    assert fields == {"closeness_now": (3, 2), "satisfying": (None, "We talk.")}
    assert changes["moves"] == [{"relationship_id": person["id"], "time_point": "now", "from_ring": 3, "to_ring": 2}]
    assert [c["change"] for c in changes["life_events"]] == ["added"]
    assert (changes["measures_before"]["relationships"], changes["measures_after"]["relationships"]) == (2, 1)
    assert [v["version"] for v in partner.get(f"{path}/history")["items"]] == [1, 2]
    assert partner.get(f"{path}/history?limit=1")["next"]
    assert partner.get(f"{episode.path}/inventory")["relationships"][0]["reciprocity"] == -2
    assert [v["op"] for v in partner.get(f"{episode.path}/relationships/{gone['id']}/history")["items"]] == ["create", "delete"]


def test_a_safety_mark_is_lifted_by_the_lead_and_a_second_clinician(partner, episode):
    person = episode.add_relationship(safety="violence")
    path = f"{episode.path}/relationships/{person['id']}/safety-lift"
    cover = partner.clinician_token(episode.cover)
    assert partner.send("POST", path, {"reason": "x"}).json()["type"] == "/problems/clinician-only"
    assert partner.send("POST", path, {"reason": "x"}, token=cover).json()["type"] == "/problems/lead-decides"
    asked = partner.post(path, {"reason": "Moved out a year ago."}, token=episode.token)
    assert (asked["safety"], asked["safety_lift_asked_at"] is not None) == ("violence", True)
    assert "safety_lift_waits" in {i["code"] for i in partner.get(f"{episode.path}/due")["items"]}
    assert partner.send("POST", path, {"reason": "x"}, token=episode.token).json()["type"] == "/problems/second-sign-off-needed"
    member = partner.clinician_token(partner.add_clinician()["id"])
    assert partner.send("POST", path, {"reason": "x"}, token=member).status_code == 404
    partner.post(f"{episode.path}/care-team", {"clinician_id": episode.cover, "role": "lead"})  # the one who asked is lead no more
    assert partner.send("POST", path, {"reason": "x"}, token=episode.token).json()["type"] == "/problems/second-sign-off-needed"
    lifted = partner.post(path, {"reason": "Seen both alone."}, token=cover)
    assert (lifted["safety"], lifted["safety_sign_off"]) == ("none", "Seen both alone.")


# Focus work


def test_each_area_has_its_own_record_of_work(partner, episode):
    episode.focus(primary="role_dispute", secondary="grief")
    areas = {a["area"]: a for a in partner.get(f"{episode.path}/focus")["focus_areas"]}
    dispute = f"{episode.path}/focus-areas/{areas['role_dispute']['id']}"
    work = {"issues": ["Evenings"], "options": [{"option": "Ask", "pros": ["Clear"]}], "plan": "Talk on Sunday."}
    made = partner.patch(dispute, {"sub_state": "impasse", "dispute": work, "patient_progress": 3}, '"1.1"')
    assert made["dispute"]["options"][0]["option"] == "Ask"
    assert made["plan_for_stage"].startswith("Trying has stopped")
    wrong = partner.send("PATCH", dispute, {"grief": {"feelings": ["x"]}}, If_Match='"2.1"')
    assert wrong.json()["type"] == "/problems/work-of-another-area"
    partner.patch(dispute, {"patient_progress": 6, "clinician_progress": 5}, '"2.1"')
    history = partner.get(f"{dispute}/history")["items"]
    assert [v["state"]["patient_progress"] for v in history] == [None, 3, 6]
    grief = f"{episode.path}/focus-areas/{areas['grief']['id']}"
    assert partner.patch(grief, {"grief": {"relationship_good": "He sang."}}, '"1.1"')["plan_for_stage"] is None


# Trajectory, outcome, summary


def finished(partner):
    """A whole course with both questionnaires, better at the end."""
    episode = partner.add_episode().into_middle()
    for days, value in ((59, 2), (30, 1), (8, 0)):
        episode.assess({str(n): value for n in range(1, 9)} | {"9": 0}, days=days)
        episode.assess({str(n): value for n in range(1, 8)}, instrument="GAD-7", days=days)
    for number in range(5):
        episode.hold(days=20 - number * 2, therapist_activity=8 - number, patient_initiative=number)
    partner.post(f"{episode.path}/medications", {"kind": "antidepressant", "name": "Sertraline", "dose": "50 mg", "started_on": day(days=200)})
    episode.enter("termination", token=episode.token)
    return episode


def test_the_trajectory_shows_components_phases_medication_and_activity(partner):
    episode = finished(partner)
    episode.assess({"1": 4, "2": 2}, instrument="RAND-36-SF", days=40)
    episode.assess({"1": 2, "2": 4}, instrument="RAND-36-SF", days=5)
    found = partner.get(f"{episode.path}/trajectory")
    lines = {i["code"]: i for i in found["instruments"]}
    rand = lines["RAND-36-SF"]
    assert (rand["component"], rand["baseline"], rand["latest"], rand["range"]) == ("social_functioning", 25.0, 75.0, [0.0, 100.0])
    assert rand["points"][1]["change"]["points"] == 50.0
    assert rand["on_track_rule"] is None
    assert [p["phase"] for p in found["phases"]] == ["initial", "middle", "termination"]
    assert [(m["kind"], m["dose"]) for m in found["medications"]] == [("antidepressant", "50 mg")]
    assert (found["therapist_activity_slope"], found["therapist_activity_trend"], found["supervision_prompt"]) == (-1.0, "falling", False)
    assert "common" in found["near_the_end"]


def test_the_outcome_by_both_rules_with_its_parameters(partner):
    episode = finished(partner)
    running = partner.get(f"{episode.path}/outcome")
    assert not running["verdicts"][0]["assessable"]
    partner.post(f"{episode.path}/early-ending", {"reason": "service_limit", "ended_on": day(days=1)})
    found = partner.get(f"{episode.path}/outcome")
    assert (found["finished_course"], found["attendance"]["attended"], found["end_code"]) == (True, 8, "48")
    nhs, alone = found["verdicts"]
    assert [nhs[k] for k in ("case_at_start", "recovery", "reliable_improvement", "reliable_recovery", "no_reliable_change")] == [
        False,
        None,
        True,
        None,
        False,
    ]
    assert alone["rule"] == "phq9_only"
    phq = next(i for i in found["instruments"] if i["code"] == "PHQ-9")
    assert (phq["first"], phq["last"]) == (8, 0)
    assert phq["jacobson_truax"] == {
        "index": 3.02, "reliable_beyond": 1.96, "standard_error_of_difference": 2.653, "published_index_points": 5.2, "threshold_points": 6,
    }  # fmt: skip
    assert found["relationships"]["at_the_middle"]["relationships"] == 3
    assert set(found["denominators"])


def test_the_summary_is_a_letter_in_json_html_and_pdf_without_notes_or_people(partner):
    episode = finished(partner)
    session = partner.get(f"{episode.path}/sessions")["items"][0]
    partner.put(f"{episode.path}/sessions/{session['id']}/note", {"text": "secret-note"}, token=episode.token)
    episode.add_relationship(label="secret-label")
    partner.put(
        f"{episode.path}/termination",
        {
            "gains": [{"gain": "<b>Speaks</b> & asks"}],
            "warning_signs": [{"sign": "Silence", "type": "relational", "first_step": "Say so", "threshold": "a day"}],
        },
    )
    found = partner.get(f"{episode.path}/summary")
    assert found["protocol"]["code"] == "IPT-12"
    assert not {"risk_responder", "secondary_responder", "classifier_on", "wrapped"} & set(found["episode"])
    assert found["termination"]["gains"][0]["gain"] == "<b>Speaks</b> & asks"
    assert [m["name"] for m in found["medications"]] == ["Sertraline"]
    page = partner.send("GET", f"{episode.path}/summary.html")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "&lt;b&gt;Speaks&lt;/b&gt; &amp; asks" in page.text
    pdf = partner.send("GET", f"{episode.path}/summary.pdf")
    assert (pdf.content[:5], pdf.headers["content-type"]) == (b"%PDF-", "application/pdf")
    for text in (str(found), page.text):
        assert "secret-note" not in text
        assert "secret-label" not in text
        assert "no risk" not in text.lower()


def test_one_measure_alone_is_no_end_and_an_onset_is_said_as_exactly_as_it_is_known(partner, episode):
    episode.assess({str(n): 2 for n in range(1, 8)}, instrument="GAD-7")
    etag = partner.send("GET", episode.path).headers["ETag"]
    partner.patch(episode.path, {"illness_onset_date": "2025-03-01", "illness_onset_precision": "month"}, etag)
    [line] = [s for s in partner.get(f"{episode.path}/summary")["scores"] if s["code"] == "GAD-7"]
    assert (line["baseline"], line["end_of_treatment"], line["latest"]) == (14, None, 14)
    page = partner.send("GET", f"{episode.path}/summary.html").text
    assert "2025-03" in page
    assert "2025-03-01" not in page


def test_a_group_course_is_continued_in_the_format_of_its_protocol(partner):
    episode = partner.add_episode(protocol="IPT-G-WHO").into_initial()
    episode.enter("middle", reason="x", token=episode.token)
    episode.enter("termination", token=episode.token)
    assert partner.post(f"{episode.path}/maintenance", {"kind": "maintenance"})["format"] == "individual"
    assert partner.post(f"{episode.path}/maintenance", {"kind": "continuation"})["protocol_code"] == "IPT-G-WHO"


def test_pictures_need_no_names_and_show_them_only_with_the_scope(partner, episode):
    episode.add_relationship(label="Grandma Ro", closeness_now=1, conflict_level=3)
    path = f"{episode.path}/inventory/circles.svg"
    plain = partner.send("GET", path)
    assert plain.headers["content-type"] == "image/svg+xml"
    assert "Grandma" not in plain.text
    assert ">GR<" in plain.text
    assert "Grandma Ro" in partner.send("GET", f"{path}?names=true").text
    without = partner.new_token(grant_type="client_credentials", scope="inventory:read")["access_token"]
    refused = partner.send("GET", f"{path}?names=true", token=without)
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/scope-missing")
    assert partner.send("GET", path, token=without).status_code == 200
    assert partner.send("GET", path, If_None_Match=plain.headers["etag"]).status_code == 304
    assert "not measured" in partner.send("GET", f"{episode.path}/trajectory.svg").text


# The worklist


def test_everything_owed_now_comes_in_one_call_alerts_first(partner, episode):
    episode.into_initial()
    alert = episode.assess({**PHQ9, "9": 2}, days=0, answered_at=now())["risk_alert"]
    partner.post(f"{episode.path}/assessment-requests", {"instrument": "GAD-7", "due_at": now(days=1)})
    partner.post(f"{episode.path}/homework", {"task": "Call.", "due_on": day(days=-2)})
    partner.post(f"{episode.path}/sessions", {"starts_at": now(days=1)})
    answer = partner.send("GET", f"{episode.path}/due")
    assert "etag" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    items = answer.json()["items"]
    assert (items[0]["kind"], items[0]["resource"]) == ("alert", f"risk_alert/{alert['id']}")
    kinds = {i["kind"] for i in items}
    assert {"alert", "session", "request", "homework", "measure", "task", "question"} <= kinds
    assert items[1]["urgency"] == "overdue"


def test_the_worklist_over_a_caseload_is_the_same_items_and_pages_by_course(partner):
    mine, other = partner.add_episode().into_initial(), partner.add_episode().into_initial()
    whole = partner.get("/v1/due")
    assert {i["episode_id"] for i in whole["items"]} == {mine.id, other.id}
    alone = partner.get("/v1/due", token=mine.token)["items"]
    strip = ("kind", "code", "title", "urgency")
    assert [[i[k] for k in strip] for i in alone] == [[i[k] for k in strip] for i in partner.get(f"{mine.path}/due")["items"]]
    assert partner.get(f"/v1/due?clinician_id={other.lead}")["items"][0]["episode_id"] == other.id
    assert {i["kind"] for i in partner.get("/v1/due?kind=task")["items"]} == {"task"}
    first = partner.get("/v1/due?limit=1")
    second = partner.get(f"/v1/due?limit=1&cursor={first['next']}")
    assert {i["episode_id"] for i in first["items"] + second["items"]} == {mine.id, other.id}
    assert second["next"] is None
    assert partner.get(f"/v1/due?patient_id={uuid4()}")["items"] == []


def test_symptoms_that_worsen_after_a_change_ask_to_talk_about_it(partner, episode):
    episode.into_initial()
    episode.assess(days=30)
    partner.post(f"{episode.path}/change-attempts", {"issue": "Silence", "option_chosen": "Ask", "tried_on": day(days=20)})
    episode.assess({str(n): 3 for n in range(1, 9)} | {"9": 0}, days=5)
    codes = {i["code"] for i in partner.get(f"{episode.path}/due")["items"] if i["kind"] == "review"}
    assert {"worse_after_change_attempt", "not_on_track"} <= codes
    attempt = partner.get(f"{episode.path}/change-attempts")["items"][0]
    partner.patch(f"{episode.path}/change-attempts/{attempt['id']}", {"result": "worse", "effect_on_mood": -3}, '"1.1"')
    assert "worse_after_change_attempt" not in {i["code"] for i in partner.get(f"{episode.path}/due")["items"]}


def test_reads_of_a_moment_that_lies_in_the_future_or_back_to_front_are_refused(partner, episode):
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat().replace("+", "%2B")
    assert partner.send("GET", f"{episode.path}/inventory/changes?from={later}").status_code == 422
    assert GAD7
