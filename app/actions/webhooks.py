"""Events and the endpoints that are told of them."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.actions.records import Fields, Made, amend, create, remove
from app.actions.visit import Visit, public
from app.domain.errors import Fault, Invalid, NotFound
from app.domain.sync import cursor_of
from app.domain.webhooks import EVERY, GIVE_UP_AFTER, PING, VERBS, EndpointOff, EventTypeUnknown, event_type, wants
from app.outbound.guarded import AddressRefused, checked_url
from app.outbound.signature import new_secret, shown
from app.store.database import Row
from app.store.feed import page_events, where_it_stands
from app.store.rows import find_row
from app.store.tables.every import SHARED_TABLES, metadata
from app.store.tables.webhooks import webhook_endpoint
from app.store.webhooks import add_ping, add_secret, begin_anew, expire_secrets, forget_endpoint, move_back, place_at_head, standing_of
from app.store.wrapping import secret_place


class AddressUnfit(Invalid):
    """The endpoint's address must not be called."""


def told_entities() -> list[str]:
    """Return the kinds of rows that the feed tells of."""
    return sorted(name for name, t in metadata.tables.items() if "version" in t.c and name not in SHARED_TABLES)


def known_types() -> list[str]:
    """Return every event type."""
    return [f"{entity}.{verb}" for entity in told_entities() for verb in VERBS.values()]


def pairs_of(types: Iterable[str] | None) -> list[tuple[str, str]]:
    """Return the pairs of entity and operation that event types name; None names all. Raises EventTypeUnknown."""
    wanted, known = [EVERY] if types is None else list(types), known_types()
    unknown = [t for t in wanted if t not in {EVERY, *known, *(f"{e}.*" for e in told_entities())}]
    if unknown:
        raise EventTypeUnknown(f"Not known: {', '.join(u[:60] for u in unknown[:5])}. See /v1/event-types.")
    return pairs_told(wanted)


def pairs_told(types: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs that an endpoint is told of; a type of its that this release does not know is passed over."""
    wanted = list(types)
    return [(entity, op) for entity in told_entities() for op in VERBS if wants(wanted, event_type(entity, op))]


def event_id(cursor: int) -> str:
    """Return the id of an event, the same wherever it is told."""
    return f"evt_{cursor}"


async def read_events(
    visit: Visit, since: int, until: int | None, types: Sequence[str] | None, filters: dict[str, UUID | None], limit: int
) -> dict[str, Any]:
    """Return a page of events after a cursor. Raises CursorMalformed, CursorAhead, CursorExpired, EventTypeUnknown."""
    feed = await where_it_stands(visit.connection)
    start = feed.seq_of(since)
    end = feed.seq if until is None else feed.seq_of(until)
    rows = await page_events(visit.connection, start, end, filters, pairs_of(types), limit)
    shown_rows = rows[:limit]
    events = []
    for row in shown_rows:
        cursor = cursor_of(feed.epoch, row["seq"])
        names = ("at", "entity", "entity_id", "version", "patient_id", "episode_id", "actor", "mutation_id")
        events.append({"id": event_id(cursor), "type": event_type(row["entity"], row["op"]), "seq": cursor} | {n: row[n] for n in names})
        visit.trace.of(row["patient_id"], f"event/{row['entity']}/{row['entity_id']}")
    more = len(rows) > limit
    return {"events": events, "next": cursor_of(feed.epoch, shown_rows[-1]["seq"] if more else end), "has_more": more}


async def add_endpoint(visit: Visit, values: dict[str, Any], allowed: Iterable[str]) -> tuple[Made, str | None]:
    """Register an endpoint; it is told of what is written from now on. Returns it with its secret, which is shown this once."""
    _check(values, allowed)
    fields = {"status": "enabled", "disabled_because": None, "disabled_at": None}
    made = await create(visit, webhook_endpoint, Fields({k: v for k, v in values.items() if k != "id"}, id=values.get("id"), derived=fields))
    if not made.new:
        return made, None
    await place_at_head(visit.connection, made.row["id"])
    return made, await _new_secret(visit, made.row["id"])


def _check(values: dict[str, Any], allowed: Iterable[str]) -> None:
    if "url" in values:
        try:
            checked_url(values["url"], allowed)
        except AddressRefused as refused:
            raise AddressUnfit(faults=[Fault("/url", str(refused))]) from None
    if "event_types" in values:
        pairs_of(values["event_types"])


async def _new_secret(visit: Visit, endpoint_id: UUID) -> str:
    secret, secret_id = new_secret(), uuid7()
    await add_secret(visit.connection, endpoint_id, secret_id, visit.keys.seal(secret, secret_place(visit.caller.partner_id, secret_id)), visit.now)
    return shown(secret)


async def get_endpoint(visit: Visit, endpoint_id: UUID, *, lock: bool = False) -> Row:
    """Return an endpoint. Raises NotFound."""
    row = await find_row(visit.connection, webhook_endpoint, lock=lock, id=endpoint_id)
    if row is None:
        raise NotFound
    visit.trace.resources.append(f"webhook_endpoint/{endpoint_id}")
    return public(row)


async def fares(visit: Visit, row: Row) -> Row:
    """Return an endpoint with how it fares: how far it was told, since when it fails, what waits."""
    found = await standing_of(visit.connection, row["id"])
    feed = await where_it_stands(visit.connection)
    return row | {"told_up_to": cursor_of(feed.epoch, found["seq"])} | {k: v for k, v in found.items() if k != "seq"}


async def amend_endpoint(visit: Visit, endpoint_id: UUID, values: dict[str, Any], allowed: Iterable[str]) -> Row:
    """Change address, types, description, or whether it is told: `enabled` or `paused`. What was written meanwhile is told when it is enabled."""
    row = await get_endpoint(visit, endpoint_id, lock=True)
    visit.precondition.check(row["version"])
    _check(values, allowed)
    if values.get("status") == "enabled":
        values = {**values, "disabled_because": None, "disabled_at": None}
    if values.get("status") == "enabled" or "url" in values:
        await begin_anew(visit.connection, endpoint_id, visit.now, visit.now + GIVE_UP_AFTER)
    return await amend(visit, webhook_endpoint, row, Fields(values))


async def remove_endpoint(visit: Visit, endpoint_id: UUID) -> None:
    """Remove an endpoint with its secrets and its log."""
    row = await get_endpoint(visit, endpoint_id, lock=True)
    visit.precondition.check(row["version"])
    await forget_endpoint(visit.connection, endpoint_id)
    await remove(visit, webhook_endpoint, row, None)


async def rotate_secret(visit: Visit, endpoint_id: UUID, overlap: timedelta) -> tuple[Row, str]:
    """Make a new secret; until the overlap is over each delivery is signed with both."""
    row = await get_endpoint(visit, endpoint_id, lock=True)
    await expire_secrets(visit.connection, endpoint_id, visit.now + overlap)
    secret = await _new_secret(visit, endpoint_id)
    return await amend(visit, webhook_endpoint, row, Fields({})), secret


async def ping(visit: Visit, endpoint_id: UUID) -> UUID:
    """Send a test delivery. Raises EndpointOff."""
    row = await get_endpoint(visit, endpoint_id, lock=True)
    if row["status"] != "enabled":
        raise EndpointOff
    visit.journal.kept_beside = True
    return await add_ping(visit.connection, endpoint_id, PING, visit.now, visit.now + timedelta(minutes=5))


async def resend(visit: Visit, endpoint_id: UUID, since: int) -> Row:
    """Tell an endpoint again of everything after a cursor. Raises CursorMalformed, CursorAhead, CursorExpired."""
    row = await get_endpoint(visit, endpoint_id, lock=True)
    feed = await where_it_stands(visit.connection)
    await move_back(visit.connection, endpoint_id, feed.seq_of(since), visit.now, visit.now + GIVE_UP_AFTER)
    visit.journal.kept_beside = True
    return row
