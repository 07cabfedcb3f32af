"""The second process: what need not happen inside a request, partner by partner. Several workers may run side by side.

Webhooks are delivered and alerts that wait are told again here; what keeps the house in order is in app/upkeep.py.
"""

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime
from itertools import groupby
from uuid import UUID

import structlog

from app.actions.alerts import escalate_alert
from app.actions.deliveries import Attempt, Message, note_attempts, take_due, turn_into_deliveries
from app.actions.journal import ERASURES, RELEASES, Journal
from app.actions.restoring import complete_journals
from app.api.bearer import utc_now
from app.config import Settings
from app.domain.protection import SAFETY
from app.keys.cipher import KeyRing
from app.keys.provider import read_keys
from app.main import begin, configure_logs, key_provider
from app.outbound.guarded import AddressRefused, NoAnswer, Outbound
from app.releasing import clear_old_extracts, freeze_quarters, make_extracts, make_releases, reconcile
from app.store.database import Database, DatabaseAway, OutcomeUnknown, Row, TryAgain, Unsafe, clock
from app.store.installation import check_installation
from app.store.webhooks import enabled_endpoints
from app.store.work import overdue_alerts
from app.upkeep import clear_expired, commit_visit, compact_feeds, erase_rows, known_partners, retire_records, rewrap_keys, seal_trails, worker_visit

CLEAR_EVERY_SECONDS = 60.0
COMPACT_EVERY_SECONDS = 3600.0
ERASE_EVERY_SECONDS = 2.0
SEAL_EVERY_SECONDS = 5.0
REWRAP_EVERY_SECONDS = 60.0
RETIRE_EVERY_SECONDS = 3600.0
FREEZE_EVERY_SECONDS = 300.0
RELEASE_EVERY_SECONDS = 0.5
EXTRACT_EVERY_SECONDS = 2.0
CLEAR_EXTRACTS_EVERY_SECONDS = 600.0
ALERTS_EVERY_SECONDS = 5.0
DELIVER_EVERY_SECONDS = 0.5
PARENT_LOOKED_FOR_EVERY_SECONDS = 1.0
COMPLETE_EVERY_SECONDS = 3600.0
LOOK_EVERY_SECONDS = 2.0
BEAT_EVERY_SECONDS = 60.0
LATE_AFTER_ROUNDS = 3  # and a minute more
GRACE_SECONDS = 3.0
LONGEST_STATEMENT_SECONDS = 600  # of jobs that go through all of a partner's rows; nobody waits for them
SOON_SECONDS = 0.02
URGENT_AT_ONCE, OTHERS_AT_ONCE = 64, 64
URGENT_OF_A_PARTNER, OTHERS_OF_A_PARTNER = 16, 32
log = structlog.get_logger("ipt.worker")
_rounds: dict[str, float] = {}
"""By when the next round of each job should have begun."""


async def work(settings: Settings, *, parent: int | None = None) -> None:
    """Work until asked to stop, or until the parent process is gone when one is named."""
    configure_logs(settings.log_level)
    url = settings.worker_database_url or settings.database_url
    if url is None:
        message = "The worker needs IPT_WORKER_DATABASE_URL, or its login in IPT_DATABASE_URL."
        raise Unsafe(message)
    database = Database(url, "ipt_worker", pool_size=6, pooler=settings.pooler)
    at_length = Database(url, "ipt_worker", pool_size=2, pooler=settings.pooler, statement_seconds=LONGEST_STATEMENT_SECONDS)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ring = read_keys(key_provider(settings))
    deliveries = Deliveries(database, ring, settings.allowed_hosts)
    await check_installation(database)
    journal, erasures = Journal(settings.journal_path, ring, RELEASES), Journal(settings.erasures_path, ring, ERASURES)
    begin(journal, erasures)
    try:
        await asyncio.gather(
            _every(ALERTS_EVERY_SECONDS, stop, "alerts_escalated", lambda: escalate(database, ring, clock(utc_now))),
            _every(CLEAR_EVERY_SECONDS, stop, "expired_cleared", lambda: clear_expired(database, utc_now())),
            _every(COMPACT_EVERY_SECONDS, stop, "feed_compacted", lambda: compact_feeds(database, utc_now())),
            _every(ERASE_EVERY_SECONDS, stop, "rows_erased", lambda: erase_rows(database, ring, clock(utc_now), erasures)),
            _every(SEAL_EVERY_SECONDS, stop, "audit_sealed", lambda: seal_trails(database, ring, clock(utc_now))),
            _every(REWRAP_EVERY_SECONDS, stop, "keys_rewrapped", lambda: rewrap_keys(database, ring), soon=SOON_SECONDS),
            _every(RETIRE_EVERY_SECONDS, stop, "records_retired", lambda: retire_records(database, ring, clock(utc_now), erasures)),
            _every(FREEZE_EVERY_SECONDS, stop, "quarters_frozen", lambda: freeze_quarters(at_length, ring, clock(utc_now))),
            _release(database, journal, stop),
            _every(EXTRACT_EVERY_SECONDS, stop, "extracts_made", lambda: make_extracts(at_length, ring, clock(utc_now))),
            _every(CLEAR_EXTRACTS_EVERY_SECONDS, stop, "extracts_cleared", lambda: clear_old_extracts(database, clock(utc_now))),
            _every(DELIVER_EVERY_SECONDS, stop, "deliveries_taken", lambda: deliveries.take(clock(utc_now)), soon=SOON_SECONDS),
            _every(COMPLETE_EVERY_SECONDS, stop, "journals_completed", lambda: _complete(database, journal, erasures)),
            _every(LOOK_EVERY_SECONDS, stop, "looked", lambda: _stop_when_restored(database, stop)),
            _beat(stop),
            _stop_with(parent, stop),
        )
    finally:
        await deliveries.close()
        await database.close()
        await at_length.close()


async def _complete(database: Database, journal: Journal, erasures: Journal) -> int:
    return await complete_journals(database.transaction, await known_partners(database), journal, erasures)


async def _stop_when_restored(database: Database, stop: asyncio.Event) -> int:
    """Stop when a backup was brought back under this worker: what it would do next, it would do to people who were erased."""
    try:
        await check_installation(database)
    except Unsafe:
        log.error("database_not_reconciled", do="ipt restore --finish")  # noqa: TRY400 - the sentence is enough
        stop.set()
    return 0


async def _release(database: Database, journal: Journal, stop: asyncio.Event) -> None:
    """Make tables, but not before what the journal knows is in the database: a restored one would draw fresh noise over the same people."""
    reconciled = False

    async def once() -> int:
        nonlocal reconciled
        if not reconciled:
            await reconcile(database, journal, clock(utc_now))
            reconciled = True
        return await make_releases(database, journal, clock(utc_now))

    await _every(RELEASE_EVERY_SECONDS, stop, "tables_made", once, soon=SOON_SECONDS)


async def _every(seconds: float, stop: asyncio.Event, what: str, job: Callable[[], Awaitable[int]], soon: float | None = None) -> None:
    """Do a job again and again, `soon` after a round that had something to do; the database away, or a fault in one round, ends no worker."""
    while not stop.is_set():
        started, done = time.monotonic(), 0
        _rounds[what] = started + LATE_AFTER_ROUNDS * seconds + BEAT_EVERY_SECONDS
        try:
            done = await _with_grace(job, stop)
            if done:
                log.info(what, number=done)
        except (DatabaseAway, TryAgain, OutcomeUnknown):
            log.warning("database_away", job=what)
        except Exception as error:  # noqa: BLE001 - the other rounds and jobs go on
            log.error("job_failed", job=what, kind=type(error).__name__)  # noqa: TRY400 - a trace may hold values
        left = seconds - (time.monotonic() - started)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), max(0.0, min(left, soon) if done and soon is not None else left))


async def _beat(stop: asyncio.Event) -> None:
    """Say once a minute that the worker lives, and which jobs have not come round for longer than they should."""
    while not stop.is_set():
        now = time.monotonic()
        log.info("alive", late=sorted(what for what, by in _rounds.items() if by < now))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), BEAT_EVERY_SECONDS)


async def _with_grace(job: Callable[[], Awaitable[int]], stop: asyncio.Event) -> int:
    """Do a job; when the worker is asked to stop meanwhile, give it a few seconds, then break it off: what it had not committed is done later."""
    working, asked = asyncio.ensure_future(job()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await asyncio.wait({working}, timeout=GRACE_SECONDS)
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
        return 0 if working.cancelled() else working.result()
    finally:
        asked.cancel()


async def _stop_with(parent: int | None, stop: asyncio.Event) -> None:
    """Ask to stop when the parent is gone."""
    while parent is not None and not stop.is_set():
        if os.getppid() != parent:
            stop.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), PARENT_LOOKED_FOR_EVERY_SECONDS)


class Deliveries:
    """Takes due deliveries and posts them. What is urgent has room, connections and resolvers of its own: no slow receiver stands before it."""

    def __init__(self, database: Database, ring: KeyRing, allowed: Iterable[str], now: Callable[[], datetime] = utc_now, **outbound: float) -> None:
        self._database, self._ring, self._now = database, ring, now
        self._outbound = {urgent: Outbound(allowed, **outbound) for urgent in (True, False)}
        self._under_way: dict[tuple[bool, UUID], set[asyncio.Task[None]]] = defaultdict(set)
        self._done: list[Attempt] = []
        self._turn = 0

    async def take(self, now: datetime) -> int:
        """Note what was done, walk the feeds, claim what is due and start posting it; return how many were noted and started.

        Each round begins with another partner, and one endpoint's trouble, whatever it is, is no other's.
        """
        number = await self.note()
        known = await known_partners(self._database)
        self._turn = (self._turn + 1) % max(1, len(known))
        for partner_id in known[self._turn :] + known[: self._turn]:
            async with self._database.transaction(partner_id) as connection:
                endpoints = await enabled_endpoints(connection)
            for endpoint in endpoints:
                try:
                    number += await self._take_one(partner_id, endpoint, now)
                except (TryAgain, DatabaseAway, OutcomeUnknown):
                    log.warning("deliveries_put_off", endpoint_id=str(endpoint["id"]))
                except Exception as error:  # noqa: BLE001 - every other endpoint is told all the same
                    log.error("deliveries_failed", endpoint_id=str(endpoint["id"]), kind=type(error).__name__)  # noqa: TRY400
        return number

    def _room(self, partner_id: UUID, *, urgent: bool) -> int:
        """Return how many more may be under way: in all, and of one partner, so that others find room, too."""
        of_all = sum(len(tasks) for (lane, _), tasks in self._under_way.items() if lane == urgent)
        most, of_one = (URGENT_AT_ONCE, URGENT_OF_A_PARTNER) if urgent else (OTHERS_AT_ONCE, OTHERS_OF_A_PARTNER)
        return min(most - of_all, of_one - len(self._under_way[urgent, partner_id]))

    async def _take_one(self, partner_id: UUID, endpoint: Row, now: datetime) -> int:
        messages: list[tuple[bool, Message]] = []
        async with self._database.transaction(partner_id) as connection:
            visit = worker_visit(connection, self._ring, partner_id, now)
            await turn_into_deliveries(visit, endpoint)
            for urgent in (True, False):
                room = self._room(partner_id, urgent=urgent)
                messages += [(urgent, m) for m in await take_due(visit, endpoint, urgent=urgent, room=room)] if room > 0 else []
            await connection.commit()
        for urgent, message in messages:
            task = asyncio.create_task(self._deliver(message, urgent=urgent))
            self._under_way[urgent, partner_id].add(task)
            task.add_done_callback(self._under_way[urgent, partner_id].discard)
        return len(messages)

    async def _deliver(self, message: Message, *, urgent: bool) -> None:
        """Post one message. A process that dies here leaves the claim to its lease: it is posted again."""
        started = time.monotonic()
        status = error = None
        try:
            status = (await self._outbound[urgent].post(message.endpoint["url"], message.headers, message.body)).status
        except AddressRefused as refused:
            error = f"address refused: {refused}"
        except NoAnswer as none:
            error = str(none)
        except Exception as trouble:  # noqa: BLE001 - whatever it was, the attempt failed and is noted
            error = type(trouble).__name__
        self._done.append(Attempt(message, status, error, round((time.monotonic() - started) * 1000)))

    async def note(self) -> int:
        """Write what attempts came to, those of a partner together; what cannot be written now is written with the next round."""
        done, self._done = self._done, []
        for partner_id, attempts in groupby(sorted(done, key=lambda a: a.message.partner_id), key=lambda a: a.message.partner_id):
            mine = list(attempts)
            try:
                await self._note(partner_id, mine)
            except (TryAgain, DatabaseAway, OutcomeUnknown):
                self._done += mine
                log.warning("attempts_not_noted_yet", partner_id=str(partner_id), number=len(mine))
            except Exception as trouble:  # noqa: BLE001 - one that cannot be noted holds up no other
                log.error("attempts_not_noted", kind=type(trouble).__name__)  # noqa: TRY400 - a trace may hold values
                await self._note_one_by_one(partner_id, mine)
        return len(done)

    async def _note_one_by_one(self, partner_id: UUID, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            try:
                await self._note(partner_id, [attempt])
            except Exception as trouble:  # noqa: BLE001 - its lease ends, and it is tried again
                log.error("attempt_not_noted", kind=type(trouble).__name__)  # noqa: TRY400 - a trace may hold values

    async def _note(self, partner_id: UUID, attempts: list[Attempt]) -> None:
        async with self._database.transaction(partner_id) as connection:
            visit = worker_visit(connection, self._ring, partner_id, clock(self._now))
            await note_attempts(visit, attempts)
            if visit.journal.changes:
                await commit_visit(visit, "worker switch_off_endpoint")
            else:
                await connection.commit()

    async def settled(self) -> None:
        """Return when nothing is under way and everything is noted."""
        while under_way := [task for tasks in self._under_way.values() for task in tasks]:
            await asyncio.wait(under_way)
        await self.note()

    async def close(self) -> None:
        """Let what is under way come to its end (an attempt takes 15 s at the most), then close."""
        with suppress(DatabaseAway):
            await self.settled()
        for outbound in self._outbound.values():
            await outbound.close()


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
        visit = worker_visit(connection, ring, partner_id, now, use=SAFETY)
        if not await escalate_alert(visit, alert["id"], alert["episode_id"]):
            return False
        await commit_visit(visit, "worker escalate_alert")
    return True
