"""Pull, snapshot, digest, stream: what a device gets to see, page by page, and when the view of the caseload changes."""

import gzip
import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa

from app.domain.sync import EPOCH_STEP
from app.store.database import Database
from app.store.feed import compact
from app.store.tables.record import change_clock
from tests.driver import PATIENT, PHQ9, Device, mutation, now


def digest_of(rows):
    total = sum(int.from_bytes(hashlib.sha256(f"{i}:{r['version']}".encode()).digest()[:8], "big") for i, r in rows.items())
    return len(rows), f"{total % 2**64:016x}"


def drifts(device):
    """Return the kinds of rows in which a device's copy differs from what the service says it should hold."""
    found = device.get(f"/v1/sync/digest?until={device.cursor}")["entities"]
    return [e["entity"] for e in found if (e["count"], e["hash"]) != digest_of(device.of(e["entity"]))]


@pytest.fixture
def lead(partner):
    """A clinician's phone, and the course that they lead."""
    episode = partner.add_episode().into_middle()
    return Device(partner, episode.lead), episode


def test_a_first_pull_brings_the_whole_chart_as_http_shows_it(lead, partner):
    device, episode = lead
    device.pull()
    assert set(device.of("episode")) == {episode.id}
    assert set(device.of("patient")) == {episode.patient_id}
    assert {r["role"] for r in device.of("care_team").values()} == {"lead", "cover"}
    assert device.of("consent")
    for row_id, row in device.of("relationship").items():
        there = partner.get(f"{episode.path}/relationships/{row_id}")
        assert {k: row[k] for k in there if k != "reciprocity" and k in row} == {k: v for k, v in there.items() if k in row and k != "reciprocity"}
        assert {"label", "confiding", "created_at"} <= set(row)
    session_id, session = next(iter(device.of("session").items()))
    assert {k: v for k, v in partner.get(f"{episode.path}/sessions/{session_id}").items() if k in session} == {
        k: v for k, v in session.items() if k in partner.get(f"{episode.path}/sessions/{session_id}")
    }
    assert drifts(device) == []


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_pages_of_any_size_bring_the_same_and_exactly_as_many_as_asked_for(lead, limit):
    device, _ = lead
    whole = Device(device.partner, device.person_id).pull(1000)
    sizes, since, until = [], 0, ""
    while True:
        page = device.get(f"/v1/sync/pull?since={since}&limit={limit}{until}")
        sizes.append(len(page["changes"]))
        assert [c["seq"] for c in page["changes"]] == sorted(c["seq"] for c in page["changes"])
        for change in page["changes"]:
            device.take(change)
        since, until = page["next"], f"&until={page['until']}"
        if not page["has_more"]:
            break
    assert set(sizes[:-1]) <= {limit}
    assert device.rows == whole.rows


def test_only_the_newest_state_comes_and_a_deletion_comes_as_a_row(lead, partner):
    device, episode = lead
    device.pull()
    person = episode.add_relationship(label="aunt")
    path = f"{episode.path}/relationships/{person['id']}"
    for version in (1, 2, 3):
        partner.patch(path, {"confiding": version}, f'"{version}.1"')
    page = device.get(f"/v1/sync/pull?since={device.cursor}")
    assert [(c["id"], c["version"], c["data"]["confiding"]) for c in page["changes"]] == [(person["id"], 4, 3)]
    device.pull()
    partner.send("DELETE", path, If_Match='"4.1"')
    page = device.get(f"/v1/sync/pull?since={device.cursor}")
    assert [(c["id"], c["op"], c["data"]) for c in page["changes"]] == [(person["id"], "delete", None)]
    device.pull()
    assert person["id"] not in device.of("relationship")
    fresh = Device(partner, episode.lead).pull()
    assert fresh.rows == device.rows
    assert drifts(device) == []


def test_a_row_changed_after_until_comes_in_a_later_pull_only(lead, partner):
    device, episode = lead
    first = device.get("/v1/sync/pull?since=0&limit=2")
    late = episode.add_relationship(label="late")
    seen, page = list(first["changes"]), first
    while page["has_more"]:
        page = device.get(f"/v1/sync/pull?since={page['next']}&limit=2&until={first['until']}")
        seen += page["changes"]
    assert late["id"] not in {c["id"] for c in seen}
    assert page["next"] == first["until"]
    assert late["id"] in {c["id"] for c in device.get(f"/v1/sync/pull?since={page['next']}")["changes"]}


def test_another_clinicians_phone_sees_nothing_of_the_chart(lead, partner):
    _, episode = lead
    stranger = Device(partner, partner.add_clinician()["id"]).pull()
    assert stranger.rows == {}
    assert stranger.cursor > EPOCH_STEP
    assert episode.id not in str(stranger.get("/v1/sync/digest"))


def test_a_grant_sends_the_chart_and_a_revoke_takes_it_back_also_in_the_middle_of_a_pull(lead, partner):
    _, episode = lead
    new = partner.add_clinician()["id"]
    device = Device(partner, new).pull()
    other = partner.add_episode()
    partner.post(f"{other.path}/care-team", {"clinician_id": new, "role": "member"}, token=other.token)
    first = device.get(f"/v1/sync/pull?since={device.cursor}&limit=1")
    for c in first["changes"]:
        device.take(c)
    device.cursor = first["next"]
    partner.post(f"{episode.path}/care-team", {"clinician_id": new, "role": "member"}, token=episode.token)
    page = device.get(f"/v1/sync/pull?since={device.cursor}&until={first['until']}")
    for c in page["changes"]:
        device.take(c)
    device.cursor = page["next"]
    device.pull(3)
    assert set(device.of("episode")) == {episode.id, other.id}
    assert device.of("relationship")
    assert drifts(device) == []
    member = next(m for m in partner.get(f"{episode.path}/care-team")["items"] if m["clinician_id"] == new)
    first = device.get(f"/v1/sync/pull?since={device.cursor}&limit=1")
    partner.send("DELETE", f"{episode.path}/care-team/{member['id']}", token=episode.token, If_Match=f'"{member["version"]}.1"')
    episode.add_relationship(label="after it")
    changes = device.get(f"/v1/sync/pull?since={device.cursor}&limit=1000")["changes"]
    assert {c["op"] for c in changes} == {"revoke"}
    assert all(c["data"] is None for c in changes)
    device.pull()
    assert set(device.of("episode")) == {other.id}
    assert set(device.of("patient")) == {other.patient_id}
    assert drifts(device) == []
    partner.post(f"{episode.path}/care-team", {"clinician_id": new, "role": "member"}, token=episode.token)
    device.pull()
    assert "after it" in {r["label"] for r in device.of("relationship").values()}
    assert drifts(device) == []


def test_a_transfer_moves_the_chart_from_one_phone_to_the_other(partner):
    episode = partner.add_episode()
    episode.consent()
    episode.add_relationship()
    heir = partner.add_clinician()["id"]
    old, new = Device(partner, episode.lead).pull(), Device(partner, heir).pull()
    partner.post(f"/v1/clinicians/{episode.lead}/transfer", {"to_clinician_id": heir})
    old.pull()
    new.pull()
    assert old.rows == {}
    assert set(new.of("episode")) == {episode.id}
    assert new.of("relationship")
    assert new.of("consent")
    assert drifts(new) == []


def test_a_second_course_of_the_same_patient_keeps_the_patients_rows_when_the_first_is_withdrawn(partner):
    patient = partner.add_patient()
    first, second = partner.add_episode(patient=patient), partner.add_episode(patient=patient)
    both = partner.add_clinician()["id"]
    for episode in (first, second):
        partner.post(f"{episode.path}/care-team", {"clinician_id": both, "role": "member"}, token=episode.token)
    device = Device(partner, both).pull()
    member = next(m for m in partner.get(f"{first.path}/care-team")["items"] if m["clinician_id"] == both)
    partner.send("DELETE", f"{first.path}/care-team/{member['id']}", token=first.token, If_Match='"1.1"')
    device.pull()
    assert set(device.of("episode")) == {second.id}
    assert set(device.of("patient")) == {patient["id"]}
    assert drifts(device) == []


def test_a_patient_sees_their_own_answers_requests_and_homework_and_nothing_else(partner):
    episode = partner.add_episode()
    episode.add_relationship()
    mine = episode.assess()
    partner.post(f"{episode.path}/assessments", {"instrument": "HAM-D17", "answers": {"1": 1}, "answered_at": now(days=3), "respondent": "clinician"})
    asked = partner.post(f"{episode.path}/assessment-requests", {"instrument": "GAD-7", "due_at": now()})
    work = partner.post(f"{episode.path}/homework", {"task": "Call the sister."})
    device = Device(partner, episode.patient_id, kind=PATIENT).pull(1)
    assert set(device.of("assessment")) == {mine["id"]}
    assert set(device.of("assessment_request")) == {asked["id"]}
    assert set(device.of("homework")) == {work["id"]}
    assert {kind for kind, _ in device.rows} == {"assessment", "assessment_request", "homework"}
    assert drifts(device) == []
    other = partner.add_episode()
    assert Device(partner, other.patient_id, kind=PATIENT).pull().rows == {}
    for path in (episode.path, f"{episode.path}/relationships", f"/v1/patients/{episode.patient_id}", "/v1/risk-alerts", "/v1/patients"):
        answer = partner.send("GET", path, token=device.token)
        assert answer.status_code == 403, path
    assert partner.send("GET", f"{other.path}/assessments", token=device.token).status_code == 404
    assert [r["id"] for r in device.get(f"{episode.path}/assessments")["items"]] == [mine["id"]]


def test_a_patient_answers_as_themselves_only_and_reads_the_notice_not_the_alert(partner):
    episode = partner.add_episode()
    work = partner.post(f"{episode.path}/homework", {"task": "Call the sister."})
    token = partner.device_token(episode.patient_id, str(uuid4()), kind=PATIENT)
    body = {"instrument": "PHQ-9", "answers": {**PHQ9, "9": 2}, "answered_at": now()}
    answer = partner.post(f"{episode.path}/assessments", body, token=token)
    assert answer["risk_alert"] is None
    assert answer["notice"]["crisis_text"]
    assert partner.get("/v1/risk-alerts", token=episode.token)["items"]
    refused = partner.send("POST", f"{episode.path}/assessments", body | {"respondent": "clinician_read_aloud"}, token=token)
    assert refused.status_code == 422
    path = f"{episode.path}/homework/{work['id']}"
    assert partner.patch(path, {"status": "done", "outcome": "She was glad."}, '"1.1"', token=token)["status"] == "done"
    assert partner.send("PATCH", path, {"task": "Nothing."}, token=token, If_Match='"2.1"').status_code == 422
    assert partner.send("POST", f"{episode.path}/homework", {"task": "x"}, token=token).status_code == 403


def test_what_a_note_says_comes_only_with_its_scope(lead, partner):
    device, episode = lead
    session = episode.hold(days=20)
    note = f"{episode.path}/sessions/{session['id']}/note"
    partner.put(note, {"text": "private", "sign": True}, token=episode.token)
    partner.post(f"{note}/addenda", {"text": "also private"}, token=episode.token)
    scopes = " ".join(s for s in ("sync", "episodes:read", "sessions:read", "patients:read"))
    narrow = Device(partner, episode.lead, scope=scopes).pull(2)
    assert {kind for kind, _ in narrow.rows} <= {
        "patient", "episode", "care_team", "contract", "phase_task", "phase_transition", "status_change", "medication", "session", "addendum",
        "change_attempt", "analysis", "homework", "sync_conflict",
    }  # fmt: skip
    assert "private" not in json.dumps(list(narrow.rows.values()))
    assert drifts(narrow) == []
    device.pull()
    assert "private" in {r["text"] for r in device.of("session_note").values()}
    assert drifts(device) == []


def test_a_snapshot_is_the_same_as_a_pull_and_can_be_taken_up_again(lead):
    device, _ = lead
    whole = Device(device.partner, device.person_id).pull()
    since, until, pages = 0, "", 0
    while True:
        headers = {"Authorization": f"Bearer {device.token}"}
        with device.partner.http.stream("GET", f"/v1/sync/snapshot?since={since}&limit=7{until}", headers=headers) as answer:
            assert answer.headers["content-encoding"] == "gzip"
            assert answer.headers["content-type"] == "application/x-ndjson"
            raw = b"".join(answer.iter_raw())
        *lines, last = gzip.decompress(raw).splitlines()
        end = json.loads(last)
        for line in lines:
            device.take(json.loads(line))
        pages += 1
        since, until = end["next"], f"&until={end['until']}"
        if not end["has_more"]:
            break
    assert pages > 2
    assert device.rows == whole.rows


CURSORS = [
    ("1", 400, "cursor-malformed"),
    (str(EPOCH_STEP - 1), 400, "cursor-malformed"),
    (str(EPOCH_STEP + 10**9), 400, "cursor-ahead"),
    (str(7 * EPOCH_STEP), 400, "cursor-ahead"),
    (str(2**53), 422, "invalid"),
    ("-1", 422, "invalid"),
    ("x", 422, "invalid"),
    ("1e3", 422, "invalid"),
]


@pytest.mark.parametrize(("cursor", "status", "problem"), CURSORS)
@pytest.mark.parametrize("where", ["/v1/sync/pull?since=", "/v1/sync/snapshot?since=", "/v1/events?since=", "/v1/sync/rxdb/session/pull?since="])
def test_each_wrong_cursor_has_its_own_answer(partner, where, cursor, status, problem):
    device = Device(partner, partner.add_clinician()["id"])
    token = partner.token if "events" in where else device.token
    answer = partner.send("GET", f"{where}{cursor}", token=token)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{problem}")


def test_after_a_restore_and_after_compaction_an_old_cursor_is_gone(lead, partner, on_database):
    device, episode = lead
    device.pull()
    own = UUID(partner.partner_id)
    person = episode.add_relationship(label="aunt")
    partner.send("DELETE", f"{episode.path}/relationships/{person['id']}", If_Match='"1.1"')
    colleague = partner.add_clinician()["id"]
    partner.post(f"{episode.path}/care-team", {"clinician_id": colleague, "role": "member"}, token=episode.token)
    held = Device(partner, colleague).pull()

    async def later(database: Database):
        async with database.transaction(own) as connection:
            gone = await compact(connection, datetime.now(UTC) + timedelta(seconds=5), datetime.now(UTC))
            await connection.commit()
            return gone

    assert on_database(later, "ipt_worker") > 0
    answer = partner.send("GET", f"/v1/sync/pull?since={device.cursor}", token=device.token)
    assert (answer.status_code, answer.json()["type"]) == (410, "/problems/cursor-expired")
    assert partner.send("GET", f"/v1/events?since={device.cursor}").status_code == 410
    fresh = Device(partner, episode.lead).pull()
    assert person["id"] not in fresh.of("relationship")
    assert Device(partner, colleague).pull().rows == held.rows  # the copies went, the chart is still theirs
    assert [v["op"] for v in partner.get(f"{episode.path}/relationships/{person['id']}/history")["items"]] == ["create", "delete"]
    newest = fresh.cursor
    assert partner.send("GET", f"/v1/sync/pull?since={newest}", token=fresh.token).status_code == 200

    async def restored(database: Database):
        async with database.transaction(own) as connection:
            await connection.run(sa.update(change_clock).where(change_clock.c.partner_id == own).values(epoch=2))
            await connection.commit()

    on_database(restored)
    answer = partner.send("GET", f"/v1/sync/pull?since={newest}", token=fresh.token)
    assert answer.status_code == 410
    again = Device(partner, episode.lead).pull()
    assert again.cursor > 2 * EPOCH_STEP
    assert again.rows == fresh.rows


def test_a_client_of_another_schema_is_told_so(lead):
    device, episode = lead
    newer = device.partner.send("GET", "/v1/sync/pull?schema_version=2", token=device.token)
    older = device.partner.send("GET", "/v1/sync/pull?schema_version=0", token=device.token)
    assert (newer.status_code, newer.json()["type"]) == (422, "/problems/schema-unknown")
    assert (older.status_code, older.json()["type"]) == (426, "/problems/schema-too-old")
    change = mutation("goal", "create", episode_id=episode.id, text="x", term="short")
    assert device.push(change, schema_version=0)[0]["status"] == "applied"
    body = {"client_id": device.id, "mutations": [], "schema_version": 2}
    assert device.partner.send("POST", "/v1/sync/push", body, token=device.token).status_code == 422
    assert device.get("/v1/sync/pull")["schema_version"] == 1


def test_more_than_a_thousand_is_a_refusal_never_a_silent_cap(lead):
    device, _ = lead
    assert device.partner.send("GET", "/v1/sync/pull?limit=1001", token=device.token).status_code == 422
    assert device.partner.send("GET", "/v1/sync/rxdb/session/pull?limit=1001", token=device.token).status_code == 422


def test_an_unknown_kind_of_row_or_one_outside_of_the_scope_is_refused_by_name(lead, partner):
    device, episode = lead
    answer = partner.send("GET", "/v1/sync/pull?entities=session,surprise", token=device.token)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/entity-unknown")
    narrow = Device(partner, episode.lead, scope="sync sessions:read")
    assert partner.send("GET", "/v1/sync/rxdb/relationship/pull", token=narrow.token).status_code == 422
    assert partner.send("GET", "/v1/sync/pull").status_code == 403  # a bare client follows /v1/events
    assert {c["entity"] for c in device.get("/v1/sync/pull?entities=session")["changes"]} == {"session"}


def test_the_stream_says_resync_when_there_is_news_for_the_person_and_only_then(lead, partner):
    device, episode = lead
    heard: list[str] = []
    connected = threading.Event()

    def listen():
        headers = {"Authorization": f"Bearer {device.token}"}
        with httpx.Client(base_url=partner.base_url, timeout=30) as client, client.stream("GET", "/v1/sync/stream", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                connected.set()
                heard.append(line)
                if line == "data: RESYNC":
                    return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    assert connected.wait(10)
    partner.add_patient()  # nothing to do with this person
    threading.Event().wait(2.5)
    assert "data: RESYNC" not in heard
    episode.add_relationship(label="news")
    listener.join(10)
    assert not listener.is_alive()
    assert all(line.startswith((":", "retry:", "id: ", "data: RESYNC")) or line == "" for line in heard)


def test_every_row_that_a_device_reads_stands_in_the_audit_trail_of_its_patient(lead, partner, on_database):
    from app.store.tables.record import audit_event  # noqa: PLC0415

    device, episode = lead
    second = partner.add_episode()
    partner.post(f"{second.path}/care-team", {"clinician_id": episode.lead, "role": "member"}, token=second.token)
    partner.get("/v1/sync/pull?limit=1000", token=device.token, X_Request_Id="pulled-1")

    async def job(database: Database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            return await connection.rows(sa.select(audit_event).where(audit_event.c.request_id == "pulled-1"))

    rows = on_database(job)
    assert {str(r["patient_id"]) for r in rows} == {episode.patient_id, second.patient_id}
    assert all(str(r["device_id"]) == device.id and r["person"] == f"clinician:{episode.lead}" for r in rows)
    assert f"patient/{second.patient_id}" in next(r["resources"] for r in rows if str(r["patient_id"]) == second.patient_id)
