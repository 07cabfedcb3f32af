"""The second process: what need not happen inside a request, partner by partner.

Webhooks are delivered, alerts that wait are told again, what has expired is cleared. Several workers may run side by side.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.actions.alerts import escalate_alert
from app.actions.deliveries import Message, note_attempt, take_due, turn_into_deliveries
from app.actions.visit import Visit
from app.api.bearer import utc_now
from app.config import Settings
from app.keys.cipher import KeyRing, read_key_ring
from app.keys.tokens import new_caller
from app.main import configure_logs
from app.outbound.guarded import AddressRefused, NoAnswer, Outbound
from app.store.audit import Access, insert_access
from app.store.database import Connection, Database, DatabaseAway, OutcomeUnknown, Row, TryAgain, clock
from app.store.door import partners
from app.store.feed import compact, stamp
from app.store.sync import clear_ledger
from app.store.tables.door import idempotency_key, revocation, used_assertion
from app.store.webhooks import clear_deliveries, enabled_endpoints
from app.store.work import overdue_alerts

CLEAR_EVERY_SECONDS = 60.0
COMPACT_EVERY_SECONDS = 3600.0
ALERTS_EVERY_SECONDS = 5.0
DELIVER_EVERY_SECONDS = 0.5
PARENT_LOOKED_FOR_EVERY_SECONDS = 1.0
URGENT_AT_ONCE, OTHERS_AT_ONCE = 32, 64
TOMBSTONES_KEPT = timedelta(days=400)
DELIVERIES_KEPT = timedelta(days=30)
NAME = "worker"
log = structlog.get_logger("ipt.worker")


async def work(settings: Settings, *, parent: int | None = None) -> None:
    """Work until asked to stop, or until the parent process is gone when one is named."""
    configure_logs(settings.log_level)
    url = settings.worker_database_url or settings.database_url
    if url is None:
        message = "The worker needs IPT_DATABASE_URL."
        raise ValueError(message)
    database = Database(url, "ipt_worker", pool_size=6, pooler=settings.pooler)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ring = read_key_ring(settings.keys_path)
    deliveries = Deliveries(database, ring, Outbound(settings.allowed_hosts))
    try:
        await asyncio.gather(
            _every(ALERTS_EVERY_SECONDS, stop, "alerts_escalated", lambda: escalate(database, ring, clock(utc_now))),
            _every(CLEAR_EVERY_SECONDS, stop, "expired_cleared", lambda: clear_expired(database, utc_now())),
            _every(COMPACT_EVERY_SECONDS, stop, "feed_compacted", lambda: compact_feeds(database, utc_now())),
            _every(DELIVER_EVERY_SECONDS, stop, "deliveries_taken", lambda: deliveries.take(clock(utc_now))),
            _stop_with(parent, stop),
        )
    finally:
        await deliveries.close()
        await database.close()


async def _every(seconds: float, stop: asyncio.Event, what: str, job: Callable[[], Awaitable[int]]) -> None:
    """Do a job again and again; the database away, or a fault in one round, ends no worker."""
    while not stop.is_set():
        started = time.monotonic()
        try:
            done = await job()
            if done:
                log.info(what, number=done)
        except (DatabaseAway, TryAgain, OutcomeUnknown):
            log.warning("database_away", job=what)
        except Exception as error:  # noqa: BLE001 - the other rounds and jobs go on
            log.error("job_failed", job=what, kind=type(error).__name__)  # noqa: TRY400 - a trace may hold values
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), max(0.0, seconds - (time.monotonic() - started)))


async def _stop_with(parent: int | None, stop: asyncio.Event) -> None:
    """Ask to stop when the parent is gone."""
    while parent is not None and not stop.is_set():
        if os.getppid() != parent:
            stop.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), PARENT_LOOKED_FOR_EVERY_SECONDS)


async def known_partners(database: Database) -> list[UUID]:
    """Return the partners' ids."""
    async with database.transaction(None) as connection:
        return [row["partner_id"] for row in await partners(connection)]


class Deliveries:
    """Takes due deliveries and posts them. What is urgent has room of its own: no slow receiver stands before it."""

    def __init__(self, database: Database, ring: KeyRing, outbound: Outbound, now: Callable[[], datetime] = utc_now) -> None:
        self._database, self._ring, self._outbound, self._now = database, ring, outbound, now
        self._under_way: dict[bool, set[asyncio.Task[None]]] = {True: set(), False: set()}

    async def take(self, now: datetime) -> int:
        """Walk the feeds, claim what is due and start posting it; return how many were started. One endpoint's trouble is no other's."""
        started = 0
        for partner_id in await known_partners(self._database):
            async with self._database.transaction(partner_id) as connection:
                endpoints = await enabled_endpoints(connection)
            for endpoint in endpoints:
                try:
                    started += await self._take_one(partner_id, endpoint, now)
                except (TryAgain, DatabaseAway):
                    log.warning("deliveries_put_off", partner_id=str(partner_id))
        return started

    async def _take_one(self, partner_id: UUID, endpoint: Row, now: datetime) -> int:
        async with self._database.transaction(partner_id) as connection:
            await turn_into_deliveries(_visit(connection, self._ring, partner_id, now), endpoint)
            await connection.commit()
        started = 0
        for urgent, most in ((True, URGENT_AT_ONCE), (False, OTHERS_AT_ONCE)):
            room = most - len(self._under_way[urgent])
            if room <= 0:
                continue
            async with self._database.transaction(partner_id) as connection:
                visit = _visit(connection, self._ring, partner_id, now)
                messages = await take_due(visit, endpoint, urgent=urgent, room=room)
                await connection.commit()
            for message in messages:
                task = asyncio.create_task(self._deliver(message))
                self._under_way[urgent].add(task)
                task.add_done_callback(self._under_way[urgent].discard)
            started += len(messages)
        return started

    async def _deliver(self, message: Message) -> None:
        """Post one message and write what came of it. A fault here leaves the claim to its lease: it is posted again."""
        started = time.monotonic()
        status = error = None
        try:
            answer = await self._outbound.post(message.endpoint["url"], message.headers, message.body)
            status = answer.status
        except AddressRefused as refused:
            error = f"address refused: {refused}"
        except NoAnswer as none:
            error = str(none)
        milliseconds = round((time.monotonic() - started) * 1000)
        for _ in range(3):
            try:
                await self._note(message, status, error, milliseconds)
            except TryAgain:
                continue
            except (DatabaseAway, OutcomeUnknown):
                log.warning("attempt_not_noted", partner_id=str(message.partner_id))
            except Exception as trouble:  # noqa: BLE001 - the lease ends, and it is tried again
                log.error("attempt_not_noted", kind=type(trouble).__name__)  # noqa: TRY400 - a trace may hold values
            return

    async def _note(self, message: Message, status: int | None, error: str | None, milliseconds: int) -> None:
        async with self._database.transaction(message.partner_id) as connection:
            visit = _visit(connection, self._ring, message.partner_id, clock(self._now))
            await note_attempt(visit, message, status, error, milliseconds)
            if visit.journal.changes:
                await insert_access(connection, _access(visit, "worker switch_off_endpoint"))
                await stamp(connection, visit.journal, visit.now, actor=visit.actor, client_id=visit.caller.client_id)
            await connection.commit()

    async def settled(self) -> None:
        """Return when nothing is under way."""
        while under_way := [*self._under_way[True], *self._under_way[False]]:
            await asyncio.wait(under_way)

    async def close(self) -> None:
        """Let what is under way come to its end (an attempt takes 15 s at the most), then close."""
        await self.settled()
        await self._outbound.close()


def _visit(connection: Connection, ring: KeyRing, partner_id: UUID, now: datetime) -> Visit:
    return Visit(connection, new_caller(partner_id, f"{partner_id}.{NAME}", (), int(now.timestamp())), now, ring)


async def escalate(database: Database, ring: KeyRing, now: datetime) -> int:
    """Tell again every alert that nobody acknowledged in time. One that cannot be told, or whose chart is locked, holds up no other."""
    told = 0
    for partner_id in await known_partners(database):
        async with database.transaction(partner_id) as connection:
            waiting = await overdue_alerts(connection, now)
        for alert in waiting:
            try:
                told += await _escalate_one(database, ring, now, partner_id, alert)
            except (DatabaseAway, TryAgain):
                log.warning("escalation_put_off", partner_id=str(partner_id))  # locked or lost a race: the next round tries again
            except Exception as error:  # noqa: BLE001 - every other alert must still be told
                log.error("escalation_failed", partner_id=str(partner_id), kind=type(error).__name__)  # noqa: TRY400 - a trace may hold values
    return told


async def _escalate_one(database: Database, ring: KeyRing, now: datetime, partner_id: UUID, alert: Row) -> bool:
    async with database.transaction(partner_id) as connection:
        visit = _visit(connection, ring, partner_id, now)
        if not await escalate_alert(visit, alert["id"], alert["episode_id"]):
            return False
        await insert_access(connection, _access(visit, "worker escalate_alert"))
        await stamp(connection, visit.journal, now, actor=visit.actor, client_id=visit.caller.client_id)
        await connection.commit()
    return True


def _access(visit: Visit, route: str) -> Access:
    """Return the audit row of what the worker did."""
    return Access(
        partner_id=visit.caller.partner_id,
        at=visit.now,
        client_id=visit.caller.client_id,
        person=None,
        action="execute",
        route=route,
        outcome=200,
        reason=None,
        request_id=NAME,
        patient_id=visit.trace.patient_id,
        episode_id=visit.trace.episode_id,
        resources=visit.trace.resources,
    )


async def clear_expired(database: Database, now: datetime) -> int:
    """Delete kept answers after 72 hours, used assertions after their time, revocations of tokens that are dead, old deliveries."""
    async with database.transaction(None) as connection:
        cleared = await connection.run(sa.delete(revocation).where(revocation.c.expires_at < now))
        await connection.commit()
    for partner_id in await known_partners(database):
        async with database.transaction(partner_id) as connection:
            for table in (idempotency_key, used_assertion):
                own = (table.c.partner_id == partner_id, table.c.expires_at < now)
                cleared += await connection.run(sa.delete(table).where(*own))
            cleared += await clear_deliveries(connection, now - DELIVERIES_KEPT)
            await connection.commit()
    return cleared


async def compact_feeds(database: Database, now: datetime) -> int:
    """Drop from each feed what no replica needs any more, and from the ledger what no device sends again; return how many rows went."""
    before = now - TOMBSTONES_KEPT
    gone = 0
    for partner_id in await known_partners(database):
        async with database.transaction(partner_id) as connection:
            gone += await compact(connection, before, now)
            gone += await clear_ledger(connection, before)
            await connection.commit()
    return gone
