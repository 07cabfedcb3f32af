"""Patients, consents, clinicians."""

from typing import Annotated, Literal
from uuid import UUID

import sqlalchemy as sa
from fastapi import Query
from pydantic import Field

from app.actions.people import (
    add_clinician,
    add_patient,
    amend_clinician,
    amend_patient,
    find_patients_by,
    get_clinician,
    get_patient,
    record_consent,
)
from app.actions.records import fields_for, reveal
from app.actions.visit import open_patient
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Code, Flag, In, Kept, Line, Moment, NewId, Out, Prose, Reference, Year
from app.domain.protection import RIGHTS
from app.store.database import Row
from app.store.people import page_clinicians, page_patients
from app.store.rows import own, page
from app.store.tables.people import clinician, consent, patient

router = Router(prefix="/v1", route_class=Route, tags=["people"])

Sex = Literal["female", "male", "intersex", "other", "not_recorded"]
Locale = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Z]{2})?$", examples=["en", "es-ES"])]
TimeZone = Annotated[Code, Field(examples=["Europe/Madrid"], description="IANA time zone: what 'today' means for the patient")]


class PatientIn(In):
    """A patient, pseudonymous: no name, no contact."""

    id: NewId = None
    external_ref: Reference | None = Field(None, examples=["emr-4711"])
    birth_year: Year | None = Field(None, examples=[1984])
    sex: Sex = "not_recorded"
    locale: Locale = "en"
    time_zone: TimeZone = "UTC"


class PatientPatch(In):
    """What may change about a patient."""

    external_ref: Reference | None = None
    birth_year: Year | None = None
    sex: Sex = "not_recorded"
    locale: Locale = "en"
    time_zone: TimeZone = "UTC"


class PatientOut(Kept):
    """A patient."""

    external_ref: str | None = None
    birth_year: int | None
    sex: Sex
    locale: str
    time_zone: str
    merged_into: UUID | None = Field(None, description="The registration that this one was found to be a duplicate of")
    restricted_because: str | None = Field(None, description="Set while processing is restricted (GDPR Art. 18): see /protection")
    legal_hold: bool = Field(False, description="Whether the record must not be erased")


class PatientPage(Out):
    """A page of patients."""

    items: list[PatientOut]
    next: str | None = Field(description="Give it as `cursor` for the next page; null on the last")


@router.post("/patients", status_code=201, response_model=PatientOut)
async def create_patient(call: Annotated[Call, needs("patients:write")], patient_in: PatientIn) -> Row:
    """Register a patient under a pseudonym. The patient gets a data key of its own."""
    return call.made(await add_patient(call.visit, fields_for(patient, patient_in.members())), "/v1/patients/{id}")


@router.get("/patients", response_model=PatientPage)
async def list_patients(
    call: Annotated[Call, needs("patients:read")],
    external_ref: Annotated[str | None, Query(max_length=128)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List patients; a clinician's token sees its caseload. `external_ref` looks one up."""
    pager = call.pager(limit, cursor, {"external_ref": external_ref})
    wanted = find_patients_by(call.visit, external_ref)
    rows = await page_patients(call.visit.connection, call.visit.caller.clinician_id, wanted, pager.after, limit)
    items, following = pager.cut(rows, "id")
    call.saw(items, "patient")
    return {"items": [reveal(call.visit.key_of(r), patient, r) for r in items], "next": following}


@router.get("/patients/{patient_id}", response_model=PatientOut)
async def read_patient(call: Annotated[Call, needs("patients:read", use=RIGHTS)], patient_id: UUID) -> Row:
    """Read a patient."""
    return call.stored(await get_patient(call.visit, patient_id))


@router.patch("/patients/{patient_id}", response_model=PatientOut)
async def update_patient(call: Annotated[Call, needs("patients:write", use=RIGHTS)], patient_id: UUID, patch: PatientPatch) -> Row:
    """Change what the body names; everything else stays."""
    return call.stored(await amend_patient(call.visit, patient_id, fields_for(patient, patch.sent())))


class ConsentIn(In):
    """A decision on one purpose."""

    id: NewId = None
    purpose: Literal["treatment", "research_analytics", "data_sharing", "recording"]
    given: Flag = Field(description="false withdraws")
    wording: Line = Field(examples=["treatment-consent-v3"], description="Which wording was shown: its version, not its text")
    language: Locale = "en"
    given_by: Literal["patient", "guardian"] = "patient"
    decided_at: Moment
    note: Prose | None = None


class ConsentOut(Kept):
    """A recorded decision. The newest of a purpose counts."""

    patient_id: UUID
    purpose: str
    given: bool
    wording: str
    language: str
    given_by: str
    decided_at: Moment
    note: str | None = None


class ConsentPage(Out):
    """A page of decisions, oldest first."""

    items: list[ConsentOut]
    next: str | None


@router.post("/patients/{patient_id}/consents", status_code=201, response_model=ConsentOut)
async def create_consent(call: Annotated[Call, needs("consents:write", use=RIGHTS)], patient_id: UUID, consent_in: ConsentIn) -> Row:
    """Append a decision: given or withdrawn. Nothing is overwritten."""
    return call.made(await record_consent(call.visit, patient_id, fields_for(consent, consent_in.members())))


@router.get("/patients/{patient_id}/consents", response_model=ConsentPage)
async def list_consents(call: Annotated[Call, needs("consents:read", use=RIGHTS)], patient_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """List the decisions on every purpose."""
    row, key = await open_patient(call.visit, patient_id)
    pager = call.pager(limit, cursor)
    query = sa.select(consent).where(own(call.visit.connection, consent), consent.c.patient_id == row["id"])
    items, following = pager.cut(await page(call.visit.connection, query, [consent.c.id], pager.after, limit), "id")
    call.saw(items, "consent")
    return {"items": [reveal(key, consent, r) for r in items], "next": following}


class ClinicianIn(In):
    """A clinician, by the partner's own subject id. No name."""

    id: NewId = None
    subject: Reference = Field(examples=["idp|c-102"])
    active: Flag = True


class ClinicianPatch(In):
    """What may change about a clinician."""

    subject: Reference = ""
    active: Flag = True


class ClinicianOut(Kept):
    """A clinician."""

    subject: str
    active: bool


class ClinicianPage(Out):
    """A page of clinicians."""

    items: list[ClinicianOut]
    next: str | None


@router.post("/clinicians", status_code=201, response_model=ClinicianOut)
async def create_clinician(call: Annotated[Call, needs("patients:write")], clinician_in: ClinicianIn) -> Row:
    """Register a clinician; tokens that act for them are exchanged for this id."""
    return call.made(await add_clinician(call.visit, fields_for(clinician, clinician_in.members())), "/v1/clinicians/{id}")


@router.get("/clinicians", response_model=ClinicianPage)
async def list_clinicians(
    call: Annotated[Call, needs("patients:read")],
    subject: Annotated[str | None, Query(max_length=128)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List clinicians; `subject` looks one up."""
    pager = call.pager(limit, cursor, {"subject": subject})
    items, following = pager.cut(await page_clinicians(call.visit.connection, {"subject": subject}, pager.after, limit), "id")
    call.saw(items, "clinician")
    return {"items": items, "next": following}


@router.get("/clinicians/{clinician_id}", response_model=ClinicianOut)
async def read_clinician(call: Annotated[Call, needs("patients:read")], clinician_id: UUID) -> Row:
    """Read a clinician."""
    return call.stored(await get_clinician(call.visit, clinician_id))


@router.patch("/clinicians/{clinician_id}", response_model=ClinicianOut)
async def update_clinician(call: Annotated[Call, needs("patients:write")], clinician_id: UUID, patch: ClinicianPatch) -> Row:
    """Change the subject id, or say that the clinician is no longer active: no token will act for them again."""
    return call.stored(await amend_clinician(call.visit, clinician_id, fields_for(clinician, patch.sent())))
