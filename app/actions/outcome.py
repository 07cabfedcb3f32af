"""The outcome of one course, and its summary: what a discharge letter needs."""

from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from app.actions.ending import ending_view
from app.actions.facts import Gathered, day_of, end_of_treatment, gather_one
from app.actions.history import inventory_at, measures_of
from app.actions.people import episode_row
from app.actions.records import find_one, reveal
from app.actions.scoring import BY_PATIENT, score_of
from app.actions.trajectory import trajectory_of
from app.actions.visit import Chart, Visit, open_chart
from app.domain.instruments import instrument, is_adult
from app.domain.outcomes import END_WORDS, MARKERS, Pair, attendance, compare, end_code, finished_course, pair_of, verdict
from app.domain.people import today_of
from app.domain.risk import NO_EVIDENCE_OF_SAFETY
from app.domain.scoring import Z_95, reliable_change_threshold, standard_error_of_difference
from app.store.database import Row
from app.store.rows import rows_of
from app.store.tables.inventory import goal, problem
from app.store.tables.work import (
    contract,
    early_ending,
    focus,
    focus_area,
    follow_up,
    formulation,
    phase_transition,
    risk_alert,
    session,
    termination,
)
from app.store.tables.workflow import medication

RULES = ("nhs_talking_therapies", "phq9_only")


async def read_outcome(visit: Visit, episode_id: UUID) -> dict[str, Any]:
    """Return the outcome of a course by both rules, with what they were made of."""
    chart = await open_chart(visit, episode_id)
    return await outcome_of(visit, chart, await gather_one(visit, chart))


async def outcome_of(visit: Visit, chart: Chart, found: Gathered) -> dict[str, Any]:
    """Return the outcome of an open chart."""
    sessions = [s for s in await rows_of(visit.connection, session, "starts_at", episode_id=chart.episode_id) if not s["entered_in_error"]]
    counts = attendance(sessions)
    ended = chart.episode["status"] in {"completed", "ended_early", "closed"}
    finished = finished_course(ended=ended, attended=counts["attended"])
    adult = is_adult(chart.episode["age_at_referral"])
    held = [s["starts_at"] for s in sessions if s["status"] == "held" and s["number"] is not None]
    pairs = {code: pair for code in MARKERS if (pair := _pair(chart, found, code, held)) is not None}
    early = await find_one(visit, early_ending, chart)
    code = end_code(chart.episode["status"], early["reason"] if early and _ended_early(chart) else None)
    return {
        "episode_id": chart.episode_id,
        "status": chart.episode["status"],
        "finished_course": finished,
        "attendance": counts,
        "end_code": code,
        "end_code_words": END_WORDS.get(code or ""),
        "verdicts": [asdict(verdict(rule, pairs, adult=adult, finished=finished)) for rule in RULES],
        "instruments": [_measured(pair, adult=adult) for pair in pairs.values()],
        "relationships": await _relationships(visit, chart),
        "denominators": {
            "recovery and reliable_recovery": "finished courses with caseness at the start",
            "reliable_improvement, reliable_deterioration, no_reliable_change": "finished courses with paired scores",
        },
    }


def _ended_early(chart: Chart) -> bool:
    return "ended_early" in {chart.episode["status"], chart.episode["ended_as"]}


def _pair(chart: Chart, found: Gathered, code: str, held: list[datetime]) -> Pair | None:
    """Return the first score, by the day of the first session, and the last one in the treatment; None without both."""
    own = [t for t in found.totals if t["instrument"] == code and t["total"] is not None and t["respondent"] in BY_PATIENT]
    if not held:
        return None
    days = [(today_of(chart.episode["time_zone"], t["answered_at"]), score_of(t)) for t in own if t["follow_up_id"] is None]
    return pair_of(instrument(code), days, first_day=day_of(chart, held[0]), last_day=end_of_treatment(chart, found.counts["last_held_at"]))


def _measured(pair: Pair, *, adult: bool) -> dict[str, Any]:
    known = pair.instrument
    found = compare(pair, adult=adult)
    index = known.reliable_change_index
    return {
        "code": known.code,
        "first": pair.first.total,
        "last": pair.last.total,
        "case_at_start": pair.first.case,
        "case_at_end": pair.last.case,
        "points": found.points if found else None,
        "reliable": found.reliable if found else "not_assessable",
        "response": found.response if found else None,
        "remission": found.remission if found else None,
        "jacobson_truax": None
        if index is None
        else {
            "index": found.index if found else None,
            "reliable_beyond": Z_95,
            "standard_error_of_difference": round(standard_error_of_difference(index), 3),
            "published_index_points": index,
            "threshold_points": reliable_change_threshold(index),
        },
    }


async def _relationships(visit: Visit, chart: Chart) -> dict[str, Any]:
    """Return how the relationships changed: the inventory's measures when the middle phase began, and now."""
    steps = await rows_of(visit.connection, phase_transition, "created_at", episode_id=chart.episode_id)
    began = next((s["created_at"] for s in steps if s["to_phase"] == "middle"), None)
    now = measures_of(await inventory_at(visit, chart, visit.now))
    before = None if began is None else measures_of(await inventory_at(visit, chart, began))
    return {"at_the_middle": before, "now": now}


async def read_summary(visit: Visit, episode_id: UUID) -> dict[str, Any]:
    """Return what a discharge letter needs, in plain values: who, what was agreed and worked on, scores, the ending, what comes next."""
    chart = await open_chart(visit, episode_id)
    found = await gather_one(visit, chart)
    outcome = await outcome_of(visit, chart, found)
    lines = (await trajectory_of(visit, chart, found.totals))["instruments"]
    ending = await find_one(visit, termination, chart)
    alerts = await rows_of(visit.connection, risk_alert, "opened_at", episode_id=episode_id)
    visit.trace.resources.append(f"summary/{episode_id}")
    return {
        "episode_id": episode_id,
        "patient": {"id": chart.patient_id, "locale": chart.episode["locale"], "time_zone": chart.episode["time_zone"]},
        "episode": episode_row(chart.episode),
        "protocol": {"code": chart.protocol.code, "version": chart.protocol.version, "name": chart.protocol.name},
        "contract": await find_one(visit, contract, chart),
        "focus": await find_one(visit, focus, chart),
        "focus_areas": await _revealed(visit, chart, focus_area),
        "formulation": await find_one(visit, formulation, chart),
        "problems": await _revealed(visit, chart, problem),
        "goals": await _revealed(visit, chart, goal),
        "medications": [m for m in await _revealed(visit, chart, medication, "started_on") if not m["entered_in_error"]],
        "outcome": outcome,
        "scores": [{k: line[k] for k in ("code", "respondent", "component", "baseline", "end_of_treatment", "latest")} for line in lines],
        "risk_alerts": [{k: a[k] for k in ("id", "kind", "level", "status", "opened_at", "closed_at")} for a in alerts],
        "termination": None if ending is None else ending | await ending_view(visit, chart, ending),
        "early_ending": await find_one(visit, early_ending, chart),
        "follow_ups": await _revealed(visit, chart, follow_up, "due_on"),
        "statement": NO_EVIDENCE_OF_SAFETY,
        "made_on": chart.today,
    }


async def _revealed(visit: Visit, chart: Chart, table: Any, *order: str) -> list[Row]:
    return [reveal(chart.key, table, r) for r in await rows_of(visit.connection, table, *order, episode_id=chart.episode_id)]
