"""The trajectory: every score over the course, by component, with phases, medication and the therapist's activity."""

from typing import Any
from uuid import UUID

from app.actions.facts import in_treatment
from app.actions.records import reveal
from app.actions.scoring import score_of
from app.actions.visit import Chart, Visit, open_chart
from app.domain.instruments import Instrument, instrument, is_adult
from app.domain.scoring import ON_TRACK_RULE, change, headline
from app.domain.sessions import activity_slope, activity_trend, thirds
from app.domain.termination import follow_up_finding
from app.store.database import Row
from app.store.rows import rows_of
from app.store.tables.work import phase_transition, session
from app.store.tables.workflow import medication, status_change
from app.store.work import scores

RISE_NEAR_THE_END = "A rise of symptoms near the end is common; assess it."  # Source: Weissman, Markowitz and Klerman 2000
BY_PERSON = {"clinician_read_aloud": "patient"}


async def read_trajectory(visit: Visit, episode_id: UUID) -> dict[str, Any]:
    """Return each instrument's scores over the course with change from baseline, bands, caseness and the on-track rule."""
    return await trajectory_of(visit, await open_chart(visit, episode_id))


async def trajectory_of(visit: Visit, chart: Chart, rows: list[Row] | None = None) -> dict[str, Any]:
    """Return the trajectory of an open chart."""
    rows = await scores(visit.connection, chart.episode_id) if rows is None else rows
    held = [s for s in await rows_of(visit.connection, session, "starts_at", episode_id=chart.episode_id, status="held") if not s["entered_in_error"]]
    steps = await rows_of(visit.connection, phase_transition, "occurred_at", episode_id=chart.episode_id)
    taken = [r for r in await rows_of(visit.connection, medication, "started_on", episode_id=chart.episode_id) if not r["entered_in_error"]]
    visit.trace.resources += [f"assessment/{r['id']}" for r in rows]
    last_held = max((s["starts_at"] for s in held), default=None)
    own_rows = [{**r, "treated": in_treatment(chart, last_held, r)} for r in rows]
    adult = is_adult(chart.episode["age_at_referral"])
    lines = sorted(
        {(r["instrument"], str(BY_PERSON.get(r["respondent"], r["respondent"]))) for r in rows}, key=lambda line: (line[0] != "PHQ-9", *line)
    )
    return {
        "episode_id": chart.episode_id,
        "phase": chart.episode["phase"],
        "instruments": [_line(instrument(code), who, own_rows, held, adult=adult) for code, who in lines],
        "phases": [{"phase": s["to_phase"], "from": s["occurred_at"]} for s in steps],
        "medications": [reveal(chart.key, medication, r) for r in taken],
        **await _activity(visit, chart, held),
        "near_the_end": RISE_NEAR_THE_END if chart.episode["phase"] == "termination" else None,
    }


async def _activity(visit: Visit, chart: Chart, held: list[Row]) -> dict[str, Any]:
    """Return how the therapist's activity runs, joint sessions and those while risk was on hold left out."""
    changes = await rows_of(visit.connection, status_change, "occurred_at", episode_id=chart.episode_id)
    levels = activity_levels(held, changes)
    slope, thirds_of = activity_slope(levels), thirds(levels)
    trend = activity_trend(levels)
    return {
        "therapist_activity_slope": slope,
        "therapist_activity_trend": trend,
        "therapist_activity_thirds": None if thirds_of is None else {"middle": thirds_of[0], "last": thirds_of[1]},
        "supervision_prompt": trend == "rising" and chart.episode["phase"] == "termination",
    }


def activity_levels(sessions: list[Row], changes: list[Row]) -> list[float]:
    """Return the therapist's activity over held sessions in their order, joint ones and those while risk was on hold left out."""
    return [
        float(s["therapist_activity"])
        for s in sorted(sessions, key=lambda s: s["starts_at"])
        if s["status"] == "held"
        and s["therapist_activity"] is not None
        and s["joint_relationship_id"] is None
        and not _on_hold(s["starts_at"], changes)
    ]


def _on_hold(moment: Any, changes: list[Row]) -> bool:
    before = [c["command"] for c in changes if c["occurred_at"] <= moment and c["command"] in {"hold_for_risk", "release_hold"}]
    return bool(before) and before[-1] == "hold_for_risk"


def _line(questionnaire: Instrument, who: str, rows: list[Row], held: list[Row], *, adult: bool) -> dict[str, Any]:
    own = [r for r in rows if r["instrument"] == questionnaire.code and BY_PERSON.get(r["respondent"], r["respondent"]) == who]
    treated = [r for r in own if r["treated"] and figure_of(r) is not None]
    baseline = treated[0] if treated else None
    points = []
    for row in own:
        found = finding = None
        if not row["treated"] and treated:
            finding = follow_up_finding(questionnaire, score_of(treated[-1]), score_of(row), adult=adult)
        number = row["session_number"] or sum(1 for s in held if s["number"] is not None and s["starts_at"] <= row["answered_at"])
        if baseline is not None and row["id"] != baseline["id"]:
            found = change(questionnaire, score_of(baseline), score_of(row), adult=adult, sessions_held=number if row["treated"] else 0)
        points.append({**row, "assessment_id": row["id"], "score": figure_of(row), "change": found, "follow_up": finding})
    return {
        "code": questionnaire.code,
        "respondent": who,
        "component": questionnaire.component,
        "lower_is_better": questionnaire.lower_is_better,
        "range": _range(questionnaire),
        "caseness_from": questionnaire.caseness,
        "reliable_change": questionnaire.reliable_change,
        "bands": [{"code": b.code, "low": b.low, "high": b.high} for b in questionnaire.bands],
        "baseline": None if baseline is None else figure_of(baseline),
        "end_of_treatment": figure_of(treated[-1]) if treated and treated[-1] is not baseline else None,
        "latest": next((figure_of(r) for r in reversed(own) if figure_of(r) is not None), None),
        "points": points,
        "on_track_rule": ON_TRACK_RULE if questionnaire.code == "PHQ-9" else None,
    }


def figure_of(row: Row) -> float | None:
    """Return the one figure that stands for a stored assessment: its total, else its headline scale."""
    return headline(instrument(row["instrument"]), score_of(row))


def _range(questionnaire: Instrument) -> tuple[float, float] | None:
    """Return the lowest and the highest score that there can be; None for an instrument without one figure."""
    if questionnaire.method in {"sum", "domains"}:
        return (float(sum(min(i.values.values(), default=i.value_min) for i in questionnaire.items)), float(questionnaire.total_max or 0))
    if questionnaire.headline is None:
        return None
    values = [v for i in questionnaire.items for v in (i.values.values() or (i.value_min, i.value_max))]
    return (float(min(values)), float(max(values)))
