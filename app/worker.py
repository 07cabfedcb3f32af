"""The second process: what need not happen inside a request. Today it clears what has expired, partner by partner."""

import asyncio
import signal
from datetime import datetime

import sqlalchemy as sa
import structlog

from app.api.bearer import utc_now
from app.config import Settings
from app.main import configure_logs
from app.store.database import Database, DatabaseAway
from app.store.door import partners
from app.store.tables.door import idempotency_key, revocation, used_assertion

EVERY_SECONDS = 60.0
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
    while not stop.is_set():
        try:
            log.info("expired_cleared", rows=await clear_expired(database, utc_now()))
        except DatabaseAway:
            log.warning("database_away")
        try:
            await asyncio.wait_for(stop.wait(), EVERY_SECONDS)
        except TimeoutError:
            continue
    await database.close()


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
