"""Freezing a quarter: one fact for each person from the courses that ended in it, and from its follow-ups. Frozen facts are never made anew."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from app.actions.scoring import BY_PATIENT, score_of
from app.domain.instruments import is_adult
from app.domain.outcome_facts import EndedCourse, describe, fact_of, follow_up_fact
from app.domain.outcome_tables import CAPS, schema_version
from app.domain.people import today_of
from app.domain.phase import FINAL_MEASURE_WITHIN
from app.domain.quarters import Quarter, frozen_by, quarter_from
from app.domain.scoring import Score
from app.store.database import Connection, Row
from app.store.facts import add_facts, add_quarter, ended_between, followed_up_between, frozen_quarters, work_of
from app.store.releases import add_budget

COURSES_AT_ONCE = 500
FOLLOW_UP_MONTHS = (3, 6)


async def open_quarter(
    connection: Connection, population: UUID, dataset: str, quarter: Quarter, now: datetime, members: Sequence[UUID] | None
) -> bool:
    """Note a quarter as frozen and open its budgets; False when that is done. `members`: of a network; an empty one is not open."""
    is_open = members is None or bool(members)
    if not await add_quarter(connection, population, str(quarter), schema_version(), now, is_open=is_open, members=members):
        return False
    if is_open:
        for (of, scope), cap in CAPS.items():
            if of == dataset:
                await add_budget(connection, population, str(quarter), scope, cap)
    return True


async def freeze_quarter(connection: Connection, quarter: Quarter, now: datetime) -> int | None:
    """Freeze a quarter of the partner that the connection is confined to; return how many facts, None when it was frozen before.

    What was recorded too late for an earlier quarter goes into this one, when it is the newest: an earlier one is never made anew.
    """
    partner_id = connection.partner_id
    assert partner_id is not None
    before = await frozen_quarters(connection, partner_id)
    if not await open_quarter(connection, partner_id, "partner", quarter, now, None):
        return None
    newest = quarter == frozen_by(now)[-1]
    late = [(q.begins, q.ends, row["frozen_at"]) for name, row in before.items() if newest and (q := quarter_from(name)) < quarter]
    number = await _freeze_ended(connection, quarter, await ended_between(connection, quarter.begins, quarter.ends, late))
    for months in FOLLOW_UP_MONTHS:
        rows = await followed_up_between(connection, months, quarter.begins.date(), quarter.ends.date())
        number += await _freeze_follow_ups(connection, quarter, months, rows)
    return number


async def _freeze_ended(connection: Connection, quarter: Quarter, rows: Sequence[Row]) -> int:
    number = 0
    for start in range(0, len(rows), COURSES_AT_ONCE):
        facts = [_placed(quarter, "end", row) | fact_of(course) for row, course in await _courses(connection, rows[start : start + COURSES_AT_ONCE])]
        await add_facts(connection, facts)
        number += len(facts)
    return number


async def _freeze_follow_ups(connection: Connection, quarter: Quarter, months: int, rows: Sequence[Row]) -> int:
    number, kind = 0, f"follow_up_{months}"
    adults = [r for r in rows if is_adult(r["age_at_referral"])]
    for start in range(0, len(adults), COURSES_AT_ONCE):
        courses = await _courses(connection, adults[start : start + COURSES_AT_ONCE])
        facts = [_placed(quarter, kind, row) | follow_up_fact(describe(course), row["total"]) for row, course in courses]
        await add_facts(connection, facts)
        number += len(facts)
    return number


def _placed(quarter: Quarter, kind: str, row: Row) -> dict[str, Any]:
    return {"quarter": str(quarter), "kind": kind, "patient_id": row["person_id"], "episode_id": row["id"]}


async def _courses(connection: Connection, rows: Sequence[Row]) -> list[tuple[Row, EndedCourse]]:
    """Return courses in plain values, those with a numbered session that was held."""
    sessions, scores, areas = await work_of(connection, [r["id"] for r in rows])
    held: dict[UUID, list[Row]] = defaultdict(list)
    totals: dict[UUID, list[Row]] = defaultdict(list)
    for row in sessions:
        held[row["episode_id"]].append(row)
    for row in scores:
        if row["respondent"] in BY_PATIENT:
            totals[row["episode_id"]].append(row)
    return [(r, _course(r, held[r["id"]], totals[r["id"]], areas.get(r["id"]))) for r in rows if any(s["number"] is not None for s in held[r["id"]])]


def _course(row: Row, sessions: Sequence[Row], totals: Sequence[Row], area: str | None) -> EndedCourse:
    zone = row["time_zone"]
    scores: dict[str, list[tuple[Any, Score]]] = defaultdict(list)
    for score in totals:
        scores[score["instrument"]].append((today_of(zone, score["answered_at"]), score_of(score)))
    last_held, ended = today_of(zone, sessions[-1]["starts_at"]), today_of(zone, row["ended_at"])
    return EndedCourse(
        age=row["age_at_referral"],
        sex=row["sex"],
        protocol=row["protocol_code"],
        area=area,
        ended_as=row["ended_as"] or row["status"],
        phase=row["phase"],
        held=[(today_of(zone, s["starts_at"]), s["mode"]) for s in sessions if s["number"] is not None],
        last_day=max(ended, last_held + FINAL_MEASURE_WITHIN),
        scores=scores,
    )
