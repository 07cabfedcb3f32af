"""History: every version of every mutable resource, from the change feed, and what changed in the inventory between two moments."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from fastapi import Path, Query
from pydantic import Field

from app.actions.couples import get_couple
from app.actions.devices import get_device
from app.actions.groups import get_group, get_member, process_note
from app.actions.history import compare_inventory, read_history, read_partner_history, read_patient_history
from app.actions.people import get_clinician
from app.actions.visit import Visit, open_chart
from app.actions.webhooks import get_endpoint
from app.actions.workflow import note_of
from app.api.inventory import Measures
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Moment, Out
from app.domain.protection import RIGHTS
from app.domain.sync import cursor_of
from app.store.database import Row
from app.store.feed import where_it_stands
from app.store.tables.door import partner_setting
from app.store.tables.groups import couple, group_member, group_session, therapy_group
from app.store.tables.inventory import goal, life_event, problem, relationship
from app.store.tables.people import care_team, clinician, episode
from app.store.tables.sync import device
from app.store.tables.webhooks import webhook_endpoint
from app.store.tables.work import (
    assessment,
    contract,
    early_ending,
    focus,
    focus_area,
    follow_up,
    formulation,
    indicator_set,
    phase_task,
    risk_alert,
    session,
    termination,
)
from app.store.tables.workflow import analysis, assessment_request, change_attempt, homework, medication, session_note

router = Router(prefix="/v1", route_class=Route, tags=["history"])


class VersionOut(Out):
    """One version of a resource, as it was after a change."""

    id: UUID
    version: int
    op: Literal["create", "update", "delete"]
    at: Moment
    actor: str = Field(description="The person who acted, else the client")
    seq: int = Field(description="Its cursor in the partner's change feed, as in /v1/events")
    mutation_id: UUID | None = Field(description="The device's mutation, when it came by synchronisation")
    state: dict[str, Any]


class HistoryPage(Out):
    """A page of versions, oldest first."""

    items: list[VersionOut]
    next: str | None


async def page_versions(call: Call, limit: int, cursor: str | None, read: Callable[[Any], Awaitable[list[Row]]]) -> Row:
    """Return a page of versions of whatever `read` reads, oldest first."""
    pager = call.pager(limit, cursor, kinds=(int,))
    items, following = pager.cut(await read(pager.after), "seq")
    epoch = (await where_it_stands(call.visit.connection)).epoch
    return {"items": [row | {"seq": cursor_of(epoch, row["seq"])} for row in items], "next": following}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of resource in a chart: its address below the episode, its table, the scope to read it, the name of its id in the path."""

    path: str
    table: sa.Table
    scope: str
    key: str | None = None


IN_CHART = (
    Kind("relationships/{relationship_id}", relationship, "inventory:read", "relationship_id"),
    Kind("life-events/{life_event_id}", life_event, "inventory:read", "life_event_id"),
    Kind("problems/{problem_id}", problem, "inventory:read", "problem_id"),
    Kind("goals/{goal_id}", goal, "inventory:read", "goal_id"),
    Kind("indicators", indicator_set, "classification:read"),
    Kind("focus", focus, "classification:read"),
    Kind("focus-areas/{focus_area_id}", focus_area, "classification:read", "focus_area_id"),
    Kind("formulation", formulation, "classification:read"),
    Kind("contract", contract, "episodes:read"),
    Kind("phase/tasks", phase_task, "episodes:read"),
    Kind("care-team/{member_id}", care_team, "episodes:read", "member_id"),
    Kind("sessions/{session_id}", session, "sessions:read", "session_id"),
    Kind("assessments/{assessment_id}", assessment, "assessments:read", "assessment_id"),
    Kind("assessment-requests/{request_id}", assessment_request, "assessments:read", "request_id"),
    Kind("follow-ups/{follow_up_id}", follow_up, "termination:read", "follow_up_id"),
    Kind("termination", termination, "termination:read"),
    Kind("early-ending", early_ending, "termination:read"),
    Kind("change-attempts/{change_attempt_id}", change_attempt, "sessions:read", "change_attempt_id"),
    Kind("analyses/{analysis_id}", analysis, "sessions:read", "analysis_id"),
    Kind("medications/{medication_id}", medication, "episodes:read", "medication_id"),
    Kind("homework/{homework_id}", homework, "sessions:read", "homework_id"),
    Kind("risk-alerts", risk_alert, "risk:read"),
)


def _name(kind: Kind) -> str:
    return f"read_{kind.table.name}_history"


def _declare(kind: Kind) -> None:
    """Declare the route of one kind of resource in a chart."""
    words = kind.table.name.replace("_", " ")
    summary = f"Read every version of {'a' if kind.key else 'the'} {words}, each with who wrote it; also after it was taken out."
    if kind.key is None:

        async def endpoint(call: Annotated[Call, needs(kind.scope)], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
            return await page_versions(call, limit, cursor, lambda after: read_history(call.visit, kind.table, episode_id, None, after, limit))
    else:

        async def endpoint(  # type: ignore[misc]
            call: Annotated[Call, needs(kind.scope)],
            episode_id: UUID,
            row_id: Annotated[UUID, Path(alias=kind.key)],
            limit: Limit = 50,
            cursor: Cursor = None,
        ) -> Row:
            return await page_versions(call, limit, cursor, lambda after: read_history(call.visit, kind.table, episode_id, row_id, after, limit))

    router.add_api_route(f"/episodes/{{episode_id}}/{kind.path}/history", endpoint, response_model=HistoryPage, name=_name(kind), description=summary)


for _kind in IN_CHART:
    _declare(_kind)


@router.get("/episodes/{episode_id}/history", response_model=HistoryPage)
async def read_episode_history(call: Annotated[Call, needs("episodes:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """Read every version of a course's particulars, status and phase."""
    return await page_versions(call, limit, cursor, lambda after: read_history(call.visit, episode, episode_id, episode_id, after, limit))


@router.get("/episodes/{episode_id}/sessions/{session_id}/note/history", response_model=HistoryPage)
async def read_note_history(
    call: Annotated[Call, needs("notes:read")], episode_id: UUID, session_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """Read every version of a psychotherapy note. Needs a token that acts for a clinician of the care team."""
    call.visit.clinician()
    note = await note_of(call.visit, await open_chart(call.visit, episode_id), session_id)
    return await page_versions(call, limit, cursor, lambda after: read_history(call.visit, session_note, episode_id, note["id"], after, limit))


@router.get("/patients/{patient_id}/history", response_model=HistoryPage)
async def read_patients_history(
    call: Annotated[Call, needs("patients:read", use=RIGHTS)], patient_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """Read every version of a patient's particulars."""
    return await page_versions(call, limit, cursor, lambda after: read_patient_history(call.visit, patient_id, after, limit))


async def _of_partner(
    call: Call, table: sa.Table, row_id: UUID | None, limit: int, cursor: str | None, check: Callable[[Visit, UUID], Awaitable[Row]] | None = None
) -> Row:
    """Page the versions of a row of the partner's that the caller may read."""
    if check is not None and row_id is not None:
        await check(call.visit, row_id)
    return await page_versions(call, limit, cursor, lambda after: read_partner_history(call.visit, table, row_id, after, limit))


@router.get("/clinicians/{clinician_id}/history", response_model=HistoryPage)
async def read_clinician_history(call: Annotated[Call, needs("patients:read")], clinician_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """Read every version of a clinician's registration."""
    return await _of_partner(call, clinician, clinician_id, limit, cursor, get_clinician)


@router.get("/groups/{group_id}/history", response_model=HistoryPage)
async def read_group_history(call: Annotated[Call, needs("groups:read")], group_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """Read every version of a group's particulars."""
    return await _of_partner(call, therapy_group, group_id, limit, cursor, get_group)


@router.get("/groups/{group_id}/members/{group_member_id}/history", response_model=HistoryPage)
async def read_group_member_history(
    call: Annotated[Call, needs("groups:read")], group_id: UUID, group_member_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """Read every version of a membership in a group."""
    member = await get_member(call.visit, group_id, group_member_id)
    return await page_versions(
        call, limit, cursor, lambda after: read_history(call.visit, group_member, member["episode_id"], group_member_id, after, limit)
    )


@router.get("/groups/{group_id}/sessions/{group_session_id}/process-note/history", response_model=HistoryPage)
async def read_process_note_history(
    call: Annotated[Call, needs("notes:read")], group_id: UUID, group_session_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """Read every version of a group's session with its process note, as a clinician who leads the group."""
    await process_note(call.visit, group_id, group_session_id)
    key = call.visit.keys.own_key(call.visit.caller.partner_id)
    return await page_versions(
        call, limit, cursor, lambda after: read_partner_history(call.visit, group_session, group_session_id, after, limit, key=key)
    )


@router.get("/couples/{couple_id}/history", response_model=HistoryPage)
async def read_couple_history(call: Annotated[Call, needs("groups:read")], couple_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """Read every version of a couple: who was screened, who agreed."""
    return await _of_partner(call, couple, couple_id, limit, cursor, get_couple)


@router.get("/settings/history", response_model=HistoryPage)
async def read_settings_history(call: Annotated[Call, needs("settings:read")], limit: Limit = 50, cursor: Cursor = None) -> Row:
    """Read every version of the partner's settings that was written over HTTP."""
    return await _of_partner(call, partner_setting, None, limit, cursor)


@router.get("/devices/{device_id}/history", response_model=HistoryPage)
async def read_device_history(call: Annotated[Call, needs("sync")], device_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """Read every version of a device: registered, revoked, wiped."""
    return await _of_partner(call, device, device_id, limit, cursor, get_device)


@router.get("/webhook-endpoints/{endpoint_id}/history", response_model=HistoryPage)
async def read_endpoint_history(call: Annotated[Call, needs("webhooks:write")], endpoint_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """Read every version of a webhook endpoint; its secrets stand in none of them."""
    return await _of_partner(call, webhook_endpoint, endpoint_id, limit, cursor, get_endpoint)


class FieldChange(Out):
    """One field before and after."""

    field: str
    before: Any
    after: Any


class RowChange(Out):
    """What happened to one person or event."""

    id: UUID
    change: Literal["added", "removed", "changed"]
    fields: list[FieldChange]


class Move(Out):
    """A move between rings of the closeness circles."""

    relationship_id: UUID
    time_point: Literal["now", "before_onset", "wished"]
    from_ring: int | None
    to_ring: int | None


class InventoryChanges(Out):
    """What changed in the inventory between two moments."""

    episode_id: UUID
    start: Moment = Field(alias="from")
    end: Moment = Field(alias="to")
    relationships: list[RowChange]
    life_events: list[RowChange]
    moves: list[Move]
    measures_before: Measures
    measures_after: Measures


@router.get("/episodes/{episode_id}/inventory/changes", response_model=InventoryChanges)
async def compare_whole_inventory(
    call: Annotated[Call, needs("inventory:read")],
    episode_id: UUID,
    start: Annotated[Moment, Query(alias="from")],
    end: Annotated[Moment | None, Query(alias="to")] = None,
) -> Row:
    """Compare the inventory as it was recorded at two moments: people, events, moves between rings, measures."""
    found = await compare_inventory(call.visit, episode_id, start, end)
    for name in ("measures_before", "measures_after"):
        found[name] = {member: getattr(found[name], member) for member in Measures.model_fields}
    return found
