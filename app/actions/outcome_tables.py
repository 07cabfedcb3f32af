"""Anonymised tables as a consumer meets them: what can be asked, asking, reading. Facts cannot be read from here: the worker alone counts them.

A consumer is a client. Its first question for a table is charged to its own budget; the first question of anybody for it to the population's,
in the same transaction. What comes back is shown two seconds later, whether it had to be made or was there: its time tells nothing. (What is
left of a data set's budget does tell that somebody has asked something.)
"""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.actions.visit import Visit
from app.domain.errors import NotFound
from app.domain.outcome_tables import (
    CONSUMER_CAP,
    DATASETS,
    FOLLOW_UP,
    MICRO,
    NETWORKS,
    POPULATION,
    NetworkTooSmall,
    PeriodOpen,
    PrivacyBudgetSpent,
    Question,
    cells_of,
    consumer_scope,
    dimensions,
    families,
    question_from,
    shown,
)
from app.domain.quarters import Quarter, frozen_by, quarter_from
from app.store.database import Row
from app.store.door import partner_kind
from app.store.facts import frozen_quarters
from app.store.releases import add_budget, add_job, add_release, add_spend, all_released_to, budgets, charge, find_release, released_to

SHOWN_AFTER = timedelta(seconds=2)


def consumer_of(visit: Visit) -> str:
    """Return the scope of the consumer's own budget."""
    return consumer_scope(visit.caller.client_id.partition(".")[2])


async def populations_of(visit: Visit) -> dict[str, UUID]:
    """Return the population behind each data set: the partner itself, and the network of its kind."""
    return {"partner": visit.caller.partner_id, "network": NETWORKS[await partner_kind(visit.connection)]}


async def order_table(visit: Visit, question: Question) -> Row:
    """Ask for a table; return its release with `asked_at`. The same question of the same consumer again costs nothing and changes nothing.

    Raises PeriodOpen, NetworkTooSmall, PrivacyBudgetSpent: each depends on the calendar and the ledger alone.
    """
    populations = await populations_of(visit)
    population, period, consumer = populations[question.dataset], str(question.period), consumer_of(visit)
    await _check_open(visit, population, question)
    values = new_release(question, population, visit.now, standard=False)
    new = await add_release(visit.connection, population, values)
    release = await find_release(visit.connection, population, values["release_key"])
    assert release is not None
    visit.trace.resources.append(f"outcome_table/{release['id']}")
    if release["standard"]:
        return release | {"asked_at": release["ordered_at"]}
    if await add_spend(visit.connection, visit.caller.partner_id, release, consumer, question.epsilon, visit.now):
        await add_budget(visit.connection, visit.caller.partner_id, period, consumer, CONSUMER_CAP)
        if not await charge(visit.connection, visit.caller.partner_id, period, consumer, question.epsilon):
            raise PrivacyBudgetSpent("Your client's own budget for this quarter does not cover it.")
        visit.journal.kept_beside = True
    if new:
        await charge_population(visit.connection, population, release, question)
        await add_job(visit.connection, release["id"], population, "release", visit.now)
    asked = await released_to(visit.connection, [population], consumer, release["id"])
    assert asked is not None  # this consumer's spending stands there now
    return asked


def new_release(question: Question, population: UUID, now: datetime, *, standard: bool) -> dict[str, Any]:
    """Return the row of a release that is yet to be made."""
    return {
        "id": uuid7(),
        "release_key": question.key(population),
        "quarter": str(question.period),
        "question": question.canonical,
        "micro_epsilon": question.epsilon,
        "standard": standard,
        "ordered_at": now,
    }


async def charge_population(connection: Any, population: UUID, release: Row, question: Question) -> None:
    """Charge a new release to the population's budget. Raises PrivacyBudgetSpent."""
    scope = question.family.scope
    if not await charge(connection, population, release["quarter"], scope, release["micro_epsilon"]):
        raise PrivacyBudgetSpent("The budget of the data set for this quarter does not cover it.")
    await add_spend(connection, population, release, scope, release["micro_epsilon"], release["ordered_at"])


async def _check_open(visit: Visit, population: UUID, question: Question) -> None:
    if question.period not in frozen_by(visit.now):
        coming = question.period.freezes > visit.now
        raise PeriodOpen(
            f"It is frozen from {question.period.freezes:%Y-%m-%d} on." if coming else "It is older than the twelve quarters that are kept."
        )
    frozen = (await frozen_quarters(visit.connection, population)).get(str(question.period))
    if frozen is None:
        raise PeriodOpen("Its freeze has not taken place yet: a new partner's comes 14 days after it was registered.")
    if not frozen["is_open"]:
        raise NetworkTooSmall


async def read_table(visit: Visit, table_id: UUID) -> dict[str, Any]:
    """Return a table, or its state while it is being made. Raises NotFound for one that this consumer has not asked for."""
    populations = await populations_of(visit)
    release = await released_to(visit.connection, list(populations.values()), consumer_of(visit), table_id)
    if release is None:
        raise NotFound
    visit.trace.resources.append(f"outcome_table/{table_id}")
    return described(release, visit.now)


def is_ready(release: Row, now: datetime) -> bool:
    """Tell whether a release is shown: it was made, and two seconds have passed since this consumer asked."""
    if release["released_at"] is None:
        return False
    return release["standard"] or (release["asked_at"] is not None and now >= release["asked_at"] + SHOWN_AFTER)


def described(release: Row, now: datetime) -> dict[str, Any]:
    """Return a release as it is shown; the same bytes every time once it is ready."""
    ready = is_ready(release, now)
    return listed(release, now) | {"mechanism": release["mechanism"] if ready else None, "cells": _cells(release) if ready else None}


def listed(release: Row, now: datetime) -> dict[str, Any]:
    """Return what a release is, without its numbers."""
    question = release["question"]
    ready = is_ready(release, now)
    return {
        "id": release["id"],
        "status": "ready" if ready else "ordered",
        "schema_version": question["schema_version"],
        "dataset": question["dataset"],
        "period": question["period"],
        "family": question["family"],
        "dimensions": question["dimensions"],
        "micro_epsilon": question["micro_epsilon"],
        "standard": release["standard"],
        "ready_at": None if ready or release["standard"] else release["asked_at"] + SHOWN_AFTER,
    }


def _cells(release: Row) -> list[dict[str, Any]]:
    question = release["question"]
    family = families()[question["family"]]
    dims = [dimensions()[d] for d in question["dimensions"]]
    names = [c.name for c in family.components]
    return [
        {
            "categories": dict(zip(question["dimensions"], cell, strict=True)),
            "measures": [asdict(m) for m in shown(family, dict(zip(names, noisy, strict=True)), release["accuracy"])],
        }
        for cell, noisy in zip(cells_of(dims), release["noisy"], strict=True)
    ]


async def read_offer(visit: Visit, period: Quarter | None) -> dict[str, Any]:
    """Return (of one quarter, or of all) what can be asked now, what it costs, what is left, and which tables this consumer may read at no cost."""
    populations = await populations_of(visit)
    consumer = consumer_of(visit)
    quarters = [str(q) for q in frozen_by(visit.now) if period in {None, q}]
    rows = await budgets(visit.connection, list(populations.values()), [POPULATION, FOLLOW_UP, consumer])
    left: dict[tuple[UUID, str, str], Mapping[str, Any]] = {(r["partner_id"], r["quarter"], r["scope"]): r for r in rows}
    released = await all_released_to(visit.connection, list(populations.values()), consumer, quarters)
    periods = []
    for dataset in DATASETS:
        population = populations[dataset]
        frozen = await frozen_quarters(visit.connection, population)
        for quarter in reversed(quarters):
            row = frozen.get(quarter)
            periods.append(
                {
                    "dataset": dataset,
                    "period": quarter,
                    "state": "not_frozen_yet" if row is None else "askable" if row["is_open"] else "network_too_small",
                    "frozen_at": row["frozen_at"] if row else None,
                    "micro_epsilon_left": {scope: _left(left.get((population, quarter, scope))) for scope in (POPULATION, FOLLOW_UP)},
                }
            )
    own = [
        {"period": q, "micro_epsilon_left": CONSUMER_CAP if (b := left.get((visit.caller.partner_id, q, consumer))) is None else _left(b)}
        for q in reversed(quarters)
    ]
    return {"periods": periods, "consumer": own, "tables": [listed(r, visit.now) for r in released]}


def _left(budget: Mapping[str, Any] | None) -> int:
    return 0 if budget is None else budget["cap"] - budget["spent"]


def question_of(release: Row) -> Question:
    """Return the question that a release answers."""
    q = release["question"]
    return question_from(q["dataset"], quarter_from(q["period"]), q["family"], q["dimensions"], q["micro_epsilon"] / MICRO)
