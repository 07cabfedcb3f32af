"""What protects patients: restriction, legal hold, export and erasure; emergency access and its review; retention."""

from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import Query
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.actions.protection import (
    list_emergencies,
    open_in_emergency,
    order_erasure,
    protect,
    read_erasure,
    read_protection,
    retention_due,
    review_emergency,
)
from app.actions.subject import subject_export
from app.api.outcome import STILL
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Flag, In, Kept, Moment, Out, Prose, Reference, Text
from app.domain.protection import RIGHTS, SHORTEST_REASON
from app.render.record import record_as_html
from app.store.database import Row

router = Router(prefix="/v1", route_class=Route, tags=["protection"])

Restriction = Literal["accuracy_contested", "processing_unlawful", "needed_for_claims", "objection_pending"]
Finding = Literal["justified", "not_justified"]


class ProtectionIn(In):
    """What stands over a patient's record."""

    restricted_because: Restriction | None = Field(
        description="GDPR Art. 18(1) a to d; null lifts the restriction. While it stands, only alerts of risk, emergency access and the person's rights go on"
    )
    legal_hold: Flag = Field(description="true: the record must not be erased")


class ProtectionOut(Kept):
    """What stands over a patient's record. Its ETag is the patient's."""

    restricted_because: Restriction | None
    legal_hold: bool


@router.get("/patients/{patient_id}/protection", response_model=ProtectionOut)
async def read_patient_protection(call: Annotated[Call, needs("patients:read", use=RIGHTS)], patient_id: UUID) -> Row:
    """Read whether processing is restricted, and whether the record is under a legal hold."""
    return call.stored(await read_protection(call.visit, patient_id))


@router.put("/patients/{patient_id}/protection", response_model=ProtectionOut)
async def write_protection(call: Annotated[Call, needs("rights:write", use=RIGHTS)], patient_id: UUID, protection_in: ProtectionIn) -> Row:
    """Restrict processing or lift that, set or lift a legal hold. Phones of the care team forget a restricted chart, and get it back."""
    return call.stored(await protect(call.visit, patient_id, protection_in.members()))


class ErasureIn(In):
    """Who wants the record erased."""

    requested_by: Literal["patient", "guardian", "partner"]


class ErasureOut(Kept):
    """The certificate of an erasure. It names nobody: the patient's id leads nowhere any more."""

    patient_id: UUID
    requested_by: Literal["patient", "guardian", "partner", "retention"]
    ordered_by: str = Field(description="The client that ordered it")
    key_destroyed_at: Moment = Field(description="From this moment on nothing of the person can be read, by nobody")
    rows_erased_at: Moment | None = Field(description="Set once the rows are gone, too; seconds later")
    counts: dict[str, int] = Field(description="How many rows of each table are gone; `change`: states of the feed that were blanked")


@router.post("/patients/{patient_id}/erasure", status_code=201, response_model=ErasureOut)
async def erase_patient(call: Annotated[Call, needs("rights:write", use=RIGHTS)], patient_id: UUID, erasure_in: ErasureIn) -> Row:
    """Erase a person, with every registration of theirs. There is no way back.

    The key is destroyed in this request; the rows, kept answers, edits of phones and states of the feed go within seconds. The feed
    tells every row as deleted. A legal hold refuses it (409).
    """
    return call.made(await order_erasure(call.visit, patient_id, erasure_in.requested_by, call.house.erasures), f"/v1/patients/{patient_id}/erasure")


@router.get("/patients/{patient_id}/erasure", response_model=ErasureOut)
async def read_certificate(call: Annotated[Call, needs("patients:read", use=RIGHTS)], patient_id: UUID) -> Row:
    """Read the certificate of an erasure."""
    return call.stored(await read_erasure(call.visit, patient_id))


class AccessesOf(Out):
    """Who did what to a person's record, how often, from when to when."""

    client_id: str
    person: str | None = Field(description="clinician:<id> or patient:<id>; null for the client itself")
    action: Literal["create", "read", "update", "delete", "execute"]
    emergency: bool = Field(description="By emergency access")
    refused: bool
    times: int
    first_at: Moment
    last_at: Moment


class SubjectExport(Out):
    """Everything held of a person."""

    patient_id: UUID
    made_at: Moment
    registrations: list[dict[str, Any]] = Field(description="One for each registration: table by table, and `history` with every version")
    accesses: list[AccessesOf]
    left_out: list[str] = Field(description="Tables left out: psychotherapy notes, unless the token has notes:read")


@router.post(
    "/patients/{patient_id}/export", response_model=SubjectExport, responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}}
)
async def export_patient(
    call: Annotated[Call, needs("rights:write", use=RIGHTS)],
    patient_id: UUID,
    format: Annotated[Literal["json", "html"], Query(description="json, or html for the person to read")] = "json",  # noqa: A002 - the parameter's name on the wire
) -> Response:
    """Export everything held of a person (GDPR Art. 15 and 20): every row, every version, every access to it."""
    found = await subject_export(call.visit, patient_id, with_notes="notes:read" in call.visit.caller.scopes)
    plain = orjson.loads(orjson.dumps(found, default=str))
    if format == "json":
        return Response(orjson.dumps(SubjectExport.model_validate(found).model_dump(mode="json")), media_type="application/json")
    return Response(await run_in_threadpool(record_as_html, plain), media_type="text/html", headers=STILL)


class EmergencyIn(In):
    """Why a chart must be opened now."""

    patient_id: UUID
    reason: Annotated[
        Text, Field(min_length=SHORTEST_REASON, max_length=2_000, examples=["On call: the patient's cover cannot be reached, risk tonight."])
    ]


class EmergencyOut(Kept):
    """An emergency access: sixty minutes, told at once, every access by it marked in the audit trail, reviewed afterwards."""

    patient_id: UUID
    clinician_id: UUID
    client_id: str
    reason: str | None = Field(None, description="null when the patient was erased since")
    expires_at: Moment
    status: Literal["awaiting_review", "reviewed"]
    finding: Finding | None
    reviewed_by: str | None
    reviewed_at: Moment | None
    review_note: str | None = None
    episode_ids: list[UUID] | None = Field(None, description="When it is opened: the patient's courses, the newest first. No list shows them")


class EmergencyPage(Out):
    """A page of emergency accesses, oldest first."""

    items: list[EmergencyOut]
    next: str | None


@router.post("/break-glass", status_code=201, response_model=EmergencyOut)
async def break_the_glass(call: Annotated[Call, needs("emergency:use")], emergency_in: EmergencyIn) -> Row:
    """Open a chart outside of the caseload for sixty minutes; a clinician's token only, three times a day at the most.

    The event `break_glass.created` tells the partner at once. Devices are not synchronised by it.
    """
    return call.made(await open_in_emergency(call.visit, emergency_in.patient_id, emergency_in.reason))


@router.get("/break-glass", response_model=EmergencyPage)
async def list_emergency_accesses(
    call: Annotated[Call, needs("emergency:review", use=RIGHTS)],
    status: Literal["awaiting_review", "reviewed"] | None = None,
    patient_id: UUID | None = None,
    clinician_id: UUID | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List emergency accesses; `status=awaiting_review` is the reviewer's worklist."""
    filters = {"status": status, "patient_id": patient_id, "clinician_id": clinician_id}
    pager = call.pager(limit, cursor, filters)
    items, following = pager.cut(await list_emergencies(call.visit, filters, pager.after, limit), "id")
    call.saw(items, "break_glass")
    return {"items": items, "next": following}


class ReviewIn(In):
    """What the review found."""

    finding: Finding
    reviewer: Reference = Field(description="The partner's own id of the person who reviewed")
    note: Prose | None = None


@router.post("/break-glass/{break_glass_id}/review", response_model=EmergencyOut)
async def review_emergency_access(call: Annotated[Call, needs("emergency:review", use=RIGHTS)], break_glass_id: UUID, review_in: ReviewIn) -> Row:
    """Say whether an emergency access was justified. Once; it stays in the record."""
    return call.stored(await review_emergency(call.visit, break_glass_id, review_in.finding, review_in.reviewer, review_in.note))


class RetentionDue(Out):
    """A patient whose record need not be kept any longer."""

    patient_id: UUID
    ended_on: date = Field(description="The day on which the last course ended; of one who never had a course, the day of registration")
    kept_until: date
    legal_hold: bool = Field(description="true: it stays all the same")


class RetentionPage(Out):
    """A page of what is due, by patient."""

    items: list[RetentionDue]
    next: str | None


@router.get("/retention/due", response_model=RetentionPage)
async def list_retention_due(call: Annotated[Call, needs("settings:read", use=RIGHTS)], limit: Limit = 50, cursor: Cursor = None) -> Row:
    """List whose record is due under `retention` of the settings: what the worker would erase (a dry run). Nothing is changed."""
    pager = call.pager(limit, cursor)
    due = await retention_due(call.visit, pager.after[0] if pager.after else None, limit)
    items, following = pager.cut(due, "patient_id")
    call.saw([{"id": r["patient_id"]} for r in items], "patient")
    return {"items": items, "next": following}
