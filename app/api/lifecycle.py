"""The status of a course, and the courses that follow it."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from app.actions.lifecycle import change_status, continuations, continue_course
from app.api.episodes import EpisodeOut, Status
from app.api.inventory import list_of, read_one
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Age, Code, Day, In, InChart, Moment, NewId, Out, Prose, Reference
from app.domain.protection import RECORD
from app.store.database import Row
from app.store.tables.workflow import status_change

router = Router(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["course"])

CommandName = Literal["pause", "resume", "hold_for_risk", "release_hold", "re_engage", "close", "reopen"]


class StatusChangeIn(In):
    """A command of the life cycle. It never changes the phase, and none stands in the way of care."""

    command: CommandName = Field(examples=["pause"])
    reason: Prose | None = Field(None, description="Needed for pause, hold_for_risk, release_hold, re_engage, reopen")
    occurred_at: Moment | None = None


class StatusChangeOut(InChart):
    """A command that was given."""

    command: CommandName
    from_status: Status
    to_status: Status
    occurred_at: Moment
    decided_by: UUID | None
    reason: str | None = None
    flags: list[str]


class StatusChangePage(Out):
    """A page of commands, oldest first."""

    items: list[StatusChangeOut]
    next: str | None


@router.post("/status-changes", status_code=201, response_model=StatusChangeOut)
async def create_status_change(call: Annotated[Call, needs("episodes:write", use=RECORD)], episode_id: UUID, status_change_in: StatusChangeIn) -> Row:
    """Pause, resume, hold for risk, release the hold, take up again, close or reopen. All but pause and resume are a clinician's."""
    values: dict[str, Any] = status_change_in.members()
    return call.made(await change_status(call.visit, episode_id, values.pop("command"), values), f"/v1/episodes/{episode_id}/status-changes/{{id}}")


@router.get("/status-changes", response_model=StatusChangePage)
async def list_status_changes(
    call: Annotated[Call, needs("episodes:read", use=RECORD)], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """List the commands given, with who gave them and why."""
    return await list_of(call, status_change, episode_id, limit, cursor)


@router.get("/status-changes/{status_change_id}", response_model=StatusChangeOut)
async def read_status_change(call: Annotated[Call, needs("episodes:read", use=RECORD)], episode_id: UUID, status_change_id: UUID) -> Row:
    """Read one command."""
    return await read_one(call, status_change, episode_id, status_change_id)


class MaintenanceIn(In):
    """A course that follows this one: continuation (tapering) or maintenance."""

    id: NewId = None
    kind: Literal["continuation", "maintenance"] = "maintenance"
    protocol: Code | None = Field(None, examples=["IPT-M"], description="IPT-M for maintenance, this course's own for continuation, when left out")
    external_ref: Reference | None = None
    referred_on: Day | None = Field(None, description="The patient's today, when left out")
    age_at_referral: Age | None = None
    lead_clinician_id: UUID | None = Field(None, description="The lead of this course, when left out")
    cover_clinician_id: UUID | None = None


class Continuations(Out):
    """The courses that follow."""

    items: list[EpisodeOut]


@router.post("/maintenance", status_code=201, response_model=EpisodeOut)
async def create_continuation(call: Annotated[Call, needs("episodes:write")], episode_id: UUID, maintenance_in: MaintenanceIn) -> Row:
    """Open a linked episode for continuation or maintenance, once the ending has begun. It has gates and a contract of its own."""
    return call.made(await continue_course(call.visit, episode_id, maintenance_in.members()), "/v1/episodes/{id}")


@router.get("/maintenance", response_model=Continuations)
async def list_continuations(call: Annotated[Call, needs("episodes:read", use=RECORD)], episode_id: UUID) -> Row:
    """List the courses that follow this one."""
    return {"items": await continuations(call.visit, episode_id)}
