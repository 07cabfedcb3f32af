"""The daily work around sessions: notes, addenda, analyses, change attempts, homework, medication, requests for answers."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.actions.alerts import check_responder, raise_risk_alert
from app.actions.inventory import check_relationships_known
from app.actions.records import Fields, Made, amend, create, fields_for, find_one, get_in_chart
from app.actions.scoring import check_respondent, checked_instrument, notice_of
from app.actions.visit import Chart, Visit, open_chart
from app.domain.errors import Fault, Invalid, NotFound
from app.domain.people import check_not_future
from app.domain.risk import trigger_of
from app.domain.scoring import score
from app.domain.workflow import NoteOfAnother, NoteSigned, RequestDone, check_analysis, check_medication
from app.store.database import Row
from app.store.rows import find_row
from app.store.tables.inventory import problem
from app.store.tables.work import assessment, session
from app.store.tables.workflow import addendum, analysis, assessment_request, change_attempt, homework, medication, session_note
from app.store.work import open_alert

SUBJECTS = {"session": session, "assessment": assessment, "note": session_note}
PATIENTS_FIELDS = {"status", "outcome"}
DAYS = {change_attempt: "tried_on", analysis: "took_place_on", medication: "started_on", homework: "agreed_on"}


class PatientsReportOnly(Invalid):
    """A patient says how homework went; what was agreed is changed by the clinician."""


async def add_record(visit: Visit, table: sa.Table, episode_id: UUID, values: dict[str, Any]) -> Made:
    """Add a change attempt, an analysis, a medication or homework to the chart. Raises NotFound for what it cites."""
    chart = await open_chart(visit, episode_id, lock=True)
    await _check(visit, chart, table, values)
    fields = fields_for(table, values)
    derived = {"entered_in_error": False} if "entered_in_error" in table.c else {}
    return await create(visit, table, Fields(fields.clear, fields.secret, fields.id, derived), chart=chart)


async def amend_record(visit: Visit, table: sa.Table, episode_id: UUID, row_id: UUID, values: dict[str, Any]) -> Row:
    """Change some fields of such a record; every version is kept."""
    chart = await open_chart(visit, episode_id, lock=True)
    present = await get_in_chart(visit, table, chart, row_id, check=True)
    if visit.caller.patient_id is not None and not set(values) <= PATIENTS_FIELDS:
        raise PatientsReportOnly(faults=[Fault(f"/{name}", "is the clinician's") for name in sorted(set(values) - PATIENTS_FIELDS)])
    await _check(visit, chart, table, {**present, **values})
    return await amend(visit, table, present, fields_for(table, values), key=chart.key)


async def _check(visit: Visit, chart: Chart, table: sa.Table, values: dict[str, Any]) -> None:
    check_not_future(values.get(DAYS[table]), chart.today, f"/{DAYS[table]}")
    if table is analysis:
        check_analysis(values["kind"], values)
    if table is medication:
        check_medication(values.get("started_on"), values.get("stopped_on"))
    for name, cited in (("session_id", session), ("problem_id", problem)):
        if values.get(name) is not None and await find_row(visit.connection, cited, id=values[name], episode_id=chart.episode_id) is None:
            raise NotFound
    if values.get("relationship_id") is not None:
        await check_relationships_known(visit, chart, [values["relationship_id"]])


async def write_note(visit: Visit, episode_id: UUID, session_id: UUID, text: str, *, sign: bool, note_id: UUID | None = None) -> Made:
    """Write the psychotherapy note of a session, as its author; signing closes it. `note_id`: the id that a device gave a new note.

    Raises ClinicianOnly, NoteOfAnother, NoteSigned.
    """
    author = visit.clinician()
    chart = await open_chart(visit, episode_id, lock=True)
    await get_in_chart(visit, session, chart, session_id)
    there = await find_one(visit, session_note, chart, session_id=session_id)
    visit.precondition.check(None if there is None else there["version"])
    signed = {"signed_at": visit.now if sign else None}
    if there is None:
        fields = Fields({"session_id": session_id, "author_id": author, **signed}, {"text": text}, note_id)
        return await create(visit, session_note, fields, chart=chart)
    if there["author_id"] != author:
        raise NoteOfAnother
    if there["signed_at"] is not None:
        raise NoteSigned
    return Made(await amend(visit, session_note, there, Fields(signed, {"text": text}), key=chart.key), new=False)


async def read_note(visit: Visit, episode_id: UUID, session_id: UUID) -> Row:
    """Return the note of a session, to a clinician of its care team. Raises ClinicianOnly, NotFound."""
    visit.clinician()
    chart = await open_chart(visit, episode_id)
    row = await note_of(visit, chart, session_id)
    visit.trace.resources.append(f"session_note/{row['id']}")
    return row


async def add_addendum(visit: Visit, episode_id: UUID, subject: str, subject_id: UUID, values: dict[str, Any]) -> Made:
    """Add to a session, an assessment or a note what was learnt later; the record itself stays as it is."""
    chart = await open_chart(visit, episode_id, lock=True)
    if subject == "note":
        visit.clinician()
        subject_id = (await note_of(visit, chart, subject_id))["id"]
    else:
        await get_in_chart(visit, SUBJECTS[subject], chart, subject_id)
    clear, derived = {"subject": subject, "subject_id": subject_id}, {"written_by": visit.caller.clinician_id}
    return await create(visit, addendum, Fields(clear, {"text": values["text"]}, values.get("id"), derived), chart=chart)


async def note_of(visit: Visit, chart: Chart, session_id: UUID) -> Row:
    """Return the note of a session of an open chart. Raises NotFound."""
    row = await find_one(visit, session_note, chart, session_id=session_id)
    if row is None:
        raise NotFound
    return row


async def request_assessment(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> Made:
    """Ask one person for an instrument by a time. Raises UnknownInstrument, RespondentUnfit, RiskResponderMissing."""
    chart = await open_chart(visit, episode_id, lock=True)
    known = checked_instrument(values["instrument"], values["respondent"])
    if known.risk_items:
        check_responder(chart)
    fields = fields_for(assessment_request, values)
    derived = {"status": "open", "requested_by": visit.caller.clinician_id}
    return await create(visit, assessment_request, Fields(fields.clear, fields.secret, fields.id, derived), chart=chart)


async def amend_request(visit: Visit, episode_id: UUID, request_id: UUID, values: dict[str, Any]) -> Row:
    """Move the time of an open request, or cancel it. Raises RequestDone."""
    chart = await open_chart(visit, episode_id, lock=True)
    present = await get_in_chart(visit, assessment_request, chart, request_id, check=True)
    if present["status"] != "open":
        raise RequestDone
    return await amend(visit, assessment_request, present, fields_for(assessment_request, values), key=chart.key)


async def save_draft(visit: Visit, episode_id: UUID, request_id: UUID, answers: dict[str, int | None]) -> tuple[Row, Row | None, dict[str, str]]:
    """Save a half-filled form. An answer about harm is not left lying in a draft: it raises its alert at once.

    Returns the request, the alert, and what the person must read. Raises RequestDone, AnswersInvalid.
    """
    chart = await open_chart(visit, episode_id, lock=True)
    present = await get_in_chart(visit, assessment_request, chart, request_id)
    check_respondent(visit, present["respondent"])
    visit.precondition.check(present["version"])
    if present["status"] != "open":
        raise RequestDone
    known = checked_instrument(present["instrument"], present["respondent"])
    given = {int(n): v for n, v in answers.items()}
    if any(v is not None for v in given.values()):
        score(known, given)  # refuses what does not fit; a draft has no score
    trigger = trigger_of(known, given)
    before = trigger_of(known, {int(n): v for n, v in present.get("draft", {}).items()})
    row = await amend(visit, assessment_request, present, Fields({}, {"draft": answers}), key=chart.key)
    told = trigger == before and await open_alert(visit.connection, episode_id, "self_harm") is not None
    alert = await raise_risk_alert(visit, chart, trigger, {"id": request_id}) if trigger and not told else None
    return row, alert, notice_of(chart) if known.risk_items else {}
