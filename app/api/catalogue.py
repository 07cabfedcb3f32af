"""The catalogue: protocols, instruments, techniques, problem areas. The same for every partner, open and cacheable."""

import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import Field
from starlette.responses import Response

from app.api.routing import Router
from app.api.shapes import Out
from app.domain.instruments import Instrument, instrument, instruments
from app.domain.problem_area import DISCLAIMER, ruleset
from app.domain.protocols import protocol, protocols
from app.domain.techniques import techniques

MAX_AGE = "public, max-age=3600"


class PublicRoute(APIRoute):
    """A route without a caller: it reads the catalogue, never a partner's data."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Add the ETag of the body, and answer 304 to those who know it."""
        inner = super().get_route_handler()

        async def answer(request: Request) -> Response:
            response = await inner(request)
            etag = f'"{hashlib.sha256(bytes(response.body)).hexdigest()[:32]}"'
            known = request.headers.get("if-none-match", "")
            if etag in (part.strip().removeprefix("W/") for part in known.split(",")):
                response = Response(status_code=304)
            response.headers.update({"ETag": etag, "Cache-Control": MAX_AGE})
            return response

        return answer


router = Router(prefix="/v1", route_class=PublicRoute, tags=["catalogue"])


class FigureOut(Out):
    """A figure and where it comes from: published, seed (the founding description), own_design, or unverified."""

    figure: str
    mark: str
    source: str


class ProtocolTask(Out):
    """A task of the protocol."""

    code: str
    phase: str
    title: str
    met_by: str
    gate: bool
    source: str


class DueInstrumentOut(Out):
    """An instrument that the protocol asks for, and when."""

    code: str
    due: str
    respondent: str


class ProtocolOut(Out):
    """A treatment protocol, one version of it."""

    code: str
    version: int
    name: str
    format: str
    population: str
    age_min: int
    age_max: int
    specialist: bool
    four_areas: bool = Field(description="Whether the four problem areas and their classifier belong to it")
    no_areas_reason: str = Field(description="Why they do not; empty where they do")
    sessions_min: int
    sessions_max: int
    weeks_min: int
    weeks_max: int
    minutes: int
    minutes_max: int
    extension_weeks_min: int
    initial_sessions_min: int
    initial_sessions_max: int
    middle_sessions_min: int
    termination_weeks: int
    pre_sessions: int = Field(description="Individual meetings before the first numbered session")
    parent_sessions: int
    group_min: int
    group_max: int
    boundaries: dict[str, tuple[int, int]] = Field(description="Session numbers (first, last) of each phase; empty: no fixed phases")
    instruments: list[DueInstrumentOut]
    departures: list[str] = Field(description="Where it departs from the founding description, in words")
    indications: list[str] = Field(description="Contraindications of other protocols that this one is for")
    sources: list[FigureOut]
    tasks: list[ProtocolTask]
    origin: str = "catalogue"


class ProtocolList(Out):
    """Every protocol."""

    items: list[ProtocolOut]


class ItemOut(Out):
    """An item of an instrument. `text` is null where its licence does not let us ship the wording."""

    number: int
    topic: str
    text: str | None
    loinc: str | None
    value_min: int
    value_max: int
    answers: list[str] = Field(description="The words of its answers, where they are not the instrument's")
    scale: str | None = Field(description="The octant, domain or sub-scale that it belongs to")


class RiskItemOut(Out):
    """An item about harm and the level that each answer raises."""

    item: int
    levels: dict[str, str]
    missing_is_unknown: bool


class BandOut(Out):
    """A band of severity, both ends included."""

    code: str
    low: int
    high: int


class InstrumentOut(Out):
    """An instrument: wording as far as its licence goes, scoring, thresholds, sources."""

    code: str
    version: int
    name: str
    component: str
    respondents: list[str]
    wording: str = Field(description="`shipped`, or `bring_your_own`: you hold the licence and show the text; answers come in by item number")
    licence: str
    locales: list[str]
    locale: str | None = Field(description="The language of the wording shown here")
    method: str = Field(description="sum, domains (highest item of each), mean, or circumplex (means by octant)")
    stem: str
    answers: list[str]
    value_min: int
    value_max: int
    total_max: int | None
    missing_allowed: int
    may_be_missing: list[int] = Field(description="Which items may be missing; empty: any")
    lower_is_better: bool
    caseness: int | None
    reliable_change: int | None
    reliable_change_index: float | None
    remission_below: int | None
    screening_cut_teens: int | None
    headline: str | None = Field(description="The scale that stands for an instrument without a sum")
    risk_items: list[RiskItemOut]
    difficulty: dict[str, Any] | None = Field(description="An unscored question on the difficulty that the problems make")
    loinc_panel: str | None
    loinc_total: str | None
    note: str
    items: list[ItemOut]
    bands: list[BandOut]
    sources: list[FigureOut]


class InstrumentList(Out):
    """Every instrument."""

    items: list[InstrumentOut]


class TechniqueOut(Out):
    """A technique of IPT."""

    code: str
    name: str
    definition: str
    areas: list[str] = Field(description="The areas that it fits; empty: all")
    mark: str


class TechniqueList(Out):
    """Every technique."""

    items: list[TechniqueOut]


class IndicatorOut(Out):
    """An indicator of the classifier."""

    code: str
    kind: str
    weight: int
    text: str
    question: str
    role: str


class ProblemAreaOut(Out):
    """A problem area with its sub-states, strategies and indicators."""

    code: str
    name: str
    definition: str
    sub_state_name: str
    sub_states: list[str]
    strategies: list[str]
    rater_kappa: float = Field(description="How far human raters agree that the area is present (Markowitz et al. 2000)")
    source: str
    gate: IndicatorOut
    indicators: list[IndicatorOut]


class ProblemAreaList(Out):
    """The ruleset: thresholds and the four areas. Every weight is own design."""

    ruleset: str
    likely_from: int
    possible_from: int
    provisional_below_coverage: float
    tie_within: int
    max_areas_in_focus: int
    mark: str
    disclaimer: str
    items: list[ProblemAreaOut]


@router.get("/protocols", response_model=ProtocolList)
async def list_protocols() -> dict[str, Any]:
    """List the treatment protocols."""
    return {"items": [asdict(p) for p in protocols().values()]}


@router.get("/protocols/{code}", response_model=ProtocolOut)
async def read_protocol(code: str, version: int | None = None) -> dict[str, Any]:
    """Read a protocol, its newest version unless one is named."""
    return asdict(protocol(code, version))


@router.get("/instruments", response_model=InstrumentList)
async def list_instruments() -> dict[str, Any]:
    """List the instruments."""
    return {"items": [_worded(i, None) for i in instruments().values()]}


@router.get("/instruments/{code}", response_model=InstrumentOut)
async def read_instrument(code: str, locale: str | None = None) -> dict[str, Any]:
    """Read an instrument, in a language that it has (see `locales`); another one falls back to the first."""
    return _worded(instrument(code), locale)


def _worded(known: Instrument, locale: str | None) -> dict[str, Any]:
    """Return an instrument with its wording in one language."""
    plain = asdict(known)
    translation = known.translations.get(locale or "")
    if translation is None:
        return {**plain, "locale": known.locales[0] if known.locales else None}
    items = [{**item, "text": words} for item, words in zip(plain["items"], translation["items"], strict=True)]
    return {**plain, "locale": locale, "stem": translation["stem"], "answers": translation["answers"], "items": items}


@router.get("/techniques", response_model=TechniqueList)
async def list_techniques() -> dict[str, Any]:
    """List the techniques."""
    return {"items": [asdict(t) for t in techniques().values()]}


@router.get("/problem-areas", response_model=ProblemAreaList)
async def list_problem_areas() -> dict[str, Any]:
    """List the four problem areas with every indicator and weight of the ruleset."""
    rules = asdict(ruleset())
    return {**rules, "ruleset": rules["version"], "items": rules["areas"], "mark": "own_design", "disclaimer": DISCLAIMER}
