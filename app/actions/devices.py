"""Devices of a person: listed, revoked, and what a revoked one must forget."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from app.actions.people import TOKENS_DEAD_AFTER
from app.actions.records import Fields, amend
from app.actions.visit import Visit, public
from app.domain.errors import Conflict, NotFound
from app.store.database import Row
from app.store.door import revoke
from app.store.sync import find_device, patients_held
from app.store.tables.sync import device


class DeviceNotRevoked(Conflict):
    """Only a revoked device reports that it was wiped."""


async def get_device(visit: Visit, device_id: UUID, *, lock: bool = False) -> Row:
    """Return a device: any of the partner's for its backend, their own for a person. Raises NotFound."""
    row = await find_device(visit.connection, device_id, lock=lock)
    person = visit.caller.clinician_id or visit.caller.patient_id
    if row is None or person not in {None, row["person_id"]}:
        raise NotFound
    visit.trace.resources.append(f"device/{device_id}")
    note_owners(visit, [row])
    return public(row)


def note_owners(visit: Visit, rows: Sequence[Row]) -> None:
    """Note for the audit trail whose devices were shown."""
    visit.trace.patients |= {r["person_id"] for r in rows if r["person_kind"] == "patient"}


async def revoke_device(visit: Visit, device_id: UUID) -> Row:
    """Revoke a device: within five seconds every process refuses its tokens, and it gets no new one. Revoking again changes nothing."""
    row = await get_device(visit, device_id, lock=True)
    if row["revoked_at"] is not None:
        return row
    await revoke(visit.connection, "device", f"{visit.caller.partner_id}|{device_id}", visit.now, visit.now + TOKENS_DEAD_AFTER)
    return await amend(visit, device, row, Fields({"revoked_at": visit.now, "revoked_by": visit.actor}))


async def report_wiped(visit: Visit, device_id: UUID) -> Row:
    """Note that a revoked device was wiped. Raises DeviceNotRevoked."""
    row = await get_device(visit, device_id, lock=True)
    if row["revoked_at"] is None:
        raise DeviceNotRevoked
    return row if row["wiped_at"] is not None else await amend(visit, device, row, Fields({"wiped_at": visit.now}))


async def wipe_list(visit: Visit, row: Row) -> dict[str, Any]:
    """Return what the device may hold: the patients whose charts came to it. All of it is to be deleted when it is revoked."""
    held = [row["person_id"]] if row["person_kind"] == "patient" else await patients_held(visit.connection, row["person_id"])
    visit.trace.patients |= set(held)
    return {"needed": row["revoked_at"] is not None and row["wiped_at"] is None, "patient_ids": sorted(held)}
