"""The audit trail: one row for every access. No clinical content stands in it.

A write's row is part of its transaction. A read's row, and a refusal's, is durable before the answer leaves: the
process gathers what has come together while the last statement ran and inserts it in one (group commit), on a
connection whose role can only insert. When a row cannot be written the request fails.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from uuid_utils.compat import uuid7

from app.store.database import Connection, Database, DatabaseAway
from app.store.tables.door import security_event
from app.store.tables.record import audit_event

MOST_IN_ONE_INSERT = 200
MOST_RESOURCES = 200
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

    def row(self) -> dict[str, Any]:
        """Return the access as a row. Long lists of resources are cut, and say how many there were."""
        listed = list(self.resources[:MOST_RESOURCES])
        if len(self.resources) > MOST_RESOURCES:
            listed.append(f"and {len(self.resources) - MOST_RESOURCES} more")
        return {
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
        }


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


async def insert_access(connection: Connection, access: Access) -> None:
    """Insert one access in the transaction of the write that it belongs to."""
    await connection.run(sa.insert(audit_event).values(access.row()))


class AuditTrail:
    """Writes accesses and knocks by group commit. `start` and `stop` bracket its life."""

    def __init__(self, database: Database) -> None:
        self._database = database
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

    async def write(self, entry: Access | Knock) -> None:
        """Return when the entry is durable. Raises DatabaseAway when it could not be written."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, done))
        self._something.set()
        try:
            await asyncio.wait_for(done, WRITE_WITHIN_SECONDS)
        except TimeoutError:
            raise DatabaseAway from None

    async def _write_for_ever(self) -> None:
        while True:
            await self._something.wait()
            batch, self._waiting = self._waiting[:MOST_IN_ONE_INSERT], self._waiting[MOST_IN_ONE_INSERT:]
            if not self._waiting:
                self._something.clear()
            try:
                await self._insert([entry for entry, _ in batch])
            except Exception as error:  # noqa: BLE001 - whatever it was, these rows are not written and the writer goes on
                for _, done in batch:
                    if not done.done():
                        done.set_exception(DatabaseAway(type(error).__name__))
            else:
                for _, done in batch:
                    if not done.done():
                        done.set_result(None)

    async def _insert(self, entries: Sequence[Access | Knock]) -> None:
        accesses = [e.row() for e in entries if isinstance(e, Access)]
        knocks = [e.row() for e in entries if isinstance(e, Knock)]
        async with self._database.transaction(None) as connection:
            if accesses:
                await connection.run(sa.insert(audit_event).values(accesses))
            if knocks:
                await connection.run(sa.insert(security_event).values(knocks))
            await connection.commit()
