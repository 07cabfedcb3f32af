"""What synchronisation asks: the newest state of each row that a person sees, the ledger of devices' mutations, devices."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.store.database import Connection, Row
from app.store.feed import public
from app.store.people import listed
from app.store.rows import own
from app.store.tables.people import care_team, patient_key
from app.store.tables.record import change
from app.store.tables.sync import device, sync_mutation

GONE = ("delete", "revoke")


@dataclass(frozen=True, slots=True)
class Scope:
    """What a person's devices see: which kinds of rows, of which courses and patients."""

    person_id: UUID
    entities: tuple[str, ...]
    episode_ids: tuple[UUID, ...]
    patient_ids: tuple[UUID, ...]
    whole_patient: bool
    """True for patients themselves: every course of theirs."""


@dataclass(frozen=True, slots=True)
class Window:
    """The stretch of the feed that is asked for: after `since`, up to `until`. Deletions up to `settled` need not be told any more."""

    since: int
    until: int
    settled: int


async def caseload_of(connection: Connection, clinician_id: UUID) -> tuple[tuple[UUID, ...], tuple[UUID, ...]]:
    """Return the courses of a clinician's caseload, and their patients."""
    rows = await connection.rows(
        sa.select(care_team.c.episode_id, care_team.c.patient_id).where(
            own(connection, care_team), care_team.c.clinician_id == clinician_id, listed(connection, care_team.c.patient_id)
        )
    )
    return tuple(r["episode_id"] for r in rows), tuple({r["patient_id"] for r in rows})


async def page_newest(connection: Connection, scope: Scope, window: Window, limit: int) -> list[Row]:
    """Return a page of the newest state of each row that changed for the person, by number; one too many says that there are more.

    Each comes with its patient's wrapped key.
    """
    k, c = patient_key, change
    newest = _newest(connection, scope, window)
    query = (
        sa.select(c, k.c.wrapped, k.c.key_version)
        .select_from(c.join(newest, newest.c.seq == c.c.seq).outerjoin(k, (k.c.partner_id == c.c.partner_id) & (k.c.patient_id == c.c.patient_id)))
        .where(c.c.partner_id == connection.partner_id, sa.or_(c.c.op.not_in(GONE), c.c.seq > window.settled))
        .order_by(c.c.seq)
        .limit(limit + 1)
    )
    return await connection.rows(query)


async def versions_of(connection: Connection, scope: Scope, window: Window) -> list[Row]:
    """Return id and version of each row that the person's devices should hold."""
    newest = _newest(connection, scope, window)
    query = (
        sa.select(change.c.entity, change.c.entity_id, change.c.version)
        .select_from(change.join(newest, newest.c.seq == change.c.seq))
        .where(change.c.partner_id == connection.partner_id, change.c.op.not_in(GONE))
    )
    return await connection.rows(query)


def _newest(connection: Connection, scope: Scope, window: Window) -> Any:
    """Select the newest number of each row in the window: of the courses, of the patients themselves, of copies for this person."""
    stretch = (change.c.seq > window.since, change.c.seq <= window.until, change.c.entity.in_(scope.entities))
    columns = (change.c.seq, change.c.entity, change.c.entity_id)

    def part(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
        return sa.select(*columns).where(*where, *stretch)

    of_courses = change.c.episode_id.in_(scope.episode_ids)
    of_patients = sa.and_(change.c.patient_id.in_(scope.patient_ids), *([] if scope.whole_patient else [change.c.episode_id.is_(None)]))
    still = sa.or_(change.c.op == "revoke", of_courses, of_patients)  # a copy that came after the person had left is not for them
    mine = sa.union_all(
        part(public(connection), of_courses),
        part(public(connection), of_patients),
        part(change.c.partner_id == connection.partner_id, change.c.audience == scope.person_id, still),
    ).subquery()
    return sa.select(sa.func.max(mine.c.seq).label("seq")).group_by(mine.c.entity, mine.c.entity_id).subquery()


async def changed_for(connection: Connection, scope: Scope, since: int) -> bool:
    """Tell whether anything after `since` is for the person."""
    newest = _newest(connection, scope, Window(since, 1 << 53, 0))
    return await connection.first(sa.select(newest.c.seq).limit(1)) is not None


async def mutations_known(connection: Connection, device_id: UUID, mutation_ids: Sequence[UUID]) -> dict[UUID, Row]:
    """Return what the ledger holds of a device's mutations, each with its patient's wrapped key."""
    m, k = sync_mutation, patient_key
    rows = await connection.rows(
        sa.select(m, k.c.wrapped, k.c.key_version)
        .select_from(m.outerjoin(k, (k.c.partner_id == m.c.partner_id) & (k.c.patient_id == m.c.patient_id)))
        .where(own(connection, m), m.c.device_id == device_id, m.c.mutation_id.in_(mutation_ids))
    )
    return {r["mutation_id"]: r for r in rows}


async def mutations_of(connection: Connection, device_id: UUID | None, mutation_ids: Sequence[UUID]) -> set[UUID]:
    """Return which of some mutations came from a device."""
    m = sync_mutation
    query = sa.select(m.c.mutation_id).where(own(connection, m), m.c.device_id == device_id, m.c.mutation_id.in_(mutation_ids))
    return {r["mutation_id"] for r in await connection.rows(query)} if mutation_ids else set()


async def note_mutations(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write mutations into the ledger; those that are there stay as they are."""
    if rows:
        values = [{"partner_id": connection.partner_id, **row} for row in rows]
        await connection.run(insert(sync_mutation).values(values).on_conflict_do_nothing())


async def find_device(connection: Connection, device_id: UUID, *, lock: bool = False) -> Row | None:
    """Return a device, or None."""
    query = sa.select(device).where(own(connection, device), device.c.id == device_id)
    return await connection.first(query.with_for_update() if lock else query)


async def saw_device(connection: Connection, device_id: UUID, now: datetime) -> None:
    """Note that a device was given a token."""
    await connection.run(sa.update(device).where(own(connection, device), device.c.id == device_id).values(last_token_at=now))


async def patients_held(connection: Connection, person_id: UUID) -> list[UUID]:
    """Return the patients whose charts a clinician's devices may still hold: today's caseload, and those withdrawn since."""
    of_team = sa.select(care_team.c.patient_id).where(own(connection, care_team), care_team.c.clinician_id == person_id)
    copied = sa.select(change.c.patient_id).where(
        change.c.partner_id == connection.partner_id, change.c.audience == person_id, change.c.patient_id.is_not(None)
    )
    rows = await connection.rows(sa.union(of_team, copied))
    return [r["patient_id"] for r in rows]


async def clear_ledger(connection: Connection, before: datetime) -> int:
    """Delete what devices sent before `before` from the ledger."""
    return await connection.run(sa.delete(sync_mutation).where(own(connection, sync_mutation), sync_mutation.c.at < before))
