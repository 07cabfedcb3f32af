"""Patients, episodes and the care around them: the enumerations, and ages in the patient's own calendar."""

from datetime import date, datetime
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from app.domain.errors import Fault, Invalid

SEXES = ("female", "male", "intersex", "other", "not_recorded")
FORMATS = ("individual", "group", "couple")
CARE_ROLES = ("lead", "cover", "supervisor", "member")
CONSENT_PURPOSES = ("treatment", "research_analytics", "data_sharing", "recording")
CONTRAINDICATIONS = [
    "psychosis",
    "mania_or_bipolar",
    "active_substance_dependence",
    "acute_suicidality_or_homicidality",
    "severe_cognitive_impairment",
    "abuse_by_disputed_person",
    "unable_to_attend",
    "needs_other_first_line_treatment",
]


class TimeZoneUnknown(Invalid):
    """The time zone is not in the IANA database."""


class DatesImpossible(Invalid):
    """The dates contradict each other."""


def check_time_zone(name: str) -> None:
    """Raise TimeZoneUnknown unless `name` is an IANA time zone."""
    if name not in _time_zones():
        raise TimeZoneUnknown(faults=[Fault("/time_zone", "is not an IANA time zone such as Europe/Madrid")])


@cache
def _time_zones() -> frozenset[str]:
    """Return the names of the IANA database, without those that mean another zone on another machine."""
    return frozenset(available_timezones()) - {"localtime", "posixrules", "Factory"}


def today_of(time_zone: str, now: datetime) -> date:
    """Return the patient's own calendar day."""
    return now.astimezone(ZoneInfo(time_zone)).date()


def check_not_future(day: date | None, today: date, pointer: str) -> None:
    """Raise DatesImpossible when a day of the past lies after the patient's today."""
    if day is not None and day > today:
        raise DatesImpossible(faults=[Fault(pointer, "lies after the patient's today")])
