"""What synchronisation asks: the newest state of each row that a person sees, the ledger of devices' mutations, devices."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.store.database import Connection, Row
from app.store.feed import public
from app.store.people import listed
from app.store.rows import own
from app.store.statements import EACH, Prepared, any_of, given, prepared
from app.store.tables.people import care_team, patient_key
from app.store.tables.record import change
from app.store.tables.sync import device, sync_mutation

GONE = ("delete", "revoke")
SHOWN = ("seq", "entity", "entity_id", "version", "op", "patient_id", "state")


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
    rows = await connection.rows(_caseload, clinician_id=clinician_id)
    return tuple(r["episode_id"] for r in rows), tuple({r["patient_id"] for r in rows})


@prepared
def _caseload() -> sa.Select[Any]:
    t = care_team
    mine = t.c.clinician_id == given("clinician_id", sa.Uuid())
    return sa.select(t.c.episode_id, t.c.patient_id).where(own(EACH, t), mine, listed(EACH, t.c.patient_id))


async def page_newest(connection: Connection, scope: Scope, window: Window, limit: int) -> list[Row]:
    """Return a page of the newest state of each row that changed for the person, by number; one too many says that there are more.

    Each comes with its patient's wrapped key.
    """
    values = {**_values(scope, window), "settled": window.settled, "limit": limit + 1}
    return await connection.rows(_page(whole_patient=scope.whole_patient), **values)


@cache
def _page(*, whole_patient: bool) -> Prepared:
    k, c = patient_key, change
    newest = _newest(whole_patient=whole_patient)
    query = (
        sa.select(*(c.c[name] for name in SHOWN), k.c.wrapped, k.c.key_version)
        .select_from(c.join(newest, newest.c.seq == c.c.seq).outerjoin(k, (k.c.partner_id == c.c.partner_id) & (k.c.patient_id == c.c.patient_id)))
        .where(c.c.partner_id == EACH.partner_id, sa.or_(c.c.op.not_in(GONE), c.c.seq > given("settled", c.c.seq)))
        .order_by(c.c.seq)
        .limit(given("limit", sa.BigInteger()))
    )
    return Prepared(lambda: query)


async def versions_of(connection: Connection, scope: Scope, window: Window) -> list[Row]:
    """Return id and version of each row that the person's devices should hold."""
    return await connection.rows(_versions(whole_patient=scope.whole_patient), **_values(scope, window))


@cache
def _versions(*, whole_patient: bool) -> Prepared:
    newest = _newest(whole_patient=whole_patient)
    query = (
        sa.select(change.c.entity, change.c.entity_id, change.c.version)
        .select_from(change.join(newest, newest.c.seq == change.c.seq))
        .where(change.c.partner_id == EACH.partner_id, change.c.op.not_in(GONE))
    )
    return Prepared(lambda: query)


def _values(scope: Scope, window: Window) -> dict[str, Any]:
    of = {"episode_ids": list(scope.episode_ids), "patient_ids": list(scope.patient_ids), "person_id": scope.person_id}
    return {**of, "entities": list(scope.entities), "since": window.since, "until": window.until}


def _newest(*, whole_patient: bool) -> Any:
    """Select the newest number of each row in the window: of the courses, of the patients themselves, of copies for this person."""
    c = change.c
    stretch = (c.seq > given("since", c.seq), c.seq <= given("until", c.seq), c.entity == any_of("entities", c.entity))

    def part(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
        return sa.select(c.seq, c.entity, c.entity_id).where(*where, *stretch)

    of_courses = c.episode_id == any_of("episode_ids", c.episode_id)
    of_patients = sa.and_(c.patient_id == any_of("patient_ids", c.patient_id), *([] if whole_patient else [c.episode_id.is_(None)]))
    still = sa.or_(c.op == "revoke", of_courses, of_patients)  # a copy that came after the person had left is not for them
    mine = sa.union_all(
        part(public(EACH), of_courses),
        part(public(EACH), of_patients),
        part(c.partner_id == EACH.partner_id, c.audience == given("person_id", c.audience), still),
    ).subquery()
    return sa.select(sa.func.max(mine.c.seq).label("seq")).group_by(mine.c.entity, mine.c.entity_id).subquery()


async def changed_for(connection: Connection, scope: Scope, since: int) -> bool:
    """Tell whether anything after `since` is for the person."""
    return await connection.value(_anything(whole_patient=scope.whole_patient), **_values(scope, Window(since, 1 << 53, 0))) is not None


@cache
def _anything(*, whole_patient: bool) -> Prepared:
    newest = _newest(whole_patient=whole_patient)
    return Prepared(lambda: sa.select(newest.c.seq).limit(1))


async def mutations_known(connection: Connection, device_id: UUID, mutation_ids: Sequence[UUID]) -> dict[UUID, Row]:
    """Return what the ledger holds of a device's mutations, each with its patient's wrapped key."""
    rows = await connection.rows(_known, device_id=device_id, mutation_ids=list(mutation_ids))
    return {r["mutation_id"]: r for r in rows}


@prepared
def _known() -> sa.Select[Any]:
    m, k = sync_mutation, patient_key
    return (
        sa.select(m, k.c.wrapped, k.c.key_version)
        .select_from(m.outerjoin(k, (k.c.partner_id == m.c.partner_id) & (k.c.patient_id == m.c.patient_id)))
        .where(own(EACH, m), m.c.device_id == given("device_id", sa.Uuid()), m.c.mutation_id == any_of("mutation_ids", m.c.mutation_id))
    )


async def mutations_of(connection: Connection, device_id: UUID | None, mutation_ids: Sequence[UUID]) -> set[UUID]:
    """Return which of some mutations came from a device."""
    m = sync_mutation
    query = sa.select(m.c.mutation_id).where(own(connection, m), m.c.device_id == device_id, m.c.mutation_id.in_(mutation_ids))
    return {r["mutation_id"] for r in await connection.rows(query)} if mutation_ids else set()


async def note_mutations(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write mutations into the ledger; those that are there stay as they are."""
    if rows:
        await connection.run_many(_noted, rows)


@prepared
def _noted() -> sa.Insert:
    m = sync_mutation
    return insert(m).values({c.name: EACH.partner_id if c.name == "partner_id" else given(c.name, c) for c in m.c}).on_conflict_do_nothing()


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
