"""Behind PgBouncer in transaction mode: confinement does not leak from one client to the next, under a storm with cancellations."""

import asyncio
import os
import random
import shutil
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from app.store.database import Database, OutOfRange
from app.store.tables.people import patient
from tests.conftest import Clock, Service
from tests.driver import Device

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed here; CI installs it")
STARTUP = "application_name, lock_timeout, statement_timeout, idle_in_transaction_session_timeout, timezone, extra_float_digits, role"


@pytest.fixture
def pooled_url(service):
    """The address of this worker's database behind a PgBouncer with two server connections."""
    direct = make_url(service.settings.database_url)
    folder = Path(tempfile.mkdtemp(prefix="ipt-pooler-", dir="/tmp"))
    ini = folder / "pgbouncer.ini"
    users = folder / "users.txt"
    users.write_text('"ipt_service" ""\n"ipt_audit" ""\n')
    ini.write_text(
        f"[databases]\n* = host={direct.query['host']}\n[pgbouncer]\nlisten_addr =\nunix_socket_dir = {folder}\nlisten_port = 6432\n"
        f"auth_type = trust\nauth_file = {users}\npool_mode = transaction\ndefault_pool_size = 2\nserver_round_robin = 1\nmax_client_conn = 200\nignore_startup_parameters = {STARTUP}\n"
        f"logfile = {folder}/log\npidfile = {folder}/pid\n"
    )
    arguments = [PGBOUNCER, str(ini)]
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        arguments[1:1] = ["-u", "postgres"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        if (folder / ".s.PGSQL.6432").exists():
            break
        threading.Event().wait(0.05)
    yield f"postgresql+asyncpg://ipt_service@/{direct.database}?host={folder}&port=6432"
    process.terminate()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_storm_behind_a_pooler_shows_nobody_anothers_rows(pooled_url, service):
    partners = [service.partner() for _ in range(6)]
    for p in partners:
        p.add_patient()
        p.http.close()
    ids = [UUID(p.partner_id) for p in partners]

    async def storm():
        database = Database(pooled_url, "ipt_service", pool_size=10, pooler="transaction")
        seen, foreign = 0, 0

        async def read(partner_id):
            nonlocal seen, foreign
            async with database.transaction(partner_id) as connection:
                rows = await connection.rows(sa.select(patient.c.partner_id))
                seen += len(rows)
                foreign += sum(r["partner_id"] != partner_id for r in rows)

        for _ in range(15):
            tasks = [asyncio.create_task(read(random.choice(ids))) for _ in range(40)]
            await asyncio.sleep(0.004)
            for task in tasks[::7]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await database.close()
        database = Database(pooled_url, "ipt_service", pool_size=1, pooler="transaction")
        with pytest.raises((OutOfRange, asyncpg.PostgresError)):  # the residue of a finished transaction is no partner: it fails, loudly
            async with database.transaction(None) as connection:
                await connection.rows(sa.select(patient.c.partner_id))
        await database.close()
        return seen, foreign

    seen, foreign = asyncio.run(storm())
    assert foreign == 0
    assert seen > 200


def test_the_whole_service_works_behind_a_pooler_with_two_connections(pooled_url, service):
    """Courses of two partners at once over HTTP, each statement prepared without a name, and nobody sees the other's."""
    audit_url = pooled_url.replace("ipt_service@", "ipt_audit@")
    settings = service.settings.model_copy(update={"database_url": pooled_url, "audit_database_url": audit_url, "pooler": "transaction"})
    pooled = Service(settings, Clock()).start()
    try:
        with pooled.partner() as one, pooled.partner() as two, ThreadPoolExecutor(8) as pool:
            courses = {partner: [partner.add_episode() for _ in range(3)] for partner in (one, two)}

            def work(number):
                partner = (one, two)[number % 2]
                course = courses[partner][number % 3]
                partner.post(f"{course.path}/goals", {"text": f"goal {number}"})
                return partner.get(f"{course.path}/phase")["episode_id"] == course.id

            assert all(pool.map(work, range(120)))
            for partner in (one, two):
                goals = [g for c in courses[partner] for g in partner.get(f"{c.path}/goals?limit=200")["items"]]
                assert len(goals) == 60
            assert one.send("GET", courses[two][0].path).status_code == 404
            device = Device(one, courses[one][0].lead)
            assert len(device.pull().of("goal")) == 20
    finally:
        pooled.stop()
