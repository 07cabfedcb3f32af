"""A real PostgreSQL built by the real migrations, and a real server over HTTP. Every test brings its own partner."""

import asyncio
import os
import shutil
import socket
import tempfile
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
import uvicorn
from hypothesis import HealthCheck, settings
from sqlalchemy.engine import make_url

from app import embedded, upkeep
from app.actions.operators import register_client, register_partner
from app.api.request import SCOPES
from app.config import Settings
from app.keys.provider import create_key_file
from app.launch import migrate, owner_of
from app.main import create_app
from tests.driver import Partner
from tests.receiver import Receiver

TEMPLATE = "ipt_template"
HOME = "IPT_TEST_HOME"
SUPERUSER_URL = "IPT_TEST_SUPERUSER_URL"
CRISIS_TEXT = {"default": "Call the crisis line of your region."}


settings.register_profile("ours", suppress_health_check=[HealthCheck.too_slow], deadline=None)  # no test asserts a speed
settings.load_profile("ours")


class Clock:
    """A clock that tests can move."""

    def __init__(self):
        self.offset = timedelta(0)

    def __call__(self):
        return datetime.now(UTC) + self.offset


def pytest_configure(config):
    """Start one server for the whole run, in the controller: workers attach to it, and it goes with the run."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    home = Path(tempfile.mkdtemp(prefix="ipt-tests-"))
    server = embedded.start(home, prefer=os.environ.get("IPT_POSTGRES", "auto"), durable=False)
    config.stash[SERVER] = (server, home)
    os.environ[HOME] = str(home)
    os.environ[SUPERUSER_URL] = server.url()
    os.environ.pop("IPT_DATABASE_URL", None)
    create_key_file(home / "keys.json")
    asyncio.run(_on(server.url(database="postgres"), f"CREATE DATABASE {TEMPLATE}"))
    migrate(settings_of(server.url(database=TEMPLATE), home))
    asyncio.run(_on(server.url(database=TEMPLATE), "DELETE FROM installation"))  # its copies are databases of their own


SERVER = pytest.StashKey()


def pytest_unconfigure(config):
    """Stop the server and remove what it left."""
    found = config.stash.get(SERVER, None)
    if found is not None:
        server, home = found
        server.stop()
        shutil.rmtree(server.data.parent, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def pytest_terminal_summary(terminalreporter):
    """After `make soak`: what was measured. After `make attack`: what was tried, and what got through."""
    figures = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in report.user_properties
        if name == "figure"
    ]
    if figures:
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.write_line(line)
    if not os.environ.get("IPT_ATTACK"):
        return
    tried, through, told = Counter(), Counter(), []
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            tried[report.nodeid.split("::")[0]] += 1
            through[report.nodeid.split("::")[0]] += outcome != "passed"
            told += [value for name, value in report.user_properties if name == "tried"]
    terminalreporter.section("what was tried, and what got through")
    for name, number in sorted(tried.items()):
        terminalreporter.write_line(f"{name:42} {number:6} attacks {through[name]:6} got through")
    for line, number in sorted(Counter(told).items()):
        terminalreporter.write_line(f"  {line}" + (f"  x {number}" if number > 1 else ""))


async def _on(url, *statements):
    import asyncpg  # noqa: PLC0415

    parsed = make_url(url)
    connection = await asyncpg.connect(host=parsed.query["host"], user=parsed.username, database=parsed.database)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def settings_of(superuser_url, home, **more):
    """Return settings for one database of the run's server."""

    def as_role(role):
        return make_url(superuser_url).set(username=role).render_as_string(hide_password=False)

    return Settings(
        home=home,
        keys_file=Path(os.environ.get(HOME, home)) / "keys.json",
        database_url=as_role("ipt_service"),
        audit_database_url=as_role("ipt_audit"),
        worker_database_url=as_role("ipt_worker"),
        migration_database_url=superuser_url,
        embedded_durable=False,
        log_level="error",
        requests_per_second=100_000,
        sync_requests_per_second=100_000,
        tokens_per_minute=100_000,
        refusals_per_minute=100_000,
        **more,
    )


NOTED = """INSERT INTO installation (here, system_identifier, database_oid, opened_at)
    SELECT true, system_identifier::text, oid, now() FROM pg_control_system(), pg_database WHERE datname = current_database()"""


class Databases:
    """Makes databases from the migrated template, and removes them."""

    def __init__(self):
        self.url = os.environ[SUPERUSER_URL]
        self.made = []

    def create(self, name, *, template=TEMPLATE):
        admin = make_url(self.url).set(database="postgres").render_as_string(hide_password=False)
        asyncio.run(_on(admin, f"CREATE DATABASE {name} TEMPLATE {template}", f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC"))
        self.made.append(name)
        url = make_url(self.url).set(database=name).render_as_string(hide_password=False)
        if template == TEMPLATE:
            asyncio.run(_on(url, NOTED))
        return url

    def drop(self, name):
        admin = make_url(self.url).set(database="postgres").render_as_string(hide_password=False)
        asyncio.run(_on(admin, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


def newest_partners_only(monkeypatch, module, number=6):
    """Let a job of the worker walk the partners of this test only: hundreds of others stand in this worker's database."""
    every = upkeep.known_partners

    async def newest(database):
        return (await every(database))[-number:]

    monkeypatch.setattr(f"{module}.known_partners", newest)


def run_sql(url, *statements):
    """Run statements as the superuser."""
    asyncio.run(_on(url, *statements))


@pytest.fixture
def receiver():
    """A receiver of webhooks that the test looks into."""
    running = Receiver()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def machine(tmp_path):
    """A machine of the test's own: durable PostgreSQL, and processes of the service that can be killed."""
    from tests.soak.machine import Machine  # noqa: PLC0415 - it is built with what stands here

    made = Machine(tmp_path)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def databases():
    made = Databases()
    yield made
    for name in made.made:
        made.drop(name)


@pytest.fixture(scope="session")
def worker_name():
    return os.environ.get("PYTEST_XDIST_WORKER", "gw0")


@pytest.fixture(scope="session")
def database_url(databases, worker_name):
    """The superuser's address of this worker's own database."""
    return databases.create(f"ipt_{worker_name}")


@pytest.fixture
def fresh_database(databases, worker_name):
    """A database of the test's own, for tests that break it."""
    name = f"ipt_own_{worker_name}_{os.urandom(4).hex()}"
    yield databases.create(name)
    databases.drop(name)


class Service:
    """A service in a thread of this process, on a port of its own."""

    def __init__(self, settings, clock):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.settings = settings.model_copy(update={"port": port})
        self.clock = clock
        self.app = create_app(self.settings, clock)
        config = uvicorn.Config(self.app, port=port, log_level="error", access_log=False, timeout_graceful_shutdown=10)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.base_url = f"http://127.0.0.1:{port}"

    def start(self):
        self.thread.start()
        while not self.server.started:
            if not self.thread.is_alive():
                raise RuntimeError("the service did not start")
            threading.Event().wait(0.01)
        return self

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)

    @property
    def house(self):
        return self.app.state.house

    def partner(self, *, scopes=None, setting=None, name="backend"):
        """Register a partner with one client, and return it with a token."""
        given = {"risk_responder": "duty@example.org", "secondary_responder": None, "crisis_text": CRISIS_TEXT, "classifier_on": True}

        async def made():
            owner = owner_of(self.settings)
            try:
                partner_id = await register_partner(owner, "Test", "sandbox", given | (setting or {}), datetime.now(UTC))
                return partner_id, await register_client(owner, partner_id, name, sorted(scopes or SCOPES), datetime.now(UTC))
            finally:
                await owner.close()

        partner_id, (client_id, secret) = asyncio.run(made())
        made = Partner(self.base_url, str(partner_id), client_id, secret)
        made.database_url = self.settings.migration_database_url
        return made


@pytest.fixture(scope="session")
def service(database_url):
    """The service of this worker, shared by its tests."""
    running = Service(settings_of(database_url, Path(os.environ[HOME])), Clock()).start()
    yield running
    running.stop()


@pytest.fixture
def own_service(fresh_database):
    """A service on a database of the test's own."""
    running = Service(settings_of(fresh_database, Path(os.environ[HOME])), Clock()).start()
    yield running
    running.stop()


@pytest.fixture
def partner(service):
    with service.partner() as found:
        yield found


@pytest.fixture
def other_partner(service):
    with service.partner() as found:
        yield found


@pytest.fixture
def http(service):
    with httpx.Client(base_url=service.base_url, timeout=20) as client:
        yield client


@pytest.fixture
def on_database(service):
    """Run a coroutine function with a Database of the given role on this worker's database."""
    from app.store.database import Database  # noqa: PLC0415

    def run(job, role="ipt_service"):
        async def done():
            urls = {"ipt_service": service.settings.database_url, "ipt_audit": service.settings.audit_database_url}
            database = Database(urls.get(role, service.settings.migration_database_url), role, pool_size=4)
            try:
                return await job(database)
            finally:
                await database.close()

        return asyncio.run(done())

    return run


def processes_of(data):
    """Return the PostgreSQL processes that run on a data folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if str(data) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found
