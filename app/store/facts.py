"""The facts of anonymised outcomes: what is gathered when a quarter is frozen, and the exact counts that noise is put on.

Only the worker's role can read facts. What is counted never leaves this process without noise.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.domain.lifecycle import ENDED
from app.domain.outcome_tables import EPISODES_IN_A_LIFE, Component, Family
from app.store.database import Connection, Row
from app.store.people import decision
from app.store.rows import own
from app.store.tables.outcomes import outcome_fact, outcome_quarter
from app.store.tables.people import consent, episode, patient
from app.store.tables.work import assessment, focus, follow_up, session

ROWS_AT_ONCE = 500
PURPOSE = "research_analytics"
MEASURED = ("PHQ-9", "GAD-7")


async def add_quarter(
    connection: Connection, population: UUID, quarter: str, schema: int, now: datetime, *, is_open: bool, members: Sequence[UUID] | None
) -> bool:
    """Note that a quarter is frozen; False when it is already."""
    values = {"partner_id": population, "quarter": quarter, "schema_version": schema, "frozen_at": now, "is_open": is_open}
    values["members"] = None if members is None else [str(m) for m in members]
    return await connection.run(insert(outcome_quarter).values(values).on_conflict_do_nothing()) == 1


async def frozen_quarters(connection: Connection, population: UUID) -> dict[str, Row]:
    """Return the frozen quarters of a population."""
    query = sa.select(outcome_quarter).where(outcome_quarter.c.partner_id == population)
    return {r["quarter"]: r for r in await connection.rows(query)}


def _candidates(connection: Connection, kind: str) -> tuple[Any, sa.Select[Any]]:
    """Select ended courses of persons who have given consent, are neither restricted nor erased, and are below the bound of a life."""
    e, p, f = episode, patient, outcome_fact
    root = sa.func.coalesce(p.c.merged_into, p.c.id).label("person_id")
    counted = sa.select(sa.func.count()).where(own(connection, f), f.c.kind == kind, f.c.patient_id == root).correlate(p).scalar_subquery()
    used = sa.exists().where(own(connection, f), f.c.kind == kind, f.c.episode_id == e.c.id)
    whose = (p.c.partner_id == e.c.partner_id) & (p.c.id == e.c.patient_id)
    head = patient.alias("head")
    held_back = sa.exists().where(
        head.c.partner_id == connection.partner_id, head.c.id == root, sa.or_(head.c.restricted_because.is_not(None), head.c.erased_at.is_not(None))
    )
    query = (
        sa.select(root, e.c.id, e.c.status, e.c.ended_as, e.c.phase, e.c.protocol_code, e.c.age_at_referral, e.c.ended_at, p.c.sex, p.c.time_zone)
        .join(p, whose)
        .where(own(connection, e), e.c.ended_at.is_not(None), e.c.status.in_(ENDED), ~used, counted < EPISODES_IN_A_LIFE)
        .where(p.c.erased_at.is_(None), p.c.restricted_because.is_(None), ~held_back, decision(connection, root, PURPOSE).scalar_subquery())
    )
    return root, query


async def ended_between(connection: Connection, begins: datetime, ends: datetime, late: Sequence[tuple[datetime, datetime, datetime]]) -> list[Row]:
    """Return for each person the first course that ended in a span, or in an earlier frozen one and was changed since that was frozen.

    `late`: the frozen spans, each with the moment from which on a change is late.
    """
    e = episode
    h = session.alias("held")
    numbered = (h.c.partner_id == e.c.partner_id, h.c.episode_id == e.c.id, h.c.status == "held", h.c.number.is_not(None), ~h.c.entered_in_error)
    root, query = _candidates(connection, "end")
    within = sa.and_(e.c.ended_at >= begins, e.c.ended_at < ends)
    after = [sa.and_(e.c.ended_at >= first, e.c.ended_at < last, e.c.updated_at > since) for first, last, since in late]
    query = query.where(sa.or_(within, *after), sa.exists().where(*numbered))
    return await connection.rows(query.distinct(root).order_by(root, e.c.ended_at, e.c.id))


async def followed_up_between(connection: Connection, months: int, begins: date, ends: date) -> list[Row]:
    """Return for each person the first follow-up of so many months held in a span of days, with the total of its PHQ-9."""
    e, u, a = episode, follow_up, assessment
    root, query = _candidates(connection, f"follow_up_{months}")
    scored = (a.c.partner_id == u.c.partner_id) & (a.c.follow_up_id == u.c.id) & (a.c.instrument == "PHQ-9") & ~a.c.entered_in_error
    query = (
        query.add_columns(a.c.total)
        .join(u, (u.c.partner_id == e.c.partner_id) & (u.c.episode_id == e.c.id))
        .join(a, scored)
        .where(u.c.months == months, u.c.status == "held", u.c.held_on >= begins, u.c.held_on < ends, a.c.total.is_not(None))
    )
    return await connection.rows(query.distinct(root).order_by(root, u.c.held_on, u.c.id, a.c.answered_at.desc()))


async def work_of(connection: Connection, episode_ids: Sequence[UUID]) -> tuple[list[Row], list[Row], dict[UUID, str]]:
    """Return what facts are made of: held sessions and scores of the treatment, both in order of time, and the area in focus by episode."""
    s, a, f = session, assessment, focus
    sessions = await connection.rows(
        sa.select(s.c.episode_id, s.c.starts_at, s.c.mode, s.c.number)
        .where(own(connection, s), s.c.episode_id.in_(episode_ids), s.c.status == "held", ~s.c.entered_in_error)
        .order_by(s.c.starts_at)
    )
    columns = ("episode_id", "instrument", "answered_at", "respondent", "partial_sum", "total", "band", "is_case", "missing", "prorated")
    scores = await connection.rows(
        sa.select(*(a.c[name] for name in columns))
        .where(own(connection, a), a.c.episode_id.in_(episode_ids), a.c.instrument.in_(MEASURED), a.c.total.is_not(None))
        .where(~a.c.entered_in_error, a.c.follow_up_id.is_(None))
        .order_by(a.c.answered_at, a.c.id)
    )
    areas = await connection.rows(sa.select(f.c.episode_id, f.c.primary_area).where(own(connection, f), f.c.episode_id.in_(episode_ids)))
    return sessions, scores, {r["episode_id"]: r["primary_area"] for r in areas}


async def add_facts(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert facts. They are never changed."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = [{"partner_id": connection.partner_id, **row} for row in rows[start : start + ROWS_AT_ONCE]]
        await connection.run(sa.insert(outcome_fact).values(batch))


def _standing(connection: Connection, quarters: Sequence[str], kind: str) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of facts that may still be counted: nobody's who has withdrawn since, is restricted, or was erased."""
    f, c, p, r = outcome_fact, consent, patient, patient.alias("registration")
    frozen = sa.select(outcome_quarter.c.frozen_at).where(
        outcome_quarter.c.partner_id == connection.partner_id, outcome_quarter.c.quarter == f.c.quarter
    )
    registrations = sa.select(r.c.id).where(
        r.c.partner_id == connection.partner_id, sa.or_(r.c.id == f.c.patient_id, r.c.merged_into == f.c.patient_id)
    )
    withdrawn = sa.exists().where(
        own(connection, c),
        c.c.purpose == PURPOSE,
        ~c.c.given,
        c.c.patient_id.in_(registrations.correlate(f)),
        c.c.created_at > frozen.correlate(f).scalar_subquery(),
    )
    hidden = sa.or_(p.c.restricted_because.is_not(None), p.c.erased_at.is_not(None))
    held_back = sa.exists().where(own(connection, p), p.c.id == f.c.patient_id, hidden)
    return [own(connection, f), f.c.quarter.in_(quarters), f.c.kind == kind, ~withdrawn, ~held_back]


async def exact_counts(connection: Connection, quarter: str, family: Family, dimensions: Sequence[str]) -> dict[tuple[str, ...], dict[str, int]]:
    """Return the exact components of each cell that has a fact. They are for noise alone."""
    f = outcome_fact
    by = [f.c[name] for name in dimensions]
    query = sa.select(*by, *(_counted(c).label(f"component_{n}") for n, c in enumerate(family.components)))
    query = query.where(*_standing(connection, [quarter], family.fact)).group_by(*by)
    rows = await connection.rows(query)
    return {tuple(r[d] for d in dimensions): {c.name: int(r[f"component_{n}"]) for n, c in enumerate(family.components)} for r in rows}


def _counted(component: Component) -> Any:
    column = None if component.column is None else outcome_fact.c[component.column]
    if column is None:
        return sa.func.count()
    if component.of == "number":
        bound = component.bound
        return sa.func.coalesce(sa.func.sum(sa.func.least(sa.func.greatest(column, sa.literal(-(bound or 0))), sa.literal(bound))), 0)
    wanted = {"flag": column.is_(sa.true()), "known": column.is_not(None), "is": column == component.name}[component.of]
    return sa.func.count().filter(wanted)


async def records(connection: Connection, quarters: Sequence[str]) -> list[Row]:
    """Return the facts of ended courses of some quarters, for an extract."""
    query = sa.select(outcome_fact).where(*_standing(connection, quarters, "end"))
    return await connection.rows(query.order_by(outcome_fact.c.patient_id, outcome_fact.c.quarter))
