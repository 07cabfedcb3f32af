"""The stage of a benchmark: PostgreSQL with default durability, a partner with courses, the service and what it is held against as processes."""

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
from rich.console import Console
from sqlalchemy.engine import make_url

from app import embedded
from app.actions.operators import register_client, register_partner
from app.api.request import SCOPES
from app.config import Settings
from app.keys.provider import create_key_file
from app.launch import _addressed, migrate, owner_of
from app.main import key_provider
from app.sandbox.cohort_loading import Cohort, load_cohort
from app.sandbox.partner import SETTING

ROOT = Path(__file__).resolve().parent.parent
NUMBERED = 500  # courses that are written to; their ids are made of their numbers, so that pgbench can name them
ON_A_PHONE, SESSIONS_ON_A_PHONE = 40, 22  # the caseload that is pulled: some thousand rows, of numbered courses that nothing else writes to
COURSES_FOR_10_000_SESSIONS = 900
WITHIN_SECONDS = 60.0
PHQ9 = {str(n): 1 for n in range(1, 9)} | {"9": 0}
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
PERSON, DEVICE = "urn:ipt:params:oauth:token-type:clinician", "urn:ipt:params:oauth:token-type:device"


def numbered(kind: int, number: int) -> str:
    """Return the id of the n-th numbered patient (kind 1) or course (kind 2): a UUIDv7 that pgbench makes by lpad()."""
    return f"00000000-000{kind}-7000-8000-{number:012d}"


@dataclass(slots=True)
class Stage:
    """A running database with one partner, and where its processes listen."""

    settings: Settings
    superuser: str
    partner_id: UUID
    credentials: tuple[str, str]
    courses: list[str] = field(default_factory=list)
    """Courses of the cohort, each whole, with its sessions and scores."""

    def url(self, role: str) -> str:
        """Return the address of the database for libpq and asyncpg, as a role."""
        return make_url(self.superuser).set(drivername="postgresql", username=role).render_as_string(hide_password=False)

    async def sql(self, *statements: str) -> list[Any]:
        """Run statements as the superuser; return the rows of the last."""
        connection = await asyncpg.connect(self.url(embedded.SUPERUSER))
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return list(await connection.fetch(statements[-1]))
        finally:
            await connection.close()

    @property
    def log(self) -> Path:
        """The server's log. Root's servers have a room of their own, which the home's note names."""
        note = self.settings.home / "database-folder"
        return (Path(note.read_text().strip()) if note.exists() else self.settings.home) / "postgres.log"

    def environment(self, port: int, **more: str) -> dict[str, str]:
        """Return the environment of a process of the service: its defaults, without the limits that are there to stop just this."""
        settings = {
            "IPT_HOME": str(self.settings.home),
            "IPT_PORT": str(port),
            "IPT_PUBLIC_URL": "http://bench.invalid",
            "IPT_REQUESTS_PER_SECOND": "1000000",
            "IPT_SYNC_REQUESTS_PER_SECOND": "1000000",
            "IPT_TOKENS_PER_MINUTE": "1000000",
            "PYTHONPATH": str(ROOT),
        }
        addresses = {n: getattr(self.settings, n) for n in ("database_url", "audit_database_url", "worker_database_url")}
        return {**os.environ, **settings, **{f"IPT_{name.upper()}": value for name, value in addresses.items()}, **more}


@contextmanager
def stage(courses: int = COURSES_FOR_10_000_SESSIONS, *, prefer: str = "auto", home: Path | None = None) -> Iterator[Stage]:
    """Yield a database with a partner, a synthetic cohort of so many courses and the numbered ones. A home that was staged before is used again."""
    home = home or Path(tempfile.mkdtemp(prefix="ipt-bench-"))
    server = embedded.start(home, prefer=prefer)
    try:
        create_key_file(home / "keys.json")
        settings = _addressed(Settings(home=home), server.url())
        migrate(settings)
        yield asyncio.run(_furnished(settings, server.url(), courses))
    finally:
        server.stop()


async def _furnished(settings: Settings, superuser: str, courses: int) -> Stage:
    note = settings.home / "stage.json"
    if note.exists():
        known = json.loads(note.read_text())
        found = Stage(settings, superuser, UUID(known["partner_id"]), tuple(known["credentials"]))
    else:
        owner, now = owner_of(settings), datetime.now(UTC)
        partner_id = await register_partner(owner, "Bench", "sandbox", SETTING, now)
        credentials = await register_client(owner, partner_id, "bench", sorted(SCOPES), now)
        await owner.close()
        found = Stage(settings, superuser, partner_id, credentials)
        cohort = Cohort(settings.migration_database_url or "", key_provider(settings), partner_id, courses, 1, now.date())
        await load_cohort(cohort, Console(), now)
        with service(found) as address:
            await _add_numbered(found, address)
        await found.sql("VACUUM ANALYZE")
        note.write_text(json.dumps({"partner_id": str(partner_id), "credentials": credentials}))
    rows = await found.sql(
        "SELECT id FROM episode WHERE id > '00000000-0003-7000-8000-000000000000' ORDER BY hashtext(id::text) LIMIT 2000"  # spread over all of them
    )
    found.courses = [str(r["id"]) for r in rows]
    return found


async def _add_numbered(found: Stage, address: str) -> None:
    """Add the numbered courses over HTTP, as a partner does."""
    headers = {"Authorization": f"Bearer {token(found, address)}"}
    gate = asyncio.Semaphore(8)
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=30) as http:

        async def post(path: str, body: dict[str, Any]) -> Any:
            while (answer := await http.post(path, json=body)).status_code == 503:  # noqa: ASYNC110
                await asyncio.sleep(1)  # the disk is still busy with the cohort
            answer.raise_for_status()
            return answer.json()

        lead, cover, phone = [(await post("/v1/clinicians", {"subject": f"bench|{name}"}))["id"] for name in ("lead", "cover", "phone")]
        session = {"status": "held", "starts_at": (datetime.now(UTC) - timedelta(days=30)).isoformat()}

        async def add(number: int) -> None:
            day = (datetime.now(UTC) - timedelta(days=100)).date().isoformat()
            async with gate:
                await post("/v1/patients", {"id": numbered(1, number), "birth_year": 1980})
                episode = {"id": numbered(2, number), "patient_id": numbered(1, number), "protocol": "IPT-16", "referred_on": day}
                team = {"lead_clinician_id": phone if number > NUMBERED else lead, "cover_clinician_id": cover}
                await post("/v1/episodes", episode | team | {"age_at_referral": 40, "contraindications": [], "risk_screened": True})
                for _ in range(SESSIONS_ON_A_PHONE if number > NUMBERED else 0):
                    await post(f"/v1/episodes/{numbered(2, number)}/sessions", session)

        await asyncio.gather(*(add(n) for n in range(1, NUMBERED + ON_A_PHONE + 1)))


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(
    command: list[str], environment: dict[str, str], ready: str, *, folder: Path = ROOT, within: float = WITHIN_SECONDS
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends; entered once the address `ready` answers."""
    with (Path(tempfile.gettempdir()) / f"ipt-bench-{os.getpid()}.log").open("ab") as log:
        running = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        wait_for(ready, running, within)
        yield running
    finally:
        running.terminate()
        try:
            running.wait(40)
        except subprocess.TimeoutExpired:
            running.kill()


def wait_for(address: str, running: subprocess.Popen[bytes], within: float) -> None:
    """Return once an address answers. Raises RuntimeError when its process has ended, or nothing answers."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if running.poll() is not None:
            raise RuntimeError(f"{running.args} ended with {running.returncode}; see its log in {tempfile.gettempdir()}")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    raise RuntimeError(f"{address} does not answer")


@contextmanager
def service(found: Stage, **more: str) -> Iterator[str]:
    """Run the service (`ipt serve`) on the stage's database; yield its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with process([sys.executable, "-m", "app.cli", "serve"], found.environment(port, **more), f"{address}/health/ready"):
        yield address


def token(found: Stage, address: str, **form: str) -> str:
    """Return an access token of the stage's partner; with a form, by exchange."""
    body = "&".join(f"{k}={v}" for k, v in (form or {"grant_type": "client_credentials"}).items()).encode()
    basic = base64.b64encode(":".join(found.credentials).encode()).decode()
    request = urllib.request.Request(f"{address}/oauth/token", body, {"Authorization": f"Basic {basic}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["access_token"])


def clinician_token(found: Stage, address: str, clinician_id: str, device_id: str | None = None) -> str:
    """Return a token that acts for a clinician, on a device."""
    form = {"grant_type": EXCHANGE, "subject_token": clinician_id, "subject_token_type": PERSON}
    return token(found, address, **form, **({"actor_token": device_id, "actor_token_type": DEVICE} if device_id else {}))


@contextmanager
def reference(found: Stage, course: str, said: dict[str, list[Any]]) -> Iterator[str]:
    """Run what the service is held against, on the same database, saying what was heard; yield its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    plan = {
        "urls": {"pool": found.url("ipt_service"), "plain": found.url(embedded.SUPERUSER)},
        "begin": f"BEGIN; SET LOCAL app.partner_id = '{found.partner_id}'",
        "partner_id": str(found.partner_id),
        "course": course,
        "said": {name: [{"sql": s.sql, "parameters": s.parameters} for s in statements] for name, statements in said.items()},
    }
    file = found.settings.home / "plan.json"
    file.write_text(json.dumps(plan))
    command = [sys.executable, "-m", "uvicorn", "bench.reference:app", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    with process(command, {**os.environ, "IPT_BENCH_PLAN": str(file), "PYTHONPATH": str(ROOT)}, f"{address}/health"):
        yield address
