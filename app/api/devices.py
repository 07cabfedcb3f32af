"""Devices: which phones hold copies, and their revocation."""

from typing import Annotated, Literal
from uuid import UUID

import sqlalchemy as sa
from pydantic import Field

from app.actions.devices import get_device, note_owners, report_wiped, revoke_device, wipe_list
from app.actions.visit import public
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Kept, Moment, Out
from app.store.database import Row
from app.store.rows import own, page
from app.store.tables.sync import device

router = Router(prefix="/v1/devices", route_class=Route, tags=["sync"])


class DeviceOut(Kept):
    """A device: it registers itself with its first token, and stays with one person."""

    client_id: str
    person_kind: Literal["clinician", "patient"]
    person_id: UUID
    label: str | None
    last_token_at: Moment = Field(description="When it was last given a token")
    revoked_at: Moment | None
    revoked_by: str | None
    wiped_at: Moment | None = Field(description="When its app reported that everything was deleted")


class DevicePage(Out):
    """A page of devices."""

    items: list[DeviceOut]
    next: str | None


class Wipe(Out):
    """What a revoked device has to delete: every row of these patients, edits not sent yet, checkpoints, its tokens."""

    needed: bool
    patient_ids: list[UUID]


class DeviceWithWipe(DeviceOut):
    """A device, and what it may hold."""

    wipe: Wipe


@router.get("", response_model=DevicePage)
async def list_devices(
    call: Annotated[Call, needs("sync", patients=True)], person_id: UUID | None = None, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """List the devices: the partner's for its backend, their own for a person."""
    visit = call.visit
    pager = call.pager(limit, cursor, {"person_id": person_id})
    wanted = [device.c.person_id == p for p in (person_id, visit.caller.clinician_id, visit.caller.patient_id) if p is not None]
    query = sa.select(device).where(own(visit.connection, device), *wanted)
    items, following = pager.cut(await page(visit.connection, query, [device.c.id], pager.after, limit), "id")
    call.saw(items, "device")
    note_owners(visit, items)
    return {"items": [public(r) for r in items], "next": following}


@router.get("/{device_id}", response_model=DeviceWithWipe)
async def read_device(call: Annotated[Call, needs("sync", patients=True)], device_id: UUID) -> Row:
    """Read a device, and the patients whose data it may hold."""
    row = await get_device(call.visit, device_id)
    return call.stored({**row, "wipe": await wipe_list(call.visit, row)}, with_more=True)


@router.post("/{device_id}/revocation", response_model=DeviceWithWipe)
async def revoke_one_device(call: Annotated[Call, needs("sync", patients=True)], device_id: UUID) -> Row:
    """Revoke a device: a lost phone, one that changed hands. Its tokens are refused within five seconds with `/problems/device-revoked`.

    Whoever holds it is told to delete everything: by that answer, and by `device_revoked` when your backend asks for a new token.
    """
    row = await revoke_device(call.visit, device_id)
    return call.stored({**row, "wipe": await wipe_list(call.visit, row)}, with_more=True)


@router.post("/{device_id}/wiped", response_model=DeviceWithWipe)
async def report_device_wiped(call: Annotated[Call, needs("sync")], device_id: UUID) -> Row:
    """Report that a revoked device has deleted everything, as its app told your backend."""
    row = await report_wiped(call.visit, device_id)
    return call.stored({**row, "wipe": await wipe_list(call.visit, row)}, with_more=True)
