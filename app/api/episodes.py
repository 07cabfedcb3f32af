"""Episodes: a course of treatment, its care team, its timeline."""

from datetime import date
from typing import Annotated, Literal
from uuid import UUID

import sqlalchemy as sa
from fastapi import Query, Response
from pydantic import Field

from app.actions.ending import read_timeline
from app.actions.people import add_episode, amend_episode, get_episode, join_care_team, leave_care_team
from app.actions.records import fields_for, get_in_chart, reveal
from app.actions.visit import open_chart
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Age, Code, Count, Day, Flag, In, InChart, Kept, Moment, NewId, Out, Precision, Reference
from app.domain.people import CONTRAINDICATIONS
from app.store.database import Row
from app.store.people import page_episodes
from app.store.rows import own, page
from app.store.tables.people import care_team, episode

router = Router(prefix="/v1", route_class=Route, tags=["episodes"])

Status = Literal["referred", "active", "paused", "completed", "ended_early", "closed"]
Phase = Literal["screening", "initial", "middle", "termination", "follow_up"]
Contraindication = Literal[
    "psychosis",
    "mania_or_bipolar",
    "active_substance_dependence",
    "acute_suicidality_or_homicidality",
    "severe_cognitive_impairment",
    "abuse_by_disputed_person",
    "unable_to_attend",
    "needs_other_first_line_treatment",
]
assert set(Contraindication.__args__) == set(CONTRAINDICATIONS)  # type: ignore[attr-defined]


class Diagnosis(In):
    """A diagnosis by code."""

    system: Literal["ICD-10", "ICD-11", "DSM-5-TR", "SNOMED-CT"]
    code: Code = Field(examples=["F32.1"])


class _Particulars(In):
    external_ref: Reference | None = None
    age_at_referral: Age | None = Field(None, description="Years; decides which protocols fit")
    illness_onset_date: Day | None = Field(None, description="When this illness began: the temporal link drives the classification")
    illness_onset_precision: Precision | None = None
    lifetime_episodes: Count | None = Field(None, description="Episodes of the illness in life, this one included")
    concurrent_medication: Flag = False
    diagnoses: Annotated[list[Diagnosis], Field(max_length=20)] = []
    contraindications: Annotated[list[Contraindication], Field(max_length=20)] | None = Field(
        None,
        description="Those that apply; an empty list says that all were asked and none applies; null: not asked yet. They stop automatic planning only",
    )
    risk_screened: Flag = False


class EpisodeIn(_Particulars):
    """A new course of treatment."""

    id: NewId = None
    patient_id: UUID
    protocol: Code = Field(examples=["IPT-16"], description="Code from /v1/protocols or /v1/partner-protocols; its newest version is pinned")
    format: Literal["individual", "group", "couple"] | None = Field(None, description="The protocol's, when left out")
    referred_on: Day
    lead_clinician_id: UUID
    cover_clinician_id: UUID | None = Field(None, description="Who stands in for the lead; needed to leave screening")


class EpisodePatch(_Particulars):
    """What may change about a course. Status and phase move by transitions and endings."""


class EpisodeOut(Kept):
    """A course of treatment."""

    patient_id: UUID
    external_ref: str | None
    protocol_code: str
    protocol_version: int
    format: str
    status: Status
    phase: Phase
    referred_on: date
    age_at_referral: int | None
    illness_onset_date: date | None
    illness_onset_precision: str | None
    lifetime_episodes: int | None
    concurrent_medication: bool
    diagnoses: list[Diagnosis]
    contraindications: list[str] | None
    risk_screened: bool
    ended_at: Moment | None
    risk_hold: bool | None = Field(None, description="Automatic reminders are silent; care goes on")
    continues_episode_id: UUID | None = Field(None, description="The course that this one follows")
    continues_as: Literal["continuation", "maintenance"] | None = None
    imported: bool | None = None


class EpisodePage(Out):
    """A page of episodes."""

    items: list[EpisodeOut]
    next: str | None


@router.post("/episodes", status_code=201, response_model=EpisodeOut)
async def create_episode(call: Annotated[Call, needs("episodes:write")], episode_in: EpisodeIn) -> Row:
    """Open a course of treatment on a protocol, with its lead clinician and the one who covers."""
    values = episode_in.members()
    team = {"lead": values.pop("lead_clinician_id"), "cover": values.pop("cover_clinician_id")}
    patient_id, code = values.pop("patient_id"), values.pop("protocol")
    made = await add_episode(call.visit, patient_id, code, team, fields_for(episode, values))
    return call.made(made, "/v1/episodes/{id}")


@router.get("/episodes", response_model=EpisodePage)
async def list_episodes(
    call: Annotated[Call, needs("episodes:read")],
    external_ref: Annotated[str | None, Query(max_length=128)] = None,
    patient_id: UUID | None = None,
    clinician_id: UUID | None = None,
    status: Status | None = None,
    phase: Phase | None = None,
    referred_from: Day | None = None,
    referred_to: Day | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List courses; a clinician's token sees its caseload."""
    filters = {
        "external_ref": external_ref,
        "patient_id": patient_id,
        "clinician_id": clinician_id,
        "status": status,
        "phase": phase,
        "referred_from": referred_from,
        "referred_to": referred_to,
    }
    pager = call.pager(limit, cursor, filters)
    rows = await page_episodes(call.visit.connection, call.visit.caller.clinician_id, filters, pager.after, limit)
    items, following = pager.cut(rows, "id")
    call.saw(items, "episode")
    return {"items": items, "next": following}


@router.get("/episodes/{episode_id}", response_model=EpisodeOut)
async def read_episode(call: Annotated[Call, needs("episodes:read")], episode_id: UUID) -> Row:
    """Read a course."""
    return call.stored(await get_episode(call.visit, episode_id))


@router.patch("/episodes/{episode_id}", response_model=EpisodeOut)
async def update_episode(call: Annotated[Call, needs("episodes:write")], episode_id: UUID, patch: EpisodePatch) -> Row:
    """Change the particulars that the body names."""
    return call.stored(await amend_episode(call.visit, episode_id, fields_for(episode, patch.sent())))


class MemberIn(In):
    """A clinician and their role in the care team."""

    clinician_id: UUID
    role: Literal["lead", "cover", "supervisor", "member"]


class MemberOut(InChart):
    """A member of the care team."""

    clinician_id: UUID
    role: str


class CareTeam(Out):
    """The care team of a course."""

    items: list[MemberOut]
    next: str | None


@router.get("/episodes/{episode_id}/care-team", response_model=CareTeam)
async def list_care_team(call: Annotated[Call, needs("episodes:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """List the care team."""
    chart = await open_chart(call.visit, episode_id)
    pager = call.pager(limit, cursor)
    query = sa.select(care_team).where(own(call.visit.connection, care_team), care_team.c.episode_id == chart.episode_id)
    items, following = pager.cut(await page(call.visit.connection, query, [care_team.c.id], pager.after, limit), "id")
    call.saw(items, "care_team")
    return {"items": [reveal(None, care_team, r) for r in items], "next": following}


@router.post("/episodes/{episode_id}/care-team", status_code=201, response_model=MemberOut)
async def join_team(call: Annotated[Call, needs("episodes:write")], episode_id: UUID, member_in: MemberIn) -> Row:
    """Let a clinician join the care team or change their role. A new lead replaces the old one, who stays as a member."""
    return call.made(await join_care_team(call.visit, episode_id, member_in.clinician_id, member_in.role))


@router.get("/episodes/{episode_id}/care-team/{member_id}", response_model=MemberOut)
async def read_member(call: Annotated[Call, needs("episodes:read")], episode_id: UUID, member_id: UUID) -> Row:
    """Read one member of the care team."""
    chart = await open_chart(call.visit, episode_id)
    return call.stored(await get_in_chart(call.visit, care_team, chart, member_id))


@router.delete("/episodes/{episode_id}/care-team/{member_id}", status_code=204)
async def leave_team(call: Annotated[Call, needs("episodes:write")], episode_id: UUID, member_id: UUID) -> Response:
    """Let a clinician leave the care team; from then on the course is outside their caseload. The lead cannot leave."""
    await leave_care_team(call.visit, episode_id, member_id)
    return Response(status_code=204)


class Happening(Out):
    """Something that happened: codes, numbers and dates only. A date begins at midnight of the patient's time zone."""

    at: Moment
    kind: str = Field(examples=["session"])
    id: UUID
    code: str | None
    detail: str | None


class Timeline(Out):
    """The course as it happened, oldest first."""

    items: list[Happening]


@router.get("/episodes/{episode_id}/timeline", response_model=Timeline)
async def read_episode_timeline(call: Annotated[Call, needs("episodes:read")], episode_id: UUID) -> Row:
    """Read the course as one timeline: onset, events, sessions, scores, phases, decisions, alerts, the ending."""
    return {"items": await read_timeline(call.visit, episode_id)}
