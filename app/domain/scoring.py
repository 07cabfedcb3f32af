"""Scoring: answers in; totals, scales, bands and change out. They are computed here, never taken from a caller."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.errors import Fault, Invalid
from app.domain.instruments import ADULT_AGE, Instrument, Item, is_adult
from app.domain.reading import round_half_up

RESPONSE_SHARE = 0.5  # Source: response is a drop of half or more (Frank et al. 1991 convention)
ON_TRACK_SHARE = 0.2  # own design after the early-change literature: 20 % better by session 4
ON_TRACK_SESSION = 4
SCALE_DECIMALS = 2
Z_95 = 1.96  # two-sided 95 %: Jacobson and Truax 1991
ON_TRACK_RULE = "Not on track from session 4 on with under 20 % improvement from baseline, or with a reliable deterioration; not judged under caseness at the start, nor in remission (own design)."


class AnswersInvalid(Invalid):
    """The answers do not fit the instrument."""


@dataclass(frozen=True, slots=True)
class Score:
    """What the server makes of the answers.

    `total` is None when the instrument has no sum, when too much is missing, or when a risk item is. `scales` holds the
    means, octants, domains or recoded scales by name.
    """

    partial_sum: int
    total: int | None
    band: str | None
    case: bool | None
    missing: tuple[int, ...]
    prorated: bool
    scales: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """The change from a baseline to a later score; positive `points` are improvement, whichever way the scale runs.

    `index` is the change in units of its standard error (Jacobson and Truax), where a published reliable-change index
    gives that error; beyond 1.96 the change is reliable at 95 %.
    """

    points: float
    reliable: str
    response: bool | None
    remission: bool | None
    on_track: bool | None
    index: float | None = None


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
    points = {i.number: i.values.get(given[i.number], given[i.number]) for i in questionnaire.items if i.number in given}
    partial = sum(points.values())
    unknown_risk = any(r.item in missing and r.missing_is_unknown for r in questionnaire.risk_items)
    counted = [n for n in missing if not any(r.item == n and not r.missing_is_unknown for r in questionnaire.risk_items)]
    only = questionnaire.may_be_missing
    if unknown_risk or len(counted) > questionnaire.missing_allowed or not given or (only and not set(counted) <= set(only)):
        return Score(partial, None, None, None, missing, prorated=False)
    scales = _scales(questionnaire, points)
    total = _total(questionnaire, points, scales, counted)
    cut = questionnaire.caseness if is_adult(age) else None if age is None else questionnaire.screening_cut_teens
    case = None if cut is None or total is None else total >= cut if questionnaire.lower_is_better else total <= cut
    return Score(partial, total, band_of(questionnaire, total), case, missing, prorated=bool(counted), scales=scales)


def _scales(questionnaire: Instrument, points: Mapping[int, int]) -> dict[str, float]:
    """Return the scales by name: the highest of a domain (QIDS), else the mean of what was answered."""
    if questionnaire.method == "sum":
        return {}
    named = {i.scale or "mean" for i in questionnaire.items}
    found = {}
    for name in sorted(named):
        values = [points[i.number] for i in questionnaire.items if (i.scale or "mean") == name and i.number in points]
        if values:
            found[name] = max(values) if questionnaire.method == "domains" else round(sum(values) / len(values), SCALE_DECIMALS)
    return found


def _total(questionnaire: Instrument, points: Mapping[int, int], scales: Mapping[str, float], missing: list[int]) -> int | None:
    if questionnaire.method == "domains":
        return int(sum(scales.values()))
    if questionnaire.method != "sum":
        return None
    whole = len(points) + len(missing)
    return round_half_up(sum(points.values()) * whole / len(points))


def band_of(questionnaire: Instrument, total: int | None) -> str | None:
    """Return the code of the band that holds `total`, or None where the instrument has no bands."""
    return next((b.code for b in questionnaire.bands if total is not None and b.low <= total <= b.high), None)


def headline(questionnaire: Instrument, found: Score) -> float | None:
    """Return the one figure that stands for the score: the total, else the headline scale; None when there is none."""
    if found.total is not None:
        return found.total
    return found.scales.get(questionnaire.headline) if questionnaire.headline else None


def change(questionnaire: Instrument, baseline: Score, later: Score, *, adult: bool, sessions_held: int) -> Change | None:
    """Compare a later score with the baseline. None when either has no figure to compare.

    `reliable` is improvement, deterioration, none, or not_assessable (teens, for whom the thresholds are not
    established; instruments without one; scores with more than one prorated item). Sources: NHS Talking Therapies thresholds; the on-track
    rule is own design: not on track with under 20 % improvement at session 4 or later, or a reliable deterioration.
    """
    before, after = headline(questionnaire, baseline), headline(questionnaire, later)
    if before is None or after is None:
        return None
    points = before - after if questionnaire.lower_is_better else after - before
    points = points if isinstance(points, int) else round(points, SCALE_DECIMALS)
    if not adult:
        return Change(points, "not_assessable", None, None, None)
    reliable = _reliable(questionnaire, baseline, later, points)
    remission = None if questionnaire.remission_below is None else after < questionnaire.remission_below
    response = before > 0 and points >= RESPONSE_SHARE * before if questionnaire.response else None
    on_track = _on_track(questionnaire, before, points, reliable, sessions_held)
    return Change(points, reliable, response, remission, on_track, change_index(questionnaire, points))


def change_index(questionnaire: Instrument, points: float) -> float | None:
    """Return the change in standard errors of a difference, from the published reliable-change index; None without one.

    The published index is 1.96 standard errors of the difference, so the error is the index over 1.96 (Jacobson and Truax 1991).
    """
    published = questionnaire.reliable_change_index
    return None if published is None else round(points / standard_error_of_difference(published), SCALE_DECIMALS)


def standard_error_of_difference(reliable_change_index: float) -> float:
    """Return the standard error of a difference that a published reliable-change index (in points) stands for."""
    return reliable_change_index / Z_95


def reliable_change_threshold(reliable_change_index: float) -> int:
    """Return the whole number of points from which a change is reliable: the index, rounded up."""
    return math.ceil(reliable_change_index)


def _on_track(questionnaire: Instrument, baseline: float, points: float, reliable: str, sessions_held: int) -> bool | None:
    """Judge the PHQ-9 alone (its rule is about the PHQ-9), from session 4 on or at a reliable deterioration."""
    if questionnaire.code != "PHQ-9":
        return None
    if reliable == "deterioration":
        return False
    if sessions_held < ON_TRACK_SESSION:
        return None
    if points >= ON_TRACK_SHARE * baseline > 0:
        return True
    well = baseline < (questionnaire.caseness or 0) or baseline - points < (questionnaire.remission_below or 0)
    return None if well else False  # who stays well, or was never a case, is not off track


def _reliable(questionnaire: Instrument, baseline: Score, later: Score, points: float) -> str:
    threshold = questionnaire.reliable_change
    if threshold is None or len(baseline.missing) > 1 or len(later.missing) > 1:
        return "not_assessable"
    if points >= threshold:
        return "improvement"
    return "deterioration" if points <= -threshold else "none"


def _check(questionnaire: Instrument, answers: Mapping[int, int | None]) -> None:
    known = {i.number: i for i in questionnaire.items}
    faults = [Fault(f"/answers/{n}", f"{questionnaire.code} has no item {n}") for n in answers if n not in known]
    faults += [
        Fault(f"/answers/{n}", f"must be a whole number from {known[n].value_min} to {known[n].value_max}, or null when it was not answered")
        for n, v in answers.items()
        if n in known and v is not None and not _fits(known[n], v)
    ]
    if not faults and not questionnaire.risk_items and all(v is None for v in answers.values()):
        faults.append(Fault("/answers", "at least one item must be answered"))
    if faults:
        raise AnswersInvalid(faults=faults)


def _fits(item: Item, value: int) -> bool:
    return item.value_min <= value <= item.value_max
