"""The facts of anonymised outcomes: what is gathered when a quarter is frozen, and the exact counts that noise is put on.

Only the worker's role can read facts. What is counted never leaves this process without noise.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert

from app.domain.lifecycle import ENDED
from app.domain.outcome_facts import Decision, not_counted
from app.domain.outcome_tables import Component, Family
from app.store.database import Connection, Row
from app.store.rows import own
from app.store.tables.outcomes import outcome_fact, outcome_quarter
from app.store.tables.people import consent, episode, patient
from app.store.tables.work import assessment, focus, follow_up, session

PURPOSE = "research_analytics"
MEASURED = ("PHQ-9", "GAD-7")
NOTHING: dict[str, Any] = dict.fromkeys(c.name for c in outcome_fact.c)


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


def _ended(connection: Connection) -> tuple[Any, sa.Select[Any]]:
    """Select courses that have ended, each with the person it belongs to (`person_id`: the registration that others were merged into)."""
    e, p = episode, patient
    root = sa.func.coalesce(p.c.merged_into, p.c.id).label("person_id")
    whose = (p.c.partner_id == e.c.partner_id) & (p.c.id == e.c.patient_id)
    columns = (
        e.c.id,
        e.c.patient_id,
        e.c.status,
        e.c.ended_as,
        e.c.phase,
        e.c.protocol_code,
        e.c.age_at_referral,
        e.c.ended_at,
        p.c.sex,
        p.c.time_zone,
    )
    query = sa.select(root, *columns).join(p, whose).where(own(connection, e), e.c.ended_at.is_not(None), e.c.status.in_(ENDED))
    return root, query.where(p.c.erased_at.is_(None), p.c.restricted_because.is_(None))


async def ended_between(connection: Connection, begins: datetime, ends: datetime, late: Sequence[tuple[datetime, datetime, datetime]]) -> list[Row]:
    """Return the courses that ended in a span, or in an earlier frozen one and were changed since that was frozen; by person, the first first.

    `late`: the frozen spans, each with the moment from which on a change is late.
    """
    e = episode
    root, query = _ended(connection)
    within = sa.and_(e.c.ended_at >= begins, e.c.ended_at < ends)
    after = [sa.and_(e.c.ended_at >= first, e.c.ended_at < last, e.c.updated_at > since) for first, last, since in late]
    return await connection.rows(query.where(sa.or_(within, *after)).order_by(root, e.c.ended_at, e.c.id))


async def followed_up_between(connection: Connection, months: int, begins: date, ends: date) -> list[Row]:
    """Return the follow-ups of so many months held in a span of days, with the `total` of each one's PHQ-9; by person, the first first."""
    e, u, a = episode, follow_up, assessment
    root, query = _ended(connection)
    scored = (a.c.partner_id == u.c.partner_id) & (a.c.follow_up_id == u.c.id) & (a.c.episode_id == u.c.episode_id) & (a.c.instrument == "PHQ-9")
    query = (
        query.add_columns(a.c.total)
        .join(u, (u.c.partner_id == e.c.partner_id) & (u.c.episode_id == e.c.id))
        .join(a, scored)
        .where(u.c.months == months, u.c.status == "held", u.c.held_on >= begins, u.c.held_on < ends, a.c.total.is_not(None), ~a.c.entered_in_error)
    )
    return await connection.rows(query.order_by(root, u.c.held_on, u.c.id, a.c.answered_at.desc()))


async def standing_of(
    connection: Connection, kind: str, person_ids: Sequence[UUID]
) -> tuple[dict[UUID, UUID], list[UUID], list[Decision], list[UUID]]:
    """Return what decides whether some persons may give a fact (`may_be_counted`).

    Their registrations, those that are restricted or erased, the decisions on consent, and the registration of each fact that there is.
    """
    p, f = patient, outcome_fact
    among = sa.or_(p.c.id == sa.any_(_ids(person_ids)), p.c.merged_into == sa.any_(_ids(person_ids)))
    people = await _people(connection, among)
    person_of = {r["id"]: r["merged_into"] or r["id"] for r in people}
    mine = f.c.patient_id == sa.any_(_ids(list(person_of)))
    facts = await connection.rows(sa.select(f.c.patient_id).where(own(connection, f), mine, f.c.kind == kind))
    return person_of, _hidden(people), await _decisions(connection, list(person_of)), [r["patient_id"] for r in facts]


async def _people(connection: Connection, wanted: sa.ColumnElement[bool]) -> list[Row]:
    p = patient
    return await connection.rows(sa.select(p.c.id, p.c.merged_into, p.c.restricted_because, p.c.erased_at).where(own(connection, p), wanted))


def _hidden(people: Sequence[Row]) -> list[UUID]:
    return [r["id"] for r in people if r["restricted_because"] or r["erased_at"]]


async def _decisions(connection: Connection, registrations: Sequence[UUID]) -> list[Decision]:
    """Return every decision of some registrations on consent to analytics, the oldest first."""
    c = consent
    query = sa.select(c.c.patient_id, c.c.given, c.c.created_at).where(
        own(connection, c), c.c.purpose == PURPOSE, c.c.patient_id == sa.any_(_ids(registrations))
    )
    return [Decision(r["patient_id"], r["given"], r["created_at"]) for r in await connection.rows(query.order_by(c.c.decided_at, c.c.id))]


async def used_already(connection: Connection, kind: str, episode_ids: Sequence[UUID]) -> set[UUID]:
    """Return which courses have given a fact of a kind already."""
    f = outcome_fact
    query = sa.select(f.c.episode_id).where(own(connection, f), f.c.episode_id == sa.any_(_ids(episode_ids)), f.c.kind == kind)
    return {r["episode_id"] for r in await connection.rows(query)}


async def work_of(connection: Connection, episode_ids: Sequence[UUID]) -> tuple[list[Row], list[Row], dict[UUID, str]]:
    """Return what facts are made of: held sessions and scores of the treatment, both in order of time, and the area in focus by episode."""
    s, a, f = session, assessment, focus
    sessions = await connection.rows(
        sa.select(s.c.episode_id, s.c.starts_at, s.c.mode, s.c.number)
        .where(own(connection, s), s.c.episode_id == sa.any_(_ids(episode_ids)), s.c.status == "held", ~s.c.entered_in_error)
        .order_by(s.c.starts_at)
    )
    columns = ("episode_id", "instrument", "answered_at", "respondent", "partial_sum", "total", "band", "is_case", "missing", "prorated")
    scores = await connection.rows(
        sa.select(*(a.c[name] for name in columns))
        .where(own(connection, a), a.c.episode_id == sa.any_(_ids(episode_ids)), a.c.instrument.in_(MEASURED), a.c.total.is_not(None))
        .where(~a.c.entered_in_error, a.c.follow_up_id.is_(None))
        .order_by(a.c.answered_at, a.c.id)
    )
    areas = await connection.rows(sa.select(f.c.episode_id, f.c.primary_area).where(own(connection, f), f.c.episode_id == sa.any_(_ids(episode_ids))))
    return sessions, scores, {r["episode_id"]: r["primary_area"] for r in areas}


async def add_facts(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert facts. They are never changed."""
    if rows:
        await connection.run_many(sa.insert(outcome_fact), [{**NOTHING, "partner_id": connection.partner_id, **row} for row in rows])


async def left_out(connection: Connection, quarter: str, kind: str) -> tuple[list[UUID], dict[UUID, UUID]]:
    """Return the registrations whose frozen facts of a quarter are not counted now (`not_counted`), and which registration is which person.

    What happened since the freeze decides. Plain statements, each by an index or in one pass: a planner that knows nothing of a partner
    cannot choose badly between them.
    """
    p, c, f, q = patient, consent, outcome_fact, outcome_quarter
    frozen_at = await connection.value(sa.select(q.c.frozen_at).where(q.c.partner_id == connection.partner_id, q.c.quarter == quarter))
    changed = sa.or_(p.c.merged_into.is_not(None), p.c.restricted_because.is_not(None), p.c.erased_at.is_not(None))
    people = await _people(connection, changed)
    merged: dict[UUID, UUID] = {r["id"]: r["merged_into"] for r in people if r["merged_into"]}
    several = f.c.patient_id == sa.any_(_ids([*merged, *merged.values()]))
    facts = await connection.rows(sa.select(f.c.patient_id).where(own(connection, f), f.c.quarter == quarter, f.c.kind == kind, several))
    refused = await connection.rows(sa.select(c.c.patient_id).distinct().where(own(connection, c), c.c.purpose == PURPOSE, ~c.c.given))
    who = {merged.get(one, one) for one in (UUID(str(r["patient_id"])) for r in refused)}
    decisions = await _decisions(connection, [*who, *(registration for registration, person in merged.items() if person in who)])
    return sorted(not_counted(merged, _hidden(people), decisions, frozen_at, [r["patient_id"] for r in facts])), merged


def _ids(ids: Sequence[UUID]) -> Any:
    """Return ids as one array: a statement takes 32,767 parameters, and a partner may have more patients."""
    return sa.cast(list(ids), ARRAY(sa.Uuid))


async def exact_counts(connection: Connection, quarter: str, family: Family, dimensions: Sequence[str]) -> dict[tuple[str, ...], dict[str, int]]:
    """Return the exact components of each cell that has a fact. They are for noise alone."""
    f = outcome_fact
    by = [f.c[name] for name in dimensions]
    out, _ = await left_out(connection, quarter, family.fact)
    query = sa.select(*by, *(_counted(c).label(f"component_{n}") for n, c in enumerate(family.components))).select_from(f)
    query = query.where(own(connection, f), f.c.quarter == quarter, f.c.kind == family.fact, f.c.patient_id != sa.all_(_ids(out))).group_by(*by)
    rows = await connection.rows(query)
    return {tuple(r[d] for d in dimensions): {c.name: int(r[f"component_{n}"]) for n, c in enumerate(family.components)} for r in rows}


def _counted(component: Component) -> Any:
    column = None if component.column is None else outcome_fact.c[component.column]
    if column is None:
        return sa.func.count()
    if component.of == "number":
        bound = component.bound or 0
        cut = sa.func.least(sa.func.greatest(column, sa.literal(-bound)), sa.literal(bound))
        return sa.func.coalesce(sa.func.sum(cut).filter(column.is_not(None)), 0)  # GREATEST and LEAST pass over what is not known
    wanted = {"flag": column.is_(sa.true()), "known": column.is_not(None), "is": column == component.name}[component.of]
    return sa.func.count().filter(wanted)


async def records(connection: Connection, quarters: Sequence[str]) -> list[Row]:
    """Return the facts of ended courses of some quarters, the oldest quarter first, each with its person, for an extract."""
    f, found = outcome_fact, []
    for quarter in quarters:
        out, merged = await left_out(connection, quarter, "end")
        query = sa.select(f).where(own(connection, f), f.c.quarter == quarter, f.c.kind == "end", f.c.patient_id != sa.all_(_ids(out)))
        found += [
            row | {"person_id": merged.get(row["patient_id"], row["patient_id"])} for row in await connection.rows(query.order_by(f.c.patient_id))
        ]
    return found
