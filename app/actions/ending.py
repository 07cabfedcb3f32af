"""The ending: the work of termination, an unplanned ending, follow-ups; and the timeline of the whole course."""

from datetime import UTC, datetime, time
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from app.actions.people import episode_row
from app.actions.records import Fields, Made, amend, create, fields_for, find_one, get_in_chart, get_one, put_one
from app.actions.visit import Chart, Visit, open_chart
from app.domain.errors import Conflict, Fault, Invalid
from app.domain.people import check_not_future, today_of
from app.domain.phase import RUNNING, EpisodeNotRunning
from app.domain.termination import MAINTENANCE_CAUTION, UNPLANNED_TASKS, follow_up_due, maintenance_reasons, tasks_met
from app.store.database import Row
from app.store.tables.people import episode
from app.store.tables.work import early_ending, follow_up, termination
from app.store.timeline import timeline
from app.store.work import gate_facts, scores, sessions_held_before

LAST_YEAR = 2100


class FollowUpBooked(Conflict):
    """A follow-up of this month is booked already."""


class CourseStillRunning(Conflict):
    """The course has not ended, and no end date is agreed to count from."""


async def put_termination(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> Made:
    """Write the record of the ending. Its parts meet the tasks of the phase; an empty part meets nothing."""
    chart = await open_chart(visit, episode_id, lock=True)
    check_not_future(values.get("end_date_told_on"), chart.today, "/end_date_told_on")
    fields = fields_for(termination, values)
    told: dict[str, Any] = {}
    if values.get("end_date_told_on") is not None:
        end_of_day = datetime.combine(values["end_date_told_on"], time.max, ZoneInfo(chart.episode["time_zone"]))
        told["told_at_session"] = max(1, await sessions_held_before(visit.connection, episode_id, end_of_day))
    return await put_one(visit, termination, chart, Fields({**fields.clear, **told}, fields.secret))


async def read_termination(visit: Visit, episode_id: UUID) -> Row:
    """Return the record of the ending with the tasks that it meets and the reasons to consider maintenance."""
    chart = await open_chart(visit, episode_id)
    row = await get_one(visit, termination, chart)
    visit.trace.resources.append(f"termination/{row['id']}")
    return row | await ending_view(visit, chart, row)


async def ending_view(visit: Visit, chart: Chart, row: Row) -> dict[str, Any]:
    """Return what the service makes of the record: tasks met, reasons for maintenance, the published caution."""
    rows = await scores(visit.connection, chart.episode_id)
    totals = [t["total"] for t in rows if t["instrument"] == "PHQ-9" and t["follow_up_id"] is None and t["total"] is not None]
    declared = tuple(row.get("maintenance_reasons") or ())
    reasons = maintenance_reasons(totals[-1] if totals else None, chart.episode["lifetime_episodes"], declared)
    caution = MAINTENANCE_CAUTION if chart.episode["concurrent_medication"] else None
    return {"tasks_met": tasks_met(row), "consider_maintenance_because": reasons, "maintenance_caution": caution}


async def end_early(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> Made:
    """Record an ending that was not planned. The last total is carried as last available."""
    chart = await open_chart(visit, episode_id, lock=True)
    _check_risk_task(visit, values)
    there = await find_one(visit, early_ending, chart)
    running = chart.episode["status"] in RUNNING
    if not running and (there is None or values.get("id") is None or there["id"] != values["id"]):
        raise EpisodeNotRunning(f"The status is {chart.episode['status']}.")
    check_not_future(values["ended_on"], chart.today, "/ended_on")
    if values["ended_on"] < chart.episode["referred_on"]:
        raise Invalid(faults=[Fault("/ended_on", "lies before the referral")])
    if running:
        moment = datetime.combine(values["ended_on"], time(12), UTC)
        ended = {"status": "ended_early", "ended_at": min(moment, visit.now)}
        await amend(visit, episode, episode_row(chart.episode), Fields(ended), key=chart.key)
    totals = [t["total"] for t in await scores(visit.connection, episode_id) if t["instrument"] == "PHQ-9" and t["total"] is not None]
    fields = fields_for(early_ending, values)
    last = there["last_total"] if there and not running else (totals[-1] if totals else None)
    if there is not None and running:  # it had ended early before, and was taken up again: the record of the ending goes on
        return Made(await amend(visit, early_ending, there, Fields({**fields.clear, "last_total": last}, fields.secret), key=chart.key), new=True)
    return await create(visit, early_ending, Fields(fields.clear, fields.secret, fields.id, {"last_total": last}), chart=chart)


def owed_tasks(ending: Row | None) -> list[str]:
    """Return the tasks that an unplanned ending still owes."""
    return [] if ending is None else [task for task in UNPLANNED_TASKS if task not in ending["tasks_done"]]


def _check_risk_task(visit: Visit, values: dict[str, Any]) -> None:
    """A risk check is a clinician's: a bare client cannot say that it was done. Raises ClinicianOnly."""
    if "risk_checked_by_clinician" in values.get("tasks_done", ()):
        visit.clinician()


async def amend_early_ending(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> Row:
    """Record the tasks of an unplanned ending as they are done."""
    chart = await open_chart(visit, episode_id, lock=True)
    _check_risk_task(visit, values)
    found = await find_one(visit, early_ending, chart)
    visit.precondition.check(None if found is None else found["version"])
    return await amend(visit, early_ending, found or {}, fields_for(early_ending, values), key=chart.key)


async def book_follow_up(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> Made:
    """Book a follow-up some months after the end; without a date it is counted from the end of the course."""
    chart = await open_chart(visit, episode_id, lock=True)
    there = await find_one(visit, follow_up, chart, months=values["months"])
    if there is not None and there["id"] != values.get("id"):
        raise FollowUpBooked
    due = values.get("due_on") or follow_up_due(await _end_of(visit, chart), values["months"])
    if due.year > LAST_YEAR:
        raise Invalid(faults=[Fault("/months", f"the follow-up would lie after {LAST_YEAR}")])
    fields = fields_for(follow_up, values)
    given = {k: v for k, v in fields.clear.items() if k != "due_on" or v is not None}
    return await create(visit, follow_up, Fields(given, fields.secret, fields.id, {"due_on": due, "status": "booked"}), chart=chart)


async def _end_of(visit: Visit, chart: Chart) -> Any:
    if chart.episode["ended_at"] is not None:
        return today_of(chart.episode["time_zone"], chart.episode["ended_at"])
    ends_on = (await gate_facts(visit.connection, [chart.episode_id]))[chart.episode_id]["ends_on"]
    if ends_on is None:
        raise CourseStillRunning
    return ends_on


async def amend_follow_up(visit: Visit, episode_id: UUID, follow_up_id: UUID, values: dict[str, Any]) -> Row:
    """Record that a follow-up was held, missed or declined."""
    chart = await open_chart(visit, episode_id, lock=True)
    present = await get_in_chart(visit, follow_up, chart, follow_up_id, check=True)
    check_not_future(values.get("held_on"), chart.today, "/held_on")
    wanted = {**present, **values}
    if (wanted["status"] == "held") != (wanted["held_on"] is not None):
        raise Invalid(faults=[Fault("/held_on", "is given exactly when the follow-up was held")])
    return await amend(visit, follow_up, present, fields_for(follow_up, values), key=chart.key)


async def read_timeline(visit: Visit, episode_id: UUID) -> list[Row]:
    """Return the course as it happened: codes, numbers and dates, oldest first."""
    chart = await open_chart(visit, episode_id)
    return await timeline(visit.connection, episode_id, chart.episode["time_zone"])
