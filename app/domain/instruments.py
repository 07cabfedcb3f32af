"""Instruments: the definitions of questionnaires, read from the catalogue as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from app.domain.errors import NotFound
from app.domain.protocols import Figure
from app.domain.reading import read_catalogue

ADULT_AGE = 18


@dataclass(frozen=True, slots=True)
class Item:
    """One item: its number, topic, wording where its licence lets us ship it, range, and how it is scored.

    `values` maps an answer to the points that it scores (a reversed item, a 0 to 100 recoding); empty: the answer itself.
    `scale` names the octant, domain or sub-scale that it belongs to.
    """

    number: int
    topic: str
    text: str | None
    loinc: str | None
    value_min: int
    value_max: int
    values: Mapping[int, int]
    scale: str | None
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RiskItem:
    """An item about harm: the level that each answer raises. Left unanswered it is an unknown risk, unless it is asked only after others."""

    item: int
    levels: Mapping[str, str]
    missing_is_unknown: bool = True


@dataclass(frozen=True, slots=True)
class Band:
    """A band of severity: totals from `low` to `high`, both inclusive."""

    code: str
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Instrument:
    """The definition of a questionnaire: items, scoring, bands, thresholds and their sources.

    `wording` is shipped (the items' texts stand here) or bring_your_own (only numbers and topics: the customer holds the
    licence and shows the text; answers come in by item number all the same). `headline` names the scale that is the score of an instrument
    without a sum; None: it has no single score. `may_be_missing` names the items that `missing_allowed` is about; empty: any. `reliable_change` and `caseness` are in points of the score.
    """

    code: str
    version: int
    name: str
    component: str
    respondents: tuple[str, ...]
    wording: str
    licence: str
    locales: tuple[str, ...]
    method: str
    stem: str
    answers: tuple[str, ...]
    value_min: int
    value_max: int
    total_max: int | None
    missing_allowed: int
    may_be_missing: tuple[int, ...]
    lower_is_better: bool
    caseness: int | None
    reliable_change: int | None
    reliable_change_index: float | None
    remission_below: int | None
    response: bool
    screening_cut_teens: int | None
    headline: str | None
    items: tuple[Item, ...]
    bands: tuple[Band, ...]
    risk_items: tuple[RiskItem, ...]
    sources: tuple[Figure, ...]
    note: str
    difficulty: Mapping[str, Any] | None = None
    loinc_panel: str | None = None
    loinc_total: str | None = None
    translations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@cache
def instruments() -> Mapping[str, Instrument]:
    """Return every instrument of the catalogue by code: those whose wording ships, then those that are scored only."""
    rows = [*read_catalogue("instruments.toml")["instrument"], *read_catalogue("instruments_score_only.toml")["instrument"]]
    return {row["code"]: _instrument(row) for row in rows}


def instrument(code: str) -> Instrument:
    """Return the instrument `code`. Raises NotFound."""
    if code not in instruments():
        raise NotFound
    return instruments()[code]


def is_adult(age: int | None) -> bool:
    """Tell whether adult thresholds apply; with an unknown age they do not."""
    return age is not None and age >= ADULT_AGE


DEFAULTS: Mapping[str, Any] = {
    "version": 1,
    "respondents": ["patient", "clinician_read_aloud"],
    "wording": "bring_your_own",
    "locales": [],
    "method": "sum",
    "stem": "",
    "answers": [],
    "total_max": None,
    "missing_allowed": 0,
    "may_be_missing": [],
    "lower_is_better": True,
    "caseness": None,
    "reliable_change": None,
    "reliable_change_index": None,
    "remission_below": None,
    "response": False,
    "screening_cut_teens": None,
    "headline": None,
    "bands": [],
    "risk_items": [],
    "note": "",
}
_MEMBERS = {f for f in Instrument.__dataclass_fields__ if f not in {"items", "bands", "risk_items", "sources"}}


def _instrument(row: Mapping[str, Any]) -> Instrument:
    plain = {**DEFAULTS, **row}
    own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items() if k in _MEMBERS}
    return Instrument(
        **own,
        items=tuple(_items(plain)),
        bands=tuple(Band(b["code"], b["from"], b["to"]) for b in plain["bands"]),
        risk_items=tuple(RiskItem(**r) for r in plain["risk_items"]),
        sources=tuple(Figure(**s) for s in plain["sources"]),
    )


def _items(plain: Mapping[str, Any]) -> list[Item]:
    """Build the items: given in full, or as a count with the topics that are public (`topics`)."""
    rows = plain.get("items") or [{"topic": topic} for topic in plain.get("topics") or [""] * plain["item_count"]]
    return [_item(n, row, plain) for n, row in enumerate(rows, start=1)]


def _item(number: int, row: Mapping[str, Any], plain: Mapping[str, Any]) -> Item:
    low, high = row.get("value_min", plain["value_min"]), row.get("value_max", plain["value_max"])
    scales = {n: name for name, numbers in plain.get("scales", {}).items() for n in numbers}
    recoded = {int(k): v for k, v in row.get("values", plain.get("values", {})).items()}
    if number in plain.get("reversed", []):
        recoded = {v: low + high - v for v in range(low, high + 1)}
    return Item(
        number=row.get("number", number),
        topic=row.get("topic", ""),
        text=row.get("text"),
        loinc=row.get("loinc"),
        value_min=low,
        value_max=high,
        values=recoded,
        scale=scales.get(number),
        answers=tuple(row.get("answers", ())),
    )
