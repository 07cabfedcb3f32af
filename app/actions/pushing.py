"""Taking what devices send: each mutation once, judged by the same actions as over HTTP, merged field by field, never lost.

A batch is one transaction. Rules refuse before they write, so it is gone through without savepoints; when something was written before a
refusal, or the database itself refused, all of it is undone and gone through again with a savepoint behind each mutation (or group of them):
a refused one undoes itself and holds up no other. What cannot be merged is kept as a conflict for a clinician to see.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.actions.history import opened_state
from app.actions.kept_edits import Contested, keep_edit, keepable
from app.actions.ledger import ledger_row, repeated_result
from app.actions.mutation import REFUSED, Handler, Mutation, Result, ScopeOfMutationMissing, named, plain, rejected, wire
from app.actions.records import get_in_chart, reveal
from app.actions.synced import SCOPE_OF, may_see
from app.actions.visit import Chart, Precondition, VersionStale, VersionUnmatched, Visit, open_chart, open_patient
from app.domain.errors import Forbidden, NotFound, Refusal
from app.domain.sync import BaseAhead, BaseMissing, GroupRefused, MutationUnknown, changed_since, disputed_fields
from app.store.database import OutOfRange, Row, UniqueTaken
from app.store.feed import Change, state_of_version, versions_since
from app.store.idempotency import hold_for_transaction
from app.store.people import lock_charts
from app.store.rows import find_row
from app.store.sync import mutations_known, mutations_of, note_mutations
from app.store.tables.every import metadata

SAVEPOINT, NEXT, BACK = "SAVEPOINT mutation", "RELEASE SAVEPOINT mutation; SAVEPOINT mutation", "ROLLBACK TO SAVEPOINT mutation"


class DeviceNeeded(Forbidden):
    """Sending changes needs a token that is bound to a device: exchange one with the device as actor."""


class PatientsAnswerOnly(Forbidden):
    """A patient's token sends the patient's own answers and homework, nothing else."""


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
    mark, traced = visit.journal.mark(), len(visit.trace.resources)
    try:
        results, ledger = await _pass(_Pass(visit, known, of_replica=of_replica, careful=False), mutations)
    except _Spoiled:
        await visit.connection.script(BACK)
        visit.journal.truncate(mark)
        del visit.trace.resources[traced:]
        visit.trace.by_patient.clear()
        visit.charts.clear()
        results, ledger = await _pass(_Pass(visit, known, of_replica=of_replica, careful=True), mutations)
    await note_mutations(visit.connection, list(ledger.values()))
    visit.journal.kept_beside = visit.journal.kept_beside or bool(ledger)
    return results


class _Spoiled(Exception):
    """Something was written before the refusal: the whole batch is gone through again, with a savepoint behind each mutation."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """One way through a batch. The first takes no savepoints, since rules refuse before they write; a `careful` one follows when it must."""

    visit: Visit
    known: dict[UUID, Row]
    of_replica: bool
    careful: bool

    async def undo(self, mark: tuple[int, int]) -> None:
        """Undo what the mutation under way has written. Raises _Spoiled when only the whole batch can be undone."""
        if self.careful:
            await self.visit.connection.script(BACK)
            self.visit.charts.clear()
            self.visit.journal.truncate(mark)
        elif self.visit.journal.mark() != mark:
            raise _Spoiled

    async def settle(self) -> None:
        """Keep what was written, whatever comes next."""
        if self.careful:
            await self.visit.connection.script(NEXT)


async def _pass(way: _Pass, mutations: Sequence[Mutation]) -> tuple[list[Result], dict[UUID, Row]]:
    """Judge every mutation in order; return the results, and what the ledger is to remember."""
    visit, known = way.visit, dict(way.known)
    device_id = visit.caller.device_id
    assert device_id is not None
    results: list[Result] = []
    ledger: dict[UUID, Row] = {}
    for _, unit in groupby(enumerate(mutations), key=lambda pair: pair[1].group or pair[0]):
        members = [m for _, m in unit]
        done = [repeated_result(visit, m, known[m.mutation_id]) if m.mutation_id in known else None for m in members]
        fresh = [m for m, d in zip(members, done, strict=True) if d is None]
        broken = any(d is not None and d.status in {"rejected", "conflict"} for d in done)
        judged = iter([rejected(m, GroupRefused(), None) for m in fresh] if broken else await _unit(way, fresh))
        for result in (d or next(judged) for d in done):
            results.append(result)
            if not result.repeated and (result.problem or {}).get("name") != GroupRefused.__name__:  # with the group mended, it is judged anew
                ledger[result.mutation.mutation_id] = ledger_row(visit, device_id, result)
        if not way.of_replica:
            known |= ledger
    return results, ledger


async def _lock(visit: Visit, mutations: Sequence[Mutation]) -> None:
    """Lock every chart of the batch before its savepoint, in one order: what is undone later does not let go of a chart."""
    rows: dict[sa.Table, list[UUID]] = {}
    for m in mutations:
        if m.handler is not None and not m.handler.of_patient:
            rows.setdefault(m.handler.table, []).append(m.id)
    parents = [m.parent_id for m in mutations if m.parent_id is not None and not (m.handler and m.handler.of_patient)]
    found = await lock_charts(visit.connection, rows, parents, visit.caller.clinician_id, visit.caller.patient_id)
    visit.charts.update({r["id"]: r for r in found})


async def _unit(way: _Pass, members: Sequence[Mutation]) -> list[Result]:
    """Apply one mutation, or the mutations of a group: all of them, or none. Raises _Spoiled."""
    visit = way.visit
    mark, traced = visit.journal.mark(), len(visit.trace.resources)
    results = []
    for mutation in members:
        visit.trace.patient_id = None
        visit.journal.mutation_id = mutation.mutation_id
        try:
            result = await _judged(visit, mutation)
        except (*REFUSED, Contested) as trouble:
            patient_id = visit.trace.patient_id
            if not way.careful and isinstance(trouble, (OutOfRange, UniqueTaken)):
                raise _Spoiled from None  # the database itself refused: nothing more can be said in this transaction
            await way.undo(mark)
            del visit.trace.resources[traced:]
            others = [rejected(m, GroupRefused(), None) for m in members if m is not mutation]
            culprit = await _settled(way, mutation, trouble, patient_id)
            at = members.index(mutation)
            return [*others[:at], culprit, *others[at:]]
        finally:
            visit.journal.mutation_id = None
        for resource in visit.trace.resources[traced:]:
            visit.trace.of(result.patient_id, resource)
        del visit.trace.resources[traced:]
        results.append(result)
    await way.settle()
    return results


async def _settled(way: _Pass, mutation: Mutation, trouble: Exception, patient_id: UUID | None) -> Result:
    """Return the result of a mutation that was undone: kept as a conflict, or rejected with the words of the rule."""
    visit = way.visit
    contested = trouble if isinstance(trouble, Contested) else None
    refusal = trouble if isinstance(trouble, Refusal) else Refusal("A value is outside of what the database keeps, or is taken.")
    if contested is None and way.of_replica:
        contested = await keepable(visit, mutation, refusal)
    if contested is not None:
        mark = visit.journal.mark()
        try:
            result = await keep_edit(visit, mutation, contested)
        except REFUSED as worse:
            if not way.careful and isinstance(worse, (OutOfRange, UniqueTaken)):
                raise _Spoiled from None
            await way.undo(mark)
        else:
            await way.settle()
            return result
    visit.trace.of(patient_id, f"{named(mutation.entity)}/{mutation.id}")
    return rejected(mutation, refusal, patient_id)


async def _judged(visit: Visit, mutation: Mutation) -> Result:
    """Apply one mutation. Raises Refusal, or Contested with what is to be kept."""
    visit = replace(visit, use=mutation.use)
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
        raise Contested(chart, "changed", await _present(visit, handler.table, chart, mutation.id)) from None


def _precondition(mutation: Mutation) -> Precondition:
    if mutation.op == "create":
        return Precondition(must_be_new=True)
    return Precondition(version=mutation.base_version) if mutation.base_version else Precondition(must_be_new=True)


async def _edited(visit: Visit, mutation: Mutation, handler: Handler) -> Result:
    """Apply an update or a deletion to the row as it stands now. Raises NotFound, BaseMissing, BaseAhead, Contested."""
    found = await find_row(visit.connection, handler.table, id=mutation.id)
    if found is None:
        raise NotFound
    chart = await open_chart(visit, found["episode_id"], lock=True)
    present = await _present(visit, handler.table, chart, mutation.id)
    if present is None:
        if mutation.op == "delete":
            return Result(mutation, "merged", patient_id=chart.patient_id)
        raise Contested(chart, "deleted", None)
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
    """Return which of the sent fields are to be written, and whether the row had changed meanwhile. Raises Contested."""
    there = plain(present)
    if mutation.base_version == present["version"]:
        return {k: v for k, v in mutation.values.items() if k not in there or there[k] != plain(v)}, False
    if mutation.op == "delete" or not handler.merges:
        raise Contested(chart, "changed", present)
    writes, own = await _writes_since(visit, handler.table.name, mutation.id, mutation.base_version or 0)
    if not writes or writes[0]["version"] != mutation.base_version:
        raise Contested(chart, "base_unknown", present, sorted(mutation.values))
    states = [plain(opened_state(visit, chart.key, w)) for w in writes]
    mine, theirs = changed_since(states, [w["mutation_id"] in own for w in writes])
    sent = plain(mutation.values)
    edited = {k: v for k, v in sent.items() if v != states[0].get(k) or k in mine or (mutation.seen or {}).get(k, v) != v}
    disputed = disputed_fields(theirs, there, edited, mutation.seen)
    if disputed:
        raise Contested(chart, "same_field", present, disputed)
    return {k: v for k, v in mutation.values.items() if k in edited and sent[k] != there.get(k)}, True


async def _writes_since(visit: Visit, entity: str, row_id: UUID, version: int) -> tuple[list[Row], set[UUID]]:
    """Return the writes that made a row's versions from one on, oldest first, and which mutations among theirs are this device's.

    What this batch itself has written is not in the feed yet, nor in the ledger: the journal has it.
    """
    writes = await versions_since(visit.connection, entity, row_id, version)
    own = await mutations_of(visit.connection, visit.caller.device_id, [w["mutation_id"] for w in writes if w["mutation_id"]])
    now = [c for c in visit.journal.changes if (c.entity, c.entity_id, c.audience) == (entity, row_id, None) and c.version >= version]
    return [*writes, *(asdict(c) for c in now)], {*own, *(c.mutation_id for c in now if c.mutation_id)}


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


async def row_there(visit: Visit, entity: str, row_id: UUID) -> dict[str, Any] | None:
    """Return a row as the caller's devices get it; None when it is not there, or not theirs to see. Whose it is stands in the audit trail."""
    row = await _row_of_chart(visit, entity, row_id)
    if row is None or not may_see(visit.caller, entity, row):
        return None
    visit.trace.of(visit.trace.patient_id, f"{entity}/{row_id}")  # of the chart that was opened just now
    return row


async def _row_of_chart(visit: Visit, entity: str, row_id: UUID) -> dict[str, Any] | None:
    """Return a row of a chart that is the caller's to see, whether or not their scopes reach to it; None when there is none, or it is restricted."""
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
    except (NotFound, Forbidden):
        return None
    return wire(entity, reveal(key, table, found))


async def send_again(visit: Visit, result: Result) -> None:
    """Tell the person's devices once more what the service has of a row that a push left as it was, so that their copies come back to it."""
    person = visit.caller.clinician_id or visit.caller.patient_id
    entity, row_id = result.mutation.entity, result.mutation.id
    there = await _row_of_chart(visit, entity, row_id)
    newest = None if there is None else await state_of_version(visit.connection, entity, row_id, there["version"])
    if newest is None:
        visit.journal.tell(Change(entity, row_id, 1, "revoke", audience=person))
    elif there is not None and may_see(visit.caller, entity, there):  # one that only this token may not see stays with the person's other devices
        visit.journal.tell(
            Change(entity, row_id, newest["version"], "grant", newest["patient_id"], newest["episode_id"], newest["state"], audience=person)
        )
