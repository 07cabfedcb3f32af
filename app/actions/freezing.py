"""Freezing a quarter: one fact for each person from the courses that ended in it, and from its follow-ups. Frozen facts are never made anew."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from app.actions.scoring import BY_PATIENT, score_of
from app.domain.instruments import is_adult
from app.domain.outcome_facts import EndedCourse, describe, fact_of, follow_up_fact, may_be_counted
from app.domain.outcome_tables import CAPS, schema_version
from app.domain.people import today_of
from app.domain.phase import FINAL_MEASURE_WITHIN
from app.domain.quarters import Quarter, frozen_by, quarter_from
from app.domain.scoring import Score
from app.store.database import Connection, Row
from app.store.facts import add_facts, add_quarter, ended_between, followed_up_between, frozen_quarters, standing_of, used_already, work_of
from app.store.releases import add_budget

PEOPLE_AT_ONCE = 500
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

    A course whose end was recorded too late for an earlier quarter goes into this one, when it is the newest: an earlier one is never made anew.
    Scores and follow-ups that come after the freeze are not counted any more. A fact carries the registration that the course is of; that one
    person gives one is held here, and where several registrations are found to be one person later, where facts are counted.
    """
    partner_id = connection.partner_id
    assert partner_id is not None
    before = await frozen_quarters(connection, partner_id)
    if not await open_quarter(connection, partner_id, "partner", quarter, now, None):
        return None
    newest = quarter == frozen_by(now)[-1]
    late = [(q.begins, q.ends, row["frozen_at"]) for name, row in before.items() if newest and (q := quarter_from(name)) < quarter]
    number = 0
    for kind, rows in (
        ("end", await ended_between(connection, quarter.begins, quarter.ends, late)),
        *[(f"follow_up_{m}", await followed_up_between(connection, m, quarter.begins.date(), quarter.ends.date())) for m in FOLLOW_UP_MONTHS],
    ):
        people = [list(own) for _, own in groupby(rows, key=lambda r: r["person_id"])]
        for start in range(0, len(people), PEOPLE_AT_ONCE):
            facts = await _facts(connection, quarter, kind, people[start : start + PEOPLE_AT_ONCE])
            await add_facts(connection, facts)
            number += len(facts)
    return number


async def _facts(connection: Connection, quarter: Quarter, kind: str, people: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
    """Return one fact for each person who may be counted: of the first of their courses that can give one."""
    counted = may_be_counted(*await standing_of(connection, kind, [own[0]["person_id"] for own in people]))
    used = await used_already(connection, kind, [r["id"] for own in people for r in own])
    rows = [r for own in people for r in own if r["person_id"] in counted and r["id"] not in used]
    facts: dict[UUID, dict[str, Any]] = {}
    for row, course in await _courses(connection, rows):
        if row["person_id"] in facts or (kind != "end" and not is_adult(course.age)):
            continue
        made = fact_of(course) if kind == "end" else follow_up_fact(describe(course), row["total"])
        placed = {"quarter": str(quarter), "kind": kind, "patient_id": row["patient_id"], "episode_id": row["id"]}
        facts[row["person_id"]] = placed | made
    return list(facts.values())


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
