"""The worker's housekeeping, as its own role."""

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import sqlalchemy as sa

from app.store.database import Database
from app.store.tables.door import idempotency_key
from app.worker import clear_expired, work


def kept_of(on_database, partner):
    async def job(database: Database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            return await connection.value(sa.select(sa.func.count()).select_from(idempotency_key))

    return on_database(job, "ipt_owner")


def test_kept_answers_are_cleared_after_72_hours_and_not_before(partner, on_database):
    partner.post("/v1/patients", {}, Idempotency_Key=str(uuid4()))
    now = datetime.now(UTC)
    on_database(lambda database: clear_expired(database, now + timedelta(hours=71)), "ipt_worker")
    assert kept_of(on_database, partner) == 1
    cleared = on_database(lambda database: clear_expired(database, now + timedelta(hours=73)), "ipt_worker")
    assert cleared >= 1
    assert kept_of(on_database, partner) == 0


def test_the_worker_works_and_stops_when_asked(own_service):
    async def run():
        task = asyncio.create_task(work(own_service.settings))
        await asyncio.sleep(0.5)
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 5)

    before = signal.getsignal(signal.SIGTERM)
    with own_service.partner() as partner:
        patient = partner.add_patient()
        partner.post(f"/v1/patients/{patient['id']}/erasure", {"requested_by": "patient"})
        try:
            asyncio.run(run())
        finally:
            signal.signal(signal.SIGTERM, before)
        assert partner.get(f"/v1/patients/{patient['id']}/erasure")["rows_erased_at"] is not None
        assert partner.get("/v1/audit/seals")["items"]


def test_a_worker_in_the_middle_of_a_long_round_stops_all_the_same(own_service, monkeypatch):
    async def for_ever(*_):
        await asyncio.sleep(60)

    monkeypatch.setattr("app.worker.seal_trails", for_ever)
    monkeypatch.setattr("app.worker.GRACE_SECONDS", 0.2)

    async def run():
        task = asyncio.create_task(work(own_service.settings))
        await asyncio.sleep(0.5)
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 5)
        return task.done() and task.exception() is None

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert asyncio.run(run()), "it ended by itself, without waiting for the round"
    finally:
        signal.signal(signal.SIGTERM, before)
