"""Synchronisation for devices: pull, push, snapshot, digest, stream, and the conflicts that were kept."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.responses import Response, StreamingResponse

from app.actions.pulling import digest, has_news, head, pull
from app.actions.pushing import Result, open_conflict, push, resolve_conflict, told
from app.actions.records import reveal
from app.actions.synced import conflicts_shown, is_shown
from app.actions.visit import Visit, open_chart
from app.api.mutations import HANDLERS, read_mutation
from app.api.pages import Cursor, Limit
from app.api.problems import Unauthenticated, Unavailable, every_problem, name_of, status_of
from app.api.request import Call, House, Route, needs
from app.api.shapes import In, InChart, Moment, OneLine, Out, Prose, Whole
from app.domain.errors import Fault, Invalid, NotFound, Refusal, escaped
from app.domain.sync import LARGEST_CURSOR, SCHEMA_VERSION, GroupRefused, MutationMalformed, check_schema
from app.keys.tokens import Caller
from app.store.database import DatabaseAway, Row, clock
from app.store.rows import own, page
from app.store.sync import caseload_of
from app.store.tables.sync import sync_conflict

router = APIRouter(prefix="/v1/sync", route_class=Route, tags=["sync"])

MOST_CHANGES = 1_000
MOST_IN_SNAPSHOT = 5_000
MOST_MUTATIONS = 100
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
    data: dict[str, Any] | None = Field(description="The row as its own route shows it; null for delete and revoke")


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
) -> dict[str, Any]:
    """Read what changed for the person whose token this is: a clinician's caseload, or a patient's own data.

    The newest state of each row after `since`, in the order of the feed; exactly `limit` rows unless fewer are left. The first page
    fixes `until`. Delivered at least once; a page can be asked for again. 410: start again from 0 and replace the copy.
    """
    check_schema(schema_version, reading=True)
    call.of_this_moment = True
    found = await pull(call.visit, since, until, limit, entities_of(entities))
    return {
        "changes": found.changes,
        "next": found.next,
        "until": found.until,
        "has_more": found.has_more,
        "schema_version": SCHEMA_VERSION,
        "server_time": call.visit.now,
        "token_expires_in": max(0, call.visit.caller.expires_at - int(call.visit.now.timestamp())),
    }


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
        found = await pull(call.visit, start, end, min(left, ROWS_BETWEEN_BREATHS))
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
    feed = await head(call.visit)
    await has_news(call.visit, feed.seq)
    return stream_for(request, call.visit.caller, feed.seq)


def stream_for(request: Request, caller: Caller, seq: int) -> StreamingResponse:
    """Return the stream of a caller from a number of the feed on."""
    house: House = request.app.state.house
    return StreamingResponse(_events(house, caller, request.headers.get("authorization"), seq), media_type="text/event-stream")


async def _events(house: House, caller: Caller, authorization: str | None, seq: int) -> AsyncIterator[bytes]:
    """Say RESYNC whenever something is there for the caller; end when the token does, or is revoked, or the service stops."""
    ends = asyncio.get_running_loop().time() + STREAM_LASTS_SECONDS
    yield b"retry: 1000\n: connected\n\n"
    while asyncio.get_running_loop().time() < ends and not house.stopping.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(house.stopping.wait(), STREAM_LOOKS_EVERY_SECONDS)
        try:
            if house.now().timestamp() >= caller.expires_at:
                return
            house.door.caller_of(authorization)
            async with house.database.transaction(caller.partner_id) as connection:
                visit = Visit(connection, caller, clock(house.now), house.keys)
                feed = await head(visit)
                news = feed.seq > seq and await has_news(visit, seq)
        except (Unauthenticated, Unavailable, DatabaseAway):
            return
        seq = feed.seq
        yield f"id: {feed.head}\ndata: RESYNC\n\n".encode() if news else b": still here\n\n"


def _lenient(value: object) -> object:
    """Read a device's time, which decides nothing: one that makes no sense is none."""
    try:
        return TypeAdapter(Moment).validate_python(value)
    except ValidationError:
        return None


class MutationIn(In):
    """One change that was made on the device. One that cannot be read is rejected by itself; the others are taken."""

    model_config = ConfigDict(extra="ignore")

    mutation_id: UUID
    entity: str = Field(min_length=1, max_length=60, pattern=r"^[a-z_]+$", examples=["relationship"])
    id: UUID = Field(description="The row's id; for a create, made by the device (UUIDv7)")
    op: Literal["create", "update", "delete", "command"]
    base_version: Annotated[Whole, Field(ge=0, le=2_000_000_000)] | None = Field(None, description="The version that the device saw")
    fields: Annotated[dict[str, Any], Field(max_length=100)] = Field(
        {}, description="What changed; for a create with `episode_id`. Unknown fields are listed"
    )
    occurred_at: Annotated[Moment | None, BeforeValidator(_lenient)] = Field(
        None, description="The device's time; stored, never used to order or to merge"
    )
    group: OneLine | None = Field(
        None, max_length=60, description="Mutations that stand together with the same group are applied together, or not at all"
    )


class PushIn(In):
    """What a device sends."""

    client_id: UUID = Field(description="The device: as in the token")
    schema_version: Annotated[Whole, Field(ge=0, le=1_000_000)] = SCHEMA_VERSION
    mutations: Annotated[list[Annotated[MutationIn | dict[str, Any], Field(union_mode="left_to_right")]], Field(max_length=MOST_MUTATIONS)]


class MutationProblem(Out):
    """Why a mutation was not taken: a problem as HTTP would answer it."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []
    unmet: list[dict[str, str]] = []


class MutationResult(Out):
    """What became of a mutation."""

    mutation_id: str = Field(description="As it was sent")
    entity: str
    id: str
    status: Literal["applied", "duplicate", "merged", "conflict", "rejected"]
    row: dict[str, Any] | None = Field(description="The row as the service has it; null when there is none, or for a repeat")
    problem: MutationProblem | None
    conflict_id: UUID | None = Field(description="The kept edit, under /v1/sync/conflicts")
    repeated: bool = Field(description="This mutation came before: the answer is what it became then (applied and merged are called duplicate)")
    ignored: list[str] = Field(description="Fields that the service does not know")
    notice: dict[str, str] = Field(description="After answers to a risk item: what the person must read")


class Pushed(Out):
    """One result for each mutation, in their order."""

    results: list[MutationResult]
    schema_version: int
    server_time: Moment


def shown_result(result: Result) -> dict[str, Any]:
    """Return a result as it goes over the wire."""
    m = result.mutation
    return {
        "mutation_id": str(m.mutation_id),
        "entity": m.entity,
        "id": str(m.id),
        "status": result.status,
        "row": result.row,
        "problem": None if result.problem is None else _problem(result.problem),
        "conflict_id": result.conflict_id,
        "repeated": result.repeated,
        "ignored": list(m.ignored),
        "notice": dict(result.notice),
    }


def _problem(told: dict[str, Any]) -> dict[str, Any]:
    kind = next((k for k in every_problem().values() if k.__name__ == told["name"]), Invalid)
    return {**told, "type": f"/problems/{name_of(kind)}", "status": status_of(kind())}


@router.post("/push", response_model=Pushed)
async def push_changes(call: Annotated[Call, needs("sync", patients=True)], push_in: PushIn) -> dict[str, Any]:
    """Send what was changed on a device: at most 100 mutations, applied in order, each once. Always 200 with one result for each.

    Every mutation goes through the same action as its HTTP route. A refused one says why and holds up no other. Edits of different
    fields merge; where two changed the same field, the service's value stays and the device's is kept as a conflict. After a lost
    answer or a 5xx send all of it again: what was applied is a `duplicate`.
    """
    check_schema(push_in.schema_version, reading=False)
    if call.visit.caller.device_id is not None and push_in.client_id != call.visit.caller.device_id:
        raise Invalid(faults=[Fault("/client_id", "is not the device that the token is bound to")])
    readable = [m for m in push_in.mutations if isinstance(m, MutationIn)]
    groups = [(m.group, m.mutation_id) for m in readable if m.group is not None]
    if len(set(groups)) != len(groups):
        raise Invalid(faults=[Fault("/mutations", "a mutation stands twice in one group")])
    broken = {str(m.get("group")) for m in push_in.mutations if isinstance(m, dict) and m.get("group") is not None}
    mutations = [
        read_mutation(m.mutation_id, m.entity, m.id, m.op, m.base_version, m.fields, occurred_at=m.occurred_at, group=m.group)
        for m in readable
        if m.group not in broken
    ]
    results = iter(await push(call.visit, mutations))
    shown = [_unread(m) if isinstance(m, dict) else _not_taken(m) if m.group in broken else shown_result(next(results)) for m in push_in.mutations]
    return {"results": shown, "schema_version": SCHEMA_VERSION, "server_time": call.visit.now}


def _unread(sent: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a mutation that cannot be read: what is wrong with it, by pointers into it."""
    try:
        MutationIn.model_validate(sent)
    except ValidationError as error:
        faults = [Fault("".join(f"/{escaped(p)}" for p in e["loc"]), str(e["msg"])) for e in error.errors()[:20]]
    else:
        faults = []
    return _refused(sent, MutationMalformed(faults=faults))


def _not_taken(sent: MutationIn) -> dict[str, Any]:
    return _refused({"mutation_id": sent.mutation_id, "entity": sent.entity, "id": sent.id}, GroupRefused())


def _refused(sent: dict[str, Any], refusal: Refusal) -> dict[str, Any]:
    names = {name: str(sent.get(name))[:60] for name in ("mutation_id", "entity", "id")}
    empty: dict[str, Any] = {"row": None, "conflict_id": None, "repeated": False, "ignored": [], "notice": {}}
    return names | empty | {"status": "rejected", "problem": _problem(told(refusal))}


class ConflictOut(InChart):
    """An edit that could not be taken as it came: nothing of it is lost, and a clinician decides."""

    entity: str
    entity_id: UUID
    op: str
    reason: Literal["same_field", "changed", "deleted", "base_unknown", "rule"]
    base_version: int | None
    server_version: int | None
    device_id: UUID
    mutation_id: UUID
    occurred_at: Moment | None
    sent_by: str
    status: Literal["open", "resolved"]
    resolution: Literal["keep_server", "take_client", "merge"] | None
    resolved_by: UUID | None
    resolved_at: Moment | None
    fields: dict[str, Any] = Field(description="What the device sent")
    server: dict[str, Any] = Field(description="What the service had in the same fields")
    disputed: list[str]
    problem: dict[str, Any] | None = None
    resolution_reason: str | None = None


class ConflictPage(Out):
    """A page of conflicts, oldest first."""

    items: list[ConflictOut]
    next: str | None


@router.get("/conflicts", response_model=ConflictPage)
async def list_conflicts(
    call: Annotated[Call, needs("sync")],
    status: Literal["open", "resolved"] | None = None,
    episode_id: UUID | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List the edits that were kept, of the caseload."""
    visit = call.visit
    pager = call.pager(limit, cursor, {"status": status, "episode_id": episode_id})
    wanted = [own(visit.connection, sync_conflict), sync_conflict.c.entity.in_(conflicts_shown(visit.caller))]
    wanted += [sync_conflict.c.status == status] if status else []
    wanted += [sync_conflict.c.episode_id == episode_id] if episode_id else []
    if visit.caller.clinician_id is not None:
        wanted.append(sync_conflict.c.episode_id.in_((await caseload_of(visit.connection, visit.caller.clinician_id))[0]))
    rows = await page(visit.connection, sa.select(sync_conflict).where(*wanted), [sync_conflict.c.id], pager.after, limit)
    items, following = pager.cut(rows, "id")
    shown = [reveal((await open_chart(visit, r["episode_id"])).key, sync_conflict, r) for r in items]
    for row in shown:
        visit.trace.of(row["patient_id"], f"sync_conflict/{row['id']}")
    return {"items": shown, "next": following}


async def _conflict(call: Call, conflict_id: UUID) -> Row:
    _, row = await open_conflict(call.visit, conflict_id)
    if not is_shown(call.visit.caller, "sync_conflict", row):
        raise NotFound
    return row


@router.get("/conflicts/{conflict_id}", response_model=ConflictOut)
async def read_conflict(call: Annotated[Call, needs("sync")], conflict_id: UUID) -> Row:
    """Read a kept edit beside what the service had."""
    return call.stored(await _conflict(call, conflict_id))


class ResolutionIn(In):
    """What a clinician decides about a kept edit."""

    choice: Literal["keep_server", "take_client", "merge"]
    fields: Annotated[dict[str, Any], Field(max_length=100)] | None = Field(None, description="For merge: the fields as they are to be")
    reason: Prose


@router.post("/conflicts/{conflict_id}/resolution", response_model=ConflictOut)
async def resolve_kept_conflict(call: Annotated[Call, needs("sync")], conflict_id: UUID, resolution_in: ResolutionIn) -> Row:
    """Decide a kept edit, as a clinician of the care team: keep what is there, take what the device sent, or write both together."""
    call.visit.clinician()
    row = await _conflict(call, conflict_id)
    if (resolution_in.choice == "merge") != (resolution_in.fields is not None):
        raise Invalid(faults=[Fault("/fields", "is for merge, which needs it")])
    handler, _ = HANDLERS.get((row["entity"], row["op"]), (None, None))
    given = resolution_in.fields if resolution_in.fields is not None else row["fields"]
    fields = {"episode_id": str(row["episode_id"]), **given}
    mutation = read_mutation(row["mutation_id"], row["entity"], row["entity_id"], row["op"], None, fields)
    if resolution_in.choice != "keep_server" and mutation.refusal is not None:
        raise mutation.refusal
    if handler is not None and handler.scope not in call.visit.caller.scopes:
        raise NotFound
    return call.stored(await resolve_conflict(call.visit, conflict_id, resolution_in.choice, handler, mutation.values, resolution_in.reason))
