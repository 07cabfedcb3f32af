"""The daily work: notes and addenda, analyses, requests and drafts, rescheduling, alerts by clinicians, escalation."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from uuid_utils.compat import uuid7

from app.keys.provider import read_key_ring
from app.store.database import Database
from app.worker import escalate
from tests.conftest import HOME, run_sql
from tests.driver import PHQ9, day, now


@pytest.fixture
def episode(partner):
    return partner.add_episode()


def ahead(**forward):
    return (datetime.now(UTC) + timedelta(**forward)).isoformat()


# Notes


def test_a_note_is_its_authors_under_its_own_scope_and_signing_closes_it(partner, episode):
    session = episode.hold()
    path = f"{episode.path}/sessions/{session['id']}/note"
    assert partner.send("PUT", path, {"text": "x"}, If_None_Match="*").json()["type"] == "/problems/clinician-only"
    made = partner.put(path, {"text": "First."}, token=episode.token)
    assert (made["author_id"], made["signed_at"]) == (episode.lead, None)
    cover = partner.clinician_token(episode.cover)
    assert partner.send("PUT", path, {"text": "x"}, token=cover, If_Match='"1.1"').json()["type"] == "/problems/note-of-another"
    assert partner.put(path, {"text": "Second.", "sign": True}, etag='"1.1"', token=episode.token)["signed_at"] is not None
    assert partner.send("PUT", path, {"text": "x"}, token=episode.token, If_Match='"2.1"').json()["type"] == "/problems/note-signed"
    added = partner.post(f"{path}/addenda", {"text": "Later."}, token=cover)
    assert added["written_by"] == episode.cover
    assert [a["text"] for a in partner.get(f"{path}/addenda", token=episode.token)["items"]] == ["Later."]
    assert partner.get(f"{episode.path}/addenda")["items"] == []
    assert partner.send("GET", f"{episode.path}/addenda/{added['id']}").status_code == 404
    scopes = "sessions:read sessions:write episodes:read"
    narrow = partner.clinician_token(episode.lead, scope=scopes)
    assert partner.send("GET", path, token=narrow).status_code == 403
    assert partner.get(path, token=cover)["text"] == "Second."


def test_addenda_stand_beside_a_record_that_stays(partner, episode):
    session = episode.hold(summary="As it was.")
    body = {"subject": "session", "subject_id": session["id"], "text": "He had come late.", "id": str(uuid7())}
    made = partner.post(f"{episode.path}/addenda", body)
    again = partner.send("POST", f"{episode.path}/addenda", body)
    assert (again.status_code, again.json()["id"]) == (200, made["id"])
    assert [a["text"] for a in partner.get(f"{episode.path}/addenda?subject_id={session['id']}")["items"]] == ["He had come late."]
    assert partner.get(f"{episode.path}/sessions/{session['id']}")["version"] == 1


# Analyses and the like


def test_analyses_have_the_parts_of_their_kind(partner, episode):
    wife = episode.add_relationship(label="wife")
    body = {"kind": "communication", "said": "Fine.", "meant": "Ask me.", "heard": "Go.", "relationship_id": wife["id"]}
    made = partner.post(f"{episode.path}/analyses", body)
    assert made["meant"] == "Ask me."
    wrong = partner.send("POST", f"{episode.path}/analyses", {"kind": "decision", "said": "x"})
    assert wrong.json()["type"] == "/problems/part-of-another-kind"
    options = {"kind": "decision", "question": "Stay?", "options": [{"option": "Stay", "pros": ["Home"]}, {"option": "Go"}], "choice": "Stay"}
    assert partner.post(f"{episode.path}/analyses", options)["options"][1]["option"] == "Go"
    assert partner.patch(f"{episode.path}/analyses/{made['id']}", {"next_time": "Say it."}, '"1.1"')["next_time"] == "Say it."


def test_medication_has_its_dates_in_order(partner, episode):
    path = f"{episode.path}/medications"
    made = partner.post(path, {"kind": "antidepressant", "dose": "20 mg", "started_on": day(days=40)})
    assert (
        partner.send("PATCH", f"{path}/{made['id']}", {"stopped_on": day(days=50)}, If_Match='"1.1"').json()["type"] == "/problems/dates-out-of-order"
    )
    assert partner.patch(f"{path}/{made['id']}", {"stopped_on": day(days=3)}, '"1.1"')["stopped_on"] == day(days=3)


# Requests


def test_a_request_is_met_by_the_answer_that_names_it_and_by_no_other(partner, episode):
    path = f"{episode.path}/assessment-requests"
    mine = partner.post(path, {"instrument": "PHQ-9", "due_at": ahead(days=2)})
    parent = partner.post(path, {"instrument": "SMFQ", "respondent": "parent", "due_at": ahead(days=2)})
    body = {"instrument": "PHQ-9", "answers": PHQ9, "answered_at": now(), "request_id": parent["id"]}
    unfit = partner.post(f"{episode.path}/assessments", body)
    assert unfit["flags"] == ["request_was_for_another"]  # an answer is not refused for that
    done = partner.post(f"{episode.path}/assessments", body | {"request_id": mine["id"]})
    met = partner.get(f"{path}/{mine['id']}")
    assert (met["status"], met["assessment_id"]) == ("answered", done["id"])
    late = partner.post(f"{episode.path}/assessments", body | {"request_id": mine["id"], "answers": {**PHQ9, "9": 2}})
    assert (late["flags"], late["risk_alert"]["level"]) == (["request_was_closed"], "urgent")
    answers = {str(n): 1 for n in range(1, 14)}
    told = partner.post(
        f"{episode.path}/assessments",
        {"instrument": "SMFQ", "answers": answers, "answered_at": now(), "respondent": "parent", "request_id": parent["id"]},
    )
    assert (told["respondent"], told["total"]) == ("parent", 13)
    lines = {(i["code"], i["respondent"]) for i in partner.get(f"{episode.path}/trajectory")["instruments"]}
    assert lines == {("PHQ-9", "patient"), ("SMFQ", "parent")}


def test_an_instrument_is_answered_by_whom_it_is_for(partner, episode):
    body = {"instrument": "HAM-D17", "answers": {"1": 2, "3": 0}, "answered_at": now()}
    assert partner.send("POST", f"{episode.path}/assessments", body).json()["type"] == "/problems/respondent-unfit"
    assert partner.post(f"{episode.path}/assessments", body | {"respondent": "clinician"})["total"] is None


def test_an_answer_about_harm_is_not_left_lying_in_a_draft(partner, episode):
    path = f"{episode.path}/assessment-requests"
    request = partner.post(path, {"instrument": "PHQ-9", "due_at": ahead(days=2)})
    draft = f"{path}/{request['id']}/draft"
    saved = partner.put(draft, {"answers": {"1": 2}}, etag='"1.1"')
    assert (saved["risk_alert"], saved["draft"]) == (None, {"1": 2})
    alarmed = partner.put(draft, {"answers": {"1": 2, "9": 3}}, etag='"2.1"')
    assert (alarmed["risk_alert"]["level"], alarmed["risk_alert"]["triggers"][0]["reason"]) == ("urgent", "risk_item_positive_in_draft")
    assert alarmed["notice"]["crisis_text"]
    again = partner.put(draft, {"answers": {"1": 1, "9": 3}}, etag='"3.1"')
    assert again["risk_alert"] is None  # the same answer is no second alarm
    assert partner.send("PUT", draft, {"answers": {"9": 7}}, If_Match='"4.1"').status_code == 422
    partner.post(f"/v1/risk-alerts/{alarmed['risk_alert']['id']}/closure", {"closing_note": "x"}, token=episode.token)
    assert partner.put(draft, {"answers": {"1": 0, "9": 3}}, etag='"4.1"')["risk_alert"]["id"] != alarmed["risk_alert"]["id"]
    body = {"instrument": "PHQ-9", "answers": {**PHQ9, "9": 3}, "answered_at": now(), "request_id": request["id"]}
    sent = partner.post(f"{episode.path}/assessments", body)
    assert len(sent["risk_alert"]["triggers"]) == 2
    assert partner.get(f"{path}/{request['id']}")["draft"] == {}


# Sessions


def test_a_session_keeps_its_id_and_each_move_is_kept(partner, episode):
    made = partner.post(f"{episode.path}/sessions", {"starts_at": now(days=3), "external_ref": "cal-1", "time_zone": "Europe/Madrid"})
    partner.patch(f"{episode.path}/sessions/{made['id']}", {"status": "missed", "attendance": "technical_failure"}, '"1.1"')
    path = f"{episode.path}/sessions/{made['id']}/reschedule"
    moved = partner.post(path, {"starts_at": ahead(days=4), "by": "provider", "reason": "No sound."})
    assert (moved["id"], moved["status"], moved["attendance"], moved["time_zone"]) == (made["id"], "scheduled", None, "Europe/Madrid")
    assert (moved["reschedules"][0]["attendance"], moved["reschedules"][0]["by"]) == ("technical_failure", "provider")
    held = episode.hold()
    assert (
        partner.send("POST", f"{episode.path}/sessions/{held['id']}/reschedule", {"starts_at": ahead(days=1), "by": "patient"}).json()["type"]
        == "/problems/not-rescheduled"
    )
    bad = partner.send("POST", path, {"starts_at": ahead(days=1), "by": "patient", "time_zone": "Mars/Base"})
    assert bad.json()["type"] == "/problems/time-zone-unknown"


def test_sessions_beside_the_course_have_no_number_and_do_not_count(partner, episode):
    episode.into_middle()
    before = episode.phase()["sessions_held"]
    for kind in ("pre_group", "parent", "booster", "crisis", "assessment"):
        assert episode.hold(days=1, kind=kind)["number"] is None
    made = episode.hold(days=1, affects=["sadness"], affect_intensity=3, focus_found_hard=True, mode="video", emergency_contact_confirmed=False)
    assert made["number"] == before + 1
    assert {"focus_still_found_hard", "emergency_contact_not_confirmed"} <= set(made["flags"])
    assert episode.phase()["sessions_held"] == before + 1
    changed = partner.patch(f"{episode.path}/sessions/{made['id']}", {"patient_place": "At her sister's."}, '"1.1"')
    assert changed["patient_place"] == "At her sister's."


# Alerts


def test_a_clinician_raises_an_emergency_that_is_due_at_once(partner, episode):
    body = {"episode_id": episode.id, "level": "emergency", "concern": "plan_or_intent", "note": "Spoke of tonight."}
    assert partner.send("POST", "/v1/risk-alerts", body).json()["type"] == "/problems/clinician-only"
    made = partner.send("POST", "/v1/risk-alerts", body, token=episode.token)
    alert = made.json()
    assert (made.status_code, alert["level"], alert["due_at"], alert["raised_by"]) == (201, "emergency", alert["opened_at"], episode.lead)
    more = partner.send("POST", "/v1/risk-alerts", body | {"level": "urgent"}, token=episode.token)
    assert (more.status_code, more.json()["id"], more.json()["level"]) == (200, alert["id"], "emergency")
    baby = partner.post("/v1/risk-alerts", body | {"kind": "harm_to_others", "concern": "thoughts_of_harming_a_baby"}, token=episode.token)
    assert baby["id"] != alert["id"]


def test_known_and_stable_silences_what_is_no_higher_for_a_while_only(partner, episode):
    alert = episode.assess({**PHQ9, "9": 1}, days=0, answered_at=now())["risk_alert"]
    path = f"/v1/risk-alerts/{alert['id']}/standing"
    too_long = partner.send("POST", path, {"until": ahead(days=40), "standing_note": "x"}, token=episode.token)
    assert too_long.json()["type"] == "/problems/standing-too-long"
    found = partner.post(path, {"until": ahead(days=14), "standing_note": "Long known; plan reviewed."}, token=episode.token)
    assert (found["status"], found["known_stable_until"] is not None) == ("acknowledged", True)
    same = episode.assess({**PHQ9, "9": 1}, days=0, answered_at=now())["risk_alert"]
    assert (same["status"], len(same["triggers"])) == ("acknowledged", 2)
    other = episode.assess({str(n): 1 if n == 6 else 0 for n in range(1, 11)}, instrument="CORE-10", days=0, answered_at=now())["risk_alert"]
    assert other["status"] == "open"  # another item is nothing that was known
    partner.post(path, {"until": ahead(days=14), "standing_note": "x"}, token=episode.token)
    emergency = partner.post("/v1/risk-alerts", {"episode_id": episode.id, "concern": "acute_suicidality"}, token=episode.token)
    assert (emergency["level"], emergency["status"]) == ("emergency", "open")  # never lower than the concern asks for
    assert (
        partner.send("POST", path, {"until": ahead(days=1), "standing_note": "x"}, token=episode.token).json()["type"]
        == "/problems/standing-on-emergency"
    )


@pytest.mark.parametrize("instrument", ["PHQ-9", "CORE-10"])
def test_a_higher_answer_or_another_item_of_the_same_level_ends_the_finding(partner, episode, instrument):
    alert = episode.assess({**PHQ9, "9": 2}, days=0, answered_at=now())["risk_alert"]
    partner.post(f"/v1/risk-alerts/{alert['id']}/standing", {"until": ahead(days=14), "standing_note": "x"}, token=episode.token)
    again = episode.assess({**PHQ9, "9": 2}, days=0, answered_at=now())["risk_alert"]
    assert again["status"] == "acknowledged"
    answers = {**PHQ9, "9": 3} if instrument == "PHQ-9" else {str(n): 1 if n == 6 else 0 for n in range(1, 11)}
    new = episode.assess(answers, instrument=instrument, days=0, answered_at=now())["risk_alert"]
    assert (new["level"], new["status"], new["known_stable_until"]) == ("urgent", "open", None)


def escalated(on_database, later):
    ring = read_key_ring(Path(os.environ[HOME]) / "keys.json")
    return on_database(lambda database: escalate(database, ring, datetime.now(UTC) + later), "ipt_worker")


def test_the_worker_tells_again_what_nobody_acknowledged_and_reopens_what_ran_out(own_service):
    with own_service.partner() as partner:
        episode = partner.add_episode()
        alert = episode.assess({**PHQ9, "9": 2}, days=0, answered_at=now())["risk_alert"]
        calm = partner.add_episode()
        stable = calm.assess({**PHQ9, "9": 1}, days=0, answered_at=now())["risk_alert"]
        partner.post(f"/v1/risk-alerts/{stable['id']}/standing", {"until": ahead(days=1), "standing_note": "x"}, token=calm.token)
        ring = read_key_ring(Path(os.environ[HOME]) / "keys.json")

        def run(**later):
            async def done():
                database = Database(own_service.settings.migration_database_url, "ipt_worker", pool_size=1)
                try:
                    return await escalate(database, ring, datetime.now(UTC) + timedelta(**later))
                finally:
                    await database.close()

            return asyncio.run(done())

        assert run(hours=3) == 0
        assert run(hours=5) == 1
        told = partner.get(f"/v1/risk-alerts/{alert['id']}")
        assert (told["escalations"], told["status"]) == (1, "open")
        assert run(hours=5, minutes=30) == 0  # told again after an hour, not before
        assert run(hours=6, minutes=1) == 1
        assert run(days=1, hours=1) == 2
        back = partner.get(f"/v1/risk-alerts/{stable['id']}")
        assert (back["status"], back["known_stable_until"]) == ("open", None)
        run_sql(
            own_service.settings.migration_database_url,
            f"SET app.partner_id = '{partner.partner_id}'; UPDATE patient_key SET wrapped = '\\x00' WHERE patient_id = '{episode.patient_id}'",
        )
        assert run(days=2, hours=2) == 1  # one chart that cannot be opened holds up no other


def test_parallel_drafts_raise_one_alert_and_lose_none(partner, episode):
    path = f"{episode.path}/assessment-requests"
    requests = [partner.post(path, {"instrument": "PHQ-9", "due_at": ahead(days=2)}) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda r: partner.put(f"{path}/{r['id']}/draft", {"answers": {"9": 2}}, etag='"1.1"'), requests))
    assert len({a["risk_alert"]["id"] for a in answers}) == 1
    assert max(len(a["risk_alert"]["triggers"]) for a in answers) == 6
