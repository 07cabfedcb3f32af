"""The status of a course: paused, resumed, on hold for risk, taken up again, closed, reopened; and its linked continuation."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from app.actions.people import add_episode, check_lead, episode_row
from app.actions.records import Fields, Made, amend, create
from app.actions.visit import Visit, open_chart
from app.domain.errors import Conflict, Fault, Invalid
from app.domain.lifecycle import State, apply_command, check_order
from app.domain.people import today_of
from app.domain.protection import CARE, RECORD
from app.store.database import Row
from app.store.people import care_roles
from app.store.rows import rows_of
from app.store.tables.people import episode
from app.store.tables.work import risk_alert
from app.store.tables.workflow import status_change

MAINTENANCE = "IPT-M"


TAKE_UP = {"resume", "re_engage", "reopen"}  # care goes on: the others bring it to rest or to its end


class CourseNotEnded(Conflict):
    """Continuation and maintenance follow a course whose treatment has ended."""


async def change_status(visit: Visit, episode_id: UUID, command: str, values: dict[str, Any]) -> Made:
    """Give one command of the life cycle and keep who gave it, when and why. It never changes the phase.

    Raises CommandUnfit, ClinicianOnly, ReasonMissing, RecordOpen.
    """
    taking_up = command in TAKE_UP and visit.use == RECORD
    chart = await open_chart(replace(visit, use=CARE) if taking_up else visit, episode_id, lock=True)
    row = chart.episode
    occurred = values.get("occurred_at") or visit.now
    if occurred > visit.now:
        raise Invalid(faults=[Fault("/occurred_at", "lies in the future")])
    alerts = [a for a in await rows_of(visit.connection, risk_alert, episode_id=episode_id) if a["status"] != "closed"]
    before = State(row["status"], row["ended_as"], bool(row["risk_hold"]), len(alerts))
    reason = values.get("reason") or ""
    after = apply_command(command, before, reason=reason, by_clinician=visit.caller.clinician_id is not None)
    check_order(today_of(row["time_zone"], occurred), row["referred_on"])
    moved: dict[str, Any] = {"status": after.status, "ended_as": after.ended_as, "risk_hold": after.risk_hold}
    if command == "re_engage":
        moved["ended_at"] = None
    await amend(visit, episode, episode_row(row), Fields(moved), key=chart.key)
    fields = {
        "command": command,
        "from_status": before.status,
        "to_status": after.status,
        "occurred_at": occurred,
        "decided_by": visit.caller.clinician_id,
        "flags": ["with_open_alerts"] if alerts else [],
    }
    return await create(visit, status_change, Fields(fields, {"reason": reason} if reason else {}), chart=chart)


async def continue_course(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> Made:
    """Open a continuation or maintenance course as an episode of its own that names the one it follows.

    The care team's lead and cover go along unless others are named. Raises LeadDecides, CourseNotEnded, and what opening a course raises.
    """
    chart = await open_chart(visit, episode_id, lock=True)
    await check_lead(visit, episode_id)
    if chart.episode["status"] in {"referred", "active", "paused"} and chart.episode["phase"] != "termination":
        raise CourseNotEnded
    kind = values["kind"]
    code = values.get("protocol") or (MAINTENANCE if kind == "maintenance" else chart.protocol.code)
    roles = {role: clinician_id for clinician_id, role in (await care_roles(visit.connection, episode_id)).items()}
    team = {"lead": values.get("lead_clinician_id") or roles.get("lead"), "cover": values.get("cover_clinician_id") or roles.get("cover")}
    carried = {n: chart.episode[n] for n in ("illness_onset_date", "illness_onset_precision", "lifetime_episodes", "diagnoses")}
    fields = {
        **carried,
        "external_ref": values.get("external_ref"),
        "referred_on": values.get("referred_on") or chart.today,
        "age_at_referral": values.get("age_at_referral"),
        "concurrent_medication": chart.episode["concurrent_medication"],
        "contraindications": None,
        "risk_screened": False,
    }
    links = {"continues_episode_id": episode_id, "continues_as": kind}
    return await add_episode(visit, chart.patient_id, code, team, Fields(fields, id=values.get("id")), links=links, by_lead=True)


async def continuations(visit: Visit, episode_id: UUID) -> list[Row]:
    """Return the courses that follow this one, the oldest first."""
    chart = await open_chart(visit, episode_id)
    rows = await rows_of(visit.connection, episode, "created_at", continues_episode_id=chart.episode_id)
    visit.trace.resources += [f"episode/{r['id']}" for r in rows]
    return rows
