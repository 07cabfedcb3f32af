"""Edits that could not be taken as they came: kept, sealed, beside what the service had; and a clinician's decision on them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.actions.mutation import Handler, Mutation, Result, ScopeOfMutationMissing, plain, told, wire
from app.actions.records import Fields, amend, create, get_in_chart, reveal
from app.actions.synced import SCOPE_OF, may_see
from app.actions.visit import Chart, Precondition, Visit, chart_of, may_read, open_chart
from app.domain.errors import NotFound, Refusal
from app.domain.protection import SAFETY
from app.domain.sync import SERVER_MADE, ConflictResolved, DeletedStays
from app.store.database import Row
from app.store.people import find_chart, newest_episode_of, was_told_to_forget
from app.store.rows import find_row
from app.store.tables.every import metadata
from app.store.tables.sync import sync_conflict


class Contested(Exception):
    """An edit that cannot be taken as it came, with what is kept of it."""

    def __init__(self, chart: Chart, reason: str, present: Row | None, disputed: Sequence[str] = (), problem: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.chart, self.reason, self.present, self.disputed, self.problem = chart, reason, present, tuple(disputed), problem


async def keepable(visit: Visit, mutation: Mutation, refusal: Refusal) -> Contested | None:
    """Return what is kept of a refused edit, when its chart is the caller's to see."""
    table = metadata.tables.get(mutation.entity)
    if table is None or table is sync_conflict or mutation.entity not in SCOPE_OF:
        return None
    found = await find_row(visit.connection, table, id=mutation.id) if "episode_id" in table.c else None
    episode_id = mutation.parent_id if found is None else found["episode_id"]
    if mutation.handler is not None and mutation.handler.of_patient and mutation.parent_id is not None:
        episode_id = await newest_episode_of(visit.connection, mutation.parent_id, visit.caller.clinician_id)
    if episode_id is None:
        return None
    try:
        chart = await open_chart(replace(visit, use=SAFETY), episode_id, lock=True)  # what was done offline is stored, whatever stands over the chart
    except NotFound:
        left = await _chart_that_was_left(visit, episode_id)
        return None if left is None else Contested(left, "rule", None, problem=told(refusal))
    shown = found is not None and found.get("deleted_at") is None and may_read(visit, chart.episode)
    return Contested(chart, "rule", reveal(chart.key, table, found) if found and shown else None, problem=told(refusal))


async def _chart_that_was_left(visit: Visit, episode_id: UUID) -> Chart | None:
    """Return the chart whose care team the caller has left: they are shown nothing of it, and what they had written offline is there for the team."""
    person = visit.caller.clinician_id
    if person is None or not await was_told_to_forget(visit.connection, person, episode_id):
        return None
    row = await find_chart(visit.connection, episode_id, None, lock=True)
    return None if row is None else chart_of(replace(visit, use=SAFETY), row)


async def keep_edit(visit: Visit, mutation: Mutation, trouble: Contested) -> Result:
    """Keep an edit that could not be taken, sealed, with what the service has in the same fields, as far as the sender sees it."""
    present = trouble.present if trouble.present and may_see(visit.caller, mutation.entity, trouble.present) else None
    there = plain(present or {})
    fields = {
        "entity": mutation.entity,
        "entity_id": mutation.id,
        "op": mutation.op,
        "reason": trouble.reason,
        "base_version": mutation.base_version,
        "server_version": (present or {}).get("version"),
        "device_id": visit.caller.device_id,
        "occurred_at": mutation.occurred_at,
        "sent_by": visit.actor,
        "status": "open",
        "resolution": None,
        "resolved_by": None,
        "resolved_at": None,
    }
    sent = plain(mutation.values or {k: v for k, v in mutation.raw.items() if k not in SERVER_MADE})
    secret = {"fields": sent, "server": {k: there.get(k) for k in sent}, "disputed": list(trouble.disputed), "problem": trouble.problem}
    visit.journal.mutation_id = mutation.mutation_id
    before = await find_row(visit.connection, sync_conflict, device_id=visit.caller.device_id, mutation_id=mutation.mutation_id)
    if before is not None and before["status"] == "open":
        kept = before
    else:
        fields["mutation_id"] = mutation.mutation_id if before is None else uuid7()  # decided then; the same edit made anew is a new one
        kept = (await create(visit, sync_conflict, Fields(fields, secret), chart=trouble.chart)).row
    visit.journal.mutation_id = None
    visit.trace.of(trouble.chart.patient_id, f"sync_conflict/{kept['id']}")
    row = wire(mutation.entity, present) if present else None
    status = "rejected" if trouble.reason == "rule" else "conflict"
    return Result(mutation, status, row, trouble.problem, kept["id"], trouble.chart.patient_id)


async def resolve_conflict(visit: Visit, conflict_id: UUID, choice: str, handler: Handler | None, values: dict[str, Any], reason: str) -> Row:
    """Decide a kept conflict as a clinician: keep what is there, take what the device sent, or write what the clinician chose.

    `values` are the fields to write, unless what is there is kept. Raises ClinicianOnly, NotFound, ConflictResolved, DeletedStays,
    ScopeOfMutationMissing, and whatever the action itself refuses.
    """
    clinician_id = visit.clinician()
    chart, present = await open_conflict(visit, conflict_id, lock=True)
    if present["status"] != "open":
        raise ConflictResolved
    if choice != "keep_server":
        if handler is None or present["reason"] == "deleted":
            raise DeletedStays
        if handler.scope not in visit.caller.scopes:
            raise ScopeOfMutationMissing(handler.scope)
        parent_id = chart.patient_id if handler.of_patient else chart.episode_id
        visit.journal.mutation_id = present["mutation_id"]  # the version that this makes leads to the device's edit
        await handler.apply(replace(visit, precondition=Precondition(any_version=True)), parent_id, present["entity_id"], values)
    visit.journal.mutation_id = None
    decided = {"status": "resolved", "resolution": choice, "resolved_by": clinician_id, "resolved_at": visit.now}
    return await amend(visit, sync_conflict, present, Fields(decided, {"resolution_reason": reason}), key=chart.key)


async def open_conflict(visit: Visit, conflict_id: UUID, *, lock: bool = False) -> tuple[Chart, Row]:
    """Return a kept conflict of the caller's caseload and its chart. Raises NotFound."""
    found = await find_row(visit.connection, sync_conflict, id=conflict_id)
    if found is None:
        raise NotFound
    chart = await open_chart(visit, found["episode_id"], lock=lock)
    return chart, await get_in_chart(visit, sync_conflict, chart, conflict_id)
