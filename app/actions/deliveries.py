"""Delivering events: what is due at an endpoint, the message for it, and what an attempt came to. Called by the worker."""

import random
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from app.actions.records import Fields, amend, wire_of
from app.actions.visit import Visit, public
from app.actions.webhooks import event_id, pairs_of, secret_place
from app.domain.sync import cursor_of
from app.domain.webhooks import DISABLE_AFTER, GIVE_UP_AFTER, URGENT_ENTITY, wait_before
from app.outbound.signature import signed_headers
from app.store.database import Row
from app.store.feed import where_it_stands
from app.store.rows import find_row
from app.store.tables.webhooks import webhook_endpoint
from app.store.webhooks import claim, endpoint_failed, endpoint_succeeded, secrets_of, settle, walk

AT_ONCE = 8
AT_ONCE_WHEN_FAILING = 1  # one probe, until it answers again
GONE_STATUS = 410


@dataclass(frozen=True, slots=True)
class Message:
    """A claimed delivery, ready to be posted."""

    partner_id: UUID
    endpoint: Row
    delivery: Row
    headers: dict[str, str]
    body: bytes


async def turn_into_deliveries(visit: Visit, endpoint: Row) -> int:
    """Turn what the feed has to tell an endpoint into deliveries; return how many."""
    pairs = pairs_of(endpoint["event_types"])
    return await walk(visit.connection, endpoint, pairs, URGENT_ENTITY, visit.now, visit.now + GIVE_UP_AFTER)


async def take_due(visit: Visit, endpoint: Row, *, urgent: bool, room: int) -> list[Message]:
    """Claim deliveries that are due at an endpoint, and sign them."""
    most = AT_ONCE if urgent or endpoint["failing_since"] is None else AT_ONCE_WHEN_FAILING
    claimed = await claim(visit.connection, endpoint["id"], visit.now, urgent=urgent, most_at_once=min(most, room))
    if not claimed:
        return []
    feed = await where_it_stands(visit.connection)
    rows = await secrets_of(visit.connection, endpoint["id"], visit.now)
    secrets = [visit.keys.open(r["secret"], secret_place(visit.caller.partner_id, r["id"])) for r in rows]
    return [_message(visit, endpoint, d, feed.epoch, secrets) for d in claimed]


def _message(visit: Visit, endpoint: Row, delivery: Row, epoch: int, secrets: list[bytes]) -> Message:
    """Write a delivery as Standard Webhooks has it: type, time, and ids; nothing of what was written."""
    cursor = None if delivery["seq"] is None else cursor_of(epoch, delivery["seq"])
    message_id = f"ping_{delivery['id']}" if cursor is None else event_id(cursor)
    data: dict[str, Any] = {"endpoint_id": endpoint["id"]}
    if cursor is not None:
        data = {"seq": cursor, "entity": delivery["entity"], "entity_id": delivery["entity_id"], "version": delivery["entity_version"]}
        data |= {"patient_id": delivery["patient_id"], "episode_id": delivery["episode_id"]}
    body = orjson.dumps({"id": message_id, "type": delivery["type"], "timestamp": wire_of(delivery["happened_at"]), "data": data}, default=str)
    headers = signed_headers(message_id, int(visit.now.timestamp()), body, secrets)
    return Message(visit.caller.partner_id, endpoint, delivery, headers, body)


async def note_attempt(visit: Visit, message: Message, status: int | None, error: str | None, milliseconds: int) -> None:
    """Write what an attempt came to: delivered, due again after a while, or given up; and whether the endpoint is to be switched off."""
    delivery, now = message.delivery, visit.now
    entry = {"at": wire_of(now), "status": status, "error": error, "milliseconds": milliseconds}
    if status is not None and 200 <= status < 300:  # noqa: PLR2004
        await settle(visit.connection, delivery, {"status": "delivered", "delivered_at": now, "last_status": status, "last_error": None}, entry)
        await endpoint_succeeded(visit.connection, message.endpoint["id"], now)
        return
    again = now + wait_before(
        delivery["attempts"],
        urgent=delivery["urgent"],
        waited=now - delivery["created_at"],
        jitter=random.random(),  # noqa: S311 - no secret
    )
    given_up = again > delivery["give_up_at"]
    outcome = {"last_status": status, "last_error": error, "next_attempt_at": again} | ({"status": "dead"} if given_up else {})
    await settle(visit.connection, delivery, outcome, entry)
    failing_since = await endpoint_failed(visit.connection, message.endpoint["id"], now)
    if status == GONE_STATUS:
        await _switch_off(visit, message.endpoint["id"], "gone", now)
    elif now - failing_since >= DISABLE_AFTER:
        await _switch_off(visit, message.endpoint["id"], "failing", now)


async def _switch_off(visit: Visit, endpoint_id: UUID, because: str, now: datetime) -> None:
    """Disable an endpoint. The notice is the change itself: it stands in the feed, and other endpoints are told."""
    row = await find_row(visit.connection, webhook_endpoint, lock=True, id=endpoint_id)
    if row is not None and row["status"] == "enabled":
        await amend(visit, webhook_endpoint, public(row), Fields({"status": "disabled", "disabled_because": because, "disabled_at": now}))
