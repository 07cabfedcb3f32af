"""Instruments and their scoring. Totals, bands and change are computed here, never by a caller."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from app.domain.errors import Fault, Invalid, NotFound
from app.domain.protocols import Figure
from app.domain.reading import read_catalogue, round_half_up

ADULT_AGE = 18
RESPONSE_SHARE = 0.5  # Source: response is a drop of half or more (Frank et al. 1991 convention)
ON_TRACK_SHARE = 0.2  # own design after the early-change literature: 20 % better by session 4
ON_TRACK_SESSION = 4


class AnswersInvalid(Invalid):
    """The answers do not fit the instrument."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an instrument: its number, wording and LOINC code where confirmed."""

    number: int
    text: str
    loinc: str | None = None


@dataclass(frozen=True, slots=True)
class Band:
    """A band of severity: totals from `low` to `high`, both inclusive."""

    code: str
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Instrument:
    """The definition of a questionnaire: items, range of an answer, bands, thresholds and their sources."""

    code: str
    version: int
    name: str
    component: str
    respondents: tuple[str, ...]
    stem: str
    answers: tuple[str, ...]
    value_min: int
    value_max: int
    total_max: int
    missing_allowed: int
    caseness: int
    reliable_change: int
    licence: str
    items: tuple[Item, ...]
    bands: tuple[Band, ...]
    sources: tuple[Figure, ...]
    loinc_panel: str | None = None
    loinc_total: str | None = None
    remission_below: int | None = None
    screening_cut_teens: int | None = None
    difficulty: Mapping[str, Any] | None = None
    risk_item: int | None = None
    risk_levels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """What the server makes of the answers. `total` is None when too much is missing, or when the risk item is."""

    partial_sum: int
    total: int | None
    band: str | None
    case: bool | None
    missing: tuple[int, ...]
    prorated: bool


@dataclass(frozen=True, slots=True)
class Change:
    """The change from a baseline to a later total; positive `points` mean fewer symptoms (improvement)."""

    points: int
    reliable: str
    response: bool | None
    remission: bool | None
    on_track: bool | None


@cache
def instruments() -> Mapping[str, Instrument]:
    """Return every instrument of the catalogue by code."""
    return {row["code"]: _instrument(row) for row in read_catalogue("instruments.toml")["instrument"]}


def instrument(code: str) -> Instrument:
    """Return the instrument `code`. Raises NotFound."""
    if code not in instruments():
        raise NotFound
    return instruments()[code]


def is_adult(age: int | None) -> bool:
    """Tell whether adult thresholds apply; with an unknown age they do not."""
    return age is not None and age >= ADULT_AGE


def score(questionnaire: Instrument, answers: Mapping[int, int | None], age: int | None = ADULT_AGE) -> Score:
    """Score answers by item number; an item that is absent or None counts as missing.

    A missing risk item is never imputed: there is then a partial sum and nothing else. Up to `missing_allowed` other
    missing items are prorated (mean of the answered times the number of items, a half rounded up) and flagged.
    Caseness is an adult threshold; for teens the screening cut stands in, where there is one. A blank form with a risk
    item is accepted: it is an unknown risk. Raises AnswersInvalid for an unknown item, a value out of range, or no answer at all.
    """
    _check(questionnaire, answers)
    given = {n: v for n, v in answers.items() if v is not None}
    missing = tuple(i.number for i in questionnaire.items if i.number not in given)
    partial = sum(given.values())
    if questionnaire.risk_item in missing or len(missing) > questionnaire.missing_allowed:
        return Score(partial, None, None, None, missing, prorated=False)
    total = round_half_up(partial * len(questionnaire.items) / len(given))
    cut = questionnaire.caseness if is_adult(age) else None if age is None else questionnaire.screening_cut_teens
    case = None if cut is None else total >= cut
    return Score(partial, total, band_of(questionnaire, total), case, missing, prorated=bool(missing))


def band_of(questionnaire: Instrument, total: int) -> str:
    """Return the code of the band that holds `total`."""
    return next(b.code for b in questionnaire.bands if b.low <= total <= b.high)


def change(questionnaire: Instrument, baseline: Score, later: Score, *, adult: bool, sessions_held: int) -> Change | None:
    """Compare a later score with the baseline. None when either has no total.

    `reliable` is improvement, deterioration, none, or not_assessable (teens, for whom the thresholds are not
    established, and scores with more than one prorated item). Sources: NHS Talking Therapies thresholds; the on-track
    rule is own design: not on track with under 20 % improvement at session 4 or later, or a reliable deterioration.
    """
    if baseline.total is None or later.total is None:
        return None
    points = baseline.total - later.total
    if not adult:
        return Change(points, "not_assessable", None, None, None)
    reliable = _reliable(questionnaire, baseline, later, points)
    remission = None if questionnaire.remission_below is None else later.total < questionnaire.remission_below
    response = baseline.total > 0 and points >= RESPONSE_SHARE * baseline.total
    return Change(points, reliable, response, remission, _on_track(questionnaire, baseline.total, points, reliable, sessions_held))


def _on_track(questionnaire: Instrument, baseline: int, points: int, reliable: str, sessions_held: int) -> bool | None:
    """Judge the PHQ-9 alone (its rule is about the PHQ-9), from session 4 on or at a reliable deterioration."""
    if questionnaire.code != "PHQ-9":
        return None
    if reliable == "deterioration":
        return False
    return None if sessions_held < ON_TRACK_SESSION else points >= ON_TRACK_SHARE * baseline


def _reliable(questionnaire: Instrument, baseline: Score, later: Score, points: int) -> str:
    if len(baseline.missing) > 1 or len(later.missing) > 1:
        return "not_assessable"
    if points >= questionnaire.reliable_change:
        return "improvement"
    return "deterioration" if points <= -questionnaire.reliable_change else "none"


def _check(questionnaire: Instrument, answers: Mapping[int, int | None]) -> None:
    known = {i.number for i in questionnaire.items}
    low, high = questionnaire.value_min, questionnaire.value_max
    faults = [Fault(f"/answers/{n}", f"{questionnaire.code} has no item {n}") for n in answers if n not in known]
    faults += [
        Fault(f"/answers/{n}", f"must be a whole number from {low} to {high}, or null when it was not answered")
        for n, v in answers.items()
        if n in known and v is not None and not low <= v <= high
    ]
    if not faults and questionnaire.risk_item is None and all(v is None for v in answers.values()):
        faults.append(Fault("/answers", "at least one item must be answered"))
    if faults:
        raise AnswersInvalid(faults=faults)


def _instrument(row: Mapping[str, Any]) -> Instrument:
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) and k in {"answers", "respondents"} else v for k, v in row.items()}
    plain["items"] = tuple(Item(**i) for i in row["items"])
    plain["bands"] = tuple(Band(b["code"], b["from"], b["to"]) for b in row["bands"])
    plain["sources"] = tuple(Figure(**s) for s in row["sources"])
    return Instrument(**plain)
