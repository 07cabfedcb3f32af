"""The worklist: everything owed in one course, or over a caseload, gathered in a handful of statements for all of them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from app.actions.ending import owed_tasks
from app.actions.facts import Gathered, gather, proposals_for, score_dates
from app.actions.records import reveal
from app.actions.scoring import score_of
from app.actions.trajectory import activity_levels
from app.actions.visit import Chart, Visit, chart_of, open_chart
from app.domain.due import Course, Due, due_items, order
from app.domain.instruments import instrument, is_adult
from app.domain.inventory import next_questions
from app.domain.people import today_of
from app.domain.phase import RUNNING
from app.domain.problem_area import ruleset
from app.domain.scoring import change
from app.domain.sessions import activity_trend
from app.domain.workflow import worse_after
from app.store.database import Row
from app.store.people import page_charts
from app.store.rows import rows_of
from app.store.tables.inventory import life_event, relationship
from app.store.tables.work import classification, early_ending, follow_up, risk_alert, session
from app.store.tables.workflow import assessment_request, change_attempt, homework, status_change

ROWS_OF = (
    risk_alert,
    session,
    status_change,
    follow_up,
    assessment_request,
    homework,
    change_attempt,
    relationship,
    life_event,
    classification,
    early_ending,
)
STABLE_NOTICE = timedelta(days=3)  # own design
AREA_PHASES = {"screening", "initial"}


async def due_of(visit: Visit, episode_id: UUID) -> list[Due]:
    """Return everything owed in one course, most urgent first."""
    chart = await open_chart(visit, episode_id)
    return (await _due(visit, [chart]))[episode_id]


async def due_over_caseload(visit: Visit, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int) -> tuple[list[Row], list[Row]]:
    """Return the worklist over one page of courses, most urgent first, and the courses (one too many says that there are more)."""
    rows = await page_charts(visit.connection, visit.caller.clinician_id, filters, after, limit)
    charts = [chart_of(visit, r) for r in rows[:limit]]
    found = await _due(visit, charts)
    kind = filters.get("kind")
    items = [(due, chart) for chart in charts for due in found[chart.episode_id] if kind in {None, due.kind}]
    items.sort(key=lambda pair: order(pair[0]))
    visit.trace.patient_id = None
    visit.trace.resources += [f"episode/{c.episode_id}" for c in charts]
    return [due_row(due, chart) for due, chart in items], rows


def due_row(due: Due, chart: Chart) -> Row:
    """Return one item with the course and the patient that it belongs to."""
    members = {name: getattr(due, name) for name in Due.__slots__}
    return {**members, "episode_id": chart.episode_id, "patient_id": chart.patient_id}


async def _due(visit: Visit, charts: list[Chart]) -> dict[UUID, list[Due]]:
    if not charts:
        return {}
    ids = [c.episode_id for c in charts]
    gathered = await gather(visit, charts)
    rows: dict[str, dict[UUID, list[Row]]] = {t.name: {i: [] for i in ids} for t in ROWS_OF}
    for table in ROWS_OF:
        for row in await rows_of(visit.connection, table, "created_at", episode_id=ids):
            if not row.get("entered_in_error"):
                rows[table.name][row["episode_id"]].append(row)
    return {c.episode_id: due_items(_course(visit, c, gathered[c.episode_id], {n: r[c.episode_id] for n, r in rows.items()})) for c in charts}


def _course(visit: Visit, chart: Chart, found: Gathered, rows: dict[str, list[Row]]) -> Course:
    endings = rows["early_ending"] if chart.episode["status"] == "ended_early" else []
    return Course(
        facts=found.facts,
        protocol=chart.protocol,
        now=visit.now,
        alerts=[a for a in rows["risk_alert"] if a["status"] != "closed"],
        sessions=rows["session"],
        answers=score_dates(found.totals),
        requests=[_request(r) for r in rows["assessment_request"] if r["status"] == "open"],
        follow_ups=[{**r, "due_at": _start_of(chart, r["due_on"])} for r in rows["follow_up"] if r["status"] == "booked"],
        homework=[_homework(chart, r) for r in rows["homework"] if r["status"] == "agreed"],
        reviews=_reviews(visit, chart, found, rows),
        proposals=proposals_for(chart, found),
        questions=_questions(chart, rows),
        early_ending_owed=owed_tasks(endings[-1] if endings else None),
    )


def _start_of(chart: Chart, day: date | None) -> datetime | None:
    """Return the beginning of a day of the patient's calendar."""
    return None if day is None else datetime.combine(day, time.min, ZoneInfo(chart.episode["time_zone"])).astimezone(UTC)


def _request(row: Row) -> Row:
    title = f"{row['instrument']} asked of {row['respondent']}"
    return {"code": row["instrument"], "title": title, "due_at": row["due_at"], "resource": f"assessment_request/{row['id']}"}


def _homework(chart: Chart, row: Row) -> Row:
    return {"code": "homework", "title": "Homework agreed", "due_at": _start_of(chart, row["due_on"]), "resource": f"homework/{row['id']}"}


def _reviews(visit: Visit, chart: Chart, found: Gathered, rows: dict[str, list[Row]]) -> list[str]:
    """Return what a clinician should look at again: reasons by code."""
    due = _course_reviews(chart, found, rows) if chart.episode["status"] in RUNNING else []
    stable = [a["known_stable_until"] for a in rows["risk_alert"] if a["status"] == "acknowledged" and a["known_stable_until"]]
    if any(until - visit.now <= STABLE_NOTICE for until in stable):
        due.append("known_stable_expires")
    if any(r["safety_lift_asked_by"] is not None for r in rows["relationship"]):
        due.append("safety_lift_waits")
    return due


def _course_reviews(chart: Chart, found: Gathered, rows: dict[str, list[Row]]) -> list[str]:
    """Return what a running course gives reason to look at again."""
    due = []
    phq9 = instrument("PHQ-9")
    own = [t for t in found.totals if t["instrument"] == phq9.code and t["total"] is not None and t["follow_up_id"] is None]
    adult = is_adult(chart.episode["age_at_referral"])
    if len(own) > 1:
        numbered = [s for s in rows["session"] if s["number"] is not None and s["starts_at"] <= own[-1]["answered_at"]]
        held = own[-1]["session_number"] or len(numbered)
        compared = change(phq9, score_of(own[0]), score_of(own[-1]), adult=adult, sessions_held=held)
        if compared is not None and compared.on_track is False:
            due.append("not_on_track")
    scores = [(today_of(chart.episode["time_zone"], t["answered_at"]), t["total"]) for t in own]
    if adult and any(a["result"] is None and worse_after(a["tried_on"], scores, phq9.reliable_change or 0) for a in rows["change_attempt"]):
        due.append("worse_after_change_attempt")
    if found.facts.phase == "termination" and activity_trend(activity_levels(rows["session"], rows["status_change"])) == "rising":
        due.append("supervision_therapist_activity")
    if "changed_after_half_of_contract" in (found.counts["focus_flags"] or []) and found.facts.phase == "middle":
        due.append("focus_late")
    return due


def _questions(chart: Chart, rows: dict[str, list[Row]]) -> list[tuple[str, str]]:
    """Return the next questions of the inventory while it is being taken, then those that the classification lacks."""
    if chart.episode["phase"] not in AREA_PHASES or not chart.protocol.four_areas:
        return []
    people = [reveal(chart.key, relationship, r) for r in rows["relationship"]]
    onset = chart.episode["illness_onset_date"] is not None
    asked = [("inventory", q) for q in next_questions(people, onset_known=onset, events=len(rows["life_event"]))]
    if chart.episode["classifier_on"] and rows["classification"]:
        known = {i.code: i.question for a in ruleset().areas for i in (a.gate, *a.indicators)}
        asked += [(q["indicator"], known.get(q["indicator"], q["question"])) for q in rows["classification"][-1]["result"]["questions"]]
    return asked
