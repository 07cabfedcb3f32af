"""Two faces of the same pull and push: RxDB's HTTP replication and WatermelonDB's synchronize(). See docs/mobile.md."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import Path, Query, Request
from pydantic import Field
from starlette.responses import StreamingResponse

from app.actions.mutation import Mutation
from app.actions.pulling import pull, scope_of
from app.actions.pushing import DeviceNeeded, push, row_there, send_again
from app.actions.visit import Visit
from app.api.bodies import parse
from app.api.mutations import bounded, mutation_id_of, read_mutation, takes_text
from app.api.problems import Malformed
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Out
from app.api.sync import MOST_CHANGES, FeedCursor, MaybeCursor, stream_for
from app.domain.sync import SERVER_MADE, CursorAhead, CursorExpired, CursorMalformed
from app.store.feed import version_at, where_it_stands

router = Router(prefix="/v1/sync", route_class=Route, tags=["sync"])

MOST_ROWS = 1_000
MOST_AT_ONCE = 500  # WatermelonDB sends everything that is marked in one request
LARGEST_VERSION = 2**31 - 1
RANKS = {entity: n for n, entity in enumerate(("relationship", "life_event", "problem", "session", "assessment_request"))}  # others cite them
MARKS = ("_deleted", "_status", "_changed")
MILLISECONDS = ("created_at", "updated_at")
Collection = Annotated[str, Path(max_length=60, pattern=r"^[a-z_]+$")]


class Checkpoint(Out):
    """Where an RxDB replication stands."""

    cursor: int


class RxdbPulled(Out):
    """A page for RxDB: fewer documents than `limit` say that there are no more."""

    documents: list[dict[str, Any]]
    checkpoint: Checkpoint


@router.get("/rxdb/{collection}/pull", response_model=RxdbPulled)
async def pull_for_rxdb(
    call: Annotated[Call, needs("sync", patients=True)],
    collection: Collection,
    since: FeedCursor = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_CHANGES)] = 100,
) -> dict[str, Any]:
    """Read one collection for RxDB's pull handler. A row that was deleted, or that the person no longer sees, is a document with `_deleted`."""
    call.of_this_moment = True
    found = await pull(call.visit, since, None, limit, (collection,))
    documents = [_document(c["id"], c["version"], c["data"]) for c in found.changes]
    return {"documents": documents, "checkpoint": {"cursor": found.next}}


def _document(row_id: str, version: int, data: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"id": row_id, "version": version, "_deleted": True} if data is None else {**data, "_deleted": False}


class RxdbRow(Out):
    """A row as RxDB's push handler gets it."""

    newDocumentState: dict[str, Any]  # noqa: N815 - RxDB's own name
    assumedMasterState: dict[str, Any] | None = None  # noqa: N815


@router.post("/rxdb/{collection}/push")
async def push_from_rxdb(
    call: Annotated[Call, needs("sync", patients=True)], collection: Collection, rows: Annotated[list[RxdbRow], Field(max_length=MOST_ROWS)]
) -> list[dict[str, Any]]:
    """Take what RxDB's push handler sends; answer the documents that the device must take over.

    An edit that was not taken is kept as a conflict, and its document comes back as the service has it; a new one that a rule
    refuses comes back deleted.
    """
    await scope_of(call.visit, (collection,))
    readable = [(row, row_id) for row in rows if (row_id := _row_id(row.newDocumentState.get("id"))) is not None]
    answers = [_document(str(r.newDocumentState.get("id")), 1, None) for r in rows if _row_id(r.newDocumentState.get("id")) is None]
    read = [(row, await _from_rxdb(call.visit, collection, row_id, row)) for row, row_id in readable]
    sent = [(row, mutation) for row, mutation in read if mutation is not None]
    results = await push(call.visit, [mutation for _, mutation in sent], of_replica=True)
    for (row, _), result in zip(sent, results, strict=True):
        if not result.wrote:
            there = await row_there(call.visit, collection, result.mutation.id)
            if there is None or not _is_the_same(row.newDocumentState, there):
                answers.append(_document(str(result.mutation.id), _version(there), there))
    return answers


def _is_the_same(new: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    return not new.get("_deleted") and all(there.get(name, value) == value for name, value in new.items() if name not in MARKS)


async def _from_rxdb(visit: Visit, collection: str, row_id: UUID, row: RxdbRow) -> Mutation | None:
    """Read one row of RxDB's as a mutation; None for one that was made and deleted before it was ever sent."""
    new, seen = row.newDocumentState, row.assumedMasterState
    there = await row_there(visit, collection, row_id)
    gone = bool(new.get("_deleted"))
    if seen is None and there is None and gone:
        return None
    base = _base(seen or {}, there)
    if gone:
        return _mutation(visit, collection, row_id, "delete", base, {})
    fields = {k: v for k, v in new.items() if k not in MARKS}
    if seen is None and there is None:
        return _mutation(visit, collection, row_id, "create", None, fields)
    edited = {k: v for k, v in fields.items() if k not in SERVER_MADE and (seen is None or k not in seen or seen[k] != v)}
    return _mutation(visit, collection, row_id, "update", base, edited, seen)


class WatermelonPulled(Out):
    """A page for WatermelonDB's pullChanges; while `has_more`, ask again and put the pages together."""

    changes: dict[str, dict[str, list[Any]]]
    timestamp: int
    until: int
    has_more: bool


@router.get("/watermelon", response_model=WatermelonPulled)
async def pull_for_watermelon(
    call: Annotated[Call, needs("sync", patients=True)],
    tables: Annotated[str, Query(max_length=1000, description="The tables of the app's schema, with commas between")],
    last_pulled_at: FeedCursor = 0,
    until: MaybeCursor = None,
    limit: Annotated[int, Query(ge=1, le=MOST_CHANGES)] = 500,
) -> dict[str, Any]:
    """Read a page for WatermelonDB.

    Everything stands in `updated` (`sendCreatedAsUpdated`); lists and objects are JSON text, created_at and updated_at milliseconds.
    """
    call.of_this_moment = True
    wanted = tuple(dict.fromkeys(t for t in tables.split(",") if t))
    found = await pull(call.visit, last_pulled_at, until, limit, wanted)
    changes: dict[str, dict[str, list[Any]]] = {t: {"created": [], "updated": [], "deleted": []} for t in wanted}
    for change in found.changes:
        if change["data"] is None:
            changes[change["entity"]]["deleted"].append(change["id"])
        else:
            changes[change["entity"]]["updated"].append(_raw(change["data"]))
    return {"changes": changes, "timestamp": found.next, "until": found.until, "has_more": found.has_more}


def _raw(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row in the flat types that WatermelonDB's columns have."""
    flat = {k: orjson.dumps(v).decode() if isinstance(v, (dict, list)) else v for k, v in data.items()}
    for name in MILLISECONDS:
        if isinstance(flat.get(name), str):
            flat[name] = round(datetime.fromisoformat(flat[name]).astimezone(UTC).timestamp() * 1000)
    return flat


class WatermelonPushed(Out):
    """The rows that could not even be kept: they stay marked as changed on the device."""

    experimentalRejectedIds: dict[str, list[str]]  # noqa: N815 - WatermelonDB's own name


class WatermelonTable(Out):
    """The changes of one table."""

    created: list[dict[str, Any]] = []
    updated: list[dict[str, Any]] = []
    deleted: list[str] = []


@router.post("/watermelon", response_model=WatermelonPushed)
async def push_from_watermelon(
    call: Annotated[Call, needs("sync", patients=True)], changes: dict[str, WatermelonTable], last_pulled_at: FeedCursor = 0
) -> dict[str, Any]:
    """Take the changes of WatermelonDB's pushChanges. `version` in a row is what its edit is based on; `_changed` names what was edited.

    What was not taken as it came is kept as a conflict, and the row is sent again with the next pull. Of more than 500 rows the rest
    comes back in `experimentalRejectedIds`: it stays marked and is sent with the next synchronisation.
    """
    await scope_of(call.visit, tuple(t for t in changes if t) or None)
    read: list[Mutation | None] = []
    rejected: dict[str, list[str]] = {}
    rows: list[tuple[str, dict[str, Any] | None, str]] = []
    for table, sent in changes.items():
        rows += [(table, raw, str(raw.get("id"))) for raw in (*sent.created, *sent.updated)]
        rows += [(table, None, text) for text in sent.deleted]
    seen_up_to = await _seen_up_to(call.visit, last_pulled_at)
    for number, (table, raw, text) in enumerate(rows):
        row_id = _row_id(text)
        if row_id is None or number >= MOST_AT_ONCE:  # what is too much for one request stays marked on the device, and comes again
            rejected.setdefault(table, []).append(text)
        elif raw is None:
            read.append(await _deleted(call.visit, table, row_id, seen_up_to))
        else:
            read.append(await _from_watermelon(call.visit, table, row_id, raw))
    in_order = sorted((m for m in read if m is not None), key=lambda m: (m.op == "delete", RANKS.get(m.entity, len(RANKS))))
    results = await push(call.visit, in_order, of_replica=True)
    for result in results:
        if result.status == "rejected" and result.conflict_id is None:
            rejected.setdefault(result.mutation.entity, []).append(str(result.mutation.id))
        elif not result.wrote:
            await send_again(call.visit, result)
    return {"experimentalRejectedIds": rejected}


async def _from_watermelon(visit: Visit, table: str, row_id: UUID, raw: Mapping[str, Any]) -> Mutation:
    there = await row_there(visit, table, row_id)
    fields = {
        k: v if takes_text(table, k) else _unpacked(v)
        for k, v in raw.items()
        if k not in MARKS and k not in SERVER_MADE - {"episode_id", "patient_id"}
    }
    edited = [k for k in str(raw.get("_changed") or "").split(",") if k]
    if there is None and not (raw.get("version") or 0):
        return _mutation(visit, table, row_id, "create", None, {k: v for k, v in fields.items() if v is not None})
    return _mutation(visit, table, row_id, "update", _base(raw, there), {k: fields.get(k) for k in edited if k not in SERVER_MADE})


async def _seen_up_to(visit: Visit, last_pulled_at: int) -> int | None:
    """Return how far a device has read; None for one that was away for long: what it has not sent yet is taken all the same."""
    try:
        return (await where_it_stands(visit.connection)).seq_of(last_pulled_at)
    except (CursorExpired, CursorAhead, CursorMalformed):
        return None


async def _deleted(visit: Visit, table: str, row_id: UUID, seen_up_to: int | None) -> Mutation | None:
    """Read a deletion: WatermelonDB sends a bare id, so the version is the one that the last pull had brought."""
    there = await row_there(visit, table, row_id)
    if there is None:
        return None
    base = None if seen_up_to is None else await version_at(visit.connection, table, row_id, seen_up_to) or there["version"]
    return _mutation(visit, table, row_id, "delete", base, {})


def _unpacked(value: Any) -> Any:
    """Read the JSON text of a list or an object; every other text stays."""
    if isinstance(value, str) and value[:1] in {"[", "{"}:
        try:
            return parse(value.encode("utf-8", "surrogatepass"))
        except Malformed:
            return value
    return value


def _mutation(
    visit: Visit, entity: str, row_id: UUID, op: str, base: int | None, fields: Mapping[str, Any], seen: Mapping[str, Any] | None = None
) -> Mutation:
    if visit.caller.device_id is None:
        raise DeviceNeeded
    plain = bounded(fields)
    mutation_id = mutation_id_of(visit.caller.device_id, entity, str(row_id), op, base, plain)
    found = read_mutation(mutation_id, entity, row_id, op, base, plain, fixed=op == "update")
    return found if seen is None else replace(found, seen=dict(seen))


def _row_id(value: object) -> UUID | None:
    try:
        return UUID(str(value))
    except ValueError:
        return None


def _base(row: Mapping[str, Any], there: Mapping[str, Any] | None) -> int:
    """Return the version that an edit is based on. 0 is a row that the device itself made and has not read back: its first version."""
    version = row.get("version")
    base = version if isinstance(version, int) and not isinstance(version, bool) and version > 0 else 1
    return min(base, _version(there)) if there else min(base, LARGEST_VERSION)


def _version(there: Mapping[str, Any] | None) -> int:
    return int(there["version"]) if there else 1


@router.get(
    "/rxdb/{collection}/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"}},
)
async def stream_for_rxdb(call: Annotated[Call, needs("sync", patients=True)], collection: Collection, request: Request) -> StreamingResponse:
    """Be told when RxDB should pull: `data: RESYNC`. One stream serves every collection: give each replication the same one."""
    call.of_this_moment = True
    await scope_of(call.visit, (collection,))
    return stream_for(request, call.visit.caller, (await where_it_stands(call.visit.connection)).seq)
