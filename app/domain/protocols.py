"""Treatment protocols: what a course of IPT is made of, read from the catalogue as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from app.domain.errors import Fault, Invalid, NotFound
from app.domain.reading import read_catalogue

MIDDLE_SESSIONS_OF_A_FULL_COURSE = 8  # Source: the founding description, "at a minimum, the next 8 sessions"
FULL_COURSE_FROM_SESSIONS = 12  # Source: the founding description, "12 to 16 one-hour weekly sessions"
SHORTEST_BEGINNING = 2  # own design: assessment and inventory need two sessions
LONGEST_COURSE = 200  # own design: a bound on what can be contracted, monthly maintenance over years included


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
    """An instrument that the protocol asks for, and when."""

    code: str
    due: str


@dataclass(frozen=True, slots=True)
class Protocol:
    """One version of a treatment protocol. Sessions are counted, lengths are minutes, spans are weeks."""

    code: str
    version: int
    name: str
    format: str
    population: str
    age_min: int
    age_max: int
    specialist: bool
    four_areas: bool
    sessions_min: int
    sessions_max: int
    weeks_min: int
    weeks_max: int
    minutes: int
    extension_weeks_min: int
    initial_sessions_min: int
    initial_sessions_max: int
    middle_sessions_min: int
    termination_weeks: int
    boundaries: Mapping[str, tuple[int, int]]
    instruments: tuple[DueInstrument, ...]
    departures: tuple[str, ...]
    sources: tuple[Figure, ...]
    tasks: tuple[Task, ...]

    def task(self, code: str) -> Task:
        """Return the task `code`. Raises NotFound when the protocol has none of that code."""
        for task in self.tasks:
            if task.code == code:
                return task
        raise NotFound


@dataclass(frozen=True, slots=True)
class Plan:
    """Session numbers (first, last; both inclusive) of each phase for a contracted number of sessions."""

    initial: tuple[int, int]
    middle: tuple[int, int]
    termination: tuple[int, int]
    departures: tuple[str, ...] = ()


def plan_for(protocol: Protocol, sessions: int, per_week: float = 1.0) -> Plan:
    """Scale the protocol's boundaries to a contracted number of sessions.

    The beginning takes at most a quarter, the ending the protocol's last weeks (four in a full course), the middle the
    rest, at least the protocol's. Where not all of that fits, the beginning shrinks first (to two sessions), then the
    ending, and the plan says so. At the protocol's own upper number, weekly, the published boundaries stand.
    Source: own design after the founding description .
    """
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


def extension_faults(protocol: Protocol, sessions: int, per_week: float) -> list[Fault]:
    """Return what is wrong with a contracted number. A longer course adds the protocol's weeks of extension or more."""
    if sessions < protocol.sessions_min:
        return [Fault("/sessions", f"{protocol.code} runs for {protocol.sessions_min} to {protocol.sessions_max} sessions")]
    if sessions <= protocol.sessions_max:
        return []
    if not protocol.extension_weeks_min:
        return [Fault("/sessions", f"{protocol.code} runs for {protocol.sessions_min} to {protocol.sessions_max} sessions")]
    if (sessions - protocol.sessions_max) / per_week < protocol.extension_weeks_min:
        return [Fault("/sessions", f"an extension adds {protocol.extension_weeks_min} weeks or more")]
    return []


def protocol_from(mapping: Mapping[str, Any], tasks: tuple[Task, ...]) -> Protocol:
    """Build a protocol from plain data, whether it came from a file or over HTTP.

    Raises ProtocolInvalid, with a JSON pointer for each fault.
    """
    faults = list(_faults_of(mapping))
    if faults:
        raise ProtocolInvalid(faults=faults)
    known = {name: mapping[name] for name in _NUMBERS + _TEXTS + _FLAGS}
    own = tuple(t for t in tasks if mapping["specialist"] or t.code != "diagnosis_named")
    return Protocol(
        **known,
        boundaries={phase: (span[0], span[1]) for phase, span in mapping["boundaries"].items()},
        instruments=tuple(DueInstrument(**i) for i in mapping["instruments"]),
        departures=tuple(mapping["departures"]),
        sources=tuple(Figure(**s) for s in mapping["sources"]),
        tasks=own,
    )


_NUMBERS = [
    "version",
    "age_min",
    "age_max",
    "sessions_min",
    "sessions_max",
    "weeks_min",
    "weeks_max",
    "minutes",
    "extension_weeks_min",
    "initial_sessions_min",
    "initial_sessions_max",
    "middle_sessions_min",
    "termination_weeks",
]
_TEXTS = ["code", "name", "format", "population"]
_FLAGS = ["specialist", "four_areas"]


def _faults_of(mapping: Mapping[str, Any]) -> list[Fault]:
    faults = [
        Fault(f"/{name}", "must be a whole number from 0 to 200")
        for name in _NUMBERS
        if type(mapping.get(name)) is not int or not 0 <= mapping[name] <= LONGEST_COURSE
    ]
    faults += [Fault(f"/{name}", "must be text") for name in _TEXTS if not isinstance(mapping.get(name), str)]
    faults += [Fault(f"/{name}", "must be true or false") for name in _FLAGS if type(mapping.get(name)) is not bool]
    faults += [Fault(f"/{name}", "is missing") for name in ("boundaries", "instruments", "departures", "sources") if name not in mapping]
    return faults or _contradictions_of(mapping)


def _contradictions_of(mapping: Mapping[str, Any]) -> list[Fault]:
    faults = [
        Fault(f"/{low}", f"must not be above {high}")
        for low, high in (("sessions_min", "sessions_max"), ("weeks_min", "weeks_max"), ("age_min", "age_max"))
        if mapping[low] > mapping[high]
    ]
    spans = mapping["boundaries"]
    if set(spans) != {"initial", "middle", "termination"}:
        return [*faults, Fault("/boundaries", "must name initial, middle and termination")]
    if spans["initial"][1] + 1 != spans["middle"][0] or spans["middle"][1] + 1 != spans["termination"][0]:
        faults.append(Fault("/boundaries", "must follow each other without a gap"))
    middle = spans["middle"][1] - spans["middle"][0] + 1
    if mapping["sessions_min"] >= FULL_COURSE_FROM_SESSIONS and middle < MIDDLE_SESSIONS_OF_A_FULL_COURSE and not mapping["departures"]:
        faults.append(Fault("/departures", "a course of 12 to 16 sessions with fewer than 8 middle sessions must say so"))
    return faults


@cache
def protocols() -> Mapping[tuple[str, int], Protocol]:
    """Return every protocol of the catalogue by (code, version)."""
    data = read_catalogue("protocols.toml")
    tasks = tuple(Task(**{k: v for k, v in row.items() if k != "specialist_only"}) for row in data["task"])
    return {(p["code"], p["version"]): protocol_from(p, tasks) for p in data["protocol"]}


def protocol(code: str, version: int | None = None) -> Protocol:
    """Return a protocol, its newest version unless one is given. Raises NotFound."""
    versions = [p for p in protocols().values() if p.code == code and version in {None, p.version}]
    if not versions:
        raise NotFound
    return max(versions, key=lambda p: p.version)
