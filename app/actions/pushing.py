"""Taking what devices send: each mutation once, judged by the same actions as over HTTP, merged field by field, never lost.

A batch is one transaction with one savepoint that moves on behind each mutation (or group of them): a refused one undoes itself
and holds up no other. What cannot be merged is kept as a conflict for a clinician to see.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from uuid_utils.compat import uuid7

from app.actions.history import opened_state
from app.actions.records import Fields, amend, create, get_in_chart, reveal
from app.actions.synced import SCOPE_OF, may_see, on_the_wire
from app.actions.visit import Chart, Precondition, VersionStale, VersionUnmatched, Visit, chart_of, open_chart, open_patient
from app.domain.errors import Forbidden, NotFound, Refusal, title_of
from app.domain.sync import (
    SERVER_MADE,
    BaseAhead,
    BaseMissing,
    ConflictResolved,
    DeletedStays,
    GroupRefused,
    MutationReused,
    MutationUnknown,
    changed_since,
    disputed_fields,
)
from app.keys.cipher import PatientKey
from app.store.database import OutOfRange, Row, UniqueTaken
from app.store.feed import Change, state_of_version, versions_since
from app.store.idempotency import hold_for_transaction
from app.store.people import find_chart, lock_charts, newest_episode_of, was_told_to_forget
from app.store.rows import find_row
from app.store.sync import mutations_known, mutations_of, note_mutations
from app.store.tables.every import metadata
from app.store.tables.sync import sync_conflict

SAVEPOINT, NEXT, BACK = "SAVEPOINT mutation", "RELEASE SAVEPOINT mutation; SAVEPOINT mutation", "ROLLBACK TO SAVEPOINT mutation"
REFUSED = (Refusal, OutOfRange, UniqueTaken)


class DeviceNeeded(Forbidden):
    """Sending changes needs a token that is bound to a device: exchange one with the device as actor."""


class ScopeOfMutationMissing(Forbidden):
    """The token lacks the scope that this mutation needs."""


class PatientsAnswerOnly(Forbidden):
    """A patient's token sends the patient's own answers and homework, nothing else."""


Apply = Callable[[Visit, UUID, UUID, dict[str, Any]], Awaitable[tuple[Row | None, Mapping[str, str]]]]


@dataclass(frozen=True, slots=True)
class Handler:
    """How one kind of mutation is applied: `apply(visit, episode or patient id, row id, values)` returns the row and a notice.

    `merges`: an edit whose base is old is merged field by field; otherwise it is kept as a conflict.
    """

    table: sa.Table
    scope: str
    apply: Apply
    merges: bool = True
    for_patients: bool = False
    of_patient: bool = False


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change as a device sent it. `values` are its validated fields, or `refusal` says what is wrong with them."""

    mutation_id: UUID
    entity: str
    id: UUID
    op: str
    base_version: int | None
    parent_id: UUID | None
    values: dict[str, Any]
    occurred_at: datetime | None
    group: str | None
    content: bytes
    handler: Handler | None
    raw: Mapping[str, Any]
    refusal: Refusal | None = None
    ignored: tuple[str, ...] = ()
    seen: dict[str, Any] | None = None
    """What the device believes that the service has, where its client says so: an edit of what it has seen disputes nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutation."""

    mutation: Mutation
    status: str
    row: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None
    conflict_id: UUID | None = None
    patient_id: UUID | None = None
    notice: Mapping[str, str] = field(default_factory=dict)
    repeated: bool = False
    wrote: bool = False
    """Something was written, so that the device reads the row again by itself."""


class _Contested(Exception):
    """An edit that cannot be taken as it came, with what is kept of it."""

    def __init__(self, chart: Chart, reason: str, present: Row | None, disputed: Sequence[str] = (), problem: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.chart, self.reason, self.present, self.disputed, self.problem = chart, reason, present, tuple(disputed), problem


async def push(visit: Visit, mutations: Sequence[Mutation], *, of_replica: bool = False) -> list[Result]:
    """Apply a device's mutations in order, and say what became of each. One batch of a device comes after the other.

    `of_replica`: they come from a client that sends rows, not mutations with ids of their own. It may make the very same edit
    again later, so each is judged anew (rows sent twice change nothing); and as it cannot show a refusal, what a rule refuses
    is kept as a conflict, too. Raises DeviceNeeded.
    """
    device_id = visit.caller.device_id
    if device_id is None:
        raise DeviceNeeded
    await hold_for_transaction(visit.connection, f"push|{visit.caller.partner_id}|{device_id}")
    known = {} if of_replica else await mutations_known(visit.connection, device_id, [m.mutation_id for m in mutations])
    await _lock(visit, mutations)
    await visit.connection.script(SAVEPOINT)
    results: list[Result] = []
    ledger: dict[UUID, Row] = {}
    for _, unit in groupby(enumerate(mutations), key=lambda pair: pair[1].group or pair[0]):
        members = [m for _, m in unit]
        done = [_repeated(visit, m, known[m.mutation_id]) if m.mutation_id in known else None for m in members]
        fresh = [m for m, d in zip(members, done, strict=True) if d is None]
        broken = any(d is not None and d.status in {"rejected", "conflict"} for d in done)
        judged = iter([_rejected(m, GroupRefused(), None) for m in fresh] if broken else await _unit(visit, fresh, of_replica=of_replica))
        for result in (d or next(judged) for d in done):
            results.append(result)
            if not result.repeated and (result.problem or {}).get("name") != GroupRefused.__name__:  # with the group mended, it is judged anew
                ledger[result.mutation.mutation_id] = _ledger_row(visit, device_id, result)
        if not of_replica:
            known |= ledger
    await note_mutations(visit.connection, list(ledger.values()))
    visit.journal.kept_beside = visit.journal.kept_beside or bool(ledger)
    return results


async def _lock(visit: Visit, mutations: Sequence[Mutation]) -> None:
    """Lock every chart of the batch before its savepoint, in one order: what is undone later does not let go of a chart."""
    rows: dict[sa.Table, list[UUID]] = {}
    for m in mutations:
        if m.handler is not None and not m.handler.of_patient:
            rows.setdefault(m.handler.table, []).append(m.id)
    parents = [m.parent_id for m in mutations if m.parent_id is not None and not (m.handler and m.handler.of_patient)]
    await lock_charts(visit.connection, rows, parents, visit.caller.clinician_id)


async def _unit(visit: Visit, members: Sequence[Mutation], *, of_replica: bool) -> list[Result]:
    """Apply one mutation, or the mutations of a group: all of them, or none."""
    mark, traced = visit.journal.mark(), len(visit.trace.resources)
    results = []
    for mutation in members:
        visit.trace.patient_id = None
        visit.journal.mutation_id = mutation.mutation_id
        try:
            result = await _judged(visit, mutation)
        except (*REFUSED, _Contested) as trouble:
            patient_id = visit.trace.patient_id
            await visit.connection.script(BACK)
            visit.journal.truncate(mark)
            del visit.trace.resources[traced:]
            others = [_rejected(m, GroupRefused(), None) for m in members if m is not mutation]
            culprit = await _settled(visit, mutation, trouble, patient_id, of_replica=of_replica)
            at = members.index(mutation)
            return [*others[:at], culprit, *others[at:]]
        finally:
            visit.journal.mutation_id = None
        for resource in visit.trace.resources[traced:]:
            visit.trace.of(result.patient_id, resource)
        del visit.trace.resources[traced:]
        results.append(result)
    await visit.connection.script(NEXT)
    return results


async def _settled(visit: Visit, mutation: Mutation, trouble: Exception, patient_id: UUID | None, *, of_replica: bool) -> Result:
    """Return the result of a mutation that was undone: kept as a conflict, or rejected with the words of the rule."""
    contested = trouble if isinstance(trouble, _Contested) else None
    refusal = trouble if isinstance(trouble, Refusal) else Refusal("A value is outside of what the database keeps, or is taken.")
    if contested is None and of_replica:
        contested = await _keepable(visit, mutation, refusal)
    if contested is not None:
        try:
            result = await _kept(visit, mutation, contested)
        except REFUSED:
            await visit.connection.script(BACK)
        else:
            await visit.connection.script(NEXT)
            return result
    visit.trace.of(patient_id, f"{named(mutation.entity)}/{mutation.id}")
    return _rejected(mutation, refusal, patient_id)


def named(entity: str) -> str:
    """Return the name of a kind of row for ledger and audit trail: what a device calls by another name is not written there."""
    return entity if entity in metadata.tables else "unknown"


async def _keepable(visit: Visit, mutation: Mutation, refusal: Refusal) -> _Contested | None:
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
    chart = await _chart_to_keep_in(visit, episode_id)
    if chart is None:
        return None
    mine = await find_chart(visit.connection, episode_id, visit.caller.clinician_id) is not None
    there = found is not None and found.get("deleted_at") is None and mine
    return _Contested(chart, "rule", reveal(chart.key, table, found) if found and there else None, problem=told(refusal))


async def _chart_to_keep_in(visit: Visit, episode_id: UUID) -> Chart | None:
    """Return the chart that a refused edit is kept in: one that the caller sees, or one whose care team they have left since.

    Who has left is shown nothing of it; what they had written offline is there for the team.
    """
    try:
        return await open_chart(visit, episode_id, lock=True)
    except NotFound:
        person = visit.caller.clinician_id
        if person is None or not await was_told_to_forget(visit.connection, person, episode_id):
            return None
    row = await find_chart(visit.connection, episode_id, None, lock=True)
    return None if row is None else chart_of(visit, row)


def _rejected(mutation: Mutation, refusal: Refusal, patient_id: UUID | None) -> Result:
    return Result(mutation, "rejected", problem=told(refusal), patient_id=patient_id)


def told(refusal: Refusal) -> dict[str, Any]:
    """Return a refusal as plain members; its class name says its type."""
    faults = getattr(refusal, "validation", None) or [f._asdict() for f in refusal.faults]
    unmet = [u._asdict() for u in refusal.unmet]
    return {"name": type(refusal).__name__, "title": title_of(type(refusal)), "detail": str(refusal), "errors": faults, "unmet": unmet}


async def _judged(visit: Visit, mutation: Mutation) -> Result:
    """Apply one mutation. Raises Refusal, or _Contested with what is to be kept."""
    handler = mutation.handler
    if handler is None:
        raise MutationUnknown
    if visit.caller.patient_id is not None and not handler.for_patients:
        raise PatientsAnswerOnly
    if handler.scope not in visit.caller.scopes:
        raise ScopeOfMutationMissing(handler.scope)
    if mutation.op in {"update", "delete"}:
        return await _edited(visit, mutation, handler)
    if mutation.parent_id is None:
        raise mutation.refusal or MutationUnknown
    chart = None if handler.of_patient else await open_chart(visit, mutation.parent_id, lock=True)
    try:
        return await _applied(visit, mutation, handler, mutation.parent_id, mutation.values, _precondition(mutation))
    except (VersionStale, VersionUnmatched):
        if chart is None:
            raise
        raise _Contested(chart, "changed", await _present(visit, handler.table, chart, mutation.id)) from None


def _precondition(mutation: Mutation) -> Precondition:
    if mutation.op == "create":
        return Precondition(must_be_new=True)
    return Precondition(version=mutation.base_version) if mutation.base_version else Precondition(must_be_new=True)


async def _edited(visit: Visit, mutation: Mutation, handler: Handler) -> Result:
    """Apply an update or a deletion to the row as it stands now. Raises NotFound, BaseMissing, BaseAhead, _Contested."""
    found = await find_row(visit.connection, handler.table, id=mutation.id)
    if found is None:
        raise NotFound
    chart = await open_chart(visit, found["episode_id"], lock=True)
    present = await _present(visit, handler.table, chart, mutation.id)
    if present is None:
        if mutation.op == "delete":
            return Result(mutation, "merged", patient_id=chart.patient_id)
        raise _Contested(chart, "deleted", None)
    if mutation.base_version is None:
        raise BaseMissing
    if mutation.base_version > present["version"]:
        raise BaseAhead
    if mutation.refusal is not None:
        raise mutation.refusal
    values, merged = await _merged(visit, mutation, handler, chart, present)
    if mutation.op == "update" and not values:
        return Result(mutation, "merged" if merged else "applied", row=wire(mutation.entity, present), patient_id=chart.patient_id)
    result = await _applied(visit, mutation, handler, chart.episode_id, values, Precondition(any_version=True))
    return replace(result, status="merged") if merged else result


async def _merged(visit: Visit, mutation: Mutation, handler: Handler, chart: Chart, present: Row) -> tuple[dict[str, Any], bool]:
    """Return which of the sent fields are to be written, and whether the row had changed meanwhile. Raises _Contested."""
    there = plain(present)
    if mutation.base_version == present["version"]:
        return {k: v for k, v in mutation.values.items() if k not in there or there[k] != plain(v)}, False
    if mutation.op == "delete" or not handler.merges:
        raise _Contested(chart, "changed", present)
    writes = await versions_since(visit.connection, handler.table.name, mutation.id, mutation.base_version or 0)
    if not writes or writes[0]["version"] != mutation.base_version:
        raise _Contested(chart, "base_unknown", present, sorted(mutation.values))
    states = [plain(opened_state(visit, chart.key, w)) for w in writes]
    own = await mutations_of(visit.connection, visit.caller.device_id, [w["mutation_id"] for w in writes if w["mutation_id"]])
    mine, theirs = changed_since(states, [w["mutation_id"] in own for w in writes])
    sent = plain(mutation.values)
    edited = {k: v for k, v in sent.items() if v != states[0].get(k) or k in mine or (mutation.seen or {}).get(k, v) != v}
    disputed = disputed_fields(theirs, there, edited, mutation.seen)
    if disputed:
        raise _Contested(chart, "same_field", present, disputed)
    return {k: v for k, v in mutation.values.items() if k in edited and sent[k] != there.get(k)}, True


async def _present(visit: Visit, table: sa.Table, chart: Chart, row_id: UUID) -> Row | None:
    """Return the row as it stands under the chart's lock; None when it was deleted."""
    try:
        return await get_in_chart(visit, table, chart, row_id)
    except NotFound:
        return None


async def _applied(visit: Visit, mutation: Mutation, handler: Handler, parent_id: UUID, values: dict[str, Any], precondition: Precondition) -> Result:
    if mutation.refusal is not None:
        raise mutation.refusal
    before = visit.journal.mark()
    row, notice = await handler.apply(replace(visit, precondition=precondition), parent_id, mutation.id, dict(values))
    shown = wire(handler.table.name, row) if row else None
    wrote = visit.journal.mark() != before
    return Result(mutation, "applied", row=shown, patient_id=visit.trace.patient_id, notice=notice, wrote=wrote)


async def _kept(visit: Visit, mutation: Mutation, trouble: _Contested) -> Result:
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
        "mutation_id": mutation.mutation_id,
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
    if before is not None and before["status"] != "open":  # decided then; the same edit made anew is a new one
        fields["mutation_id"] = uuid7()
    open_still = before is not None and before["status"] == "open"
    kept = before if before and open_still else (await create(visit, sync_conflict, Fields(fields, secret), chart=trouble.chart)).row
    visit.journal.mutation_id = None
    visit.trace.of(trouble.chart.patient_id, f"sync_conflict/{kept['id']}")
    row = wire(mutation.entity, present) if present else None
    status = "rejected" if trouble.reason == "rule" else "conflict"
    return Result(mutation, status, row, trouble.problem, kept["id"], trouble.chart.patient_id)


def _ledger_row(visit: Visit, device_id: UUID, result: Result) -> Row:
    mutation, key = result.mutation, visit.patient_keys.get(result.patient_id) if result.patient_id else None
    problem = None if result.problem is None else _sealed(visit, key, mutation, result.problem)
    return {
        "device_id": device_id,
        "mutation_id": mutation.mutation_id,
        "patient_id": result.patient_id if key else None,
        "request_hash": _hash(visit, key, mutation),
        "outcome": result.status,
        "entity": named(mutation.entity),
        "entity_id": mutation.id,
        "conflict_id": result.conflict_id,
        "problem": problem,
        "occurred_at": mutation.occurred_at,
        "at": visit.now,
    }


def _repeated(visit: Visit, mutation: Mutation, there: Row) -> Result:
    """Return what a mutation became when it came first; what was refused or kept is said again, never hidden as a duplicate."""
    key = None
    if there["patient_id"] is not None:
        key = visit.patient_keys.get(there["patient_id"])
        if key is None and there.get("wrapped") is None:
            return replace(_rejected(mutation, MutationReused("What it changed was erased with its patient."), None), repeated=True)
        key = key or visit.key_of({**there, "id": there["patient_id"]})
    if there["request_hash"] != _hash(visit, key, mutation):
        return replace(_rejected(mutation, MutationReused(), there["patient_id"]), repeated=True)
    status = "duplicate" if there["outcome"] in {"applied", "merged"} else str(there["outcome"])
    problem = None if there["problem"] is None else _opened(visit, key, mutation, there["problem"])
    visit.trace.of(there["patient_id"], f"{named(mutation.entity)}/{mutation.id}")
    return Result(mutation, status, None, problem, there["conflict_id"], there["patient_id"], repeated=True)


def _hash(visit: Visit, key: PatientKey | None, mutation: Mutation) -> bytes:
    """Hash a mutation under a key: a plain hash of a short questionnaire could be guessed."""
    return key.digest(mutation.content) if key else PatientKey(visit.caller.partner_id, visit.keys.derived("request hash")).digest(mutation.content)


def _place(mutation: Mutation, visit: Visit) -> str:
    return f"{visit.caller.partner_id}|sync_mutation|{visit.caller.device_id}|{mutation.mutation_id}"


def _sealed(visit: Visit, key: PatientKey | None, mutation: Mutation, problem: dict[str, Any]) -> bytes:
    return key.seal(problem, _place(mutation, visit)) if key else visit.keys.seal(orjson.dumps(problem), _place(mutation, visit))


def _opened(visit: Visit, key: PatientKey | None, mutation: Mutation, blob: bytes) -> dict[str, Any]:
    return key.open(blob, _place(mutation, visit)) if key else dict(orjson.loads(visit.keys.open(blob, _place(mutation, visit))))


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back: what was stored and what was sent compare alike."""
    return orjson.loads(orjson.dumps(value, default=str))


def wire(entity: str, row: Row) -> dict[str, Any]:
    """Return a row as devices get it."""
    return on_the_wire(entity, {k: v for k, v in plain(row).items() if k not in {"sealed", "wrapped", "key_version"}})


async def resolve_conflict(visit: Visit, conflict_id: UUID, choice: str, handler: Handler | None, values: dict[str, Any] | None, reason: str) -> Row:
    """Decide a kept conflict as a clinician: keep what is there, take what the device sent, or write what the clinician chose.

    Raises ClinicianOnly, NotFound, ConflictResolved, DeletedStays, and whatever the action itself refuses.
    """
    clinician_id = visit.clinician()
    chart, present = await open_conflict(visit, conflict_id, lock=True)
    if present["status"] != "open":
        raise ConflictResolved
    if choice != "keep_server":
        if handler is None or present["reason"] == "deleted":
            raise DeletedStays
        wanted = present["fields"] if values is None else values
        await handler.apply(replace(visit, precondition=Precondition(any_version=True)), chart.episode_id, present["entity_id"], dict(wanted))
    decided = {"status": "resolved", "resolution": choice, "resolved_by": clinician_id, "resolved_at": visit.now}
    return await amend(visit, sync_conflict, present, Fields(decided, {"resolution_reason": reason}), key=chart.key)


async def open_conflict(visit: Visit, conflict_id: UUID, *, lock: bool = False) -> tuple[Chart, Row]:
    """Return a kept conflict of the caller's caseload and its chart. Raises NotFound."""
    found = await find_row(visit.connection, sync_conflict, id=conflict_id)
    if found is None:
        raise NotFound
    chart = await open_chart(visit, found["episode_id"], lock=lock)
    return chart, await get_in_chart(visit, sync_conflict, chart, conflict_id)


async def row_there(visit: Visit, entity: str, row_id: UUID) -> dict[str, Any] | None:
    """Return a row as the caller's devices get it; None when it is not there, or not theirs to see."""
    table = metadata.tables.get(entity)
    if table is None or entity not in SCOPE_OF:
        return None
    found = await find_row(visit.connection, table, id=row_id)
    if found is None or found.get("deleted_at") is not None:
        return None
    try:
        if entity in {"patient", "consent"}:
            _, key = await open_patient(visit, row_id if entity == "patient" else found["patient_id"])
        else:
            key = (await open_chart(visit, row_id if entity == "episode" else found["episode_id"])).key
    except NotFound:
        return None
    row = wire(entity, reveal(key, table, found))
    return row if may_see(visit.caller, entity, row) else None


async def send_again(visit: Visit, result: Result) -> None:
    """Tell the person's devices once more what the service has of a row that a push left as it was, so that their copies come back to it."""
    person = visit.caller.clinician_id or visit.caller.patient_id
    entity, row_id = result.mutation.entity, result.mutation.id
    there = await row_there(visit, entity, row_id)
    newest = None if there is None else await state_of_version(visit.connection, entity, row_id, there["version"])
    if newest is None:
        visit.journal.tell(Change(entity, row_id, 1, "revoke", audience=person))
    else:
        visit.journal.tell(
            Change(entity, row_id, newest["version"], "grant", newest["patient_id"], newest["episode_id"], newest["state"], audience=person)
        )
