"""Assessment requests: one person is asked for one instrument by a time; several persons, several requests."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from app.actions.synced import is_shown
from app.actions.workflow import amend_request, request_assessment, save_draft
from app.api.alerts import AlertOut
from app.api.assessments import ItemNumber, Notice, RespondentName, Value, for_the_team, own_answers
from app.api.inventory import list_of, read_one
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Code, In, InChart, Moment, NewId, Out, Prose
from app.domain.errors import NotFound
from app.store.database import Row
from app.store.tables.workflow import assessment_request

router = Router(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["assessments"])

RequestStatus = Literal["open", "answered", "cancelled"]


class RequestIn(In):
    """Whom to ask for what, by when."""

    id: NewId = None
    instrument: Code = Field(examples=["PHQ-9"])
    respondent: RespondentName = "patient"
    due_at: Moment
    message: Prose | None = Field(None, description="What the app shows beside the form")


class RequestPatch(In):
    """Another time, or a cancellation."""

    due_at: Moment = Field(default=None, validate_default=False)  # type: ignore[assignment]
    status: Literal["open", "cancelled"] = "open"
    message: Prose | None = None


class RequestOut(InChart):
    """A request. The answer names it in `request_id`, which meets it."""

    instrument: str
    respondent: str
    due_at: Moment
    status: RequestStatus
    assessment_id: UUID | None
    requested_by: UUID | None
    message: str | None = None
    draft: dict[str, int | None] = Field({}, description="Answers saved so far; emptied when the form is sent")


class RequestPage(Out):
    """A page of requests."""

    items: list[RequestOut]
    next: str | None


class DraftIn(In):
    """A half-filled form."""

    answers: Annotated[dict[ItemNumber, Value | None], Field(max_length=99)]


class DraftSaved(RequestOut):
    """The request with its draft; and, where an answer about harm was among them, the alert that it raised and what the person must read."""

    risk_alert: AlertOut | None = None
    notice: Notice | None = None


@router.post("/assessment-requests", status_code=201, response_model=RequestOut)
async def create_assessment_request(call: Annotated[Call, needs("assessments:write")], episode_id: UUID, request_in: RequestIn) -> Row:
    """Ask a patient, parent, partner or clinician for an instrument by a time."""
    made = await request_assessment(call.visit, episode_id, request_in.members())
    return call.made(made, f"/v1/episodes/{episode_id}/assessment-requests/{{id}}")


@router.get("/assessment-requests", response_model=RequestPage)
async def list_assessment_requests(
    call: Annotated[Call, needs("assessments:read", patients=True)],
    episode_id: UUID,
    status: RequestStatus | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List the requests."""
    return await list_of(call, assessment_request, episode_id, limit, cursor, status=status, **own_answers(call.visit))


@router.get("/assessment-requests/{request_id}", response_model=RequestOut)
async def read_assessment_request(call: Annotated[Call, needs("assessments:read", patients=True)], episode_id: UUID, request_id: UUID) -> Row:
    """Read a request with its draft."""
    row = await read_one(call, assessment_request, episode_id, request_id)
    if not is_shown(call.visit.caller, "assessment_request", row):
        raise NotFound
    return row


@router.patch("/assessment-requests/{request_id}", response_model=RequestOut)
async def update_assessment_request(
    call: Annotated[Call, needs("assessments:write")], episode_id: UUID, request_id: UUID, patch: RequestPatch
) -> Row:
    """Move the time of an open request, or cancel it."""
    return call.stored(await amend_request(call.visit, episode_id, request_id, patch.sent()))


@router.put("/assessment-requests/{request_id}/draft", response_model=DraftSaved)
async def write_draft(call: Annotated[Call, needs("assessments:write", patients=True)], episode_id: UUID, request_id: UUID, draft_in: DraftIn) -> Row:
    """Save a half-filled form. An answer about harm raises its alert at once: it is not left lying in a draft.

    A draft goes by the ETag of its request (If-Match). Until the answer is complete, the alert names the request as its source.
    """
    row, alert, notice = await save_draft(call.visit, episode_id, request_id, draft_in.answers)
    call.stored(row)
    return {**row, "risk_alert": for_the_team(call.visit, alert), "notice": notice or None}
