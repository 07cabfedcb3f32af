"""Sessions of a course."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query
from pydantic import Field

from app.actions.contacts import amend_session, record_session, reschedule_session
from app.actions.records import get_in_chart, reveal
from app.actions.visit import open_chart
from app.api.inventory import Area
from app.api.pages import Cursor, Limit
from app.api.people import TimeZone
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Code, Flag, In, InChart, Level, Line, Minutes, Moment, NewId, Out, Prose, Rating, Reference
from app.domain.protection import RECORD
from app.domain.sessions import AFFECTS
from app.store.database import Row
from app.store.tables.work import session
from app.store.work import page_chart, page_sessions

router = Router(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["sessions"])
everywhere = Router(prefix="/v1", route_class=Route, tags=["sessions"])

Mode = Literal["in_person", "video", "phone", "text"]
SessionStatus = Literal["scheduled", "held", "missed", "cancelled"]
Attendance = Literal[
    "attended",
    "late_under_15_minutes",
    "did_not_attend",
    "late_too_late",
    "technical_failure",
    "cancelled_by_patient",
    "cancelled_by_provider",
]


Affect = Literal[
    "sadness", "grief", "anger", "guilt", "shame", "fear", "loneliness", "numbness", "relief", "hope", "joy", "pride",
]  # fmt: skip
assert set(Affect.__args__) == set(AFFECTS)  # type: ignore[attr-defined]
SessionKind = Literal["course", "assessment", "pre_group", "parent", "booster", "crisis"]


class TechniqueUsed(In):
    """A technique by code, and how much of it (0 to 3)."""

    code: Code
    intensity: Level | None = None


class _Session(In):
    external_ref: Reference | None = None
    starts_at: Moment
    mode: Mode = "in_person"
    minutes: Minutes | None = None
    attendance: Attendance | None = None
    focus_areas: Annotated[list[Area], Field(max_length=4)] = []
    techniques: Annotated[list[TechniqueUsed], Field(max_length=30)] = []
    strategies: Annotated[list[Code], Field(max_length=30)] = []
    joint_relationship_id: UUID | None = Field(None, description="Who attended with the patient, in a joint session")
    mood: Rating | None = None
    therapist_activity: Rating | None = Field(None, description="0 following to 10 leading; expected to fall over the course")
    patient_initiative: Rating | None = None
    risk_asked: Flag = False
    affects: Annotated[list[Affect], Field(max_length=12)] = []
    affect_intensity: Level | None = Field(None, description="0 none to 3 strong")
    kind: SessionKind = Field("course", description="Only sessions of the course are numbered and count against the contract")
    time_zone: TimeZone | None = Field(None, description="Where it was held or is planned; the patient's, when left out")
    patient_place: Line | None = Field(None, description="Where the patient is, for help in an emergency; sealed")
    modality_consent: Flag | None = Field(None, description="The patient agreed to video, telephone or text")
    emergency_contact_confirmed: Flag | None = None
    focus_found_hard: Flag | None = Field(None, description="The patient finds the focus of IPT hard to take to")
    summary: Prose | None = Field(None, description="A short sealed summary; the psychotherapy note is apart")


class SessionIn(_Session):
    """A session: scheduled, or recorded as held, missed or cancelled. Never refused for its phase."""

    id: NewId = None
    status: SessionStatus = "scheduled"


class SessionPatch(_Session):
    """What changes about a session."""

    starts_at: Moment = Field(default=None, validate_default=False)  # type: ignore[assignment]
    status: SessionStatus = "scheduled"
    entered_in_error: Flag = False
    error_reason: Prose | None = None


class SessionOut(InChart):
    """A session. Its number is given when it is held."""

    external_ref: str | None
    number: int | None
    status: SessionStatus
    starts_at: Moment
    mode: Mode
    minutes: int | None
    phase: str
    attendance: Attendance | None
    focus_areas: list[Area]
    techniques: list[TechniqueUsed]
    strategies: list[str]
    joint_relationship_id: UUID | None
    mood: int | None
    therapist_activity: int | None
    patient_initiative: int | None
    risk_asked: bool
    affects: list[Affect] | None = None
    affect_intensity: int | None = None
    kind: SessionKind | None = None
    time_zone: str | None = None
    patient_place: str | None = None
    modality_consent: bool | None = None
    emergency_contact_confirmed: bool | None = None
    focus_found_hard: bool | None = None
    reschedules: list[dict[str, Any]] | None = Field(None, description="Each move: from, to, by, attendance before it, at")
    reschedule_reason: str | None = None
    group_session_id: UUID | None = None
    imported: bool | None = None
    summary: str | None = None
    entered_in_error: bool
    error_reason: str | None = None
    flags: list[str] = Field(
        description="What is unusual and recorded all the same: before_episode, after_agreed_end, minutes_missing, more_than_two_areas, "
        "strategy_outside_focus, joint_session_with_safety_mark, dispute_strategy_beside_safety_mark, orientation_to_ipt_needed, "
        "focus_still_found_hard, emergency_contact_not_confirmed"
    )


class SessionPage(Out):
    """A page of sessions."""

    items: list[SessionOut]
    next: str | None


@router.post("/sessions", status_code=201, response_model=SessionOut)
async def create_session(call: Annotated[Call, needs("sessions:write", use=RECORD)], episode_id: UUID, session_in: SessionIn) -> Row:
    """Schedule a session, or record one that took place."""
    made = await record_session(call.visit, episode_id, session_in.members())
    return call.made(made, f"/v1/episodes/{episode_id}/sessions/{{id}}")


@router.get("/sessions", response_model=SessionPage)
async def list_sessions(
    call: Annotated[Call, needs("sessions:read")],
    episode_id: UUID,
    status: SessionStatus | None = None,
    external_ref: str | None = None,
    starts_from: Moment | None = None,
    starts_to: Moment | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List the sessions."""
    chart = await open_chart(call.visit, episode_id)
    filters = {"status": status, "external_ref": external_ref, "starts_at": (starts_from, starts_to)}
    pager = call.pager(limit, cursor, filters)
    items, following = pager.cut(await page_chart(call.visit.connection, session, episode_id, filters, pager.after, limit), "id")
    call.saw(items, "session")
    return {"items": [reveal(chart.key, session, r) for r in items], "next": following}


@router.get("/sessions/{session_id}", response_model=SessionOut)
async def read_session(call: Annotated[Call, needs("sessions:read")], episode_id: UUID, session_id: UUID) -> Row:
    """Read a session."""
    chart = await open_chart(call.visit, episode_id)
    return call.stored(await get_in_chart(call.visit, session, chart, session_id))


@router.patch("/sessions/{session_id}", response_model=SessionOut)
async def update_session(call: Annotated[Call, needs("sessions:write", use=RECORD)], episode_id: UUID, session_id: UUID, patch: SessionPatch) -> Row:
    """Hold, miss, cancel, move or complete a session; a wrong record is marked as entered in error, never removed."""
    return call.stored(await amend_session(call.visit, episode_id, session_id, patch.sent()))


class RescheduleIn(In):
    """Another time for a session that was not held."""

    starts_at: Moment
    by: Literal["patient", "provider"]
    reason: Prose | None = None
    time_zone: TimeZone | None = None


@router.post("/sessions/{session_id}/reschedule", response_model=SessionOut)
async def move_session(call: Annotated[Call, needs("sessions:write")], episode_id: UUID, session_id: UUID, reschedule_in: RescheduleIn) -> Row:
    """Move a session to another time. It keeps its id; each move is kept with how the session had gone, by whom and why."""
    return call.stored(await reschedule_session(call.visit, episode_id, session_id, reschedule_in.members()))


class SessionSummary(Out):
    """A session in a list over the caseload, without its summary."""

    id: UUID
    version: int
    patient_id: UUID
    episode_id: UUID
    external_ref: str | None
    number: int | None
    status: SessionStatus
    starts_at: Moment
    mode: Mode
    entered_in_error: bool


class SessionSummaryPage(Out):
    """A page of sessions over the caseload."""

    items: list[SessionSummary]
    next: str | None


@everywhere.get("/sessions", response_model=SessionSummaryPage)
async def find_sessions(
    call: Annotated[Call, needs("sessions:read")],
    external_ref: Annotated[str | None, Query(max_length=128)] = None,
    patient_id: UUID | None = None,
    status: SessionStatus | None = None,
    starts_from: Moment | None = None,
    starts_to: Moment | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List sessions of the caseload; `external_ref` looks one up."""
    filters = {"external_ref": external_ref, "patient_id": patient_id, "status": status, "starts_at": (starts_from, starts_to)}
    pager = call.pager(limit, cursor, filters)
    rows = await page_sessions(call.visit.connection, call.visit.caller.clinician_id, filters, pager.after, limit)
    items, following = pager.cut(rows, "id")
    call.saw(items, "session")
    return {"items": items, "next": following}
