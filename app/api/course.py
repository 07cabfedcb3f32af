"""Formulation, contract, and the phases of the course."""

from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from app.actions.course import enter_phase, get_singleton, put_contract, put_formulation, read_phase, record_task
from app.api.episodes import Phase, Status
from app.api.inventory import Area, list_of
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Count, Day, Flag, In, InChart, Minutes, Moment, Out, Prose
from app.store.database import Row
from app.store.tables.work import contract, formulation, phase_transition

router = Router(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["course"])


class FormulationIn(In):
    """The link of symptoms and problem area, in words that the patient hears."""

    text: Prose
    areas: Annotated[list[Area], Field(max_length=2, description="One or two; none in a protocol without the four areas")]
    told_on: Day | None = Field(None, description="When it was told to the patient")
    patient_agreed: Flag = False


class FormulationOut(InChart):
    """The formulation."""

    text: str
    areas: list[Area]
    told_on: date | None
    patient_agreed: bool


@router.get("/formulation", response_model=FormulationOut)
async def read_formulation(call: Annotated[Call, needs("classification:read")], episode_id: UUID) -> Row:
    """Read the formulation."""
    return call.stored(await get_singleton(call.visit, formulation, episode_id))


@router.put("/formulation", response_model=FormulationOut)
async def write_formulation(call: Annotated[Call, needs("classification:write")], episode_id: UUID, formulation_in: FormulationIn) -> Row:
    """Write the formulation."""
    return call.made(await put_formulation(call.visit, episode_id, formulation_in.members()))


class TaperStep(In):
    """A step of a tapering: so many sessions at this frequency."""

    sessions: Count
    frequency: Literal["weekly", "fortnightly", "monthly"]


class ContractIn(In):
    """What is agreed about the course. IPT is limited in time, and the patient knows it from the start."""

    sessions: Count = Field(examples=[16])
    frequency: Literal["twice_weekly", "weekly", "fortnightly", "monthly"] = "weekly"
    minutes: Minutes = Field(60, examples=[60])
    starts_on: Day
    ends_on: Day
    agreed_on: Day | None = None
    patient_agreed: Flag = False
    reason: Prose | None = Field(None, description="Needed for an amendment")
    severity: Literal["mild", "moderate", "severe"] | None = Field(None, description="How severe the state is that an amendment answers")
    taper: Annotated[list[TaperStep], Field(max_length=6)] = Field([], description="The last sessions, rarer from step to step")


class ContractOut(InChart):
    """The contract."""

    sessions: int
    frequency: str
    minutes: int
    starts_on: date
    ends_on: date
    agreed_on: date | None
    patient_agreed: bool
    reason: str | None = None
    severity: str | None
    taper: list[TaperStep] | None = None


@router.get("/contract", response_model=ContractOut)
async def read_contract(call: Annotated[Call, needs("episodes:read")], episode_id: UUID) -> Row:
    """Read the contract."""
    return call.stored(await get_singleton(call.visit, contract, episode_id))


@router.put("/contract", response_model=ContractOut)
async def write_contract(call: Annotated[Call, needs("episodes:write")], episode_id: UUID, contract_in: ContractIn) -> Row:
    """Write or amend the contract. An extension adds four weeks or more."""
    return call.made(await put_contract(call.visit, episode_id, contract_in.members()))


class UnmetOut(Out):
    """A condition that is not met: its code, a sentence, where the rule comes from."""

    code: str
    detail: str
    source: str


class TransitionOption(Out):
    """The next step and what it still lacks."""

    to: Phase
    open: bool
    unmet: list[UnmetOut]


class TaskOut(Out):
    """A task of the protocol."""

    code: str
    phase: str
    title: str
    status: Literal["done", "waived", "owed"]
    met_by: str = Field(description="`record`: by PUT; else the fact that meets it")
    gate: bool
    source: str


class PlanOut(Out):
    """Session numbers (first, last) of each phase for the contracted number."""

    initial: tuple[int, int]
    middle: tuple[int, int]
    termination: tuple[int, int]
    departures: list[str] = Field(description="Where the plan departs from the founding description, in words")


class PhaseOut(Out):
    """Where the course stands."""

    episode_id: UUID
    phase: Phase
    status: Status
    risk_hold: bool = Field(description="Automatic reminders are silent; care goes on")
    sessions_held: int
    sessions_left: int | None
    ends_on: date | None
    plan: PlanOut | None
    tasks: list[TaskOut]
    transitions: list[TransitionOption]
    flags: list[str] = Field(description="What a clinician should see; nothing is refused for it")
    proposals: list[str] = Field(
        description="start_termination, tell_the_end_date, amend_contract, make_up_lost_sessions: computed, never applied by themselves"
    )


@router.get("/phase", response_model=PhaseOut)
async def read_episode_phase(call: Annotated[Call, needs("episodes:read")], episode_id: UUID) -> Row:
    """Read the phase, sessions held and left, the checklist, and what the next step still lacks."""
    found = await read_phase(call.visit, episode_id)
    plan = found["plan"]
    shown = None if plan is None else {"initial": plan.initial, "middle": plan.middle, "termination": plan.termination, "departures": plan.departures}
    return {**found, "plan": shown}


class TaskIn(In):
    """How a task stands."""

    status: Literal["done", "waived", "owed"]
    done_on: Day | None = None
    reason: Prose | None = Field(None, description="Needed for a waiver, which only a clinician can give")


class TaskRecordOut(InChart):
    """The record of a task."""

    task: str
    status: str
    done_on: date | None
    reason: str | None = None
    recorded_by: UUID | None


@router.put("/phase/tasks/{task}", response_model=TaskRecordOut)
async def write_task(call: Annotated[Call, needs("episodes:write")], episode_id: UUID, task: str, task_in: TaskIn) -> Row:
    """Record a task as done, waived or owed. A task that a fact meets cannot be ticked; a clinician's token is needed, and a waiver says why."""
    return call.made(await record_task(call.visit, episode_id, task, task_in.members()))


class TransitionIn(In):
    """A step into the next phase."""

    to: Literal["initial", "middle", "termination", "follow_up"] = Field(description="follow_up completes the treatment")
    reason: Prose | None = Field(None, description="Overrides unmet conditions; needs a token that acts for a clinician")
    occurred_at: Moment | None = None


class TransitionOut(InChart):
    """A step that was taken."""

    from_phase: Phase
    to_phase: Phase
    occurred_at: Moment
    overridden: list[UnmetOut] = Field(description="Conditions that a clinician passed over, with a reason")
    reason: str | None = None
    decided_by: UUID | None


class TransitionPage(Out):
    """A page of the steps that were taken, oldest first."""

    items: list[TransitionOut]
    next: str | None


@router.get("/phase/transitions", response_model=TransitionPage)
async def list_transitions(call: Annotated[Call, needs("episodes:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """List the steps between phases, with what a clinician passed over and why."""
    return await list_of(call, phase_transition, episode_id, limit, cursor)


@router.post("/phase/transitions", status_code=201, response_model=TransitionOut)
async def take_transition(call: Annotated[Call, needs("episodes:write")], episode_id: UUID, transition_in: TransitionIn) -> Row:
    """Enter the next phase. A shut gate answers 409 with every unmet condition; a clinician may override with a reason.

    Only a clinician's token enters termination and follow_up.
    """
    values: dict[str, Any] = transition_in.members()
    return call.made(await enter_phase(call.visit, episode_id, values.pop("to"), values))
