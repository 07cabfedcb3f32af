"""Sessions: one contact each. A session gets its number when it is held; recording one is never refused by a phase."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from app.domain.errors import Conflict, Fault, Invalid

STATUSES = ("scheduled", "held", "missed", "cancelled")
ATTENDANCE = {
    "held": ("attended", "late_under_15_minutes"),
    "missed": ("did_not_attend", "late_too_late", "technical_failure"),
    "cancelled": ("cancelled_by_patient", "cancelled_by_provider"),
}
KINDS = ("course", "assessment", "pre_group", "parent", "booster", "crisis")
NUMBERED = ("course",)  # what counts against the contract; the others stand beside it
AFFECTS = ("sadness", "grief", "anger", "guilt", "shame", "fear", "loneliness", "numbness", "relief", "hope", "joy", "pride")
ORIENTATION_WEEKS = 4  # Source: the founding description, it may take a few weeks to take to the focus; four: our corrections
MODES = ("in_person", "video", "phone", "text")
NEXT = {"scheduled": ("held", "missed", "cancelled"), "missed": ("held",), "cancelled": ("held",)}
CLOCK_TOLERANCE = timedelta(minutes=15)  # own design: a phone's clock may be ahead of ours
USUAL_AREAS = 2
FLAT_BELOW = 0.1  # per session; own design


class SessionNotScheduled(Conflict):
    """A session that was held is corrected as entered in error; one that was not can still be recorded as held."""


class NotRescheduled(Conflict):
    """Only a session that was not held can be moved to another time."""


class SessionInvalid(Invalid):
    """The session breaks a rule."""


def check_status_change(present: str, to: str) -> None:
    """Raise SessionNotScheduled unless the session may move from `present` to `to`."""
    if present != to and to not in NEXT.get(present, ()):
        raise SessionNotScheduled(f"The session is {present}.")


def check_session(fields: Mapping[str, object], now: datetime) -> None:
    """Raise SessionInvalid for a held session in the future, or an attendance that does not fit the status."""
    faults = []
    status, starts_at = str(fields["status"]), fields.get("starts_at")
    if status == "held" and isinstance(starts_at, datetime) and starts_at > now + CLOCK_TOLERANCE:
        faults.append(Fault("/starts_at", "a held session cannot lie in the future"))
    attendance = fields.get("attendance")
    if attendance is not None and attendance not in ATTENDANCE.get(status, ()):
        allowed = ", ".join(ATTENDANCE.get(status, ())) or "nothing"
        faults.append(Fault("/attendance", f"a session that is {status} takes {allowed}"))
    if faults:
        raise SessionInvalid(faults=faults)


def flags_of(fields: Mapping[str, Any], day: date, opened_on: date, ends_on: date | None, own_strategies: set[str]) -> list[str]:
    """Return what is unusual and recorded all the same.

    Before the episode or after the agreed end, without a length, more areas than two, strategies of other areas.
    """
    flags = []
    if fields["status"] == "held" and fields.get("minutes") is None:
        flags.append("minutes_missing")
    if len(fields["focus_areas"]) > USUAL_AREAS:
        flags.append("more_than_two_areas")
    if fields["focus_areas"] and set(fields["strategies"]) - own_strategies:
        flags.append("strategy_outside_focus")
    if day < opened_on:
        flags.append("before_episode")
    if ends_on is not None and day > ends_on and fields.get("kind", "course") in NUMBERED:
        flags.append("after_agreed_end")
    if fields.get("focus_found_hard"):
        flags.append("orientation_to_ipt_needed" if day < opened_on + timedelta(weeks=ORIENTATION_WEEKS) else "focus_still_found_hard")
    if fields["status"] == "held" and fields.get("mode") != "in_person" and fields.get("emergency_contact_confirmed") is False:
        flags.append("emergency_contact_not_confirmed")
    return flags


def activity_trend(levels: Sequence[float]) -> str | None:
    """Return how therapist activity runs over the sessions: falling, flat (under 0.1 a session either way) or rising; None before 5.

    Joint sessions and those on hold for risk are left out by the caller. It is a prompt for supervision, never a score. Own design.
    """
    slope = activity_slope(levels)
    return None if slope is None else "flat" if abs(slope) < FLAT_BELOW else "falling" if slope < 0 else "rising"


def thirds(levels: Sequence[float]) -> tuple[float, float] | None:
    """Return the means of the middle and the last third of the sessions, from 6 sessions on; None before. Own design."""
    size = len(levels) // 3
    if size < 2:  # noqa: PLR2004 - own design: two sessions make a third
        return None
    middle, last = levels[size : len(levels) - size], levels[len(levels) - size :]
    return round(sum(middle) / len(middle), 2), round(sum(last) / len(last), 2)


def activity_slope(levels: Sequence[float]) -> float | None:
    """Return the Theil-Sen slope of therapist activity (0 to 10) per session, from 5 sessions on; None before.

    It is expected to fall: the therapist intervenes less as sessions go. Source: the founding description.
    """
    if len(levels) < 5:  # noqa: PLR2004 - own design: five points make a slope
        return None
    slopes = sorted((b - a) / (j - i) for i, a in enumerate(levels) for j, b in enumerate(levels) if j > i)
    middle = len(slopes) // 2
    return slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2
