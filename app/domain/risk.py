"""Risk alerts: when one opens, how urgent it is, and how it grows. Only a clinician closes it.

The service displays an answer and makes sure that somebody sees it. It never estimates risk, and never says that
there is none: a negative item is not evidence of safety.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.errors import Conflict, Forbidden
from app.domain.instruments import Instrument, Score

LEVELS = ("review", "urgent", "emergency")
DUE_WITHIN = {"review": timedelta(hours=24), "urgent": timedelta(hours=4), "emergency": timedelta(0)}  # own design
LATE_AFTER = timedelta(hours=1)  # own design: an answer older than this on receipt says how late it came
NOT_MONITORED = "Answers are not monitored in real time. In an emergency use the help named here at once."
NO_EVIDENCE_OF_SAFETY = "Scores are self-report screening values. A negative self-harm item does not exclude risk."


class RiskResponderMissing(Conflict):
    """No risk responder is named: an instrument with a risk item cannot be collected before there is one."""


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


def trigger_of(questionnaire: Instrument, answers: dict[int, int | None], score: Score) -> Trigger | None:
    """Return the trigger in these answers, or None. A missing risk item is an unknown risk, level review.

    Source: own design (levels by PHQ-9 item 9: 1 review within 24 h, 2 or 3 urgent within 4 h; missing: review).
    """
    item = questionnaire.risk_item
    if item is None:
        return None
    if item in score.missing:
        return Trigger(questionnaire.code, item, None, "review", "risk_item_not_answered")
    value = answers[item]
    level = questionnaire.risk_levels.get(str(value))
    return Trigger(questionnaire.code, item, value, level, "risk_item_positive") if level else None


def higher(one: str, other: str) -> str:
    """Return the higher of two levels."""
    return max(one, other, key=LEVELS.index)


def due_at(level: str, now: datetime) -> datetime:
    """Return when an alert of this level is due, counted from its receipt."""
    return now + DUE_WITHIN[level]


def late_by(answered_at: datetime, now: datetime) -> timedelta | None:
    """Return how late an answer came in, or None when it is fresh. A late answer never alarms as if new."""
    late = now - answered_at
    return late if late > LATE_AFTER else None
