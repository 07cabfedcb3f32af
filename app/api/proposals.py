"""Indicators proposed from the inventory and from texts, for a clinician to confirm or refuse; history of runs; agreement."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from app.actions.agreement import read_agreement
from app.actions.proposals import decide_proposal, propose_from_text, read_proposals
from app.api.focus import ClassificationOut
from app.api.inventory import list_of, read_one
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Code, Day, In, Moment, NewId, Out, Prose, Text, Whole
from app.domain.agreement import HUMAN_KAPPA, STATEMENT
from app.store.database import Row
from app.store.tables.work import classification

router = Router(prefix="/v1", route_class=Route, tags=["classification"])

Place = Annotated[Whole, Field(ge=0, le=20_000)]


class ProposalOut(Out):
    """A proposal: an indicator that recorded facts, or a text, speak for. Nothing is answered by itself."""

    id: UUID
    episode_id: UUID
    version: int | None = Field(None, description="null while it is only derived from the inventory as it stands")
    indicator: str
    value: Literal["possible", "present", "not_applicable"]
    origin: Literal["inventory", "text"]
    because: str
    quote: str | None = Field(None, description="The span of the text that speaks for it")
    status: Literal["open", "confirmed", "refused"]
    relationship_id: UUID | None = None
    life_event_id: UUID | None = None
    decided_by: UUID | None = None
    decided_at: Moment | None = None
    reason: str | None = None


class ProposalList(Out):
    """Every proposal: those decided, those from texts, and those that the inventory supports now."""

    items: list[ProposalOut]


class TextProposalIn(In):
    """An indicator that a text speaks for: the text and the span. Only the span is kept."""

    id: NewId = None
    indicator: Code = Field(examples=["old_role_mourned"])
    text: Annotated[Text, Field(min_length=1, max_length=20_000)]
    start: Place
    end: Place


class ProposalDecisionIn(In):
    """The clinician's decision on a proposal."""

    decision: Literal["confirm", "refuse"]
    value: Literal["possible", "present", "not_applicable"] | None = Field(None, description="Another value than the proposed one")
    reason: Prose | None = None


@router.get("/episodes/{episode_id}/indicator-proposals", response_model=ProposalList)
async def list_indicator_proposals(call: Annotated[Call, needs("classification:read")], episode_id: UUID) -> Row:
    """List proposals with their evidence, derived from relationships and life events as they stand, and from texts."""
    return {"items": await read_proposals(call.visit, episode_id)}


@router.post("/episodes/{episode_id}/indicator-proposals", status_code=201, response_model=ProposalOut)
async def create_text_proposal(call: Annotated[Call, needs("classification:write")], episode_id: UUID, proposal_in: TextProposalIn) -> Row:
    """Propose an indicator from a text. It can only be `possible`, and never a gate; your own text analysis finds the span."""
    return call.made(await propose_from_text(call.visit, episode_id, proposal_in.members()))


@router.post("/episodes/{episode_id}/indicator-proposals/{proposal_id}/decision", response_model=ProposalOut)
async def decide_indicator_proposal(
    call: Annotated[Call, needs("classification:write")], episode_id: UUID, proposal_id: UUID, decision_in: ProposalDecisionIn
) -> Row:
    """Confirm a proposal (it becomes an indicator answer) or refuse it. Needs a token that acts for a clinician."""
    return await decide_proposal(call.visit, episode_id, proposal_id, decision_in.members())


class ClassificationPage(Out):
    """A page of runs, oldest first."""

    items: list[ClassificationOut]
    next: str | None


@router.get("/episodes/{episode_id}/classifications", response_model=ClassificationPage)
async def list_classifications(
    call: Annotated[Call, needs("classification:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """List every run of the classifier, each with the answers that it saw and its ruleset."""
    return await list_of(call, classification, episode_id, limit, cursor)


@router.get("/episodes/{episode_id}/classifications/{classification_id}", response_model=ClassificationOut)
async def read_one_classification(call: Annotated[Call, needs("classification:read")], episode_id: UUID, classification_id: UUID) -> Row:
    """Read one run."""
    return await read_one(call, classification, episode_id, classification_id)


class AgreementOut(Out):
    """Agreement on one question. null: fewer than ten pairs, or chance alone agrees always."""

    pairs: int
    observed: float | None = Field(description="0 to 1")
    kappa: float | None = Field(description="Cohen's kappa, -1 to 1")


class MonthOut(Out):
    """One month."""

    decisions: int
    override_rate: float | None


class AgreementStatistics(Out):
    """How far suggestions and decisions agree. It judges the ruleset, never a person."""

    decisions: int
    with_suggestion: int
    primary: AgreementOut
    areas: dict[str, AgreementOut]
    override_rate: float | None
    override_rate_by_area: dict[str, float | None]
    by_month: dict[str, MonthOut]
    human_kappa: dict[str, float] = Field(description="What human raters reached on the primary focus")
    statement: str


@router.get("/classification-agreement", response_model=AgreementStatistics)
async def read_classification_agreement(
    call: Annotated[Call, needs("classification:read")], decided_from: Day | None = None, decided_to: Day | None = None
) -> Row:
    """Read kappa per area and on the primary focus, override rates overall, by area and by month, over the partner's caseload."""
    found = await read_agreement(call.visit, decided_from, decided_to)
    members = ("pairs", "observed", "kappa")
    areas = {area: {m: getattr(a, m) for m in members} for area, a in found["areas"].items()}
    return {
        **found,
        "primary": {m: getattr(found["primary"], m) for m in members},
        "areas": areas,
        "human_kappa": HUMAN_KAPPA,
        "statement": STATEMENT,
    }
