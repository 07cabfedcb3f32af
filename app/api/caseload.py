"""What concerns a whole caseload: settings, own protocols, transfer, duplicate registrations, export on exit."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Response
from pydantic import Field

from app.actions.caseload import (
    amend_settings,
    duplicates_of,
    merge_duplicate,
    page_of_charts,
    read_settings,
    register_protocol,
    split_duplicate,
    transfer_caseload,
)
from app.actions.people import check_backend
from app.actions.visit import public
from app.api.catalogue import ProtocolOut
from app.api.pages import Cursor, Limit
from app.api.people import PatientOut
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Flag, In, Kept, Line, Moment, Out, Prose, Whole
from app.domain.errors import NotFound
from app.domain.protection import RIGHTS, YEARS_KEPT_MAX, YEARS_KEPT_MIN
from app.domain.protocols import common_tasks, protocol_from
from app.store.database import Row
from app.store.rows import find_row, rows_of
from app.store.tables.caseload import partner_protocol

router = Router(prefix="/v1", route_class=Route, tags=["caseload"])

LanguageCode = Annotated[str, Field(pattern=r"^(default|[a-z]{2,3}(-[A-Z]{2})?)$")]


class RetentionIn(In):
    """How long records are kept."""

    years: Annotated[Whole, Field(ge=YEARS_KEPT_MIN, le=YEARS_KEPT_MAX)] = Field(description="After the last course ended")
    minors_until_age: Annotated[Whole, Field(ge=18, le=40)] | None = Field(None, description="And not before the patient has reached this age")
    erase: Flag = Field(False, description="true: the worker erases what is due; false: it is only listed in /v1/retention/due")


class SettingsPatch(In):
    """What may change about a partner."""

    risk_responder: Line = Field("", description="The duty contact for risk alerts: no risk item is collected without one")
    secondary_responder: Line | None = Field(None, description="Who is told when nobody acknowledges in time")
    crisis_text: Annotated[dict[LanguageCode, Prose], Field(max_length=60)] = Field({}, description="By language, and `default`")
    classifier_on: Flag = True
    retention: RetentionIn | None = Field(None, description="How long records are kept; null: nothing is ever due")
    consent_age: Annotated[Whole, Field(ge=10, le=21)] | None = Field(
        None, description="Below this age a guardian decides on consent; null: 16 (GDPR Art. 8)"
    )


class SettingsOut(Out):
    """The partner's settings."""

    risk_responder: str | None
    secondary_responder: str | None
    crisis_text: dict[str, str]
    classifier_on: bool
    retention: RetentionIn | None = None
    consent_age: int | None = None
    version: int
    created_at: Moment
    updated_at: Moment


@router.get("/settings", response_model=SettingsOut)
async def read_partner_settings(call: Annotated[Call, needs("settings:read")]) -> Row:
    """Read whom alerts go to, the crisis texts, and whether the classifier is on."""
    return call.stored(await read_settings(call.visit))


@router.patch("/settings", response_model=SettingsOut)
async def update_partner_settings(call: Annotated[Call, needs("settings:write")], patch: SettingsPatch) -> Row:
    """Change the settings. With the classifier off, clinicians decide the focus without it."""
    return call.stored(await amend_settings(call.visit, patch.sent()))


class ProtocolIn(In):
    """A protocol of the partner's own, in the shape of the catalogue's; faults come back with pointers into `definition`'s members."""

    definition: dict[str, Any] = Field(
        examples=[
            {
                "code": "ACME-IPT-10",
                "name": "Ten sessions at Acme",
                "format": "individual",
                "population": "Adults with depression",
                "age_min": 18,
                "age_max": 120,
                "specialist": True,
                "four_areas": True,
                "sessions_min": 10,
                "sessions_max": 10,
                "weeks_min": 10,
                "weeks_max": 12,
                "minutes": 50,
                "initial_sessions_min": 2,
                "initial_sessions_max": 2,
                "middle_sessions_min": 6,
                "termination_weeks": 2,
                "boundaries": {"initial": [1, 2], "middle": [3, 8], "termination": [9, 10]},
                "instruments": [{"code": "PHQ-9", "due": "every_session"}],
                "sources": [{"figure": "ten sessions", "mark": "own_design", "source": "Acme's clinical lead"}],
            }
        ]
    )


class OwnProtocolOut(Kept):
    """A protocol of the partner's own. A change is a new version: a running episode keeps the one it began with."""

    code: str
    protocol_version: int
    protocol: ProtocolOut


class OwnProtocolList(Out):
    """The partner's own protocols, every version."""

    items: list[OwnProtocolOut]


def _own(row: Row) -> Row:
    return {**row, "protocol": protocol_from(row["definition"], common_tasks(), origin="partner")}


def _shown(row: Row) -> Row:
    built = _own(row)
    members = {name: getattr(built["protocol"], name) for name in ProtocolOut.model_fields}
    members["tasks"] = [{n: getattr(t, n) for n in t.__slots__} for t in members["tasks"]]
    members["instruments"] = [{n: getattr(i, n) for n in i.__slots__} for i in members["instruments"]]
    members["sources"] = [{n: getattr(s, n) for n in s.__slots__} for s in members["sources"]]
    return {**row, "protocol": members}


@router.post("/partner-protocols", status_code=201, response_model=OwnProtocolOut)
async def create_partner_protocol(call: Annotated[Call, needs("settings:write")], protocol_in: ProtocolIn) -> Row:
    """Register a protocol of your own, checked by the same rules as the catalogue's. A code used before makes its next version."""
    return _shown(call.made(await register_protocol(call.visit, protocol_in.definition), "/v1/partner-protocols/{id}"))


@router.get("/partner-protocols", response_model=OwnProtocolList)
async def list_partner_protocols(call: Annotated[Call, needs("settings:read")]) -> Row:
    """List your own protocols."""
    rows = await rows_of(call.visit.connection, partner_protocol, "code", "protocol_version")
    call.saw(rows, "partner_protocol")
    return {"items": [_shown(public(r)) for r in rows]}


@router.get("/partner-protocols/{partner_protocol_id}", response_model=OwnProtocolOut)
async def read_partner_protocol(call: Annotated[Call, needs("settings:read")], partner_protocol_id: UUID) -> Row:
    """Read one version of a protocol of your own."""
    row = await find_row(call.visit.connection, partner_protocol, id=partner_protocol_id)
    if row is None:
        raise NotFound
    return _shown(call.stored(public(row)))


class TransferIn(In):
    """To whom, and which courses (all open ones, when left out)."""

    to_clinician_id: UUID
    episode_ids: Annotated[list[UUID], Field(min_length=1, max_length=200)] | None = None


class TransferOut(Out):
    """What was handed over; `left` more remain: send it again."""

    from_clinician_id: UUID
    to_clinician_id: UUID
    episode_ids: list[UUID]
    left: int


@router.post("/clinicians/{clinician_id}/transfer", response_model=TransferOut)
async def transfer_courses(call: Annotated[Call, needs("episodes:write", use=RIGHTS)], clinician_id: UUID, transfer_in: TransferIn) -> Row:
    """Hand a clinician's open courses to another, each with the role held in it: for an absence, or for good."""
    return await transfer_caseload(call.visit, clinician_id, transfer_in.members())


class DuplicateIn(In):
    """Another registration of the same person."""

    patient_id: UUID


class DuplicateList(Out):
    """Registrations that were found to be this patient's."""

    items: list[PatientOut]


@router.post("/patients/{patient_id}/duplicates", status_code=200, response_model=PatientOut)
async def create_duplicate(call: Annotated[Call, needs("patients:write", use=RIGHTS)], patient_id: UUID, duplicate_in: DuplicateIn) -> Row:
    """Say that another registration is this person: its courses and consents count as this patient's. It can be taken back."""
    return call.stored(await merge_duplicate(call.visit, patient_id, duplicate_in.patient_id))


@router.get("/patients/{patient_id}/duplicates", response_model=DuplicateList)
async def list_duplicates(call: Annotated[Call, needs("patients:read", use=RIGHTS)], patient_id: UUID) -> Row:
    """List the duplicate registrations of a patient."""
    return {"items": await duplicates_of(call.visit, patient_id)}


@router.delete("/patients/{patient_id}/duplicates/{duplicate_id}", status_code=204)
async def delete_duplicate(call: Annotated[Call, needs("patients:write", use=RIGHTS)], patient_id: UUID, duplicate_id: UUID) -> Response:
    """Take a merge back: they were two people. If-Match takes the duplicate's ETag."""
    await split_duplicate(call.visit, patient_id, duplicate_id)
    return Response(status_code=204)


class ChartPage(Out):
    """A page of whole charts, table by table."""

    items: list[dict[str, Any]]
    next: str | None


@router.get("/exports/charts", response_model=ChartPage)
async def export_charts(
    call: Annotated[Call, needs("exports:read", use=RIGHTS)], limit: Annotated[Limit, Field(le=50)] = 20, cursor: Cursor = None
) -> Row:
    """Take out the whole caseload, patient by patient, with everything held of each. Psychotherapy notes need notes:read beside."""
    check_backend(call.visit)
    pager = call.pager(limit, cursor)
    rows = await page_of_charts(call.visit, pager.after, limit, with_notes="notes:read" in call.visit.caller.scopes)
    items, following = pager.cut(rows, "id")
    return {"items": items, "next": following}
