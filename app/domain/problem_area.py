"""Classification of the problem area by ruleset 1.0: a transparent sum of weighted indicators.

It shows how recorded facts match published descriptions of the four areas of IPT. It is no diagnosis, it decides
nothing: the clinician chooses the focus with the patient. Nothing published prescribes weights; all are own design.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

from app.domain.errors import NotFound
from app.domain.reading import read_catalogue

GRIEF, DISPUTE, TRANSITION, DEFICITS = "grief", "role_dispute", "role_transition", "interpersonal_deficits"
AREAS = (GRIEF, DISPUTE, TRANSITION, DEFICITS)
VALUES: Mapping[str, float | None] = {"absent": 0.0, "possible": 0.5, "present": 1.0, "unknown": None}
ANSWERS = (*VALUES, "not_applicable")
OPEN = {"present", "possible"}
DISCLAIMER = (
    "For use by qualified mental-health professionals. The ranking shows how recorded facts match published descriptions "
    "of IPT problem areas. It is not a diagnosis and does not replace clinical judgement. Check each listed fact. "
    "The focus of treatment is decided by the clinician with the patient."
)
DEFICITS_GATE = "no_other_area_stands"
DISPUTE_STRATEGIES = frozenset(
    {
        "relate_onset_to_dispute",
        "determine_the_stage",
        "examine_nonreciprocal_expectations",
        "find_parallels",
        "examine_how_the_dispute_is_kept_going",
    }
)


@dataclass(frozen=True, slots=True)
class Indicator:
    """One indicator: its kind (gate, for, against), weight, wording, the question to ask, and its role in a tie."""

    code: str
    kind: str
    weight: int
    text: str
    question: str
    role: str


@dataclass(frozen=True, slots=True)
class Area:
    """One of the four problem areas with its definition, sub-states, strategies and indicators."""

    code: str
    name: str
    definition: str
    sub_state_name: str
    sub_states: tuple[str, ...]
    strategies: tuple[str, ...]
    rater_kappa: float
    source: str
    gate: Indicator
    indicators: tuple[Indicator, ...]
    top: int
    """The highest sum that the indicators can reach."""
    weights: tuple[tuple[str, str, int, int, Mapping[str, "Contribution"]], ...]
    """Of each indicator: code, kind, weight, what of it counts for the maximum, and what each answer that cites nothing adds."""
    questions: tuple["Question", ...]
    """The question of each indicator."""
    gate_question: "Question"
    total: int
    """All weight, contra-indicators included: what coverage is a share of."""


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A version of the classifier: its areas and its thresholds (scores are 0 to 100, coverage 0 to 1)."""

    version: str
    likely_from: int
    possible_from: int
    provisional_below_coverage: float
    tie_within: int
    max_areas_in_focus: int
    areas: tuple[Area, ...]

    def area(self, code: str) -> Area:
        """Return the area `code`. Raises NotFound."""
        for area in self.areas:
            if area.code == code:
                return area
        raise NotFound


@dataclass(frozen=True, slots=True)
class Answer:
    """A clinician's answer to one indicator, with its evidence: ids of a relationship and a life event."""

    value: str
    relationship_id: str | None = None
    life_event_id: str | None = None


UNKNOWN = Answer("unknown")


class Contribution(NamedTuple):
    """What one indicator adds to its area's sum: value x weight; None while the value is unknown."""

    indicator: str
    kind: str
    answer: str
    weight: int
    points: float | None
    relationship_id: str | None
    life_event_id: str | None


class AreaResult(NamedTuple):
    """How far one area is matched. `score`, `lower`, `upper` are 0 to 100; `score` is None unless the gate is open."""

    area: str
    status: str
    score: int | None
    would_be: int
    lower: int
    upper: int
    band: str | None
    coverage: float
    provisional: bool
    rater_kappa: float
    """How far human raters agree on this area: the confidence that a ranking of it deserves."""
    excluded_by: tuple[str, ...]
    contributions: tuple[Contribution, ...]


class Question(NamedTuple):
    """A question whose answer is still missing, and the weight that hangs on it (a gate: the whole area)."""

    area: str
    indicator: str
    question: str
    weight: int


class Classification(NamedTuple):
    """The ranked areas. `outcome`: suggested, provisional, decision_required (a tie) or needs_information."""

    ruleset: str
    outcome: str
    ranking: tuple[str, ...]
    tied: tuple[str, ...]
    suggested_primary: str | None
    suggested_secondary: str | None
    areas: tuple[AreaResult, ...]
    questions: tuple[Question, ...]
    decision_status: str = "awaiting_clinician"
    disclaimer: str = DISCLAIMER


def as_plain(result: Classification) -> dict[str, Any]:
    """Return a classification as plain values, as it is kept and shown."""
    areas = [a._asdict() | {"contributions": [c._asdict() for c in a.contributions]} for a in result.areas]
    return result._asdict() | {"areas": areas, "questions": [q._asdict() for q in result.questions]}


@cache
def ruleset() -> Ruleset:
    """Return ruleset 1.0 from the catalogue."""
    data = read_catalogue("problem_areas.toml")
    areas = []
    for row in data["area"]:
        indicators = tuple(Indicator(**i) for i in row.pop("indicator"))
        gate = next(i for i in indicators if i.kind == "gate")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        weighted = tuple(i for i in indicators if i.kind != "gate")
        top, total = sum(max(0, i.weight) for i in weighted), sum(abs(i.weight) for i in weighted)
        weights = tuple((i.code, i.kind, i.weight, max(0, i.weight), _without_evidence(i)) for i in weighted)
        questions = tuple(Question(plain["code"], i.code, i.question, abs(i.weight)) for i in weighted)
        asked_first = Question(plain["code"], gate.code, gate.question, top)
        areas.append(
            Area(**plain, gate=gate, indicators=weighted, top=top, total=total, weights=weights, questions=questions, gate_question=asked_first)
        )
    thresholds: dict[str, Any] = {k: v for k, v in data.items() if k not in {"area", "ruleset"}}
    return Ruleset(version=data["ruleset"], areas=tuple(areas), **thresholds)


def _without_evidence(indicator: Indicator) -> dict[str, Contribution]:
    """Return what each answer adds when it cites nothing: made once, as most answers are."""
    code, kind, weight = indicator.code, indicator.kind, indicator.weight
    points = {answer: value * weight for answer, value in VALUES.items() if value is not None}
    return {answer: Contribution(code, kind, answer, weight, points.get(answer), None, None) for answer in ANSWERS}


def _weighed(answers: Mapping[str, Answer]) -> Mapping[str, Answer]:
    """Return the answers as they count.

    Where somebody has died, a transition must rest on an event of its own: without one its gate and its temporal link
    are unknown. A contra-indicator about the death leaves a transition alone that rests on another event.
    """
    found = dict(answers)
    if value_of(answers, "significant_person_died") in OPEN:
        for code in ("role_change_identified", "onset_linked_to_change"):
            if value_of(answers, code) in OPEN and event_of(answers, code) is None:
                found[code] = Answer("unknown")
    death = answers.get("change_is_a_death")
    rests_elsewhere = event_of(answers, "role_change_identified") and not _death_shuts_transition(answers)
    if death is not None and death.value in OPEN and death.life_event_id is not None and rests_elsewhere:
        found["change_is_a_death"] = Answer("not_applicable", death.relationship_id, death.life_event_id)
    return found


def classify(answers: Mapping[str, Answer]) -> Classification:
    """Rank the four areas by ruleset 1.0. Pure: the same answers give the same result. Expects checked answers."""
    rules = ruleset()
    answers = _weighed(answers)
    others = [_area_result(rules, area, answers) for area in rules.areas if area.code != DEFICITS]
    results = (*others, _deficits_result(rules, answers, others))
    standing = [r for r in results if r.status == "eligible"]
    orders = {r.area: _order(r.area, answers) for r in standing}
    near = _near(rules, standing)
    ranking = _ranked(standing, near, orders)
    tied = _tied(rules, near, orders)
    outcome = _outcome(rules, results, near, tied)
    primary = ranking[0].area if ranking and outcome in {"suggested", "provisional"} and _reaches(rules, ranking[0]) else None
    return Classification(
        ruleset=rules.version,
        outcome=outcome,
        ranking=tuple(r.area for r in ranking),
        tied=tied,
        suggested_primary=primary,
        suggested_secondary=_secondary(rules, primary, ranking),
        areas=results,
        questions=_questions(rules, answers, results),
    )


def value_of(answers: Mapping[str, Answer], code: str) -> str:
    """Return how an indicator is answered; unknown when it is not."""
    return answers.get(code, UNKNOWN).value


def event_of(answers: Mapping[str, Answer], code: str) -> str | None:
    """Return the life event that an answer cites, or None."""
    answer = answers.get(code)
    return answer.life_event_id if answer else None


def _area_result(rules: Ruleset, area: Area, answers: Mapping[str, Answer]) -> AreaResult:
    gate = value_of(answers, area.gate.code)
    excluded: tuple[str, ...] = ()
    if area.code == TRANSITION and _death_shuts_transition(answers):
        excluded = ("change_is_a_death",)
    status = "not_eligible" if gate == "absent" or excluded else "eligible" if gate in OPEN else "needs_information"
    return _measured(rules, area, answers, status, excluded)


def _death_shuts_transition(answers: Mapping[str, Answer]) -> bool:
    """TX1 shuts the transition on its event; a transition that rests on an event of its own goes on."""
    if value_of(answers, "change_is_a_death") != "present":
        return False
    own, death = event_of(answers, "role_change_identified"), event_of(answers, "change_is_a_death")
    return own is None or death is None or own == death


def _deficits_result(rules: Ruleset, answers: Mapping[str, Answer], others: Iterable[AreaResult]) -> AreaResult:
    """Deficits stand only when nothing else can: each other area shut, or its upper bound under `possible_from`."""
    blockers = [r for r in others if r.status != "not_eligible" and r.upper >= rules.possible_from]
    certain = [r.area for r in blockers if r.status == "eligible" and r.lower >= rules.possible_from]
    began = value_of(answers, "isolation_began_with_illness") == "present"
    excluded = (*(r.area for r in blockers), *(("isolation_began_with_illness",) if began else ()))
    status = "not_eligible" if began or certain else "needs_information" if blockers else "eligible"
    return _measured(rules, rules.area(DEFICITS), answers, status, excluded)


def _measured(rules: Ruleset, area: Area, answers: Mapping[str, Answer], status: str, excluded: tuple[str, ...]) -> AreaResult:
    contributions: list[Contribution] = []
    raw = low = high = 0.0
    top, total = area.top, area.total
    known = total
    found, values, add, made = answers.get, VALUES, contributions.append, tuple.__new__
    for code, kind, weight, positive, plain in area.weights:  # the hot loop of a run: one look-up for each indicator, plain arithmetic
        answer = found(code, UNKNOWN)
        value = values.get(answer.value)
        points = None if value is None else value * weight
        if points is not None:
            raw += points
        else:
            size = positive or -weight
            known -= size
            if answer.value == "not_applicable":  # its weight leaves the maximum
                total, top = total - size, top - positive
            else:
                low += weight - positive
                high += positive
        if answer.relationship_id is None and answer.life_event_id is None:
            add(plain[answer.value])
        else:
            add(made(Contribution, (code, kind, answer.value, weight, points, answer.relationship_id, answer.life_event_id)))
    low, high = raw + low, raw + high
    score = _percent(raw, top)
    coverage = known / total if total else 0.0
    band = None if status != "eligible" else "likely" if score >= rules.likely_from else "possible" if score >= rules.possible_from else "weak"
    return AreaResult(
        area=area.code,
        status=status,
        score=score if status == "eligible" else None,
        would_be=score,
        lower=_percent(low, top),
        upper=_percent(high, top),
        band=band,
        coverage=int(coverage * 100 + 0.5) / 100,
        provisional=coverage < rules.provisional_below_coverage,
        rater_kappa=area.rater_kappa,
        excluded_by=excluded,
        contributions=tuple(contributions),
    )


def _percent(raw: float, top: int) -> int:
    """Return the share of the maximum, 0 to 100, a half rounded up; what is below zero counts as zero."""
    return int(100 * raw / top + 0.5) if raw > 0 and top else 0


@cache
def _codes_of(area: str, role: str) -> tuple[str, ...]:
    """Return the indicators of an area that have a role in a tie."""
    return tuple(i.code for i in ruleset().area(area).indicators if i.role == role)


def _role_value(area: str, role: str, answers: Mapping[str, Answer]) -> float:
    return max(VALUES.get(answers.get(code, UNKNOWN).value) or 0.0 for code in _codes_of(area, role))


def _order(area: str, answers: Mapping[str, Answer]) -> tuple[float, float]:
    """Return what decides between areas within reach of each other: the temporal link, then the patient's choice."""
    return (_role_value(area, "temporal_link", answers), _role_value(area, "patient_choice", answers))


def _near(rules: Ruleset, standing: list[AreaResult]) -> list[AreaResult]:
    """Return the areas within reach of the top score; one under `possible_from` takes no part in a tie with one above."""
    top = max((r.would_be for r in standing), default=0)
    floor = rules.possible_from if top >= rules.possible_from else 0
    return [r for r in standing if r.would_be >= floor and top - r.would_be < rules.tie_within]


def _ranked(standing: list[AreaResult], near: list[AreaResult], orders: Mapping[str, tuple[float, float]]) -> tuple[AreaResult, ...]:
    """Order by score; areas within reach of the top score go by temporal link, then by the patient's choice."""
    first = {r.area for r in near}
    rest = [r for r in standing if r.area not in first]  # comparing results would compare all that they hold
    by_order = sorted(near, key=lambda r: (orders[r.area], r.would_be), reverse=True)
    return (*by_order, *sorted(rest, key=lambda r: r.would_be, reverse=True))


def _tied(rules: Ruleset, near: list[AreaResult], orders: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """Return the areas within reach of the top that nothing decides between, in the order of the ranking."""
    reaching = sorted((r for r in near if _reaches(rules, r)), key=lambda r: r.would_be, reverse=True)
    best = max((orders[r.area] for r in reaching), default=None)
    first = tuple(r.area for r in reaching if orders[r.area] == best)
    return first if len(first) > 1 else ()


def _reaches(rules: Ruleset, result: AreaResult) -> bool:
    return result.would_be >= rules.possible_from


def _outcome(rules: Ruleset, results: tuple[AreaResult, ...], near: list[AreaResult], tied: tuple[str, ...]) -> str:
    """Name what the ranking is worth. It is final only when no area within reach, and no open gate, can still overturn it."""
    if not any(_reaches(rules, r) for r in near):
        return "needs_information" if any(r.status == "needs_information" for r in results) else "no_area_stands"
    if tied:
        return "decision_required"
    top = max(r.would_be for r in near)
    thin = any(r.provisional for r in near)
    unasked = any(r.status == "needs_information" and r.area != DEFICITS and r.upper >= top for r in results)
    return "provisional" if thin or unasked else "suggested"


def _secondary(rules: Ruleset, primary: str | None, ranking: tuple[AreaResult, ...]) -> str | None:
    if primary in {None, DEFICITS}:
        return None
    return next((r.area for r in ranking if r.area not in {primary, DEFICITS} and _reaches(rules, r) and not r.provisional), None)


def _questions(rules: Ruleset, answers: Mapping[str, Answer], results: Iterable[AreaResult]) -> tuple[Question, ...]:
    """List what is unknown: first the gates, then by weight. An area that is shut asks nothing more."""
    shut = {r.area for r in results if r.status == "not_eligible"}
    asked: list[Question] = []
    for area in rules.areas:
        if area.code in shut:
            continue
        if area.code != DEFICITS and value_of(answers, area.gate.code) == "unknown":
            asked.append(area.gate_question)
        asked += [q for q in area.questions if answers.get(q.indicator, UNKNOWN).value == "unknown"]
    return tuple(sorted(asked, key=itemgetter(3), reverse=True))  # by weight; equal ones keep the order of the ruleset
