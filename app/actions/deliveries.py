"""Delivering events: what is due at an endpoint, the message for it, and what an attempt came to. Called by the worker."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from app.actions.records import Fields, amend
from app.actions.visit import Visit, public
from app.actions.webhooks import event_id, pairs_told
from app.actions.wire import wire_of
from app.domain.sync import cursor_of
from app.domain.webhooks import DISABLE_AFTER, DISABLE_AFTER_FAILURES, GIVE_UP_AFTER, SLOW_DOWN_AFTER, URGENT_ENTITY, wait_before
from app.outbound.signature import signed_headers
from app.store.database import Row
from app.store.feed import where_it_stands
from app.store.rows import find_row
from app.store.tables.webhooks import webhook_endpoint
from app.store.webhooks import claim, endpoint_failed, endpoint_succeeded, secrets_of, settle, walk
from app.store.wrapping import secret_place

AT_ONCE = 32
AT_ONCE_WHEN_FAILING = 1  # one probe, until it answers again
URGENT_AT_ONCE_WHEN_FAILING = 4
GONE_STATUS = 410


@dataclass(frozen=True, slots=True)
class Message:
    """A claimed delivery, ready to be posted."""

    partner_id: UUID
    endpoint: Row
    delivery: Row
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attempt to deliver came to: the status of the answer, or an error; milliseconds it took."""

    message: Message
    status: int | None
    error: str | None
    milliseconds: int

    @property
    def succeeded(self) -> bool:
        """Tell whether the receiver has taken it: any 2xx."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004


async def turn_into_deliveries(visit: Visit, endpoint: Row) -> int:
    """Turn what the feed has to tell an endpoint into deliveries; return how many."""
    pairs = pairs_told(endpoint["event_types"])
    return await walk(visit.connection, endpoint, pairs, URGENT_ENTITY, visit.now, visit.now + GIVE_UP_AFTER)


async def take_due(visit: Visit, endpoint: Row, *, urgent: bool, room: int) -> list[Message]:
    """Claim deliveries that are due at an endpoint, and sign them."""
    failing = endpoint["failing_since"] is not None and endpoint["failing_since"] <= visit.now - SLOW_DOWN_AFTER
    most = AT_ONCE if not failing else URGENT_AT_ONCE_WHEN_FAILING if urgent else AT_ONCE_WHEN_FAILING
    claimed = await claim(visit.connection, endpoint["id"], visit.now, urgent=urgent, most_at_once=most, room=room)
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


async def note_attempts(visit: Visit, attempts: Sequence[Attempt]) -> None:
    """Write what attempts came to: delivered, due again after a while, or given up; and whether an endpoint is to be switched off."""
    for attempt in attempts:
        if attempt.succeeded:
            outcome = {"status": "delivered", "delivered_at": visit.now, "last_status": attempt.status, "last_error": None}
            await settle(visit.connection, attempt.message.delivery, outcome, _entry(visit, attempt))
        else:
            await _note_failure(visit, attempt)
    answering = {a.message.endpoint["id"] for a in attempts if a.succeeded}
    for endpoint_id in sorted(answering):
        await endpoint_succeeded(visit.connection, endpoint_id, visit.now, visit.now - SLOW_DOWN_AFTER)


def _entry(visit: Visit, attempt: Attempt) -> dict[str, Any]:
    return {"at": wire_of(visit.now), "status": attempt.status, "error": attempt.error, "milliseconds": attempt.milliseconds}


async def _note_failure(visit: Visit, attempt: Attempt) -> None:
    delivery, now, endpoint_id = attempt.message.delivery, visit.now, attempt.message.endpoint["id"]
    waited = now - delivery["created_at"]
    chance = random.random()  # noqa: S311 - it spreads attempts, and keeps no secret
    again = now + wait_before(delivery["attempts"], urgent=delivery["urgent"], waited=waited, jitter=chance)
    given_up = again > delivery["give_up_at"]
    outcome = {"last_status": attempt.status, "last_error": attempt.error, "next_attempt_at": again} | ({"status": "dead"} if given_up else {})
    await settle(visit.connection, delivery, outcome, _entry(visit, attempt))
    if attempt.status == GONE_STATUS:
        await _switch_off(visit, endpoint_id, "gone", now)
    if delivery["seq"] is None:
        return  # a test says nothing about what is told
    failing_since, failures = await endpoint_failed(visit.connection, endpoint_id, now)
    if now - failing_since >= DISABLE_AFTER and failures >= DISABLE_AFTER_FAILURES:
        await _switch_off(visit, endpoint_id, "failing", now)


async def _switch_off(visit: Visit, endpoint_id: UUID, because: str, now: datetime) -> None:
    """Disable an endpoint. The notice is the change itself: it stands in the feed, and other endpoints are told."""
    row = await find_row(visit.connection, webhook_endpoint, lock=True, id=endpoint_id)
    if row is not None and row["status"] == "enabled":
        await amend(visit, webhook_endpoint, public(row), Fields({"status": "disabled", "disabled_because": because, "disabled_at": now}))
