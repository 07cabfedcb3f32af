"""Change attempts, analyses, medication, homework: the work between and beside the sessions."""

from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from pydantic import Field

from app.actions.workflow import add_record, amend_record
from app.api.inventory import list_of, read_one
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Day, Flag, In, InChart, Line, NewId, Out, Prose, Whole
from app.store.database import Row
from app.store.tables.workflow import analysis, change_attempt, homework, medication

router = Router(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["workflow"])

Effect = Annotated[Whole, Field(ge=-5, le=5)]


class _ChangeAttempt(In):
    issue: Prose = ""
    option_chosen: Prose | None = None
    tried_on: Day | None = None
    what_happened: Prose | None = None
    result: Literal["better", "same", "worse", "mixed"] | None = None
    effect_on_mood: Effect | None = Field(None, description="-5 much worse to 5 much better")
    relationship_id: UUID | None = None
    problem_id: UUID | None = None


class ChangeAttemptIn(_ChangeAttempt):
    """A change that the patient tries: the issue, the option chosen, what came of it."""

    id: NewId = None
    issue: Prose = Field(examples=["Evenings without a word."])


class ChangeAttemptPatch(_ChangeAttempt):
    """What became of a change attempt; a wrong record is marked, never removed."""

    entered_in_error: Flag = False


class ChangeAttemptOut(InChart, _ChangeAttempt):
    """A change attempt."""

    model_config = {"extra": "ignore"}
    entered_in_error: bool


class ChangeAttemptPage(Out):
    """A page of change attempts."""

    items: list[ChangeAttemptOut]
    next: str | None


class Option(In):
    """An option of a decision, with what speaks for and against it."""

    option: Prose
    pros: Annotated[list[Prose], Field(max_length=20)] = []
    cons: Annotated[list[Prose], Field(max_length=20)] = []


class _Analysis(In):
    kind: Literal["communication", "decision", "rehearsal"] = "communication"
    took_place_on: Day | None = Field(None, description="When the exchange took place, or the rehearsal")
    session_id: UUID | None = None
    relationship_id: UUID | None = None
    said: Prose | None = None
    meant: Prose | None = None
    heard: Prose | None = None
    felt: Prose | None = None
    next_time: Prose | None = None
    question: Prose | None = None
    options: Annotated[list[Option], Field(max_length=12)] | None = None
    choice: Prose | None = None
    situation: Prose | None = None
    practised: Prose | None = None
    how_it_went: Prose | None = None


class AnalysisIn(_Analysis):
    """An analysis of communication (said, meant, heard, felt, next_time), of a decision (question, options, choice), or a rehearsal."""

    id: NewId = None
    kind: Literal["communication", "decision", "rehearsal"]


class AnalysisPatch(_Analysis):
    """What is added to an analysis."""

    entered_in_error: Flag = False


class AnalysisOut(InChart, _Analysis):
    """An analysis."""

    model_config = {"extra": "ignore"}
    entered_in_error: bool


class AnalysisPage(Out):
    """A page of analyses."""

    items: list[AnalysisOut]
    next: str | None


class _Medication(In):
    kind: Literal["antidepressant", "mood_stabiliser", "antipsychotic", "anxiolytic", "hypnotic", "stimulant", "other"] = "other"
    name: Line | None = None
    dose: Line | None = None
    started_on: Day | None = None
    stopped_on: Day | None = None
    note: Prose | None = None


class MedicationIn(_Medication):
    """A medication with start, dose and stop; it stands on the trajectory. A new dose is a record of its own."""

    id: NewId = None
    kind: Literal["antidepressant", "mood_stabiliser", "antipsychotic", "anxiolytic", "hypnotic", "stimulant", "other"]


class MedicationPatch(_Medication):
    """What changed about a medication."""

    entered_in_error: Flag = False


class MedicationOut(InChart, _Medication):
    """A medication."""

    model_config = {"extra": "ignore"}
    entered_in_error: bool


class MedicationPage(Out):
    """A page of medications."""

    items: list[MedicationOut]
    next: str | None


class _Homework(In):
    task: Prose = ""
    agreed_on: Day | None = None
    due_on: Day | None = None
    status: Literal["agreed", "done", "partly_done", "not_done", "cancelled"] = "agreed"
    outcome: Prose | None = None
    session_id: UUID | None = None


class HomeworkIn(_Homework):
    """Work at home: an interpersonal task between sessions."""

    id: NewId = None
    task: Prose = Field(examples=["Ask one colleague along for lunch."])


class HomeworkPatch(_Homework):
    """How it went."""


class HomeworkOut(InChart, _Homework):
    """Work at home."""

    model_config = {"extra": "ignore"}


class HomeworkPage(Out):
    """A page of homework."""

    items: list[HomeworkOut]
    next: str | None


async def _add(call: Call, table: sa.Table, episode_id: UUID, path: str, values: dict[str, Any]) -> Row:
    return call.made(await add_record(call.visit, table, episode_id, values), f"/v1/episodes/{episode_id}/{path}/{{id}}")


@router.post("/change-attempts", status_code=201, response_model=ChangeAttemptOut)
async def create_change_attempt(call: Annotated[Call, needs("sessions:write")], episode_id: UUID, change_attempt_in: ChangeAttemptIn) -> Row:
    """Record a change that is tried. When symptoms worsen reliably after it, the worklist asks to talk about it."""
    return await _add(call, change_attempt, episode_id, "change-attempts", change_attempt_in.members())


@router.get("/change-attempts", response_model=ChangeAttemptPage)
async def list_change_attempts(call: Annotated[Call, needs("sessions:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """List the change attempts."""
    return await list_of(call, change_attempt, episode_id, limit, cursor)


@router.get("/change-attempts/{change_attempt_id}", response_model=ChangeAttemptOut)
async def read_change_attempt(call: Annotated[Call, needs("sessions:read")], episode_id: UUID, change_attempt_id: UUID) -> Row:
    """Read a change attempt."""
    return await read_one(call, change_attempt, episode_id, change_attempt_id)


@router.patch("/change-attempts/{change_attempt_id}", response_model=ChangeAttemptOut)
async def update_change_attempt(
    call: Annotated[Call, needs("sessions:write")], episode_id: UUID, change_attempt_id: UUID, patch: ChangeAttemptPatch
) -> Row:
    """Record what came of it and how mood went."""
    return call.stored(await amend_record(call.visit, change_attempt, episode_id, change_attempt_id, patch.sent()))


@router.post("/analyses", status_code=201, response_model=AnalysisOut)
async def create_analysis(call: Annotated[Call, needs("sessions:write")], episode_id: UUID, analysis_in: AnalysisIn) -> Row:
    """Record an analysis of communication or of a decision, or a rehearsal."""
    return await _add(call, analysis, episode_id, "analyses", analysis_in.members())


@router.get("/analyses", response_model=AnalysisPage)
async def list_analyses(call: Annotated[Call, needs("sessions:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """List the analyses and rehearsals."""
    return await list_of(call, analysis, episode_id, limit, cursor)


@router.get("/analyses/{analysis_id}", response_model=AnalysisOut)
async def read_analysis(call: Annotated[Call, needs("sessions:read")], episode_id: UUID, analysis_id: UUID) -> Row:
    """Read an analysis."""
    return await read_one(call, analysis, episode_id, analysis_id)


@router.patch("/analyses/{analysis_id}", response_model=AnalysisOut)
async def update_analysis(call: Annotated[Call, needs("sessions:write")], episode_id: UUID, analysis_id: UUID, patch: AnalysisPatch) -> Row:
    """Complete an analysis."""
    return call.stored(await amend_record(call.visit, analysis, episode_id, analysis_id, patch.sent()))


@router.post("/medications", status_code=201, response_model=MedicationOut)
async def create_medication(call: Annotated[Call, needs("episodes:write")], episode_id: UUID, medication_in: MedicationIn) -> Row:
    """Record a medication."""
    return await _add(call, medication, episode_id, "medications", medication_in.members())


@router.get("/medications", response_model=MedicationPage)
async def list_medications(call: Annotated[Call, needs("episodes:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """List the medications."""
    return await list_of(call, medication, episode_id, limit, cursor)


@router.get("/medications/{medication_id}", response_model=MedicationOut)
async def read_medication(call: Annotated[Call, needs("episodes:read")], episode_id: UUID, medication_id: UUID) -> Row:
    """Read a medication."""
    return await read_one(call, medication, episode_id, medication_id)


@router.patch("/medications/{medication_id}", response_model=MedicationOut)
async def update_medication(call: Annotated[Call, needs("episodes:write")], episode_id: UUID, medication_id: UUID, patch: MedicationPatch) -> Row:
    """Record that it was stopped, or correct it."""
    return call.stored(await amend_record(call.visit, medication, episode_id, medication_id, patch.sent()))


@router.post("/homework", status_code=201, response_model=HomeworkOut)
async def create_homework(call: Annotated[Call, needs("sessions:write")], episode_id: UUID, homework_in: HomeworkIn) -> Row:
    """Agree on homework."""
    return await _add(call, homework, episode_id, "homework", homework_in.members())


@router.get("/homework", response_model=HomeworkPage)
async def list_homework(
    call: Annotated[Call, needs("sessions:read", patients=True)], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """List the homework."""
    return await list_of(call, homework, episode_id, limit, cursor)


@router.get("/homework/{homework_id}", response_model=HomeworkOut)
async def read_homework(call: Annotated[Call, needs("sessions:read", patients=True)], episode_id: UUID, homework_id: UUID) -> Row:
    """Read one piece of homework."""
    return await read_one(call, homework, episode_id, homework_id)


@router.patch("/homework/{homework_id}", response_model=HomeworkOut)
async def update_homework(
    call: Annotated[Call, needs("sessions:write", patients=True)], episode_id: UUID, homework_id: UUID, patch: HomeworkPatch
) -> Row:
    """Record how it went. A patient's token changes `status` and `outcome` only."""
    return call.stored(await amend_record(call.visit, homework, episode_id, homework_id, patch.sent()))
