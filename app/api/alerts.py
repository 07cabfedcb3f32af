"""Risk alerts: seen, acknowledged, closed. Only a clinician closes one; the service never says that there is no risk."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from app.actions.alerts import acknowledge_alert, close_alert, find_known_stable, get_alert, raise_as_clinician
from app.actions.visit import public
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import In, InChart, Moment, Out, Prose
from app.domain.protection import SAFETY
from app.domain.risk import LATE_AFTER
from app.store.database import Row
from app.store.work import page_alerts

router = Router(prefix="/v1", route_class=Route, tags=["risk"])

AlertStatus = Literal["open", "acknowledged", "closed"]
AlertKind = Literal["self_harm", "harm_to_others", "psychosis", "safeguarding"]
AlertLevel = Literal["review", "urgent", "emergency"]


class AlertOut(InChart):
    """A risk alert. `triggers` lists every answer that raised it."""

    kind: AlertKind
    level: AlertLevel
    status: AlertStatus
    triggers: list[dict[str, Any]]
    responder: str
    secondary_responder: str | None = Field(description="Whom the platform tells when nobody acknowledges in time")
    opened_at: Moment
    due_at: Moment = Field(description="24 h for review, 4 h for urgent, at once for emergency")
    received_late_seconds: int | None = Field(description=f"Set when the answer was older than {LATE_AFTER} on receipt: not an alarm as if new")
    acknowledged_at: Moment | None
    acknowledged_by: UUID | None
    closed_at: Moment | None
    closed_by: UUID | None
    raised_by: UUID | None = None
    known_stable_until: Moment | None = Field(None, description="Found known and stable, its plan reviewed, until then")
    escalated_at: Moment | None = Field(None, description="When it was last told again, because nobody had acknowledged it in time")
    escalations: int | None = None
    concern_note: str | None = None
    closing_note: str | None = None
    acknowledgement_note: str | None = None
    standing_note: str | None = None


class AlertSummary(InChart):
    """A risk alert in a list, without its notes."""

    kind: str
    level: str
    status: AlertStatus
    triggers: list[dict[str, Any]]
    responder: str
    opened_at: Moment
    due_at: Moment
    received_late_seconds: int | None
    acknowledged_at: Moment | None
    closed_at: Moment | None
    escalated_at: Moment | None
    escalations: int | None
    known_stable_until: Moment | None


class AlertPage(Out):
    """A page of alerts, in the order of their opening."""

    items: list[AlertSummary]
    next: str | None


@router.get("/risk-alerts", response_model=AlertPage)
async def list_risk_alerts(
    call: Annotated[Call, needs("risk:read", use=SAFETY)],
    status: AlertStatus | None = None,
    episode_id: UUID | None = None,
    patient_id: UUID | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List alerts of the caseload in the order of their opening; `due_at` says until when somebody should have looked."""
    filters = {"status": status, "episode_id": episode_id, "patient_id": patient_id}
    pager = call.pager(limit, cursor, filters, (datetime, UUID))
    rows = await page_alerts(call.visit.connection, call.visit.caller.clinician_id, filters, pager.after, limit)
    items, following = pager.cut(rows, "opened_at", "id")
    call.saw(items, "risk_alert")
    return {"items": [public(r) for r in items], "next": following}


@router.get("/risk-alerts/{alert_id}", response_model=AlertOut)
async def read_risk_alert(call: Annotated[Call, needs("risk:read", use=SAFETY)], alert_id: UUID) -> Row:
    """Read an alert."""
    return call.stored(await get_alert(call.visit, alert_id))


class AlertIn(In):
    """A clinician's concern."""

    episode_id: UUID
    kind: AlertKind | None = Field(None, description="The concern's own, when left out")
    level: AlertLevel = Field("review", examples=["emergency"], description="Raised where the concern asks for more")
    concern: Literal[
        "plan_or_intent",
        "attempt",
        "acute_suicidality",
        "thoughts_of_harming_a_baby",
        "psychosis_after_birth",
        "harm_to_others",
        "safeguarding",
        "other",
    ]
    note: Prose | None = None


@router.post("/risk-alerts", status_code=201, response_model=AlertOut)
async def create_risk_alert(call: Annotated[Call, needs("risk:write", use=SAFETY)], alert_in: AlertIn) -> Row:
    """Raise an alert, or add to the one that is open: an emergency is due at once. Needs a token that acts for a clinician."""
    values = alert_in.members()
    row = await raise_as_clinician(call.visit, values.pop("episode_id"), values)
    call.status = 201 if row["version"] == 1 else 200
    return call.stored(row)


class StandingIn(In):
    """That the risk is known and stable, and its plan was reviewed."""

    until: Moment = Field(description="At the most 28 days from now: then it is looked at anew")
    standing_note: Prose


@router.post("/risk-alerts/{alert_id}/standing", status_code=201, response_model=AlertOut)
async def find_risk_known_and_stable(call: Annotated[Call, needs("risk:write", use=SAFETY)], alert_id: UUID, standing_in: StandingIn) -> Row:
    """Record, as a clinician of the care team, that a risk is known and stable for a while. A higher answer alarms all the same."""
    values = standing_in.members()
    return call.made(await find_known_stable(call.visit, alert_id, values.pop("until"), values))


class AcknowledgementIn(In):
    """That a clinician has seen it."""

    acknowledgement_note: Prose | None = None


@router.post("/risk-alerts/{alert_id}/acknowledgements", status_code=201, response_model=AlertOut)
async def acknowledge_risk_alert(
    call: Annotated[Call, needs("risk:write", use=SAFETY)], alert_id: UUID, acknowledgement_in: AcknowledgementIn
) -> Row:
    """Say that you have seen it. Needs a token that acts for a clinician."""
    return call.made(await acknowledge_alert(call.visit, alert_id, acknowledgement_in.sent()))


class ClosureIn(In):
    """What was done about it."""

    closing_note: Prose


@router.post("/risk-alerts/{alert_id}/closure", status_code=201, response_model=AlertOut)
async def close_risk_alert(call: Annotated[Call, needs("risk:write", use=SAFETY)], alert_id: UUID, closure_in: ClosureIn) -> Row:
    """Close it with a note, as a clinician of the care team. Closing says what was done, never that there is no risk."""
    return call.made(await close_alert(call.visit, alert_id, closure_in.sent()))
