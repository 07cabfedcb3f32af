"""The life cycle over its whole state space: every status x command x caller x reason x hold x open alerts."""

import itertools
from datetime import date

import pytest

from app.domain.lifecycle import (
    COMMANDS,
    RULES,
    STATUSES,
    CommandUnfit,
    PlacingImpossible,
    RecordOpen,
    State,
    apply_command,
    check_order,
    check_placing,
)
from app.domain.phase import ReasonMissing
from app.domain.protocol_faults import PHASES
from app.domain.risk import ClinicianOnly

SPACE = list(itertools.product(STATUSES, COMMANDS, (True, False), ("", "because"), (True, False), (0, 2)))
MOVES = {
    ("active", "pause"): "paused",
    ("paused", "resume"): "active",
    ("ended_early", "re_engage"): "active",
    ("completed", "close"): "closed",
    ("ended_early", "close"): "closed",
    ("closed", "reopen"): "ended_early",
}
HOLDS = {"referred", "active", "paused"}


@pytest.mark.parametrize(("status", "command", "clinician", "reason", "hold", "alerts"), SPACE)
def test_every_command_in_every_state(status, command, clinician, reason, hold, alerts):
    before = State(status, "ended_early" if status == "closed" else None, hold, alerts)
    needs_reason = command not in {"resume", "close"}
    fits = (status, command) in MOVES or (command == "hold_for_risk" and status in HOLDS and not hold) or (command == "release_hold" and hold)
    if not fits:
        with pytest.raises(CommandUnfit):
            apply_command(command, before, reason=reason, by_clinician=clinician)
        return
    if not clinician and command not in {"pause", "resume"}:
        with pytest.raises(ClinicianOnly):
            apply_command(command, before, reason=reason, by_clinician=clinician)
        return
    if needs_reason and not reason:
        with pytest.raises(ReasonMissing):
            apply_command(command, before, reason=reason, by_clinician=clinician)
        return
    if command == "close" and alerts:
        with pytest.raises(RecordOpen):
            apply_command(command, before, reason=reason, by_clinician=clinician)
        return
    after = apply_command(command, before, reason=reason, by_clinician=clinician)
    assert after.status == MOVES.get((status, command), status)
    assert after.risk_hold == {"hold_for_risk": True, "release_hold": False}.get(command, hold)
    assert after.ended_as == (status if command == "close" else None)
    assert after.open_alerts == alerts


def test_every_command_has_its_rule_and_a_pause_and_a_hold_are_undone_by_their_twin():
    assert set(RULES) == set(COMMANDS)
    state = State("active", None, risk_hold=False, open_alerts=0)
    for one, other in (("pause", "resume"), ("hold_for_risk", "release_hold")):
        there = apply_command(one, state, reason="x", by_clinician=True)
        assert apply_command(other, there, reason="x", by_clinician=True) == state


def test_nothing_happens_before_the_referral():
    check_order(date(2026, 1, 2), date(2026, 1, 2))
    with pytest.raises(CommandUnfit):
        check_order(date(2026, 1, 1), date(2026, 1, 2))


@pytest.mark.parametrize(("phase", "status", "ended"), list(itertools.product(PHASES, STATUSES, (True, False))))
def test_an_imported_course_stands_where_a_course_can(phase, status, ended):
    possible = (
        ended == (status in {"completed", "ended_early", "closed"})
        and (status != "referred" or phase == "screening")
        and (status in {"closed", "ended_early"} or (status == "completed") == (phase == "follow_up"))
    )
    if possible:
        check_placing(phase, status, ended=ended)
        return
    with pytest.raises(PlacingImpossible) as refused:
        check_placing(phase, status, ended=ended)
    assert all(f.pointer.startswith("/placed/") for f in refused.value.faults)
