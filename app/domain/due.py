"""What is owed now, in one ordered list: alerts, sessions, measures, requests, homework, reviews, tasks, questions, proposals.

Nothing here is applied by itself, and nothing stands in the way of care. Risk on hold silences automatic reminders
(measures, homework, questions, proposals), never alerts, reviews or tasks. Times are own design.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from app.domain.phase import OWED, Facts, task_status
from app.domain.protocols import DueInstrument, Protocol

KINDS = ("alert", "review", "session", "request", "measure", "follow_up", "homework", "task", "proposal", "question")
URGENCIES = ("overdue", "now", "soon")
MEASURE_BEFORE = timedelta(days=2)  # an answer up to two days before a session counts for it
MONTH = timedelta(days=28)
EVERY_FOURTH = 4
FOLLOW_UP_NOTICE = timedelta(days=14)
SOON = timedelta(days=3)
MOST_QUESTIONS = 3
SILENCED = {"measure", "homework", "question", "proposal"}
RUNNING = {"referred", "active"}
TREATED = {"initial", "middle", "termination"}
TITLES = {
    "start_termination": "The middle sessions are used up: begin the ending",
    "tell_the_end_date": "The end is near: tell the end date",
    "amend_contract": "More sessions were held than agreed: amend the contract",
    "make_up_lost_sessions": "The sessions left no longer fit before the end date: amend the contract or the plan",
    "not_on_track": "Not on track by the PHQ-9: review the treatment in supervision",
    "worse_after_change_attempt": "Reliably worse after a change was tried: talk about it",
    "supervision_therapist_activity": "The therapist's activity rises in the ending: a matter for supervision",
    "known_stable_expires": "A finding of known and stable risk expires: review it",
    "safety_lift_waits": "Lifting a safety mark waits for a second clinician",
    "focus_late": "The focus was changed after half of the contract: review the plan",
}


@dataclass(frozen=True, slots=True)
class Due:
    """One thing that is owed. `due_at` None: no time is set. `resource` names what it is about, as `kind/id`."""

    kind: str
    code: str
    title: str
    urgency: str
    due_at: datetime | None = None
    resource: str | None = None


@dataclass(frozen=True, slots=True)
class Course:
    """All that the worklist looks at, for one course. Rows are plain mappings; times carry their zone."""

    facts: Facts
    protocol: Protocol
    now: datetime
    alerts: Sequence[Mapping[str, Any]] = ()
    sessions: Sequence[Mapping[str, Any]] = ()
    answers: Mapping[tuple[str, str], datetime] = field(default_factory=dict)
    """The last answer by (instrument, respondent)."""
    requests: Sequence[Mapping[str, Any]] = ()
    follow_ups: Sequence[Mapping[str, Any]] = ()
    homework: Sequence[Mapping[str, Any]] = ()
    reviews: Sequence[str] = ()
    proposals: Sequence[str] = ()
    questions: Sequence[tuple[str, str]] = ()
    early_ending_owed: Sequence[str] = ()


def due_items(course: Course) -> list[Due]:
    """Return everything owed, most urgent first: overdue before now before soon, then by kind, then by time."""
    silent = SILENCED if course.facts.risk_on_hold else set()
    found = [d for d in _all(course) if d.kind not in silent]
    return sorted(found, key=order)


def order(item: Due) -> tuple[int, int, bool, float]:
    """Return the place of an item in the list. An alert stands before everything, whatever its time."""
    alert = item.kind == "alert"
    when = item.due_at.timestamp() if item.due_at else 0.0
    return (-1 if alert else URGENCIES.index(item.urgency), KINDS.index(item.kind), item.due_at is None, when)


def _all(course: Course) -> Iterator[Due]:
    yield from _alerts(course)
    yield from (Due("review", code, TITLES[code], "now") for code in course.reviews)
    yield from _sessions(course)
    yield from _timed(course, "request", course.requests, "due_at")
    yield from _timed(course, "homework", course.homework, "due_at")
    yield from _follow_ups(course)
    yield from (Due("task", code, code.replace("_", " "), "now") for code in course.early_ending_owed)
    if course.facts.status not in RUNNING:
        return
    yield from _measures(course)
    yield from _tasks(course)
    yield from (Due("proposal", code, TITLES[code], "now") for code in course.proposals)
    yield from (Due("question", code, text, "soon") for code, text in list(course.questions)[:MOST_QUESTIONS])


def _alerts(course: Course) -> Iterator[Due]:
    for alert in course.alerts:
        title = f"Risk alert ({alert['level']}): {'acknowledged, not closed' if alert['status'] == 'acknowledged' else 'nobody has looked yet'}"
        yield Due("alert", alert["kind"], title, _urgency(alert["due_at"], course.now), alert["due_at"], f"risk_alert/{alert['id']}")


def _sessions(course: Course) -> Iterator[Due]:
    for row in course.sessions:
        if row["status"] != "scheduled":
            continue
        past = row["starts_at"] <= course.now
        if past or row["starts_at"] - course.now <= SOON:
            code = "session_not_recorded" if past else "session_coming"
            title = "A session's time has passed: record it" if past else "A session is coming"
            yield Due("session", code, title, "overdue" if past else "soon", row["starts_at"], f"session/{row['id']}")


def _timed(course: Course, kind: str, rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[Due]:
    for row in rows:
        yield Due(kind, row["code"], row["title"], _urgency(row[name], course.now), row[name], row["resource"])


def _follow_ups(course: Course) -> Iterator[Due]:
    for row in course.follow_ups:
        if row["due_at"] - course.now <= FOLLOW_UP_NOTICE:
            title = f"Follow-up at {row['months']} months"
            yield Due("follow_up", f"follow_up_{row['months']}", title, _urgency(row["due_at"], course.now), row["due_at"], f"follow_up/{row['id']}")


def _measures(course: Course) -> Iterator[Due]:
    if course.facts.phase not in TREATED and course.facts.status != "active":
        return
    held = sorted((r["starts_at"] for r in course.sessions if r["status"] == "held"), reverse=True)
    coming = min((r["starts_at"] for r in course.sessions if r["status"] == "scheduled" and r["starts_at"] > course.now), default=None)
    for wanted in course.protocol.instruments:
        last = course.answers.get((wanted.code, wanted.respondent))
        if _is_due(wanted, last, held, course) or _is_near(wanted, last, coming, course.now):
            title = f"{wanted.code} by {wanted.respondent}"
            yield Due("measure", wanted.code, title, "now" if last is None else "soon", coming, f"instrument/{wanted.code}")


def _is_near(wanted: DueInstrument, last: datetime | None, coming: datetime | None, now: datetime) -> bool:
    """Tell whether a session comes within two days and its measure was not given yet: so that the session has its score."""
    return (
        wanted.due == "every_session"
        and coming is not None
        and last is not None
        and coming - now <= MEASURE_BEFORE
        and last < coming - MEASURE_BEFORE
    )


def _is_due(wanted: DueInstrument, last: datetime | None, held: Sequence[datetime], course: Course) -> bool:
    if last is None:
        return True
    since = sum(1 for moment in held if moment - MEASURE_BEFORE > last)
    if wanted.due == "every_session":
        return since >= 1
    if wanted.due == "every_fourth_session":
        return since >= EVERY_FOURTH
    if wanted.due == "monthly":
        return course.now - last >= MONTH
    return course.facts.phase == "termination" and since >= 1


def _tasks(course: Course) -> Iterator[Due]:
    for task in course.protocol.tasks:
        if task.phase == course.facts.phase and task_status(task, course.facts) == OWED:
            yield Due("task", task.code, task.title, "now" if task.gate else "soon", None, f"task/{task.code}")


def _urgency(due_at: datetime | None, now: datetime) -> str:
    if due_at is None:
        return "soon"
    return "overdue" if due_at < now else "now" if due_at - now <= timedelta(days=1) else "soon"
