"""The change feed: stamped as the last statement before COMMIT, so that change n is visible before n+1 exists.

A counter taken at the end of the transaction loses nothing under concurrent writers and costs next to nothing; the
lock on the partner's clock row lives only until COMMIT. A rollback leaves no gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from app.store.database import Connection, Row
from app.store.tables.record import change, change_clock


@dataclass(frozen=True, slots=True)
class Change:
    """One change to tell: which row of which entity, its new version, and its sealed state after the change."""

    entity: str
    entity_id: UUID
    version: int
    op: str
    patient_id: UUID | None = None
    episode_id: UUID | None = None
    state: bytes | None = None


@dataclass(slots=True)
class Journal:
    """The changes that a transaction has made so far, in order. `mark` and `truncate` follow savepoints."""

    changes: list[Change] = field(default_factory=list)

    def tell(self, told: Change) -> None:
        """Note a change; it is stamped when the transaction ends."""
        self.changes.append(told)

    def mark(self) -> int:
        """Return a mark to truncate to."""
        return len(self.changes)

    def truncate(self, mark: int) -> None:
        """Forget what came after the mark: its savepoint was rolled back."""
        del self.changes[mark:]


async def stamp(connection: Connection, journal: Journal, now: datetime, *, actor: str, client_id: str) -> None:
    """Draw numbers for the journal's changes and insert them. Nothing but COMMIT may follow."""
    if not journal.changes or connection.partner_id is None:
        return
    own = change_clock.c.partner_id == connection.partner_id
    drawn = await connection.first(
        sa.update(change_clock)
        .where(own)
        .values(
            seq=change_clock.c.seq + len(journal.changes),
            at=sa.func.greatest(sa.literal(now), change_clock.c.at + timedelta(milliseconds=1)),
        )
        .returning(change_clock.c.seq, change_clock.c.at)
    )
    if drawn is None:
        message = "The partner has no change clock."
        raise LookupError(message)
    first = drawn["seq"] - len(journal.changes) + 1
    rows = [
        {
            "partner_id": connection.partner_id,
            "seq": first + n,
            "at": drawn["at"],
            "entity": told.entity,
            "entity_id": told.entity_id,
            "patient_id": told.patient_id,
            "episode_id": told.episode_id,
            "version": told.version,
            "op": told.op,
            "actor": actor,
            "client_id": client_id,
            "mutation_id": None,
            "state": told.state,
        }
        for n, told in enumerate(journal.changes)
    ]
    await connection.run(sa.insert(change).values(rows))


async def page_changes(
    connection: Connection, entity: str, episode_id: UUID, entity_id: UUID | None, after: Sequence[int] | None, limit: int
) -> list[Row]:
    """Return a page of the changes of one row of an episode, or of all its rows of one kind, oldest first; one too many says that there are more."""
    query = sa.select(change).where(change.c.partner_id == connection.partner_id, change.c.episode_id == episode_id, change.c.entity == entity)
    if entity_id is not None:
        query = query.where(change.c.entity_id == entity_id)
    if after is not None:
        query = query.where(change.c.seq > after[0])
    return await connection.rows(query.order_by(change.c.seq).limit(limit + 1))


async def states_at(connection: Connection, entities: Sequence[str], episode_id: UUID, moment: datetime) -> list[Row]:
    """Return the newest change, up to a moment, of each row of some kinds of an episode."""
    newest = (
        sa.select(sa.func.max(change.c.seq))
        .where(
            change.c.partner_id == connection.partner_id,
            change.c.episode_id == episode_id,
            change.c.entity.in_(entities),
            change.c.at <= moment,
        )
        .group_by(change.c.entity, change.c.entity_id)
    )
    return await connection.rows(
        sa.select(change).where(change.c.partner_id == connection.partner_id, change.c.seq.in_(newest)).order_by(change.c.seq)
    )
