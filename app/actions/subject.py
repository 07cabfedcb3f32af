"""Everything held of one person: for the partner that leaves with its caseload, and for the person who asks (GDPR Art. 15 and 20)."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.actions.history import opened_state
from app.actions.people import check_backend
from app.actions.records import reveal
from app.actions.visit import Visit, open_patient, public
from app.domain.errors import NotFound
from app.keys.cipher import KeyMissing, PatientKey
from app.store.database import Row
from app.store.feed import page_history_of_patient
from app.store.rows import own, rows_of
from app.store.tables.every import metadata
from app.store.tables.groups import couple
from app.store.tables.people import consent, episode, patient
from app.store.tables.sync import device
from app.store.trail import accesses_by_person

NOTES = {"session_note"}
HELD_OTHERWISE = {
    "patient": "stands at the top of the document",
    "patient_key": "the key itself is no data about the person, and never leaves",
    "change": "stands in the document as `history`",
    "audit_event": "stands in the document as `accesses`",
    "audit_subject": "points into the audit trail",
    "idempotency_key": "repeats of answers, gone after 72 hours",
    "sync_mutation": "which edits a device has sent: their content is in the record",
    "webhook_delivery": "which events the partner was told: ids only",
    "outcome_fact": "codes made of the record, which is in the document, to be counted with noise; they go with an erasure",
    "erasure": "certificates of erasure: after one there is nothing to export",
}
"""Tables with a patient_id that are not exported row by row, each with where it stands, or why not."""


async def whole_chart(visit: Visit, patient_id: UUID, *, with_notes: bool) -> dict[str, Any]:
    """Return everything that the record holds of a patient, table by table. Notes, and addenda to them, only when asked for. Raises NotFound."""
    row, key = await open_patient(visit, patient_id)
    visit.trace.resources.append(f"chart/{patient_id}")
    chart: dict[str, Any] = {"id": patient_id, "patient": reveal(key, patient, row), "consent": [], "episode": []}
    for table in metadata.tables.values():
        if "patient_id" not in table.c or table.name in HELD_OTHERWISE or (table.name in NOTES and not with_notes):
            continue
        found = [reveal(key, table, r) for r in await rows_of(visit.connection, table, patient_id=patient_id)]
        if table.name == "addendum" and not with_notes:
            found = [r for r in found if r["subject"] != "note"]
        if table.name == "sync_conflict" and not with_notes:
            found = [r for r in found if r["entity"] not in NOTES]
        if found or table in (consent, episode):
            chart[str(table.name)] = found
    return chart


async def subject_export(visit: Visit, patient_id: UUID, *, with_notes: bool) -> dict[str, Any]:
    """Return everything held of a person, with every version, every access to it, devices and couples; of every registration of theirs.

    Raises BackendOnly, NotFound.
    """
    check_backend(visit)
    row, _ = await open_patient(visit, patient_id)
    root = row["merged_into"] or patient_id
    same = [root, *(r["id"] for r in await rows_of(visit.connection, patient, merged_into=root) if r["erased_at"] is None)]
    records = [await _registration(visit, one, with_notes=with_notes) for one in same]
    accesses = await accesses_by_person(visit.connection, same)
    left_out = [] if with_notes else sorted(NOTES)
    return {"patient_id": patient_id, "made_at": visit.now, "registrations": records, "accesses": accesses, "left_out": left_out}


async def _registration(visit: Visit, patient_id: UUID, *, with_notes: bool) -> dict[str, Any]:
    chart = await whole_chart(visit, patient_id, with_notes=with_notes)
    key = visit.patient_keys[patient_id]
    chart["device"] = [public(r) for r in await rows_of(visit.connection, device, person_id=patient_id)]
    episodes = [r["id"] for r in chart["episode"]]
    both = sa.or_(couple.c.first_episode_id.in_(episodes), couple.c.second_episode_id.in_(episodes))
    found = await visit.connection.rows(sa.select(couple).where(own(visit.connection, couple), both)) if episodes else []
    chart["couple"] = [_own_side(r, set(episodes)) for r in found]
    changes = await page_history_of_patient(visit.connection, patient_id)
    told = (r for r in changes if with_notes or not _is_note(r["entity"]))
    chart["history"] = [version for version in (_version(visit, key, r, with_notes=with_notes) for r in told) if version is not None]
    return chart


def _own_side(row: Row, episodes: set[UUID]) -> Row:
    """Return a couple without the other person's side."""
    side = "first" if row["first_episode_id"] in episodes else "second"
    return {name: value for name, value in public(row).items() if not name.startswith("second_" if side == "first" else "first_")}


def _is_note(entity: str) -> bool:
    return entity in NOTES


def _version(visit: Visit, key: PatientKey, row: Row, *, with_notes: bool) -> Row | None:
    """Return one version of one row, as it was; None for what was said about a note, when notes are left out."""
    try:
        state = {} if row["state"] is None else opened_state(visit, key, row)
    except KeyMissing:
        raise NotFound from None
    about_note = state.get("subject") == "note" or state.get("entity") in NOTES
    if about_note and not with_notes:
        return None
    return {n: row[n] for n in ("seq", "at", "entity", "entity_id", "version", "op", "actor")} | {"state": state}
