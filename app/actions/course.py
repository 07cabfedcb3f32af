"""The course: formulation, contract, the tasks of a phase, and the transitions between phases."""

from typing import Any
from uuid import UUID

from app.actions.facts import PER_WEEK, gather_one, open_course, plan_of, proposals_for
from app.actions.people import episode_row
from app.actions.records import Fields, Made, amend, create, fields_for, find_one, get_one, put_one
from app.actions.visit import Visit, open_chart
from app.domain.errors import Fault, Invalid
from app.domain.focus import ProtocolWithoutAreas
from app.domain.people import check_not_future, today_of
from app.domain.phase import check_task_record, check_transition, flags_of, task_status, unmet_conditions
from app.domain.protocols import extension_faults, taper_faults
from app.store.database import Row
from app.store.tables.people import episode
from app.store.tables.work import contract, formulation, phase_task, phase_transition

DAYS_IN_A_WEEK = 7


class ContractInvalid(Invalid):
    """The contract breaks a rule of its protocol."""


async def put_formulation(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> Made:
    """Write the formulation: the link of symptoms and area in words that the patient hears."""
    chart = await open_chart(visit, episode_id, lock=True)
    check_not_future(values.get("told_on"), chart.today, "/told_on")
    if values["areas"] and not chart.protocol.four_areas:
        raise ProtocolWithoutAreas(chart.protocol.no_areas_reason)
    if not values["areas"] and chart.protocol.four_areas:
        raise Invalid(faults=[Fault("/areas", "one or two areas are needed: the formulation links them with the symptoms")])
    return await put_one(visit, formulation, chart, fields_for(formulation, values))


async def put_contract(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> Made:
    """Write the contract: number, frequency, length and end date of the sessions, agreed with the patient.

    An amendment of the number or the end date that the patient agreed to needs a reason and the severity that it answers.
    """
    chart = await open_chart(visit, episode_id, lock=True)
    before = await find_one(visit, contract, chart)
    amended = before is not None and before["patient_agreed"]
    faults = extension_faults(chart.protocol, values["sessions"], PER_WEEK[values["frequency"]], amended=amended)
    if values["ends_on"] < values["starts_on"]:
        faults.append(Fault("/ends_on", "lies before the start"))
    weeks = (values["ends_on"] - values["starts_on"]).days / DAYS_IN_A_WEEK
    if values["sessions"] - 1 > (weeks + 1) * PER_WEEK[values["frequency"]]:
        faults.append(Fault("/ends_on", "is too early for so many sessions at this frequency"))
    faults += taper_faults(values["sessions"], values.get("taper") or [])
    if before is not None and amended and (before["sessions"], before["ends_on"]) != (values["sessions"], values["ends_on"]):
        faults += [Fault(f"/{name}", "is needed for an amendment") for name in ("reason", "severity") if not values.get(name)]
    if faults:
        raise ContractInvalid(faults=faults)
    return await put_one(visit, contract, chart, fields_for(contract, values))


async def get_singleton(visit: Visit, table: Any, episode_id: UUID) -> Row:
    """Return the chart's one row of a table. Raises NotFound before it was first put."""
    chart = await open_chart(visit, episode_id)
    row = await get_one(visit, table, chart)
    visit.trace.resources.append(f"{table.name}/{row['id']}")
    return row


async def read_phase(visit: Visit, episode_id: UUID) -> dict[str, Any]:
    """Return where the course stands: phase, sessions held and left, tasks, the next step and what it still lacks."""
    chart, found = await open_course(visit, episode_id)
    facts, number = found.facts, found.contracted
    to = chart.protocol.phase_after(facts.phase)
    unmet = [] if to is None else unmet_conditions(to, facts, chart.protocol)
    proposals = proposals_for(chart, found)
    tasks = [
        {"code": t.code, "phase": t.phase, "title": t.title, "status": task_status(t, facts), "met_by": t.met_by, "gate": t.gate, "source": t.source}
        for t in chart.protocol.tasks
    ]
    return {
        "episode_id": episode_id,
        "phase": facts.phase,
        "status": facts.status,
        "risk_hold": facts.risk_on_hold,
        "sessions_held": facts.sessions_held,
        "sessions_left": None if number is None else max(0, number - facts.sessions_held),
        "ends_on": found.counts["ends_on"],
        "plan": plan_of(chart, found.counts),
        "tasks": tasks,
        "transitions": [] if to is None else [{"to": to, "open": not unmet, "unmet": [u._asdict() for u in unmet]}],
        "flags": flags_of(facts, chart.protocol, number, found.ending.get("told_at_session")),
        "proposals": proposals,
    }


async def record_task(visit: Visit, episode_id: UUID, code: str, values: dict[str, Any]) -> Made:
    """Record a task as done, waived (a clinician, with a reason) or owed again."""
    chart = await open_chart(visit, episode_id, lock=True)
    task = chart.protocol.task(code)
    check_task_record(task, values["status"], values.get("reason") or "", by_clinician=visit.caller.clinician_id is not None)
    check_not_future(values.get("done_on"), chart.today, "/done_on")
    fields = fields_for(phase_task, values)
    clear = {**fields.clear, "recorded_by": visit.caller.clinician_id}
    return await put_one(visit, phase_task, chart, Fields(clear, fields.secret), task=code)


async def enter_phase(visit: Visit, episode_id: UUID, to: str, values: dict[str, Any]) -> Made:
    """Move the course into its next phase. Entering follow_up completes the treatment.

    Raises PhaseGateShut with every unmet condition; a clinician may override with a reason, a partner's client may not.
    """
    chart = await open_chart(visit, episode_id, lock=True)
    facts = (await gather_one(visit, chart)).facts
    reason = values.get("reason") or ""
    passed = check_transition(to, facts, chart.protocol, reason=reason, by_clinician=visit.caller.clinician_id is not None)
    occurred = values.get("occurred_at") or visit.now
    if occurred > visit.now:
        raise Invalid(faults=[Fault("/occurred_at", "lies in the future")])
    if today_of(chart.episode["time_zone"], occurred) < chart.episode["referred_on"]:
        raise Invalid(faults=[Fault("/occurred_at", "lies before the referral")])
    first = facts.phase == "screening"  # the course begins, whichever phase comes first in its protocol
    status = "completed" if to == "follow_up" else "active" if first else chart.episode["status"]
    moved: dict[str, Any] = {"phase": to, "status": status}
    if to == "follow_up":
        moved["ended_at"] = occurred
    await amend(visit, episode, episode_row(chart.episode), Fields(moved), key=chart.key)
    fields = {
        "from_phase": facts.phase,
        "to_phase": to,
        "occurred_at": occurred,
        "overridden": [u._asdict() for u in passed],
        "decided_by": visit.caller.clinician_id,
    }
    return await create(visit, phase_transition, Fields(fields, {"reason": reason} if reason else {}), chart=chart)
