"""Reading for devices: pages of the newest state of each row, the digest of what a device should hold, the head of the feed."""

from dataclasses import dataclass, replace
from typing import Any

from app.actions.history import opened_state, state_as_it_is
from app.actions.synced import SEEN_ROW_BY_ROW, entities_for, is_shown, on_the_wire
from app.actions.visit import Visit, open_patient
from app.domain.errors import Forbidden, Invalid
from app.domain.sync import Feed, cursor_of, digest_of
from app.store.database import Row
from app.store.feed import where_it_stands
from app.store.sync import GONE, Scope, Window, caseload_of, changed_for, page_newest, versions_of


class PersonNeeded(Forbidden):
    """Synchronisation needs a token that acts for a person: exchange one."""


class EntityUnknown(Invalid):
    """This kind of row is not synchronised, or the token does not cover it."""


EVERY_ROW = 1 << 31


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a pull: its rows, the cursor after them, the cursor up to which it reads, and whether there are more."""

    changes: list[dict[str, Any]]
    next: int
    until: int
    has_more: bool


async def scope_of(visit: Visit, entities: tuple[str, ...] | None = None) -> Scope:
    """Return what the caller's devices see, narrowed to some kinds of rows. Raises PersonNeeded, EntityUnknown.

    The caseload is read after the head of the feed: a row that the head includes is then never hidden by an older caseload.
    """
    caller = visit.caller
    allowed = entities_for(caller.scopes, patient=caller.patient_id is not None)
    if entities is not None and not set(entities) <= set(allowed):
        raise EntityUnknown(f"Not here: {', '.join(sorted(set(entities) - set(allowed)))}.")
    if entities == ():
        raise EntityUnknown("Name at least one kind of row.")
    wanted = allowed if entities is None else entities
    if caller.patient_id is not None:
        await open_patient(visit, caller.patient_id)
        return Scope(caller.patient_id, wanted, (), (caller.patient_id,), whole_patient=True)
    if caller.clinician_id is None:
        raise PersonNeeded
    episodes, patients = await caseload_of(visit.connection, caller.clinician_id)
    return Scope(caller.clinician_id, wanted, episodes, patients, whole_patient=False)


async def pull(
    visit: Visit, since: int, until: int | None, limit: int, entities: tuple[str, ...] | None = None, *, as_they_are: bool = False
) -> Page:
    """Return a page of what changed for the caller's devices after `since`, up to `until` (the head, when left out).

    `as_they_are`: the rows' data may be JSON that was not read, for whoever only sends it on.

    Raises CursorMalformed, CursorAhead, CursorExpired, PersonNeeded, EntityUnknown.
    """
    feed = await where_it_stands(visit.connection)
    start = feed.seq_of(since)
    end = feed.seq if until is None else feed.seq_of(until)
    scope = await scope_of(visit, entities)
    window = Window(start, end, settled=end if start == 0 else feed.min_seq)
    changes: list[dict[str, Any]] = []
    while True:
        rows = await page_newest(visit.connection, scope, window, limit - len(changes))
        shown = rows[: limit - len(changes)]
        changes += [c for c in (_shown(visit, feed, row, as_they_are=as_they_are) for row in shown) if c is not None]
        has_more = len(rows) > len(shown)
        last = shown[-1]["seq"] if shown else window.since
        if not has_more or len(changes) >= limit:
            break
        window = Window(last, window.until, window.settled)  # a row that is not for this person's eyes left its place free
    after = cursor_of(feed.epoch, last if has_more else end)
    return Page(changes, after, cursor_of(feed.epoch, end), has_more)


async def has_news(visit: Visit, since: int) -> bool:
    """Tell whether anything after a number of the feed is for the caller's devices."""
    return await changed_for(visit.connection, await scope_of(visit), since)


async def digest(visit: Visit, until: int | None, entities: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return how many rows of each kind the caller's devices should hold at a cursor, and their order-free hash."""
    feed = await where_it_stands(visit.connection)
    end = feed.seq if until is None else feed.seq_of(until)
    scope = await scope_of(visit, entities)
    window = Window(0, end, end)
    looked_at = scope if scope.whole_patient else replace(scope, entities=tuple(e for e in scope.entities if e in SEEN_ROW_BY_ROW))
    rows = [] if scope.whole_patient else await versions_of(visit.connection, scope, window)
    rows = [r for r in rows if r["entity"] not in SEEN_ROW_BY_ROW]
    rows += [r for r in await page_newest(visit.connection, looked_at, window, EVERY_ROW) if _shown(visit, feed, r, as_they_are=False) is not None]
    held: dict[str, list[tuple[str, int]]] = {e: [] for e in scope.entities}
    for row in rows:
        held[row["entity"]].append((str(row["entity_id"]), row["version"]))
    found = [(entity, *digest_of(rows)) for entity, rows in held.items()]
    return {"until": cursor_of(feed.epoch, end), "entities": [{"entity": e, "count": n, "hash": h} for e, n, h in found]}


def _shown(visit: Visit, feed: Feed, row: Row, *, as_they_are: bool) -> dict[str, Any] | None:
    """Return a change as a device gets it; None when the person does not see such a row. Notes it for the audit trail."""
    op = row["op"]
    data: Any = None
    if op not in GONE:
        if row["wrapped"] is None:
            op = "delete"  # the patient was erased: the device forgets the row
        else:
            key = visit.patient_keys.get(row["patient_id"]) or visit.key_of(row)
            unread = as_they_are and visit.caller.patient_id is None and row["entity"] not in SEEN_ROW_BY_ROW
            data = state_as_it_is(visit, key, row) if unread else None
            if data is None:
                state = opened_state(visit, key, row)
                if not is_shown(visit.caller, row["entity"], state):
                    return None
                data = on_the_wire(row["entity"], state)
    visit.trace.of(row["patient_id"], f"{row['entity']}/{row['entity_id']}")
    return {
        "entity": row["entity"],
        "id": str(row["entity_id"]),
        "version": row["version"],
        "seq": cursor_of(feed.epoch, row["seq"]),
        "op": "upsert" if op not in GONE else op,
        "data": data,
    }
