"""Push: each mutation once, judged like HTTP, merged by field, never lost; and conflicts that a clinician resolves."""

import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from uuid_utils.compat import uuid7

from app.store.database import Database
from app.store.tables.sync import sync_mutation
from tests.conftest import run_sql
from tests.driver import PATIENT, PHQ9, Device, day, mutation, now


@pytest.fixture
def ward(partner):
    """A course and two phones of its care team, both in step."""
    episode = partner.add_episode().into_middle()
    return episode, Device(partner, episode.lead).pull(), Device(partner, episode.cover).pull()


def status_of(results):
    return [r["status"] for r in results]


def person_of(partner, episode, row_id):
    return partner.get(f"{episode.path}/relationships/{row_id}")


def test_a_mutation_goes_through_the_same_rules_as_http_and_says_why_it_was_refused(ward):
    episode, phone, _ = ward
    good, full_name, unknown, gate = phone.push(
        mutation("relationship", "create", episode_id=episode.id, label="aunt", relation_type="other_family", colour="blue"),
        mutation("relationship", "create", episode_id=episode.id, label="Anna Maria Lopez", relation_type="friend"),
        mutation("surprise", "create", episode_id=episode.id),
        mutation("phase_transition", "command", episode_id=episode.id, to="follow_up"),
    )
    assert (good["status"], good["ignored"], good["row"]["version"]) == ("applied", ["colour"], 1)
    assert full_name["status"] == "rejected"
    assert full_name["problem"]["type"] == "/problems/full-name-refused"
    assert full_name["problem"]["status"] == 422
    assert unknown["problem"]["type"] == "/problems/mutation-unknown"
    assert gate["status"] == "rejected"
    assert gate["problem"]["type"] == "/problems/phase-not-next"
    assert phone.partner.get(f"{episode.path}/phase")["phase"] == "middle"


def test_faults_in_fields_are_named_with_pointers_and_nothing_is_applied(ward):
    episode, phone, _ = ward
    result = phone.push(mutation("relationship", "create", episode_id=episode.id, label="aunt", relation_type="wizard", confiding=9))[0]
    assert result["status"] == "rejected"
    assert {e["pointer"] for e in result["problem"]["errors"]} == {"/fields/relation_type", "/fields/confiding"}
    assert "aunt" not in {r["label"] for r in phone.pull().of("relationship").values()}


def test_a_batch_sent_again_is_all_duplicates_and_changes_nothing(ward):
    episode, phone, _ = ward
    row_id = str(uuid4())
    batch = [
        mutation("relationship", "create", row_id, episode_id=episode.id, label="aunt", relation_type="other_family"),
        mutation("relationship", "update", row_id, 1, confiding=2),
        mutation("relationship", "create", episode_id=episode.id, label="Anna Maria Lopez", relation_type="friend"),
    ]
    first, second = phone.push(*batch), phone.push(*batch)
    assert status_of(first) == ["applied", "applied", "rejected"]
    assert status_of(second) == ["duplicate", "duplicate", "rejected"]
    assert all(r["repeated"] for r in second)
    assert second[2]["problem"] == first[2]["problem"]
    assert person_of(phone.partner, episode, row_id)["version"] == 2
    assert status_of(phone.push(batch[0], batch[0])) == ["duplicate", "duplicate"]


def test_a_reused_mutation_id_is_refused(ward):
    episode, phone, other = ward
    one = mutation("goal", "create", episode_id=episode.id, text="Sleep", term="short")
    phone.push(one)
    again = phone.push(one | {"fields": one["fields"] | {"text": "Eat"}})[0]
    assert (again["status"], again["problem"]["type"]) == ("rejected", "/problems/mutation-reused")
    assert other.push(one)[0]["status"] == "applied"  # another device's ids are its own; the row is there with the same content
    twice = mutation("goal", "create", episode_id=episode.id, text="Walk", term="short", mutation_id=str(uuid4()))
    results = phone.push(twice, twice | {"fields": twice["fields"] | {"text": "Run"}})
    assert status_of(results) == ["applied", "rejected"]


def test_edits_of_different_fields_merge(ward):
    episode, phone, other = ward
    row_id = next(iter(phone.of("relationship")))
    assert phone.push(mutation("relationship", "update", row_id, 1, confiding=2))[0]["status"] == "applied"
    merged = other.push(mutation("relationship", "update", row_id, 1, conflict_level=3))[0]
    assert merged["status"] == "merged"
    row = person_of(phone.partner, episode, row_id)
    assert (row["confiding"], row["conflict_level"], row["version"]) == (2, 3, 3)
    whole = {k: v for k, v in other.rows["relationship", row_id].items() if k in {"label", "confiding", "relation_type"}}
    sent = {**whole, "conflict_level": 3, "expects_of_other": "help"}  # a device may send the whole row as it has it
    assert other.push(mutation("relationship", "update", row_id, 1, **sent))[0]["status"] == "merged"
    row = person_of(phone.partner, episode, row_id)
    assert (row["confiding"], row["conflict_level"], row["expects_of_other"]) == (2, 3, "help")


def test_the_same_field_keeps_the_services_value_and_the_edit_as_a_conflict_that_a_clinician_resolves(ward):
    episode, phone, other = ward
    partner, row_id = phone.partner, next(iter(phone.of("relationship")))
    phone.push(mutation("relationship", "update", row_id, 1, expects_of_other="help with the children", confiding=1))
    fields = {"expects_of_other": "nothing any more", "conflict_level": 2}
    kept = other.push(mutation("relationship", "update", row_id, 1, **fields))[0]
    assert kept["status"] == "conflict"
    assert kept["row"]["expects_of_other"] == "help with the children"
    assert person_of(partner, episode, row_id)["conflict_level"] is None  # not half of it
    again = other.push(mutation("relationship", "update", row_id, 2, confiding=9))[0]
    assert (again["status"], again["row"]["version"]) == ("rejected", 2)  # what the phone puts in the place of its own
    listed = partner.get("/v1/sync/conflicts?status=open", token=episode.token)["items"]
    assert [(c["id"], c["reason"], c["disputed"]) for c in listed] == [(kept["conflict_id"], "same_field", ["expects_of_other"])]
    assert (listed[0]["fields"], listed[0]["server"]["expects_of_other"]) == (fields, "help with the children")
    assert listed[0]["sent_by"] == f"clinician:{episode.cover}"
    assert kept["conflict_id"] in phone.pull().of("sync_conflict")
    path = f"/v1/sync/conflicts/{kept['conflict_id']}/resolution"
    assert partner.send("POST", path, {"choice": "take_client", "reason": "x"}).status_code == 403  # a bare client decides nothing
    body = {"choice": "merge", "fields": {"expects_of_other": "help; she gave up asking", "conflict_level": 2}, "reason": "Asked in session."}
    resolved = partner.post(path, body, token=episode.token)
    assert (resolved["status"], resolved["resolution"], resolved["resolved_by"]) == ("resolved", "merge", episode.lead)
    row = person_of(partner, episode, row_id)
    assert (row["expects_of_other"], row["conflict_level"]) == ("help; she gave up asking", 2)
    again = partner.send("POST", path, body, token=episode.token)
    assert (again.status_code, again.json()["type"]) == (409, "/problems/conflict-resolved")
    assert partner.get("/v1/sync/conflicts?status=open", token=episode.token)["items"] == []


@pytest.mark.parametrize(("choice", "expected"), [("keep_server", 1), ("take_client", 3)])
def test_a_conflict_is_resolved_for_one_side(ward, choice, expected):
    episode, phone, other = ward
    row_id = next(iter(phone.of("relationship")))
    phone.push(mutation("relationship", "update", row_id, 1, confiding=1))
    kept = other.push(mutation("relationship", "update", row_id, 1, confiding=3))[0]
    phone.partner.post(f"/v1/sync/conflicts/{kept['conflict_id']}/resolution", {"choice": choice, "reason": "x"}, token=episode.token)
    assert person_of(phone.partner, episode, row_id)["confiding"] == expected


def test_edits_of_what_was_deleted_and_deletions_of_what_was_edited_are_kept(ward):
    episode, phone, other = ward
    first, second = list(phone.of("relationship"))[:2]
    phone.push(mutation("relationship", "delete", first, 1), mutation("relationship", "update", second, 1, confiding=1))
    edit, removal, again = other.push(
        mutation("relationship", "update", first, 1, confiding=3),
        mutation("relationship", "delete", second, 1),
        mutation("relationship", "delete", first, 1),
    )
    assert (edit["status"], removal["status"], again["status"]) == ("conflict", "conflict", "merged")
    reasons = {c["id"]: c["reason"] for c in phone.partner.get("/v1/sync/conflicts", token=episode.token)["items"]}
    assert (reasons[edit["conflict_id"]], reasons[removal["conflict_id"]]) == ("deleted", "changed")
    path = f"/v1/sync/conflicts/{edit['conflict_id']}/resolution"
    refused = phone.partner.send("POST", path, {"choice": "take_client", "reason": "x"}, token=episode.token)
    assert refused.json()["type"] == "/problems/deleted-stays"
    phone.partner.post(f"/v1/sync/conflicts/{removal['conflict_id']}/resolution", {"choice": "take_client", "reason": "x"}, token=episode.token)
    assert second not in other.pull().of("relationship")


def test_an_edit_on_a_version_that_is_missing_or_ahead_is_refused(ward):
    _, phone, _ = ward
    row_id = next(iter(phone.of("relationship")))
    missing, ahead, gone = phone.push(
        mutation("relationship", "update", row_id, confiding=1),
        mutation("relationship", "update", row_id, 9, confiding=1),
        mutation("relationship", "update", str(uuid4()), 1, confiding=1),
    )
    assert [r["problem"]["type"] for r in (missing, ahead, gone)] == ["/problems/base-missing", "/problems/base-ahead", "/problems/not-found"]


def test_ones_own_earlier_edits_are_no_conflict(ward):
    episode, phone, _ = ward
    row_id = next(iter(phone.of("relationship")))
    results = [phone.push(mutation("relationship", "update", row_id, 1, confiding=level))[0]["status"] for level in (1, 2, 3, 1)]
    assert results == ["applied", "merged", "merged", "merged"]
    assert person_of(phone.partner, episode, row_id)["confiding"] == 1


def test_a_group_is_applied_together_or_not_at_all(ward):
    episode, phone, _ = ward
    good = mutation("goal", "create", episode_id=episode.id, text="Together", term="short") | {"group": "g"}
    bad = mutation("goal", "create", episode_id=episode.id, text="", term="short") | {"group": "g"}
    alone = mutation("goal", "create", episode_id=episode.id, text="Alone", term="short")
    results = phone.push(good, bad, alone)
    assert status_of(results) == ["rejected", "rejected", "applied"]
    assert results[0]["problem"]["type"] == "/problems/group-refused"
    assert {g["text"] for g in phone.pull().of("goal").values()} == {"Alone"}
    pair = [mutation("goal", "create", episode_id=episode.id, text=t, term="long") | {"group": "h"} for t in ("One", "Two")]
    assert status_of(phone.push(*pair)) == ["applied", "applied"]
    assert status_of(phone.push(*pair)) == ["duplicate", "duplicate"]


def test_a_group_with_a_conflict_keeps_the_conflict_and_applies_nothing(ward):
    episode, phone, other = ward
    row_id = next(iter(phone.of("relationship")))
    phone.push(mutation("relationship", "update", row_id, 1, confiding=1))
    pair = [
        mutation("goal", "create", episode_id=episode.id, text="With it", term="short") | {"group": "g"},
        mutation("relationship", "update", row_id, 1, confiding=3) | {"group": "g"},
    ]
    results = other.push(*pair)
    assert status_of(results) == ["rejected", "conflict"]
    assert phone.pull().of("goal") == {}
    assert results[1]["conflict_id"] in phone.of("sync_conflict")


def test_notes_are_never_merged(ward):
    episode, phone, other = ward
    session = episode.hold(days=10)["id"]
    first = mutation("session_note", "create", episode_id=episode.id, session_id=session, text="Mine.")
    assert phone.push(first)[0]["status"] == "applied"
    second = other.push(mutation("session_note", "create", episode_id=episode.id, session_id=session, text="Also mine."))[0]
    assert second["status"] == "conflict"
    kept = phone.partner.get(f"/v1/sync/conflicts/{second['conflict_id']}", token=episode.token)
    assert kept["fields"]["text"] == "Also mine."
    assert phone.partner.get(f"{episode.path}/sessions/{session}/note", token=episode.token)["text"] == "Mine."
    narrow = Device(phone.partner, episode.lead, scope="sync sessions:read").pull()
    assert second["conflict_id"] not in narrow.of("sync_conflict")
    assert phone.partner.send("GET", f"/v1/sync/conflicts/{second['conflict_id']}", token=narrow.token).status_code == 404


def test_answers_sent_late_are_scored_raise_their_alert_and_bring_the_notice(ward):
    episode, phone, _ = ward
    body = {"episode_id": episode.id, "instrument": "PHQ-9", "answers": {**PHQ9, "9": 2}, "answered_at": now(days=3)}
    result = phone.push(mutation("assessment", "create", **body))[0]
    assert (result["status"], result["row"]["total"]) == ("applied", 10)
    assert result["notice"]["crisis_text"]
    assert phone.partner.get("/v1/risk-alerts", token=episode.token)["items"][0]["received_late_seconds"] > 0


def test_a_whole_hour_offline_is_sent_in_one_batch(ward):
    episode, phone, _ = ward
    session, homework = str(uuid4()), str(uuid4())
    results = phone.push(
        mutation("session", "create", session, episode_id=episode.id, starts_at=now(days=2), status="held", minutes=50, attendance="attended"),
        mutation("session_note", "create", episode_id=episode.id, session_id=session, text="Angry with the sister."),
        mutation("homework", "create", homework, episode_id=episode.id, task="Call her.", session_id=session),
        mutation("homework", "update", homework, 1, status="done", outcome="Went well."),
        mutation("addendum", "create", episode_id=episode.id, subject="session", subject_id=session, text="Ten minutes late."),
        mutation("consent", "create", patient_id=episode.patient_id, purpose="recording", given=False, wording="v1", decided_at=now(days=2)),
        mutation("termination", "command", episode_id=episode.id, ending_as_loss="Like leaving home."),
        mutation("phase_task", "command", episode_id=episode.id, task="diagnosis_named", status="done", base_version=None),
        mutation("session", "update", session, 1, mood=4),
    )
    assert [(r["entity"], r["status"], r["problem"]) for r in results if r["entity"] != "phase_task"] == [
        (r["entity"], "applied", None) for r in results if r["entity"] != "phase_task"
    ]
    phone.pull()
    assert phone.rows["session", session]["mood"] == 4
    assert phone.rows["homework", homework]["status"] == "done"


def test_a_command_on_an_old_version_is_kept_for_the_clinician(ward):
    episode, phone, other = ward
    sent = {"episode_id": episode.id, "ending_as_loss": "Like leaving home."}
    assert phone.push(mutation("termination", "command", **sent))[0]["status"] == "applied"
    late = other.push(mutation("termination", "command", **(sent | {"ending_as_loss": "A relief."})))[0]
    assert late["status"] == "conflict"
    assert phone.partner.get(f"/v1/sync/conflicts/{late['conflict_id']}", token=episode.token)["fields"]["ending_as_loss"] == "A relief."
    row = phone.pull().of("termination")
    assert other.push(mutation("termination", "command", base=next(iter(row.values()))["version"], **sent))[0]["status"] in {"applied", "merged"}


def test_a_devices_clock_decides_nothing(ward):
    episode, phone, other = ward
    row_id = next(iter(phone.of("relationship")))
    ahead = mutation("relationship", "update", row_id, 1, confiding=1) | {"occurred_at": "2099-01-01T00:00:00Z"}
    behind = mutation("relationship", "update", row_id, 1, confiding=2) | {"occurred_at": "1990-01-01T00:00:00Z"}
    assert other.push(behind)[0]["status"] == "applied"
    assert phone.push(ahead)[0]["status"] == "conflict"
    assert person_of(phone.partner, episode, row_id)["confiding"] == 2


def test_a_patients_phone_sends_its_own_answers_and_homework_only(ward):
    episode, lead, _ = ward
    partner = lead.partner
    work = partner.post(f"{episode.path}/homework", {"task": "Call her."})
    phone = Device(partner, episode.patient_id, kind=PATIENT).pull()
    done, retold, person, foreign = phone.push(
        mutation("homework", "update", work["id"], 1, status="done", outcome="Fine."),
        mutation("homework", "update", work["id"], 2, task="Nothing."),
        mutation("relationship", "create", episode_id=episode.id, label="aunt", relation_type="other_family"),
        mutation("assessment", "create", episode_id=partner.add_episode().id, instrument="GAD-7", answers={"1": 1}, answered_at=now()),
    )
    assert done["status"] == "applied"
    assert [r["problem"]["type"] for r in (retold, person, foreign)] == [
        "/problems/patients-report-only",
        "/problems/patients-answer-only",
        "/problems/not-found",
    ]
    answer = phone.push(mutation("assessment", "create", episode_id=episode.id, instrument="GAD-7", answers={"1": 1}, answered_at=now()))[0]
    assert answer["status"] == "applied"
    assert answer["id"] in phone.pull().of("assessment")


def test_what_is_not_in_the_caseload_or_the_partner_is_not_found_and_not_told_apart(ward, other_partner):
    episode, phone, _ = ward
    theirs = other_partner.add_episode()
    their_person = theirs.add_relationship()
    mine = phone.partner.add_episode()
    foreign = mine.add_relationship()
    results = phone.push(
        mutation("relationship", "update", their_person["id"], 1, confiding=1),
        mutation("relationship", "update", foreign["id"], 1, confiding=1),
        mutation("relationship", "delete", foreign["id"], 1),
        mutation("goal", "create", episode_id=theirs.id, text="x", term="short"),
        mutation("goal", "create", episode_id=mine.id, text="x", term="short"),
        mutation("life_event", "create", episode_id=episode.id, type="relocation", relationship_id=foreign["id"]),
    )
    assert {r["problem"]["type"] for r in results} == {"/problems/not-found"}
    assert {(r["row"], r["problem"]["detail"]) for r in results} == {(None, results[0]["problem"]["detail"])}
    taken = phone.push(mutation("relationship", "create", foreign["id"], episode_id=episode.id, label="x", relation_type="friend"))[0]
    assert taken["row"] is None
    assert taken["problem"]["type"] == "/problems/id-taken"


def test_a_token_without_the_scope_of_a_mutation_has_it_rejected(ward):
    episode, _, _ = ward
    narrow = Device(ward[1].partner, episode.lead, scope="sync inventory:read")
    result = narrow.push(mutation("goal", "create", episode_id=episode.id, text="x", term="short"))[0]
    assert (result["status"], result["problem"]["type"], result["problem"]["detail"]) == (
        "rejected",
        "/problems/scope-of-mutation-missing",
        "inventory:write",
    )


def test_batches_of_the_wrong_shape_or_size_are_refused_whole(ward):
    _, phone, _ = ward
    partner = phone.partner
    many = [mutation("goal", "delete", base=1) for _ in range(101)]
    shapes = [
        ({"client_id": phone.id, "mutations": many}, 422),
        ({"client_id": str(uuid4()), "mutations": []}, 422),
        ({"client_id": phone.id}, 422),
        ({"client_id": phone.id, "mutations": ["x"]}, 422),
        ({"client_id": phone.id, "mutations": [mutation("goal", "create") | {"group": "g"}] * 2}, 422),
    ]
    for body, status in shapes:
        assert partner.send("POST", "/v1/sync/push", body, token=phone.token).status_code == status, body
    plain = partner.clinician_token(phone.person_id)
    answer = partner.send("POST", "/v1/sync/push", {"client_id": phone.id, "mutations": []}, token=plain)
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/device-needed")


def test_two_sendings_of_one_batch_at_the_same_moment_apply_it_once(ward):
    episode, phone, _ = ward
    batch = [mutation("goal", "create", episode_id=episode.id, text=f"Goal {n}", term="short") for n in range(10)]
    results = []
    threads = [threading.Thread(target=lambda: results.append(Device.push(phone, *batch))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    statuses = sorted("".join(s[0] for s in status_of(r)) for r in results)
    assert statuses == ["a" * 10] + ["d" * 10] * 3
    assert len(phone.pull().of("goal")) == 10


def test_the_ledger_holds_no_answer_that_could_be_guessed_and_is_cleared_after_400_days(ward, on_database, partner):
    from app.worker import compact_feeds  # noqa: PLC0415

    episode, phone, _ = ward
    body = {"episode_id": episode.id, "instrument": "PHQ-9", "answers": PHQ9, "answered_at": now()}
    phone.push(mutation("assessment", "create", **body), mutation("goal", "create", episode_id=episode.id, text="", term="short"))

    def rows():
        async def job(database: Database):
            async with database.transaction(UUID(partner.partner_id)) as connection:
                return await connection.rows(sa.select(sync_mutation).where(sync_mutation.c.partner_id == connection.partner_id))

        return on_database(job)

    found = rows()
    assert {r["outcome"] for r in found} == {"applied", "rejected"}
    assert all(len(r["request_hash"]) == 32 for r in found)
    assert b"at least" not in b"".join(r["problem"] or b"" for r in found)
    on_database(lambda database: compact_feeds(database, datetime.now(UTC) + timedelta(days=399)), "ipt_worker")
    assert len(rows()) == 2
    on_database(lambda database: compact_feeds(database, datetime.now(UTC) + timedelta(days=401)), "ipt_worker")
    assert rows() == []


def test_history_names_the_mutation_that_made_a_version(ward):
    _, phone, _ = ward
    episode = ward[0]
    one = mutation("goal", "create", episode_id=episode.id, text="x", term="short")
    phone.push(one)
    items = phone.partner.get(f"{episode.path}/goals/{one['id']}/history")["items"]
    assert [(i["mutation_id"], i["op"]) for i in items] == [(one["mutation_id"], "create")]
    assert day() <= items[0]["at"][:10]


def test_what_the_database_itself_refuses_in_the_middle_takes_nothing_else_of_the_batch_with_it(own_service, fresh_database):
    bad = str(uuid4())
    run_sql(fresh_database, f"ALTER TABLE goal ADD CONSTRAINT ck_goal_odd CHECK (id <> '{bad}')")
    with own_service.partner() as partner:
        episode = partner.add_episode()
        phone = Device(partner, episode.lead)
        batch = [mutation("goal", "create", row_id=bad if n == 2 else None, episode_id=episode.id, text=f"goal {n}") for n in range(5)]
        assert status_of(phone.push(*batch)) == ["applied", "applied", "rejected", "applied", "applied"]
        assert sorted(g["text"] for g in partner.get(f"{episode.path}/goals")["items"]) == ["goal 0", "goal 1", "goal 3", "goal 4"]
        assert len(phone.pull().of("goal")) == 4


def test_a_mutation_sees_what_the_one_before_it_did_to_the_course(ward):
    episode, phone, _ = ward
    paused, resumed, twice = phone.push(
        mutation("status_change", "command", episode_id=episode.id, command="pause", reason="holiday"),
        mutation("status_change", "command", episode_id=episode.id, command="resume"),
        mutation("status_change", "command", episode_id=episode.id, command="resume"),
    )
    assert (paused["status"], resumed["status"], twice["status"]) == ("applied", "applied", "rejected")
    assert episode.partner.get(episode.path)["status"] == "active"


def test_a_restricted_patients_row_holds_up_no_other_patients_cry_for_help(partner):
    """The phone was away when the patient was restricted; what it brings of that row is refused, and everything else goes through."""
    one = partner.add_episode()
    one.consent()
    other = partner.add_episode(lead_clinician_id=one.lead)
    other.consent()
    person = other.add_relationship(label="aunt", conflict_level=1)
    phone = Device(partner, one.lead)
    etag = partner.send("GET", f"/v1/patients/{other.patient_id}/protection").headers["etag"]
    partner.put(f"/v1/patients/{other.patient_id}/protection", {"restricted_because": "objection_pending", "legal_hold": False}, etag=etag)
    answers = PHQ9 | {"9": 3}
    results = phone.push(
        mutation("relationship", "update", person["id"], 1, conflict_level=3),
        mutation("assessment", "create", episode_id=one.id, instrument="PHQ-9", answered_at=now(), respondent="patient", answers=answers),
    )
    assert status_of(results) == ["rejected", "applied"]
    assert results[0]["row"] is None
    assert results[0]["problem"]["type"] == "/problems/processing-restricted"
    assert len(partner.get(f"/v1/risk-alerts?episode_id={one.id}")["items"]) == 1


@pytest.mark.parametrize("at_once", [True, False])
def test_edits_of_one_row_mean_the_same_in_one_batch_and_one_by_one(partner, at_once):
    episode = partner.add_episode()
    phone = Device(partner, episode.lead)

    def push(*mutations):
        return phone.push(*mutations) if at_once else [r for m in mutations for r in phone.push(m)]

    person = episode.add_relationship(conflict_level=2)
    made = push(
        mutation("relationship", "update", person["id"], 1, conflict_level=3), mutation("relationship", "update", person["id"], 1, conflict_level=2)
    )
    assert status_of(made) == ["applied", "merged"]
    assert partner.get(f"{episode.path}/relationships/{person['id']}")["conflict_level"] == 2
    row_id = str(uuid7())
    made = push(
        mutation("relationship", "create", row_id, episode_id=episode.id, label="x", relation_type="sibling"),
        mutation("relationship", "update", row_id, 1, conflict_level=2),
        mutation("relationship", "update", row_id, 1, conflict_level=3),
    )
    assert status_of(made) == ["applied", "applied", "merged"]
    assert partner.get(f"{episode.path}/relationships/{row_id}")["conflict_level"] == 3


def test_a_row_that_a_refusal_shows_stands_in_the_audit_trail_with_its_patient(partner):
    episode = partner.add_episode()
    person = episode.add_relationship(label="the secret brother")
    phone = Device(partner, episode.lead, scope="sync inventory:read")
    [result] = phone.push(mutation("relationship", "update", person["id"], 1, conflict_level=3))
    assert (result["status"], result["row"]["label"]) == ("rejected", "the secret brother")
    events = partner.get(f"/v1/audit-events?patient_id={episode.patient_id}&limit=200")["items"]
    assert [e["resources"] for e in events if e["route"] == "POST /v1/sync/push"] == [[f"relationship/{person['id']}"]]
