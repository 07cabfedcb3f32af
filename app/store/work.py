"""What the gates, the trajectory and the timeline ask of an episode's rows."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by

from app.store.database import Connection, Row
from app.store.people import charts, decision_on, in_caseload, in_team, listed, person_of
from app.store.rows import own, page
from app.store.statements import EACH, Prepared, any_of, given, prepared
from app.store.tables.inventory import relationship
from app.store.tables.people import care_team, episode, patient
from app.store.tables.work import (
    assessment,
    classification,
    contract,
    focus,
    follow_up,
    formulation,
    phase_task,
    phase_transition,
    risk_alert,
    session,
    termination,
)


async def gate_facts(connection: Connection, episode_ids: Sequence[UUID]) -> dict[UUID, Row]:
    """Return in one statement, for each episode, the counts and flags that the gates look at."""
    return {r["episode_id"]: _counted(r) for r in await connection.rows(_gate_facts, episode_ids=list(episode_ids))}


def _counted(row: Row) -> Row:
    """Spread what came as one value, and let what there is none of be empty."""
    number, last = row.pop("held")
    row["sessions_held"], row["last_held_at"] = number, last and datetime.fromisoformat(last)
    return row | {"roles": row["roles"] or [], "tasks": row["tasks"] or {}, "follow_ups": row["follow_ups"] or []}


@prepared
def _gate_facts() -> sa.Select[Any]:
    e, p = episode, patient
    consented = decision_on(EACH, person_of(p), "treatment", p).scalar_subquery()
    base = sa.select(e.c.id.label("episode_id"), consented.label("consented")).where(own(EACH, e), e.c.id == any_of("episode_ids", e.c.id))
    return _with_counts(base.join(p, (p.c.partner_id == e.c.partner_id) & (p.c.id == e.c.patient_id)))


async def find_course(connection: Connection, episode_id: UUID, clinician_id: UUID | None) -> Row | None:
    """Return a chart of the caseload together with all that the gates look at, in one statement, or None.

    The counts and flags stand beside the chart's own columns; the record of the ending in columns `ending_<name>`; `scores` lists the valid
    assessments, oldest first, each as the values of SCORED.
    """
    found = await connection.first(_course(of_clinician=clinician_id is not None), episode_id=episode_id, clinician_id=clinician_id)
    return None if found is None else _counted(found)


SCORED = ("instrument", "respondent", "answered_at", "follow_up_id", "partial_sum", "total", "band", "is_case", "missing", "prorated", "scales")


@cache
def _course(*, of_clinician: bool) -> Prepared:
    t, a = termination, assessment
    each = aggregate_order_by(sa.func.json_build_array(*(a.c[name] for name in SCORED)), a.c.answered_at, a.c.id)
    found = sa.select(sa.func.json_agg(each)).where(own(EACH, a), a.c.episode_id == episode.c.id, ~a.c.entered_in_error)
    base = (
        charts(EACH, given("clinician_id", sa.Uuid()) if of_clinician else None)
        .add_columns(found.correlate(episode).scalar_subquery().label("scores"), *(c.label(f"ending_{c.name}") for c in t.c))
        .outerjoin(t, (t.c.partner_id == episode.c.partner_id) & (t.c.episode_id == episode.c.id))
        .where(episode.c.id == given("episode_id", sa.Uuid()))
    )
    return Prepared(lambda: _with_counts(base))


def _with_counts(query: sa.Select[Any]) -> sa.Select[Any]:
    """Add the counts and flags of an episode to a query of episodes: what there is one of is joined, the rest is counted by index."""
    e = episode
    for table in (focus, formulation, contract):  # one of each to an episode
        query = query.outerjoin(table, (table.c.partner_id == e.c.partner_id) & (table.c.episode_id == e.c.id))

    def the(value: Any, table: sa.Table, *more: sa.ColumnElement[bool]) -> Any:
        return sa.select(value).where(own(EACH, table), table.c.episode_id == e.c.id, *more).correlate(e).scalar_subquery()

    def listed(value: Any, table: sa.Table, *more: sa.ColumnElement[bool]) -> Any:
        return the(sa.func.json_agg(value), table, *more)

    numbered = sa.func.count().filter(sa.func.coalesce(session.c.kind, "course") == "course")
    return query.add_columns(
        listed(care_team.c.role, care_team).label("roles"),
        the(sa.func.json_object_agg(phase_task.c.task, phase_task.c.status), phase_task).label("tasks"),
        the(sa.func.count(), relationship, relationship.c.deleted_at.is_(None)).label("relationships"),
        the(sa.func.array_agg(follow_up.c.months), follow_up, follow_up.c.status != "declined").label("follow_ups"),
        the(
            sa.func.json_build_array(numbered, sa.func.max(session.c.starts_at)), session, session.c.status == "held", ~session.c.entered_in_error
        ).label("held"),
        focus.c.patient_agreed.label("focus_agreed"),
        focus.c.flags.label("focus_flags"),
        formulation.c.told_on.label("formulation_told_on"),
        contract.c.patient_agreed.label("contract_agreed"),
        contract.c.sessions.label("contracted_sessions"),
        contract.c.frequency,
        contract.c.ends_on,
    )


async def scores(connection: Connection, *episode_ids: UUID) -> list[Row]:
    """Return every valid assessment of the episodes, oldest first, with the number of its session."""
    return await connection.rows(_scores, episode_ids=list(episode_ids))


@prepared
def _scores() -> sa.Select[Any]:
    return (
        sa.select(assessment, session.c.number.label("session_number"))
        .outerjoin(session, (session.c.partner_id == assessment.c.partner_id) & (session.c.id == assessment.c.session_id))
        .where(own(EACH, assessment), assessment.c.episode_id == any_of("episode_ids", assessment.c.episode_id), ~assessment.c.entered_in_error)
        .order_by(assessment.c.answered_at, assessment.c.id)
    )


async def sessions_held_before(connection: Connection, episode_id: UUID, moment: Any) -> int:
    """Return how many sessions of the course were held up to a moment."""
    query = sa.select(sa.func.count()).where(
        own(connection, session),
        session.c.episode_id == episode_id,
        session.c.status == "held",
        session.c.number.is_not(None),
        ~session.c.entered_in_error,
        session.c.starts_at <= moment,
    )
    return int(await connection.value(query) or 0)


async def session_facts(connection: Connection, episode_id: UUID, session_id: UUID | None, moment: datetime) -> Row:
    """Return what recording a session looks at. The caller holds the episode's lock.

    `phase` the course was in at the moment (None before its first step), `ends_on` of the contract, `marked` relationships with a safety mark,
    the `last_number` given (None before the first), and whether a session of this id is `known`.
    """
    return (await connection.rows(_session_facts, episode_id=episode_id, session_id=session_id, moment=moment))[0]


@prepared
def _session_facts() -> sa.Select[Any]:
    of = given("episode_id", sa.Uuid())
    t, r = phase_transition, relationship

    def the(query: sa.Select[Any], name: str) -> Any:
        return query.scalar_subquery().label(name)

    steps = sa.select(t.c.to_phase).where(own(EACH, t), t.c.episode_id == of, t.c.occurred_at <= given("moment", t.c.occurred_at))
    mine = (own(EACH, session), session.c.episode_id == of, ~session.c.entered_in_error)
    marked = (own(EACH, r), r.c.episode_id == of, r.c.deleted_at.is_(None), r.c.safety != "none")
    known = sa.exists().where(own(EACH, session), session.c.id == given("session_id", sa.Uuid()))
    return sa.select(
        the(steps.order_by(t.c.occurred_at.desc(), t.c.id.desc()).limit(1), "phase"),
        the(sa.select(contract.c.ends_on).where(own(EACH, contract), contract.c.episode_id == of), "ends_on"),
        the(sa.select(sa.func.array_agg(r.c.id)).where(*marked), "marked"),
        the(sa.select(sa.func.max(session.c.number)).where(*mine), "last_number"),
        known.label("known"),
    )


async def open_alert(connection: Connection, episode_id: UUID, kind: str) -> Row | None:
    """Return the episode's open or acknowledged alert of a kind, or None."""
    return await connection.first(_open_alert, episode_id=episode_id, kind=kind)


@prepared
def _open_alert() -> sa.Select[Any]:
    t = risk_alert
    wanted = (t.c.episode_id == given("episode_id", sa.Uuid()), t.c.kind == given("kind", t.c.kind), t.c.status != "closed")
    return sa.select(t).where(own(EACH, t), *wanted)


async def overdue_alerts(connection: Connection, now: datetime) -> list[Row]:
    """Return the partner's alerts that somebody should have looked at: open and due, or acknowledged with a finding that has run out."""
    t = risk_alert
    waiting = sa.and_(t.c.status == "open", t.c.due_at <= now)
    expired = sa.and_(t.c.status == "acknowledged", t.c.known_stable_until <= now)
    return await connection.rows(sa.select(t.c.id, t.c.episode_id).where(own(connection, t), sa.or_(waiting, expired)).order_by(t.c.due_at))


async def latest_classification(connection: Connection, episode_id: UUID) -> Row | None:
    """Return the newest run of the classifier, or None."""
    query = sa.select(classification).where(own(connection, classification), classification.c.episode_id == episode_id)
    return await connection.first(query.order_by(classification.c.created_at.desc(), classification.c.id.desc()).limit(1))


async def decisions_with_runs(connection: Connection, start: date | None, end: date | None) -> list[Row]:
    """Return every standing decision on a focus, with the result of the run that it had before it; by the day of the decision (UTC)."""
    f, c = focus, classification
    query = (
        sa.select(f.c.primary_area, f.c.secondary_area, f.c.decided_at, c.c.result)
        .outerjoin(c, (c.c.partner_id == f.c.partner_id) & (c.c.id == f.c.classification_id))
        .where(own(connection, f))
    )
    day = sa.cast(f.c.decided_at, sa.Date)
    query = query.where(day >= start) if start else query
    return await connection.rows((query.where(day <= end) if end else query).order_by(f.c.decided_at))


async def page_chart(
    connection: Connection, table: sa.Table, episode_id: UUID, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Return a page of an episode's rows by id; a filter names a column, its value or a (from, to) range."""
    query = sa.select(table).where(own(connection, table), table.c.episode_id == episode_id)
    if "deleted_at" in table.c:
        query = query.where(table.c.deleted_at.is_(None))
    query = query.where(*_conditions(table, filters))
    return await page(connection, query, [table.c.id], after, limit)


async def page_alerts(
    connection: Connection, clinician_id: UUID | None, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Return a page of alerts in the order of their opening: a key that never moves, so no page loses one."""
    query = sa.select(risk_alert).where(
        own(connection, risk_alert),
        in_team(connection, clinician_id, risk_alert.c.patient_id, risk_alert.c.episode_id),
        listed(connection, risk_alert.c.patient_id, restricted=True),
        *_conditions(risk_alert, filters),
    )
    return await page(connection, query, [risk_alert.c.opened_at, risk_alert.c.id], after, limit)


async def page_sessions(
    connection: Connection, clinician_id: UUID | None, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Return a page of the caseload's sessions by id."""
    query = sa.select(session).where(
        own(connection, session),
        in_team(connection, clinician_id, session.c.patient_id, session.c.episode_id),
        listed(connection, session.c.patient_id),
        *_conditions(session, filters),
    )
    return await page(connection, query, [session.c.id], after, limit)


async def find_alert(connection: Connection, alert_id: UUID, clinician_id: UUID | None) -> Row | None:
    """Return an alert of the caseload, or None."""
    query = sa.select(risk_alert).where(
        own(connection, risk_alert),
        risk_alert.c.id == alert_id,
        in_caseload(connection, clinician_id, patient_id=risk_alert.c.patient_id, episode_id=risk_alert.c.episode_id),
    )
    return await connection.first(query)


def _conditions(table: sa.Table, filters: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    for name, value in filters.items():
        column = table.c[name]
        if isinstance(value, tuple):
            found += [column >= value[0]] if value[0] is not None else []
            found += [column <= value[1]] if value[1] is not None else []
        elif value is not None:
            found.append(column.in_(value) if isinstance(value, list) else column == value)
    return found
