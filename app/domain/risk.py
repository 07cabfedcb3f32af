"""Risk alerts: when one opens, how urgent it is, and how it grows. Only a clinician closes it.

The service displays an answer and makes sure that somebody sees it. It never estimates risk, and never says that
there is none: a negative item is not evidence of safety.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.domain.errors import Conflict, Fault, Forbidden, Invalid
from app.domain.instruments import Instrument
from app.domain.scoring import Score

LEVELS = ("review", "urgent", "emergency")
KINDS = ("self_harm", "harm_to_others", "psychosis", "safeguarding")
CONCERNS = {
    "plan_or_intent": ("self_harm", "urgent"),
    "attempt": ("self_harm", "urgent"),
    "acute_suicidality": ("self_harm", "emergency"),
    "thoughts_of_harming_a_baby": ("harm_to_others", "emergency"),
    "psychosis_after_birth": ("psychosis", "emergency"),
    "harm_to_others": ("harm_to_others", "urgent"),
    "safeguarding": ("safeguarding", "urgent"),
    "other": ("self_harm", "review"),
}
LONGEST_KNOWN_STABLE = timedelta(days=28)  # own design: a finding of known and stable risk is looked at anew after four weeks
ESCALATE_AGAIN_AFTER = {"review": timedelta(hours=24), "urgent": timedelta(hours=1), "emergency": timedelta(minutes=15)}  # own design
DUE_WITHIN = {"review": timedelta(hours=24), "urgent": timedelta(hours=4), "emergency": timedelta(0)}  # own design
LATE_AFTER = timedelta(hours=1)  # own design: an answer older than this on receipt says how late it came
NOT_MONITORED = "Answers are not monitored in real time. In an emergency use the help named here at once."
NO_EVIDENCE_OF_SAFETY = "Scores are self-report screening values. A negative self-harm item does not exclude risk."


class RiskResponderMissing(Conflict):
    """No risk responder is named: an instrument with a risk item cannot be collected before there is one."""


class StandingTooLong(Invalid):
    """Known and stable is a finding for a while: it must end after now and within 28 days."""


class StandingOnEmergency(Conflict):
    """An emergency is acted on; it is not found known and stable."""


class AlertAlreadyClosed(Conflict):
    """The alert is closed already."""


class ClinicianOnly(Forbidden):
    """This decision needs a token that acts for a clinician."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """Why an alert opens: the instrument's item, the value given (None: not answered), and the level."""

    instrument: str
    item: int
    value: int | None
    level: str
    reason: str


def trigger_of(questionnaire: Instrument, answers: Mapping[int, int | None], score: Score | None = None) -> Trigger | None:
    """Return the highest trigger in these answers, or None. A missing risk item is an unknown risk, level review.

    Without a score the form is a draft: what is answered counts, what is still missing does not.
    Source: own design (PHQ-9 item 9: 1 review within 24 h, 2 or 3 urgent within 4 h; missing: review).
    """
    found = []
    for risk in questionnaire.risk_items:
        value = answers.get(risk.item)
        level = risk.levels.get(str(value))
        if level:
            found.append(Trigger(questionnaire.code, risk.item, value, level, "risk_item_positive" if score else "risk_item_positive_in_draft"))
        elif value is None and risk.missing_is_unknown and score is not None:
            found.append(Trigger(questionnaire.code, risk.item, None, "review", "risk_item_not_answered"))
    return max(found, key=lambda t: (LEVELS.index(t.level), t.value is not None), default=None)


def is_known(before: Sequence[Mapping[str, Any]], trigger: Mapping[str, Any]) -> bool:
    """Tell whether a trigger is an answer that was there already: the same item of the same instrument, no higher than it was.

    A missing answer, a clinician's concern and a safety mark are never known; neither is anything that asks for somebody at once.
    """
    if trigger.get("value") is None or trigger.get("level") == "emergency":
        return False
    same = [
        t["value"] for t in before if (t.get("instrument"), t.get("item")) == (trigger["instrument"], trigger["item"]) and t.get("value") is not None
    ]
    return bool(same) and trigger["value"] <= max(same)


def of_concern(concern: str, kind: str | None, level: str) -> tuple[str, str]:
    """Return the kind of alert and its level for a clinician's concern: never lower than the concern asks for. Own design."""
    own_kind, floor = CONCERNS[concern]
    return kind or own_kind, higher(level, floor)


def check_standing(until: datetime, now: datetime, level: str) -> None:
    """Raise StandingTooLong unless a finding of known and stable risk ends within 28 days; StandingOnEmergency for an emergency."""
    if level == "emergency":
        raise StandingOnEmergency
    if not now < until <= now + LONGEST_KNOWN_STABLE:
        raise StandingTooLong(faults=[Fault("/until", "must lie after now and within 28 days")])


def is_overdue(status: str, due_at: datetime, escalated_at: datetime | None, level: str, now: datetime) -> bool:
    """Tell whether an alert that nobody acknowledged is to be told again, to the secondary contact too."""
    if status != "open" or due_at > now:
        return False
    return escalated_at is None or now - escalated_at >= ESCALATE_AGAIN_AFTER[level]


def higher(one: str, other: str) -> str:
    """Return the higher of two levels."""
    return max(one, other, key=LEVELS.index)


def due_at(level: str, now: datetime, late: timedelta | None = None) -> datetime:
    """Return when an alert of this level is due, counted from its receipt.

    An answer older than its level's own time wakes nobody as if it were new: somebody reviews it within a day.
    """
    stale = late is not None and late > DUE_WITHIN[level]
    return now + (DUE_WITHIN["review"] if stale else DUE_WITHIN[level])


def late_by(answered_at: datetime, now: datetime) -> timedelta | None:
    """Return how late an answer came in, or None when it is fresh. A late answer never alarms as if new."""
    late = now - answered_at
    return late if late > LATE_AFTER else None
