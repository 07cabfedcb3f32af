"""The worklist: everything owed now, most urgent first, in one course or over a caseload."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from app.actions.due import due_of, due_over_caseload, due_row
from app.actions.visit import open_chart
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Moment, Out
from app.store.database import Row

router = Router(prefix="/v1", route_class=Route, tags=["due"])

Kind = Literal["alert", "review", "session", "request", "measure", "follow_up", "homework", "task", "proposal", "question"]


class DueOut(Out):
    """Something that is owed. Nothing of it is applied by itself."""

    kind: Kind
    code: str = Field(examples=["PHQ-9"])
    title: str
    urgency: Literal["overdue", "now", "soon"]
    due_at: Moment | None
    resource: str | None = Field(examples=["risk_alert/0190..."], description="What it is about, as kind/id")
    episode_id: UUID
    patient_id: UUID


class DueList(Out):
    """The worklist of a course: alerts first, then by urgency."""

    items: list[DueOut]


class DuePage(Out):
    """The worklist over a page of courses: `limit` counts courses, the items of a page are in order."""

    items: list[DueOut]
    next: str | None


@router.get("/episodes/{episode_id}/due", response_model=DueList)
async def read_due(call: Annotated[Call, needs("episodes:read", "risk:read")], episode_id: UUID) -> Row:
    """Read everything owed now in a course: alerts, reviews, sessions, requests, measures, follow-ups, homework, tasks, proposals, questions."""
    call.of_this_moment = True
    chart = await open_chart(call.visit, episode_id)
    return {"items": [due_row(item, chart) for item in await due_of(call.visit, episode_id)]}


@router.get("/due", response_model=DuePage)
async def list_due(
    call: Annotated[Call, needs("episodes:read", "risk:read")],
    clinician_id: UUID | None = None,
    patient_id: UUID | None = None,
    kind: Kind | None = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Row:
    """List what is owed over the caseload. A page holds `limit` courses with all their items, most urgent first within the page."""
    call.of_this_moment = True
    filters = {"clinician_id": clinician_id, "patient_id": patient_id, "kind": kind}
    pager = call.pager(limit, cursor, filters)
    items, charts = await due_over_caseload(call.visit, filters, pager.after, limit)
    _, following = pager.cut(charts, "id")
    return {"items": items, "next": following}
