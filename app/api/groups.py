"""Group IPT and couples. Members are episodes; nobody's record names another."""

from datetime import date
from typing import Annotated, Literal
from uuid import UUID

import sqlalchemy as sa
from fastapi import Query
from pydantic import Field

from app.actions.couples import add_couple, amend_couple, get_couple, read_views
from app.actions.groups import (
    add_group,
    amend_group,
    amend_member,
    get_group,
    get_member,
    group_sessions,
    join_group,
    members_of,
    process_note,
    record_group_session,
    write_process_note,
)
from app.actions.visit import public
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.sessions import Attendance, Mode, SessionOut, TechniqueUsed
from app.api.shapes import Code, Day, Flag, In, InChart, Kept, Level, Minutes, Moment, NewId, Out, Prose, Rating, Reference
from app.store.database import Row
from app.store.rows import own, page
from app.store.tables.groups import therapy_group

router = Router(prefix="/v1", route_class=Route, tags=["groups"])


class GroupIn(In):
    """A group on a group protocol."""

    id: NewId = None
    external_ref: Reference | None = None
    protocol: Code = Field(examples=["IPT-G-WHO"])
    lead_clinician_id: UUID
    cover_clinician_id: UUID | None = None
    starts_on: Day | None = None


class GroupPatch(In):
    """What may change about a group."""

    lead_clinician_id: UUID = Field(default=None, validate_default=False)  # type: ignore[assignment]
    cover_clinician_id: UUID | None = None
    starts_on: Day | None = None
    status: Literal["forming", "running", "ended"] = "forming"


class GroupOut(Kept):
    """A group."""

    external_ref: str | None
    protocol_code: str
    protocol_version: int
    lead_clinician_id: UUID
    cover_clinician_id: UUID | None
    starts_on: date | None
    status: Literal["forming", "running", "ended"]


class GroupPage(Out):
    """A page of groups."""

    items: list[GroupOut]
    next: str | None


class GroupMemberIn(In):
    """An episode that joins."""

    id: NewId = None
    episode_id: UUID
    joined_on: Day | None = None


class GroupMemberPatch(In):
    """That a member agreed to confidentiality, or left."""

    confidentiality_agreed_on: Day | None = None
    left_on: Day | None = None


class GroupMemberOut(InChart):
    """A member of a group, for who leads it."""

    group_id: UUID
    joined_on: date | None
    left_on: date | None
    confidentiality_agreed_on: date | None


class GroupMemberList(Out):
    """The members of a group."""

    items: list[GroupMemberOut]


class MemberPart(In):
    """One member's part of a session. It stands in that member's record alone."""

    episode_id: UUID
    attendance: Attendance = "attended"
    mood: Rating | None = None
    therapist_activity: Rating | None = None
    patient_initiative: Rating | None = None
    affect_intensity: Level | None = None
    risk_asked: Flag = False
    summary: Prose | None = None


class GroupSessionIn(In):
    """A session of the group."""

    id: NewId = None
    status: Literal["scheduled", "held", "cancelled"] = "held"
    starts_at: Moment
    minutes: Minutes | None = None
    mode: Mode = "in_person"
    techniques: Annotated[list[TechniqueUsed], Field(max_length=30)] = []
    participants: Annotated[list[MemberPart], Field(min_length=1, max_length=30)]
    process_note: Prose | None = Field(None, description="About the group as a whole; needs a token that acts for a clinician")


class GroupSessionOut(Kept):
    """A session of the group."""

    group_id: UUID
    number: int | None
    status: str
    starts_at: Moment
    minutes: int | None
    mode: str
    techniques: list[TechniqueUsed]


class GroupSessionMade(GroupSessionOut):
    """The session of the group with the sessions that it made in the members' records."""

    sessions: list[SessionOut]


class GroupSessionList(Out):
    """The sessions of a group."""

    items: list[GroupSessionOut]


class ProcessNote(GroupSessionOut):
    """A session of the group with its process note."""

    process_note: str | None = None


class ProcessNoteIn(In):
    """A note about the group as a whole, apart from every member's note."""

    text: Prose


@router.post("/groups", status_code=201, response_model=GroupOut)
async def create_group(call: Annotated[Call, needs("groups:write")], group_in: GroupIn) -> Row:
    """Form a group."""
    return call.made(await add_group(call.visit, group_in.members()), "/v1/groups/{id}")


@router.get("/groups", response_model=GroupPage)
async def list_groups(
    call: Annotated[Call, needs("groups:read")],
    external_ref: Annotated[str | None, Query(max_length=128)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List groups; a clinician's token sees those it leads or covers."""
    pager = call.pager(limit, cursor, {"external_ref": external_ref})
    t, me = therapy_group, call.visit.caller.clinician_id
    query = sa.select(t).where(own(call.visit.connection, t))
    query = query if me is None else query.where(sa.or_(t.c.lead_clinician_id == me, t.c.cover_clinician_id == me))
    query = query if external_ref is None else query.where(t.c.external_ref == external_ref)
    items, following = pager.cut(await page(call.visit.connection, query, [t.c.id], pager.after, limit), "id")
    call.saw(items, "therapy_group")
    return {"items": [public(r) for r in items], "next": following}


@router.get("/groups/{group_id}", response_model=GroupOut)
async def read_group(call: Annotated[Call, needs("groups:read")], group_id: UUID) -> Row:
    """Read a group."""
    return call.stored(await get_group(call.visit, group_id))


@router.patch("/groups/{group_id}", response_model=GroupOut)
async def update_group(call: Annotated[Call, needs("groups:write")], group_id: UUID, patch: GroupPatch) -> Row:
    """Change who leads it, when it starts, or its status."""
    return call.stored(await amend_group(call.visit, group_id, patch.sent()))


@router.post("/groups/{group_id}/members", status_code=201, response_model=GroupMemberOut)
async def create_group_member(call: Annotated[Call, needs("groups:write")], group_id: UUID, member_in: GroupMemberIn) -> Row:
    """Let an episode on the group's protocol join."""
    return call.made(await join_group(call.visit, group_id, member_in.members()), f"/v1/groups/{group_id}/members/{{id}}")


@router.get("/groups/{group_id}/members", response_model=GroupMemberList)
async def list_group_members(call: Annotated[Call, needs("groups:read")], group_id: UUID) -> Row:
    """List the members."""
    return {"items": await members_of(call.visit, group_id)}


@router.get("/groups/{group_id}/members/{group_member_id}", response_model=GroupMemberOut)
async def read_group_member(call: Annotated[Call, needs("groups:read")], group_id: UUID, group_member_id: UUID) -> Row:
    """Read one member."""
    return call.stored(await get_member(call.visit, group_id, group_member_id))


@router.patch("/groups/{group_id}/members/{group_member_id}", response_model=GroupMemberOut)
async def update_group_member(call: Annotated[Call, needs("groups:write")], group_id: UUID, group_member_id: UUID, patch: GroupMemberPatch) -> Row:
    """Record that a member agreed to confidentiality, or left the group."""
    return call.stored(await amend_member(call.visit, group_id, group_member_id, patch.sent()))


@router.post("/groups/{group_id}/sessions", status_code=201, response_model=GroupSessionMade)
async def create_group_session(call: Annotated[Call, needs("groups:write", "sessions:write")], group_id: UUID, session_in: GroupSessionIn) -> Row:
    """Record a session of the group: one session in each member's record, with that member's own part only."""
    made, rows = await record_group_session(call.visit, group_id, session_in.members())
    call.made(made)
    return {**made.row, "sessions": rows}


@router.get("/groups/{group_id}/sessions", response_model=GroupSessionList)
async def list_group_sessions(call: Annotated[Call, needs("groups:read")], group_id: UUID) -> Row:
    """List the sessions of a group."""
    return {"items": await group_sessions(call.visit, group_id)}


@router.get("/groups/{group_id}/sessions/{group_session_id}/process-note", response_model=ProcessNote)
async def read_process_note(call: Annotated[Call, needs("notes:read")], group_id: UUID, group_session_id: UUID) -> Row:
    """Read the process note of a group's session. Needs a token that acts for a clinician who leads it."""
    return call.stored(await process_note(call.visit, group_id, group_session_id))


@router.put("/groups/{group_id}/sessions/{group_session_id}/process-note", response_model=ProcessNote)
async def replace_process_note(call: Annotated[Call, needs("notes:write")], group_id: UUID, group_session_id: UUID, note_in: ProcessNoteIn) -> Row:
    """Write the process note; send If-Match with the session's ETag."""
    return call.stored(await write_process_note(call.visit, group_id, group_session_id, note_in.text))


class CoupleSide(In):
    """One partner: its course, and the person of its inventory that is the other."""

    episode_id: UUID
    relationship_id: UUID


class CoupleIn(In):
    """Two courses of the format couple."""

    id: NewId = None
    first: CoupleSide
    second: CoupleSide


class CouplePatch(In):
    """When each was screened for safety alone, and agreed that both views be seen side by side."""

    first_screened_alone_on: Day | None = None
    first_agreed_on: Day | None = None
    second_screened_alone_on: Day | None = None
    second_agreed_on: Day | None = None


class CoupleOut(Kept):
    """A couple."""

    first_episode_id: UUID
    first_relationship_id: UUID
    first_screened_alone_on: date | None
    first_agreed_on: date | None
    second_episode_id: UUID
    second_relationship_id: UUID
    second_screened_alone_on: date | None
    second_agreed_on: date | None


class View(Out):
    """One partner's view of the relationship."""

    episode_id: UUID
    closeness_now: int | None
    closeness_before_onset: int | None
    closeness_wished: int | None
    expects_of_other: str | None
    other_expects: str | None
    expectation_mismatch: str | None
    satisfying: str | None
    unsatisfying: str | None
    change_wanted: str | None
    change_wanted_in: str | None
    conflict_level: int | None
    shared_activities: str | None


class CoupleViews(Out):
    """Both views side by side."""

    id: UUID
    first: View
    second: View
    apart: list[str] = Field(description="Ratings in which the two differ")


@router.post("/couples", status_code=201, response_model=CoupleOut)
async def create_couple(call: Annotated[Call, needs("groups:write")], couple_in: CoupleIn) -> Row:
    """Tie two courses to a couple."""
    return call.made(await add_couple(call.visit, couple_in.members()), "/v1/couples/{id}")


@router.get("/couples/{couple_id}", response_model=CoupleOut)
async def read_couple(call: Annotated[Call, needs("groups:read")], couple_id: UUID) -> Row:
    """Read a couple, as somebody who may see both charts."""
    return call.stored(await get_couple(call.visit, couple_id))


@router.patch("/couples/{couple_id}", response_model=CoupleOut)
async def update_couple(call: Annotated[Call, needs("groups:write")], couple_id: UUID, patch: CouplePatch) -> Row:
    """Record screening alone and agreement, as a clinician."""
    return call.stored(await amend_couple(call.visit, couple_id, patch.sent()))


@router.get("/couples/{couple_id}/views", response_model=CoupleViews)
async def read_couple_views(call: Annotated[Call, needs("groups:read", "inventory:read")], couple_id: UUID) -> Row:
    """Read both partners' views side by side, as a clinician. Not open until each was screened alone and agreed; the refusal never says why."""
    return await read_views(call.visit, couple_id)
