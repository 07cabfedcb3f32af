"""Synchronisation for devices: pull, push, snapshot, digest, stream, and the conflicts that were kept."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import Query, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from app.actions.pulling import digest, has_news, pull, scope_of
from app.actions.visit import Visit
from app.actions.wire import wire_of
from app.api.request import Call, House, Route, needs
from app.api.routing import Router
from app.api.shapes import Moment, Out
from app.domain.errors import Refusal
from app.domain.sync import LARGEST_CURSOR, SCHEMA_VERSION, check_schema
from app.keys.tokens import Caller
from app.store.database import DatabaseAway, clock
from app.store.feed import where_it_stands

router = Router(prefix="/v1/sync", route_class=Route, tags=["sync"])

MOST_CHANGES = 1_000
MOST_IN_SNAPSHOT = 5_000
ROWS_BETWEEN_BREATHS = 200
STREAM_LOOKS_EVERY_SECONDS = 1.0
STREAM_LASTS_SECONDS = 55.0  # shorter than the usual limits of proxies; clients connect again by themselves

FeedCursor = Annotated[int, Query(ge=0, le=LARGEST_CURSOR, description="A cursor of this feed: a whole number below 2^53. 0 is the start")]
MaybeCursor = Annotated[int | None, Query(ge=0, le=LARGEST_CURSOR, description="Read up to this cursor; the head, when left out")]
SchemaVersion = Annotated[int, Query(ge=0, le=1_000_000, description="The schema that the client knows; see `schema_version` in the answer")]
Entities = Annotated[str | None, Query(max_length=1000, description="Only these kinds of rows, with commas between")]


class SyncChange(Out):
    """The newest state of a row. Idempotent by (id, version)."""

    entity: str = Field(examples=["relationship"])
    id: UUID
    version: int
    seq: int = Field(description="Its cursor")
    op: Literal["upsert", "delete", "revoke"] = Field(description="revoke: the person no longer sees it; remove the copy, it was not deleted")
    data: dict[str, Any] | None = Field(
        description="The stored members of the row, named as its own route names them, without what that route computes; null for delete and revoke"
    )


class Pulled(Out):
    """A page of changes."""

    changes: list[SyncChange]
    next: int = Field(description="Give it as `since` for the next page or the next pull")
    until: int = Field(description="Give it as `until` for the further pages of this pull")
    has_more: bool
    schema_version: int
    server_time: Moment
    token_expires_in: int = Field(description="Seconds")


def entities_of(listed: str | None) -> tuple[str, ...] | None:
    """Read a list of kinds of rows."""
    return None if listed is None else tuple(dict.fromkeys(e for e in listed.split(",") if e))


@router.get("/pull", response_model=Pulled)
async def pull_changes(
    call: Annotated[Call, needs("sync", patients=True)],
    since: FeedCursor = 0,
    until: MaybeCursor = None,
    limit: Annotated[int, Query(ge=1, le=MOST_CHANGES)] = 200,
    schema_version: SchemaVersion = SCHEMA_VERSION,
    entities: Entities = None,
) -> Response:
    """Read what changed for the person whose token this is: a clinician's caseload, or a patient's own data.

    The newest state of each row after `since`, in the order of the feed; exactly `limit` rows unless fewer are left. The first page
    fixes `until`. Delivered at least once; a page can be asked for again. 410: start again from 0 and replace the copy.
    """
    check_schema(schema_version, reading=True)
    call.of_this_moment = True
    found = await pull(call.visit, since, until, limit, entities_of(entities), as_they_are=True)
    answer = {
        "changes": found.changes,
        "next": found.next,
        "until": found.until,
        "has_more": found.has_more,
        "schema_version": SCHEMA_VERSION,
        "server_time": wire_of(call.visit.now),
        "token_expires_in": max(0, call.visit.caller.expires_at - int(call.visit.now.timestamp())),
    }
    return Response(orjson.dumps(answer), media_type="application/json")  # a thousand rows, each made by our own hand: not validated once more


@router.get(
    "/snapshot",
    response_class=Response,
    responses={200: {"content": {"application/x-ndjson": {}}, "description": "gzip NDJSON: a change a line, then {next, until, has_more}"}},
)
async def read_snapshot(
    call: Annotated[Call, needs("sync", patients=True)],
    since: FeedCursor = 0,
    until: MaybeCursor = None,
    limit: Annotated[int, Query(ge=1, le=MOST_IN_SNAPSHOT)] = MOST_IN_SNAPSHOT,
    schema_version: SchemaVersion = SCHEMA_VERSION,
) -> Response:
    """Read a large page for a first sync: gzip-compressed NDJSON, a change a line as in a pull, and `{next, until, has_more}` as the last line.

    While `has_more`, ask again with `since=next` and the same `until`. A broken download is asked for again from its own `since`.
    """
    check_schema(schema_version, reading=True)
    call.of_this_moment = True
    lines: list[bytes] = []
    start, end, left = since, until, limit
    while True:
        found = await pull(call.visit, start, end, min(left, ROWS_BETWEEN_BREATHS), as_they_are=True)
        lines += [orjson.dumps(c) for c in found.changes]
        start, end, left = found.next, found.until, left - len(found.changes)
        if not found.has_more or left <= 0:
            break
        await asyncio.sleep(0)
    lines.append(orjson.dumps({"next": found.next, "until": found.until, "has_more": found.has_more, "schema_version": SCHEMA_VERSION}))
    body = await asyncio.to_thread(gzip.compress, b"\n".join(lines) + b"\n", 5)
    return Response(body, media_type="application/x-ndjson", headers={"Content-Encoding": "gzip"})


class EntityDigest(Out):
    """One kind of row."""

    entity: str
    count: int
    hash: str = Field(description="16 hex digits: for each row the first 8 bytes of SHA-256 over `id:version`, summed modulo 2^64")


class Digest(Out):
    """What a device should hold at a cursor."""

    until: int
    entities: list[EntityDigest]


@router.get("/digest", response_model=Digest)
async def read_digest(call: Annotated[Call, needs("sync", patients=True)], until: MaybeCursor = None, entities: Entities = None) -> dict[str, Any]:
    """Read how many rows of each kind a device should hold at a cursor, and their order-free hash: a copy that has drifted shows."""
    call.of_this_moment = True
    return await digest(call.visit, until, entities_of(entities))


@router.get("/stream", response_class=Response, responses={200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"}})
async def open_stream(call: Annotated[Call, needs("sync", patients=True)], request: Request) -> StreamingResponse:
    """Be told when to pull: `data: RESYNC`, with the head cursor as the event's id. It says nothing else, and closes after a minute; connect again."""
    call.of_this_moment = True
    feed = await where_it_stands(call.visit.connection)
    await scope_of(call.visit)
    return stream_for(request, call.visit.caller, feed.seq)


def stream_for(request: Request, caller: Caller, seq: int) -> StreamingResponse:
    """Return the stream of a caller from a number of the feed on."""
    house: House = request.app.state.house
    return StreamingResponse(_events(house, caller, seq), media_type="text/event-stream")


async def _events(house: House, caller: Caller, seq: int) -> AsyncIterator[bytes]:
    """Say RESYNC whenever something is there for the caller; end when the token does, or is revoked, or the service stops."""
    ends = asyncio.get_running_loop().time() + STREAM_LASTS_SECONDS
    yield b"retry: 1000\n: connected\n\n"
    while asyncio.get_running_loop().time() < ends and not house.stopping.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(house.stopping.wait(), STREAM_LOOKS_EVERY_SECONDS)
        try:
            if house.now().timestamp() >= caller.expires_at:
                return
            house.door.check_revoked(caller)
            async with house.database.transaction(caller.partner_id) as connection:
                visit = Visit(connection, caller, clock(house.now), house.keys)
                feed = await where_it_stands(visit.connection)
                news = feed.seq > seq and await has_news(visit, seq)
        except (Refusal, DatabaseAway):
            return
        seq = feed.seq
        yield f"id: {feed.head}\ndata: RESYNC\n\n".encode() if news else b": still here\n\n"
