"""Extracts of de-identified records: ordered under an agreement, approved by two people, fetched once."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from app.actions.extracts import (
    APPROVALS_NEEDED,
    approve_extract,
    cancel_extract,
    fetch_file,
    list_awaiting,
    list_extracts,
    make_link,
    order_extract,
    read_extract,
)
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Code, In, Moment, Out
from app.domain.quarters import quarter_from
from app.store.database import Row

router = Router(prefix="/v1/outcomes/extracts", route_class=Route, tags=["outcomes"])
Period = Annotated[str, Field(max_length=10, examples=["2025Q1"], description="A frozen quarter; safe_harbor takes whole calendar years")]


class ExtractIn(In):
    """What is wanted, for what, and under which agreement."""

    period_from: Period
    period_to: Period
    profile: Literal["safe_harbor", "expert"] = Field("safe_harbor", description="45 CFR 164.514(b)(2), or (b)(1) with a determination")
    formats: Annotated[list[Literal["parquet", "ndjson", "csv"]], Field(min_length=1, max_length=3)] = Field(["parquet"])
    purpose: Literal["service_evaluation", "quality_improvement", "research", "commissioning"]
    agreement_id: Code = Field(description="Your id of the data-use agreement")
    determination_id: Code | None = Field(None, description="Your id of the expert's determination; `expert` needs one")


class ApprovalOut(Out):
    """Who approved, and when."""

    clinician_id: UUID
    client_id: str
    at: Moment


class ExtractOut(Out):
    """An extract and where it stands."""

    id: UUID
    client_id: str
    status: str = Field(description="awaiting_approval, ordered, ready, failed, cancelled, expired")
    profile: str
    order: dict[str, Any]
    approvals: list[ApprovalOut]
    approvals_needed: int = APPROVALS_NEEDED
    failure: str | None = Field(description="The type of the problem when it failed; see /problems/k-unreachable")
    manifest: dict[str, Any] | None
    ordered_at: Moment
    decided_at: Moment | None
    ready_at: Moment | None
    expires_at: Moment | None


class ExtractPage(Out):
    """A page of extracts, by id."""

    items: list[ExtractOut]
    next: str | None


class LinkOut(Out):
    """A link that opens the file once, with a token of the same client."""

    url: str | None = Field(description="null in the repeat of an answer: make a new one")
    expires_at: Moment


@router.post("", status_code=201, response_model=ExtractOut)
async def order_outcome_extract(call: Annotated[Call, needs("outcomes:extract")], extract_in: ExtractIn) -> Row:
    """Order an extract. Two different people must approve it before anything is made."""
    asked = extract_in.members()
    first, last = quarter_from(asked.pop("period_from"), "/period_from"), quarter_from(asked.pop("period_to"), "/period_to")
    made = await order_extract(call.visit, first, last, asked | {"formats": sorted(set(asked["formats"]))})
    call.headers["Location"] = f"/v1/outcomes/extracts/{made['id']}"
    return made


@router.get("", response_model=ExtractPage)
async def list_outcome_extracts(
    call: Annotated[Call, needs("outcomes:extract")],
    status: Literal["awaiting_approval", "ordered", "ready", "failed", "cancelled", "expired"] | None = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Row:
    """List the extracts that this client has ordered."""
    pager = call.pager(limit, cursor, {"status": status})
    items, following = pager.cut(await list_extracts(call.visit, status, pager.after, limit), "id")
    call.of_this_moment = True
    return {"items": items, "next": following}


@router.get("/awaiting-approval", response_model=ExtractPage)
async def list_awaiting_extracts(call: Annotated[Call, needs("outcomes:approve")], limit: Limit = 100, cursor: Cursor = None) -> Row:
    """List the partner's extracts that wait for approval. Needs a token that acts for a clinician."""
    pager = call.pager(limit, cursor)
    items, following = pager.cut(await list_awaiting(call.visit, pager.after, limit), "id")
    call.of_this_moment = True
    return {"items": items, "next": following}


@router.get("/{extract_id}", response_model=ExtractOut)
async def read_outcome_extract(call: Annotated[Call, needs("outcomes:extract")], extract_id: UUID) -> Row:
    """Read where an extract stands, and its manifest once it is ready."""
    call.of_this_moment = True
    return await read_extract(call.visit, extract_id)


@router.post("/{extract_id}/approvals", status_code=201, response_model=ExtractOut)
async def approve_outcome_extract(call: Annotated[Call, needs("outcomes:approve")], extract_id: UUID) -> Row:
    """Approve an extract as a person, through another app than the one that ordered it: it is made once a second person has approved, too."""
    return await approve_extract(call.visit, extract_id)


@router.post("/{extract_id}/cancellation", response_model=ExtractOut)
async def cancel_outcome_extract(call: Annotated[Call, needs("outcomes:extract")], extract_id: UUID) -> Row:
    """Cancel an extract: nothing more is made or handed out, and its file goes."""
    return await cancel_extract(call.visit, extract_id)


@router.post("/{extract_id}/links", status_code=201, response_model=LinkOut)
async def make_extract_link(call: Annotated[Call, needs("outcomes:extract")], extract_id: UUID) -> Row:
    """Make a link that opens the file once, within the 24 hours that it is kept, with a token of this client. Was the reply lost: make another."""
    ticket, expires_at = await make_link(call.visit, extract_id)
    call.shown_once = ("url",)
    return {"url": f"/v1/outcomes/extracts/{extract_id}/file?ticket={ticket}", "expires_at": expires_at}


@router.get(
    "/{extract_id}/file",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def fetch_extract_file(
    call: Annotated[Call, needs("outcomes:extract")], extract_id: UUID, ticket: Annotated[str, Query(min_length=43, max_length=43)]
) -> Response:
    """Fetch the archive (ZIP): the data in each format, and manifest.json. The link is used up."""
    call.of_this_moment = True
    data = await fetch_file(call.visit, extract_id, ticket)
    return Response(data, media_type="application/octet-stream", headers={"Content-Disposition": f'attachment; filename="extract-{extract_id}.zip"'})
