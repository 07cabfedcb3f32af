"""Edits of devices that were kept, and a clinician's decision on them."""

from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from pydantic import Field

from app.actions.history import read_history
from app.actions.kept_edits import open_conflict, resolve_conflict
from app.actions.records import reveal
from app.actions.synced import conflicts_shown, is_shown
from app.api.history import HistoryPage, page_versions
from app.api.mutations import HANDLERS, read_mutation
from app.api.pages import Cursor, Limit
from app.api.pushes import shown_problem
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import In, InChart, Moment, Out, Prose
from app.domain.errors import Fault, Invalid, NotFound
from app.store.database import Row
from app.store.people import listed
from app.store.rows import own, page
from app.store.sync import caseload_of
from app.store.tables.people import patient_key
from app.store.tables.sync import sync_conflict

router = Router(prefix="/v1/sync/conflicts", route_class=Route, tags=["sync"])


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


@router.get("", response_model=ConflictPage)
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
    wanted += [listed(visit.connection, sync_conflict.c.patient_id)]
    wanted += [sync_conflict.c.status == status] if status else []
    wanted += [sync_conflict.c.episode_id == episode_id] if episode_id else []
    if visit.caller.clinician_id is not None:
        wanted.append(sync_conflict.c.episode_id.in_((await caseload_of(visit.connection, visit.caller.clinician_id))[0]))
    k, of_patient = patient_key, (patient_key.c.partner_id == sync_conflict.c.partner_id) & (patient_key.c.patient_id == sync_conflict.c.patient_id)
    query = sa.select(sync_conflict, k.c.wrapped, k.c.key_version).join(k, of_patient).where(*wanted)
    items, following = pager.cut(await page(visit.connection, query, [sync_conflict.c.id], pager.after, limit), "id")
    shown = [reveal(visit.key_of(r), sync_conflict, r) for r in items]
    for row in shown:
        visit.trace.of(row["patient_id"], f"sync_conflict/{row['id']}")
    return {"items": [_with_problem(row) for row in shown], "next": following}


def _with_problem(row: Row) -> Row:
    return row if row.get("problem") is None else row | {"problem": shown_problem(row["problem"])}


async def _conflict(call: Call, conflict_id: UUID) -> Row:
    _, row = await open_conflict(call.visit, conflict_id)
    if not is_shown(call.visit.caller, "sync_conflict", row):
        raise NotFound
    return row


@router.get("/{conflict_id}", response_model=ConflictOut)
async def read_conflict(call: Annotated[Call, needs("sync")], conflict_id: UUID) -> Row:
    """Read a kept edit beside what the service had."""
    return call.stored(_with_problem(await _conflict(call, conflict_id)))


@router.get("/{conflict_id}/history", response_model=HistoryPage)
async def read_conflict_history(call: Annotated[Call, needs("sync")], conflict_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """Read how a kept edit came and what was decided about it."""
    row = await _conflict(call, conflict_id)
    return await page_versions(
        call, limit, cursor, lambda after: read_history(call.visit, sync_conflict, row["episode_id"], conflict_id, after, limit)
    )


class ResolutionIn(In):
    """What a clinician decides about a kept edit."""

    choice: Literal["keep_server", "take_client", "merge"]
    fields: Annotated[dict[str, Any], Field(max_length=100)] | None = Field(None, description="For merge: the fields as they are to be")
    reason: Prose


@router.post("/{conflict_id}/resolution", response_model=ConflictOut)
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
    return call.stored(
        _with_problem(await resolve_conflict(call.visit, conflict_id, resolution_in.choice, handler, mutation.values, resolution_in.reason))
    )
