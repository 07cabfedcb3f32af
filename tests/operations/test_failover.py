"""A primary and a synchronous standby, two real PostgreSQL servers on loopback: the primary dies under load, the standby takes over."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import asyncpg
import httpx
import pytest

from app import embedded
from app.binaries import candidates, reachable_folder, run_as
from app.keys.provider import create_key_file
from app.launch import migrate
from tests.conftest import Clock, Service, settings_of
from tests.soak.machine import Writer, finish

WRITERS = 4
OPTIONS = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=60", "fsync=on", "synchronous_commit=on")


class Server:
    """One PostgreSQL server on a port of loopback."""

    def __init__(self, folder, person, binaries, port):
        self.data, self.person, self.binaries, self.port, self.process = folder, person, binaries, port, None

    def run(self, tool, *arguments):
        subprocess.run([self.binaries / tool, *arguments], check=True, capture_output=True, **run_as(self.person))

    def start(self):
        settings = [part for option in (*OPTIONS, f"port={self.port}") for part in ("-c", option)]
        self.process = subprocess.Popen(
            [self.binaries / "postgres", "-D", self.data, *settings],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
            **run_as(self.person),
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                return self.ask("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                time.sleep(0.05)
        raise RuntimeError("PostgreSQL did not start")

    def ask(self, query, database="postgres"):
        async def done():
            connection = await asyncpg.connect(host="127.0.0.1", port=self.port, user=embedded.SUPERUSER, database=database)
            try:
                return [dict(r) for r in await connection.fetch(query)]
            finally:
                await connection.close()

        return asyncio.run(done())

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def pair():
    """A primary, and a folder for its standby; both owned by the account that runs them."""
    person = embedded._account(None)
    binaries = reachable_folder(next(iter(candidates(os.environ.get("IPT_POSTGRES", "auto")))).folder, person)
    folder = Path(tempfile.mkdtemp(prefix="ipt-pair-"))
    folder.chmod(0o755)
    servers = []
    for number in range(2):
        data = folder / f"data{number}"
        data.mkdir(mode=0o700)
        if person is not None:
            os.chown(data, person.uid, person.gid)
        servers.append(Server(data, person, binaries, _free_port()))
    servers[0].run("initdb", "-D", servers[0].data, "-A", "trust", "-U", embedded.SUPERUSER, "--encoding=UTF8", "--locale=C")
    servers[0].start()
    yield servers
    for server in servers:
        server.kill()
    shutil.rmtree(folder)


def _free_port():
    import socket  # noqa: PLC0415

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_dead_primary_loses_no_acknowledged_write_and_the_service_finds_the_new_one(pair, tmp_path):
    primary, standby = pair
    primary.ask("CREATE DATABASE ipt")
    create_key_file(tmp_path / "keys.json")
    settings = settings_of(f"postgresql+asyncpg://{embedded.SUPERUSER}@127.0.0.1:{primary.port}/ipt", tmp_path)
    migrate(settings.model_copy(update={"keys_file": tmp_path / "keys.json"}))
    source = f"host=127.0.0.1 port={primary.port} user={embedded.SUPERUSER} application_name=standby"
    standby.run("pg_basebackup", "-d", source, "-D", standby.data, "-R", "-X", "stream", "--checkpoint=fast")
    standby.start()
    primary.ask("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
    primary.ask("SELECT pg_reload_conf()")
    deadline = time.monotonic() + 20
    while [r["sync_state"] for r in primary.ask("SELECT sync_state FROM pg_stat_replication")] != ["sync"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)

    alone = dict.fromkeys(("database_url", "audit_database_url"), f"postgresql://ipt_service@127.0.0.1:{standby.port}/ipt")
    on_standby = Service(settings.model_copy(update={**alone, "keys_file": tmp_path / "keys.json"}), Clock()).start()
    ready = httpx.get(f"{on_standby.base_url}/health/ready")
    on_standby.stop()
    assert (ready.status_code, "standby" in ready.json()["detail"]) == (503, True)

    hosts = f"host=127.0.0.1:{primary.port},127.0.0.1:{standby.port}&target_session_attrs=primary"
    both = {name: f"postgresql://{role}@/ipt?{hosts}" for name, role in (("database_url", "ipt_service"), ("audit_database_url", "ipt_audit"))}
    service = Service(settings.model_copy(update={**both, "keys_file": tmp_path / "keys.json"}), Clock()).start()
    try:
        with service.partner() as partner:
            ends = threading.Event()
            writers = [Writer(partner, service.base_url, partner.add_episode(), ends) for _ in range(WRITERS)]
            for writer in writers:
                writer.start()
            time.sleep(2)
            primary.kill()
            before = sum(len(w.acknowledged) for w in writers)
            standby.ask("SELECT pg_promote(true)")
            died = time.monotonic()
            while sum(len(w.acknowledged) for w in writers) < before + 20:
                assert time.monotonic() - died < 30, "the service did not find the new primary"
                time.sleep(0.05)
            finish(ends, writers)
    finally:
        service.stop()
    there = {str(r["id"]) for r in standby.ask("SELECT id FROM goal", "ipt")}
    acknowledged = {i for w in writers for i in w.acknowledged.values()}
    assert before > 20
    assert acknowledged == there
