"""What can be wrong with a protocol's definition: one hand-written check serves the catalogue's files and partners alike."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.domain.errors import Fault, escaped

MOST = 200  # own design: sessions, weeks, minutes, years and versions stay within it
MOST_MINUTES = 300  # own design: a group's day
LONGEST_TEXT = 2_000
MOST_ITEMS = 40
MIDDLE_SESSIONS_OF_A_FULL_COURSE = 8  # Source: the founding description, "at a minimum, the next 8 sessions"
FULL_COURSE_FROM_SESSIONS = 12  # Source: the founding description, "12 to 16 one-hour weekly sessions"
PHASES = ("screening", "initial", "middle", "termination", "follow_up")
FORMATS = ("individual", "group", "couple", "mixed")
DUE = ("every_session", "every_fourth_session", "monthly", "start_and_end")
RESPONDENTS = ("patient", "clinician", "parent", "partner")
MARKS = ("published", "seed", "own_design", "unverified")
NUMBERS = [
    "version",
    "age_min",
    "age_max",
    "sessions_min",
    "sessions_max",
    "weeks_min",
    "weeks_max",
    "minutes",
    "minutes_max",
    "extension_weeks_min",
    "initial_sessions_min",
    "initial_sessions_max",
    "middle_sessions_min",
    "termination_weeks",
    "pre_sessions",
    "parent_sessions",
    "group_min",
    "group_max",
]
TEXTS = ["code", "name", "format", "population", "no_areas_reason"]
FLAGS = ["specialist", "four_areas"]
LISTS = ["instruments", "departures", "sources", "extra_tasks", "without_tasks", "indications"]
DEFAULTS: Mapping[str, Any] = {
    "no_areas_reason": "",
    "extension_weeks_min": 0,
    "initial_sessions_min": 0,
    "initial_sessions_max": 0,
    "middle_sessions_min": 0,
    "pre_sessions": 0,
    "parent_sessions": 0,
    "group_min": 0,
    "group_max": 0,
    "boundaries": {},
    "departures": [],
    "extra_tasks": [],
    "without_tasks": [],
    "indications": [],
}
ALWAYS = {"risk_assessed"}
_CODE = re.compile(r"[A-Z][A-Z0-9-]{1,29}")
_SLUG = re.compile(r"[a-z][a-z0-9_]{1,59}")


def faults_of(plain: Mapping[str, Any]) -> list[Fault]:
    """Return everything that is wrong, each with a JSON pointer: first the shapes, then what contradicts itself."""
    return list(_shapes(plain)) or list(_contradictions(plain))


def _shapes(plain: Mapping[str, Any]) -> Iterator[Fault]:
    known = {*NUMBERS, *TEXTS, *FLAGS, *LISTS, "boundaries"}
    yield from (Fault(f"/{escaped(name)}", "is not a member of a protocol") for name in plain if name not in known)
    for name in NUMBERS:
        most = MOST_MINUTES if name.startswith("minutes") else MOST
        if type(plain.get(name)) is not int or not 0 <= plain[name] <= most:
            yield Fault(f"/{name}", f"must be a whole number from 0 to {most}")
    yield from (Fault(f"/{n}", f"must be text of at most {LONGEST_TEXT} characters") for n in TEXTS if not _is_text(plain.get(n)))
    yield from (Fault(f"/{n}", "must be true or false") for n in FLAGS if type(plain.get(n)) is not bool)
    for name in LISTS:
        if not isinstance(plain.get(name), (list, tuple)) or len(plain[name]) > MOST_ITEMS:
            yield Fault(f"/{name}", f"must be a list of at most {MOST_ITEMS}")
            return
    yield from _items(plain)
    yield from _spans(plain.get("boundaries"))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and value.isprintable()


def _items(plain: Mapping[str, Any]) -> Iterator[Fault]:
    shapes: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "instruments": ({"code": None, "due": DUE}, {"respondent": RESPONDENTS}),
        "sources": ({"figure": None, "mark": MARKS, "source": None}, {}),
        "extra_tasks": ({"code": None, "phase": PHASES, "title": None, "source": None}, {"gate": None}),
    }
    for name, (needed, optional) in shapes.items():
        for n, item in enumerate(plain[name]):
            yield from _item(f"/{name}/{n}", item, needed, optional)
    for name in ("departures", "without_tasks", "indications"):
        yield from (Fault(f"/{name}/{n}", "must be text") for n, text in enumerate(plain[name]) if not _is_text(text))


def _item(pointer: str, item: object, needed: Mapping[str, Any], optional: Mapping[str, Any]) -> Iterator[Fault]:
    if not isinstance(item, Mapping):
        yield Fault(pointer, "must be an object")
        return
    wrong = [m for m in item if m not in needed and m not in optional]
    yield from (Fault(f"{pointer}/{escaped(m)}", "is not a member here") for m in wrong)
    for name, values in {**needed, **optional}.items():
        value = item.get(name)
        if name == "gate":
            if name in item and type(value) is not bool:
                yield Fault(f"{pointer}/gate", "must be true or false")
        elif (name in needed or name in item) and (not _is_text(value) or not value):
            yield Fault(f"{pointer}/{name}", "must be text")
        elif values is not None and value is not None and value not in values:
            yield Fault(f"{pointer}/{name}", f"must be one of {', '.join(values)}")


def _spans(spans: object) -> Iterator[Fault]:
    if not isinstance(spans, Mapping) or (spans and set(spans) != {"initial", "middle", "termination"}):
        yield Fault("/boundaries", "must name initial, middle and termination, or nothing at all")
        return
    for name, span in spans.items():
        two = isinstance(span, (list, tuple)) and len(span) == 2 and all(type(n) is int and 1 <= n <= MOST for n in span)  # noqa: PLR2004
        if not two or span[0] > span[1]:
            yield Fault(f"/boundaries/{name}", "must be two session numbers, the first and the last")


def _contradictions(plain: Mapping[str, Any]) -> Iterator[Fault]:
    pairs = (
        ("sessions_min", "sessions_max"),
        ("weeks_min", "weeks_max"),
        ("age_min", "age_max"),
        ("minutes", "minutes_max"),
        ("group_min", "group_max"),
    )
    yield from (Fault(f"/{low}", f"must not be above {high}") for low, high in pairs if plain[low] > plain[high])
    if not _CODE.fullmatch(plain["code"]):
        yield Fault("/code", "must be 2 to 30 of A-Z, 0-9 and -, starting with a letter")
    yield from (Fault(f"/{n}", "must not be empty") for n in ("name", "population") if not plain[n].strip())
    if plain["format"] not in FORMATS:
        yield Fault("/format", f"must be one of {', '.join(FORMATS)}")
    if plain["format"] == "group" and not plain["group_min"]:
        yield Fault("/group_min", "a group has a size")
    if plain["version"] < 1 or plain["sessions_min"] < 1 or plain["minutes"] < 1:
        yield Fault("/version", "version, sessions_min and minutes must be 1 or more")
    if not plain["four_areas"] and not plain["no_areas_reason"].strip():
        yield Fault("/no_areas_reason", "must say why the four problem areas do not belong to this protocol")
    yield from (Fault(f"/{n}", "must not be empty") for n in ("instruments", "sources") if not plain[n])
    yield from _task_faults(plain)
    yield from _span_faults(plain)


def _task_faults(plain: Mapping[str, Any]) -> Iterator[Fault]:
    yield from (Fault(f"/without_tasks/{n}", "stays: every course asks for it") for n, code in enumerate(plain["without_tasks"]) if code in ALWAYS)
    seen: set[str] = set()
    for n, task in enumerate(plain["extra_tasks"]):
        if not _SLUG.fullmatch(task["code"]) or task["code"] in seen:
            yield Fault(f"/extra_tasks/{n}/code", "must be a slug such as goodbye_letter_given, once each")
        seen.add(task["code"])


def _span_faults(plain: Mapping[str, Any]) -> Iterator[Fault]:
    spans = plain["boundaries"]
    if not spans:
        return
    if spans["initial"][1] + 1 != spans["middle"][0] or spans["middle"][1] + 1 != spans["termination"][0]:
        yield Fault("/boundaries", "must follow each other without a gap")
    if spans["initial"][0] != 1 or spans["termination"][1] > plain["sessions_max"]:
        yield Fault("/boundaries", "must begin with session 1 and stay within sessions_max")
    middle = spans["middle"][1] - spans["middle"][0] + 1
    if plain["sessions_min"] >= FULL_COURSE_FROM_SESSIONS and middle < MIDDLE_SESSIONS_OF_A_FULL_COURSE and not plain["departures"]:
        yield Fault("/departures", "a course of 12 to 16 sessions with fewer than 8 middle sessions must say so")
