"""What devices may change: for each kind of row and operation, the shape of its fields and the action that HTTP calls, too."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID, uuid5

import sqlalchemy as sa
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from app.actions.classification import choose_focus, put_indicators, work_on_area
from app.actions.contacts import amend_session, record_session, reschedule_session
from app.actions.course import enter_phase, put_contract, put_formulation, record_task
from app.actions.ending import put_termination
from app.actions.inventory import add_to_chart, amend_in_chart, delete_in_chart
from app.actions.lifecycle import change_status
from app.actions.mutation import Apply, Handler, Mutation
from app.actions.people import record_consent
from app.actions.records import fields_for
from app.actions.scoring import record_assessment
from app.actions.visit import Visit
from app.actions.workflow import add_addendum, add_record, amend_record, amend_request, request_assessment, save_draft, write_note
from app.api.assessments import AssessmentIn
from app.api.concerns import GoalIn, GoalPatch, ProblemIn, ProblemPatch, plain_ids
from app.api.course import ContractIn, FormulationIn, TaskIn, TransitionIn
from app.api.endings import TerminationIn
from app.api.focus import FocusAreaPatch, FocusIn, IndicatorsIn, plain_answers, plain_days
from app.api.inventory import LifeEventIn, LifeEventPatch, RelationshipIn, RelationshipPatch
from app.api.lifecycle import StatusChangeIn
from app.api.notes import AddendumIn, NoteIn
from app.api.people import ConsentIn
from app.api.problems import as_refusal
from app.api.requests import DraftIn, RequestIn, RequestPatch
from app.api.sessions import RescheduleIn, SessionIn, SessionPatch
from app.api.shapes import Code
from app.api.workflow import (
    AnalysisIn,
    AnalysisPatch,
    ChangeAttemptIn,
    ChangeAttemptPatch,
    HomeworkIn,
    HomeworkPatch,
    MedicationIn,
    MedicationPatch,
)
from app.domain.errors import Fault, Refusal, escaped
from app.domain.focus import FocusChoice
from app.domain.sync import SERVER_MADE, FieldFixed
from app.store.database import Row
from app.store.tables.inventory import goal, life_event, problem, relationship
from app.store.tables.people import consent
from app.store.tables.work import (
    assessment,
    contract,
    focus,
    focus_area,
    formulation,
    indicator_set,
    phase_task,
    phase_transition,
    session,
    termination,
)
from app.store.tables.workflow import (
    addendum,
    analysis,
    assessment_request,
    change_attempt,
    homework,
    medication,
    session_note,
    status_change,
)

LARGEST_WHOLE = 2**63 - 1
NOTHING: Mapping[str, str] = {}
Values = dict[str, Any]


class NoteCreate(NoteIn):
    """A new psychotherapy note."""

    session_id: UUID


class TaskRecord(TaskIn):
    """How a task of a phase stands."""

    task: Code


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a mutation's fields: which model, whether only what was sent counts, and what makes them fit for the action."""

    model: type[BaseModel]
    only_sent: bool
    fit: Callable[[Values], Values] = dict

    def read(self, fields: Mapping[str, Any], row_id: UUID) -> Values:
        """Validate fields. Raises ValidationError."""
        with_id = {"id": str(row_id)} if "id" in self.model.model_fields else {}
        found = self.model.model_validate({**fields, **with_id})
        return self.fit(found.model_dump(mode="python", exclude_unset=self.only_sent))


def _chart_rows(table: sa.Table, scope: str, new: type[BaseModel], patch: type[BaseModel], fit: Callable[[Values], Values] = dict) -> None:
    """Declare rows of the inventory: added, changed and taken out."""

    async def add(visit: Visit, episode_id: UUID, _: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
        return (await add_to_chart(visit, table, episode_id, values)).row, NOTHING

    async def change(visit: Visit, episode_id: UUID, row_id: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
        return await amend_in_chart(visit, table, episode_id, row_id, values), NOTHING

    async def take_out(visit: Visit, episode_id: UUID, row_id: UUID, _: Values) -> tuple[None, Mapping[str, str]]:
        await delete_in_chart(visit, table, episode_id, row_id)
        return None, NOTHING

    _declare(table.name, "create", Handler(table, scope, add), Shape(new, only_sent=False, fit=fit))
    _declare(table.name, "update", Handler(table, scope, change), Shape(patch, only_sent=True, fit=fit))
    _declare(table.name, "delete", Handler(table, scope, take_out), None)


def _records(table: sa.Table, scope: str, new: type[BaseModel], patch: type[BaseModel], *, for_patients: bool = False) -> None:
    """Declare records of the work between the sessions."""

    async def add(visit: Visit, episode_id: UUID, _: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
        return (await add_record(visit, table, episode_id, values)).row, NOTHING

    async def change(visit: Visit, episode_id: UUID, row_id: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
        return await amend_record(visit, table, episode_id, row_id, values), NOTHING

    _declare(table.name, "create", Handler(table, scope, add), Shape(new, only_sent=False))
    _declare(table.name, "update", Handler(table, scope, change, for_patients=for_patients), Shape(patch, only_sent=True))


HANDLERS: dict[tuple[str, str], tuple[Handler, Shape | None]] = {}


def _declare(entity: str, op: str, handler: Handler, shape: Shape | None) -> None:
    HANDLERS[entity, op] = handler, shape


def _made(action: Callable[..., Any]) -> Apply:
    """Turn an action on (visit, episode id, values) that makes or writes one row into what a handler calls."""

    async def apply(visit: Visit, episode_id: UUID, _: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
        return (await action(visit, episode_id, values)).row, NOTHING

    return apply


def _amended(action: Callable[..., Any]) -> Apply:
    """Turn an action on (visit, episode id, row id, values) that returns the row into what a handler calls."""

    async def apply(visit: Visit, episode_id: UUID, row_id: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
        return await action(visit, episode_id, row_id, values), NOTHING

    return apply


async def _answer(visit: Visit, episode_id: UUID, _: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
    made, _alert, notice = await record_assessment(visit, episode_id, values)
    return made.row, notice


async def _draft(visit: Visit, episode_id: UUID, request_id: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
    row, _alert, notice = await save_draft(visit, episode_id, request_id, values["answers"])
    return row, notice


async def _consent(visit: Visit, patient_id: UUID, _: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
    return (await record_consent(visit, patient_id, fields_for(consent, values))).row, NOTHING


async def _new_note(visit: Visit, episode_id: UUID, note_id: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
    made = await write_note(visit, episode_id, values["session_id"], values["text"], sign=values["sign"], note_id=note_id)
    return made.row, NOTHING


async def _addendum(visit: Visit, episode_id: UUID, _: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
    subject, subject_id = values.pop("subject"), values.pop("subject_id")
    return (await add_addendum(visit, episode_id, subject, subject_id, values)).row, NOTHING


async def _focus(visit: Visit, episode_id: UUID, _: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
    decided_at = values.pop("decided_at")
    return (await choose_focus(visit, episode_id, FocusChoice(**values), decided_at)).row, NOTHING


async def _indicators(visit: Visit, episode_id: UUID, _: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
    return (await put_indicators(visit, episode_id, values["answers"])).row, NOTHING


async def _step(visit: Visit, episode_id: UUID, _: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
    return (await enter_phase(visit, episode_id, values.pop("to"), values)).row, NOTHING


async def _status(visit: Visit, episode_id: UUID, _: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
    return (await change_status(visit, episode_id, values.pop("command"), values)).row, NOTHING


async def _task(visit: Visit, episode_id: UUID, _: UUID, values: Values) -> tuple[Row, Mapping[str, str]]:
    return (await record_task(visit, episode_id, values.pop("task"), values)).row, NOTHING


_chart_rows(relationship, "inventory:write", RelationshipIn, RelationshipPatch)
_chart_rows(life_event, "inventory:write", LifeEventIn, LifeEventPatch)
_chart_rows(problem, "inventory:write", ProblemIn, ProblemPatch, plain_ids)
_chart_rows(goal, "inventory:write", GoalIn, GoalPatch)
_records(homework, "sessions:write", HomeworkIn, HomeworkPatch, for_patients=True)
_records(change_attempt, "sessions:write", ChangeAttemptIn, ChangeAttemptPatch)
_records(analysis, "sessions:write", AnalysisIn, AnalysisPatch)
_records(medication, "episodes:write", MedicationIn, MedicationPatch)
_declare("session", "create", Handler(session, "sessions:write", _made(record_session)), Shape(SessionIn, only_sent=False))
_declare("session", "update", Handler(session, "sessions:write", _amended(amend_session)), Shape(SessionPatch, only_sent=True))
_declare("session", "command", Handler(session, "sessions:write", _amended(reschedule_session)), Shape(RescheduleIn, only_sent=False))
_declare("assessment", "create", Handler(assessment, "assessments:write", _answer, for_patients=True), Shape(AssessmentIn, only_sent=False))
_declare(
    "assessment_request", "create", Handler(assessment_request, "assessments:write", _made(request_assessment)), Shape(RequestIn, only_sent=False)
)
_declare(
    "assessment_request", "update", Handler(assessment_request, "assessments:write", _amended(amend_request)), Shape(RequestPatch, only_sent=True)
)
_declare(
    "assessment_request", "command", Handler(assessment_request, "assessments:write", _draft, for_patients=True), Shape(DraftIn, only_sent=False)
)
_declare("consent", "create", Handler(consent, "consents:write", _consent, of_patient=True), Shape(ConsentIn, only_sent=False))
_declare("session_note", "create", Handler(session_note, "notes:write", _new_note, merges=False), Shape(NoteCreate, only_sent=False))
_declare("addendum", "create", Handler(addendum, "sessions:write", _addendum), Shape(AddendumIn, only_sent=False))
_declare(
    "focus_area", "update", Handler(focus_area, "classification:write", _amended(work_on_area)), Shape(FocusAreaPatch, only_sent=True, fit=plain_days)
)
_declare("focus", "command", Handler(focus, "classification:write", _focus), Shape(FocusIn, only_sent=False))
_declare(
    "indicator_set", "command", Handler(indicator_set, "classification:write", _indicators), Shape(IndicatorsIn, only_sent=False, fit=plain_answers)
)
_declare("formulation", "command", Handler(formulation, "classification:write", _made(put_formulation)), Shape(FormulationIn, only_sent=False))
_declare("contract", "command", Handler(contract, "episodes:write", _made(put_contract)), Shape(ContractIn, only_sent=False))
_declare("phase_task", "command", Handler(phase_task, "episodes:write", _task), Shape(TaskRecord, only_sent=False))
_declare("phase_transition", "command", Handler(phase_transition, "episodes:write", _step), Shape(TransitionIn, only_sent=False))
_declare("status_change", "command", Handler(status_change, "episodes:write", _status), Shape(StatusChangeIn, only_sent=False))
_declare("termination", "command", Handler(termination, "termination:write", _made(put_termination)), Shape(TerminationIn, only_sent=False))


def read_mutation(
    mutation_id: UUID,
    entity: str,
    row_id: UUID,
    op: str,
    base_version: int | None,
    fields: Mapping[str, Any],
    *,
    occurred_at: datetime | None = None,
    group: str | None = None,
    fixed: bool = False,
) -> Mutation:
    """Read one mutation: fields that the service sets are passed over, unknown ones are listed, wrong ones are its refusal.

    `fixed`: a field that does not change this way is a refusal, too; else it is only listed.
    """
    handler, shape = HANDLERS.get((entity, op), (None, None))
    fields = bounded(fields)
    content = json.dumps([entity, str(row_id), op, base_version, fields], sort_keys=True, default=str).encode()
    parent = fields.get("patient_id" if handler and handler.of_patient else "episode_id")
    known = set() if shape is None else set(shape.model.model_fields)
    ignored = tuple(sorted(k[:60] for k in fields if k not in known and k not in SERVER_MADE)) if shape else ()
    values: Values = {}
    refusal: Refusal | None = None
    parent_id: UUID | None = None
    try:
        parent_id = None if parent is None else UUID(str(parent))
        values = {} if shape is None else shape.read({k: v for k, v in fields.items() if k in known and k != "id"}, row_id)
    except ValidationError as error:
        refusal = as_refusal(RequestValidationError([{**e, "loc": ("body", "fields", *e["loc"])} for e in error.errors()]))
    except ValueError:
        refusal = as_refusal(RequestValidationError([{"loc": ("body", "fields", "episode_id"), "msg": "must be a UUID", "type": "uuid"}]))
    if fixed and ignored and refusal is None:
        refusal = FieldFixed(faults=[Fault(f"/fields/{escaped(name)}", "does not change this way") for name in ignored])
    return Mutation(mutation_id, entity, row_id, op, base_version, parent_id, values, occurred_at, group, content, handler, fields, refusal, ignored)


def bounded(value: Any) -> Any:
    """Return a JSON value in which no number is larger than what can be kept: such a one becomes the text of itself."""
    if isinstance(value, Mapping):
        return {str(k): bounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [bounded(v) for v in value]
    return str(value) if isinstance(value, int) and not -LARGEST_WHOLE <= value <= LARGEST_WHOLE else value


def mutation_id_of(device_id: UUID, *what: object) -> UUID:
    """Return the id of a mutation whose client knows none: the same change sent again is the same mutation."""
    return uuid5(device_id, json.dumps(what, default=str, sort_keys=True))


def takes_text(entity: str, name: str) -> bool:
    """Tell whether a field of a kind of row is text: then what looks like JSON in it is what somebody wrote."""
    shapes = [HANDLERS[entity, op][1] for op in ("create", "update") if (entity, op) in HANDLERS]
    fields = [shape.model.model_fields[name] for shape in shapes if shape is not None and name in shape.model.model_fields]
    return any(_is_text(field.annotation) for field in fields)


def _is_text(annotation: Any) -> bool:
    if annotation is str or get_origin(annotation) is Literal:
        return True
    return any(_is_text(part) for part in get_args(annotation)[: 1 if get_origin(annotation) is Annotated else None]) and get_origin(annotation) in {
        Annotated,
        Union,
        UnionType,
    }
