"""The queue of deliveries beside procrastinate, in one run on one PostgreSQL: 2,000 deliveries made ready, claimed, noted as done.

Both do what a delivery needs besides its HTTP request: the message stands in a row with a log of its attempts, which a partner can list.
Ours: the row is the queue. Procrastinate: a job for each row; the job reads the row, and writes its log.
`make bench-queue` installs procrastinate for it; the project does not use it (docs/decisions/0028).
"""

import asyncio
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import procrastinate
import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from uuid_utils.compat import uuid7

from app import embedded
from app.actions.operators import register_partner
from app.config import Settings
from app.keys.provider import create_key_file, read_key_ring
from app.launch import _addressed, migrate, owner_of
from app.outbound.guarded import Answer
from app.store.database import Database
from app.store.feed import Change, Journal, stamp
from app.store.tables.webhooks import webhook_delivery, webhook_endpoint
from app.store.webhooks import add_secret, place_at_head
from app.worker import Deliveries

NUMBER = 2_000
AT_ONCE = 64
ROUNDS = 3


class NoNetwork:
    """Answers 200 at once: the queue is timed, not a receiver."""

    async def post(self, *_: object) -> Answer:
        return Answer(200, 0)

    async def close(self) -> None:
        pass


async def prepared(database: Database, ring, now: datetime) -> UUID:
    """Make a partner with an endpoint that is told of everything."""
    setting = {"risk_responder": "x", "secondary_responder": None, "crisis_text": {"default": "x"}, "classifier_on": True}
    partner_id = await register_partner(database, "Bench", "sandbox", setting, now)
    async with database.transaction(partner_id) as connection:
        endpoint = uuid7()
        row = {"id": endpoint, "url": "https://hooks.example.com/", "event_types": ["*"], "status": "enabled", "version": 1}
        await connection.run(sa.insert(webhook_endpoint).values(partner_id=partner_id, created_at=now, updated_at=now, **row))
        await place_at_head(connection, endpoint)
        secret_id = uuid7()
        await add_secret(connection, endpoint, secret_id, ring.seal(b"x" * 32, f"{partner_id}|webhook_secret|{secret_id}"), now)
        await connection.commit()
    return partner_id


async def write(database: Database, partner_id: UUID, now: datetime) -> None:
    """Write as many changes into the feed."""
    async with database.transaction(partner_id) as connection:
        journal = Journal([Change("session", uuid7(), 1, "create") for _ in range(NUMBER)])
        await stamp(connection, journal, now, actor="bench", client_id="bench")
        await connection.commit()


async def ours(worker: Database, ring, partner_id: UUID) -> float:
    """Deliver everything by the worker's own rounds, one after the other."""
    deliveries = Deliveries(worker, ring, ())
    deliveries._outbound = {True: NoNetwork(), False: NoNetwork()}  # type: ignore[dict-item]  # noqa: SLF001 - no network here
    started = time.perf_counter()
    while True:
        taken = await deliveries.take(datetime.now(UTC))
        await deliveries.settled()
        async with worker.transaction(partner_id) as connection:
            waiting = await connection.value(
                sa.select(sa.func.count()).where(webhook_delivery.c.partner_id == partner_id, webhook_delivery.c.status == "delivered")
            )
        if taken == 0 and waiting >= NUMBER:
            return time.perf_counter() - started


async def theirs(url: str) -> float:
    """Deliver as many by procrastinate: a row with its log, and a job for it."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, min_size=2, max_size=8))
    pool: list[psycopg.AsyncConnection] = []

    @app.task(name="deliver", pass_context=False)
    async def deliver(delivery_id: int) -> None:
        connection = pool.pop() if pool else await psycopg.AsyncConnection.connect(url, autocommit=True)
        await connection.execute("SELECT * FROM message WHERE id = %s", (delivery_id,))
        await connection.execute("UPDATE message SET status = 'delivered', log = log || '[{}]'::jsonb WHERE id = %s", (delivery_id,))
        pool.append(connection)

    async with app.open_async():
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("TRUNCATE procrastinate_jobs CASCADE; TRUNCATE message")
        started = time.perf_counter()
        async with await psycopg.AsyncConnection.connect(url) as connection:
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    "INSERT INTO message (id, body, status, log) VALUES (%s, '{}', 'pending', '[]')", [(n,) for n in range(NUMBER)]
                )
            await connection.commit()
        for start in range(0, NUMBER, 500):
            await deliver.batch_defer_async(*[{"delivery_id": n} for n in range(start, start + 500)])
        await app.run_worker_async(wait=False, concurrency=AT_ONCE, listen_notify=False, install_signal_handlers=False)
        seconds = time.perf_counter() - started
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            done = await (await connection.execute("SELECT count(*) FROM message WHERE status = 'delivered'")).fetchone()
        assert done is not None
        assert done[0] == NUMBER
    for connection in pool:
        await connection.close()
    return seconds


def plain_address(url: str, name: str) -> str:
    """Return an address as libpq reads it, for another database."""
    return make_url(url).set(drivername="postgresql", database=name).render_as_string(hide_password=False)


async def run(settings: Settings, superuser: str) -> None:
    ring, owner = read_key_ring(settings.keys_path), owner_of(settings)
    service = Database(settings.database_url or "", "ipt_service", pool_size=2)
    worker = Database(settings.worker_database_url or "", "ipt_worker", pool_size=6)
    async with await psycopg.AsyncConnection.connect(plain_address(superuser, "postgres"), autocommit=True) as connection:
        await connection.execute("CREATE DATABASE beside")
    beside = plain_address(superuser, "beside")
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=beside))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    async with await psycopg.AsyncConnection.connect(beside, autocommit=True) as connection:
        await connection.execute("CREATE TABLE message (id int PRIMARY KEY, body jsonb, status text, log jsonb)")
    print(f"{NUMBER} deliveries, {AT_ONCE} at once; procrastinate {procrastinate.__version__}")
    for number in range(ROUNDS):
        partner_id = await prepared(owner, ring, datetime.now(UTC) + timedelta(0))
        await write(service, partner_id, datetime.now(UTC))
        own, other = await ours(worker, ring, partner_id), await theirs(beside)
        async with owner.transaction(partner_id) as connection:
            await connection.run(sa.update(webhook_endpoint).where(webhook_endpoint.c.partner_id == partner_id).values(status="paused"))
            await connection.commit()
        print(f"round {number + 1}: ours {NUMBER / own:6.0f} a second, procrastinate {NUMBER / other:6.0f} a second, ratio {other / own:.2f}")
    for database in (owner, service, worker):
        await database.close()


def main() -> None:
    home = Path(tempfile.mkdtemp(prefix="ipt-bench-"))
    server = embedded.start(home)
    try:
        create_key_file(home / "keys.json")
        settings = _addressed(Settings(home=home), server.url())
        migrate(settings)
        asyncio.run(run(settings, server.url()))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
