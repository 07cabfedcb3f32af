"""What the gates, the trajectory and the timeline ask of an episode's rows."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.store.database import Connection, Row
from app.store.people import in_caseload, in_team, listed, of_patient
from app.store.rows import own, page
from app.store.statements import EACH, any_of, given, prepared
from app.store.tables.inventory import relationship
from app.store.tables.people import care_team, consent, episode, patient
from app.store.tables.work import (
    assessment,
    classification,
    contract,
    focus,
    follow_up,
    formulation,
    phase_task,
    risk_alert,
    session,
)


async def gate_facts(connection: Connection, episode_ids: Sequence[UUID]) -> dict[UUID, Row]:
    """Return in one statement, for each episode, the counts and flags that the gates look at."""
    return {r["episode_id"]: r for r in await connection.rows(_gate_facts, episode_ids=list(episode_ids))}


@prepared
def _gate_facts() -> sa.Select[Any]:
    e, p = episode, patient

    def of(table: sa.Table, *more: sa.ColumnElement[bool]) -> Any:
        return [own(EACH, table), table.c.episode_id == e.c.id, *more]

    def the(value: Any, *where: Any) -> Any:
        return sa.select(value).where(*where).correlate(e, p).scalar_subquery()

    def listed(value: Any, *where: Any) -> Any:
        return the(sa.func.coalesce(sa.func.jsonb_agg(value), sa.text("'[]'::jsonb")), *where)

    held = of(session, session.c.status == "held", ~session.c.entered_in_error)
    counted = [*held, sa.func.coalesce(session.c.kind, "course") == "course"]
    tasks = sa.func.coalesce(sa.func.jsonb_object_agg(phase_task.c.task, phase_task.c.status), sa.text("'{}'::jsonb"))
    return (
        sa.select(
            e.c.id.label("episode_id"),
            _newest_consent().label("consented"),
            listed(care_team.c.role, *of(care_team)).label("roles"),
            the(tasks, *of(phase_task)).label("tasks"),
            the(sa.func.count(), *of(relationship, relationship.c.deleted_at.is_(None))).label("relationships"),
            the(sa.func.count(), *counted).label("sessions_held"),
            the(sa.func.max(session.c.starts_at), *held).label("last_held_at"),
            listed(follow_up.c.months, *of(follow_up, follow_up.c.status != "declined")).label("follow_ups"),
            the(focus.c.patient_agreed, *of(focus)).label("focus_agreed"),
            the(focus.c.flags, *of(focus)).label("focus_flags"),
            the(formulation.c.told_on, *of(formulation)).label("formulation_told_on"),
            the(contract.c.patient_agreed, *of(contract)).label("contract_agreed"),
            the(contract.c.sessions, *of(contract)).label("contracted_sessions"),
            the(contract.c.frequency, *of(contract)).label("frequency"),
            the(contract.c.ends_on, *of(contract)).label("ends_on"),
        )
        .join(p, (p.c.partner_id == e.c.partner_id) & (p.c.id == e.c.patient_id))
        .where(own(EACH, e), e.c.id == any_of("episode_ids", e.c.id))
    )


def _newest_consent() -> Any:
    """Select the newest decision on treatment of the person: consents given under a duplicate registration count too."""
    root = sa.func.coalesce(patient.c.merged_into, patient.c.id)
    return (
        sa.select(consent.c.given)
        .where(own(EACH, consent), of_patient(EACH, consent.c.patient_id, root), consent.c.purpose == "treatment")
        .order_by(consent.c.decided_at.desc(), consent.c.id.desc())
        .limit(1)
        .correlate(episode, patient)
        .scalar_subquery()
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


async def next_session_number(connection: Connection, episode_id: UUID) -> int:
    """Return the number that the next held session gets. The caller holds the episode's lock."""
    return int(await connection.value(_last_number, episode_id=episode_id) or 0) + 1


@prepared
def _last_number() -> sa.Select[Any]:
    mine = session.c.episode_id == given("episode_id", sa.Uuid())
    return sa.select(sa.func.max(session.c.number)).where(own(EACH, session), mine, ~session.c.entered_in_error)


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
