"""Webhook endpoints: who is told of events, and how the deliveries fare."""

from datetime import timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from fastapi import Response
from pydantic import Field

from app.actions.visit import public
from app.actions.webhooks import add_endpoint, amend_endpoint, fares, get_endpoint, ping, remove_endpoint, resend, rotate_secret
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import In, Kept, Line, Moment, NewId, OneLine, Out, Whole
from app.domain.sync import LARGEST_CURSOR, cursor_of
from app.store.database import Row
from app.store.feed import where_it_stands
from app.store.rows import own, page
from app.store.tables.webhooks import webhook_delivery, webhook_endpoint

router = Router(prefix="/v1/webhook-endpoints", route_class=Route, tags=["events"])

Address = Annotated[OneLine, Field(min_length=1, max_length=2000, examples=["https://hooks.example.com/ipt"])]
EventType = Annotated[OneLine, Field(min_length=1, max_length=80)]
EventTypes = Annotated[
    list[EventType],
    Field(min_length=1, max_length=100, description="Types from /v1/event-types, `entity.*`, or `*`", examples=[["risk_alert.*", "session.updated"]]),
]
ONE_DAY = 86_400
SHOWN_ONCE = ("secret",)


class EndpointIn(In):
    """Where to tell of which events."""

    id: NewId = None
    url: Address
    event_types: EventTypes
    description: Line | None = None


class EndpointPatch(In):
    """What may change about an endpoint."""

    url: Address = ""
    event_types: EventTypes = ["*"]
    description: Line | None = None
    status: Literal["enabled", "paused"] = "enabled"


class EndpointOut(Kept):
    """An endpoint, and how it fares."""

    url: str
    description: str | None
    event_types: list[str]
    status: Literal["enabled", "paused", "disabled"]
    disabled_because: Literal["failing", "gone"] | None = Field(description="failing: no answer for five days; gone: it answered 410")
    disabled_at: Moment | None
    told_up_to: int | None = Field(None, description="The cursor up to which events were made ready for it")
    failing_since: Moment | None = None
    last_success_at: Moment | None = None
    waiting: int | None = Field(None, description="Deliveries that are due or will be tried again")
    given_up: int | None = Field(None, description="Dead letters: tried for 72 hours in vain")


class EndpointWithSecret(EndpointOut):
    """An endpoint with the secret that signs its deliveries (Standard Webhooks, `whsec_`). It is shown once and never again."""

    secret: str | None = Field(description="null in the answer to a repeated request: it was shown")


class EndpointPage(Out):
    """A page of endpoints."""

    items: list[EndpointOut]
    next: str | None


@router.post("", status_code=201, response_model=EndpointWithSecret)
async def create_webhook_endpoint(call: Annotated[Call, needs("webhooks:write")], endpoint_in: EndpointIn) -> Row:
    """Register an endpoint; it is told of what is written from now on. The answer holds its secret, once.

    The address is https and public; each attempt resolves its name anew and calls no loopback, private, link-local or metadata
    address. No redirect is followed.
    """
    call.shown_once = SHOWN_ONCE
    made, secret = await add_endpoint(call.visit, endpoint_in.members(), call.house.allowed_hosts)
    row = call.made(made, "/v1/webhook-endpoints/{id}")
    return await fares(call.visit, row) | {"secret": secret}


@router.get("", response_model=EndpointPage)
async def list_webhook_endpoints(call: Annotated[Call, needs("webhooks:write")], limit: Limit = 50, cursor: Cursor = None) -> Row:
    """List the endpoints."""
    pager = call.pager(limit, cursor)
    query = sa.select(webhook_endpoint).where(own(call.visit.connection, webhook_endpoint))
    items, following = pager.cut(await page(call.visit.connection, query, [webhook_endpoint.c.id], pager.after, limit), "id")
    call.saw(items, "webhook_endpoint")
    return {"items": [await fares(call.visit, public(r)) for r in items], "next": following}


@router.get("/{endpoint_id}", response_model=EndpointOut)
async def read_webhook_endpoint(call: Annotated[Call, needs("webhooks:write")], endpoint_id: UUID) -> Row:
    """Read an endpoint, and how it fares."""
    return call.stored(await fares(call.visit, await get_endpoint(call.visit, endpoint_id)), with_more=True)


@router.patch("/{endpoint_id}", response_model=EndpointOut)
async def update_webhook_endpoint(call: Annotated[Call, needs("webhooks:write")], endpoint_id: UUID, patch: EndpointPatch) -> Row:
    """Change an endpoint, pause it, or enable it again: what was written meanwhile is told then."""
    row = await amend_endpoint(call.visit, endpoint_id, patch.sent(), call.house.allowed_hosts)
    return call.stored(await fares(call.visit, row), with_more=True)


@router.delete("/{endpoint_id}", status_code=204)
async def delete_webhook_endpoint(call: Annotated[Call, needs("webhooks:write")], endpoint_id: UUID) -> Response:
    """Remove an endpoint with its secrets and its log of deliveries."""
    await remove_endpoint(call.visit, endpoint_id)
    return Response(status_code=204)


class RotationIn(In):
    """How long the old secret stays valid beside the new one."""

    overlap_seconds: Annotated[Whole, Field(ge=0, le=7 * ONE_DAY)] = ONE_DAY


@router.post("/{endpoint_id}/secret-rotation", response_model=EndpointWithSecret)
async def rotate_webhook_secret(call: Annotated[Call, needs("webhooks:write")], endpoint_id: UUID, rotation_in: RotationIn) -> Row:
    """Make a new secret. During the overlap each delivery carries two signatures, so that no receiver fails."""
    call.shown_once = SHOWN_ONCE
    row, secret = await rotate_secret(call.visit, endpoint_id, timedelta(seconds=rotation_in.overlap_seconds))
    return call.stored(await fares(call.visit, row), with_more=True) | {"secret": secret}


class PingOut(Out):
    """A test delivery that is on its way."""

    delivery_id: UUID


@router.post("/{endpoint_id}/ping", status_code=202, response_model=PingOut)
async def ping_webhook_endpoint(call: Annotated[Call, needs("webhooks:write")], endpoint_id: UUID) -> Row:
    """Send a test delivery of type `ping`; its log says what became of it."""
    return {"delivery_id": await ping(call.visit, endpoint_id)}


class ResendIn(In):
    """From where on to tell again."""

    since: Annotated[Whole, Field(ge=0, le=LARGEST_CURSOR)] = Field(description="A cursor: everything after it is told again")


@router.post("/{endpoint_id}/resend", status_code=202, response_model=EndpointOut)
async def resend_events(call: Annotated[Call, needs("webhooks:write")], endpoint_id: UUID, resend_in: ResendIn) -> Row:
    """Tell an endpoint again of everything after a cursor, dead letters included. Event ids stay the same."""
    return await fares(call.visit, await resend(call.visit, endpoint_id, resend_in.since))


class DeliveryOut(Out):
    """A delivery and its attempts."""

    id: UUID
    type: str
    seq: int | None = Field(description="Its cursor, as in /v1/events; null for a ping")
    status: Literal["pending", "delivered", "dead"]
    attempts: int
    next_attempt_at: Moment
    last_status: int | None
    last_error: str | None
    created_at: Moment
    delivered_at: Moment | None
    log: list[dict[str, Any]] = Field(description="The last 30 attempts: at, status, error, milliseconds")


class DeliveryPage(Out):
    """A page of deliveries."""

    items: list[DeliveryOut]
    next: str | None


@router.get("/{endpoint_id}/deliveries", response_model=DeliveryPage)
async def list_deliveries(
    call: Annotated[Call, needs("webhooks:write")],
    endpoint_id: UUID,
    status: Literal["pending", "delivered", "dead"] | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List the deliveries of an endpoint with their attempts. Those that are done are kept for 30 days."""
    await get_endpoint(call.visit, endpoint_id)
    pager = call.pager(limit, cursor, {"status": status})
    d = webhook_delivery
    wanted = [d.c.endpoint_id == endpoint_id, *([d.c.status == status] if status else [])]
    rows = await page(call.visit.connection, sa.select(d).where(own(call.visit.connection, d), *wanted), [d.c.id], pager.after, limit)
    items, following = pager.cut(rows, "id")
    call.saw(items, "webhook_delivery")
    epoch = (await where_it_stands(call.visit.connection)).epoch
    return {"items": [r | {"seq": None if r["seq"] is None else cursor_of(epoch, r["seq"])} for r in items], "next": following}


hooks = Router(tags=["events"])


class EventAbout(Out):
    """What was written: ids only. Read the resource for its content."""

    seq: int = Field(description="Its cursor in /v1/events")
    entity: str
    entity_id: UUID
    version: int
    patient_id: UUID | None
    episode_id: UUID | None


class Told(Out):
    """The body of a delivery (Standard Webhooks). `id` is the same for every attempt: tell repeats by it."""

    id: str = Field(examples=["evt_1099511627777"])
    type: str = Field(examples=["risk_alert.created"], description="A type of /v1/event-types, or `ping`")
    timestamp: Moment = Field(description="When it was written")
    data: EventAbout


@hooks.post("event")
def event_told(told: Told) -> Response:
    """Tell an endpoint of an event. Answer with any 2xx within 15 seconds; everything else is tried again for 72 hours.

    Headers `webhook-id`, `webhook-timestamp` and `webhook-signature` are those of Standard Webhooks; check them with its library.
    Deliveries may come twice and out of order: `webhook-id` tells repeats, `data.seq` the order. Answer 410 to be told no more.
    """
    del told
    return Response(status_code=204)
