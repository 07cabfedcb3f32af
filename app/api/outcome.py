"""Outcome, summary and pictures of a course."""

import asyncio
from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.actions.inventory import read_inventory
from app.actions.outcome import read_outcome, read_summary
from app.actions.trajectory import read_trajectory
from app.api.assessments import shown_trajectory
from app.api.inventory import Measures
from app.api.problems import ScopeMissing, Unavailable
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Out
from app.domain.protection import SHARING
from app.render.circles import Person, circles, initials
from app.render.letter import as_html, sections_of, shortened
from app.render.pdf import as_pdf
from app.render.trajectory import trajectory
from app.store.database import Row

router = Router(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["outcome"])

making = asyncio.Semaphore(2)  # letters in PDF at once, in one process
STILL = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}  # a document that runs nothing and fetches nothing


class VerdictOut(Out):
    """What one rule makes of a course; null where it cannot tell."""

    rule: Literal["nhs_talking_therapies", "phq9_only"]
    assessable: bool
    reason: str | None
    case_at_start: bool | None
    case_at_end: bool | None
    recovery: bool | None = Field(description="A case at the start and none at the end; null without caseness at the start")
    reliable_improvement: bool | None = Field(description="At least one reliably better and none reliably worse")
    reliable_deterioration: bool | None
    reliable_recovery: bool | None
    no_reliable_change: bool | None = Field(description="Everything else, one better and one worse included")


class JacobsonTruax(Out):
    """Reliable change with its parameters."""

    index: float | None = Field(description="The change in standard errors of the difference")
    reliable_beyond: float
    standard_error_of_difference: float
    published_index_points: float
    threshold_points: int


class Measured(Out):
    """One questionnaire from the first to the last score of the treatment."""

    code: str
    first: int
    last: int
    case_at_start: bool | None
    case_at_end: bool | None
    points: float | None
    reliable: str
    response: bool | None
    remission: bool | None
    jacobson_truax: JacobsonTruax | None


class RelationshipOutcome(Out):
    """How relationships changed: the inventory's measures when the middle phase began, and now."""

    at_the_middle: Measures | None
    now: Measures


class OutcomeOut(Out):
    """The outcome of one course, by both rules."""

    episode_id: UUID
    status: str
    finished_course: bool = Field(description="Ended, for whatever reason, with two attended contacts or more (NHS Talking Therapies)")
    attendance: dict[str, int]
    end_code: str | None = Field(description="NHS Talking Therapies end code")
    end_code_words: str | None
    verdicts: list[VerdictOut]
    instruments: list[Measured]
    relationships: RelationshipOutcome
    denominators: dict[str, str]


@router.get("/outcome", response_model=OutcomeOut)
async def read_episode_outcome(call: Annotated[Call, needs("assessments:read")], episode_id: UUID) -> Row:
    """Read the outcome: caseness, recovery, reliable change, by the NHS Talking Therapies rule and by the PHQ-9 alone."""
    return _plain(await read_outcome(call.visit, episode_id))


def _plain(found: Row) -> Row:
    pair = found["relationships"]
    shown = {k: None if m is None else {name: getattr(m, name) for name in Measures.model_fields} for k, m in pair.items()}
    return {**found, "relationships": shown}


class SummaryOut(Out):
    """What a discharge letter needs."""

    episode_id: UUID
    made_on: date
    patient: dict[str, Any]
    episode: dict[str, Any]
    protocol: dict[str, Any]
    contract: dict[str, Any] | None
    focus: dict[str, Any] | None
    focus_areas: list[dict[str, Any]]
    formulation: dict[str, Any] | None
    problems: list[dict[str, Any]]
    goals: list[dict[str, Any]]
    medications: list[dict[str, Any]]
    outcome: OutcomeOut
    scores: list[dict[str, Any]]
    risk_alerts: list[dict[str, Any]]
    termination: dict[str, Any] | None
    early_ending: dict[str, Any] | None
    follow_ups: list[dict[str, Any]]
    statement: str


_SCOPES = ("episodes:read", "inventory:read", "assessments:read", "classification:read", "termination:read", "risk:read")
_WHOLE, _LETTER = needs(*_SCOPES), needs(*_SCOPES, use=SHARING)


async def _summary(call: Call, episode_id: UUID) -> Row:
    found = await read_summary(call.visit, episode_id)
    return {**found, "outcome": _plain(found["outcome"])}


@router.get("/summary", response_model=SummaryOut)
async def read_episode_summary(call: Annotated[Call, _WHOLE], episode_id: UUID) -> Row:
    """Read what a discharge letter needs. Psychotherapy notes and the people of the inventory are not in it."""
    return await _summary(call, episode_id)


@router.get("/summary.html", response_class=Response, responses={200: {"content": {"text/html": {}}}})
async def read_summary_as_html(call: Annotated[Call, _LETTER], episode_id: UUID) -> Response:
    """Read the summary as a letter in HTML."""
    title, made_on, sections = _letter(await _summary(call, episode_id))
    return Response(as_html(title, made_on, sections), media_type="text/html; charset=utf-8", headers=STILL)


@router.get("/summary.pdf", response_class=Response, responses={200: {"content": {"application/pdf": {}}}})
async def read_summary_as_pdf(call: Annotated[Call, _LETTER], episode_id: UUID) -> Response:
    """Read the summary as a letter in PDF."""
    if making.locked():
        raise Unavailable("Letters are being made at this moment. Try again.")  # whoever waited here would hold a connection
    async with making:
        content = await run_in_threadpool(as_pdf, *_letter(await _summary(call, episode_id)))
    return Response(content, media_type="application/pdf", headers={"Content-Disposition": 'inline; filename="summary.pdf"'})


def _letter(found: Row) -> tuple[str, str, list[Any]]:
    return "Summary of the course of treatment", f"Made on {found['made_on']}.", shortened(sections_of(found))


@router.get("/inventory/circles.svg", response_class=Response, responses={200: {"content": {"image/svg+xml": {}}}})
async def draw_circles(
    call: Annotated[Call, needs("inventory:read")],
    episode_id: UUID,
    time_point: Literal["now", "before_onset", "wished"] = "now",
    names: bool = False,  # noqa: FBT001, FBT002 - a query parameter
) -> Response:
    """Draw the closeness circles. Initials stand for people; `names=true` shows their labels and needs the scope inventory:names."""
    if names and "inventory:names" not in call.visit.caller.scopes:
        raise ScopeMissing("inventory:names")
    people, *_ = await read_inventory(call.visit, episode_id)
    shown = [
        Person(
            mark=initials(p["label"]),
            words=p["label"] if names else p["relation_type"].replace("_", " "),
            status=p["status"],
            conflict=p["conflict_level"],
            rings={t: p[f"closeness_{t}"] for t in ("now", "before_onset", "wished")},
            angle=p["circle_angle"],
            radius_percent=p["circle_radius_percent"],
        )
        for p in people
    ]
    return Response(circles(shown, time_point), media_type="image/svg+xml", headers=STILL)


@router.get("/trajectory.svg", response_class=Response, responses={200: {"content": {"image/svg+xml": {}}}})
async def draw_trajectory(call: Annotated[Call, needs("assessments:read")], episode_id: UUID) -> Response:
    """Draw the trajectory: symptoms, social functioning and personality, one panel for each instrument, with phases and caseness."""
    found = shown_trajectory(await read_trajectory(call.visit, episode_id))
    plain = orjson.loads(orjson.dumps(found, default=str))
    return Response(trajectory(plain), media_type="image/svg+xml", headers=STILL)
