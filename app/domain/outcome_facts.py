"""What one course, or one follow-up, contributes to anonymised outcomes: codes and small whole numbers, by the rules of `outcomes`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from app.domain.instruments import ADULT_AGE, instrument, is_adult
from app.domain.outcome_tables import EPISODES_IN_A_LIFE, dimensions
from app.domain.outcomes import Pair, finished_course, pair_of, verdict
from app.domain.scoring import Score, band_of

NOT_RECORDED, OWN_PROTOCOL = "not_recorded", "own_protocol"
REMOTE_SHARE = 0.8  # own design: four of five
AGE_BANDS = ((18, "under_18"), (26, "18_to_25"), (41, "26_to_40"), (65, "41_to_64"))
SESSION_BANDS = ((4, "1_to_3"), (8, "4_to_7"), (13, "8_to_12"))
OLDEST_DECADE = 90  # Source: HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(C): 90 and over are one category


@dataclass(frozen=True, slots=True)
class EndedCourse:
    """A course that has ended, in plain values. `held`: day and mode of each numbered session, in order; `scores`: by instrument, in order.

    `last_day`: the last day whose scores belong to the treatment.
    """

    age: int | None
    sex: str
    protocol: str
    area: str | None
    ended_as: str
    phase: str
    held: Sequence[tuple[date, str]]
    last_day: date | None
    scores: Mapping[str, Sequence[tuple[date, Score]]]


def fact_of(course: EndedCourse) -> dict[str, Any]:
    """Return the fact of a course with one held session or more."""
    adult, finished = is_adult(course.age), finished_course(ended=True, attended=len(course.held))
    first_day = course.held[0][0]
    pairs = {
        code: pair
        for code, scored in course.scores.items()
        if (pair := pair_of(instrument(code), scored, first_day=first_day, last_day=course.last_day)) is not None
    }
    return (
        _described(course)
        | _judged("nhs", "nhs_talking_therapies", pairs, adult=adult, finished=finished)
        | _judged("phq9", "phq9_only", pairs, adult=adult, finished=finished)
        | _measured(course, pairs, adult=adult, finished=finished)
    )


def follow_up_fact(described: Mapping[str, Any], total: int) -> dict[str, Any]:
    """Return the fact of a follow-up with a PHQ-9: the dimensions of the course, and whether the total lies below caseness."""
    caseness = instrument("PHQ-9").caseness or 0
    return {code: described[code] for code in dimensions()} | {"below_caseness": total < caseness}


def describe(course: EndedCourse) -> dict[str, Any]:
    """Return the dimensions of a course."""
    return {code: value for code, value in _described(course).items() if code in dimensions()}


def _described(course: EndedCourse) -> dict[str, Any]:
    completed = course.ended_as == "completed"
    return {
        "area": course.area or NOT_RECORDED,
        "protocol": course.protocol if course.protocol in dimensions()["protocol"].categories else OWN_PROTOCOL,
        "age_band": NOT_RECORDED if course.age is None else next((band for below, band in AGE_BANDS if course.age < below), "65_and_over"),
        "age_decade": _decade(course.age),
        "sex": course.sex,
        "modality": _modality([mode for _, mode in course.held]),
        "sessions_band": session_band(len(course.held)),
        "phase_reached": course.phase,
        "completed": completed,
        "ended_in": "completed" if completed else course.phase,
    }


def session_band(held: int) -> str:
    """Return the band of a number of held sessions."""
    return next((band for below, band in SESSION_BANDS if held < below), "13_and_more")


def _decade(age: int | None) -> str:
    if age is None:
        return NOT_RECORDED
    if age >= OLDEST_DECADE:
        return "90_and_over"
    low = age // 10 * 10
    return "under_18" if age < ADULT_AGE else "18_to_29" if age < 30 else f"{low}_to_{low + 9}"  # noqa: PLR2004 - the first decade of adults


def _modality(modes: Sequence[str]) -> str:
    remote = sum(mode != "in_person" for mode in modes) / len(modes)
    return "remote" if remote >= REMOTE_SHARE else "in_person" if remote <= 1 - REMOTE_SHARE else "mixed"


def _judged(name: str, rule: str, pairs: Mapping[str, Pair], *, adult: bool, finished: bool) -> dict[str, bool]:
    found = verdict(rule, pairs, adult=adult, finished=finished)
    return {
        f"paired_{name}": found.assessable,
        f"case_{name}": found.assessable and bool(found.case_at_start),
        f"recovered_{name}": found.assessable and bool(found.recovery),
        f"improved_{name}": found.assessable and bool(found.reliable_improvement),
        f"deteriorated_{name}": found.assessable and bool(found.reliable_deterioration),
    }


def _measured(course: EndedCourse, pairs: Mapping[str, Pair], *, adult: bool, finished: bool) -> dict[str, Any]:
    phq9 = pairs.get("PHQ-9")
    assessable = verdict("phq9_only", pairs, adult=adult, finished=finished).assessable
    below = instrument("PHQ-9").remission_below or 0
    return {
        "remitted": assessable and phq9 is not None and phq9.last.total is not None and phq9.last.total < below,
        "change_phq9": _change(phq9),
        "change_gad7": _change(pairs.get("GAD-7")),
        "recovered_within": _recovered_within(course, phq9) if assessable and phq9 is not None else None,
        "severity_at_start": None if phq9 is None else band_of(instrument("PHQ-9"), phq9.first.total),
    }


def _change(pair: Pair | None) -> int | None:
    return None if pair is None or pair.first.total is None or pair.last.total is None else pair.first.total - pair.last.total


def _recovered_within(course: EndedCourse, pair: Pair) -> str | None:
    """Return the band of sessions held by the first day in treatment with a PHQ-9 below caseness; None for who was no case at the start."""
    caseness = instrument("PHQ-9").caseness or 0
    if pair.first.total is None or pair.first.total < caseness:
        return None
    days = [day for day, _ in course.held]
    well = [d for d, s in course.scores["PHQ-9"] if s.total is not None and s.total < caseness and d > days[0]]
    first = next((d for d in well if course.last_day is None or d <= course.last_day), None)
    return "not_recovered" if first is None else session_band(sum(day <= first for day in days))


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision on consent to analytics, by a registration; they come in the order in which they were decided."""

    registration: UUID
    given: bool
    recorded_at: datetime


def may_be_counted(person_of: Mapping[UUID, UUID], hidden: Iterable[UUID], decisions: Iterable[Decision], facts: Iterable[UUID]) -> set[UUID]:
    """Return which persons may give a fact: the newest decision is a consent, nothing restricts or erases, the bound of a life is not reached.

    `person_of`: registration to person; `facts`: the registration of each fact of this kind that there is.
    """
    number = Counter(person_of[one] for one in facts)
    full = {person for person, there in number.items() if there >= EPISODES_IN_A_LIFE}
    return _consenting(person_of, decisions) - {person_of[one] for one in hidden} - full


def _consenting(person_of: Mapping[UUID, UUID], decisions: Iterable[Decision]) -> set[UUID]:
    newest = {person_of.get(d.registration, d.registration): d.given for d in decisions}
    return {person for person, given in newest.items() if given}


def not_counted(
    merged: Mapping[UUID, UUID], hidden: Iterable[UUID], decisions: Sequence[Decision], frozen_at: datetime, facts: Iterable[UUID]
) -> set[UUID]:
    """Return the registrations whose frozen facts are not counted.

    Those of persons who are restricted, were erased, have withdrawn consent since the freeze, or whose newest decision is a refusal, by whichever
    registration; and all but the first of several that were found to be one person since. `merged`: registration to person; `decisions`: every
    one of the persons who have ever refused; `facts`: registrations in `merged` (either side) that have a fact.
    """
    registrations: dict[UUID, set[UUID]] = {}
    for registration, person in merged.items():
        registrations.setdefault(person, {person}).add(registration)
    since = {d.registration for d in decisions if not d.given and d.recorded_at > frozen_at}
    consenting = _consenting(merged, decisions)
    refusing = {d.registration for d in decisions if merged.get(d.registration, d.registration) not in consenting}
    out: set[UUID] = set()
    for one in (*hidden, *since, *refusing):
        person = merged.get(one, one)
        out |= registrations.get(person, {person})
    first: set[UUID] = set()
    for one in sorted(facts):
        person = merged.get(one, one)
        if one not in out and person in first:
            out.add(one)
        first.add(person)
    return out
