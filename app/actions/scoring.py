"""Assessments: answers in, scores out, and the alert in the same transaction. Also the trajectory that they draw."""

from typing import Any
from uuid import UUID

from app.actions.alerts import alert_of, check_responder, raise_risk_alert
from app.actions.records import Fields, Made, amend, create, get_in_chart
from app.actions.visit import Chart, Visit, open_chart
from app.domain.errors import Fault, Invalid, NotFound
from app.domain.instruments import Instrument, Score, change, instrument, is_adult, score
from app.domain.risk import NO_EVIDENCE_OF_SAFETY, NOT_MONITORED, late_by, trigger_of
from app.domain.sessions import activity_slope
from app.domain.termination import follow_up_finding
from app.store.database import Row
from app.store.rows import find_row, rows_of
from app.store.tables.door import partner_setting
from app.store.tables.work import assessment, follow_up, session
from app.store.work import scores


class UnknownInstrument(Invalid):
    """The instrument is not in the catalogue."""


async def record_assessment(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> tuple[Made, Row | None, dict[str, str]]:
    """Score answers and keep them; a triggering or missing risk item opens an alert in this very transaction.

    Returns the assessment, the alert it raised or extended, and what the person must read: the partner's crisis text
    and that answers are not monitored. Raises AnswersInvalid, UnknownInstrument, RiskResponderMissing.
    """
    chart = await open_chart(visit, episode_id, lock=True)
    questionnaire = _instrument(values["instrument"])
    answers = {int(n): v for n, v in values["answers"].items()}
    found = score(questionnaire, answers, age=chart.episode["age_at_referral"])
    if questionnaire.risk_item is not None:
        check_responder(chart)
    await _check_ties(visit, chart, values)
    ahead = int((values["answered_at"] - visit.now).total_seconds())
    late = late_by(values["answered_at"], visit.now)
    names = ("instrument", "answered_at", "respondent", "mode", "locale", "session_id", "follow_up_id", "difficulty")
    given = {k: values.get(k) for k in names} | {"answers": {str(i.number): answers.get(i.number) for i in questionnaire.items}}
    if ahead > 0:
        given.pop("answered_at")
    derived = {
        "answered_at": min(values["answered_at"], visit.now),
        "instrument_version": questionnaire.version,
        "partial_sum": found.partial_sum,
        "total": found.total,
        "band": found.band,
        "is_case": found.case,
        "missing": list(found.missing),
        "prorated": found.prorated,
        "received_late_seconds": None if late is None else int(late.total_seconds()),
        "clock_ahead_seconds": ahead if ahead > 0 else None,
        "entered_in_error": False,
    }
    made = await create(visit, assessment, Fields(given, id=values.get("id"), derived=derived), chart=chart)
    trigger = trigger_of(questionnaire, answers, found)
    if trigger and made.new:
        alert: Row | None = await raise_risk_alert(visit, chart, trigger, made.row)
    else:
        alert = await alert_of(visit, chart, made.row["id"]) if trigger else None
    return made, alert, notice_of(chart) if questionnaire.risk_item else {}


def notice_of(chart: Chart) -> dict[str, str]:
    """Return what stands beside every answer to a risk item, the partner's crisis text with it."""
    texts = chart.episode["crisis_text"]
    crisis = crisis_text_for(texts, chart.episode["locale"])
    return {"not_monitored": NOT_MONITORED, "no_evidence_of_safety": NO_EVIDENCE_OF_SAFETY, "crisis_text": crisis}


def crisis_text_for(texts: dict[str, str], locale: str) -> str:
    """Return the partner's crisis text for a locale: the exact one, its language's, or the default."""
    return texts.get(locale) or texts.get(locale.partition("-")[0]) or texts.get("default", "")


async def read_crisis_text(visit: Visit, locale: str) -> str:
    """Return the partner's crisis text, so that an offline app has it at hand before an answer is given."""
    row = await find_row(visit.connection, partner_setting)
    return crisis_text_for(row["crisis_text"] if row else {}, locale)


async def mark_assessment_in_error(visit: Visit, episode_id: UUID, assessment_id: UUID, reason: str) -> Row:
    """Take an assessment out of every score without deleting it. An alert that it raised stays."""
    chart = await open_chart(visit, episode_id, lock=True)
    present = await get_in_chart(visit, assessment, chart, assessment_id, check=True)
    return await amend(visit, assessment, present, Fields({"entered_in_error": True}, {"error_reason": reason}), key=chart.key)


async def _check_ties(visit: Visit, chart: Chart, values: dict[str, Any]) -> None:
    for name, table in (("session_id", session), ("follow_up_id", follow_up)):
        tied = values.get(name)
        if tied is not None and await find_row(visit.connection, table, id=tied, episode_id=chart.episode_id) is None:
            raise NotFound


def _instrument(code: str) -> Instrument:
    try:
        return instrument(code)
    except NotFound:
        raise UnknownInstrument(faults=[Fault("/instrument", f"{code!r} is not in the catalogue")]) from None


def score_of(row: Row) -> Score:
    """Return a stored assessment as the domain's score."""
    return Score(row["partial_sum"], row["total"], row["band"], row["is_case"], tuple(row["missing"]), row["prorated"])


async def read_trajectory(visit: Visit, episode_id: UUID) -> dict[str, Any]:
    """Return each instrument's totals over the course with change from baseline, bands, caseness and the on-track rule."""
    chart = await open_chart(visit, episode_id)
    rows = await scores(visit.connection, episode_id)
    held = [s for s in await rows_of(visit.connection, session, "starts_at", episode_id=episode_id, status="held") if not s["entered_in_error"]]
    visit.trace.resources += [f"assessment/{r['id']}" for r in rows]
    adult = is_adult(chart.episode["age_at_referral"])
    levels = [float(s["therapist_activity"]) for s in held if s["therapist_activity"] is not None]
    return {
        "episode_id": episode_id,
        "phase": chart.episode["phase"],
        "instruments": [_line(instrument(code), rows, held, adult=adult) for code in sorted({r["instrument"] for r in rows})],
        "therapist_activity_slope": activity_slope(levels),
    }


def _line(questionnaire: Instrument, rows: list[Row], held: list[Row], *, adult: bool) -> dict[str, Any]:
    own = [r for r in rows if r["instrument"] == questionnaire.code]
    treated = [r for r in own if r["follow_up_id"] is None and r["total"] is not None]
    baseline = treated[0] if treated else None
    points = []
    for row in own:
        found = finding = None
        if row["follow_up_id"] is not None and treated:
            finding = follow_up_finding(questionnaire, score_of(treated[-1]), score_of(row), adult=adult)
        if baseline is not None and row["id"] != baseline["id"]:
            number = row["session_number"] or sum(1 for s in held if s["starts_at"] <= row["answered_at"])
            in_treatment = row["follow_up_id"] is None
            found = change(questionnaire, score_of(baseline), score_of(row), adult=adult, sessions_held=number if in_treatment else 0)
        points.append({**row, "assessment_id": row["id"], "change": found, "follow_up": finding})
    return {
        "code": questionnaire.code,
        "component": questionnaire.component,
        "caseness_from": questionnaire.caseness,
        "reliable_change": questionnaire.reliable_change,
        "baseline": None if baseline is None else baseline["total"],
        "end_of_treatment": treated[-1]["total"] if treated else None,
        "latest": next((r["total"] for r in reversed(own) if r["total"] is not None), None),
        "points": points,
        "on_track_rule": "Not on track from session 4 on with under 20 % improvement from baseline, or with a reliable deterioration (own design).",
    }
