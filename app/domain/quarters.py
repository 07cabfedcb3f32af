"""Calendar quarters in UTC, written 2026Q3: the periods of anonymised outcomes."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.domain.errors import Fault, Invalid

GRACE = timedelta(days=14)  # own design: what phones and imports bring late still counts
QUARTERS_KEPT = 12  # three years: what can be asked for does not depend on data
_FORM = re.compile(r"(20\d{2})Q([1-4])")


class PeriodUnknown(Invalid):
    """The period is not a quarter such as 2026Q3."""


@dataclass(frozen=True, slots=True, order=True)
class Quarter:
    """A quarter of a year."""

    year: int
    number: int

    def __str__(self) -> str:
        return f"{self.year}Q{self.number}"

    @property
    def begins(self) -> datetime:
        """Return its first moment."""
        return datetime(self.year, 3 * self.number - 2, 1, tzinfo=UTC)

    @property
    def ends(self) -> datetime:
        """Return the first moment after it."""
        return self.later(1).begins

    @property
    def freezes(self) -> datetime:
        """Return the moment from which it is frozen."""
        return self.ends + GRACE

    def later(self, quarters: int) -> "Quarter":
        """Return the quarter so many later (or earlier)."""
        whole = self.year * 4 + self.number - 1 + quarters
        return Quarter(whole // 4, whole % 4 + 1)


def quarter_of(moment: datetime) -> Quarter:
    """Return the quarter of a moment."""
    at = moment.astimezone(UTC)
    return Quarter(at.year, (at.month + 2) // 3)


def quarter_from(text: str, pointer: str = "/period") -> Quarter:
    """Read a quarter. Raises PeriodUnknown."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise PeriodUnknown(faults=[Fault(pointer, "is a quarter, such as 2026Q3")])
    return Quarter(int(found.group(1)), int(found.group(2)))


def frozen_by(now: datetime) -> list[Quarter]:
    """Return the quarters that can be asked about at a moment, the oldest first: the last twelve whose freeze lies in the past."""
    last = quarter_of(now - GRACE).later(-1)
    return [last.later(n) for n in range(1 - QUARTERS_KEPT, 1)]
