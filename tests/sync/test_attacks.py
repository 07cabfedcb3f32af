"""What an attack on the sync routes has once found: each stays mended."""

import asyncio
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from app.store.database import Database
from app.store.feed import Change, Journal, stamp, state_of_version
from app.store.tables.record import audit_event, change_clock
from app.store.tables.sync import sync_mutation
from tests.driver import PATIENT, Device, mutation, now


def rxdb(device, collection, *rows):
    return device.partner.send("POST", f"/v1/sync/rxdb/{collection}/push", list(rows), token=device.token)


def watermelon(device, cursor=0, **tables):
    changes = {t: {"created": [], "updated": [], "deleted": []} | sent for t, sent in tables.items()}
    return device.partner.send("POST", f"/v1/sync/watermelon?last_pulled_at={cursor}", changes, token=device.token)


def conflicts(partner, token):
    return partner.get("/v1/sync/conflicts?limit=200", token=token)["items"]


@pytest.fixture
def course(partner):
    return partner.add_episode().into_middle()


def join(partner, episode, clinician_id):
    return partner.post(f"{episode.path}/care-team", {"clinician_id": clinician_id, "role": "member"}, token=episode.token)


def leave(partner, episode, clinician_id):
    member = next(m for m in partner.get(f"{episode.path}/care-team")["items"] if m["clinician_id"] == clinician_id)
    answer = partner.send("DELETE", f"{episode.path}/care-team/{member['id']}", token=episode.token, If_Match=f'"{member["version"]}.1"')
    assert answer.status_code == 204


def test_a_stale_command_shows_no_row_of_another_chart(partner, course):
    other = partner.add_episode(patient={"id": course.patient_id})
    mine = partner.add_clinician()["id"]
    join(partner, other, mine)
    stranger = partner.add_episode().into_middle()
    own = partner.get(f"{course.path}/formulation")
    phone = Device(partner, mine)
    partner.put(f"{other.path}/formulation", {"text": "Of this course.", "areas": ["grief"]})
    for row_id in (own["id"], partner.get(f"{stranger.path}/formulation")["id"]):
        sent = mutation("formulation", "command", row_id, 7, episode_id=other.id, text="x", areas=["grief"])
        result = phone.push(sent)[0]
        assert (result["status"], result["row"]) == ("conflict", None)
        assert "Because." not in str(conflicts(partner, other.token))


def test_who_may_write_notes_only_is_shown_none(partner, course):
    session = course.hold(days=9)["id"]
    partner.put(f"{course.path}/sessions/{session}/note", {"text": "SECRET"}, token=course.token)
    note = partner.get(f"{course.path}/sessions/{session}/note", token=course.token)
    writer = Device(partner, course.cover, scope="sync notes:write sessions:read")
    result = writer.push(mutation("session_note", "create", note["id"], episode_id=course.id, session_id=session, text="x"))[0]
    assert result["status"] == "conflict"
    assert "SECRET" not in str(result)
    assert "SECRET" not in str(writer.pull().rows)


def test_a_patient_is_shown_no_request_that_is_for_others(partner, course):
    asked = partner.post(
        f"{course.path}/assessment-requests", {"instrument": "HAM-D17", "respondent": "clinician", "due_at": now(), "message": "PRIVATE"}
    )
    phone = Device(partner, course.patient_id, kind=PATIENT)
    result = phone.push(mutation("assessment_request", "command", asked["id"], 7, episode_id=course.id, answers={"1": 1}))[0]
    assert result["status"] == "rejected"
    assert "PRIVATE" not in str(result)


def test_edits_of_rows_that_phones_do_not_change_wipe_nothing(partner, course):
    consent = course.consent()
    phone, second = Device(partner, course.lead).pull(), Device(partner, course.lead).pull()
    patient, episode = phone.rows["patient", course.patient_id], phone.rows["episode", course.id]
    watermelon(phone, patient={"updated": [{**patient, "birth_year": 1955, "_changed": "birth_year"}]})
    watermelon(phone, episode={"updated": [{"id": course.id, "version": 1, "external_ref": "x", "_changed": "external_ref"}]})
    raw = {k: v for k, v in phone.rows["consent", consent["id"]].items() if k != "version"}
    for _ in range(2):
        watermelon(phone, consent={"created": [{**raw, "_status": "created", "_changed": ""}]})
    answer = rxdb(phone, "patient", {"newDocumentState": {**patient, "birth_year": 1950}, "assumedMasterState": patient}).json()
    assert [(d["id"], d["birth_year"], d["_deleted"]) for d in answer] == [(course.patient_id, patient["birth_year"], False)]
    for device in (phone.pull(), second.pull(), Device(partner, course.lead).pull()):
        assert device.rows["patient", course.patient_id]["birth_year"] == patient["birth_year"]
        assert ("episode", course.id) in device.rows
        assert ("consent", consent["id"]) in device.rows
        assert device.rows["episode", course.id] == episode


def test_a_copy_that_comes_after_a_clinician_has_left_is_not_for_them(partner, course, on_database):
    gone = partner.add_clinician()["id"]
    join(partner, course, gone)
    person = course.add_relationship(label="aunt")
    leave(partner, course, gone)
    partner.patch(f"{course.path}/relationships/{person['id']}", {"expects_of_other": "NEW SECRET"}, '"1.1"')
    own = UUID(partner.partner_id)

    async def late(database: Database):
        async with database.transaction(own) as connection:
            newest = await state_of_version(connection, "relationship", UUID(person["id"]), 2)
            copy = Change("relationship", newest["entity_id"], 2, "grant", newest["patient_id"], newest["episode_id"], newest["state"], UUID(gone))
            await stamp(connection, Journal([copy]), newest["at"], actor="test", client_id="test")
            await connection.commit()

    on_database(late)
    assert Device(partner, gone).pull().rows == {}


def test_what_is_about_notes_needs_their_scope_and_a_clinician_in_conflicts_too(partner, course):
    session = course.hold(days=9)["id"]
    note = f"{course.path}/sessions/{session}/note"
    partner.put(note, {"text": "n", "sign": True}, token=course.token)
    there = partner.post(f"{note}/addenda", {"text": "SECRET ADDENDUM"}, token=course.token)
    lead = Device(partner, course.lead)
    about = {"id": str(uuid4()), "episode_id": course.id, "subject": "note", "subject_id": there["subject_id"], "text": "SECRET ABOUT NOTE"}
    rxdb(lead, "addendum", {"newDocumentState": about})
    lead.push(mutation("session_note", "create", episode_id=course.id, session_id=session, text="SECRET NOTE"))
    poor = Device(partner, course.cover, scope="sync sessions:read sessions:write")
    edit = {"id": there["id"], "episode_id": course.id, "text": "x"}
    rxdb(poor, "addendum", {"newDocumentState": edit, "assumedMasterState": {**edit, "text": "y"}})
    assert "SECRET" not in str(poor.pull().rows)
    assert "SECRET" not in str(conflicts(partner, poor.token))
    assert "SECRET" not in str(conflicts(partner, partner.token))  # a bare client
    assert "SECRET ABOUT NOTE" in str(conflicts(partner, course.token))
    kept = next(c["id"] for c in conflicts(partner, course.token) if c["entity"] == "session_note")
    for token, status in ((partner.token, 404), (poor.token, 404), (course.token, 200)):
        assert partner.send("GET", f"/v1/sync/conflicts/{kept}/history", token=token).status_code == status


def test_what_a_replica_had_written_is_kept_also_when_its_chart_was_left_or_it_is_a_consent(partner, course):
    gone = partner.add_clinician()["id"]
    join(partner, course, gone)
    phone = Device(partner, gone).pull()
    person = next(iter(phone.of("relationship").values()))
    leave(partner, course, gone)
    rxdb(phone, "relationship", {"newDocumentState": {**person, "expects_of_other": "written offline"}, "assumedMasterState": person})
    kept = [c for c in conflicts(partner, course.token) if c["sent_by"] == f"clinician:{gone}"]
    assert [(c["fields"], c["server"], c["problem"]["type"]) for c in kept] == [
        ({"expects_of_other": "written offline"}, {"expects_of_other": None}, "/problems/not-found")
    ]
    never = Device(partner, partner.add_clinician()["id"])
    rxdb(never, "relationship", {"newDocumentState": {**person, "expects_of_other": "x"}, "assumedMasterState": person})
    assert len(conflicts(partner, course.token)) == 1  # who was never in the team writes nothing into the chart
    lead = Device(partner, course.lead)
    future = {"id": str(uuid4()), "patient_id": course.patient_id, "purpose": "recording", "given": True, "wording": "v1"}
    watermelon(lead, consent={"created": [{**future, "decided_at": "2099-01-01T00:00:00Z", "_status": "created", "_changed": ""}]})
    kept = next(c for c in conflicts(partner, course.token) if c["entity_id"] == future["id"])
    path, fields = f"/v1/sync/conflicts/{kept['id']}/resolution", {**kept["fields"], "decided_at": now(days=1)}
    narrow = partner.clinician_token(course.lead, scope="sync consents:read")
    refused = partner.send("POST", path, {"choice": "merge", "fields": fields, "reason": "x"}, token=narrow)
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/scope-of-mutation-missing")
    partner.post(path, {"choice": "merge", "fields": fields, "reason": "The phone's clock was wrong."}, token=course.token)
    assert future["id"] in {c["id"] for c in partner.get(f"/v1/patients/{course.patient_id}/consents")["items"]}


@pytest.mark.parametrize("stands_over", ["restriction", "withdrawn consent"])
def test_a_replica_goes_on_when_something_stands_over_one_of_its_charts(partner, course, stands_over):
    """What was written offline in that chart is kept for its team, shown to nobody meanwhile; the edits of other patients are taken."""
    other = partner.add_episode(lead_clinician_id=course.lead)
    other.consent()
    phone = Device(partner, course.lead)
    mine, theirs = course.add_relationship(label="aunt"), other.add_relationship(label="uncle", confiding=1, conflict_level=1)
    phone.pull()
    if stands_over == "restriction":
        path = f"/v1/patients/{other.patient_id}/protection"
        etag = partner.send("GET", path).headers["etag"]
        partner.put(path, {"restricted_because": "objection_pending", "legal_hold": False}, etag=etag)
    else:
        decision = {"purpose": "treatment", "given": False, "wording": "v1", "decided_at": now()}
        partner.post(f"/v1/patients/{other.patient_id}/consents", decision)
    rows = [phone.rows["relationship", r["id"]] for r in (theirs, mine)]
    answer = rxdb(phone, "relationship", *({"newDocumentState": {**r, "confiding": 2}, "assumedMasterState": r} for r in rows))
    assert answer.status_code == 200, answer.text
    assert partner.get(f"{course.path}/relationships/{mine['id']}")["confiding"] == 2
    raws = [{**r, "conflict_level": 3, "_status": "updated", "_changed": "conflict_level"} for r in rows]
    new = {"id": str(uuid4()), "episode_id": other.id, "label": "new", "relation_type": "friend", "_status": "created", "_changed": ""}
    assert watermelon(phone, relationship={"updated": raws, "created": [new]}).status_code == 200
    assert partner.get(f"{course.path}/relationships/{mine['id']}")["conflict_level"] == 3
    if stands_over == "restriction":
        assert "uncle" not in answer.text
        partner.put(path, {"restricted_because": None, "legal_hold": False}, etag=partner.send("GET", path).headers["etag"])
    kept = {c["entity_id"]: c for c in conflicts(partner, course.token)}
    assert kept[new["id"]]["fields"]["label"] == "new"
    seen = {n: theirs.get(n) for n in kept[theirs["id"]]["fields"]}
    assert kept[theirs["id"]]["server"] == (dict.fromkeys(seen) if stands_over == "restriction" else seen)
    assert partner.get(f"{other.path}/relationships/{theirs['id']}")["version"] == 1
    assert theirs["id"] in kept


HUGE = [10**20, -(10**22), {"a": [10**22]}, "[" * 260 + "]" * 260, "[" * 5000 + "]" * 5000, "\\u0000", 1e308, True, [[[[]]]]]


@pytest.mark.parametrize("value", HUGE, ids=[str(v)[:20] for v in HUGE])
def test_no_value_in_a_row_is_a_failure(partner, course, value):
    phone = Device(partner, course.lead).pull()
    person = next(iter(phone.of("relationship").values()))
    results = phone.push(
        mutation("relationship", "update", person["id"], 1, confiding=value, surprise=value),
        mutation("relationship", "update", person["id"], 1, conflict_level=2),
    )
    assert [r["status"] for r in results][1] in {"applied", "merged"}
    for new in ({**person, "confiding": value}, {**person, "version": value}, {**person, "tags": value}):
        assert rxdb(phone, "relationship", {"newDocumentState": new, "assumedMasterState": person}).status_code == 200
        raw = {**new, "_status": "updated", "_changed": "confiding,tags"}
        assert watermelon(phone, relationship={"updated": [raw]}).status_code == 200


def test_an_empty_list_of_tables_is_refused_and_is_not_everything(partner, course):
    phone = Device(partner, course.lead)
    for path in ("/v1/sync/watermelon?tables=", "/v1/sync/watermelon?tables=,", "/v1/sync/pull?entities="):
        assert partner.send("GET", path, token=phone.token).status_code == 422


BROKEN = [
    {"id": "x"},
    {"op": "explode"},
    {"base_version": 3 * 10**9},
    {"fields": None},
    {"entity": "goal "},
    {"entity": "Anna Lopez wants to die"},
    {"fields": {str(n): n for n in range(101)}},
    {"mutation_id": 7},
]


@pytest.mark.parametrize("broken", BROKEN, ids=[str(b)[:30] for b in BROKEN])
def test_a_mutation_that_cannot_be_read_is_rejected_by_itself(partner, course, broken, on_database):
    phone = Device(partner, course.lead)
    good = mutation("goal", "create", episode_id=course.id, text="x", term="short")
    bad = mutation("goal", "create", episode_id=course.id, text="y", term="short") | broken
    results = phone.push(bad, good)
    assert [r["status"] for r in results] == ["rejected", "applied"]
    assert results[0]["problem"]["type"] == "/problems/mutation-malformed"
    assert results[0]["problem"]["errors"]
    grouped = phone.push(bad | {"group": "g"}, mutation("goal", "create", episode_id=course.id, text="z", term="short") | {"group": "g"})
    assert [r["status"] for r in grouped] == ["rejected", "rejected"]

    async def job(database: Database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            ledger = await connection.rows(sa.select(sync_mutation.c.entity).where(sync_mutation.c.partner_id == connection.partner_id))
            trail = await connection.rows(sa.select(audit_event.c.resources).where(audit_event.c.partner_id == connection.partner_id))
            return str(ledger) + str(trail)

    assert "Anna" not in on_database(job)


def test_a_device_time_that_makes_no_sense_stops_nothing(partner, course):
    phone = Device(partner, course.lead)
    for moment in ("1899-01-01T00:00:00Z", "2200-01-01T00:00:00Z", "yesterday", 7):
        sent = mutation("goal", "create", episode_id=course.id, text="x", term="short") | {"occurred_at": moment, "surprise": 1}
        assert phone.push(sent)[0]["status"] == "applied"


def test_edits_of_deleted_rows_with_an_impossible_version_are_kept(partner, course):
    phone = Device(partner, course.lead).pull()
    person = next(iter(phone.of("relationship").values()))
    phone.push(mutation("relationship", "delete", person["id"], 1))
    answer = rxdb(
        phone,
        "relationship",
        {"newDocumentState": {**person, "confiding": 1, "version": 10**12}, "assumedMasterState": {**person, "version": 10**12}},
    )
    assert answer.status_code == 200
    assert [c["reason"] for c in conflicts(partner, course.token)] == ["deleted"]


def test_a_push_is_taken_from_a_device_whose_cursor_is_gone(partner, course, on_database):
    phone = Device(partner, course.lead).pull()
    first, second = list(phone.of("relationship").values())[:2]

    async def restored(database: Database):
        own = UUID(partner.partner_id)
        async with database.transaction(own) as connection:
            await connection.run(sa.update(change_clock).where(change_clock.c.partner_id == own).values(epoch=2))
            await connection.commit()

    on_database(restored)
    raw = {**first, "confiding": 2, "_status": "updated", "_changed": "confiding"}
    answer = watermelon(phone, phone.cursor, relationship={"updated": [raw], "deleted": [second["id"]]})
    assert answer.status_code == 200
    assert partner.get(f"{course.path}/relationships/{first['id']}")["confiding"] == 2
    assert [(c["entity_id"], c["op"]) for c in conflicts(partner, course.token)] == [(second["id"], "delete")]


def test_a_group_that_was_mended_is_applied_whole(partner, course):
    phone = Device(partner, course.lead)
    bad = mutation("goal", "create", episode_id=course.id, text="", term="short") | {"group": "g"}
    good = mutation("goal", "create", episode_id=course.id, text="Good", term="short") | {"group": "g"}
    fixed = mutation("goal", "create", episode_id=course.id, text="Fixed", term="short") | {"group": "g"}
    assert [r["status"] for r in phone.push(bad, good)] == ["rejected", "rejected"]
    assert [r["status"] for r in phone.push(bad, good)] == ["rejected", "rejected"]
    assert [r["status"] for r in phone.push(fixed, good)] == ["applied", "applied"]
    late = mutation("goal", "create", episode_id=course.id, text="Late", term="short") | {"group": "h"}
    refused = mutation("goal", "create", episode_id=course.id, text="", term="short")
    phone.push(refused)
    assert [r["status"] for r in phone.push(refused | {"group": "h"}, late)] == ["rejected", "rejected"]


def test_the_same_refused_edit_made_anew_after_a_decision_is_kept_anew(partner, course):
    phone = Device(partner, course.lead).pull()
    person = next(iter(phone.of("relationship").values()))
    row = {"newDocumentState": {**person, "label": "Anna Maria Lopez"}, "assumedMasterState": person}
    rxdb(phone, "relationship", row)
    rxdb(phone, "relationship", row)
    (kept,) = conflicts(partner, course.token)
    partner.post(f"/v1/sync/conflicts/{kept['id']}/resolution", {"choice": "keep_server", "reason": "x"}, token=course.token)
    rxdb(phone, "relationship", row)
    assert [c["status"] for c in conflicts(partner, course.token)] == ["resolved", "open"]


def test_going_back_to_an_older_value_after_another_changed_it_is_a_conflict(partner, course):
    phone, other = Device(partner, course.lead).pull(), Device(partner, course.cover).pull()
    row_id = next(iter(phone.of("relationship")))
    phone.push(mutation("relationship", "update", row_id, 1, confiding=1))
    phone.push(mutation("relationship", "update", row_id, 2, confiding=2))
    other.push(mutation("relationship", "update", row_id, 3, confiding=3))
    assert phone.push(mutation("relationship", "update", row_id, 2, confiding=1))[0]["status"] == "conflict"


def test_an_edit_of_a_field_that_does_not_change_is_kept_not_dropped(partner, course):
    phone = Device(partner, course.lead).pull()
    session = next(iter(phone.of("session").values()))
    answer = rxdb(phone, "session", {"newDocumentState": {**session, "number": 9}, "assumedMasterState": session}).json()
    assert answer[0]["number"] == session["number"]
    (kept,) = conflicts(partner, course.token)
    assert (kept["fields"], kept["problem"]["type"]) == ({"number": 9}, "/problems/field-fixed")


def test_rows_that_cite_each_other_come_in_any_order_of_tables(partner, course):
    phone = Device(partner, course.lead).pull()
    concern, attempt = str(uuid4()), str(uuid4())
    marks = {"_status": "created", "_changed": "", "episode_id": course.id}
    answer = watermelon(
        phone,
        change_attempt={"created": [{"id": attempt, "issue": "x", "problem_id": concern, **marks}]},
        problem={"created": [{"id": concern, "text": "x", **marks}]},
    )
    assert answer.json() == {"experimentalRejectedIds": {}}
    assert attempt in phone.pull().of("change_attempt")
    assert conflicts(partner, course.token) == []


def test_a_replay_shows_nothing_of_a_course_that_was_left(partner, course):
    other = partner.add_episode(patient={"id": course.patient_id})
    mine = partner.add_clinician()["id"]
    for episode in (course, other):
        join(partner, episode, mine)
    token = partner.clinician_token(mine)
    body, key = {"label": "aunt", "relation_type": "other_family"}, str(uuid4())
    assert partner.send("POST", f"{course.path}/relationships", body, token=token, Idempotency_Key=key).status_code == 201
    leave(partner, course, mine)
    assert partner.send("POST", f"{course.path}/relationships", body, token=token, Idempotency_Key=key).status_code == 404


def test_batches_over_the_same_charts_in_any_order_all_go_through(partner):
    lead = partner.add_clinician()["id"]
    charts = [partner.add_episode(lead_clinician_id=lead) for _ in range(3)]
    devices = [Device(partner, lead) for _ in range(4)]

    async def all_at_once():
        def send(number):
            order = charts if number % 2 else charts[::-1]
            batch = [mutation("goal", "create", episode_id=c.id, text=f"{number}.{n}", term="short") for n in range(5) for c in order]
            return {r["status"] for r in devices[number].push(*batch)}

        return await asyncio.gather(*(asyncio.to_thread(send, n) for n in range(4)))

    assert asyncio.run(all_at_once()) == [{"applied"}] * 4
    assert len(devices[0].pull().of("goal")) == 60


def test_a_token_with_fewer_scopes_takes_nothing_from_the_persons_other_phones(partner, course):
    session = course.hold(days=9)["id"]
    note = f"{course.path}/sessions/{session}/note"
    partner.put(note, {"text": "n", "sign": True}, token=course.token)
    there = partner.post(f"{note}/addenda", {"text": "about it"}, token=course.token)
    wide, narrow = Device(partner, course.lead).pull(), Device(partner, course.lead, scope="sync sessions:read sessions:write")
    raw = {"id": there["id"], "episode_id": course.id, "text": "x", "version": 1, "_status": "updated", "_changed": "text"}
    assert watermelon(narrow, addendum={"updated": [raw]}).status_code == 200
    assert there["id"] in wide.pull().of("addendum")
