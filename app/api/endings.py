"""The ending: termination, an early ending, follow-ups."""

from datetime import date
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from app.actions.course import get_singleton
from app.actions.ending import amend_early_ending, amend_follow_up, book_follow_up, end_early, ending_view, put_termination, read_termination
from app.actions.records import get_in_chart, reveal
from app.actions.visit import open_chart
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Day, In, InChart, Label, Line, NewId, Out, Prose, Rating
from app.domain.protection import RECORD
from app.store.database import Row
from app.store.tables.work import early_ending, follow_up
from app.store.work import page_chart

router = Router(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["ending"])

SignType = Literal["sleep", "interest", "withdrawal", "irritability", "thought", "body", "relational"]


class Gain(In):
    """A gain, and whose work it is."""

    gain: Prose
    credited_to: Literal["patient", "patient_and_therapist", "patient_and_others"] = "patient"


class WarningSign(In):
    """A personal early warning sign, and what to do first."""

    sign: Line
    type: SignType
    noticed_by: Label | None = None
    threshold: Line | None = Field(None, description="From when on it counts: how often, how long, how strong")
    first_step: Prose
    contact: Line | None = None


class ContingencyPlan(In):
    """Who, where, when, if it comes back."""

    who: Line
    where: Line
    when: Line


class TerminationIn(In):
    """The work of the ending. A part that is empty meets no task."""

    end_date: Day | None = None
    end_date_told_on: Day | None = None
    ending_as_loss: Prose | None = Field(None, description="What the ending means as a loss, earlier endings, how the skills help with it")
    symptoms_compared: Prose | None = None
    gains: Annotated[list[Gain], Field(max_length=30)] = []
    remaining_problems: Annotated[list[Prose], Field(max_length=30)] | None = Field(None, description="An empty list says: reviewed, none remains")
    warning_signs: Annotated[list[WarningSign], Field(max_length=30)] = []
    contingency_plan: ContingencyPlan | None = None
    maintenance_decision: Literal["not_needed", "offered", "accepted", "declined"] | None = None
    maintenance_reasons: Annotated[
        list[
            Literal["three_or_more_lifetime_episodes", "residual_symptoms", "early_relapse_history", "chronic_interpersonal_stressor", "patient_wish"]
        ],
        Field(max_length=5),
    ] = []
    alternative_offered: Prose | None = Field(None, description="Another treatment that was offered, when the patient has not responded")
    final_assessment: Literal["planned", "taken", "refused", "unreachable"] | None = None
    final_assessment_reason: Prose | None = None


class TerminationOut(InChart):
    """The record of the ending, the tasks that it meets, and reasons to consider maintenance: a list, not a verdict."""

    end_date: date | None
    end_date_told_on: date | None
    told_at_session: int | None
    ending_as_loss: str | None = None
    symptoms_compared: str | None = None
    gains: list[Gain] = []
    remaining_problems: list[str] | None = None
    warning_signs: list[WarningSign] = []
    contingency_plan: ContingencyPlan | None = None
    maintenance_decision: str | None
    maintenance_reasons: list[str]
    alternative_offered: str | None = None
    final_assessment: str | None
    final_assessment_reason: str | None = None
    tasks_met: dict[str, bool]
    consider_maintenance_because: list[str]
    maintenance_caution: str | None


@router.get("/termination", response_model=TerminationOut)
async def read_episode_termination(call: Annotated[Call, needs("termination:read", use=RECORD)], episode_id: UUID) -> Row:
    """Read the record of the ending."""
    return call.stored(await read_termination(call.visit, episode_id), with_more=True)


@router.put("/termination", response_model=TerminationOut)
async def write_termination(call: Annotated[Call, needs("termination:write", use=RECORD)], episode_id: UUID, termination_in: TerminationIn) -> Row:
    """Write the record of the ending; its parts meet the tasks of the phase."""
    made = await put_termination(call.visit, episode_id, termination_in.members())
    row = call.made(made)
    return call.stored(row | await ending_view(call.visit, await open_chart(call.visit, episode_id), row), with_more=True)


EarlyReason = Literal[
    "dropped_out_no_contact", "moved", "better_enough", "not_helpful", "practical", "therapist_left", "service_limit", "stepped_up",
    "crisis_admission", "safeguarding", "declined_focus", "technical", "deceased", "unknown",
]  # fmt: skip
EarlyTask = Literal["contact_attempted_twice", "risk_checked_by_clinician", "letter_sent", "last_measure_carried"]


class EarlyEndingIn(In):
    """An ending that was not planned."""

    id: NewId = None
    reason: EarlyReason
    ended_on: Day
    tasks_done: Annotated[list[EarlyTask], Field(max_length=4)] = []
    note: Prose | None = None


class EarlyEndingPatch(In):
    """What was done since."""

    tasks_done: Annotated[list[EarlyTask], Field(max_length=4)] = []
    note: Prose | None = None


class EarlyEndingOut(InChart):
    """An unplanned ending, with what it asks for and the last PHQ-9 total available."""

    reason: str
    ended_on: date
    tasks_done: list[str]
    last_total: int | None
    note: str | None = None


@router.post("/early-ending", status_code=201, response_model=EarlyEndingOut)
async def create_early_ending(call: Annotated[Call, needs("termination:write", use=RECORD)], episode_id: UUID, early_ending_in: EarlyEndingIn) -> Row:
    """Record an unplanned ending. It asks for two attempts at contact, a risk check, a letter, and the last measure.

    An app may record it: that the patient no longer comes is a fact, which a clinician then works through.
    """
    return call.made(await end_early(call.visit, episode_id, early_ending_in.members()), f"/v1/episodes/{episode_id}/early-ending")


@router.get("/early-ending", response_model=EarlyEndingOut)
async def read_early_ending(call: Annotated[Call, needs("termination:read", use=RECORD)], episode_id: UUID) -> Row:
    """Read the unplanned ending."""
    return call.stored(await get_singleton(call.visit, early_ending, episode_id))


@router.patch("/early-ending", response_model=EarlyEndingOut)
async def update_early_ending(call: Annotated[Call, needs("termination:write", use=RECORD)], episode_id: UUID, patch: EarlyEndingPatch) -> Row:
    """Record what was done about it. `risk_checked_by_clinician` needs a clinician's token."""
    return call.stored(await amend_early_ending(call.visit, episode_id, patch.sent()))


class FollowUpIn(In):
    """A follow-up some months after the end: gains often peak 3 to 6 months later."""

    id: NewId = None
    months: Literal[3, 6, 12]
    due_on: Day | None = Field(None, description="Counted from the end of the course when left out")


class FollowUpPatch(In):
    """How the follow-up went."""

    status: Literal["booked", "held", "missed", "declined"] = "booked"
    held_on: Day | None = None
    due_on: Day = Field(default=None, validate_default=False)  # type: ignore[assignment]
    patient_initiative: Rating | None = Field(None, description="How much the patient now does alone, 0 to 10")
    note: Prose | None = None


class FollowUpOut(InChart):
    """A follow-up."""

    months: int
    due_on: date
    status: str
    held_on: date | None
    patient_initiative: int | None
    note: str | None = None


class FollowUpPage(Out):
    """A page of follow-ups."""

    items: list[FollowUpOut]
    next: str | None


@router.post("/follow-ups", status_code=201, response_model=FollowUpOut)
async def create_follow_up(call: Annotated[Call, needs("termination:write", use=RECORD)], episode_id: UUID, follow_up_in: FollowUpIn) -> Row:
    """Book a follow-up at 3, 6 or 12 months."""
    made = await book_follow_up(call.visit, episode_id, follow_up_in.members())
    return call.made(made, f"/v1/episodes/{episode_id}/follow-ups/{{id}}")


@router.get("/follow-ups", response_model=FollowUpPage)
async def list_follow_ups(
    call: Annotated[Call, needs("termination:read", use=RECORD)], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """List the follow-ups."""
    chart = await open_chart(call.visit, episode_id)
    pager = call.pager(limit, cursor)
    items, following = pager.cut(await page_chart(call.visit.connection, follow_up, episode_id, {}, pager.after, limit), "id")
    call.saw(items, "follow_up")
    return {"items": [reveal(chart.key, follow_up, r) for r in items], "next": following}


@router.get("/follow-ups/{follow_up_id}", response_model=FollowUpOut)
async def read_follow_up(call: Annotated[Call, needs("termination:read", use=RECORD)], episode_id: UUID, follow_up_id: UUID) -> Row:
    """Read a follow-up."""
    chart = await open_chart(call.visit, episode_id)
    return call.stored(await get_in_chart(call.visit, follow_up, chart, follow_up_id))


@router.patch("/follow-ups/{follow_up_id}", response_model=FollowUpOut)
async def update_follow_up(
    call: Annotated[Call, needs("termination:write", use=RECORD)], episode_id: UUID, follow_up_id: UUID, patch: FollowUpPatch
) -> Row:
    """Record that it was held, missed or declined. Its assessments name it in `follow_up_id`."""
    return call.stored(await amend_follow_up(call.visit, episode_id, follow_up_id, patch.sent()))
