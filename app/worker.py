"""The second process: what need not happen inside a request. It tells again of alerts that wait, and clears what has expired, partner by partner."""

import asyncio
import signal
import time
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.actions.alerts import escalate_alert
from app.actions.visit import Visit
from app.api.bearer import utc_now
from app.config import Settings
from app.keys.cipher import KeyRing, read_key_ring
from app.keys.tokens import new_caller
from app.main import configure_logs
from app.store.audit import Access, insert_access
from app.store.database import Database, DatabaseAway, Row, TryAgain, clock
from app.store.door import partners
from app.store.feed import stamp
from app.store.tables.door import idempotency_key, revocation, used_assertion
from app.store.work import overdue_alerts

EVERY_SECONDS = 60.0
ALERTS_EVERY_SECONDS = 5.0
NAME = "worker"
log = structlog.get_logger("ipt.worker")


async def work(settings: Settings) -> None:
    """Work until asked to stop."""
    configure_logs(settings.log_level)
    if settings.database_url is None:
        message = "The worker needs IPT_DATABASE_URL."
        raise ValueError(message)
    database = Database(settings.database_url, "ipt_worker", pool_size=1, pooler=settings.pooler)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ring = read_key_ring(settings.keys_path)
    cleared_at = float("-inf")
    while not stop.is_set():
        try:
            log.info("alerts_escalated", alerts=await escalate(database, ring, clock(utc_now)))
            if time.monotonic() - cleared_at >= EVERY_SECONDS:
                log.info("expired_cleared", rows=await clear_expired(database, utc_now()))
                cleared_at = time.monotonic()
        except (DatabaseAway, TryAgain):
            log.warning("database_away")
        try:
            await asyncio.wait_for(stop.wait(), ALERTS_EVERY_SECONDS)
        except TimeoutError:
            continue
    await database.close()


async def escalate(database: Database, ring: KeyRing, now: datetime) -> int:
    """Tell again every alert that nobody acknowledged in time. One that cannot be told, or whose chart is locked, holds up no other."""
    async with database.transaction(None) as connection:
        known = await partners(connection)
    told = 0
    for row in known:
        async with database.transaction(row["partner_id"]) as connection:
            waiting = await overdue_alerts(connection, now)
        for alert in waiting:
            try:
                told += await _escalate_one(database, ring, now, row["partner_id"], alert)
            except (DatabaseAway, TryAgain):
                log.warning("escalation_put_off", partner_id=str(row["partner_id"]))  # locked or lost a race: the next round tries again
            except Exception as error:  # noqa: BLE001 - every other alert must still be told
                log.error("escalation_failed", partner_id=str(row["partner_id"]), kind=type(error).__name__)  # noqa: TRY400 - a trace may hold values
    return told


async def _escalate_one(database: Database, ring: KeyRing, now: datetime, partner_id: UUID, alert: Row) -> bool:
    caller = new_caller(partner_id, f"{partner_id}.{NAME}", (), int(now.timestamp()))
    async with database.transaction(partner_id) as connection:
        visit = Visit(connection, caller, now, ring)
        if not await escalate_alert(visit, alert["id"], alert["episode_id"]):
            return False
        await insert_access(connection, _access(visit))
        await stamp(connection, visit.journal, now, actor=visit.actor, client_id=caller.client_id)
        await connection.commit()
    return True


def _access(visit: Visit) -> Access:
    """Return the audit row of an escalation."""
    return Access(
        partner_id=visit.caller.partner_id,
        at=visit.now,
        client_id=visit.caller.client_id,
        person=None,
        action="execute",
        route="worker escalate_alert",
        outcome=200,
        reason=None,
        request_id=NAME,
        patient_id=visit.trace.patient_id,
        episode_id=visit.trace.episode_id,
        resources=visit.trace.resources,
    )


async def clear_expired(database: Database, now: datetime) -> int:
    """Delete kept answers after 72 hours, used assertions after their time, and revocations of tokens that are dead."""
    async with database.transaction(None) as connection:
        known = await partners(connection)
        cleared = await connection.run(sa.delete(revocation).where(revocation.c.expires_at < now))
        await connection.commit()
    for row in known:
        async with database.transaction(row["partner_id"]) as connection:
            for table in (idempotency_key, used_assertion):
                own = (table.c.partner_id == row["partner_id"], table.c.expires_at < now)
                cleared += await connection.run(sa.delete(table).where(*own))
            await connection.commit()
    return cleared
