"""Making what was asked for: exact counts of one population, noise, and the release, in one transaction. The worker's own.

The journal of releases is a file outside of the database. A release is in it before it is committed: when an older database is restored, what
had been shown is shown again, the same numbers, and is paid for. Without it a second, different noise would be drawn over the same people.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any
from uuid import UUID

from app.actions.journal import Journal
from app.actions.outcome_tables import charge_population, new_release, question_of
from app.domain.outcome_tables import Question, cells_of, standard_pack
from app.domain.quarters import Quarter
from app.store.database import Connection, Row
from app.store.facts import exact_counts, frozen_quarters
from app.store.releases import add_budget, add_release, add_spend, charge, find_release, finish_release, hold_release, raise_cap_to_spent

Confined = Callable[[UUID], AbstractAsyncContextManager[Connection]]
"""Opens a transaction that is confined to a partner."""


DRAWN = ("noisy", "accuracy", "mechanism")


async def make_release(connection: Connection, open_for: Confined, population: UUID, release_id: UUID, journal: Journal, now: datetime) -> bool:
    """Make a release that was ordered: count, add noise, write it down. False when it is made already. The caller commits.

    What the journal has of the question is taken as it is: a database that went back in time draws no second noise over the same people.
    """
    release = await hold_release(connection, population, release_id)
    if release is None or release["released_at"] is not None:
        return False
    drawn = journal.find(str(population), release["release_key"].hex())
    if drawn is not None:
        values = {name: drawn[name] for name in DRAWN}
    else:
        values = await _draw(open_for, question_of(release), await _members(connection, population, release))
        journal.write(release_line(population, release | values))
    await finish_release(connection, population, release_id, values | {"released_at": now})
    return True


async def _members(connection: Connection, population: UUID, release: Row) -> list[UUID]:
    """Return the partners whose people a population is made of."""
    frozen = (await frozen_quarters(connection, population))[release["quarter"]]
    return [population] if frozen["members"] is None else [UUID(m) for m in frozen["members"]]


async def _draw(open_for: Confined, question: Question, members: Iterable[UUID]) -> dict[str, Any]:
    """Return the noisy numbers of a question. Every cell gets noise, whether anybody stands in it or not."""
    from app.noise import accuracy_of, add_noise, mechanism_of  # noqa: PLC0415 - heavy: only who makes a table loads it

    names = [c.name for c in question.family.components]
    cells = cells_of(question.dimensions)
    exact = {cell: dict.fromkeys(names, 0) for cell in cells}
    for partner_id in members:
        async with open_for(partner_id) as connection:
            counted = await exact_counts(connection, str(question.period), question.family, [d.code for d in question.dimensions])
        for cell, found in counted.items():
            for name, number in found.items():
                exact[cell][name] += number
    noisy = add_noise(question.family, question.epsilon, [exact[cell] for cell in cells])
    return {
        "noisy": [[cell[name] for name in names] for cell in noisy],
        "accuracy": accuracy_of(question.family, question.epsilon),
        "mechanism": mechanism_of(question.family, question.epsilon),
    }


def release_line(population: UUID, release: Row) -> dict[str, Any]:
    """Return what the journal of releases keeps of one."""
    kept = ("quarter", "question", "micro_epsilon", "standard", *DRAWN)
    own = {"population": str(population), "id": str(release["id"]), "release_key": release["release_key"].hex()}
    return own | {name: release[name] for name in kept} | {"ordered_at": release["ordered_at"].isoformat()}


async def order_standard_pack(connection: Connection, population: UUID, dataset: str, quarter: Quarter, now: datetime) -> list[UUID]:
    """Order the standard pack of a quarter for everyone; return the ids of what is yet to be made. Asked again, it does nothing."""
    ordered: list[UUID] = []
    for question in standard_pack(dataset, quarter):
        values = new_release(question, population, now, standard=True)
        if await add_release(connection, population, values):
            await charge_population(connection, population, values, question)
            ordered.append(values["id"])
    return ordered


async def replay(connection: Connection, line: dict[str, Any], now: datetime) -> bool:
    """Bring back a release that the journal has and the database lost; charge it, above the cap if need be. True when it was lost. The caller commits."""
    population, key = UUID(line["population"]), bytes.fromhex(line["release_key"])
    there = await find_release(connection, population, key)
    if there is not None and there["released_at"] is not None:
        return False
    values = {name: line[name] for name in ("quarter", "question", "micro_epsilon", "standard")} | {"id": UUID(line["id"]), "release_key": key}
    values |= {"ordered_at": datetime.fromisoformat(line["ordered_at"])}
    if there is None:
        await add_release(connection, population, values)
        there = values
    await finish_release(connection, population, there["id"], {n: line[n] for n in DRAWN} | {"released_at": now})
    question = question_of(there)
    scope = question.family.scope
    if await add_spend(connection, population, there, scope, line["micro_epsilon"], now):
        await add_budget(connection, population, line["quarter"], scope, 0)
        if not await charge(connection, population, line["quarter"], scope, line["micro_epsilon"]):
            await raise_cap_to_spent(connection, population, line["quarter"], scope, line["micro_epsilon"])
    return True
