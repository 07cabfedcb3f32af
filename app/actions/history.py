"""History from the change feed: every version of a resource, and what changed in the inventory between two moments."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa

from app.actions.visit import Chart, Visit, open_chart, open_patient, public
from app.actions.wire import shape_of, whole
from app.domain import history
from app.domain.errors import Fault, Invalid, NotFound
from app.domain.inventory import Measures, measures
from app.keys.cipher import PatientKey, place_of
from app.store.database import Row
from app.store.feed import page_history, states_at
from app.store.tables.every import metadata

INVENTORY = ("relationship", "life_event")


async def read_history(visit: Visit, table: sa.Table, episode_id: UUID, row_id: UUID | None, after: Sequence[int] | None, limit: int) -> list[Row]:
    """Return a page of the versions of a resource of a chart (of all its rows of a table without an id), oldest first. Raises NotFound."""
    chart = await open_chart(visit, episode_id)
    rows = await page_history(visit.connection, table.name, {"episode_id": chart.episode_id, "entity_id": row_id}, after, limit)
    return _versions(visit, chart.key, rows, first=after is None)


async def read_patient_history(visit: Visit, patient_id: UUID, after: Sequence[int] | None, limit: int) -> list[Row]:
    """Return a page of the versions of a patient's particulars. Raises NotFound."""
    _, key = await open_patient(visit, patient_id)
    return _versions(visit, key, await page_history(visit.connection, "patient", {"entity_id": patient_id}, after, limit), first=after is None)


async def read_partner_history(
    visit: Visit, table: sa.Table, row_id: UUID | None, after: Sequence[int] | None, limit: int, *, key: PatientKey | None = None
) -> list[Row]:
    """Return a page of the versions of what belongs to the partner and to no single patient. Raises NotFound."""
    rows = await page_history(visit.connection, table.name, {"entity_id": row_id or visit.caller.partner_id}, after, limit)
    return _versions(visit, key, rows, first=after is None)


def _versions(visit: Visit, key: PatientKey | None, rows: list[Row], *, first: bool) -> list[Row]:
    if not rows and first:
        raise NotFound
    visit.trace.resources += [f"{r['entity']}/{r['entity_id']}" for r in rows[:1]]
    return [
        {"id": r["entity_id"], "state": opened_state(visit, key, r)} | {n: r[n] for n in ("seq", "at", "op", "actor", "version", "mutation_id")}
        for r in rows
    ]


def opened_state(visit: Visit, key: PatientKey | None, row: Row) -> dict[str, Any]:
    """Open the state that a row of the feed keeps, as it was written. Raises KeyMissing."""
    place = place_of(visit.caller.partner_id, f"change:{row['entity']}", row["entity_id"], row["version"])
    if key is None:
        return public(orjson.loads(visit.keys.open(row["state"], place)))
    mark, state = key.open_state(row["state"], place)
    found: dict[str, Any] = orjson.loads(state)
    return public(found if mark else whole(metadata.tables[row["entity"]], found))


def state_as_it_is(visit: Visit, key: PatientKey, row: Row) -> orjson.Fragment | None:
    """Return a state as the wire shows it without reading it; None for one that was kept in another shape. Raises KeyMissing."""
    mark, state = key.open_state(row["state"], place_of(visit.caller.partner_id, f"change:{row['entity']}", row["entity_id"], row["version"]))
    return orjson.Fragment(state) if mark == shape_of(metadata.tables[row["entity"]])[2] else None


async def inventory_at(visit: Visit, chart: Chart, moment: datetime) -> dict[str, dict[str, Row]]:
    """Return the inventory as it stood at a moment: by table, then by id; what was deleted by then is left out."""
    found: dict[str, dict[str, Row]] = {name: {} for name in INVENTORY}
    for row in await states_at(visit.connection, INVENTORY, chart.episode_id, moment):
        if row["op"] != "delete":
            found[row["entity"]][str(row["entity_id"])] = opened_state(visit, chart.key, row)
    return found


async def compare_inventory(visit: Visit, episode_id: UUID, start: datetime, end: datetime | None) -> dict[str, Any]:
    """Return what changed in the inventory from one moment to another (now, when left out): people, events, moves between rings."""
    chart = await open_chart(visit, episode_id)
    until = end or visit.now
    if until < start:
        raise Invalid(faults=[Fault("/to", "lies before the start")])
    before, after = await inventory_at(visit, chart, start), await inventory_at(visit, chart, until)
    visit.trace.resources += [f"relationship/{i}" for i in {*before["relationship"], *after["relationship"]}]
    return {
        "episode_id": episode_id,
        "from": start,
        "to": until,
        "relationships": history.compare(before["relationship"], after["relationship"]),
        "life_events": history.compare(before["life_event"], after["life_event"]),
        "moves": history.moves(before["relationship"], after["relationship"]),
        "measures_before": measures_of(before),
        "measures_after": measures_of(after),
    }


def measures_of(inventory: dict[str, dict[str, Row]]) -> Measures:
    """Return the derived measures of an inventory as it stood."""
    return measures(list(inventory["relationship"].values()))
