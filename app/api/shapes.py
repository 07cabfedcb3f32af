"""What goes over the wire has in common: text, numbers, dates and moments that mean one thing only."""

import re
import unicodedata
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?([Zz]|[+-]\d{2}:\d{2})")
FIRST_YEAR, LAST_YEAR = 1900, 2100
UUID_VERSIONS = {4, 7}


class In(BaseModel):
    """An input: unknown members are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, defer_build=True)

    def members(self) -> dict[str, Any]:
        """Return every member by name, defaults included."""
        return self.model_dump(mode="python")

    def sent(self) -> dict[str, Any]:
        """Return only the members that the caller sent."""
        return self.model_dump(mode="python", exclude_unset=True)


class Out(BaseModel):
    """An answer. Clients tolerate members that they do not know."""

    model_config = ConfigDict(extra="ignore", defer_build=True)


def _clean(value: str) -> str:
    if _CONTROL.search(value):
        message = "must not hold control characters or surrogates"
        raise ValueError(message)
    if not unicodedata.is_normalized("NFC", value):
        message = "must be in Unicode normal form C"
        raise ValueError(message)
    return value


def _on_one_line(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        message = "must be one line of visible characters, without space at its ends"
        raise ValueError(message)
    return value


def _date_text(value: object) -> object:
    if isinstance(value, str) and _DATE.fullmatch(value) is None:
        message = "must be an ISO date such as 2026-03-01"
        raise ValueError(message)
    if not isinstance(value, (str, date)) or isinstance(value, datetime):
        message = "must be an ISO date in a string"
        raise ValueError(message)  # noqa: TRY004 - Pydantic turns a ValueError into a 422
    return value


def _in_years(value: date) -> date:
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        message = f"must lie from {FIRST_YEAR} to {LAST_YEAR}"
        raise ValueError(message)
    return value


def _moment_text(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or _MOMENT.fullmatch(value) is None:
        message = "must be an RFC 3339 time with its zone, such as 2026-03-01T09:00:00Z"
        raise ValueError(message)
    return value


def _utc(value: datetime) -> datetime:
    try:
        moment = value.astimezone(UTC)
    except OverflowError:
        message = f"must lie from {FIRST_YEAR} to {LAST_YEAR}"
        raise ValueError(message) from None
    _in_years(moment.date())
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _known_uuid(value: UUID) -> UUID:
    if value.version not in UUID_VERSIONS:
        message = "must be a UUID of version 7 (or 4)"
        raise ValueError(message)
    return value


Text = Annotated[str, AfterValidator(_clean)]
OneLine = Annotated[Text, AfterValidator(_on_one_line)]
Whole = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Day = Annotated[date, BeforeValidator(_date_text), AfterValidator(_in_years)]
Moment = Annotated[
    datetime,
    BeforeValidator(_moment_text),
    AfterValidator(_utc),
    PlainSerializer(lambda m: m.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"), return_type=str, when_used="json"),
]
NewId = Annotated[
    UUID | None,
    AfterValidator(lambda v: v if v is None else _known_uuid(v)),
    Field(description="A UUIDv7 made by the client; else the service makes one"),
]
Code = Annotated[OneLine, Field(min_length=1, max_length=60)]
Label = Annotated[OneLine, Field(min_length=1, max_length=60)]
Line = Annotated[OneLine, Field(min_length=1, max_length=200)]
Prose = Annotated[Text, Field(min_length=1, max_length=10_000)]
MaybeProse = Annotated[Text, Field(max_length=10_000)]
Reference = Annotated[OneLine, Field(min_length=1, max_length=128, description="The partner's own id; unique per partner. Never a name")]
Precision = Literal["day", "month", "year"]
Rating = Annotated[Whole, Field(ge=0, le=10)]
Level = Annotated[Whole, Field(ge=0, le=3)]
Ring = Annotated[Whole, Field(ge=1, le=4)]
Year = Annotated[Whole, Field(ge=1900, le=2100)]
Age = Annotated[Whole, Field(ge=5, le=120)]
Count = Annotated[Whole, Field(ge=1, le=200)]
Minutes = Annotated[Whole, Field(ge=1, le=600)]


class Kept(Out):
    """The members that every stored resource has."""

    id: UUID
    version: Annotated[int, Field(ge=1, description="Grows by one with every change; stands in the ETag")]
    created_at: Moment
    updated_at: Moment


class InChart(Kept):
    """A stored resource of an episode."""

    patient_id: UUID
    episode_id: UUID


class Problem(Out):
    """A problem (RFC 9457). `type` is the address of a page that explains it."""

    type: str = Field(examples=["/problems/phase-gate-shut"])
    title: str
    status: int
    detail: str
    instance: str = Field(description="The request's id, as in X-Request-Id")
    errors: list[dict[str, str]] = Field(default_factory=list, description="JSON pointers (or parameters) and what is wrong there")
    unmet: list[dict[str, str]] = Field(default_factory=list, description="Each unmet condition: code, detail, source")
