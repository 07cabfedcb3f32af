"""`ipt cohort`: a synthetic cohort copied into a sandbox partner by the loader's role, in batches, each of them one transaction.

The rows have no history: nothing is told to the change feed, so phones and webhooks do not hear of them. Where whoever loads is a superuser
(the embedded server), foreign keys are not looked up row by row: the generator makes both ends of each.
"""

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from uuid_utils.compat import uuid7

from app.domain.errors import CommandRefused
from app.keys.provider import KeyProvider, read_keys
from app.sandbox.cohort import synthetic_course
from app.sandbox.cohort_rows import COLUMNS, rows_of
from app.store.database import Connection, Database
from app.store.door import partner_kind
from app.store.tables.every import metadata
from app.store.tables.people import clinician

COURSES_AT_ONCE = 1_000
CLINICIANS = 40
PROCESSES = 2
BESIDE_FROM = 10_000  # below, starting processes costs more than they gain
LARGEST_COHORT = 10_000_000
UNCHECKED = "SET LOCAL ROLE NONE; SET LOCAL session_replication_role = replica; SET LOCAL ROLE ipt_loader"


class SandboxOnly(CommandRefused):
    """A synthetic cohort goes into a sandbox partner only."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """What is to be loaded, where."""

    url: str
    keys: KeyProvider
    partner_id: UUID
    patients: int
    seed: int
    today: date
    clinicians: tuple[UUID, ...] = ()


async def load_cohort(cohort: Cohort, console: Console, now: datetime) -> None:
    """Load a cohort, showing a bar. Raises SandboxOnly."""
    database = _loader(cohort)
    try:
        async with database.transaction(cohort.partner_id) as connection:
            if await partner_kind(connection) != "sandbox":
                raise SandboxOnly
            cohort = replace(cohort, clinicians=await _clinicians(connection, now))
            await connection.commit()
        batches = [(n, min(n + COURSES_AT_ONCE, cohort.patients)) for n in range(0, cohort.patients, COURSES_AT_ONCE)]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("Loading made-up courses", total=cohort.patients)
            if cohort.patients < BESIDE_FROM:
                for batch in batches:
                    await _load(database, cohort, *batch)
                    progress.advance(bar, batch[1] - batch[0])
                return
            with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
                loop = asyncio.get_running_loop()
                for done in asyncio.as_completed([loop.run_in_executor(pool, load_batch, cohort, *batch) for batch in batches]):
                    progress.advance(bar, await done)
    finally:
        await database.close()


def load_batch(cohort: Cohort, first: int, last: int) -> int:
    """Load a batch in a process of its own; return how many."""

    async def done() -> None:
        database = _loader(cohort)
        try:
            await _load(database, cohort, first, last)
        finally:
            await database.close()

    asyncio.run(done())
    return last - first


def _loader(cohort: Cohort) -> Database:
    return Database(cohort.url, "ipt_loader", pool_size=1, statement_seconds=120)


async def _load(database: Database, cohort: Cohort, first: int, last: int) -> None:
    courses = (synthetic_course(cohort.seed, n, cohort.today) for n in range(first, last))
    rows = rows_of(courses, cohort.partner_id, cohort.clinicians, read_keys(cohort.keys))
    async with database.transaction(cohort.partner_id) as connection:
        await connection.script("SET LOCAL synchronous_commit = off")
        if await connection.value(sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = session_user")):
            await connection.script(UNCHECKED)
        for table, columns in COLUMNS.items():
            if rows[table]:
                await connection.copy(metadata.tables[table], columns, rows[table])
        await connection.commit()


async def _clinicians(connection: Connection, now: datetime) -> tuple[UUID, ...]:
    """Add the clinicians of the cohort; return their ids."""
    ids = tuple(uuid7() for _ in range(CLINICIANS))
    own = {"partner_id": connection.partner_id, "active": True, "version": 1, "created_at": now, "updated_at": now}
    await connection.run(sa.insert(clinician).values([own | {"id": one, "subject": f"made-up|{one}"} for one in ids]))
    return ids
