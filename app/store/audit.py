"""The audit trail: one row for every access. No clinical content stands in it.

A write's row is part of its transaction. A read's row, and a refusal's, is durable before the answer leaves: the
process gathers what has come together while the last statement ran and inserts it in one (group commit), on a
connection whose role can only insert. When a row cannot be written the request fails.
"""

import asyncio
import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from uuid_utils.compat import uuid7

from app.domain.audit import canonical, event_of
from app.keys.cipher import KeyRing
from app.store.database import Connection, Database, DatabaseAway, OutcomeUnknown, Row, TryAgain
from app.store.statements import given, prepared
from app.store.tables.door import security_event
from app.store.tables.record import audit_event, audit_subject

MOST_IN_ONE_INSERT = 200
MOST_RESOURCES = 200
GATHER_SECONDS = 0.004
WRITE_WITHIN_SECONDS = 2.0
STOP_WITHIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Access:
    """One access: who did what to which resources, and how it ended."""

    partner_id: UUID
    at: datetime
    client_id: str
    person: str | None
    action: str
    route: str
    outcome: int
    reason: str | None
    request_id: str
    patient_id: UUID | None
    episode_id: UUID | None
    resources: Sequence[str]
    device_id: UUID | None = None
    break_glass_id: UUID | None = None
    also_of: Collection[UUID] = ()
    """Further patients of whom something was shown (a list)."""

    def rows(self, keys: KeyRing) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the access as a row, and one pointer to it for each further patient.

        Long lists of resources are cut, and say how many there were. The row carries a code under a key of the service's: one that
        somebody else has put into the database is found when the trail is sealed.
        """
        listed = list(self.resources[:MOST_RESOURCES])
        if len(self.resources) > MOST_RESOURCES:
            listed.append(f"and {len(self.resources) - MOST_RESOURCES} more")
        row = {
            "partner_id": self.partner_id,
            "id": uuid7(),
            "at": self.at,
            "client_id": self.client_id,
            "person": self.person,
            "action": self.action,
            "route": self.route,
            "outcome": self.outcome,
            "reason": self.reason,
            "request_id": self.request_id,
            "patient_id": self.patient_id,
            "episode_id": self.episode_id,
            "resources": listed,
            "sealed_by": None,
            "device_id": self.device_id,
            "break_glass_id": self.break_glass_id,
        }
        others = sorted({p for p in self.also_of if p != self.patient_id})
        row["patients"] = [str(p) for p in others]
        row["mac"] = mac_of(keys, row)
        return row, [{"partner_id": self.partner_id, "patient_id": p, "event_id": row["id"], "at": self.at} for p in others]


def mac_of(keys: KeyRing, row: Row) -> bytes:
    """Return the code by which a row shows that the service wrote it, for its partner."""
    return hmac.digest(keys.derived(f"audit|{row['partner_id']}"), canonical(event_of(row)), "sha256")


def is_ours(keys: KeyRing, row: Row) -> bool:
    """Tell whether the service wrote a row as it stands there."""
    return row["mac"] is not None and hmac.compare_digest(row["mac"], mac_of(keys, row))


@dataclass(frozen=True, slots=True)
class Knock:
    """A refusal at the door: there is no partner yet to be confined to."""

    at: datetime
    what: str
    reason: str
    claimed_client: str | None
    route: str | None
    request_id: str

    def row(self) -> dict[str, Any]:
        """Return the knock as a row."""
        return {"id": uuid7(), "at": self.at, "what": self.what, "reason": self.reason} | {
            "claimed_client": self.claimed_client,
            "route": self.route,
            "request_id": self.request_id,
        }


async def insert_access(connection: Connection, keys: KeyRing, *accesses: Access) -> None:
    """Insert the accesses of a write in its transaction."""
    made = [access.rows(keys) for access in accesses]
    await connection.run_many(_event, [row for row, _ in made])
    others = [pointer for _, pointers in made for pointer in pointers]
    if others:
        await connection.run_many(_subject, others)


def _row_of(table: sa.Table) -> sa.Insert:
    return sa.insert(table).values({c.name: given(c.name, c) for c in table.c})


_event = prepared(lambda: _row_of(audit_event))
_subject = prepared(lambda: _row_of(audit_subject))
_knock = prepared(lambda: _row_of(security_event))


class AuditTrail:
    """Writes accesses and knocks by group commit. `start` and `stop` bracket its life."""

    def __init__(self, database: Database, keys: KeyRing) -> None:
        self._database, self._keys = database, keys
        self._waiting: list[tuple[Access | Knock, asyncio.Future[None]]] = []
        self._something = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the writer."""
        self._writer = asyncio.create_task(self._write_for_ever(), name="audit")

    async def stop(self) -> None:
        """Write what is waiting, then stop."""
        deadline = asyncio.get_running_loop().time() + STOP_WITHIN_SECONDS
        while self._waiting and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - once in the life of a process
            await asyncio.sleep(0.01)
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    async def check(self) -> None:
        """Raise DatabaseAway when the audit login cannot reach the database: then no read can be answered."""
        async with self._database.transaction(None):
            pass

    async def write(self, *entries: Access | Knock) -> None:
        """Return when the entries are durable. Raises DatabaseAway when one could not be written."""
        loop = asyncio.get_running_loop()
        waiting: list[tuple[Access | Knock, asyncio.Future[None]]] = [(entry, loop.create_future()) for entry in entries]
        self._waiting += waiting
        self._something.set()
        try:
            async with asyncio.timeout(WRITE_WITHIN_SECONDS):
                for _, done in waiting:
                    await done
        except TimeoutError:
            raise DatabaseAway from None
        finally:
            for _, done in waiting:
                if not done.cancel() and not done.cancelled():  # nobody waits any more: what is not under way need not be written
                    done.exception()

    async def _write_for_ever(self) -> None:
        batch: Sequence[tuple[Access | Knock, asyncio.Future[None]]] = ()
        while True:
            await self._something.wait()
            if len(batch) > 1:  # they come together: one fsync for more of them; whoever is alone does not wait
                await asyncio.sleep(GATHER_SECONDS)
            batch, self._waiting = self._waiting[:MOST_IN_ONE_INSERT], self._waiting[MOST_IN_ONE_INSERT:]
            if not self._waiting:
                self._something.clear()
            await self._settle(batch)

    async def _settle(self, batch: Sequence[tuple[Access | Knock, asyncio.Future[None]]]) -> None:
        """Insert what somebody still waits for, and tell them. One entry that cannot be written takes no other with it."""
        waiting = [(entry, done) for entry, done in batch if not done.done()]
        trouble: Exception | None = None
        try:
            if waiting:
                await self._insert([entry for entry, _ in waiting])
        except (DatabaseAway, OutcomeUnknown, TryAgain) as error:
            trouble = error
        except Exception as error:  # noqa: BLE001 - whatever it was, the writer goes on
            if len(waiting) > 1:
                for one in waiting:
                    await self._settle([one])
            trouble = error
        for _, done in waiting:
            if done.done():
                continue
            if trouble is None:
                done.set_result(None)
            else:
                done.set_exception(DatabaseAway(type(trouble).__name__))

    async def _insert(self, entries: Sequence[Access | Knock]) -> None:
        accesses = [e for e in entries if isinstance(e, Access)]
        knocks = [e.row() for e in entries if isinstance(e, Knock)]
        async with self._database.transaction(None) as connection:
            if accesses:
                await insert_access(connection, self._keys, *accesses)
            if knocks:
                await connection.run_many(_knock, knocks)
            await connection.commit()
