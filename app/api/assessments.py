"""Assessments and the trajectory: answers by item in, scores made by the server out."""

from datetime import date
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from app.actions.records import get_in_chart, reveal
from app.actions.scoring import mark_assessment_in_error, read_crisis_text, record_assessment
from app.actions.synced import ANSWERED_BY_PATIENT, is_shown
from app.actions.trajectory import read_trajectory
from app.actions.visit import Visit, open_chart
from app.api.alerts import AlertOut
from app.api.pages import Cursor, Limit
from app.api.people import Locale
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Code, In, InChart, Level, Moment, NewId, Out, Prose
from app.domain.errors import NotFound
from app.domain.protection import RECORD
from app.store.database import Row
from app.store.tables.work import assessment
from app.store.work import page_chart

router = Router(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["assessments"])
crisis = Router(prefix="/v1", route_class=Route, tags=["risk"])

ItemNumber = Annotated[str, Field(pattern=r"^[1-9][0-9]?$")]
Value = Annotated[int, Field(strict=True, ge=-100, le=100)]
RespondentName = Literal["patient", "clinician_read_aloud", "clinician", "parent", "partner"]


class AssessmentIn(In):
    """One administration of an instrument: the answers by item number. Totals are never taken from a caller."""

    id: NewId = None
    instrument: Code = Field(examples=["PHQ-9"])
    answers: Annotated[dict[ItemNumber, Value | None], Field(max_length=99)] = Field(
        examples=[{"1": 2, "2": 2, "3": 3, "4": 2, "5": 1, "6": 2, "7": 1, "8": 0, "9": 0}], description="null or left out: not answered"
    )
    difficulty: Level | None = Field(None, description="PHQ-9's unscored question, 0 to 3")
    answered_at: Moment
    respondent: RespondentName = "patient"
    mode: Literal["app", "web", "paper", "phone", "in_session"] = "app"
    locale: Locale = "en"
    session_id: UUID | None = None
    follow_up_id: UUID | None = None
    request_id: UUID | None = Field(None, description="The request that this answer meets")


class Notice(Out):
    """What must stand beside an answer to a risk item, in every app."""

    not_monitored: str | None = None
    no_evidence_of_safety: str | None = None
    crisis_text: str | None = None


class AssessmentOut(InChart):
    """A completed administration with its score."""

    instrument: str
    instrument_version: int
    session_id: UUID | None
    follow_up_id: UUID | None
    request_id: UUID | None = None
    answered_at: Moment
    respondent: str
    mode: str
    locale: str
    answers: dict[str, int | None]
    difficulty: int | None
    partial_sum: int
    total: int | None = Field(description="null when too many items, or the risk item, are missing, and for instruments without a sum")
    scales: dict[str, float] | None = Field(None, description="Means, octants, domains or recoded scales by name")
    band: str | None
    is_case: bool | None
    missing: list[int]
    prorated: bool
    received_late_seconds: int | None
    clock_ahead_seconds: int | None = Field(description="Set when the device's clock was ahead of ours")
    entered_in_error: bool
    error_reason: str | None = None
    imported: bool | None = None
    flags: list[str] | None = Field(None, description="request_was_closed, request_was_for_another: kept all the same")


class Submitted(AssessmentOut):
    """The assessment, the alert that it raised or extended, and what the person must read."""

    risk_alert: AlertOut | None = None
    notice: Notice | None = None


class CrisisText(Out):
    """What a person in crisis reads beside their answer: the partner's own words."""

    locale: str
    text: str


class AssessmentPage(Out):
    """A page of assessments."""

    items: list[AssessmentOut]
    next: str | None


class AssessmentPatch(In):
    """A correction: the record stays, and counts no longer."""

    entered_in_error: Literal[True]
    error_reason: Prose


@router.post("/assessments", status_code=201, response_model=Submitted)
async def create_assessment(
    call: Annotated[Call, needs("assessments:write", patients=True, use=RECORD)], episode_id: UUID, assessment_in: AssessmentIn
) -> Row:
    """Submit answers. A triggering or missing risk item opens an alert in the same transaction."""
    made, alert, notice = await record_assessment(call.visit, episode_id, assessment_in.members())
    row = call.made(made, f"/v1/episodes/{episode_id}/assessments/{{id}}")
    return {**row, "risk_alert": for_the_team(call.visit, alert), "notice": notice or None}


@router.get("/assessments", response_model=AssessmentPage)
async def list_assessments(
    call: Annotated[Call, needs("assessments:read", patients=True)],
    episode_id: UUID,
    instrument: str | None = None,
    answered_from: Moment | None = None,
    answered_to: Moment | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List the assessments."""
    chart = await open_chart(call.visit, episode_id)
    filters = {"instrument": instrument, "answered_at": (answered_from, answered_to)} | own_answers(call.visit)
    pager = call.pager(limit, cursor, filters)
    items, following = pager.cut(await page_chart(call.visit.connection, assessment, episode_id, filters, pager.after, limit), "id")
    call.saw(items, "assessment")
    return {"items": [reveal(chart.key, assessment, r) for r in items], "next": following}


@router.get("/assessments/{assessment_id}", response_model=AssessmentOut)
async def read_assessment(call: Annotated[Call, needs("assessments:read", patients=True)], episode_id: UUID, assessment_id: UUID) -> Row:
    """Read an assessment."""
    chart = await open_chart(call.visit, episode_id)
    row = await get_in_chart(call.visit, assessment, chart, assessment_id)
    if not is_shown(call.visit.caller, "assessment", row):
        raise NotFound
    return call.stored(row)


@router.patch("/assessments/{assessment_id}", response_model=AssessmentOut)
async def correct_assessment(
    call: Annotated[Call, needs("assessments:write", use=RECORD)], episode_id: UUID, assessment_id: UUID, patch: AssessmentPatch
) -> Row:
    """Mark an assessment as entered in error. An alert that it raised stays."""
    return call.stored(await mark_assessment_in_error(call.visit, episode_id, assessment_id, patch.error_reason))


def for_the_team(visit: Visit, alert: Row | None) -> Row | None:
    """Return an alert to those who respond to it; a patient reads the notice instead."""
    return None if visit.caller.patient_id is not None else alert


def own_answers(visit: Visit) -> Row:
    """Return the filter that keeps a patient's own list to what they answered themselves."""
    return {} if visit.caller.patient_id is None else {"respondent": sorted(ANSWERED_BY_PATIENT)}


class ChangeOut(Out):
    """The change from the baseline."""

    points: float = Field(description="Positive is improvement, whichever way the scale runs")
    reliable: Literal["improvement", "deterioration", "none", "not_assessable"]
    response: bool | None = Field(description="A drop of half or more; null where adult thresholds do not apply")
    remission: bool | None
    on_track: bool | None
    index: float | None = Field(None, description="The change in standard errors of the difference (Jacobson and Truax)")


class FollowUpFindingOut(Out):
    """A follow-up against the end of treatment."""

    points: float
    relapse: bool | None
    late_reliable_improvement: bool | None


class Point(Out):
    """One score of the line."""

    assessment_id: UUID
    answered_at: Moment
    session_number: int | None
    session_id: UUID | None
    follow_up_id: UUID | None
    score: float | None = Field(description="The total, else the scale that stands for the instrument")
    total: int | None
    scales: dict[str, float] | None
    band: str | None
    is_case: bool | None
    prorated: bool
    change: ChangeOut | None
    follow_up: FollowUpFindingOut | None


class LineBand(Out):
    """A band of severity, both ends included."""

    code: str
    low: int
    high: int


class LineOut(Out):
    """One instrument over the course."""

    code: str
    respondent: str
    component: str
    lower_is_better: bool
    range: tuple[float, float] | None = Field(description="The lowest and the highest score that there can be")
    caseness_from: int | None
    reliable_change: int | None
    bands: list[LineBand]
    baseline: float | None = Field(description="The first score of the treatment")
    end_of_treatment: float | None = Field(description="The last score of the treatment so far")
    latest: float | None = Field(description="The last score known, follow-ups included")
    points: list[Point]
    on_track_rule: str | None


class PhaseBegun(Out):
    """A phase and when it began."""

    phase: str
    begun_at: Moment = Field(alias="from")


class MedicationSpan(Out):
    """A medication on the trajectory."""

    id: UUID
    kind: str
    name: str | None = None
    dose: str | None = None
    started_on: date | None
    stopped_on: date | None


class Thirds(Out):
    """Means of the therapist's activity."""

    middle: float
    last: float


class TrajectoryOut(Out):
    """The course in scores."""

    episode_id: UUID
    phase: str
    instruments: list[LineOut]
    phases: list[PhaseBegun]
    medications: list[MedicationSpan]
    therapist_activity_slope: float | None = Field(description="Theil-Sen, per session, from 5 sessions on; expected to be 0 or less")
    therapist_activity_trend: Literal["falling", "flat", "rising"] | None
    therapist_activity_thirds: Thirds | None = Field(description="The middle third of the sessions and the last")
    supervision_prompt: bool = Field(description="It rises in the ending: a matter for supervision, never a score")
    near_the_end: str | None


@router.get("/trajectory", response_model=TrajectoryOut)
async def read_episode_trajectory(call: Annotated[Call, needs("assessments:read")], episode_id: UUID) -> Row:
    """Read the scores session by session: change from baseline, bands, caseness, response, remission, on track or not."""
    return shown_trajectory(await read_trajectory(call.visit, episode_id))


def shown_trajectory(found: Row) -> Row:
    """Return a trajectory with plain members instead of the domain's values."""
    for line in found["instruments"]:
        for point in line["points"]:
            point["change"] = _members(point["change"])
            point["follow_up"] = _members(point["follow_up"])
    return found


def _members(value: object) -> Row | None:
    return None if value is None else {name: getattr(value, name) for name in value.__slots__}  # type: ignore[attr-defined]


@crisis.get("/crisis-text", response_model=CrisisText)
async def read_partners_crisis_text(call: Annotated[Call, needs("assessments:read", patients=True)], locale: Locale = "en") -> Row:
    """Read the partner's crisis text, so that an app that is offline can show it at once."""
    return {"locale": locale, "text": await read_crisis_text(call.visit, locale)}
