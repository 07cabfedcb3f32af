"""The four refusals. A class name is the problem's type, its first docstring line the title, its message the detail."""

from collections.abc import Sequence
from typing import NamedTuple


class Fault(NamedTuple):
    """One thing that is wrong with an input: a JSON pointer into it and a sentence."""

    pointer: str
    detail: str


def escaped(part: object) -> str:
    """Return one part of a JSON pointer (RFC 6901), cut to a length that an answer can show."""
    return str(part)[:100].replace("~", "~0").replace("/", "~1")


class Unmet(NamedTuple):
    """One condition that a refused step still lacks: its code, a sentence, and the source of the rule."""

    code: str
    detail: str
    source: str


class Refusal(Exception):
    """The request is refused."""

    def __init__(self, detail: str = "", *, faults: Sequence[Fault] = (), unmet: Sequence[Unmet] = ()) -> None:
        super().__init__(detail or title_of(type(self)))
        self.faults = tuple(faults)
        self.unmet = tuple(unmet)


class NotFound(Refusal):
    """There is no such resource, or it is not yours to see."""


class Conflict(Refusal):
    """The request contradicts the present state."""


class Forbidden(Refusal):
    """The caller may not do this."""


class Invalid(Refusal):
    """The input breaks a rule."""


class CommandRefused(Exception):
    """An operator's command is refused. No problem of the API: no caller meets it."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or title_of(type(self)))


def title_of(kind: type[BaseException]) -> str:
    """Return the first line of the class's docstring: the problem's title."""
    return (kind.__doc__ or kind.__name__).strip().splitlines()[0].rstrip(".")
