"""The interpersonal inventory: relationships, life events, problems and goals."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.actions.alerts import raise_safeguarding_alert
from app.actions.people import LeadDecides
from app.actions.records import Fields, Made, amend, create, fields_for, get_in_chart, mark_deleted, reveal
from app.actions.visit import Chart, Visit, open_chart
from app.domain.errors import Conflict, Forbidden, NotFound
from app.domain.inventory import Measures, check_event, check_relationship, completeness, measures, next_questions
from app.domain.people import check_not_future
from app.store.database import Row
from app.store.people import care_roles
from app.store.rows import rows_of
from app.store.tables.inventory import goal, life_event, problem, relationship


class SafetyBarStays(Forbidden):
    """A safety mark is lifted by the lead clinician and a second one of the care team, each alone: see the safety-lift route."""


class SecondSignOffNeeded(Conflict):
    """The lead has asked for it; another clinician of the care team must sign off."""


async def add_to_chart(visit: Visit, table: sa.Table, episode_id: UUID, values: dict[str, Any], *, imported: bool = False) -> Made:
    """Add a relationship, life event, problem or goal. Raises HistoryImpossible, FullNameRefused, NotFound."""
    chart = await open_chart(visit, episode_id, lock=True)
    await _check(visit, chart, table, values)
    made = await create(visit, table, fields_for(table, values), chart=chart)
    if table is relationship and made.new and made.row["safety"] != "none":
        await raise_safeguarding_alert(visit, chart, made.row, imported=imported)
    return made


async def amend_in_chart(visit: Visit, table: sa.Table, episode_id: UUID, row_id: UUID, values: dict[str, Any]) -> Row:
    """Change some fields; the rules see the row as it will be. A safety mark may be set or changed, not lifted."""
    chart = await open_chart(visit, episode_id, lock=True)
    present = await get_in_chart(visit, table, chart, row_id, check=True)
    await _check(visit, chart, table, {**present, **values})
    marked = table is relationship and values.get("safety", "none") != present["safety"] and "safety" in values
    if marked and values["safety"] == "none":
        raise SafetyBarStays
    if marked:
        values = {**values, "safety_lift_asked_by": None, "safety_lift_asked_at": None}
    row = await amend(visit, table, present, fields_for(table, values), key=chart.key)
    if marked:
        await raise_safeguarding_alert(visit, chart, row)
    return row


async def lift_safety_mark(visit: Visit, episode_id: UUID, relationship_id: UUID, reason: str) -> Made:
    """Ask, as the lead, that a safety mark be lifted; or sign off, as another clinician of the care team, which lifts it.

    Until both have spoken the mark and all its bars stay. Raises ClinicianOnly, NotFound, LeadDecides, SecondSignOffNeeded.
    """
    clinician_id = visit.clinician()
    chart = await open_chart(visit, episode_id, lock=True)
    present = await get_in_chart(visit, relationship, chart, relationship_id)
    if present["safety"] == "none":
        return Made(present, new=False)
    role = (await care_roles(visit.connection, episode_id)).get(clinician_id)
    asked = present["safety_lift_asked_by"]
    if role is None:
        raise NotFound
    if asked == clinician_id:
        raise SecondSignOffNeeded
    if asked is None:
        if role != "lead":
            raise LeadDecides
        fields = {"safety_lift_asked_by": clinician_id, "safety_lift_asked_at": visit.now}
        return Made(await amend(visit, relationship, present, Fields(fields, {"safety_lift_reason": reason}), key=chart.key), new=True)
    lifted = {"safety": "none", "safety_lift_asked_by": None, "safety_lift_asked_at": None}
    return Made(await amend(visit, relationship, present, Fields(lifted, {"safety_sign_off": reason}), key=chart.key), new=True)


async def delete_in_chart(visit: Visit, table: sa.Table, episode_id: UUID, row_id: UUID) -> None:
    """Mark one as deleted; its versions stay in the history."""
    chart = await open_chart(visit, episode_id, lock=True)
    present = await get_in_chart(visit, table, chart, row_id, check=True)
    if table is relationship and present["safety"] != "none":
        raise SafetyBarStays
    await mark_deleted(visit, table, present, chart.key)


async def read_inventory(visit: Visit, episode_id: UUID) -> tuple[list[Row], list[Row], Measures, float, list[str]]:
    """Return the whole inventory: relationships, life events, derived measures, completeness (0 to 1), what to ask next."""
    chart = await open_chart(visit, episode_id)
    people = [reveal(chart.key, relationship, r) for r in await rows_of(visit.connection, relationship, episode_id=episode_id)]
    events = [reveal(chart.key, life_event, r) for r in await rows_of(visit.connection, life_event, "happened_on", episode_id=episode_id)]
    visit.trace.resources += [f"relationship/{r['id']}" for r in people] + [f"life_event/{r['id']}" for r in events]
    onset = chart.episode["illness_onset_date"] is not None
    share = completeness(people, onset_known=onset, events=len(events))
    return people, events, measures(people), share, next_questions(people, onset_known=onset, events=len(events))


async def _check(visit: Visit, chart: Chart, table: sa.Table, values: dict[str, Any]) -> None:
    if table is relationship:
        check_relationship(values, chart.today)
    if table is life_event:
        check_event(values, chart.today)
    if table is goal:
        check_not_future(values.get("met_on"), chart.today, "/met_on")
    wanted = [values.get("relationship_id")] if table is life_event else values.get("relationship_ids", []) if table is problem else []
    if any(person is not None for person in wanted):
        await check_relationships_known(visit, chart, wanted)


async def check_relationships_known(visit: Visit, chart: Chart, wanted: Iterable[object]) -> list[Row]:
    """Return the people of this chart's inventory. Raises NotFound unless every wanted id (None aside) is one of them."""
    people = await rows_of(visit.connection, relationship, episode_id=chart.episode_id)
    if not {str(i) for i in wanted if i is not None} <= {str(r["id"]) for r in people}:
        raise NotFound
    return people
