"""Risk alerts: opened in the transaction of what raised them, acknowledged and closed by a clinician only."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from app.actions.records import Fields, Made, amend, create, fields_for, reveal
from app.actions.visit import Chart, Visit, open_chart
from app.actions.wire import wire_of
from app.domain.errors import Fault, NotFound
from app.domain.phase import ReasonMissing
from app.domain.risk import (
    AlertAlreadyClosed,
    RiskResponderMissing,
    Trigger,
    check_standing,
    due_at,
    higher,
    is_known,
    is_overdue,
    late_by,
    of_concern,
)
from app.store.database import Row
from app.store.people import care_roles
from app.store.rows import rows_of
from app.store.tables.work import risk_alert
from app.store.work import find_alert, open_alert

LEAD_RESPONDS = "lead clinician of the episode"  # a disclosure is recorded also where no duty contact is named


def check_responder(chart: Chart) -> str:
    """Return the partner's risk responder. Raises RiskResponderMissing."""
    responder = chart.episode["risk_responder"]
    if not responder:
        raise RiskResponderMissing
    return str(responder)


async def raise_risk_alert(visit: Visit, chart: Chart, trigger: Trigger, source: Row, *, imported: bool = False) -> Row:
    """Open an alert for an answer, or append the answer to the alert that is open, raising it when it is higher.

    `source` is the assessment, or the request whose draft was saved. An imported answer is old: somebody reviews it within a day,
    nobody is woken; its own level stands in the trigger.
    """
    at = source.get("answered_at") or visit.now
    late = late_by(at, visit.now)
    what = {
        "assessment_id": str(source["id"]),
        "instrument": trigger.instrument,
        "item": trigger.item,
        "value": trigger.value,
        "level": "review" if imported and late is not None else trigger.level,
        "answer_level": trigger.level,
        "reason": trigger.reason,
        "at": wire_of(at),
    }
    return await _raise(visit, chart, "self_harm", what, late)


async def raise_safeguarding_alert(visit: Visit, chart: Chart, person: Row, *, imported: bool = False) -> Row:
    """Open or extend the alert that a safety mark on a relationship asks for. An imported mark is known already: it is reviewed within a day."""
    level = "review" if imported else "urgent"  # own design: a person at risk from another is seen the same day
    what = {"relationship_id": str(person["id"]), "safety": person["safety"], "level": level, "reason": "safety_marked", "at": wire_of(visit.now)}
    return await _raise(visit, chart, "safeguarding", what, None)


async def raise_as_clinician(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> Row:
    """Open or extend an alert because a clinician says so: also an emergency, due at once."""
    clinician_id = visit.clinician()
    chart = await open_chart(visit, episode_id, lock=True)
    kind, level = of_concern(values["concern"], values.get("kind"), values["level"])
    what = {"clinician_id": str(clinician_id), "level": level, "reason": values["concern"], "at": wire_of(visit.now)}
    return await _raise(visit, chart, kind, what, None, raised_by=clinician_id, note=values.get("note"))


async def _raise(
    visit: Visit, chart: Chart, kind: str, what: dict[str, Any], late: timedelta | None, *, raised_by: UUID | None = None, note: str | None = None
) -> Row:
    """Open an alert, or append to the one that is open.

    A fresh answer always calls for eyes: it reopens what was acknowledged and is due by its own level. A late one never
    alarms as if new: at or below the present level it is only appended, with its lateness, unless it was given after somebody last looked.
    Neither does the same answer, no higher than before, that a clinician found known and stable, while that finding stands.
    """
    found = await open_alert(visit.connection, chart.episode_id, kind)
    seconds = None if late is None else int(late.total_seconds())
    level, what = what["level"], what | {"received_late_seconds": seconds}
    noted = {"concern_note": note} if note else {}
    if found is None:
        fields = {
            "kind": kind,
            "level": level,
            "status": "open",
            "triggers": [what],
            "responder": chart.episode["risk_responder"] or LEAD_RESPONDS,
            "secondary_responder": chart.episode["secondary_responder"],
            "opened_at": visit.now,
            "due_at": due_at(level, visit.now, late),
            "received_late_seconds": seconds,
            "raised_by": raised_by,
        }
        return (await create(visit, risk_alert, Fields(fields, noted), chart=chart)).row
    present = reveal(chart.key, risk_alert, found)
    changed: dict[str, Any] = {"triggers": [*present["triggers"], what], "level": higher(present["level"], level)}
    raised = changed["level"] != present["level"]
    stands = present["known_stable_until"] is not None and present["known_stable_until"] > visit.now
    known = stands and is_known(present["triggers"], what)
    unseen = present["acknowledged_at"] is not None and what["at"] > wire_of(present["acknowledged_at"])
    if late is None:
        changed["received_late_seconds"] = None
    if raised or ((late is None or unseen) and not known):
        changed |= _reopened(present, due_at(level, visit.now, late))
    return await amend(visit, risk_alert, present, Fields(changed, noted), key=chart.key)


def _reopened(present: Row, due: datetime) -> dict[str, Any]:
    """Return what makes somebody look again: an acknowledged alert opens anew, an open one is due no later."""
    if present["status"] == "acknowledged":
        return {"status": "open", "acknowledged_at": None, "acknowledged_by": None, "due_at": due, "known_stable_until": None, "escalated_at": None}
    return {"due_at": min(present["due_at"], due)}


async def alert_of(visit: Visit, chart: Chart, assessment_id: UUID) -> Row | None:
    """Return the alert that an assessment raised or extended, or None."""
    rows = await rows_of(visit.connection, risk_alert, "opened_at", episode_id=chart.episode_id)
    named = [r for r in rows if any(t.get("assessment_id") == str(assessment_id) for t in r["triggers"])]
    return reveal(chart.key, risk_alert, named[-1]) if named else None


async def get_alert(visit: Visit, alert_id: UUID) -> Row:
    """Return an alert of the caseload. Raises NotFound."""
    found = await find_alert(visit.connection, alert_id, visit.caller.clinician_id)
    if found is None:
        raise NotFound
    chart = await open_chart(visit, found["episode_id"])
    visit.trace.resources.append(f"risk_alert/{alert_id}")
    return reveal(chart.key, risk_alert, found)


async def acknowledge_alert(visit: Visit, alert_id: UUID, values: dict[str, Any]) -> Made:
    """Say that a clinician has seen the alert. It stays open until it is closed."""
    clinician_id = visit.clinician()
    chart, present = await _open_alert(visit, alert_id)
    if present["status"] == "acknowledged":
        return Made(present, new=False)
    seen = {"status": "acknowledged", "acknowledged_at": visit.now, "acknowledged_by": clinician_id}
    row = await amend(visit, risk_alert, present, Fields(seen, fields_for(risk_alert, values).secret), key=chart.key)
    return Made(row, new=True)


async def close_alert(visit: Visit, alert_id: UUID, values: dict[str, Any]) -> Made:
    """Close an alert with a note, as a clinician of the care team. Closing says what was done, never that risk is gone."""
    clinician_id = visit.clinician()
    chart, present = await _open_alert(visit, alert_id)
    if clinician_id not in await care_roles(visit.connection, chart.episode_id):
        raise NotFound
    if not str(values.get("closing_note", "")).strip():
        raise ReasonMissing(faults=[Fault("/closing_note", "say what was done")])
    closed = {"status": "closed", "closed_at": visit.now, "closed_by": clinician_id}
    row = await amend(visit, risk_alert, present, Fields(closed, fields_for(risk_alert, values).secret), key=chart.key)
    return Made(row, new=True)


async def find_known_stable(visit: Visit, alert_id: UUID, until: datetime, values: dict[str, Any]) -> Made:
    """Record that the risk is known and stable and its plan reviewed, until a day within four weeks: then it is looked at anew.

    It acknowledges the alert; answers at or below its level are appended without a new alarm while it stands. Raises StandingTooLong.
    """
    clinician_id = visit.clinician()
    chart, present = await _open_alert(visit, alert_id)
    check_standing(until, visit.now, present["level"])
    if clinician_id not in await care_roles(visit.connection, chart.episode_id):
        raise NotFound
    seen = {"status": "acknowledged", "acknowledged_at": visit.now, "acknowledged_by": clinician_id, "known_stable_until": until, "due_at": until}
    row = await amend(visit, risk_alert, present, Fields(seen, fields_for(risk_alert, values).secret), key=chart.key)
    return Made(row, new=True)


async def escalate_alert(visit: Visit, alert_id: UUID, episode_id: UUID) -> bool:
    """Tell an alert again that nobody acknowledged in time, or reopen it when its finding of stable risk has run out; False when neither holds.

    Run by the worker, each alert in a transaction of its own; the telling goes through the change feed.
    """
    chart = await open_chart(visit, episode_id, lock=True)
    present = await find_alert(visit.connection, alert_id, None)
    changed = {} if present is None else _escalation(present, visit.now)
    if present is None or not changed:
        return False
    await amend(visit, risk_alert, reveal(chart.key, risk_alert, present), Fields(changed), key=chart.key)
    return True


def _escalation(row: Row, now: datetime) -> dict[str, Any]:
    """Return what an escalation changes in an alert; nothing when it is not overdue."""
    if row["status"] == "acknowledged" and row["known_stable_until"] is not None and row["known_stable_until"] <= now:
        return _reopened(row, due_at(row["level"], now))
    if is_overdue(row["status"], row["due_at"], row["escalated_at"], row["level"], now):
        return {"escalated_at": now, "escalations": (row["escalations"] or 0) + 1}
    return {}


async def _open_alert(visit: Visit, alert_id: UUID) -> tuple[Chart, Row]:
    """Return the alert under its chart's lock. Raises NotFound, AlertAlreadyClosed."""
    found = await find_alert(visit.connection, alert_id, visit.caller.clinician_id)
    if found is None:
        raise NotFound
    chart = await open_chart(visit, found["episode_id"], lock=True)
    present = await find_alert(visit.connection, alert_id, visit.caller.clinician_id)
    if present is None:
        raise NotFound
    if present["status"] == "closed":
        raise AlertAlreadyClosed
    return chart, reveal(chart.key, risk_alert, present)
