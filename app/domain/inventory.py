"""The interpersonal inventory: what it measures, how complete it is, and what to ask next."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from app.domain.errors import Fault, Invalid
from app.domain.phase import RELATIONSHIPS_IN_A_TAKEN_INVENTORY

INNER_RINGS = 2  # own design: rings 1 and 2 of 4 are close
CONFIDANT_FROM = 2  # own design: confiding 2 or 3 of 3
CONFLICT_FROM = 2  # own design: conflict 2 or 3 of 3
ROUNDING = 2
_NAME = re.compile(r"[^\W\d_a-z][^\W\d_]*(?:['\u2019-][^\W\d_]+)*")
PARTICLES = {"de", "la", "del", "da", "dos", "van", "von", "der", "den", "bin", "al", "y", "e"}
KIN = {
    "aunt",
    "uncle",
    "mum",
    "mom",
    "mother",
    "dad",
    "father",
    "grandma",
    "grandpa",
    "granny",
    "cousin",
    "sister",
    "brother",
    "son",
    "daughter",
    "husband",
    "wife",
    "partner",
    "friend",
    "boss",
    "doctor",
    "dr",
    "mr",
    "mrs",
    "ms",
    "miss",
    "father-in-law",
    "mother-in-law",
    "neighbour",
    "neighbor",
    "teacher",
    "coach",
    "tía",
    "tío",
    "mamá",
    "papá",
    "abuela",
    "abuelo",
}

RELATION_TYPES = [
    "spouse_partner",
    "ex_partner",
    "parent",
    "step_parent",
    "child",
    "sibling",
    "grandparent",
    "in_law",
    "godparent",
    "co_wife",
    "head_of_household",
    "other_family",
    "friend",
    "colleague",
    "supervisor",
    "subordinate",
    "teacher",
    "neighbour",
    "faith_community",
    "carer",
    "professional",
    "other",
]
STATUSES = ("current", "past", "estranged", "deceased")
PATTERNS = [
    "dependency",
    "hostility",
    "submission",
    "avoidance",
    "overgiving",
    "rejection_sensitive",
    "controlling",
    "inadequacy",
    "unexpressed_emotion",
    "other",
]
SAFETY = ("none", "coercion", "violence", "stalking", "safeguarding_child")
MOURNING_SIGNS = [
    "missed_funeral",
    "never_cried",
    "numb",
    "avoids_reminders",
    "no_grave_visit",
    "belongings_kept",
    "kept_busy",
    "not_discussed",
    "guilt",
    "anger",
    "yearning",
    "preoccupation",
    "symptoms_like_deceased",
    "anniversary_trigger",
    "loss_not_recognised",
    "cause_hidden",
    "prevented",
    "not_customary",
]
EVENT_TYPES = [
    "death",
    "pregnancy_loss",
    "anniversary",
    "separation",
    "divorce",
    "affair_discovered",
    "relationship_start",
    "marriage",
    "birth",
    "child_leaves_home",
    "parental_separation",
    "caregiving_start",
    "caregiving_end",
    "job_loss",
    "job_change",
    "promotion",
    "retirement",
    "education_start",
    "education_end",
    "course_change",
    "relocation",
    "migration",
    "status_change",
    "illness_diagnosis_self",
    "illness_other",
    "disability",
    "loss_of_driving",
    "financial_loss",
    "legal",
    "release",
    "coming_out",
    "business_change",
    "partner_job_change",
    "other",
]


class HistoryImpossible(Invalid):
    """The history cannot have happened like this."""


class FullNameRefused(Invalid):
    """A label must not be a full name."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Derived measures. Counts of people; gaps are in rings (positive: wished nearer); shares are 0 to 1."""

    relationships: int
    close_now: int
    close_before_onset: int
    confidants: int
    mean_closeness_gap: float | None
    moves_since_onset: int
    conflict_share: float | None
    support_balance: float | None


def check_relationship(fields: Mapping[str, object], today: date) -> None:
    """Refuse what cannot be: a death in the future, a death date of somebody who lives, mourning signs likewise.

    Raises HistoryImpossible, and FullNameRefused for a label that looks like a full name: the other person is a third
    party, initials or a nickname do.
    """
    faults = []
    died, status = fields.get("death_date"), fields.get("status")
    if isinstance(died, date) and died > today:
        faults.append(Fault("/death_date", "lies after the patient's today"))
    if status != "deceased" and (died or fields.get("mourning_signs")):
        faults.append(Fault("/status", "must be deceased where a death date or mourning signs are given"))
    if faults:
        raise HistoryImpossible(faults=faults)
    check_label(fields.get("label"), "/label")


def check_label(label: object, pointer: str) -> None:
    """Refuse a label that reads like a full name: two or more name-like words beside no word of kin. Raises FullNameRefused."""
    words = [w.strip(",.;()") for w in str(label or "").split()]
    names = [w for w in words if _NAME.fullmatch(w) and w.lower() not in KIN]
    rest = [w for w in words if w and w not in names and w.lower() not in PARTICLES and len(w) > 1]
    if len(names) > 1 and not rest:
        raise FullNameRefused(faults=[Fault(pointer, "looks like a full name; use a nickname, the relation or initials")])


def check_event(fields: Mapping[str, object], today: date) -> None:
    """Refuse a past event dated in the future, unless it is imminent by its own word. Raises HistoryImpossible."""
    happened = fields.get("happened_on")
    if isinstance(happened, date) and happened > today and not fields.get("imminent"):
        raise HistoryImpossible(faults=[Fault("/happened_on", "lies after the patient's today; mark the event imminent if it is to come")])
    check_label(fields.get("person_label"), "/person_label")


def measures(relationships: Sequence[Mapping[str, object]]) -> Measures:
    """Derive the inventory's measures. All own design.

    Deceased people count in `relationships` and, for the time before the onset, in `close_before_onset`.
    """
    living = [r for r in relationships if r.get("status") != "deceased"]
    now = [_ring(r, "closeness_now") for r in living]
    gaps = [float(n - w) for r in living if (n := _ring(r, "closeness_now")) and (w := _ring(r, "closeness_wished"))]
    moved = [r for r in living if (n := _ring(r, "closeness_now")) and (b := _ring(r, "closeness_before_onset")) and n != b]
    conflict = [c for r in living if (c := _whole(r, "conflict_level")) is not None]
    balance = [float(got - given) for r in living if (got := _support(r, "received")) is not None and (given := _support(r, "given")) is not None]
    return Measures(
        relationships=len(relationships),
        close_now=sum(1 for ring in now if ring and ring <= INNER_RINGS),
        close_before_onset=sum(1 for r in relationships if (b := _ring(r, "closeness_before_onset")) and b <= INNER_RINGS),
        confidants=sum(1 for r in living if (_whole(r, "confiding") or 0) >= CONFIDANT_FROM),
        mean_closeness_gap=_mean(gaps),
        moves_since_onset=len(moved),
        conflict_share=_mean([float(c >= CONFLICT_FROM) for c in conflict]),
        support_balance=_mean(balance),
    )


def next_questions(relationships: Sequence[Mapping[str, object]], *, onset_known: bool, events: int) -> list[str]:
    """Return what is still missing, most useful first. Empty: the inventory is taken as far as these rules go."""
    questions = []
    if not onset_known:
        questions.append("When did this illness begin? Changes near the onset point to the problem area.")
    if len(relationships) < RELATIONSHIPS_IN_A_TAKEN_INVENTORY:
        questions.append("Who else matters, now or in the past? Ask for at least three people.")
    if not any(r.get("status") == "deceased" for r in relationships):
        questions.append("Has anyone who mattered died?")
    if not events:
        questions.append("What changed in life in the year before the onset: people, work, home, health?")
    for index, row in enumerate(relationships, start=1):
        if row.get("status") == "current" and not (row.get("expects_of_other") and row.get("other_expects")):
            questions.append(f"Relationship {index}: what does each expect of the other?")
        if row.get("closeness_now") is None and row.get("status") == "current":
            questions.append(f"Relationship {index}: how close now, before the onset, and as wished?")
    return questions


def completeness(relationships: Sequence[Mapping[str, object]], *, onset_known: bool, events: int) -> float:
    """Return the share (0 to 1) of the inventory's parts that are there. Own design."""
    current = [r for r in relationships if r.get("status") == "current"]
    parts = [
        onset_known,
        len(relationships) >= RELATIONSHIPS_IN_A_TAKEN_INVENTORY,
        events > 0,
        bool(current) and all(r.get("closeness_now") for r in current),
        bool(current) and all(r.get("expects_of_other") and r.get("other_expects") for r in current),
    ]
    return sum(parts) / len(parts)


def reciprocity(row: Mapping[str, object]) -> int | None:
    """Return support received minus given (each 0 to 6, emotional and practical together); None where neither side was rated."""
    got, given = _support(row, "received"), _support(row, "given")
    return None if got is None or given is None else got - given


def _ring(row: Mapping[str, object], name: str) -> int | None:
    return _whole(row, name)


def _whole(row: Mapping[str, object], name: str) -> int | None:
    value = row.get(name)
    return value if isinstance(value, int) else None


def _support(row: Mapping[str, object], way: str) -> int | None:
    parts = [_whole(row, f"support_{way}_emotional"), _whole(row, f"support_{way}_practical")]
    known = [p for p in parts if p is not None]
    return sum(known) if known else None


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), ROUNDING) if values else None
