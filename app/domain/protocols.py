"""Treatment protocols: what a course of IPT is made of, read from the catalogue, or registered by a partner, as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

from app.domain.errors import Fault, Invalid, NotFound
from app.domain.protocol_faults import DEFAULTS, FLAGS, FULL_COURSE_FROM_SESSIONS, MIDDLE_SESSIONS_OF_A_FULL_COURSE, NUMBERS, PHASES, TEXTS, faults_of
from app.domain.reading import read_catalogue

TAPER_ORDER = ("twice_weekly", "weekly", "fortnightly", "monthly")
ASKED_WITHOUT_PHASES = {"risk_assessed", "baseline_measured", "contract_agreed"}
SHORTEST_BEGINNING = 2  # own design: assessment and inventory need two sessions


class ProtocolInvalid(Invalid):
    """The protocol's definition breaks a rule."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of the catalogue with where it comes from: published, seed or own_design."""

    figure: str
    mark: str
    source: str


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a phase. `met_by` is `record` (the clinician says so) or the fact that meets it."""

    code: str
    phase: str
    title: str
    met_by: str
    gate: bool
    source: str


@dataclass(frozen=True, slots=True)
class DueInstrument:
    """An instrument that the protocol asks for: when (see `DUE`), and of whom (see `RESPONDENTS`)."""

    code: str
    due: str
    respondent: str = "patient"


@dataclass(frozen=True, slots=True)
class Protocol:
    """One version of a treatment protocol. Sessions are counted, lengths are minutes, spans are weeks.

    `indications` are contraindications of other protocols that this one is for. `boundaries` is empty for a protocol without fixed phases. `four_areas` is False where the four problem areas of IPT
    do not belong; `no_areas_reason` then says why. `origin` is catalogue or partner.
    """

    code: str
    version: int
    name: str
    format: str
    population: str
    age_min: int
    age_max: int
    specialist: bool
    four_areas: bool
    no_areas_reason: str
    sessions_min: int
    sessions_max: int
    weeks_min: int
    weeks_max: int
    minutes: int
    minutes_max: int
    extension_weeks_min: int
    initial_sessions_min: int
    initial_sessions_max: int
    middle_sessions_min: int
    termination_weeks: int
    pre_sessions: int
    parent_sessions: int
    group_min: int
    group_max: int
    boundaries: Mapping[str, tuple[int, int]]
    instruments: tuple[DueInstrument, ...]
    departures: tuple[str, ...]
    indications: tuple[str, ...]
    sources: tuple[Figure, ...]
    tasks: tuple[Task, ...]
    origin: str = "catalogue"

    def task(self, code: str) -> Task:
        """Return the task `code`. Raises NotFound when the protocol has none of that code."""
        for task in self.tasks:
            if task.code == code:
                return task
        raise NotFound

    @property
    def phases(self) -> tuple[str, ...]:
        """Return the phases that a course passes, in order. Without boundaries there is no initial phase of its own."""
        return PHASES if self.boundaries else tuple(p for p in PHASES if p != "initial")

    def phase_after(self, phase: str) -> str | None:
        """Return the phase that follows, or None after the last."""
        following = self.phases[self.phases.index(phase) + 1 :] if phase in self.phases else ("middle",)
        return following[0] if following else None


@dataclass(frozen=True, slots=True)
class Plan:
    """Session numbers (first, last; both inclusive) of each phase for a contracted number of sessions."""

    initial: tuple[int, int]
    middle: tuple[int, int]
    termination: tuple[int, int]
    departures: tuple[str, ...] = ()


def plan_for(protocol: Protocol, sessions: int, per_week: float = 1.0) -> Plan | None:
    """Scale the protocol's boundaries to a contracted number of sessions.

    The beginning takes at most a quarter, the ending the protocol's last weeks (four in a full course), the middle the
    rest, at least the protocol's. Where not all of that fits, the beginning shrinks first (to two sessions), then the
    ending, and the plan says so. At the protocol's own upper number, weekly, the published boundaries stand. A protocol
    without boundaries has no plan: None. Source: own design after the founding description.
    """
    if not protocol.boundaries:
        return None
    if sessions == protocol.boundaries["termination"][1] and per_week == 1.0:
        spans = {name: (span[0], span[1]) for name, span in protocol.boundaries.items()}
        return Plan(spans["initial"], spans["middle"], spans["termination"])
    ending = max(1, min(sessions - 1, int(protocol.termination_weeks * per_week)))
    beginning = max(1, min(protocol.initial_sessions_max, sessions // 4))
    wanted = ending
    if sessions >= FULL_COURSE_FROM_SESSIONS and protocol.middle_sessions_min >= MIDDLE_SESSIONS_OF_A_FULL_COURSE:
        room = sessions - protocol.middle_sessions_min
        beginning = max(SHORTEST_BEGINNING, min(beginning, room - ending))
        ending = max(1, min(ending, room - beginning))
    last_of_middle = max(beginning, sessions - ending)
    said = (
        () if ending == wanted else (f"The ending takes {ending} sessions instead of {wanted}: {sessions} sessions hold no more beside the middle.",)
    )
    return Plan((1, beginning), (beginning + 1, last_of_middle), (last_of_middle + 1, sessions), said)


def last_session_before_the_ending(protocol: Protocol, sessions: int, per_week: float = 1.0) -> int:
    """Return the number of the session after which the ending is due: its last weeks, at least one session."""
    plan = plan_for(protocol, sessions, per_week)
    return plan.middle[1] if plan else max(0, sessions - max(1, int(protocol.termination_weeks * per_week)))


def extension_faults(protocol: Protocol, sessions: int, per_week: float, *, amended: bool = False) -> list[Fault]:
    """Return what is wrong with a contracted number. A longer course adds the protocol's weeks of extension or more.

    An amendment, which has its reason, may shorten a course, and lengthen one whose protocol says nothing of extension.
    """
    if amended and (sessions < protocol.sessions_min or not protocol.extension_weeks_min):
        return []
    if sessions < protocol.sessions_min:
        return [Fault("/sessions", f"{protocol.code} runs for {protocol.sessions_min} to {protocol.sessions_max} sessions")]
    if sessions <= protocol.sessions_max:
        return []
    if not protocol.extension_weeks_min:
        return [Fault("/sessions", f"{protocol.code} runs for {protocol.sessions_min} to {protocol.sessions_max} sessions")]
    if (sessions - protocol.sessions_max) / per_week < protocol.extension_weeks_min:
        return [Fault("/sessions", f"an extension adds {protocol.extension_weeks_min} weeks or more")]
    return []


def protocol_from(mapping: Mapping[str, Any], tasks: tuple[Task, ...], origin: str = "catalogue") -> Protocol:
    """Build a protocol from plain data, whether it came from a file or over HTTP.

    `tasks` are those that every course of IPT has; `without_tasks` takes some out (by code), `extra_tasks` adds others,
    each met by a record. Raises ProtocolInvalid, with a JSON pointer for each fault.
    """
    plain = {**DEFAULTS, **mapping}
    plain["minutes_max"] = mapping.get("minutes_max", mapping.get("minutes"))
    faults = list(faults_of(plain))
    if not faults:
        common = {t.code for t in tasks}
        faults = [
            Fault(f"/extra_tasks/{n}/code", "is a task that every course has") for n, t in enumerate(plain["extra_tasks"]) if t["code"] in common
        ]
    if faults:
        raise ProtocolInvalid(faults=faults)
    own = tuple(_placed(t, plain) for t in tasks if _belongs(t, plain)) + tuple(_extra(t) for t in plain["extra_tasks"])
    return Protocol(
        **{name: plain[name] for name in NUMBERS + TEXTS + FLAGS},
        boundaries={phase: (span[0], span[1]) for phase, span in plain["boundaries"].items()},
        instruments=tuple(DueInstrument(**i) for i in plain["instruments"]),
        departures=tuple(plain["departures"]),
        indications=tuple(plain["indications"]),
        sources=tuple(Figure(**s) for s in plain["sources"]),
        tasks=own,
        origin=origin,
    )


def _belongs(task: Task, plain: Mapping[str, Any]) -> bool:
    """Tell whether a common task is one of this protocol: it may need a specialist, the four areas, or an initial phase."""
    if task.code in plain["without_tasks"] or (task.code == "diagnosis_named" and not plain["specialist"]):
        return False
    if task.met_by == "focus" and not plain["four_areas"]:
        return False
    return bool(plain["boundaries"]) or task.phase != "initial" or task.code in ASKED_WITHOUT_PHASES


def _placed(task: Task, plain: Mapping[str, Any]) -> Task:
    """Without an initial phase, what is asked of every course is owed while the work goes on."""
    return task if plain["boundaries"] or task.phase != "initial" else replace(task, phase="middle", gate=False)


def _extra(row: Mapping[str, Any]) -> Task:
    return Task(row["code"], row["phase"], row["title"], "record", bool(row.get("gate", True)), row["source"])


def taper_faults(sessions: int, taper: Sequence[Mapping[str, Any]]) -> list[Fault]:
    """Return what is wrong with a tapering: its steps take fewer sessions than are contracted, and each is rarer than the one before.

    Source: weekly to monthly over four months (Frank 1990 design); the checks are own design.
    """
    faults = []
    if taper and sum(step["sessions"] for step in taper) >= sessions:
        faults.append(Fault("/taper", "must take fewer sessions than the contract has"))
    steps = [TAPER_ORDER.index(step["frequency"]) for step in taper]
    if any(later <= earlier for earlier, later in pairwise(steps)):
        faults.append(Fault("/taper", "must become rarer from step to step"))
    return faults


@cache
def protocols() -> Mapping[tuple[str, int], Protocol]:
    """Return every protocol of the catalogue by (code, version)."""
    rows = read_catalogue("protocols.toml")["protocol"]
    return {(p["code"], p["version"]): protocol_from(p, common_tasks()) for p in rows}


@cache
def common_tasks() -> tuple[Task, ...]:
    """Return the tasks that every course of IPT has."""
    return tuple(Task(**row) for row in read_catalogue("tasks.toml")["task"])


def protocol(code: str, version: int | None = None) -> Protocol:
    """Return a protocol, its newest version unless one is given. Raises NotFound."""
    versions = [p for p in protocols().values() if p.code == code and version in {None, p.version}]
    if not versions:
        raise NotFound
    return max(versions, key=lambda p: p.version)
