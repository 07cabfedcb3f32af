"""Releases of anonymised tables and the privacy budget they are charged to, in whole micro-epsilon.

A population is a partner or a network; its rows carry its id as `partner_id`. Charging is one conditional update: whatever runs beside it,
what is spent never exceeds the cap.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.domain.outcome_tables import HIGHEST_CAP
from app.store.database import Connection, Row
from app.store.statements import EACH, Confined, any_of, given, prepared
from app.store.tables.outcomes import outcome_budget, outcome_job, outcome_member, outcome_release, outcome_spend


async def add_budget(connection: Connection, population: UUID, quarter: str, scope: str, cap: int) -> None:
    """Open a budget, unless it is there."""
    values = {"partner_id": population, "quarter": quarter, "scope": scope, "cap": cap, "spent": 0}
    await connection.run(insert(outcome_budget).values(values).on_conflict_do_nothing())


async def charge(connection: Connection, population: UUID, quarter: str, scope: str, micro_epsilon: int) -> bool:
    """Charge a budget; False, and nothing is charged, when it does not cover that."""
    b = outcome_budget
    mine = (b.c.partner_id == population, b.c.quarter == quarter, b.c.scope == scope)
    update = sa.update(b).where(*mine, b.c.spent + micro_epsilon <= b.c.cap).values(spent=b.c.spent + micro_epsilon)
    return await connection.run(update) == 1


async def budgets(connection: Connection, populations: Sequence[UUID], scopes: Sequence[str]) -> list[Row]:
    """Return the budgets of some populations and scopes."""
    b = outcome_budget
    return await connection.rows(
        sa.select(b).where(b.c.partner_id.in_(populations), b.c.scope.in_(scopes)).order_by(b.c.quarter, b.c.partner_id, b.c.scope)
    )


async def set_cap(connection: Connection, population: UUID, quarter: str, scope: str, cap: int) -> bool:
    """Set a cap; False when there is no such budget, or more is spent already."""
    b = outcome_budget
    mine = (b.c.partner_id == population, b.c.quarter == quarter, b.c.scope == scope, b.c.spent <= cap)
    return await connection.run(sa.update(b).where(*mine).values(cap=cap)) == 1


async def raise_cap_to_spent(connection: Connection, population: UUID, quarter: str, scope: str, micro_epsilon: int) -> None:
    """Charge what was spent before and is not noted, and leave nothing: the cap becomes what is spent."""
    b = outcome_budget
    mine = (b.c.partner_id == population, b.c.quarter == quarter, b.c.scope == scope)
    whole = sa.func.least(b.c.spent + micro_epsilon, HIGHEST_CAP)
    await connection.run(sa.update(b).where(*mine).values(spent=whole, cap=whole))


async def add_spend(connection: Connection, population: UUID, release: Row, scope: str, micro_epsilon: int, now: datetime) -> bool:
    """Note what a release cost in one scope; False when that is noted already."""
    values = {"partner_id": population, "release_id": release["id"], "scope": scope, "quarter": release["quarter"]}
    values |= {"micro_epsilon": micro_epsilon, "at": now}
    return await connection.run(insert(outcome_spend).values(values).on_conflict_do_nothing()) == 1


async def add_release(connection: Connection, population: UUID, values: Mapping[str, Any]) -> bool:
    """Insert a release that is yet to be made; False when the same question was asked before. Of two at once the second waits."""
    statement = insert(outcome_release).values(partner_id=population, **values).on_conflict_do_nothing()
    return await connection.run(statement) == 1


async def find_release(connection: Connection, population: UUID, key: bytes) -> Row | None:
    """Return the release of a question, or None."""
    r = outcome_release
    return await connection.first(sa.select(r).where(r.c.partner_id == population, r.c.release_key == key))


async def released_keys(connection: Connection, population: UUID) -> list[bytes]:
    """Return the keys of the questions that were answered."""
    r = outcome_release
    rows = await connection.rows(sa.select(r.c.release_key).where(r.c.partner_id == population, r.c.released_at.is_not(None)))
    return [row["release_key"] for row in rows]


async def hold_release(connection: Connection, population: UUID, release_id: UUID) -> Row | None:
    """Return a release, locked, or None."""
    r = outcome_release
    return await connection.first(sa.select(r).where(r.c.partner_id == population, r.c.id == release_id).with_for_update())


def _asked(connection: Confined, scope: Any) -> sa.Select[Any]:
    """Select releases that are for everyone, or that a consumer has asked for (`asked_at`: when)."""
    r, s = outcome_release, outcome_spend
    mine = (s.c.partner_id == connection.partner_id) & (s.c.release_id == r.c.id) & (s.c.scope == scope)
    return sa.select(r, s.c.at.label("asked_at")).outerjoin(s, mine).where(sa.or_(r.c.standard, s.c.at.is_not(None)))


async def released_to(connection: Connection, populations: Sequence[UUID], scope: str, release_id: UUID) -> Row | None:
    """Return a release that a consumer may see, or None."""
    return await connection.first(_released, populations=list(populations), scope=scope, release_id=release_id)


@prepared
def _released() -> sa.Select[Any]:
    r = outcome_release
    asked = _asked(EACH, given("scope", outcome_spend.c.scope))
    return asked.where(r.c.partner_id == any_of("populations", r.c.partner_id), r.c.id == given("release_id", r.c.id))


async def all_released_to(connection: Connection, populations: Sequence[UUID], scope: str, quarters: Sequence[str]) -> list[Row]:
    """Return every release of some quarters that a consumer may see."""
    r = outcome_release
    query = _asked(connection, scope).where(r.c.partner_id.in_(populations), r.c.quarter.in_(quarters))
    return await connection.rows(query.order_by(r.c.quarter.desc(), r.c.ordered_at, r.c.id))


async def finish_release(connection: Connection, population: UUID, release_id: UUID, values: Mapping[str, Any]) -> None:
    """Write what a release shows. It is never written again."""
    r = outcome_release
    where = (r.c.partner_id == population, r.c.id == release_id, r.c.released_at.is_(None))
    await connection.run(sa.update(r).where(*where).values(values))


async def add_job(connection: Connection, job_id: UUID, population: UUID, kind: str, now: datetime) -> None:
    """Tell the worker that something is to be made."""
    await connection.run(sa.insert(outcome_job).values(id=job_id, population=population, kind=kind, ordered_at=now))


async def take_job(connection: Connection, job_id: UUID) -> bool:
    """Take a job, locked; False when it is gone, or another worker holds it."""
    query = sa.select(outcome_job.c.id).where(outcome_job.c.id == job_id)
    return await connection.first(query.with_for_update(skip_locked=True)) is not None


async def jobs(connection: Connection, kind: str, limit: int, now: datetime) -> list[Row]:
    """Return what is to be made, the oldest first; what was put off waits for its time."""
    j = outcome_job
    return await connection.rows(sa.select(j).where(j.c.kind == kind, j.c.ordered_at <= now).order_by(j.c.ordered_at, j.c.id).limit(limit))


async def put_off_job(connection: Connection, job_id: UUID, until: datetime) -> None:
    """Let a job that failed wait behind the others."""
    await connection.run(sa.update(outcome_job).where(outcome_job.c.id == job_id).values(ordered_at=until))


async def remove_job(connection: Connection, job_id: UUID) -> None:
    """Take a job from the queue."""
    await connection.run(sa.delete(outcome_job).where(outcome_job.c.id == job_id))


async def declared_size(connection: Connection) -> int | None:
    """Return how many patients a partner has declared for the network; None when it has not joined."""
    m = outcome_member
    return await connection.value(sa.select(m.c.declared_patients).where(m.c.partner_id == connection.partner_id))  # type: ignore[no-any-return]


async def all_budgets(connection: Connection, population: UUID) -> list[Row]:
    """Return every budget of a population, each with what its spendings add up to (`noted`): the same, unless rows were lost."""
    b, s = outcome_budget, outcome_spend
    total = (
        sa.select(sa.func.coalesce(sa.func.sum(s.c.micro_epsilon), 0))
        .where(s.c.partner_id == b.c.partner_id, s.c.quarter == b.c.quarter, s.c.scope == b.c.scope)
        .scalar_subquery()
    )
    query = sa.select(b, total.label("noted")).where(b.c.partner_id == population)
    return [row | {"noted": int(row["noted"])} for row in await connection.rows(query.order_by(b.c.quarter, b.c.scope))]
