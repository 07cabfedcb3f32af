"""Import of an existing caseload: charts at any phase, checked row by row, with a dry run."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from app.actions.imports import run_import
from app.actions.people import check_backend
from app.actions.visit import public
from app.api.assessments import AssessmentIn
from app.api.concerns import GoalIn, ProblemIn
from app.api.course import ContractIn, FormulationIn
from app.api.episodes import EpisodeIn, Phase, Status
from app.api.inventory import Area, LifeEventIn, RelationshipIn
from app.api.people import ConsentIn, PatientIn
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.sessions import SessionIn
from app.api.shapes import Flag, In, Kept, MaybeProse, Moment, NewId, Out
from app.domain.errors import NotFound
from app.store.database import Row
from app.store.rows import find_row
from app.store.tables.caseload import import_job

router = Router(prefix="/v1/imports", route_class=Route, tags=["imports"])


class Placed(In):
    """Where the course stands."""

    phase: Phase = "screening"
    status: Status = "referred"
    since: Moment = Field(description="Since when it is in this phase")
    ended_at: Moment | None = None


class ImportedEpisode(EpisodeIn):
    """A course with its place. The patient is the row's."""

    patient_id: None = Field(None, exclude=True)  # type: ignore[assignment]
    placed: Placed


class ImportedFocus(In):
    """A decision on the focus that was made elsewhere."""

    primary: Area
    secondary: Area | None = None
    reason: MaybeProse = ""
    patient_agreed: Flag
    decided_at: Moment
    decided_by: UUID | None = Field(None, description="The clinician; the lead, when left out")


class ImportRow(In):
    """One chart. `occurred_at`, `starts_at`, `answered_at` are when it happened; ids may be given, so that a row can be sent again."""

    patient: PatientIn
    consents: Annotated[list[ConsentIn], Field(max_length=50)] = []
    episode: ImportedEpisode
    relationships: Annotated[list[RelationshipIn], Field(max_length=100)] = []
    life_events: Annotated[list[LifeEventIn], Field(max_length=100)] = []
    problems: Annotated[list[ProblemIn], Field(max_length=50)] = []
    goals: Annotated[list[GoalIn], Field(max_length=50)] = []
    focus: ImportedFocus | None = None
    formulation: FormulationIn | None = None
    contract: ContractIn | None = None
    sessions: Annotated[list[SessionIn], Field(max_length=300)] = []
    assessments: Annotated[list[AssessmentIn], Field(max_length=600)] = []


class ImportIn(In):
    """Charts to load. Larger caseloads come in several imports."""

    id: NewId = None
    dry_run: Flag = Field(False, description="Check everything, keep nothing but the report")
    rows: Annotated[list[ImportRow], Field(min_length=1, max_length=100)]


class RowReport(Out):
    """What became of one row."""

    row: int = Field(description="From 0, in the order sent")
    ok: bool
    patient_id: UUID | None = None
    episode_id: UUID | None = None
    new: bool | None = None
    problem: str | None = None
    detail: str | None = None
    errors: list[dict[str, str]] = []


class ImportOut(Kept):
    """An import that was run, with its report."""

    dry_run: bool
    status: Literal["done", "refused"]
    rows: int
    loaded: int
    report: list[RowReport]


@router.post("", status_code=201, response_model=ImportOut)
async def create_import(call: Annotated[Call, needs("import")], import_in: ImportIn) -> Row:
    """Load charts: each row whole or not at all, errors by row. Old answers wake nobody; a risk among the newest asks for a review.

    A row out of shape (an unknown member, a wrong type) refuses the whole request before any row is read.
    A dry run reports what would be: its ids do not exist.
    """
    rows = [_values(r) for r in import_in.rows]
    return call.made(await run_import(call.visit, rows, dry_run=import_in.dry_run, job_id=import_in.id), "/v1/imports/{id}")


def _values(row: ImportRow) -> dict[str, Any]:
    values = row.members()
    for given in values["problems"]:
        given["relationship_ids"] = [str(i) for i in given["relationship_ids"]]
    return values


@router.get("/{import_id}", response_model=ImportOut)
async def read_import(call: Annotated[Call, needs("import")], import_id: UUID) -> Row:
    """Read an import with its report."""
    check_backend(call.visit)
    row = await find_row(call.visit.connection, import_job, id=import_id)
    if row is None:
        raise NotFound
    return call.stored(public(row))
