"""Writing and reading resources: every write goes through here, and so does its telling to the change feed.

A resource is a row with an id, a version, clear columns (codes, numbers, dates, ids: what rules need) and one sealed
blob of its secret fields (names, labels, free text), bound to the row and its version.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from uuid_utils.compat import uuid7

from app.actions.visit import Chart, Visit, public
from app.actions.wire import kept_state
from app.domain.errors import Conflict, NotFound
from app.keys.cipher import PatientKey, place_of
from app.store.database import Row
from app.store.feed import Audience, Change
from app.store.rows import delete_row, find_row, insert_row, update_row
from app.store.tables.people import care_team

OF_A_CHART = {"episode", "patient", "consent", "partner_setting", "break_glass"}  # what a chart's row is made of


class IdTaken(Conflict):
    """This id is in use for something else."""


class ReferenceTaken(Conflict):
    """This external reference, subject or place is in use."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a resource to write: clear ones become columns, secret ones are sealed.

    `derived` are columns that the service computes: a repeat of the same create is not held against them.
    """

    clear: Mapping[str, Any]
    secret: Mapping[str, Any] = field(default_factory=dict)
    id: UUID | None = None
    derived: Mapping[str, Any] = field(default_factory=dict)


def fields_for(table: sa.Table, values: Mapping[str, Any]) -> Fields:
    """Sort plain values into clear columns and secret fields: what has no column of its own is sealed."""
    columns = {c.name for c in table.c}
    clear = {k: v for k, v in values.items() if k in columns and k != "id"}
    return Fields(clear, {k: v for k, v in values.items() if k not in columns}, values.get("id"))


@dataclass(frozen=True, slots=True)
class Made:
    """The row after a create, and whether this call made it (else it was there with the same content)."""

    row: Row
    new: bool


def reveal(key: PatientKey | None, table: sa.Table, row: Row) -> Row:
    """Return a row for a reader: clear columns and opened secret fields. Raises KeyMissing."""
    if key is None or row.get("sealed") is None:
        return public(row)
    place = place_of(row["partner_id"], table.name, row["id"], row["version"])
    return public(row) | key.open(row["sealed"], place)


async def create(visit: Visit, table: sa.Table, fields: Fields, *, chart: Chart | None = None, key: PatientKey | None = None, **ties: Any) -> Made:
    """Insert a resource of version 1 and tell it. A repeat of an id with the same content returns the row there.

    Raises IdTaken for another content under the id, ReferenceTaken for another unique key.
    """
    key = chart.key if chart else key
    ties |= {"patient_id": chart.patient_id, "episode_id": chart.episode_id} if chart else {}
    row: Row = {"id": fields.id or uuid7(), **ties, **fields.clear, **fields.derived, "version": 1, "created_at": visit.now, "updated_at": visit.now}
    stored = _with_sealed(visit, table, row, fields.secret, key)
    if await insert_row(visit.connection, table, stored):
        shown = public({str(c.name): None for c in table.c} | row | dict(fields.secret))
        _tell(visit, table, shown, key, "create")
        _tell_devices(visit, table, None, shown)
        return Made(shown, new=True)
    found = await find_row(visit.connection, table, id=row["id"])
    if found is None:
        raise ReferenceTaken
    if found.get("deleted_at") is not None or any(found.get(name) != value for name, value in ties.items()):
        raise IdTaken
    there = reveal(key, table, found)
    if not _same(there, {**fields.clear, **fields.secret}):
        raise IdTaken
    visit.trace.resources.append(f"{table.name}/{row['id']}")
    return Made(there, new=False)


async def amend(visit: Visit, table: sa.Table, present: Row, fields: Fields, *, key: PatientKey | None = None, op: str = "update") -> Row:
    """Write a resource's next version and tell it. `present` is the revealed row, read under the chart's lock."""
    secret_names = set(fields.secret)
    clear = {c.name for c in table.c}
    kept_secret = {k: v for k, v in present.items() if k not in clear and k not in secret_names}
    secret = {**kept_secret, **fields.secret}
    row = {**present, **fields.clear, **fields.derived, **fields.secret, "version": present["version"] + 1, "updated_at": visit.now}
    stored = _with_sealed(visit, table, {k: row[k] for k in (*fields.clear, *fields.derived, "id", "version", "updated_at")}, secret, key)
    if not await update_row(visit.connection, table, present["id"], present["version"], {k: v for k, v in stored.items() if k != "id"}):
        message = f"{table.name} changed under the lock of its chart"
        raise RuntimeError(message)
    shown = public(row)
    _tell(visit, table, shown, key, op)
    _tell_devices(visit, table, present, shown)
    return shown


async def put_one(visit: Visit, table: sa.Table, chart: Chart, fields: Fields, **where: Any) -> Made:
    """Create or amend the one row of a chart (`where` narrows it), holding the caller's precondition against it."""
    found = await find_row(visit.connection, table, episode_id=chart.episode_id, **where)
    visit.precondition.check(None if found is None else found["version"])
    if found is None:
        return await create(visit, table, Fields({**where, **fields.clear}, fields.secret), chart=chart)
    return Made(await amend(visit, table, reveal(chart.key, table, found), fields, key=chart.key), new=False)


async def mark_deleted(visit: Visit, table: sa.Table, present: Row, key: PatientKey) -> None:
    """Mark a resource deleted: its history stays. Told as a delete."""
    await amend(visit, table, present, Fields({"deleted_at": visit.now}), key=key, op="delete")


async def remove(visit: Visit, table: sa.Table, present: Row, key: PatientKey | None, *, keep_state: bool = True) -> None:
    """Delete a row that carries no history of its own (a tie between two resources) and tell it; without its state when it is erased."""
    await delete_row(visit.connection, table, present["id"])
    _tell(visit, table, {**present, "version": present["version"] + 1}, key, "delete", keep_state=keep_state)
    _tell_devices(visit, table, present, None)


async def get_in_chart(visit: Visit, table: sa.Table, chart: Chart, row_id: UUID, *, check: bool = False) -> Row:
    """Return one revealed row of a chart; with `check`, hold the caller's precondition against it. Raises NotFound."""
    found = await find_row(visit.connection, table, id=row_id, episode_id=chart.episode_id)
    if found is None or found.get("deleted_at") is not None:
        raise NotFound
    if check:
        visit.precondition.check(found["version"])
    visit.trace.resources.append(f"{table.name}/{row_id}")
    return reveal(chart.key, table, found)


async def find_one(visit: Visit, table: sa.Table, chart: Chart, **where: Any) -> Row | None:
    """Return the chart's one revealed row of a table, or None."""
    found = await find_row(visit.connection, table, episode_id=chart.episode_id, **where)
    return None if found is None else reveal(chart.key, table, found)


async def get_one(visit: Visit, table: sa.Table, chart: Chart) -> Row:
    """Return the chart's one revealed row of a table. Raises NotFound before it was first put."""
    found = await find_one(visit, table, chart)
    if found is None:
        raise NotFound
    return found


def _with_sealed(visit: Visit, table: sa.Table, row: Row, secret: Mapping[str, Any], key: PatientKey | None) -> Row:
    if "sealed" not in table.c:
        return row
    if key is None:
        message = f"{table.name} has secret fields and no patient's key came with it"
        raise TypeError(message)
    place = place_of(visit.caller.partner_id, table.name, row["id"], row["version"])
    return {**row, "sealed": key.seal(secret, place)}


def _tell(visit: Visit, table: sa.Table, row: Row, key: PatientKey | None, op: str, *, keep_state: bool = True) -> None:
    """Note the change with the row's state, sealed under the patient's key, so that history outlives the row."""
    place = place_of(visit.caller.partner_id, f"change:{table.name}", row["id"], row["version"])
    state = visit.keys.seal(orjson.dumps(row, default=str), place) if key is None else key.seal_state(kept_state(table, row), place)
    patient_id = row.get("patient_id") or (row["id"] if table.name == "patient" else None)
    episode_id = row.get("episode_id") or (row["id"] if table.name == "episode" else None)
    visit.journal.tell(Change(table.name, row["id"], row["version"], op, patient_id, episode_id, state if keep_state else None))
    if table.name in OF_A_CHART:
        visit.charts.clear()
    visit.trace.resources.append(f"{table.name}/{row['id']}")


def _tell_devices(visit: Visit, table: sa.Table, before: Row | None, after: Row | None) -> None:
    """When a clinician comes into a care team, or goes, note that their devices get the chart, or must forget it."""
    if table is not care_team or (before and after and before["clinician_id"] == after["clinician_id"]):
        return
    for op, row in (("revoke", before), ("grant", after)):
        if row is not None:
            visit.journal.audiences.append(Audience(op, row["clinician_id"], row["patient_id"], row["episode_id"]))


def _same(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    def plain(value: object) -> bytes:
        return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS)

    return all(plain(there.get(name)) == plain(value) for name, value in wanted.items())
