"""Break-glass: open at once, for an hour, marked everywhere, told at once, reviewed afterwards."""

import concurrent.futures
from datetime import datetime, timedelta
from uuid import uuid4

import pytest

from tests.conftest import run_sql
from tests.driver import Device, mutation

REASON = "On call: the cover cannot be reached, and the risk is tonight."


@pytest.fixture
def outsider(partner):
    return partner.clinician_token(partner.add_clinician()["id"])


def test_a_chart_opens_for_an_hour_and_every_access_is_marked(partner, outsider):
    episode = partner.add_episode()
    episode.add_relationship()
    assert partner.send("GET", f"{episode.path}/inventory", token=outsider).status_code == 404
    opened = partner.post("/v1/break-glass", {"patient_id": episode.patient_id, "reason": REASON}, token=outsider)
    assert opened["status"] == "awaiting_review"
    assert partner.get(f"{episode.path}/inventory", token=outsider)["relationships"]
    assert opened["episode_ids"] == [episode.id]
    for path in ("/v1/patients", "/v1/episodes", "/v1/sessions", "/v1/risk-alerts", "/v1/due"):
        assert partner.get(path, token=outsider)["items"] == [], "it opens a chart, and puts it into no list"
    partner.post(f"{episode.path}/goals", {"text": "safe tonight"}, token=outsider)
    marked = partner.get(f"/v1/audit-events?patient_id={episode.patient_id}&emergency=true")["items"]
    assert {e["route"] for e in marked} >= {"POST /v1/break-glass", "GET /v1/episodes/{episode_id}/inventory", "POST /v1/episodes/{episode_id}/goals"}
    assert {e["break_glass_id"] for e in marked} == {opened["id"]}
    assert any(r["emergency"] for r in partner.get(f"/v1/patients/{episode.patient_id}/access-report")["items"])


def test_it_opens_one_patient_and_not_the_next(partner, outsider):
    one, two = partner.add_episode(), partner.add_episode()
    partner.post("/v1/break-glass", {"patient_id": one.patient_id, "reason": REASON}, token=outsider)
    assert partner.send("GET", one.path, token=outsider).status_code == 200
    assert partner.send("GET", two.path, token=outsider).status_code == 404


def test_it_ends_after_an_hour(partner, outsider, database_url):
    episode = partner.add_episode()
    opened = partner.post("/v1/break-glass", {"patient_id": episode.patient_id, "reason": REASON}, token=outsider)
    lasts = datetime.fromisoformat(opened["expires_at"]) - datetime.fromisoformat(opened["created_at"])
    assert lasts == timedelta(minutes=60)
    run_sql(database_url, f"UPDATE break_glass SET expires_at = now() + interval '1 second' WHERE id = '{opened['id']}'")
    assert partner.send("GET", episode.path, token=outsider).status_code == 200
    run_sql(database_url, f"UPDATE break_glass SET expires_at = now() WHERE id = '{opened['id']}'")
    assert partner.send("GET", episode.path, token=outsider).status_code == 404


def test_it_is_a_clinicians_act_with_a_reason_three_times_a_day(partner, outsider):
    patients = [partner.add_patient()["id"] for _ in range(4)]
    assert partner.send("POST", "/v1/break-glass", {"patient_id": patients[0], "reason": REASON}).status_code == 403, "no bare client"
    short = partner.send("POST", "/v1/break-glass", {"patient_id": patients[0], "reason": "urgent"}, token=outsider)
    assert short.status_code == 422
    assert partner.send("POST", "/v1/break-glass", {"patient_id": str(uuid4()), "reason": REASON}, token=outsider).status_code == 404
    statuses = [partner.send("POST", "/v1/break-glass", {"patient_id": p, "reason": REASON}, token=outsider).status_code for p in patients]
    assert statuses == [201, 201, 201, 403]
    episode = partner.add_episode()
    inside = partner.send("POST", "/v1/break-glass", {"patient_id": episode.patient_id, "reason": REASON}, token=episode.token)
    assert inside.json()["type"] == "/problems/already-in-care-team"


def test_it_is_told_at_once_and_reviewed_once(partner, outsider):
    episode = partner.add_episode()
    start = partner.get("/v1/events?limit=1000")["next"]
    opened = partner.post("/v1/break-glass", {"patient_id": episode.patient_id, "reason": REASON}, token=outsider)
    assert [e["type"] for e in partner.get(f"/v1/events?since={start}&types=break_glass.*")["events"]] == ["break_glass.created"]
    waiting = partner.get("/v1/break-glass?status=awaiting_review")["items"]
    assert [(w["id"], w["reason"]) for w in waiting] == [(opened["id"], REASON)]
    body = {"finding": "not_justified", "reviewer": "idp|head", "note": "The cover was there."}
    assert partner.send("POST", f"/v1/break-glass/{opened['id']}/review", body, token=outsider).status_code == 403
    reviewed = partner.post(f"/v1/break-glass/{opened['id']}/review", body)
    assert (reviewed["status"], reviewed["finding"], reviewed["review_note"]) == ("reviewed", "not_justified", "The cover was there.")
    assert partner.send("POST", f"/v1/break-glass/{opened['id']}/review", body).json()["type"] == "/problems/review-done"
    assert partner.get("/v1/break-glass?status=awaiting_review")["items"] == []


def test_devices_are_not_synchronised_by_it(partner):
    episode = partner.add_episode()
    clinician = partner.add_clinician()["id"]
    phone = Device(partner, clinician)
    partner.post("/v1/break-glass", {"patient_id": episode.patient_id, "reason": REASON}, token=phone.token)
    assert phone.pull().rows == {}


def test_another_partners_clinician_opens_nothing_here(partner, other_partner):
    episode = partner.add_episode()
    foreign = other_partner.clinician_token(other_partner.add_clinician()["id"])
    assert other_partner.send("POST", "/v1/break-glass", {"patient_id": episode.patient_id, "reason": REASON}, token=foreign).status_code == 404


def test_no_race_opens_more_than_three_a_day(partner, outsider):
    patients = [partner.add_patient()["id"] for _ in range(10)]

    def opened(patient_id):
        return partner.send("POST", "/v1/break-glass", {"patient_id": patient_id, "reason": REASON}, token=outsider).status_code

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        assert sorted(pool.map(opened, patients)) == [201] * 3 + [403] * 7


def test_it_reaches_the_course_that_a_member_of_an_old_team_cannot_see_and_the_restricted_chart_of_a_member(partner):
    old = partner.add_episode()
    current = partner.add_episode(patient={"id": old.patient_id})
    assert partner.send("GET", current.path, token=old.token).status_code == 404
    partner.post("/v1/break-glass", {"patient_id": old.patient_id, "reason": REASON}, token=old.token)
    assert partner.send("GET", current.path, token=old.token).status_code == 200
    restricted = partner.add_episode()
    etag = partner.send("GET", f"/v1/patients/{restricted.patient_id}/protection").headers["etag"]
    body = {"restricted_because": "objection_pending", "legal_hold": False}
    partner.put(f"/v1/patients/{restricted.patient_id}/protection", body, etag=etag)
    assert partner.send("GET", restricted.path, token=restricted.token).status_code == 403
    partner.post("/v1/break-glass", {"patient_id": restricted.patient_id, "reason": REASON}, token=restricted.token)
    assert partner.send("GET", restricted.path, token=restricted.token).status_code == 200


def test_what_a_phone_sends_by_it_is_marked_too(partner):
    episode = partner.add_episode()
    phone = Device(partner, partner.add_clinician()["id"])
    opened = partner.post("/v1/break-glass", {"patient_id": episode.patient_id, "reason": REASON}, token=phone.token)
    assert phone.push(mutation("goal", "create", episode_id=episode.id, text="x", term="short"))[0]["status"] == "applied"
    events = partner.get(f"/v1/audit-events?patient_id={episode.patient_id}&emergency=true")["items"]
    (pushed,) = [e for e in events if e["route"] == "POST /v1/sync/push"]
    assert pushed["break_glass_id"] == opened["id"]


def test_it_makes_no_lasting_tie(partner):
    group = partner.add_group()
    lead = partner.clinician_token(group["lead_clinician_id"])
    member = partner.add_episode(protocol=group["protocol_code"])
    partner.post("/v1/break-glass", {"patient_id": member.patient_id, "reason": REASON}, token=lead)
    answer = partner.send("POST", f"/v1/groups/{group['id']}/members", {"episode_id": member.id}, token=lead)
    assert answer.json()["type"] == "/problems/emergency-only"


def test_it_is_reviewed_also_when_the_patient_was_erased_since(partner, outsider, upkept):
    patient = partner.add_patient()
    opened = partner.post("/v1/break-glass", {"patient_id": patient["id"], "reason": REASON}, token=outsider)
    partner.post(f"/v1/patients/{patient['id']}/erasure", {"requested_by": "patient"})
    for _ in range(2):
        (waiting,) = partner.get("/v1/break-glass?status=awaiting_review")["items"]
        assert (waiting["id"], waiting["reason"]) == (opened["id"], None)
        upkept("erase_rows")
    body = {"finding": "justified", "reviewer": "idp|head", "note": "Seen in the on-call log."}
    assert partner.post(f"/v1/break-glass/{opened['id']}/review", body)["review_note"] == "Seen in the on-call log."
    assert partner.get("/v1/break-glass?status=reviewed")["items"][0]["finding"] == "justified"


def test_who_used_it_does_not_review_it(partner):
    clinician = partner.post("/v1/clinicians", {"subject": "idp|curious"})
    token = partner.clinician_token(clinician["id"])
    opened = partner.post("/v1/break-glass", {"patient_id": partner.add_patient()["id"], "reason": REASON}, token=token)
    for reviewer in (clinician["id"], "idp|curious"):
        answer = partner.send("POST", f"/v1/break-glass/{opened['id']}/review", {"finding": "justified", "reviewer": reviewer})
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/own-review")
