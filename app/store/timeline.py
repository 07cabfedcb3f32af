"""A course as one timeline: which tables tell what, and the one statement that reads them."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.store.database import Connection, Row
from app.store.rows import own
from app.store.tables.inventory import life_event
from app.store.tables.people import episode
from app.store.tables.work import (
    assessment,
    classification,
    contract,
    early_ending,
    focus,
    follow_up,
    formulation,
    phase_transition,
    risk_alert,
    session,
    termination,
)

NOTHING = sa.null()
PASSED_OVER = sa.case((phase_transition.c.overridden != sa.text("'[]'::jsonb"), "overridden"), else_=phase_transition.c.from_phase)


@dataclass(frozen=True, slots=True)
class Entry:
    """What one table tells: when (a moment, or a day of the patient's calendar), its code and a detail."""

    kind: str
    table: sa.Table
    at: sa.ColumnElement[Any]
    code: sa.ColumnElement[Any]
    detail: sa.ColumnElement[Any] = NOTHING


ENTRIES = (
    Entry("illness_onset", episode, episode.c.illness_onset_date, episode.c.illness_onset_precision),
    Entry("referral", episode, episode.c.referred_on, episode.c.protocol_code),
    Entry("end", episode, episode.c.ended_at, episode.c.status),
    Entry("life_event", life_event, life_event.c.happened_on, life_event.c.type, life_event.c.linked_to_onset),
    Entry("session", session, session.c.starts_at, session.c.status, session.c.number),
    Entry("assessment", assessment, assessment.c.answered_at, assessment.c.instrument, assessment.c.total),
    Entry("phase", phase_transition, phase_transition.c.occurred_at, phase_transition.c.to_phase, PASSED_OVER),
    Entry("classification", classification, classification.c.created_at, classification.c.ruleset, classification.c.result["outcome"].astext),
    Entry("formulation", formulation, formulation.c.told_on, NOTHING),
    Entry("contract", contract, contract.c.agreed_on, contract.c.sessions, contract.c.ends_on),
    Entry("focus", focus, focus.c.decided_at, focus.c.primary_area, focus.c.secondary_area),
    Entry("risk_alert", risk_alert, risk_alert.c.opened_at, risk_alert.c.level, risk_alert.c.status),
    Entry("follow_up", follow_up, sa.func.coalesce(follow_up.c.held_on, follow_up.c.due_on), follow_up.c.status, follow_up.c.months),
    Entry("early_ending", early_ending, early_ending.c.ended_on, early_ending.c.reason),
    Entry("end_date_told", termination, termination.c.end_date_told_on, termination.c.end_date),
)


async def timeline(connection: Connection, episode_id: UUID, time_zone: str) -> list[Row]:
    """Return what happened, oldest first, as (at, kind, id, code, detail): codes and numbers only, in one statement."""
    union = sa.union_all(*(_selected(connection, entry, episode_id, time_zone) for entry in ENTRIES)).subquery()
    return await connection.rows(sa.select(union).order_by(union.c.at, union.c.kind, union.c.id))


def _selected(connection: Connection, entry: Entry, episode_id: UUID, time_zone: str) -> sa.Select[Any]:
    """Select one table's entries: those that have a time, and were neither deleted nor entered in error."""
    table = entry.table
    is_day = isinstance(entry.at.type, sa.Date)
    at = sa.func.timezone(time_zone, sa.cast(entry.at, sa.TIMESTAMP)) if is_day else entry.at  # a day begins at the patient's midnight
    where = [own(connection, table), entry.at.is_not(None), (table.c.id if table is episode else table.c.episode_id) == episode_id]
    where += [table.c.deleted_at.is_(None)] if "deleted_at" in table.c else []
    where += [~table.c.entered_in_error] if "entered_in_error" in table.c else []
    return sa.select(
        sa.cast(at, sa.TIMESTAMP(timezone=True)).label("at"),
        sa.literal(entry.kind).label("kind"),
        table.c.id,
        sa.cast(entry.code, sa.Text).label("code"),
        sa.cast(entry.detail, sa.Text).label("detail"),
    ).where(*where)
