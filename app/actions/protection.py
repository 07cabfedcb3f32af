"""What protects a patient: restriction and legal hold, erasure, emergency access with its review, retention."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from app.actions.journal import Journal, JournalAway
from app.actions.people import TOKENS_DEAD_AFTER, check_backend
from app.actions.records import Fields, Made, amend, create, remove, reveal
from app.actions.visit import Visit, open_patient, public
from app.domain.errors import Invalid, NotFound
from app.domain.people import today_of
from app.domain.protection import (
    EMERGENCIES_A_DAY,
    EMERGENCY_LASTS,
    AlreadyInCareTeam,
    EmergencyUsedUp,
    OwnReview,
    Retention,
    ReviewDone,
    UnderLegalHold,
    kept_until,
)
from app.keys.cipher import PatientKey
from app.store.database import Row, TryAgain
from app.store.door import revoke
from app.store.feed import Audience
from app.store.idempotency import hold_for_transaction
from app.store.people import courses_of, find_patient, same_person
from app.store.protection import (
    blank_answers,
    blank_emergencies,
    blank_patient,
    delete_rows_of,
    destroy_key,
    emergencies_since,
    ended_before,
    find_emergency,
    hold_erasure,
    page_emergencies,
    shared_rows,
)
from app.store.rows import find_row, rows_of
from app.store.tables.door import partner_setting
from app.store.tables.people import care_team, clinician, patient
from app.store.tables.protection import break_glass, erasure

DAY = timedelta(days=1)


class RetentionUnset(Invalid):
    """The partner has not said how long records are kept: set `retention` in the settings."""


async def read_protection(visit: Visit, patient_id: UUID) -> Row:
    """Return a patient's row, with restriction and hold. Raises BackendOnly, NotFound."""
    check_backend(visit)
    row, key = await open_patient(visit, patient_id)
    return reveal(key, patient, row)


async def protect(visit: Visit, patient_id: UUID, values: dict[str, Any]) -> Row:
    """Restrict processing (GDPR Art. 18) or lift that; put under a legal hold or lift it: of the person, by every registration.

    Phones forget restricted charts, and get them back. Raises BackendOnly, NotFound.
    """
    check_backend(visit)
    rows = await _registrations(visit, patient_id)
    visit.precondition.check(next(r["version"] for r in rows if r["id"] == patient_id))
    found = {}
    for row in rows:
        before, after = row["restricted_because"] is not None, values["restricted_because"] is not None
        if before != after:
            await tell_phones(visit, row["id"], "revoke" if after else "grant")
        present = reveal(visit.patient_keys[row["id"]], patient, row)
        found[row["id"]] = await amend(visit, patient, present, Fields(values), key=visit.patient_keys[row["id"]])
    return found[patient_id]


async def _registrations(visit: Visit, patient_id: UUID) -> list[Row]:
    """Return every registration of a person, locked in one order, the keys at hand. Raises NotFound, TryAgain when one was merged meanwhile."""
    same = await same_person(visit.connection, patient_id, standing=True)
    rows = [(await open_patient(visit, one, lock=True))[0] for one in sorted({patient_id, *same})]
    if set(await same_person(visit.connection, patient_id, standing=True)) != {r["id"] for r in rows}:
        raise TryAgain
    return rows


async def tell_phones(visit: Visit, patient_id: UUID, op: str) -> None:
    """Let the devices of the care teams forget a patient's charts, or get them back."""
    ties = await rows_of(visit.connection, care_team, patient_id=patient_id)
    visit.journal.audiences += [Audience(op, t["clinician_id"], patient_id, t["episode_id"]) for t in ties]


async def order_erasure(visit: Visit, patient_id: UUID, requested_by: str, journal: Journal | None, *, only: Collection[UUID] | None = None) -> Made:
    """Erase a person (GDPR Art. 17): every registration of theirs. The key is destroyed here and now, the rows by the worker within seconds.

    From the COMMIT on nothing of the person can be read, by nobody, and no backup brings them back: the `journal` of erasures has them before.
    `only`: these registrations, whoever else is taken for the same person now. Raises BackendOnly, NotFound, UnderLegalHold, JournalAway.
    """
    check_backend(visit)
    done = await find_row(visit.connection, erasure, patient_id=patient_id)
    if done is not None:
        return Made(public(done), new=False)
    rows = [r for r in await _registrations(visit, patient_id) if only is None or r["id"] in only]
    if any(r["legal_hold"] for r in rows):
        raise UnderLegalHold
    made: dict[UUID, Made] = {}
    for one in rows:
        await tell_phones(visit, one["id"], "revoke")
        visit.journal.erased.append(one["id"])
        await blank_answers(visit.connection, one["id"], visit.now)
        await blank_emergencies(visit.connection, one["id"])
        await destroy_key(visit.connection, one["id"], visit.now)
        await blank_patient(visit.connection, one["id"], one["version"] + 1, visit.now)
        await revoke(visit.connection, "patient", f"{visit.caller.partner_id}|{one['id']}", visit.now, visit.now + TOKENS_DEAD_AFTER)
        particulars = {"patient_id": one["id"], "requested_by": requested_by, "ordered_by": visit.actor, "key_destroyed_at": visit.now, "counts": {}}
        made[one["id"]] = await create(visit, erasure, Fields(particulars))
        del visit.patient_keys[one["id"]]
    if journal is not None:
        await asyncio.to_thread(_note_erasures, journal, [m.row for m in made.values()], visit.caller.partner_id)
    return made[patient_id]


def _note_erasures(journal: Journal, rows: Sequence[Row], partner_id: UUID) -> None:
    try:
        for row in rows:
            journal.write(erasure_line(partner_id, row, done=False))
    except OSError as error:
        raise JournalAway from error


def erasure_line(partner_id: UUID, row: Row, *, done: bool) -> dict[str, Any]:
    """Return what the journal of erasures keeps of one. `done`: it is known to have been committed."""
    names = {"partner_id": str(partner_id), "patient_id": str(row["patient_id"])}
    return names | {"requested_by": row["requested_by"], "at": row["key_destroyed_at"].isoformat(), "done": done}


async def finish_erasure(visit: Visit, erasure_id: UUID) -> bool:
    """Delete the rows of an erased patient and complete the certificate; False when another worker is at it, or has done it."""
    row = await hold_erasure(visit.connection, erasure_id)
    if row is None:
        return False
    patient_id = row["patient_id"]
    visit.trace.patient_id = patient_id
    shared = await shared_rows(visit.connection, patient_id)
    for table, one in shared:
        await remove(visit, table, public(one), None, keep_state=False)
    counts = await delete_rows_of(visit.connection, patient_id, [r["id"] for _, r in shared])
    counts |= {str(table.name): sum(t is table for t, _ in shared) for table, _ in shared}
    await amend(visit, erasure, public(row), Fields({"rows_erased_at": visit.now, "counts": counts}))
    return True


async def read_erasure(visit: Visit, patient_id: UUID) -> Row:
    """Return the certificate of an erasure. Raises BackendOnly, NotFound."""
    check_backend(visit)
    row = await find_row(visit.connection, erasure, patient_id=patient_id)
    if row is None:
        raise NotFound
    visit.trace.patient_id = patient_id
    return public(row)


async def open_in_emergency(visit: Visit, patient_id: UUID, reason: str) -> Made:
    """Open a chart outside of the caseload for sixty minutes. Told at once, every access marked, reviewed afterwards.

    Raises ClinicianOnly, NotFound, AlreadyInCareTeam, EmergencyUsedUp.
    """
    clinician_id = visit.clinician()
    await hold_for_transaction(visit.connection, f"emergency|{visit.caller.partner_id}|{clinician_id}")  # what is counted next stays true
    if await emergencies_since(visit.connection, clinician_id, visit.now - DAY) >= EMERGENCIES_A_DAY:
        raise EmergencyUsedUp
    row = await find_patient(visit.connection, patient_id, None, lock=True)
    if row is None:
        raise NotFound
    courses = await courses_of(visit.connection, patient_id, clinician_id)
    if courses and all(c["mine"] for c in courses) and row["restricted_because"] is None:
        raise AlreadyInCareTeam
    clear = {"patient_id": patient_id, "clinician_id": clinician_id, "client_id": visit.caller.client_id, "expires_at": visit.now + EMERGENCY_LASTS}
    fields = Fields({**clear, "status": "awaiting_review"}, {"reason": reason, "review_note": None})
    made = await create(visit, break_glass, fields, key=visit.key_of(row))
    visit.trace.emergencies[patient_id] = made.row["id"]
    return Made(made.row | {"episode_ids": [c["id"] for c in courses]}, made.new)


async def list_emergencies(visit: Visit, filters: dict[str, Any], after: Sequence[Any] | None, limit: int) -> list[Row]:
    """Return a page of emergency accesses. Raises BackendOnly."""
    check_backend(visit)
    rows = await page_emergencies(visit.connection, filters, after, limit)
    return [reveal(_key_of_emergency(visit, r), break_glass, r) for r in rows]


def _key_of_emergency(visit: Visit, row: Row) -> PatientKey:
    """Return the patient's key; of one who was erased, the partner's own, under which the note of a later review is sealed."""
    return visit.key_of(row) if row["wrapped"] is not None else visit.keys.own_key(visit.caller.partner_id)


async def review_emergency(visit: Visit, break_glass_id: UUID, finding: str, reviewer: str, note: str | None) -> Row:
    """Say whether an emergency access was justified. Raises BackendOnly, NotFound, ReviewDone, OwnReview."""
    check_backend(visit)
    row = await find_emergency(visit.connection, break_glass_id)
    if row is None:
        raise NotFound
    if row["status"] == "reviewed":
        raise ReviewDone
    who = await find_row(visit.connection, clinician, id=row["clinician_id"])
    if who is not None and reviewer in {str(who["id"]), who["subject"]}:
        raise OwnReview
    key = _key_of_emergency(visit, row)
    clear = {"status": "reviewed", "finding": finding, "reviewed_by": reviewer, "reviewed_at": visit.now}
    return await amend(visit, break_glass, reveal(key, break_glass, row), Fields(clear, {"review_note": note}), key=key)


async def retention_due(visit: Visit, after: UUID | None, limit: int, *, to_erase: bool = False) -> list[dict[str, Any]]:
    """Return persons whose record need not be kept any longer, by id; nothing is changed. Raises BackendOnly, RetentionUnset.

    `to_erase`: only what the worker may erase: the partner has said so, and no legal hold stands over it.
    """
    policy = await _policy(visit, to_erase=to_erase)
    today = visit.now.date()
    due: list[dict[str, Any]] = []
    while len(due) <= limit:
        rows = await ended_before(visit.connection, _newest_end(policy, today), after, limit + 1, held=not to_erase)
        due += [d for d in (_due(policy, r, today) for r in rows) if d is not None]
        if len(rows) <= limit:
            break
        after = rows[-1]["id"]
    return due


async def retire(visit: Visit, patient_id: UUID, journal: Journal) -> bool:
    """Erase a person whose record is due, once more held against the rule under the lock; False when it is not due any more.

    Raises UnderLegalHold, and what an erasure raises.
    """
    policy = await _policy(visit, to_erase=True)
    await _registrations(visit, patient_id)
    today = visit.now.date()
    rows = await ended_before(visit.connection, _newest_end(policy, today), None, 1, only=patient_id, held=False)
    if not rows or _due(policy, rows[0], today) is None:
        return False
    await order_erasure(visit, patient_id, "retention", journal)
    return True


async def _policy(visit: Visit, *, to_erase: bool) -> Retention:
    check_backend(visit)
    settings = await find_row(visit.connection, partner_setting)
    if settings is None or settings["retention"] is None:
        raise RetentionUnset
    policy = Retention(**settings["retention"])
    if to_erase and not policy.erase:
        raise RetentionUnset
    return policy


def _due(policy: Retention, row: Row, today: date) -> dict[str, Any] | None:
    ended_on = today_of(row["time_zone"], row["ended_at"])
    last = kept_until(policy, ended_on, row["birth_year"])
    return {"patient_id": row["id"], "ended_on": ended_on, "kept_until": last, "legal_hold": row["legal_hold"]} if last < today else None


def _newest_end(policy: Retention, today: date) -> date:
    """Return a day before which the last course has ended, whoever the patient is."""
    return date(today.year - policy.years, today.month, min(today.day, 28)) + timedelta(days=4)
