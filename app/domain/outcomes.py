"""Outcomes of one course: caseness, recovery, reliable change, by the rule of NHS Talking Therapies and by the PHQ-9 alone.

Thresholds stand in the instruments. Sources: NHS Talking Therapies (the open SQL of its dashboards; trial registry
NCT05134103 for thresholds); Jacobson and Truax 1991 for reliable change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from app.domain.instruments import Instrument
from app.domain.scoring import Change, Score, change
from app.domain.sessions import NUMBERED

FINISHED_FROM_CONTACTS = 2  # Source: NHS Talking Therapies: a finished course has two attended treatment contacts or more
MARKERS = ("PHQ-9", "GAD-7")  # Source: the two questionnaires of the rule
END_CODES = {
    "dropped_out_no_contact": "47",
    "moved": "47",
    "better_enough": "47",
    "not_helpful": "47",
    "practical": "47",
    "declined_focus": "47",
    "therapist_left": "48",
    "service_limit": "48",
    "technical": "47",
    "stepped_up": "46",
    "crisis_admission": "48",
    "safeguarding": "48",
    "deceased": "49",
    "unknown": "96",
}
END_WORDS = {
    "46": "mutually agreed completion",
    "47": "ended earlier than the professional planned",
    "48": "ended earlier than the patient requested",
    "49": "deceased",
    "96": "not known",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """The first and the last score of one instrument in the treatment."""

    instrument: Instrument
    first: Score
    last: Score


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule makes of a course. None: the rule cannot tell, and `reason` says why.

    `recovery` and `reliable_recovery` count among courses with caseness at the start, the others among all finished
    courses with paired scores.
    """

    rule: str
    assessable: bool
    reason: str | None
    case_at_start: bool | None
    case_at_end: bool | None
    recovery: bool | None
    reliable_improvement: bool | None
    reliable_deterioration: bool | None
    reliable_recovery: bool | None
    no_reliable_change: bool | None


def end_code(status: str, reason: str | None) -> str | None:
    """Return the NHS Talking Therapies end code of a treated course (46 to 49, 96); None while it runs. The mapping is own design."""
    if status not in {"completed", "ended_early", "closed"}:
        return None
    if reason is None:
        return "46" if status != "ended_early" else "96"
    return END_CODES.get(reason, "96")


def finished_course(*, ended: bool, attended: int) -> bool:
    """Tell whether the course counts as finished: ended, with two attended contacts or more."""
    return ended and attended >= FINISHED_FROM_CONTACTS


def pair_of(questionnaire: Instrument, scored: Sequence[tuple[date, Score]], *, first_day: date | None, last_day: date | None) -> Pair | None:
    """Return the first score, by the day of the first session, and the last one in the treatment (up to `last_day`); None without both.

    `scored`: the scores with a total, with the patient's day of each, in order.
    """
    before = [n for n, (day, _) in enumerate(scored) if first_day is not None and day <= first_day]
    within = [n for n, (day, _) in enumerate(scored) if last_day is None or day <= last_day]
    if not before or not within or within[-1] == before[0]:
        return None
    return Pair(questionnaire, scored[before[0]][1], scored[within[-1]][1])


def verdict(rule: str, pairs: Mapping[str, Pair], *, adult: bool, finished: bool) -> Verdict:
    """Judge a course by `nhs_talking_therapies` (both questionnaires) or `phq9_only`.

    One better and one worse is no reliable change. Teens are not assessable: adult thresholds do not hold for them.
    """
    wanted = MARKERS if rule == "nhs_talking_therapies" else MARKERS[:1]
    missing = [code for code in wanted if code not in pairs]
    reason = (
        "The course has not finished with two attended contacts."
        if not finished
        else "Adult thresholds do not hold under 18, or with an unknown age."
        if not adult
        else f"No pair of scores, one by the day of the first session and one later in the treatment: {', '.join(missing)}."
        if missing
        else None
    )
    if reason is not None:
        return Verdict(rule, False, reason, *[None] * 7)
    judged = [pairs[code] for code in wanted]
    start, end = any(_is_case(p, p.first) for p in judged), any(_is_case(p, p.last) for p in judged)
    reliable = [_reliable(p) for p in judged]
    if "not_assessable" in reliable:
        return Verdict(rule, False, "More than one item of a score was prorated.", start, end, *[None] * 5)
    better = "improvement" in reliable and "deterioration" not in reliable
    worse = "deterioration" in reliable and "improvement" not in reliable
    recovery = not end if start else None
    return Verdict(rule, True, None, start, end, recovery, better, worse, (recovery and better) if start else None, not better and not worse)


def _is_case(pair: Pair, found: Score) -> bool:
    """Judge caseness here, by the adult threshold: what was stored with the answer may not have known the age."""
    return found.total is not None and pair.instrument.caseness is not None and found.total >= pair.instrument.caseness


def _reliable(pair: Pair) -> str:
    found = compare(pair, adult=True)
    return "not_assessable" if found is None else found.reliable


def compare(pair: Pair, *, adult: bool) -> Change | None:
    """Return the change of one instrument from the first to the last score."""
    return change(pair.instrument, pair.first, pair.last, adult=adult, sessions_held=0)


def attendance(sessions: Sequence[Mapping[str, object]]) -> dict[str, int]:
    """Count the sessions of the course (not those beside it) by how they went: attended, missed, cancelled by the patient, cancelled by the provider, technical failures."""
    found = {"attended": 0, "missed": 0, "cancelled_by_patient": 0, "cancelled_by_provider": 0, "technical_failure": 0}
    for row in sessions:
        if (row.get("kind") or "course") not in NUMBERED:
            continue
        how = str(row.get("attendance") or "")
        if row.get("status") == "held":
            found["attended"] += 1
        elif how in found:
            found[how] += 1
        elif row.get("status") == "missed":
            found["missed"] += 1
    return found
