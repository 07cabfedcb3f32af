"""Sessions: scheduled, held, missed, cancelled. A held session is never refused for phase, gate or contract."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from app.actions.inventory import check_relationships_known
from app.actions.records import Fields, Made, amend, create, fields_for, get_in_chart
from app.actions.visit import Chart, Visit, open_chart
from app.actions.wire import wire_of
from app.domain.errors import Invalid
from app.domain.people import check_time_zone, today_of
from app.domain.problem_area import AREAS, DISPUTE_STRATEGIES, ruleset
from app.domain.protection import CARE, RECORD
from app.domain.protocol_faults import PHASES
from app.domain.sessions import NUMBERED, NotRescheduled, SessionNotScheduled, check_session, check_status_change, flags_of
from app.domain.techniques import check_strategies, check_techniques
from app.store.database import Row
from app.store.tables.work import session
from app.store.work import session_facts


class JointSessionBarred(Invalid):
    """A joint session is not planned with a person whose relationship carries a safety mark, nor without naming the person."""


async def record_session(visit: Visit, episode_id: UUID, values: dict[str, Any], **derived: Any) -> Made:
    """Schedule a session, or record one that was held, missed or cancelled. A held one of the course gets the next number.

    Sessions beside the course (assessment, pre-group, parents, booster, crisis) have no number and do not count against the contract.
    """
    planned = values["status"] == "scheduled" and visit.use == RECORD  # what took place is recorded, whatever was withdrawn since
    chart = await open_chart(replace(visit, use=CARE) if planned else visit, episode_id, lock=True)
    check_session(values, visit.now)
    _check_codes(values)
    await _check_joint(visit, chart, values)
    fields = fields_for(session, values)
    facts = await session_facts(visit.connection, chart.episode_id, values.get("id"), values["starts_at"])
    extra: dict[str, Any] = {
        "phase": facts["phase"] or PHASES[0],
        "flags": _flags(chart, values, facts),
        "entered_in_error": False,
        **derived,
    }
    if _is_numbered(values) and not facts["known"]:
        extra["number"] = _next_number(facts)
    return await create(visit, session, Fields(fields.clear, fields.secret, fields.id, extra), chart=chart)


async def amend_session(visit: Visit, episode_id: UUID, session_id: UUID, values: dict[str, Any]) -> Row:
    """Hold, miss or cancel a scheduled session, move it, complete its record, or mark it as entered in error."""
    chart = await open_chart(visit, episode_id, lock=True)
    present = await get_in_chart(visit, session, chart, session_id, check=True)
    if present["entered_in_error"]:
        raise SessionNotScheduled("The session was entered in error.")
    wanted = {**present, **values}
    check_status_change(present["status"], wanted["status"])
    check_session(wanted, visit.now)
    _check_codes(wanted)
    await _check_joint(visit, chart, wanted)
    fields = fields_for(session, values)
    facts = await session_facts(visit.connection, chart.episode_id, session_id, wanted["starts_at"])
    extra: dict[str, Any] = {"flags": _flags(chart, wanted, facts)}
    if wanted["status"] == "held" and present["status"] != "held":
        extra["phase"] = facts["phase"] or PHASES[0]
    if _is_numbered(wanted) and present["number"] is None:
        extra["number"] = _next_number(facts)
    return await amend(visit, session, present, Fields({**fields.clear, **extra}, fields.secret), key=chart.key)


async def reschedule_session(visit: Visit, episode_id: UUID, session_id: UUID, values: dict[str, Any]) -> Row:
    """Move a session that was not held to another time: its id and its record stay, and each move is kept with its reason.

    One that was missed or cancelled becomes scheduled again, and how it went stands with the move. Raises NotRescheduled.
    """
    chart = await open_chart(visit, episode_id, lock=True)
    present = await get_in_chart(visit, session, chart, session_id)
    if present["status"] == "held" or present["entered_in_error"]:
        raise NotRescheduled
    if values.get("time_zone"):
        check_time_zone(values["time_zone"])
    wanted = {**present, "starts_at": values["starts_at"], "status": "scheduled", "attendance": None}
    await _check_joint(visit, chart, wanted)
    move = {
        "from": wire_of(present["starts_at"]),
        "to": wire_of(values["starts_at"]),
        "by": values["by"],
        "attendance": present["attendance"],
        "at": wire_of(visit.now),
    }
    clear = {
        "starts_at": values["starts_at"],
        "status": "scheduled",
        "attendance": None,
        "time_zone": values.get("time_zone") or present["time_zone"],
        "reschedules": [*(present["reschedules"] or []), move],
        "flags": _flags(chart, wanted, await session_facts(visit.connection, chart.episode_id, session_id, wanted["starts_at"])),
    }
    reason = {"reschedule_reason": values["reason"]} if values.get("reason") else {}
    return await amend(visit, session, present, Fields(clear, reason), key=chart.key)


def _is_numbered(values: dict[str, Any]) -> bool:
    return values["status"] == "held" and (values.get("kind") or "course") in NUMBERED and not values.get("entered_in_error")


def _next_number(facts: Row) -> int:
    return (facts["last_number"] or 0) + 1


async def _check_joint(visit: Visit, chart: Chart, values: dict[str, Any]) -> None:
    if values.get("joint_relationship_id") is not None:
        await check_relationships_known(visit, chart, [values["joint_relationship_id"]])


def _check_codes(values: dict[str, Any]) -> None:
    check_techniques([t["code"] for t in values["techniques"]])
    check_strategies(values["strategies"], AREAS)
    if values.get("time_zone"):
        check_time_zone(values["time_zone"])


def _flags(chart: Chart, values: dict[str, Any], facts: Row) -> list[str]:
    """Return what is unusual about it: recorded, never refused. Only a joint session that is planned can be barred."""
    on = today_of(chart.episode["time_zone"], values["starts_at"])
    own = {s for area in values["focus_areas"] for s in ruleset().area(area).strategies}
    flags = flags_of(values, on, chart.episode["referred_on"], facts["ends_on"], own)
    return flags + _safety_flags(values, set(facts["marked"] or ()))


def _safety_flags(values: dict[str, Any], marked: set[UUID]) -> list[str]:
    """Return what a safety mark has to say. Raises JointSessionBarred for a planned session with that person, or with nobody named."""
    if not marked:
        return []
    flags = []
    together = values.get("joint_relationship_id")
    joint = any(t["code"] == "joint_session" for t in values["techniques"])
    if together in marked or (joint and together is None):
        if values["status"] == "scheduled" and not values.get("entered_in_error"):
            raise JointSessionBarred
        flags.append("joint_session_with_safety_mark")
    if set(values["strategies"]) & DISPUTE_STRATEGIES:
        flags.append("dispute_strategy_beside_safety_mark")
    return flags
