"""The interpersonal inventory: relationships and life events."""

from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from fastapi import Response
from pydantic import Field

from app.actions.inventory import add_to_chart, amend_in_chart, delete_in_chart, lift_safety_mark, read_inventory
from app.actions.records import get_in_chart, reveal
from app.actions.visit import open_chart
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Day, Flag, In, InChart, Label, Level, Moment, NewId, Out, Precision, Prose, Ring, Whole
from app.domain.inventory import reciprocity
from app.store.database import Row
from app.store.tables.inventory import life_event, relationship
from app.store.work import page_chart

router = Router(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["inventory"])

RelationType = Literal[
    "spouse_partner", "ex_partner", "parent", "step_parent", "child", "sibling", "grandparent", "in_law", "godparent", "co_wife",
    "head_of_household", "other_family", "friend", "colleague", "supervisor", "subordinate", "teacher", "neighbour", "faith_community",
    "carer", "professional", "other",
]  # fmt: skip
Pattern = Literal[
    "dependency", "hostility", "submission", "avoidance", "overgiving", "rejection_sensitive", "controlling", "inadequacy",
    "unexpressed_emotion", "other",
]  # fmt: skip
MourningSign = Literal[
    "missed_funeral", "never_cried", "numb", "avoids_reminders", "no_grave_visit", "belongings_kept", "kept_busy", "not_discussed",
    "guilt", "anger", "yearning", "preoccupation", "symptoms_like_deceased", "anniversary_trigger", "loss_not_recognised", "cause_hidden",
    "prevented", "not_customary",
]  # fmt: skip
EventType = Literal[
    "death", "pregnancy_loss", "anniversary", "separation", "divorce", "affair_discovered", "relationship_start", "marriage", "birth",
    "child_leaves_home", "parental_separation", "caregiving_start", "caregiving_end", "job_loss", "job_change", "promotion", "retirement",
    "education_start", "education_end", "course_change", "relocation", "migration", "status_change", "illness_diagnosis_self",
    "illness_other", "disability", "loss_of_driving", "financial_loss", "legal", "release", "coming_out", "business_change",
    "partner_job_change", "other",
]  # fmt: skip
Area = Literal["grief", "role_dispute", "role_transition", "interpersonal_deficits"]
Linked = Literal["none", "possible", "clear"]
RING = "1 (innermost) to 4"
Angle = Annotated[Whole, Field(ge=0, le=359)]
Percent = Annotated[Whole, Field(ge=0, le=100)]


class _Relationship(In):
    label: Label = Field("someone", examples=["husband", "M."], description="A nickname, the relation or initials; a full name is refused")
    relation_type: RelationType = "other"
    status: Literal["current", "past", "estranged", "deceased"] = "current"
    closeness_now: Ring | None = Field(None, description=RING)
    closeness_before_onset: Ring | None = Field(None, description=RING)
    closeness_wished: Ring | None = Field(None, description=RING)
    contact_frequency: Literal["daily", "weekly", "monthly", "yearly", "none"] | None = None
    contact_modes: Annotated[list[Literal["in_person", "phone", "video", "text", "other"]], Field(max_length=5)] = []
    shared_activities: Prose | None = None
    expects_of_other: Prose | None = None
    other_expects: Prose | None = None
    expectation_mismatch: Literal["none", "mild", "moderate", "severe", "unknown"] | None = None
    satisfying: Prose | None = None
    unsatisfying: Prose | None = None
    change_wanted: Prose | None = None
    change_wanted_in: Literal["self", "other", "both"] | None = None
    recent_change: Prose | None = Field(None, description="What changed lately")
    recent_change_on: Day | None = None
    recent_change_wanted: Flag | None = None
    circle_angle: Angle | None = Field(None, description="Where it was drawn by hand in the circles: degrees, clockwise from the top")
    circle_radius_percent: Percent | None = Field(None, description="How far out within its ring")
    lives_with: Flag | None = Field(None, description="Adolescents: lives with the patient")
    legal_guardian: Flag | None = None
    school_contact: Flag | None = None
    peer_group: Flag | None = None
    online_only: Flag | None = None
    parent_informed: Flag | None = Field(None, description="Agreed with the young person that this person is informed")
    support_received_emotional: Level | None = None
    support_received_practical: Level | None = None
    support_given_emotional: Level | None = None
    support_given_practical: Level | None = None
    confiding: Level | None = None
    conflict_level: Level | None = None
    conflict_style: Literal["overt", "covert", "mixed", "none"] | None = None
    dispute_stage: Literal["none", "renegotiation", "impasse", "dissolution"] | None = None
    dispute_setting: Literal["marriage", "family", "community", "school", "work"] | None = None
    patterns: Annotated[list[Pattern], Field(max_length=10)] = []
    linked_to_onset: Linked | None = None
    safety: Literal["none", "coercion", "violence", "stalking", "safeguarding_child"] = Field(
        "none", description="If set: dispute strategies and joint sessions with this person are barred, and a safeguarding alert opens"
    )
    death_date: Day | None = None
    death_date_precision: Precision | None = None
    death_cause: Prose | None = None
    death_circumstances: Prose | None = None
    relationship_quality: Prose | None = None
    mourning_signs: Annotated[list[MourningSign], Field(max_length=18)] = []
    source: Literal["patient", "clinician", "import"] = "patient"


class RelationshipIn(_Relationship):
    """A person who matters, now or in the past. Never needs a real name."""

    id: NewId = None
    label: Label
    relation_type: RelationType


class RelationshipPatch(_Relationship):
    """What changed about a relationship; every version is kept."""


class RelationshipOut(InChart, _Relationship):
    """A relationship of the inventory."""

    model_config = {"extra": "ignore"}
    reciprocity: int | None = Field(None, description="Support received minus given, -6 to 6; null where neither was rated")
    safety_lift_asked_at: Moment | None = Field(None, description="Lifting the safety mark waits for a second clinician")
    safety_lift_reason: str | None = None
    safety_sign_off: str | None = None


class RelationshipPage(Out):
    """A page of relationships."""

    items: list[RelationshipOut]
    next: str | None


class _LifeEvent(In):
    type: EventType = "other"
    happened_on: Day | None = None
    happened_on_precision: Precision | None = None
    imminent: Flag = Field(False, description="It is still to come")
    person_label: Label | None = None
    relationship_id: UUID | None = None
    wanted: Flag | None = None
    expected: Flag | None = None
    adapted: Flag | None = None
    linked_to_onset: Linked = "none"
    supports_lost: Prose | None = None
    note: Prose | None = None


class LifeEventIn(_LifeEvent):
    """A life event. One event carries one problem area."""

    id: NewId = None
    type: EventType


class LifeEventPatch(_LifeEvent):
    """What changed about a life event."""


class LifeEventOut(InChart, _LifeEvent):
    """A life event."""

    model_config = {"extra": "ignore"}


class LifeEventPage(Out):
    """A page of life events."""

    items: list[LifeEventOut]
    next: str | None


class Measures(Out):
    """Derived measures of the inventory (own design)."""

    relationships: int
    close_now: int = Field(description="Living people in rings 1 and 2")
    close_before_onset: int
    confidants: int = Field(description="Confiding 2 or 3 of 3")
    mean_closeness_gap: float | None = Field(description="Rings; positive: wished nearer than now")
    moves_since_onset: int
    conflict_share: float | None = Field(description="0 to 1: people with conflict 2 or 3 of 3")
    support_balance: float | None = Field(description="Support received minus given")


class InventoryOut(Out):
    """The whole interpersonal inventory."""

    episode_id: UUID
    relationships: list[RelationshipOut]
    life_events: list[LifeEventOut]
    measures: Measures
    completeness: float = Field(description="0 to 1 (own design)")
    next_questions: list[str] = Field(description="What to ask next, most useful first")


@router.get("/inventory", response_model=InventoryOut)
async def read_whole_inventory(call: Annotated[Call, needs("inventory:read")], episode_id: UUID) -> Row:
    """Read the whole inventory with what it measures, how complete it is, and what to ask next."""
    people, events, found, share, questions = await read_inventory(call.visit, episode_id)
    return {
        "episode_id": episode_id,
        "relationships": [{**p, "reciprocity": reciprocity(p)} for p in people],
        "life_events": events,
        "measures": {name: getattr(found, name) for name in Measures.model_fields},
        "completeness": share,
        "next_questions": questions,
    }


async def list_of(call: Call, table: sa.Table, episode_id: UUID, limit: int, cursor: str | None, **filters: Any) -> Row:
    """List one page of an episode's rows of a table."""
    chart = await open_chart(call.visit, episode_id)
    pager = call.pager(limit, cursor, filters)
    items, following = pager.cut(await page_chart(call.visit.connection, table, episode_id, filters, pager.after, limit), "id")
    call.saw(items, table.name)
    return {"items": [reveal(chart.key, table, r) for r in items], "next": following}


async def read_one(call: Call, table: sa.Table, episode_id: UUID, row_id: UUID) -> Row:
    """Read one row of an episode with its ETag."""
    chart = await open_chart(call.visit, episode_id)
    return call.stored(await get_in_chart(call.visit, table, chart, row_id))


@router.post("/relationships", status_code=201, response_model=RelationshipOut)
async def create_relationship(call: Annotated[Call, needs("inventory:write")], episode_id: UUID, relationship_in: RelationshipIn) -> Row:
    """Add a person to the inventory."""
    made = await add_to_chart(call.visit, relationship, episode_id, relationship_in.members())
    return call.made(made, f"/v1/episodes/{episode_id}/relationships/{{id}}")


@router.get("/relationships", response_model=RelationshipPage)
async def list_relationships(
    call: Annotated[Call, needs("inventory:read")],
    episode_id: UUID,
    status: Literal["current", "past", "estranged", "deceased"] | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List the people of the inventory."""
    return await list_of(call, relationship, episode_id, limit, cursor, status=status)


@router.get("/relationships/{relationship_id}", response_model=RelationshipOut)
async def read_relationship(call: Annotated[Call, needs("inventory:read")], episode_id: UUID, relationship_id: UUID) -> Row:
    """Read one relationship."""
    return await read_one(call, relationship, episode_id, relationship_id)


@router.patch("/relationships/{relationship_id}", response_model=RelationshipOut)
async def update_relationship(
    call: Annotated[Call, needs("inventory:write")], episode_id: UUID, relationship_id: UUID, patch: RelationshipPatch
) -> Row:
    """Revise a relationship; the version before is kept."""
    return call.stored(await amend_in_chart(call.visit, relationship, episode_id, relationship_id, patch.sent()))


@router.delete("/relationships/{relationship_id}", status_code=204)
async def delete_relationship(call: Annotated[Call, needs("inventory:write")], episode_id: UUID, relationship_id: UUID) -> Response:
    """Take a relationship out of the inventory; its history stays."""
    await delete_in_chart(call.visit, relationship, episode_id, relationship_id)
    return Response(status_code=204)


class SafetyLiftIn(In):
    """Why a safety mark may be lifted."""

    reason: Prose


@router.post("/relationships/{relationship_id}/safety-lift", status_code=201, response_model=RelationshipOut)
async def lift_relationship_safety(
    call: Annotated[Call, needs("inventory:write")], episode_id: UUID, relationship_id: UUID, safety_lift_in: SafetyLiftIn
) -> Row:
    """Ask, as the lead clinician, to lift a safety mark; a second clinician of the care team signs off with the same request, and it is lifted."""
    return call.made(await lift_safety_mark(call.visit, episode_id, relationship_id, safety_lift_in.reason))


@router.post("/life-events", status_code=201, response_model=LifeEventOut)
async def create_life_event(call: Annotated[Call, needs("inventory:write")], episode_id: UUID, life_event_in: LifeEventIn) -> Row:
    """Add a life event."""
    made = await add_to_chart(call.visit, life_event, episode_id, life_event_in.members())
    return call.made(made, f"/v1/episodes/{episode_id}/life-events/{{id}}")


@router.get("/life-events", response_model=LifeEventPage)
async def list_life_events(call: Annotated[Call, needs("inventory:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """List the life events."""
    return await list_of(call, life_event, episode_id, limit, cursor)


@router.get("/life-events/{life_event_id}", response_model=LifeEventOut)
async def read_life_event(call: Annotated[Call, needs("inventory:read")], episode_id: UUID, life_event_id: UUID) -> Row:
    """Read one life event."""
    return await read_one(call, life_event, episode_id, life_event_id)


@router.patch("/life-events/{life_event_id}", response_model=LifeEventOut)
async def update_life_event(call: Annotated[Call, needs("inventory:write")], episode_id: UUID, life_event_id: UUID, patch: LifeEventPatch) -> Row:
    """Revise a life event; the version before is kept."""
    return call.stored(await amend_in_chart(call.visit, life_event, episode_id, life_event_id, patch.sent()))


@router.delete("/life-events/{life_event_id}", status_code=204)
async def delete_life_event(call: Annotated[Call, needs("inventory:write")], episode_id: UUID, life_event_id: UUID) -> Response:
    """Take a life event out; its history stays."""
    await delete_in_chart(call.visit, life_event, episode_id, life_event_id)
    return Response(status_code=204)
