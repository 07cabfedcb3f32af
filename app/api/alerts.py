"""Risk alerts: seen, acknowledged, closed. Only a clinician closes one; the service never says that there is no risk."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from app.actions.alerts import acknowledge_alert, close_alert, get_alert
from app.actions.visit import public
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.shapes import In, InChart, Moment, Out, Prose
from app.domain.risk import LATE_AFTER
from app.store.database import Row
from app.store.work import page_alerts

router = APIRouter(prefix="/v1", route_class=Route, tags=["risk"])

AlertStatus = Literal["open", "acknowledged", "closed"]


class AlertOut(InChart):
    """A risk alert. `triggers` lists every answer that raised it."""

    kind: Literal["self_harm", "safeguarding"]
    level: Literal["review", "urgent", "emergency"]
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
    closing_note: str | None = None
    acknowledgement_note: str | None = None


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


class AlertPage(Out):
    """A page of alerts, in the order of their opening."""

    items: list[AlertSummary]
    next: str | None


@router.get("/risk-alerts", response_model=AlertPage)
async def list_risk_alerts(
    call: Annotated[Call, needs("risk:read")],
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
async def read_risk_alert(call: Annotated[Call, needs("risk:read")], alert_id: UUID) -> Row:
    """Read an alert."""
    return call.stored(await get_alert(call.visit, alert_id))


class AcknowledgementIn(In):
    """That a clinician has seen it."""

    acknowledgement_note: Prose | None = None


@router.post("/risk-alerts/{alert_id}/acknowledgements", status_code=201, response_model=AlertOut)
async def acknowledge_risk_alert(call: Annotated[Call, needs("risk:write")], alert_id: UUID, acknowledgement_in: AcknowledgementIn) -> Row:
    """Say that you have seen it. Needs a token that acts for a clinician."""
    return call.made(await acknowledge_alert(call.visit, alert_id, acknowledgement_in.sent()))


class ClosureIn(In):
    """What was done about it."""

    closing_note: Prose


@router.post("/risk-alerts/{alert_id}/closure", status_code=201, response_model=AlertOut)
async def close_risk_alert(call: Annotated[Call, needs("risk:write")], alert_id: UUID, closure_in: ClosureIn) -> Row:
    """Close it with a note, as a clinician of the care team. Closing says what was done, never that there is no risk."""
    return call.made(await close_alert(call.visit, alert_id, closure_in.sent()))
