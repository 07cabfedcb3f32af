"""The patient's list of problems, rated, and the goals agreed."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from app.actions.inventory import add_to_chart, amend_in_chart
from app.api.inventory import Area, list_of, read_one
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Day, Flag, In, InChart, NewId, Out, Prose, Rating
from app.store.database import Row
from app.store.tables.inventory import goal, problem

router = Router(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["inventory"])


class _Problem(In):
    text: Prose = ""
    area: Area | None = None
    relationship_ids: Annotated[list[UUID], Field(max_length=20)] = []
    severity: Rating | None = None
    difficulty: Rating | None = None
    link_to_mood: Rating | None = None
    readiness: Rating | None = None
    agreed_focus: Flag = False


class ProblemIn(_Problem):
    """A concern in the patient's words, rated 0 to 10."""

    id: NewId = None
    text: Prose = Field(examples=["We do not talk any more."])


class ProblemPatch(_Problem):
    """What changed about a concern."""


class ProblemOut(InChart, _Problem):
    """A concern of the patient."""

    model_config = {"extra": "ignore"}


class ProblemPage(Out):
    """A page of concerns."""

    items: list[ProblemOut]
    next: str | None


class _Goal(In):
    text: Prose = ""
    term: Literal["short", "long"] = "short"
    area: Area | None = None
    attainment: Rating | None = None
    met_on: Day | None = None


class GoalIn(_Goal):
    """A goal agreed with the patient."""

    id: NewId = None
    text: Prose


class GoalPatch(_Goal):
    """What changed about a goal."""


class GoalOut(InChart, _Goal):
    """A goal."""

    model_config = {"extra": "ignore"}


class GoalPage(Out):
    """A page of goals."""

    items: list[GoalOut]
    next: str | None


@router.post("/problems", status_code=201, response_model=ProblemOut)
async def create_problem(call: Annotated[Call, needs("inventory:write")], episode_id: UUID, problem_in: ProblemIn) -> Row:
    """Add a concern to the patient's list, rated by patient and therapist."""
    made = await add_to_chart(call.visit, problem, episode_id, plain_ids(problem_in.members()))
    return call.made(made, f"/v1/episodes/{episode_id}/problems/{{id}}")


@router.get("/problems", response_model=ProblemPage)
async def list_problems(call: Annotated[Call, needs("inventory:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """List the patient's concerns."""
    return await list_of(call, problem, episode_id, limit, cursor)


@router.get("/problems/{problem_id}", response_model=ProblemOut)
async def read_problem(call: Annotated[Call, needs("inventory:read")], episode_id: UUID, problem_id: UUID) -> Row:
    """Read one concern."""
    return await read_one(call, problem, episode_id, problem_id)


@router.patch("/problems/{problem_id}", response_model=ProblemOut)
async def update_problem(call: Annotated[Call, needs("inventory:write")], episode_id: UUID, problem_id: UUID, patch: ProblemPatch) -> Row:
    """Rate a concern anew."""
    return call.stored(await amend_in_chart(call.visit, problem, episode_id, problem_id, plain_ids(patch.sent())))


@router.post("/goals", status_code=201, response_model=GoalOut)
async def create_goal(call: Annotated[Call, needs("inventory:write")], episode_id: UUID, goal_in: GoalIn) -> Row:
    """Add a goal."""
    made = await add_to_chart(call.visit, goal, episode_id, goal_in.members())
    return call.made(made, f"/v1/episodes/{episode_id}/goals/{{id}}")


@router.get("/goals", response_model=GoalPage)
async def list_goals(call: Annotated[Call, needs("inventory:read")], episode_id: UUID, limit: Limit = 50, cursor: Cursor = None) -> Row:
    """List the goals."""
    return await list_of(call, goal, episode_id, limit, cursor)


@router.get("/goals/{goal_id}", response_model=GoalOut)
async def read_goal(call: Annotated[Call, needs("inventory:read")], episode_id: UUID, goal_id: UUID) -> Row:
    """Read one goal."""
    return await read_one(call, goal, episode_id, goal_id)


@router.patch("/goals/{goal_id}", response_model=GoalOut)
async def update_goal(call: Annotated[Call, needs("inventory:write")], episode_id: UUID, goal_id: UUID, patch: GoalPatch) -> Row:
    """Record how far a goal is reached."""
    return call.stored(await amend_in_chart(call.visit, goal, episode_id, goal_id, patch.sent()))


def plain_ids(values: dict[str, Any]) -> dict[str, Any]:
    """Write the ids of a list as text, as JSON columns keep them."""
    if "relationship_ids" in values:
        values["relationship_ids"] = [str(i) for i in values["relationship_ids"]]
    return values
