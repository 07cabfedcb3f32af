"""Techniques of IPT by code, and the strategies of each problem area."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from app.domain.errors import Fault, Invalid
from app.domain.problem_area import ruleset
from app.domain.reading import read_catalogue


class UnknownTechnique(Invalid):
    """A technique or strategy is not in the catalogue."""


@dataclass(frozen=True, slots=True)
class Technique:
    """One technique: its code, name, definition, the areas it fits (empty: all) and where it comes from."""

    code: str
    name: str
    definition: str
    areas: tuple[str, ...]
    mark: str


@cache
def techniques() -> Mapping[str, Technique]:
    """Return every technique of the catalogue by code."""
    rows = read_catalogue("techniques.toml")["technique"]
    return {row["code"]: Technique(**{**row, "areas": tuple(row["areas"])}) for row in rows}


def check_techniques(codes: Iterable[str]) -> None:
    """Raise UnknownTechnique, naming each code that the catalogue does not hold."""
    faults = [Fault(f"/techniques/{n}", f"{code!r} is not a technique") for n, code in enumerate(codes) if code not in techniques()]
    if faults:
        raise UnknownTechnique(faults=faults)


def check_strategies(codes: Iterable[str], areas: Iterable[str]) -> None:
    """Raise UnknownTechnique, naming each code that is no strategy of the areas given."""
    known = {s for area in areas for s in ruleset().area(area).strategies}
    faults = [Fault(f"/strategies/{n}", f"{code!r} is not a strategy of the area") for n, code in enumerate(codes) if code not in known]
    if faults:
        raise UnknownTechnique(faults=faults)
