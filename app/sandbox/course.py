"""What a course of the sandbox is: a story with everything that a vendor's app would send, week by week."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

WEEKS_AFTER_THE_END = 29  # the follow-up at 6 months lies in the past


@dataclass(frozen=True, slots=True)
class Visit:
    """One week: a session held or missed, with its questionnaires (item answers in order)."""

    phq9: tuple[int | None, ...] | None = None
    gad7: tuple[int | None, ...] | None = None
    status: str = "held"
    mode: str = "in_person"
    areas: Sequence[str] = ()
    techniques: Sequence[str] = ()
    strategies: Sequence[str] = ()
    mood: int | None = None
    activity: int | None = None
    initiative: int | None = None
    summary: str = ""
    social: tuple[int, int] | None = None
    """RAND 36-Item social functioning."""
    profile: tuple[int, ...] | None = None
    """IPIP interpersonal circumplex."""
    affects: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Course:
    """A whole course. Names in `relationships` and `life_events` are the course's own; others refer to them."""

    code: str
    title: str
    story: str
    protocol: str
    sessions: int
    minutes: int
    age: int
    onset_weeks_before: int
    middle_from: int
    ending_from: int | None
    patient: Mapping[str, Any]
    relationships: Mapping[str, Mapping[str, Any]]
    life_events: Mapping[str, Mapping[str, Any]]
    indicators: Mapping[str, str | Mapping[str, Any]]
    focus: Mapping[str, Any]
    formulation: str
    visits: Sequence[Visit]
    ending: Mapping[str, Any] = field(default_factory=dict)
    early_ending: Mapping[str, Any] | None = None
    follow_ups: Mapping[int, tuple[int | None, ...]] = field(default_factory=dict)
    episode: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[Mapping[str, Any]] = ()
    goals: Sequence[Mapping[str, Any]] = ()
    focus_work: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    medications: Sequence[Mapping[str, Any]] = ()
    change_attempts: Sequence[Mapping[str, Any]] = ()
    analyses: Sequence[Mapping[str, Any]] = ()
    homework: Sequence[Mapping[str, Any]] = ()
    maintenance: Mapping[str, Any] | None = None
    frequency: str = "weekly"
    weeks_between: int = 1

    def first_session_on(self, today: date) -> date:
        """Return the day of the first session, so that the whole course lies in the past."""
        return today - timedelta(weeks=len(self.visits) * self.weeks_between + WEEKS_AFTER_THE_END)
