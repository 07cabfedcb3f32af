"""Anonymised outcomes: tables with noise, out of a privacy budget. What they promise: docs/privacy.md."""

import csv
import io
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from starlette.responses import Response

from app.actions.outcome_tables import SHOWN_AFTER, described, is_ready, order_table, read_offer, read_table
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import In, Moment, Out
from app.domain.anonymity import COLUMNS, LEVELS
from app.domain.errors import Conflict
from app.domain.outcome_tables import (
    CAPS,
    CONSUMER_CAP,
    EPSILONS,
    HIGHEST_CAP,
    MICRO,
    ROUNDED_TO,
    SHOWN_FROM,
    advantage,
    dimensions,
    families,
    question_from,
    schema_version,
    schema_versions,
)
from app.domain.quarters import QUARTERS_KEPT, frozen_by, quarter_from, quarter_of
from app.render.chart import Dot, Picture, chart
from app.render.files import cell
from app.store.database import Row

router = Router(prefix="/v1/outcomes", route_class=Route, tags=["outcomes"])
STILL = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'", "X-Content-Type-Options": "nosniff"}
NEXT_QUARTERS = 4


class TableNotReady(Conflict):
    """The table is being made: read it again once its ready_at has passed."""


class QuestionIn(In):
    """One table."""

    dataset: Literal["partner", "network"] = Field("partner", description="Your own patients, or those of every partner that has joined")
    period: Annotated[str, Field(max_length=10, examples=["2026Q3"])] = Field(description="A frozen quarter")
    family: Annotated[str, Field(max_length=60, examples=["recovery"])]
    dimensions: Annotated[list[Annotated[str, Field(max_length=60)]], Field(max_length=10)] = Field(
        default_factory=list, examples=[["area"]], description="None, one or two of the codebook's; their order does not matter"
    )
    epsilon: Annotated[float, Field(ge=0, le=10)] = Field(0.5, description="What it costs, and how exact it is: 0.25, 0.5 or 1", examples=[0.5])


class MeasureOut(Out):
    """A figure. `value` is null when `suppressed`: fewer than 11 people after the noise, whatever the true number is."""

    name: str
    unit: str = Field(description="persons (rounded to 5), share (0 to 1), points")
    value: float | None
    suppressed: bool
    accuracy_95: float | None = Field(
        description="Over all cells, shown or not, noise and rounding move at least 95 % of true figures by no more than this; a very small cell that noise lifts above 11 is off by more"
    )


class CellOut(Out):
    """One cell. Every cell of the codebook is there, also where nobody was treated."""

    categories: dict[str, str]
    measures: list[MeasureOut]


class TableListed(Out):
    """A table, without its numbers."""

    id: UUID
    status: str = Field(description="ordered, then ready")
    schema_version: int
    dataset: str
    period: str
    family: str
    dimensions: list[str]
    micro_epsilon: int
    standard: bool = Field(description="Part of the standard quarterly pack, which is free for everyone")
    ready_at: Moment | None = Field(description="While it is ordered: when to read it again")


class TableOut(TableListed):
    """A table. Once it is ready it never changes: the same bytes for everybody who asks the same."""

    mechanism: dict[str, Any] | None = Field(description="The noise: distribution, scales, sensitivity, library")
    cells: list[CellOut] | None


class PeriodOut(Out):
    """A quarter of a data set, and what is left of its budget (micro-epsilon)."""

    dataset: str
    period: str
    state: str = Field(description="askable, not_frozen_yet, or network_too_small")
    frozen_at: Moment | None
    micro_epsilon_left: dict[str, int] = Field(description="By scope: population, and follow_up for the two families of follow-up")


class OwnBudget(Out):
    """What is left of this client's own budget for a quarter."""

    period: str
    micro_epsilon_left: int


class FamilyOffer(Out):
    """A family that can be asked for."""

    code: str
    title: str
    scope: str
    measures: list[str]


class Offer(Out):
    """What can be asked, what it costs, what is left."""

    schema_version: int
    families: list[FamilyOffer]
    dimensions: dict[str, list[str]]
    epsilons: list[float]
    periods: list[PeriodOut]
    consumer: list[OwnBudget]
    tables: list[TableListed] = Field(description="What this client may read at no cost: the standard pack, and what it has asked for")


@router.get("/tables", response_model=Offer)
async def read_offered_tables(
    call: Annotated[Call, needs("outcomes:read")], period: Annotated[str | None, Query(max_length=10, description="One quarter alone")] = None
) -> Row:
    """Read what can be asked, what it costs, what is left of the budgets, and which tables are there for you."""
    call.of_this_moment = True
    known = [{"code": f.code, "title": f.title, "scope": f.scope, "measures": _measures(f)} for f in families().values()]
    return {
        "schema_version": schema_version(),
        "families": known,
        "dimensions": {d.code: list(d.categories) for d in dimensions().values()},
        "epsilons": list(EPSILONS),
        **await read_offer(call.visit, None if period is None else quarter_from(period)),
    }


def _measures(family: Any) -> list[str]:
    return [f"mean_{c.name}" if c.of == "number" else c.name for c in family.components]


@router.post("/tables", response_model=TableOut, status_code=202, responses={200: {"model": TableOut}})
async def ask_for_table(call: Annotated[Call, needs("outcomes:read")], question_in: QuestionIn) -> Row:
    """Ask for a table. It is charged once, to you and to the data set; asked again it is free and the same.

    202 with the table's id while it is being made (read it from `ready_at` on), 200 with the table when you have asked before.
    """
    asked = question_in.members()
    question = question_from(asked["dataset"], quarter_from(asked["period"]), asked["family"], asked["dimensions"], asked["epsilon"])
    release = await order_table(call.visit, question)
    ready = is_ready(release, call.visit.now)
    call.status = 200 if ready else 202
    call.headers["Location"] = f"/v1/outcomes/tables/{release['id']}"
    if not ready:
        call.headers["Retry-After"] = str(int(SHOWN_AFTER.total_seconds()))
    return described(release, call.visit.now)


@router.get("/tables/{table_id}", response_model=TableOut, responses={200: {"content": {"text/csv": {}}}})
async def read_outcome_table(
    call: Annotated[Call, needs("outcomes:read")],
    table_id: UUID,
    format: Literal["json", "csv"] = "json",  # noqa: A002 - the parameter's name on the wire
) -> Any:
    """Read a table that you have asked for, or one of the standard pack."""
    found = await read_table(call.visit, table_id)
    if format == "json":
        return found
    return Response(_as_csv(_ready(found)), media_type="text/csv; charset=utf-8", headers={"Content-Disposition": _named(found, "csv")})


def _ready(found: Row) -> Row:
    if found["status"] != "ready":
        raise TableNotReady
    return found


def _named(found: Row, ending: str) -> str:
    parts = [found["dataset"], found["period"], found["family"], *found["dimensions"]]
    return f'attachment; filename="{"-".join(parts)}.{ending}"'


def _as_csv(found: Row) -> str:
    """Return the table in long form: one line for each figure."""
    out = io.StringIO(newline="")
    rows = csv.writer(out, lineterminator="\r\n")
    head = ["dataset", "period", "family", "micro_epsilon", *found["dimensions"], "measure", "unit", "value", "suppressed", "accuracy_95"]
    rows.writerow(head)
    for one in found["cells"]:
        place = [found["dataset"], found["period"], found["family"], found["micro_epsilon"], *(one["categories"][d] for d in found["dimensions"])]
        for m in one["measures"]:
            rows.writerow([cell(v) for v in (*place, m["name"], m["unit"], m["value"], m["suppressed"], m["accuracy_95"])])
    return out.getvalue()


@router.get("/tables/{table_id}/chart.svg", response_class=Response, responses={200: {"content": {"image/svg+xml": {}}}})
async def draw_table(call: Annotated[Call, needs("outcomes:read")], table_id: UUID) -> Response:
    """Draw a table: a dot for each figure and a line for where the true one lies with 95 %; what is not shown is said to be so."""
    picture = _picture(_ready(await read_table(call.visit, table_id)))
    return Response(await run_in_threadpool(chart, picture), media_type="image/svg+xml", headers=STILL)


AXES = {"share": ("share", 0.0, 1.0), "points": ("points (positive is better)", -15.0, 15.0), "persons": ("persons", 0.0, None)}


def _picture(found: Row) -> Picture:
    family = families()[found["family"]]
    whole = 0 if family.shows in {"count", "distribution"} else 1  # the denominator is not drawn beside its shares
    dots = []
    for one in found["cells"]:
        measures = one["measures"][whole:]
        place = " · ".join(one["categories"].values())
        for m in measures:
            row, series = place or family.title, m["name"] if len(measures) > 1 else ""
            if family.shows == "distribution":
                row, series = " · ".join(part for part in (place, m["name"]) if part), ""
            dots.append(Dot(row, series, m["value"], m["accuracy_95"]))
    unit = found["cells"][0]["measures"][whole]["unit"]
    axis, low, high = AXES[unit]
    if unit == "persons":
        high = max([1.0, *((d.value or 0) + (d.accuracy or 0) for d in dots)])
    by = " and ".join(found["dimensions"]).replace("_", " ")
    note = (
        f"Noise was added to every number (epsilon {found['micro_epsilon'] / MICRO:g}). Lines: the true figure, with 95 %."
        f" Below {SHOWN_FROM} people nothing is shown. Cells do not add up."
    )
    title = f"{family.title}{f' by {by}' if by else ''}, {found['period']}, {'own patients' if found['dataset'] == 'partner' else 'network'}"
    return Picture(title, note, axis, low, high, tuple(dots))


class CodebookDimension(Out):
    """A dimension and every category that it can have."""

    code: str
    title: str
    definition: str
    source: str
    categories: list[str]


class CodebookFamily(Out):
    """A family of figures: its definition, its denominator, its source."""

    code: str
    title: str
    definition: str
    denominator: str
    source: str
    shows: str
    counted: str = Field(description="What one row is: a course that ended, or a follow-up at 3 or 6 months")
    measures: list[str]
    sensitivity: list[int] = Field(description="For each group of numbers that get their noise together, the most that one person changes")


class ExtractColumn(Out):
    """A column of an extract, and how it may have been made coarser: the manifest names the level."""

    name: str
    definition: str
    levels: list[str] = Field(description="From the finest on; empty: it is given as it is")


class Codebook(Out):
    """What every word of a table means."""

    schema_version: int
    schema_versions: list[dict[str, Any]]
    unit_of_privacy: str
    dimensions: list[CodebookDimension]
    families: list[CodebookFamily]
    shown_from: int
    rounded_to: int
    caps_micro_epsilon: dict[str, int]
    highest_cap_micro_epsilon: int
    extract_columns: list[ExtractColumn]
    advantage_at: dict[str, float] = Field(description="By epsilon: the most by which anybody can do better than guessing whether one person is in")


UNIT = "One person, as one partner knows them, in one quarter: one course that ended, and one follow-up of each kind; three of each in a lifetime."


@router.get("/codebook", response_model=Codebook)
async def read_codebook(call: Annotated[Call, needs("outcomes:read")]) -> Row:
    """Read what each dimension, category and figure means, its denominator and source, and what the privacy figures are."""
    del call
    known = [
        {name: getattr(f, name) for name in ("code", "title", "definition", "denominator", "source", "shows")}
        | {"counted": f.fact, "measures": _measures(f), "sensitivity": [s for _, s, _ in f.shares]}
        for f in families().values()
    ]
    return {
        "schema_version": schema_version(),
        "schema_versions": schema_versions(),
        "unit_of_privacy": UNIT,
        "dimensions": [{name: getattr(d, name) for name in CodebookDimension.model_fields} for d in dimensions().values()],
        "families": known,
        "shown_from": SHOWN_FROM,
        "rounded_to": ROUNDED_TO,
        "caps_micro_epsilon": {f"{dataset}.{scope}": cap for (dataset, scope), cap in CAPS.items()} | {"consumer": CONSUMER_CAP},
        "highest_cap_micro_epsilon": HIGHEST_CAP,
        "extract_columns": [{"name": n, "definition": d, "levels": list(LEVELS.get(n, ()))} for n, d in COLUMNS.items()],
        "advantage_at": {str(e): round(advantage(e), 3) for e in (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 4.5)},
    }


class CalendarQuarter(Out):
    """A quarter: when it begins and ends (UTC), and when it is frozen and its standard pack released."""

    period: str
    begins: Moment
    ends: Moment
    freezes: Moment = Field(description="At the earliest: the worker looks every five minutes, and a new partner has 14 days")
    due: bool = Field(description="Whether it has ended and its grace is over")


class Calendar(Out):
    """The release calendar: the quarters that can be asked about, and the next ones."""

    quarters: list[CalendarQuarter]


@router.get("/calendar", response_model=Calendar)
async def read_release_calendar(call: Annotated[Call, needs("outcomes:read")]) -> Row:
    """Read when each quarter is frozen and its standard pack released. Twelve quarters are kept."""
    now = call.visit.now
    kept = frozen_by(now)
    coming = [quarter_of(now).later(n) for n in range(-1, NEXT_QUARTERS)]
    quarters = sorted({*kept, *(q for q in coming if q > kept[-1])})[: QUARTERS_KEPT + NEXT_QUARTERS]
    call.of_this_moment = True
    return {"quarters": [{"period": str(q), "begins": q.begins, "ends": q.ends, "freezes": q.freezes, "due": q.freezes <= now} for q in quarters]}
