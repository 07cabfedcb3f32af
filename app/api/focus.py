"""Indicators, classification, the clinician's focus, and the work in each focus area."""

from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from app.actions.classification import choose_focus, get_classification, get_focus, put_indicators, run_classifier, with_plans, work_on_area
from app.actions.course import get_singleton
from app.actions.records import get_in_chart
from app.actions.visit import open_chart
from app.api.inventory import Area, Pattern
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Code, Day, Flag, In, InChart, Label, MaybeProse, Moment, Out, Prose, Rating
from app.domain.focus import FocusChoice
from app.store.database import Row
from app.store.tables.work import focus_area, indicator_set

router = Router(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["classification"])

AnswerValue = Literal["absent", "possible", "present", "unknown", "not_applicable"]


class IndicatorAnswer(In):
    """A clinician's answer to one indicator, with its evidence."""

    value: AnswerValue
    relationship_id: UUID | None = None
    life_event_id: UUID | None = None
    quote: Prose | None = Field(None, description="The patient's words that speak for it; sealed")


class IndicatorsIn(In):
    """All indicator answers; what is left out is unknown."""

    answers: Annotated[dict[Code, IndicatorAnswer], Field(max_length=60)] = Field(
        examples=[{"significant_person_died": {"value": "present"}, "onset_linked_to_death": {"value": "possible"}}]
    )


class IndicatorsOut(InChart):
    """The indicator answers that stand."""

    answers: dict[str, dict[str, Any]]
    quotes: dict[str, str] = {}


@router.get("/indicators", response_model=IndicatorsOut)
async def read_indicators(call: Annotated[Call, needs("classification:read")], episode_id: UUID) -> Row:
    """Read the indicator answers with their evidence."""
    return call.stored(await get_singleton(call.visit, indicator_set, episode_id))


@router.put("/indicators", response_model=IndicatorsOut)
async def replace_indicators(call: Annotated[Call, needs("classification:write")], episode_id: UUID, indicators_in: IndicatorsIn) -> Row:
    """Replace the indicator answers: what is left out is unknown, also what a proposal had confirmed with its evidence.

    Refused by name: both present of onset_linked_to_death and death_mourned_and_remote, onset_linked_to_conflict and conflict_began_after_onset,
    onset_linked_to_change and change_adapted_to, few_close_ties_before_onset and isolation_began_with_illness, continuing_relation_with_other
    and relation_ended; two choices of the patient; one event for two areas; a death for a transition; no_life_event_near_onset beside one that is linked.
    An absent gate shuts its area whatever its other indicators say.
    """
    return call.made(await put_indicators(call.visit, episode_id, plain_answers(indicators_in.members())["answers"]))


class ContributionOut(Out):
    """What one indicator adds: its answer times its weight (null while unknown), with its evidence."""

    indicator: str
    kind: Literal["for", "against"]
    answer: AnswerValue
    weight: int
    points: float | None
    relationship_id: str | None
    life_event_id: str | None


class AreaOut(Out):
    """How far one problem area is matched."""

    area: Area
    status: Literal["eligible", "not_eligible", "needs_information"]
    score: int | None = Field(description="0 to 100; null unless the area is eligible")
    would_be: int = Field(description="0 to 100: the score if the gate were open")
    lower: int = Field(description="0 to 100 with every unknown at its worst, as if the gate were open")
    upper: int = Field(description="0 to 100 with every unknown at its best, as if the gate were open")
    band: Literal["likely", "possible", "weak"] | None
    coverage: float = Field(description="0 to 1: the share of weight that is known, contra-indicators included")
    provisional: bool
    rater_kappa: float | None = Field(
        None, description="How far human raters agree on this area (Markowitz et al. 2000): expect errors where it is low"
    )
    excluded_by: list[str]
    contributions: list[ContributionOut]


class QuestionOut(Out):
    """A question that is still open."""

    area: Area
    indicator: str
    question: str
    weight: int


class Result(Out):
    """What the ruleset makes of the answers."""

    ruleset: str
    outcome: Literal["suggested", "provisional", "decision_required", "needs_information", "no_area_stands"]
    ranking: list[Area]
    tied: list[Area]
    suggested_primary: Area | None
    suggested_secondary: Area | None
    areas: list[AreaOut]
    questions: list[QuestionOut]
    decision_status: Literal["awaiting_clinician"]
    disclaimer: str


class ClassificationOut(InChart):
    """One run of the classifier, with the answers that it saw. It decides nothing."""

    ruleset: str
    indicator_version: int
    answers: dict[str, dict[str, Any]]
    result: Result


@router.post("/classification", status_code=201, response_model=ClassificationOut)
async def classify_episode(call: Annotated[Call, needs("classification:write")], episode_id: UUID) -> Row:
    """Rank the four problem areas from the answers that stand, with every contribution. The clinician decides."""
    return call.made(await run_classifier(call.visit, episode_id))


@router.get("/classification", response_model=ClassificationOut)
async def read_classification(call: Annotated[Call, needs("classification:read")], episode_id: UUID) -> Row:
    """Read the newest run."""
    return call.stored(await get_classification(call.visit, episode_id))


class FocusIn(In):
    """The clinician's decision."""

    primary: Area
    secondary: Area | None = None
    reason: MaybeProse = Field("", description="Needed when the decision departs from the suggestion, or changes the focus")
    patient_agreed: Flag
    decided_at: Moment | None = Field(None, description="When it was decided; now, when left out")


class StrategyDone(In):
    """A strategy of the area that was used, and when."""

    code: Code
    done_on: Day | None = None


Lines = Annotated[list[Prose], Field(max_length=30)]


class GriefWork(In):
    """Grief: the relationship reconstructed, the death itself, feelings, and new involvement."""

    relationship_good: Prose | None = None
    relationship_difficult: Prose | None = None
    before_the_death: Prose | None = None
    at_the_death: Prose | None = None
    after_the_death: Prose | None = None
    feelings: Lines = []
    re_engagement: Lines = []


class DisputeOption(In):
    """A way to deal with the dispute."""

    option: Prose
    pros: Lines = []
    cons: Lines = []


class DisputeWork(In):
    """Role dispute: issues, expectations on both sides, options, parallels, what keeps it going, the plan."""

    issues: Lines = []
    patient_expects: Prose | None = None
    other_expects: Prose | None = None
    differences_in_values: Prose | None = None
    options: Annotated[list[DisputeOption], Field(max_length=12)] = []
    resources: Lines = []
    parallels: Lines = []
    kept_going_by: Prose | None = None
    plan: Prose | None = None


class OldRole(In):
    """The role that was."""

    good: Lines = []
    bad: Lines = []
    people: Lines = []
    identity: Prose | None = None


class NewRole(In):
    """The role that is, or is to come."""

    demands: Lines = []
    feared: Lines = []
    opportunities: Lines = []
    skills_needed: Lines = []


class TransitionWork(In):
    """Role transition: the old role and the new, what is lost and gained, supports."""

    trigger: Prose | None = None
    wanted: Flag | None = None
    sudden: Flag | None = None
    old_role: OldRole | None = None
    new_role: NewRole | None = None
    losses: Lines = []
    gains: Lines = []
    supports_lost: Lines = []
    supports_new: Lines = []


class NewContact(In):
    """A new contact that the patient tries."""

    who: Label
    step: Prose
    tried_on: Day | None = None
    how_it_went: Prose | None = None


class DeficitsWork(In):
    """Interpersonal deficits: past relationships, patterns, the relationship with the therapist, new contacts."""

    past_relationships: Lines = []
    patterns: Annotated[list[Pattern], Field(max_length=10)] = []
    pattern_notes: Prose | None = None
    therapist_relationship: Prose | None = None
    new_contacts: Annotated[list[NewContact], Field(max_length=30)] = []


class FocusAreaOut(InChart):
    """The record of the work in one focus area."""

    area: Area
    place: Literal["primary", "secondary"]
    status: Literal["active", "closed"]
    sub_state: str | None
    strategies: list[StrategyDone]
    relationship_id: UUID | None
    life_event_id: UUID | None
    patient_progress: int | None
    clinician_progress: int | None
    work: str | None = None
    grief: GriefWork | None = None
    dispute: DisputeWork | None = None
    transition: TransitionWork | None = None
    deficits: DeficitsWork | None = None
    plan_for_stage: str | None = Field(None, description="Dispute: the published plan for its stage")


class FocusOut(InChart):
    """The decision that stands, and its focus areas."""

    primary_area: Area
    secondary_area: Area | None
    reason: str
    patient_agreed: bool
    agrees_with_suggestion: bool | None
    classification_id: UUID | None
    decided_by: UUID
    decided_at: Moment
    flags: list[str]
    focus_areas: list[FocusAreaOut]


@router.get("/focus", response_model=FocusOut)
async def read_focus(call: Annotated[Call, needs("classification:read")], episode_id: UUID) -> Row:
    """Read the decision on the focus."""
    row, areas = await get_focus(call.visit, episode_id)
    call.saw(areas, "focus_area")
    return call.stored({**row, "focus_areas": areas}, with_more=True)


@router.put("/focus", response_model=FocusOut)
async def decide_focus(call: Annotated[Call, needs("classification:write")], episode_id: UUID, focus_in: FocusIn) -> Row:
    """Decide the focus: one primary area, at most one secondary. Needs a token that acts for a clinician."""
    values = focus_in.members()
    decided_at = values.pop("decided_at")
    call.made(await choose_focus(call.visit, episode_id, FocusChoice(**values), decided_at))
    row, areas = await get_focus(call.visit, episode_id)
    return call.stored({**row, "focus_areas": areas}, with_more=True)


class FocusAreaPatch(In):
    """Work in a focus area."""

    sub_state: Code | None = Field(None, description="Grief type, dispute stage, kind of transition or deficit; see /v1/problem-areas")
    strategies: Annotated[list[StrategyDone], Field(max_length=50)] = []
    relationship_id: UUID | None = None
    life_event_id: UUID | None = None
    patient_progress: Rating | None = None
    clinician_progress: Rating | None = None
    work: Prose | None = None
    grief: GriefWork | None = None
    dispute: DisputeWork | None = None
    transition: TransitionWork | None = None
    deficits: DeficitsWork | None = None


@router.get("/focus-areas/{focus_area_id}", response_model=FocusAreaOut)
async def read_focus_area(call: Annotated[Call, needs("classification:read")], episode_id: UUID, focus_area_id: UUID) -> Row:
    """Read the work in one focus area."""
    chart = await open_chart(call.visit, episode_id)
    row = call.stored(await get_in_chart(call.visit, focus_area, chart, focus_area_id))
    return (await with_plans(call.visit, chart, [row]))[0]


@router.patch("/focus-areas/{focus_area_id}", response_model=FocusAreaOut)
async def update_focus_area(
    call: Annotated[Call, needs("classification:write")], episode_id: UUID, focus_area_id: UUID, patch: FocusAreaPatch
) -> Row:
    """Record the sub-state, the strategies done, whom and what it is about, and progress."""
    return call.stored(await work_on_area(call.visit, episode_id, focus_area_id, plain_days(patch.sent())))


def plain_days(values: dict[str, Any]) -> dict[str, Any]:
    """Write the days of strategies as text, as JSON columns keep them."""
    for done in values.get("strategies", []):
        day = done.get("done_on")
        done["done_on"] = day.isoformat() if isinstance(day, date) else day
    return values


def plain_answers(values: dict[str, Any]) -> dict[str, Any]:
    """Write the ids in indicator answers as text, as JSON columns keep them."""
    plain = {code: {k: str(v) if isinstance(v, UUID) else v for k, v in answer.items()} for code, answer in values["answers"].items()}
    return {**values, "answers": plain}
