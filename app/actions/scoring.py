"""Assessments: answers in, scores out, and the alert in the same transaction."""

from typing import Any
from uuid import UUID

from app.actions.alerts import alert_of, check_responder, raise_risk_alert
from app.actions.records import Fields, Made, amend, create, get_in_chart
from app.actions.visit import Chart, Visit, open_chart
from app.domain.errors import Fault, Invalid, NotFound
from app.domain.instruments import Instrument, instrument
from app.domain.risk import NO_EVIDENCE_OF_SAFETY, NOT_MONITORED, late_by, trigger_of
from app.domain.scoring import Score, score
from app.domain.workflow import RequestDone, RequestUnfit, check_request
from app.store.database import Row
from app.store.rows import find_row
from app.store.tables.door import partner_setting
from app.store.tables.work import assessment, follow_up, session
from app.store.tables.workflow import assessment_request

BY_PATIENT = ("patient", "clinician_read_aloud")  # whose answers an outcome is made of


class UnknownInstrument(Invalid):
    """The instrument is not in the catalogue."""


class RespondentUnfit(Invalid):
    """This instrument is not answered by that person."""


async def record_assessment(
    visit: Visit, episode_id: UUID, values: dict[str, Any], *, imported: bool = False
) -> tuple[Made, Row | None, dict[str, str]]:
    """Score answers and keep them; a triggering or missing risk item opens an alert in this very transaction.

    Returns the assessment, the alert it raised or extended, and what the person must read: the partner's crisis text
    and that answers are not monitored. An imported answer raises no alert here: it is old, and the import looks at the newest.
    Raises AnswersInvalid, UnknownInstrument, RespondentUnfit, RiskResponderMissing.
    """
    chart = await open_chart(visit, episode_id, lock=True)
    check_respondent(visit, values["respondent"])
    questionnaire = checked_instrument(values["instrument"], values["respondent"])
    answers = {int(n): v for n, v in values["answers"].items()}
    found = score(questionnaire, answers, age=chart.episode["age_at_referral"])
    if questionnaire.risk_items:
        check_responder(chart)
    await _check_ties(visit, chart, values)
    request, flags = await _request_met(visit, chart, values)
    fields = _fields(visit, questionnaire, answers, found, values, flags, imported=imported)
    made = await create(visit, assessment, fields, chart=chart)
    if made.new and request is not None:
        done = Fields({"status": "answered", "assessment_id": made.row["id"]}, {"draft": {}})
        await amend(visit, assessment_request, request, done, key=chart.key)
    trigger = None if imported else trigger_of(questionnaire, answers, found)
    if trigger and made.new:
        alert: Row | None = await raise_risk_alert(visit, chart, trigger, made.row)
    else:
        alert = await alert_of(visit, chart, made.row["id"]) if trigger else None
    return made, alert, notice_of(chart) if questionnaire.risk_items else {}


def check_respondent(visit: Visit, respondent: str) -> None:
    """Raise RespondentUnfit when a patient's token answers as somebody else."""
    if visit.caller.patient_id is not None and respondent != "patient":
        raise RespondentUnfit(faults=[Fault("/respondent", "a patient answers as the patient")])


def _fields(
    visit: Visit, questionnaire: Instrument, answers: dict[int, int | None], found: Score, values: dict[str, Any], flags: list[str], *, imported: bool
) -> Fields:
    ahead = int((values["answered_at"] - visit.now).total_seconds())
    late = late_by(values["answered_at"], visit.now)
    names = ("instrument", "answered_at", "respondent", "mode", "locale", "session_id", "follow_up_id", "request_id", "difficulty")
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
        "scales": dict(found.scales),
        "received_late_seconds": None if late is None else int(late.total_seconds()),
        "clock_ahead_seconds": ahead if ahead > 0 else None,
        "entered_in_error": False,
        "imported": imported or None,
        "flags": flags,
    }
    return Fields(given, id=values.get("id"), derived=derived)


async def _request_met(visit: Visit, chart: Chart, values: dict[str, Any]) -> tuple[Row | None, list[str]]:
    """Return the open request that this answer meets, or a flag that says why it meets none: an answer is not refused for that."""
    if values.get("request_id") is None:
        return None, []
    request = await get_in_chart(visit, assessment_request, chart, values["request_id"])
    try:
        check_request(request, values["instrument"], values["respondent"])
    except RequestDone:
        return None, ["request_was_closed"]
    except RequestUnfit:
        return None, ["request_was_for_another"]
    return request, []


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
    for name, table in (("session_id", session), ("follow_up_id", follow_up), ("request_id", assessment_request)):
        tied = values.get(name)
        if tied is not None and await find_row(visit.connection, table, id=tied, episode_id=chart.episode_id) is None:
            raise NotFound


def checked_instrument(code: str, respondent: str) -> Instrument:
    """Return the instrument, if that person answers it. Raises UnknownInstrument, RespondentUnfit."""
    try:
        known = instrument(code)
    except NotFound:
        raise UnknownInstrument(faults=[Fault("/instrument", f"{code!r} is not in the catalogue")]) from None
    if respondent not in known.respondents:
        raise RespondentUnfit(faults=[Fault("/respondent", f"{code} is answered by {' or '.join(known.respondents)}")])
    return known


def score_of(row: Row) -> Score:
    """Return a stored assessment as the domain's score."""
    return Score(row["partial_sum"], row["total"], row["band"], row["is_case"], tuple(row["missing"]), row["prorated"], row.get("scales") or {})
