"""Freezing a quarter for anonymised tables, beside nothing but its SQL: the same statements with the same values, said by the driver alone."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from app.actions.freezing import freeze_quarter
from app.domain.quarters import Quarter, quarter_of
from app.store.database import Database
from bench.stage import Stage
from bench.table import Row, at_most

AIM = 3.0
ROUNDS = 1  # some minutes each
BEGIN = "BEGIN; SET LOCAL app.partner_id = '{}'"
FULLEST = "SELECT date_trunc('quarter', ended_at) AS begins, count(*) AS n FROM episode WHERE ended_at < date_trunc('quarter', now()) GROUP BY 1 ORDER BY 2 DESC LIMIT 1"


class Heard:
    """A driver's connection that writes down what it is asked to say."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.said: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self._driver, name)
        if name not in {"fetch", "fetchval", "execute", "executemany"}:
            return asked

        async def heard(*arguments: Any, **options: Any) -> Any:
            self.said.append((name, arguments))
            return await asked(*arguments, **options)

        return heard


def freezing(found: Stage) -> Iterator[Row]:
    """Freeze the fullest quarter and say its statements again, in turn; nothing is kept."""
    yield asyncio.run(_compared(found))


async def _compared(found: Stage) -> Row:
    fullest = (await found.sql(FULLEST))[0]
    quarter = quarter_of(fullest["begins"])
    courses = (await found.sql("SELECT count(*) AS n FROM episode"))[0]["n"]
    database = Database(found.settings.worker_database_url or "", "ipt_worker", pool_size=1, statement_seconds=None)
    ours, bare, facts = [], [], 0
    try:
        for _ in range(ROUNDS):
            taken, facts, said = await _frozen(database, found, quarter)
            ours.append(taken)
            bare.append(await _said(database, found, said))
    finally:
        await database.close()
    note = f"{fullest['n']:,} of {courses:,} courses ended in {quarter}: {facts:,} facts"
    return at_most("freezing a quarter", "s", sorted(ours)[ROUNDS // 2], sorted(bare)[ROUNDS // 2], AIM, note)


async def _frozen(database: Database, found: Stage, quarter: Quarter) -> tuple[float, int, list[tuple[str, tuple[Any, ...]]]]:
    async with database.transaction(found.partner_id) as connection:
        connection._driver = heard = Heard(connection._driver)  # noqa: SLF001 - what it says is what is measured
        started = time.perf_counter()
        facts = await freeze_quarter(connection, quarter, datetime.now(UTC))
        return time.perf_counter() - started, facts or 0, list(heard.said)


async def _said(database: Database, found: Stage, said: list[tuple[str, tuple[Any, ...]]]) -> float:
    async with database.transaction(found.partner_id) as connection:
        driver = connection._driver  # noqa: SLF001
        started = time.perf_counter()
        for name, arguments in said:
            await getattr(driver, name)(*arguments)
        return time.perf_counter() - started
