"""Events: every write of the partner, in the order of its commits, by cursor."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from pydantic import Field

from app.actions.webhooks import known_types, read_events
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Moment, Out
from app.api.sync import FeedCursor, MaybeCursor

router = Router(prefix="/v1", route_class=Route, tags=["events"])
MOST_EVENTS = 1_000


class EventOut(Out):
    """Something was written. It names what, and holds none of it: read the resource for its content."""

    id: str = Field(description="The same in a webhook delivery: tell repeats by it", examples=["evt_1099511627777"])
    type: str = Field(examples=["session.updated"])
    seq: int = Field(description="Its cursor")
    at: Moment
    entity: str
    entity_id: UUID
    version: int
    patient_id: UUID | None
    episode_id: UUID | None
    actor: str = Field(description="The person who acted, else the client")
    mutation_id: UUID | None = Field(description="The device's mutation, when it came by synchronisation")


class EventPage(Out):
    """A page of events, oldest first."""

    events: list[EventOut]
    next: int = Field(description="Give it as `since` for the next page, or to hear what comes")
    has_more: bool


@router.get("/events", response_model=EventPage)
async def list_events(
    call: Annotated[Call, needs("events:read")],
    since: FeedCursor = 0,
    until: MaybeCursor = None,
    types: Annotated[str | None, Query(max_length=2000, description="Event types, or `entity.*`, with commas between")] = None,
    patient_id: UUID | None = None,
    episode_id: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_EVENTS)] = 100,
) -> dict[str, Any]:
    """Replay the change feed: gap-free and in the order of commits, so that a reader who follows `next` misses nothing and sees nothing twice.

    410: the cursor is older than the feed still reaches, or the database was restored; read the resources anew and go on from 0.
    """
    call.of_this_moment = True
    wanted = None if types is None else [t for t in types.split(",") if t]
    return await read_events(call.visit, since, until, wanted, {"patient_id": patient_id, "episode_id": episode_id}, limit)


@router.get("/event-types")
async def list_event_types(call: Annotated[Call, needs("events:read")]) -> dict[str, list[str]]:
    """List the event types that there are."""
    del call
    return {"items": known_types()}
