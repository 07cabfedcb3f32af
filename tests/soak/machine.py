"""A machine that faults are done to: PostgreSQL with durability, API processes, a worker, and clients that never give up."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import psutil
from sqlalchemy.engine import make_url

from app import embedded
from app.actions.operators import register_client, register_partner
from app.api.request import SCOPES
from app.config import Settings
from app.keys.provider import create_key_file
from app.launch import ADDRESSES, _addressed, migrate, owner_of
from tests.conftest import CRISIS_TEXT
from tests.driver import Partner

ROOT = Path(__file__).resolve().parent.parent.parent
SETTING = {"risk_responder": "duty@example.org", "secondary_responder": None, "crisis_text": CRISIS_TEXT, "classifier_on": True}
UNANSWERED = (httpx.HTTPError, OSError)
AGAIN = {429, 500, 502, 503, 504}


class Api:
    """One process of the service (`ipt serve`), of the checkout at hand or of another one."""

    def __init__(self, machine, environment, checkout=ROOT):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.machine, self.environment = machine, environment | {"IPT_PORT": str(self.port)}
        self.checkout = checkout
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self, within=30):
        """Start it; return how long it took to be ready."""
        started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"], cwd=self.checkout, env=self.environment, stdout=self.machine.log, stderr=self.machine.log
        )
        while time.monotonic() - started < within:
            with suppress(*UNANSWERED):
                if httpx.get(f"{self.base_url}/health/ready", timeout=2).status_code == 200:
                    return time.monotonic() - started
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"{self.base_url} did not become ready; see {self.machine.log.name}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, within=40):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within)


class Machine:
    """Everything on one machine. PostgreSQL is started from here, so that it can be stopped as it pleases."""

    def __init__(self, folder):
        self.home = folder / "home"
        self.prefer = os.environ.get("IPT_POSTGRES", "auto")
        self.server = embedded.start(self.home, prefer=self.prefer)
        self.log = (folder / "processes.log").open("ab")
        create_key_file(self.home / "keys.json")
        self.settings = _addressed(Settings(home=self.home), self.server.url())
        migrate(self.settings)
        self.running = []
        self.partner_id, self.client_id, self.secret = asyncio.run(self._registered())

    async def _registered(self):
        owner = owner_of(self.settings)
        partner_id = await register_partner(owner, "Soak", "sandbox", SETTING, datetime.now(UTC))
        client_id, secret = await register_client(owner, partner_id, "soak", sorted(SCOPES), datetime.now(UTC))
        await owner.close()
        return str(partner_id), client_id, secret

    def environment(self, **more):
        limits = {"IPT_REQUESTS_PER_SECOND": "1000000", "IPT_SYNC_REQUESTS_PER_SECOND": "1000000", "IPT_TOKENS_PER_MINUTE": "1000000"}
        addresses = {f"IPT_{n.upper()}": getattr(self.settings, n) for n in ADDRESSES}
        own = {"IPT_HOME": str(self.home), "IPT_PUBLIC_URL": "http://soak.invalid", "PYTHONPATH": str(ROOT), "IPT_LOG_LEVEL": "warning"}
        return {**os.environ, **addresses, **limits, **own, **more}

    def api(self, checkout=ROOT, within=30, **more):
        made = Api(self, self.environment(**{"PYTHONPATH": str(checkout), **more}), checkout)
        made.start(within)
        self.running.append(made)
        return made

    def worker(self, **more):
        command = [sys.executable, "-m", "app.cli", "worker"]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment(**more), stdout=self.log, stderr=self.log)

    def partner(self, api):
        return Partner(api.base_url, self.partner_id, self.client_id, self.secret)

    def stop_postgres_at_once(self):
        """Stop it as a power cut would (immediate: no checkpoint, no goodbye)."""
        os.kill(self.server.process.pid, signal.SIGQUIT)
        self.server.process.wait()
        self.server.stop()

    def start_postgres(self):
        self.server = embedded.start(self.home, prefer=self.prefer)

    def ask(self, query, *values):
        async def done():
            url = make_url(self.server.url())
            connection = await asyncpg.connect(host=url.query["host"], user=url.username, database=url.database)
            try:
                return [dict(r) for r in await connection.fetch(query, *values)]
            finally:
                await connection.close()

        return asyncio.run(done())

    def backends(self):
        return self.ask("SELECT count(*) AS n FROM pg_stat_activity WHERE usename LIKE 'ipt_%' AND pid <> pg_backend_pid()")[0]["n"]

    def stop(self):
        for api in self.running:
            if api.process.poll() is None:
                api.kill()
        self.server.stop()
        self.log.close()
        if self.server.data.parent != self.home:
            shutil.rmtree(self.server.data.parent, ignore_errors=True)  # a mounted one stays, empty, until whoever mounted it takes it away


class Writer(threading.Thread):
    """A client that writes goals one after another, each with an id and a key of its own, and asks again until it is told what became of it; or gives up with the machine."""

    def __init__(self, partner, base_url, episode, ends, pause=0.0):
        super().__init__(daemon=True)
        self.partner, self.base_url, self.episode, self.ends, self.pause = partner, base_url, episode, ends, pause
        self.gives_up = False
        self.acknowledged, self.unknown, self.longest, self.statuses = {}, 0, 0.0, {}

    def run(self):
        http = httpx.Client(base_url=self.base_url, timeout=15)
        while not self.ends.is_set():
            self.write(http, str(uuid4()))
            time.sleep(self.pause)
        http.close()

    def write(self, http, key):
        headers = {"Authorization": f"Bearer {self.partner.token}", "Idempotency-Key": key}
        while True:
            started = time.monotonic()
            try:
                answer = http.post(f"{self.episode.path}/goals", json={"text": key}, headers=headers)
            except UNANSWERED:
                self.longest = max(self.longest, time.monotonic() - started)
                if self.gives_up:
                    return
                time.sleep(0.05)
                continue
            self.longest = max(self.longest, time.monotonic() - started)
            self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
            self.unknown += "outcome-not-known" in answer.text
            if answer.status_code in {200, 201}:
                self.acknowledged[key] = answer.json()["id"]
                return
            if answer.status_code not in AGAIN | {409}:
                raise AssertionError(f"{answer.status_code} {answer.text}")
            time.sleep(0.05)


def finish(ends, writers, within=30):
    """Let writers hear of every write of theirs, and end."""
    ends.set()
    for writer in writers:
        writer.join(within)
        assert not writer.is_alive()


def goals_of(machine, episode):
    """Return the ids of an episode's goals, as the database has them."""
    return [str(r["id"]) for r in machine.ask("SELECT id FROM goal WHERE episode_id = $1", episode.row["id"])]


def resident(pid):
    """Return a process's memory in MB."""
    return psutil.Process(pid).memory_info().rss / 2**20
