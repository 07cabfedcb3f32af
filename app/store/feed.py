"""The change feed: stamped as the last statement before COMMIT, so that change n is visible before n+1 exists.

A counter taken at the end of the transaction loses nothing under concurrent writers and costs next to nothing; the
lock on the partner's clock row lives only until COMMIT. A rollback leaves no gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.sync import Feed
from app.store.database import Connection, Row
from app.store.statements import EACH, Confined, given, prepared
from app.store.tables.people import care_team, patient
from app.store.tables.record import change, change_clock

NOTHING_ELSE = {"state": None, "audience": None, "mutation_id": None}
OVERTAKEN_AFTER = timedelta(days=1)  # a pull whose `until` lies before the newer row has long ended


@dataclass(frozen=True, slots=True)
class Change:
    """One change to tell: which row of which entity, its new version, and its sealed state after the change.

    With an `audience` it is no write, but a copy (grant) or a withdrawal (revoke) for the devices of one person.
    """

    entity: str
    entity_id: UUID
    version: int
    op: str
    patient_id: UUID | None = None
    episode_id: UUID | None = None
    state: bytes | None = None
    audience: UUID | None = None
    mutation_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Audience:
    """A whole chart that the devices of one person get to see from now on (grant), or must forget (revoke)."""

    op: str
    person_id: UUID
    patient_id: UUID
    episode_id: UUID


@dataclass(slots=True)
class Journal:
    """What a transaction has to tell so far, in order. `mark` and `truncate` follow savepoints."""

    changes: list[Change] = field(default_factory=list)
    audiences: list[Audience] = field(default_factory=list)
    erased: list[UUID] = field(default_factory=list)
    """Patients of whom everything is told as deleted."""
    mutation_id: UUID | None = None
    """The device's mutation that is being applied."""
    kept_beside: bool = False
    """Something was written that is no resource (a ledger row): it is committed though the feed has nothing to say."""

    def tell(self, told: Change) -> None:
        """Note a change; it is stamped when the transaction ends."""
        self.changes.append(replace(told, mutation_id=self.mutation_id))

    @property
    def has_written(self) -> bool:
        """Tell whether the transaction has something to keep."""
        return bool(self.changes or self.audiences or self.erased or self.kept_beside)

    def mark(self) -> tuple[int, int]:
        """Return a mark to truncate to."""
        return len(self.changes), len(self.audiences)

    def truncate(self, mark: tuple[int, int]) -> None:
        """Forget what came after the mark: its savepoint was rolled back."""
        del self.changes[mark[0] :]
        del self.audiences[mark[1] :]


async def stamp(connection: Connection, journal: Journal, now: datetime, *, actor: str, client_id: str) -> None:
    """Draw numbers for the journal's changes and insert them. Nothing but COMMIT may follow.

    Audiences come last, under the lock of the clock: no write can come between the copy of a chart and its number.
    """
    if connection.partner_id is None or not (journal.changes or journal.audiences or journal.erased):
        return
    last, at = await _draw(connection, len(journal.changes), now)
    first = last - len(journal.changes) + 1
    common: dict[str, Any] = {"partner_id": connection.partner_id, "at": at, "actor": actor, "client_id": client_id}
    if journal.changes:
        rows = [common | {"seq": first + n} | _columns(told) for n, told in enumerate(journal.changes)]
        await connection.run_many(_told, rows)
    rows = [row for audience in journal.audiences for row in await connection.rows(_copies(connection, audience, first))]
    rows += [row for patient_id in journal.erased for row in await connection.rows(_deletions(connection, patient_id))]
    if rows:
        told = [NOTHING_ELSE | common | row | {"seq": last + n} for n, row in enumerate(rows, start=1)]
        await connection.run_many(_told, told)
        await _draw(connection, len(rows), now)


async def _draw(connection: Connection, number: int, now: datetime) -> tuple[int, datetime]:
    """Take the lock of the clock, unless this transaction holds it, and `number` numbers; return the last one and the moment."""
    drawn = await connection.first(_drawn, number=number, now=now)
    if drawn is None:
        message = "The partner has no change clock."
        raise LookupError(message)
    return drawn["seq"], drawn["at"]


@prepared
def _drawn() -> sa.Update:
    c = change_clock
    later = sa.func.greatest(given("now", c.c.at), c.c.at + sa.text("interval '1 millisecond'"))
    return (
        sa.update(c)
        .where(c.c.partner_id == EACH.partner_id)
        .values(seq=c.c.seq + given("number", sa.BigInteger()), at=later)
        .returning(c.c.seq, c.c.at)
    )


@prepared
def _told() -> sa.Insert:
    return sa.insert(change).values({c.name: given(c.name, c) for c in change.c})


def _columns(told: Change) -> dict[str, Any]:
    names = ("entity", "entity_id", "version", "op", "patient_id", "episode_id", "state", "audience", "mutation_id")
    return {name: getattr(told, name) for name in names}


def _copies(connection: Connection, audience: Audience, first: int) -> sa.Select[Any]:
    """Select the newest state of every row of a chart, and of the patient's own rows, as copies for one person.

    What this transaction itself tells (from `first` on) needs no copy for a grant: the person sees it already. A withdrawal takes every row
    that there ever was, without its state; the patient's own rows stay with a person who has another course of that patient.
    """
    granted = audience.op == "grant"
    p = patient.c
    withheld = sa.exists().where(
        p.partner_id == connection.partner_id,
        p.id == audience.patient_id,
        sa.or_(p.erased_at.is_not(None), p.restricted_because.is_not(None)),
    )
    elsewhere = ~withheld & sa.exists().where(
        care_team.c.partner_id == connection.partner_id,
        care_team.c.clinician_id == audience.person_id,
        care_team.c.patient_id == audience.patient_id,
    )
    of_patient = [change.c.episode_id.is_(None), change.c.patient_id == audience.patient_id, *([] if granted else [~elsewhere])]
    of_chart = sa.or_(change.c.episode_id == audience.episode_id, sa.and_(*of_patient))
    newest = sa.select(sa.func.max(change.c.seq)).where(public(connection), of_chart).group_by(change.c.entity, change.c.entity_id)
    n = change.alias("newest").c
    values: list[Any] = [n[name] for name in ("entity", "entity_id", "patient_id", "episode_id", "version")]
    values += [sa.literal(audience.op).label("op"), sa.literal(audience.person_id, sa.Uuid).label("audience")]
    values += [(n.state if granted else sa.null()).label("state")]
    wanted = [n.partner_id == connection.partner_id, n.seq.in_(newest), *([n.op != "delete", n.seq < first] if granted else [])]
    return sa.select(*values).where(*wanted).order_by(n.seq)


def _deletions(connection: Connection, patient_id: UUID) -> sa.Select[Any]:
    """Select everything of a patient as deleted: each row of theirs that stood, in its next version, without a state."""
    newest = (
        sa.select(sa.func.max(change.c.seq))
        .where(public(connection), change.c.patient_id == patient_id, change.c.entity.not_in(("erasure", "break_glass")))
        .group_by(change.c.entity, change.c.entity_id)
    )
    n = change.alias("newest").c
    values: list[Any] = [n[name] for name in ("entity", "entity_id", "patient_id", "episode_id")]
    values += [(n.version + 1).label("version"), sa.literal("delete").label("op")]
    wanted = (n.partner_id == connection.partner_id, n.seq.in_(newest), n.op != "delete")
    return sa.select(*values).where(*wanted).order_by(n.seq)


def public(connection: Confined) -> sa.ColumnElement[bool]:
    """Return the condition that a row of the feed tells of a write, and is not a copy for one person's devices."""
    return (change.c.partner_id == connection.partner_id) & change.c.audience.is_(None)  # type: ignore[no-any-return]


async def where_it_stands(connection: Connection) -> Feed:
    """Return the partner's epoch, newest number and oldest safe cursor."""
    found = await connection.first(_clock)
    if found is None:
        message = "The partner has no change clock."
        raise LookupError(message)
    return Feed(found["epoch"], found["seq"], found["min_seq"])


@prepared
def _clock() -> sa.Select[Any]:
    return sa.select(change_clock).where(change_clock.c.partner_id == EACH.partner_id)


async def newest_moment(connection: Connection) -> datetime | None:
    """Return the moment of the partner's newest change, or None."""
    clock = sa.select(change_clock.c.at).where(change_clock.c.partner_id == connection.partner_id, change_clock.c.seq > 0)
    return await connection.value(clock)  # type: ignore[no-any-return]


async def raise_epoch(connection: Connection, epoch: int) -> None:
    """Begin a new epoch of a partner's feed: devices and followers of the old one start again (410)."""
    await connection.run(sa.update(change_clock).where(change_clock.c.partner_id == connection.partner_id).values(epoch=epoch))


async def page_history(connection: Connection, entity: str, where: dict[str, UUID | None], after: Sequence[int] | None, limit: int) -> list[Row]:
    """Return a page of the writes of one kind of row, oldest first; one too many says that there are more. `where` names columns of the feed."""
    query = sa.select(change).where(public(connection), change.c.entity == entity)
    query = query.where(*(change.c[name] == value for name, value in where.items() if value is not None))
    if after is not None:
        query = query.where(change.c.seq > after[0])
    return await connection.rows(query.order_by(change.c.seq).limit(limit + 1))


async def page_history_of_patient(connection: Connection, patient_id: UUID) -> list[Row]:
    """Return every write of a patient's rows, oldest first."""
    return await connection.rows(sa.select(change).where(public(connection), change.c.patient_id == patient_id).order_by(change.c.seq))


async def states_at(connection: Connection, entities: Sequence[str], episode_id: UUID, moment: datetime) -> list[Row]:
    """Return the newest change, up to a moment, of each row of some kinds of an episode."""
    newest = (
        sa.select(sa.func.max(change.c.seq))
        .where(public(connection), change.c.episode_id == episode_id, change.c.entity.in_(entities), change.c.at <= moment)
        .group_by(change.c.entity, change.c.entity_id)
    )
    return await connection.rows(
        sa.select(change).where(change.c.partner_id == connection.partner_id, change.c.seq.in_(newest)).order_by(change.c.seq)
    )


async def state_of_version(connection: Connection, entity: str, entity_id: UUID, version: int) -> Row | None:
    """Return the write that made a version of a row, or None when the feed does not hold it."""
    wanted = (change.c.entity == entity, change.c.entity_id == entity_id, change.c.version == version)
    return await connection.first(sa.select(change).where(public(connection), *wanted).order_by(change.c.seq.desc()).limit(1))


async def versions_since(connection: Connection, entity: str, entity_id: UUID, version: int) -> list[Row]:
    """Return the writes that made a row's versions from `version` on, oldest first."""
    wanted = (change.c.entity == entity, change.c.entity_id == entity_id, change.c.version >= version)
    return await connection.rows(sa.select(change).where(public(connection), *wanted).order_by(change.c.version))


async def version_at(connection: Connection, entity: str, entity_id: UUID, seq: int) -> int | None:
    """Return the version that a row had when the feed stood at `seq`, or None."""
    wanted = (change.c.entity == entity, change.c.entity_id == entity_id, change.c.seq <= seq)
    return await connection.value(sa.select(sa.func.max(change.c.version)).where(public(connection), *wanted))  # type: ignore[no-any-return]


async def page_events(
    connection: Connection, since: int, until: int, filters: dict[str, UUID | None], pairs: Sequence[tuple[str, str]], limit: int
) -> list[Row]:
    """Return a page of the writes after `since` up to `until`, without their states, oldest first; one too many says that there are more.

    `pairs`: which entities with which operations.
    """
    columns = [c for c in change.c if c.name != "state"]
    query = sa.select(*columns).where(public(connection), change.c.seq > since, change.c.seq <= until)
    query = query.where(*(change.c[name] == value for name, value in filters.items() if value is not None))
    query = query.where(sa.tuple_(change.c.entity, change.c.op).in_(pairs) if pairs else sa.false())
    return await connection.rows(query.order_by(change.c.seq).limit(limit + 1))


async def compact(connection: Connection, before: datetime, now: datetime) -> int:
    """Drop what only replicas needed: copies and withdrawals for one person that are old, or that a newer row has overtaken.

    The writes themselves stay: they are the history of the record. Cursors older than `before` end here (410): whoever was away so
    long replaces the copy, so that no deletion needs telling for ever.
    """
    own = change.c.partner_id == connection.partner_id
    oldest = sa.select(sa.func.coalesce(sa.func.max(change.c.seq), 0)).where(own, change.c.at < before).scalar_subquery()
    await connection.run(
        sa.update(change_clock)
        .where(change_clock.c.partner_id == connection.partner_id)
        .values(min_seq=sa.func.greatest(change_clock.c.min_seq, oldest))
    )
    newer = change.alias("newer")
    overtaken = sa.exists().where(
        newer.c.partner_id == connection.partner_id,
        newer.c.entity == change.c.entity,
        newer.c.entity_id == change.c.entity_id,
        newer.c.audience == change.c.audience,
        newer.c.seq > change.c.seq,
    )
    settled = change.c.at < now - OVERTAKEN_AFTER
    gone = sa.or_(change.c.at < before, sa.and_(settled, overtaken))
    return await connection.run(sa.delete(change).where(own, change.c.audience.is_not(None), gone))
