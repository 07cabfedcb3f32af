"""Populations with facts of a known truth, analysts who ask over HTTP, and the worker's rounds between asking and reading."""

import asyncio
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import httpx
import pytest
from sqlalchemy.engine import make_url

from app.actions.journal import Journal
from app.domain.outcome_tables import CAPS, dimensions
from app.domain.quarters import frozen_by
from app.keys.provider import read_key_ring
from app.releasing import make_releases
from app.store.database import clock
from tests.conftest import HOME, Clock, Service, settings_of

ATTACK = bool(os.environ.get("IPT_ATTACK"))
SHOWN_AFTER = 0.35
SHOWN_BY_PROCESSES_AFTER = 2.05
DEFAULTS = {
    "area": "grief",
    "protocol": "IPT-16",
    "age_band": "26_to_40",
    "age_decade": "30_to_39",
    "sex": "female",
    "modality": "in_person",
    "sessions_band": "8_to_12",
    "phase_reached": "follow_up",
    "completed": True,
    "ended_in": "completed",
    "recovered_within": None,
    "paired_nhs": True,
    "case_nhs": True,
    "recovered_nhs": False,
    "improved_nhs": False,
    "deteriorated_nhs": False,
    "paired_phq9": True,
    "case_phq9": True,
    "recovered_phq9": False,
    "improved_phq9": False,
    "deteriorated_phq9": False,
    "remitted": False,
    "change_phq9": 5,
    "change_gad7": 4,
    "severity_at_start": "moderate",
}


def periods():
    return [str(q) for q in frozen_by(datetime.now(UTC))]


PERIOD = periods()[-1]


async def connected(url):
    parsed = make_url(url)
    return await asyncpg.connect(host=parsed.query["host"], user=parsed.username, database=parsed.database)


def ask_until_answered(http, question, token):
    """Ask; a service that is too busy (503, Retry-After) is asked again."""
    for _ in range(60):
        answer = http.post("/v1/outcomes/tables", json=question, headers={"Authorization": f"Bearer {token}"})
        if answer.status_code != 503:
            return answer
        time.sleep(random.uniform(0.1, 0.5))
    return answer


class Population:
    """A partner whose frozen quarters hold facts of our making, and who asks about them."""

    def __init__(self, service, partner, url):
        self.service, self.partner, self.url = service, partner, url
        self.id = partner.partner_id
        self.token = self.new_token("outcomes:read")

    def new_token(self, scope):
        return self.partner.new_token(grant_type="client_credentials", scope=scope)["access_token"]

    def freeze(self, facts, *, period=PERIOD, kind="end", cap=None):
        """Put facts into a frozen quarter: pairs of how many and what differs from the default. Opens its budgets."""
        return self.freeze_all({period: facts}, kind=kind, cap=cap)

    def freeze_all(self, facts_by_period, *, kind="end", cap=None):
        """Put facts into several frozen quarters."""

        async def done():
            connection = await connected(self.url)
            try:
                for period, facts in facts_by_period.items():
                    await self._open(connection, period, cap)
                    for number, differing in facts:
                        if number:
                            await self._insert(connection, period, kind, number, DEFAULTS | differing)
            finally:
                await connection.close()

        asyncio.run(done())
        return self

    async def _open(self, connection, period, cap):
        await connection.execute(
            "INSERT INTO outcome_quarter (partner_id, quarter, schema_version, is_open, frozen_at) VALUES ($1, $2, 1, true, now()) ON CONFLICT DO NOTHING",
            self.id,
            period,
        )
        for (dataset, scope), usual in CAPS.items():
            if dataset == "partner":
                await connection.execute(
                    "INSERT INTO outcome_budget (partner_id, quarter, scope, cap, spent) VALUES ($1, $2, $3, $4, 0) ON CONFLICT DO NOTHING",
                    self.id,
                    period,
                    scope,
                    cap or usual,
                )
        if cap:
            await connection.execute(
                "INSERT INTO outcome_budget (partner_id, quarter, scope, cap, spent) VALUES ($1, $2, $3, $4, 0) ON CONFLICT DO NOTHING",
                self.id,
                period,
                f"consumer|{self.partner.client_id.partition('.')[2]}",
                cap,
            )

    async def _insert(self, connection, period, kind, number, fact):
        columns = list(fact) if kind == "end" else [*dimensions(), "below_caseness"]
        values = [fact.get(c) for c in columns]
        slots = ", ".join(f"${n}::{_type(c)}" for n, c in enumerate(columns, start=4))
        await connection.execute(
            f"""WITH people AS (
                  INSERT INTO patient (partner_id, id, sex, locale, time_zone, legal_hold, version, created_at, updated_at)
                  SELECT $1, gen_random_uuid(), 'not_recorded', 'en', 'UTC', false, 1, now(), now() FROM generate_series(1, {number}) RETURNING id)
                INSERT INTO outcome_fact (partner_id, quarter, kind, patient_id, episode_id, {", ".join(columns)})
                SELECT $1, $2, $3, id, gen_random_uuid(), {slots} FROM people""",
            self.id,
            period,
            kind,
            *values,
        )

    def question(self, family="counts", dimensions=("area",), *, period=PERIOD, epsilon=0.5, dataset="partner"):
        return {"dataset": dataset, "period": period, "family": family, "dimensions": list(dimensions), "epsilon": epsilon}

    def ask(self, family="counts", dimensions=("area",), *, token=None, **more):
        return self.partner.send("POST", "/v1/outcomes/tables", self.question(family, dimensions, **more), token=token or self.token)

    def ask_all(self, questions, *, at_once=16):
        """Ask many questions side by side; return the answers in their order."""
        with httpx.Client(base_url=self.partner.base_url, timeout=30) as http, ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda q: ask_until_answered(http, q, self.token), questions))

    def table(self, table_id, *, token=None):
        return self.partner.get(f"/v1/outcomes/tables/{table_id}", token=token or self.token)

    def answer(self, *args, token=None, **more):
        """Ask, let the worker make it, and read it."""
        asked = self.ask(*args, token=token, **more)
        assert asked.status_code in {200, 202}, asked.text
        release(self.service)
        time.sleep(SHOWN_AFTER)
        return self.table(asked.json()["id"], token=token)

    def spent(self, scope="population", period=PERIOD):
        async def done():
            connection = await connected(self.url)
            try:
                return await connection.fetchval(
                    "SELECT spent FROM outcome_budget WHERE partner_id = $1 AND quarter = $2 AND scope = $3", self.id, period, scope
                )
            finally:
                await connection.close()

        return asyncio.run(done())

    def ask_database(self, sql, *values):
        async def done():
            connection = await connected(self.url)
            try:
                return [dict(r) for r in await connection.fetch(sql, *values)]
            finally:
                await connection.close()

        return asyncio.run(done())


def _type(column):
    if column.startswith("change_"):
        return "int"
    return "bool" if isinstance(DEFAULTS.get(column, column == "below_caseness" or None), bool) else "text"


def journal_of(service):
    return Journal(Path(service.settings.home) / f"releases-{service.settings.port}.jsonl", read_key_ring(service.settings.keys_path))


def as_worker(service, job):
    """Run a job of the worker on the service's database, as its role."""
    from app.store.database import Database  # noqa: PLC0415

    async def done():
        database = Database(service.settings.worker_database_url, "ipt_worker", pool_size=4)
        try:
            return await job(database)
        finally:
            await database.close()

    return asyncio.run(done())


def release(service):
    """Let the worker make every table that waits; return how many."""

    async def job(database):
        made = 0
        while number := await make_releases(database, journal_of(service), clock(lambda: datetime.now(UTC))):
            made += number
        return made

    return as_worker(service, job)


def later(**more):
    return clock(lambda: datetime.now(UTC) + timedelta(**more))


def values_of(table, measure=None):
    """Return the shown values of a table by the categories of its cells."""
    found = {}
    for cell in table["cells"]:
        key = tuple(cell["categories"].values())
        for m in cell["measures"]:
            if measure is None or m["name"] == measure:
                found[key if measure else (*key, m["name"])] = m
    return found


@pytest.fixture(scope="session")
def database_url(databases, worker_name):
    """A database for these tests: facts and their people are put in without a feed, which others' tests hold every row against."""
    return databases.create(f"ipt_outcomes_{worker_name}")


@pytest.fixture(scope="session")
def service(database_url):
    running = Service(settings_of(database_url, Path(os.environ[HOME])), Clock()).start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def sooner(monkeypatch):
    """The service of this process shows a table after a third of a second, not after two: dozens of tests wait for one."""
    monkeypatch.setattr("app.actions.outcome_tables.SHOWN_AFTER", timedelta(seconds=0.3))


@pytest.fixture
def population(service, database_url):
    with service.partner() as partner:
        yield Population(service, partner, database_url)


@pytest.fixture
def other_population(service, database_url):
    with service.partner() as partner:
        yield Population(service, partner, database_url)


@pytest.fixture
def populations(service, database_url):
    """Make further populations; their connections go with the test."""
    made = []

    def more(number):
        found = [Population(service, service.partner(), database_url) for _ in range(number)]
        made.extend(found)
        return found

    yield more
    for one in made:
        one.partner.http.close()
