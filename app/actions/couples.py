"""Couples: two episodes, each with its own chart. The two views of the relationship stand side by side only when both may be shown."""

from typing import Any
from uuid import UUID

from app.actions.people import check_backend
from app.actions.records import Fields, Made, amend, create, get_in_chart
from app.actions.visit import Visit, open_chart, public
from app.domain.errors import Conflict, Fault, Invalid, NotFound
from app.domain.people import check_not_future
from app.store.database import Row
from app.store.rows import find_row
from app.store.tables.groups import couple
from app.store.tables.inventory import relationship

SIDES = ("first", "second")
SHOWN = [
    "closeness_now",
    "closeness_before_onset",
    "closeness_wished",
    "expects_of_other",
    "other_expects",
    "expectation_mismatch",
    "satisfying",
    "unsatisfying",
    "change_wanted",
    "change_wanted_in",
    "conflict_level",
    "shared_activities",
]


class CoupleViewNotOpen(Conflict):
    """The two views are not open to be seen side by side: each partner is screened alone and agrees first."""


class NotACouplesCourse(Invalid):
    """Both courses must be of the format couple, and of two patients."""


async def add_couple(visit: Visit, values: dict[str, Any]) -> Made:
    """Tie two courses, each with the person of its inventory that is the other. Raises NotACouplesCourse, NotFound."""
    check_backend(visit)
    charts = {}
    for side in sorted(SIDES, key=lambda s: values[s]["episode_id"]):  # locks in one order
        charts[side] = await open_chart(visit, values[side]["episode_id"], lock=True)
        await get_in_chart(visit, relationship, charts[side], values[side]["relationship_id"])
    if {c.episode["format"] for c in charts.values()} != {"couple"} or len({c.patient_id for c in charts.values()}) == 1:
        raise NotACouplesCourse(faults=[Fault("/second/episode_id", "must be a couple's course of another patient")])
    fields = {f"{side}_{name}": values[side][name] for side in SIDES for name in ("episode_id", "relationship_id")}
    visit.trace.patient_id = visit.trace.episode_id = None  # it is of two
    visit.trace.many = [values[side]["episode_id"] for side in SIDES]
    return await create(visit, couple, Fields(fields, id=values.get("id")))


async def get_couple(visit: Visit, couple_id: UUID) -> Row:
    """Return a couple, to who may see both charts. Raises NotFound."""
    row = await find_row(visit.connection, couple, id=couple_id)
    if row is None:
        raise NotFound
    for side in SIDES:
        await open_chart(visit, row[f"{side}_episode_id"])
    visit.trace.patient_id = visit.trace.episode_id = None
    visit.trace.many = [row[f"{side}_episode_id"] for side in SIDES]
    visit.trace.resources.append(f"couple/{couple_id}")
    return public(row)


async def amend_couple(visit: Visit, couple_id: UUID, values: dict[str, Any]) -> Row:
    """Record, as a clinician, that a partner was screened alone, or agreed that the views be shown."""
    visit.clinician()
    row = await get_couple(visit, couple_id)
    charts = [await open_chart(visit, row[f"{side}_episode_id"], lock=True) for side in sorted(SIDES, key=lambda s: row[f"{s}_episode_id"])]
    row = await get_couple(visit, couple_id)
    visit.precondition.check(row["version"])
    for name, day in values.items():
        check_not_future(day, min(c.today for c in charts), f"/{name}")
    visit.trace.patient_id = visit.trace.episode_id = None
    return await amend(visit, couple, row, Fields(values))


async def read_views(visit: Visit, couple_id: UUID) -> dict[str, Any]:
    """Return both partners' views of the relationship side by side, to a clinician.

    The refusal is the same whatever is missing: a safety mark on either side does not betray itself. Raises CoupleViewNotOpen.
    """
    visit.clinician()
    row = await get_couple(visit, couple_id)
    views = {}
    barred = any(row[f"{side}_{name}"] is None for side in SIDES for name in ("screened_alone_on", "agreed_on"))
    for side in SIDES:
        chart = await open_chart(visit, row[f"{side}_episode_id"])
        person = await get_in_chart(visit, relationship, chart, row[f"{side}_relationship_id"])
        barred = barred or person["safety"] != "none"
        views[side] = {"episode_id": chart.episode_id, **{name: person.get(name) for name in SHOWN}}
    visit.trace.patient_id = visit.trace.episode_id = None
    if barred:
        raise CoupleViewNotOpen
    apart = [
        n for n in SHOWN if views["first"][n] != views["second"][n] and isinstance(views["first"][n], int) and isinstance(views["second"][n], int)
    ]
    return {"id": couple_id, **views, "apart": apart}
