"""The life cycle of a course: its status, apart from its phase, and the commands that move it.

referred, active, paused, completed, ended_early, closed. `risk_hold` is a side state beside the status: it stops automatic
reminders only, never care. A course becomes active and completed by its phases, ended_early by an unplanned ending.
"""

from dataclasses import dataclass
from datetime import date

from app.domain.errors import Conflict, Fault, Invalid
from app.domain.phase import ReasonMissing
from app.domain.risk import ClinicianOnly

STATUSES = ("referred", "active", "paused", "completed", "ended_early", "closed")
ENDED = ("completed", "ended_early", "closed")
COMMANDS = ("pause", "resume", "hold_for_risk", "release_hold", "re_engage", "close", "reopen")


class CommandUnfit(Conflict):
    """This command does not fit the present state of the course."""


class RecordOpen(Conflict):
    """The record cannot be closed while something in it is still open."""


class PlacingImpossible(Invalid):
    """An imported course cannot stand there."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a command asks for and does: from which statuses, to which (None: it stays), and whose it is."""

    sources: tuple[str, ...]
    to: str | None
    clinician: bool
    reason: bool


RULES = {
    "pause": Command(("active",), "paused", clinician=False, reason=True),
    "resume": Command(("paused",), "active", clinician=False, reason=False),
    "hold_for_risk": Command(("referred", "active", "paused"), None, clinician=True, reason=True),
    "release_hold": Command(STATUSES, None, clinician=True, reason=True),
    "re_engage": Command(("ended_early",), "active", clinician=True, reason=True),
    "close": Command(("completed", "ended_early"), "closed", clinician=True, reason=False),
    "reopen": Command(("closed",), None, clinician=True, reason=True),
}


@dataclass(frozen=True, slots=True)
class State:
    """Where a course stands: its status, how it had ended before it was closed, whether risk holds it, open alerts."""

    status: str
    ended_as: str | None
    risk_hold: bool
    open_alerts: int


def apply_command(command: str, state: State, *, reason: str, by_clinician: bool) -> State:
    """Return the state after a command. Source: own design.

    Raises CommandUnfit, ClinicianOnly, ReasonMissing, and RecordOpen for closing a record with an open alert.
    """
    rule = RULES[command]
    if state.status not in rule.sources:
        raise CommandUnfit(f"The status is {state.status}; {command} needs {' or '.join(rule.sources)}.")
    if command in {"hold_for_risk", "release_hold"} and state.risk_hold == (command == "hold_for_risk"):
        raise CommandUnfit(f"Risk is {'on' if state.risk_hold else 'not on'} hold.")
    if rule.clinician and not by_clinician:
        raise ClinicianOnly
    if rule.reason and not reason.strip():
        raise ReasonMissing(faults=[Fault("/reason", "is needed")])
    if command == "close" and state.open_alerts:
        raise RecordOpen(f"Open risk alerts: {state.open_alerts}. A clinician closes them first.")
    if command == "reopen":
        return State(state.ended_as or "completed", None, state.risk_hold, state.open_alerts)
    hold = command == "hold_for_risk" or (state.risk_hold and command != "release_hold")
    return State(rule.to or state.status, state.status if command == "close" else None, hold, state.open_alerts)


def check_order(occurred_on: date, referred_on: date) -> None:
    """Raise CommandUnfit for a change of status before the referral."""
    if occurred_on < referred_on:
        raise CommandUnfit("It would lie before the referral.")


def check_placing(phase: str, status: str, *, ended: bool) -> None:
    """Raise PlacingImpossible for a phase and a status that an imported course cannot have together."""
    faults = []
    if status == "referred" and phase != "screening":
        faults.append(Fault("/placed/status", "a course that is referred is in screening"))
    if (status == "completed") != (phase == "follow_up") and status not in {"closed", "ended_early"}:
        faults.append(Fault("/placed/phase", "follow_up is the phase of a completed course"))
    if ended != (status in ENDED):
        faults.append(Fault("/placed/ended_at", "is given exactly when the course has ended"))
    if faults:
        raise PlacingImpossible(faults=faults)
