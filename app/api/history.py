"""History: every version of a resource, from the change feed, and what changed in the inventory between two moments."""

from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Query
from pydantic import Field

from app.actions.history import compare_inventory, read_history
from app.api.inventory import Measures
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.shapes import Moment, Out
from app.store.database import Row
from app.store.tables.inventory import life_event, relationship
from app.store.tables.work import contract, focus, focus_area, formulation

router = APIRouter(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["history"])


class VersionOut(Out):
    """One version of a resource, as it was after a change."""

    id: UUID
    version: int
    op: Literal["create", "update", "delete", "grant", "revoke"]
    at: Moment
    actor: str = Field(description="The person who acted, else the client")
    seq: int = Field(description="Its number in the partner's change feed")
    state: dict[str, Any]


class HistoryPage(Out):
    """A page of versions, oldest first."""

    items: list[VersionOut]
    next: str | None


async def _history(call: Call, table: sa.Table, episode_id: UUID, row_id: UUID | None, limit: int, cursor: str | None) -> Row:
    pager = call.pager(limit, cursor, kinds=(int,))
    items, following = pager.cut(await read_history(call.visit, table, episode_id, row_id, pager.after, limit), "seq")
    return {"items": items, "next": following}


@router.get("/relationships/{relationship_id}/history", response_model=HistoryPage)
async def read_relationship_history(
    call: Annotated[Call, needs("inventory:read")], episode_id: UUID, relationship_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """Read every version of a relationship, also after it was taken out."""
    return await _history(call, relationship, episode_id, relationship_id, limit, cursor)


@router.get("/life-events/{life_event_id}/history", response_model=HistoryPage)
async def read_life_event_history(
    call: Annotated[Call, needs("inventory:read")], episode_id: UUID, life_event_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """Read every version of a life event."""
    return await _history(call, life_event, episode_id, life_event_id, limit, cursor)


@router.get("/focus/history", response_model=HistoryPage)
async def read_focus_history(call: Annotated[Call, needs("classification:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """Read every decision on the focus, with its reason and who made it."""
    return await _history(call, focus, episode_id, None, limit, cursor)


@router.get("/focus-areas/{focus_area_id}/history", response_model=HistoryPage)
async def read_focus_area_history(
    call: Annotated[Call, needs("classification:read")], episode_id: UUID, focus_area_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """Read how the work in a focus area went on: every version, with both ratings of progress."""
    return await _history(call, focus_area, episode_id, focus_area_id, limit, cursor)


@router.get("/formulation/history", response_model=HistoryPage)
async def read_formulation_history(
    call: Annotated[Call, needs("classification:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """Read every version of the formulation."""
    return await _history(call, formulation, episode_id, None, limit, cursor)


@router.get("/contract/history", response_model=HistoryPage)
async def read_contract_history(call: Annotated[Call, needs("episodes:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """Read the contract and its amendments, each with reason and severity."""
    return await _history(call, contract, episode_id, None, limit, cursor)


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


@router.get("/inventory/changes", response_model=InventoryChanges)
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
