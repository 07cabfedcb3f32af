"""The audit trail: events, seals, and who read what of a patient."""

from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from uuid import UUID

import orjson
from fastapi import Query, Request
from pydantic import Field
from starlette.responses import Response

from app.actions.trail import read_accesses, read_audit_events, read_seal_keys, read_seals
from app.api.pages import Cursor
from app.api.protection import AccessesOf
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Moment, Out
from app.domain.audit import as_fhir
from app.domain.protection import RIGHTS
from app.store.database import Row

router = Router(prefix="/v1", route_class=Route, tags=["audit"])
Many = Annotated[int, Query(ge=1, le=1000)]


class AuditEventOut(Out):
    """One access, read or write, refused or not. It holds ids and codes, nothing clinical.

    Its hash under a seal is of every member but `seal` and `forged`, spelled as here: see docs/audit.md.
    """

    id: UUID
    at: Moment
    client_id: str
    person: str | None = Field(description="clinician:<id> or patient:<id>; null for the client itself")
    device_id: UUID | None
    action: Literal["create", "read", "update", "delete", "execute"]
    route: str
    outcome: int
    reason: str | None = Field(description="What refused it")
    request_id: str
    patient_id: UUID | None
    patients: list[UUID] = Field(description="Further patients of whom a list showed something")
    episode_id: UUID | None
    break_glass_id: UUID | None = Field(description="The emergency access by which the chart was open")
    resources: list[str]
    seal: int | None = Field(description="The number of the seal over it; null until it is sealed, seconds later")
    forged: bool = Field(description="true: the service did not write this row, or not so")


class AuditEventPage(Out):
    """A page of events, oldest first."""

    items: list[AuditEventOut]
    next: str | None


@router.get(
    "/audit-events",
    response_model=AuditEventPage,
    responses={200: {"content": {"application/fhir+json": {"schema": {"type": "object"}}}}},
)
async def list_audit_events(
    call: Annotated[Call, needs("audit:read", use=RIGHTS)],
    request: Request,
    patient_id: UUID | None = None,
    person: Annotated[
        str | None, Query(pattern=r"^(clinician|patient):[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", description="clinician:<id> or patient:<id>")
    ] = None,
    client_id: Annotated[str | None, Query(max_length=100, description="<partner>.<name>, or the name alone")] = None,
    request_id: Annotated[str | None, Query(max_length=64)] = None,
    seal: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    emergency: Annotated[bool | None, Query(description="true: only what emergency access opened")] = None,
    at_from: Moment | None = None,
    at_to: Moment | None = None,
    format: Annotated[Literal["json", "fhir"], Query(description="fhir: a Bundle of AuditEvent resources (R4)")] = "json",  # noqa: A002 - the parameter's name on the wire
    limit: Many = 100,
    cursor: Cursor = None,
) -> Any:
    """List who did what, reads and refusals included."""
    if client_id is not None and "." not in client_id:
        client_id = f"{call.visit.caller.partner_id}.{client_id}"
    filters: dict[str, Any] = {"patient_id": patient_id, "person": person, "client_id": client_id, "request_id": request_id, "sealed_by": seal}
    filters |= {"emergency": emergency, "at_from": at_from, "at_to": at_to}
    pager = call.pager(limit, cursor, filters | {"format": format})
    items, following = pager.cut(await read_audit_events(call.visit, filters, pager.after, limit), "id")
    if format == "json":
        return {"items": items, "next": following}
    asked = {k: v for k, v in request.query_params.items() if k != "cursor"} | {"cursor": following}
    links = [{"relation": "next", "url": f"{call.path}?{urlencode(asked)}"}] if following else []
    bundle = {"resourceType": "Bundle", "type": "collection", "link": links, "entry": [{"resource": as_fhir(e)} for e in items]}
    return Response(orjson.dumps(bundle), media_type="application/fhir+json")


class SealOut(Out):
    """A seal: the Merkle root (RFC 6962) over the events that name it, chained to the seal before it, signed."""

    number: int
    count: int
    root: str = Field(description="SHA-256, in hex")
    previous: str = Field(description="SHA-256 of the signature before it, in hex; zeros for the first")
    sealed_at: Moment
    kid: str
    signature: str = Field(description="A JWS (ES256) over partner, number, count, root, previous, sealed_at")


class SealPage(Out):
    """A page of seals, by number."""

    items: list[SealOut]
    next: str | None


@router.get("/audit/seals", response_model=SealPage)
async def list_seals(
    call: Annotated[Call, needs("audit:read", use=RIGHTS)],
    number_from: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    limit: Many = 100,
    cursor: Cursor = None,
) -> Row:
    """List the seals over your part of the trail. Keep the newest one: with it nobody can cut the trail short unseen."""
    pager = call.pager(limit, cursor, {"number_from": number_from}, kinds=(int,))
    items, following = pager.cut(await read_seals(call.visit, number_from, pager.after, limit), "number")
    return {"items": items, "next": following}


class SealKeys(Out):
    """Every key that has ever signed a seal."""

    keys: list[dict[str, str]]


@router.get("/audit/keys", response_model=SealKeys)
async def list_seal_keys(call: Annotated[Call, needs("audit:read", use=RIGHTS)]) -> Row:
    """List the public keys that seals are checked with, also those that sign no token any more."""
    return {"keys": await read_seal_keys(call.visit)}


class AccessReport(Out):
    """Who read and who wrote of a person."""

    patient_id: UUID
    items: list[AccessesOf]


@router.get("/patients/{patient_id}/access-report", response_model=AccessReport)
async def read_access_report(call: Annotated[Call, needs("audit:read", use=RIGHTS)], patient_id: UUID) -> Row:
    """Read who read what of a patient, by every registration of the person; it remains after an erasure."""
    return {"patient_id": patient_id, "items": await read_accesses(call.visit, patient_id)}
