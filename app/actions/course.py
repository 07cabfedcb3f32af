"""The course: formulation, contract, the tasks of a phase, and the transitions between phases."""

from datetime import datetime
from typing import Any
from uuid import UUID

from app.actions.people import episode_row
from app.actions.records import Fields, Made, amend, create, fields_for, find_one, get_one, put_one
from app.actions.scoring import score_of
from app.actions.visit import Chart, Visit, open_chart
from app.domain.errors import Fault, Invalid
from app.domain.instruments import change, instrument, is_adult
from app.domain.people import check_not_future, today_of
from app.domain.phase import (
    NEXT,
    Facts,
    check_task_record,
    check_transition,
    flags_of,
    measured_at_the_end,
    proposal_of,
    task_status,
    unmet_conditions,
)
from app.domain.protocols import Plan, extension_faults, plan_for
from app.domain.termination import tasks_met
from app.store.database import Row
from app.store.tables.people import episode
from app.store.tables.work import contract, formulation, phase_task, phase_transition, termination
from app.store.work import gate_facts, scores

DAYS_IN_A_WEEK = 7
PER_WEEK = {"twice_weekly": 2.0, "weekly": 1.0, "fortnightly": 0.5, "monthly": 0.25}


class ContractInvalid(Invalid):
    """The contract breaks a rule of its protocol."""


async def put_formulation(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> Made:
    """Write the formulation: the link of symptoms and area in words that the patient hears."""
    chart = await open_chart(visit, episode_id, lock=True)
    check_not_future(values.get("told_on"), chart.today, "/told_on")
    return await put_one(visit, formulation, chart, fields_for(formulation, values))


async def put_contract(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> Made:
    """Write the contract: number, frequency, length and end date of the sessions, agreed with the patient.

    An amendment of the number or the end date that the patient agreed to needs a reason and the severity that it answers.
    """
    chart = await open_chart(visit, episode_id, lock=True)
    faults = extension_faults(chart.protocol, values["sessions"], PER_WEEK[values["frequency"]])
    if values["ends_on"] < values["starts_on"]:
        faults.append(Fault("/ends_on", "lies before the start"))
    weeks = (values["ends_on"] - values["starts_on"]).days / DAYS_IN_A_WEEK
    if values["sessions"] - 1 > (weeks + 1) * PER_WEEK[values["frequency"]]:
        faults.append(Fault("/ends_on", "is too early for so many sessions at this frequency"))
    before = await find_one(visit, contract, chart)
    if before is not None and before["patient_agreed"] and (before["sessions"], before["ends_on"]) != (values["sessions"], values["ends_on"]):
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


async def gather_facts(visit: Visit, chart: Chart) -> tuple[Facts, Row]:
    """Return the facts that the gates look at, and the raw counts."""
    found = await gate_facts(visit.connection, chart.episode_id, chart.patient_id)
    ending = await find_one(visit, termination, chart) or {}
    totals = await scores(visit.connection, chart.episode_id)
    own = [i.code for i in chart.protocol.instruments]
    last_held = _day(chart, found["last_held_at"])
    measured = [_day(chart, t["answered_at"]) for t in totals if t["instrument"] == own[0] and t["total"] is not None]
    facts = Facts(
        phase=chart.episode["phase"],
        status=chart.episode["status"],
        age_at_referral=chart.episode["age_at_referral"],
        consented_to_treatment=bool(found["consented"]),
        contraindications_answered=chart.episode["contraindications"] is not None,
        contraindicated=bool(chart.episode["contraindications"]),
        risk_screened=chart.episode["risk_screened"],
        lead_named="lead" in found["roles"],
        cover_named="cover" in found["roles"],
        relationships=found["relationships"],
        baseline_measured=set(own) <= {t["instrument"] for t in totals if t["total"] is not None},
        focus_decided=found["focus_agreed"] is not None,
        focus_agreed=bool(found["focus_agreed"]),
        formulation_told=found["formulation_told_on"] is not None,
        contract_agreed=bool(found["contract_agreed"]),
        sessions_held=found["sessions_held"],
        measured_at_the_end=measured_at_the_end(last_held, measured),
        final_assessment_excused=ending.get("final_assessment") in {"refused", "unreachable"} and bool(ending.get("final_assessment_reason")),
        responded=_responded(chart, totals),
        follow_ups_booked=frozenset(found["follow_ups"]),
        termination=tasks_met(ending),
        recorded=found["tasks"],
    )
    return facts, {**found, "told_at_session": ending.get("told_at_session")}


def _day(chart: Chart, moment: datetime | None) -> Any:
    return None if moment is None else today_of(chart.episode["time_zone"], moment)


def _responded(chart: Chart, totals: list[Row]) -> bool | None:
    """Tell whether the first instrument of the protocol fell by half, or symptoms are gone; None when it cannot be told."""
    questionnaire = instrument(chart.protocol.instruments[0].code)
    own = [t for t in totals if t["instrument"] == questionnaire.code and t["total"] is not None and t["follow_up_id"] is None]
    if not own or (questionnaire.remission_below is not None and own[-1]["total"] < questionnaire.remission_below):
        return True if own else None
    adult = is_adult(chart.episode["age_at_referral"])
    found = change(questionnaire, score_of(own[0]), score_of(own[-1]), adult=adult, sessions_held=0)
    return found.response if found and len(own) > 1 else None


def plan_of(chart: Chart, found: Row) -> Plan | None:
    """Return the plan of phases for the contracted number of sessions; None without a contract, or with a contraindication."""
    number = found["contracted_sessions"]
    return None if number is None or chart.episode["contraindications"] else plan_for(chart.protocol, number, PER_WEEK[found["frequency"]])


async def read_phase(visit: Visit, episode_id: UUID) -> dict[str, Any]:
    """Return where the course stands: phase, sessions held and left, tasks, the next step and what it still lacks."""
    chart = await open_chart(visit, episode_id)
    facts, found = await gather_facts(visit, chart)
    plan = plan_of(chart, found)
    number = found["contracted_sessions"]
    to = NEXT.get(facts.phase)
    unmet = [] if to is None else unmet_conditions(to, facts, chart.protocol)
    tasks = [
        {"code": t.code, "phase": t.phase, "title": t.title, "status": task_status(t, facts), "met_by": t.met_by, "gate": t.gate, "source": t.source}
        for t in chart.protocol.tasks
    ]
    return {
        "episode_id": episode_id,
        "phase": facts.phase,
        "status": facts.status,
        "sessions_held": facts.sessions_held,
        "sessions_left": None if number is None else max(0, number - facts.sessions_held),
        "ends_on": found["ends_on"],
        "plan": plan,
        "tasks": tasks,
        "transitions": [] if to is None else [{"to": to, "open": not unmet, "unmet": [u._asdict() for u in unmet]}],
        "flags": flags_of(facts, chart.protocol, number, found["told_at_session"]),
        "proposal": proposal_of(facts, number, None if plan is None else plan.middle[1]),
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
    facts, _ = await gather_facts(visit, chart)
    reason = values.get("reason") or ""
    passed = check_transition(to, facts, chart.protocol, reason=reason, by_clinician=visit.caller.clinician_id is not None)
    occurred = values.get("occurred_at") or visit.now
    if occurred > visit.now:
        raise Invalid(faults=[Fault("/occurred_at", "lies in the future")])
    if today_of(chart.episode["time_zone"], occurred) < chart.episode["referred_on"]:
        raise Invalid(faults=[Fault("/occurred_at", "lies before the referral")])
    status = {"initial": "active", "follow_up": "completed"}.get(to, chart.episode["status"])
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
