"""The gates over their whole state space: every phase x command x status, and every condition alone."""

import itertools
from dataclasses import fields, replace
from datetime import date, timedelta

import pytest

from app.domain.phase import (
    EpisodeNotRunning,
    Facts,
    OverrideByClinicianOnly,
    PhaseGateShut,
    PhaseNotNext,
    ReasonMissing,
    TaskMetByFact,
    check_task_record,
    check_transition,
    flags_of,
    measured_at_the_end,
    proposals_of,
    sessions_lost,
    unmet_conditions,
)
from app.domain.protocol_faults import PHASES
from app.domain.protocols import protocol, protocols
from app.domain.risk import ClinicianOnly

STANDARD = protocol("IPT-16")
ENDING_TASKS = [t.code for t in STANDARD.tasks if t.met_by == "termination"]
FULL = Facts(
    phase="screening",
    status="referred",
    age_at_referral=40,
    consented_to_treatment=True,
    contraindications_answered=True,
    contraindicated=False,
    risk_screened=True,
    lead_named=True,
    cover_named=True,
    relationships=3,
    baseline_measured=True,
    focus_decided=True,
    focus_agreed=True,
    formulation_told=True,
    contract_agreed=True,
    sessions_held=2,
    measured_at_the_end=True,
    final_assessment_excused=False,
    responded=True,
    risk_on_hold=False,
    end_date_told=True,
    follow_ups_booked=frozenset({3, 6}),
    termination=dict.fromkeys(ENDING_TASKS, True),
    recorded={"diagnosis_named": "done", "risk_assessed": "done"},
)
RUNNING = ("referred", "active", "paused")


@pytest.mark.parametrize(
    ("phase", "to", "status", "clinician", "reason"),
    list(
        itertools.product(PHASES, PHASES[1:], ("referred", "active", "paused", "completed", "ended_early", "closed"), (True, False), ("", "because"))
    ),
)
def test_only_the_next_phase_of_a_running_course_can_be_entered(phase, to, status, clinician, reason):
    facts = replace(FULL, phase=phase, status=status)
    follows = PHASES.index(to) == PHASES.index(phase) + 1
    if status not in RUNNING:
        with pytest.raises(EpisodeNotRunning):
            check_transition(to, facts, STANDARD, reason=reason, by_clinician=clinician)
    elif not follows:
        with pytest.raises(PhaseNotNext):
            check_transition(to, facts, STANDARD, reason=reason, by_clinician=clinician)
    elif to in {"termination", "follow_up"} and not clinician:
        with pytest.raises(ClinicianOnly):
            check_transition(to, facts, STANDARD, reason=reason, by_clinician=clinician)
    else:
        assert check_transition(to, facts, STANDARD, reason=reason, by_clinician=clinician) == []


CONDITIONS = [
    ("initial", {"consented_to_treatment": False}, "consent_recorded"),
    ("initial", {"age_at_referral": 17}, "age_fits_protocol"),
    ("initial", {"age_at_referral": None}, "age_fits_protocol"),
    ("initial", {"contraindications_answered": False}, "contraindications_answered"),
    ("initial", {"risk_screened": False}, "risk_screened"),
    ("initial", {"lead_named": False}, "lead_named"),
    ("initial", {"cover_named": False}, "cover_named"),
    ("middle", {"relationships": 2}, "inventory_taken"),
    ("middle", {"baseline_measured": False}, "baseline_measured"),
    ("middle", {"focus_decided": False}, "problem_area_chosen"),
    ("middle", {"focus_agreed": False}, "patient_agreed_to_focus"),
    ("middle", {"formulation_told": False}, "formulation_told"),
    ("middle", {"contract_agreed": False}, "contract_agreed"),
    ("middle", {"sessions_held": 1}, "initial_sessions_held"),
    ("middle", {"recorded": {"risk_assessed": "done"}}, "diagnosis_named"),
    ("middle", {"recorded": {"diagnosis_named": "done"}}, "risk_assessed"),
    ("follow_up", {"measured_at_the_end": False}, "final_measure_taken"),
    ("follow_up", {"responded": None, "termination": dict.fromkeys(ENDING_TASKS, True) | {"alternative_offered": False}}, "alternative_offered"),
    *(
        ("follow_up", {"termination": dict.fromkeys(ENDING_TASKS, True) | {code: False}}, code)
        for code in ENDING_TASKS
        if code != "alternative_offered"
    ),
]


@pytest.mark.parametrize(("to", "lacking", "code"), CONDITIONS)
def test_each_condition_alone_shuts_its_gate_and_is_named(to, lacking, code):
    facts = replace(FULL, phase=PHASES[PHASES.index(to) - 1], **lacking)
    assert [u.code for u in unmet_conditions(to, facts, STANDARD)] == [code]
    with pytest.raises(PhaseGateShut) as shut:
        check_transition(to, facts, STANDARD, reason="", by_clinician=True)
    assert [u.code for u in shut.value.unmet] == [code]
    assert all(u.source for u in shut.value.unmet)
    with pytest.raises((OverrideByClinicianOnly, ClinicianOnly)):
        check_transition(to, facts, STANDARD, reason="because", by_clinician=False)
    assert [u.code for u in check_transition(to, facts, STANDARD, reason="because", by_clinician=True)] == [code]


@pytest.mark.parametrize("to", PHASES[1:])
def test_every_unmet_condition_is_named_at_once(to):
    nothing = replace(
        FULL,
        **{f.name: type(getattr(FULL, f.name))() for f in fields(Facts) if isinstance(getattr(FULL, f.name), bool | int | dict)},
        phase=PHASES[PHASES.index(to) - 1],
        status="active",
    )
    expected = [code for gate, _, code in CONDITIONS if gate == to and code not in {"patient_agreed_to_focus", "age_fits_protocol"}]
    found = [u.code for u in unmet_conditions(to, nothing, STANDARD)]
    assert set(dict.fromkeys(expected)) <= set(found) | {"alternative_offered", "age_fits_protocol"}


def test_a_waived_task_opens_the_gate_as_a_done_one_does():
    facts = replace(FULL, phase="initial", relationships=0, recorded=FULL.recorded | {"inventory_taken": "waived"})
    assert unmet_conditions("middle", facts, STANDARD) == []


def test_an_excused_final_assessment_is_enough():
    facts = replace(FULL, phase="termination", measured_at_the_end=False, final_assessment_excused=True)
    assert unmet_conditions("follow_up", facts, STANDARD) == []


def test_naming_a_diagnosis_is_no_task_of_counselling_by_non_specialists():
    assert "diagnosis_named" not in {t.code for t in protocol("IPC").tasks}
    assert unmet_conditions("middle", replace(FULL, phase="initial", recorded={"risk_assessed": "done"}), protocol("IPC")) == []


def test_a_task_that_a_fact_meets_cannot_be_ticked_and_a_waiver_needs_a_clinician_with_a_reason():
    inventory, risk = STANDARD.task("inventory_taken"), STANDARD.task("risk_assessed")
    check_task_record(risk, "done", "", by_clinician=True)
    with pytest.raises(ClinicianOnly):
        check_task_record(risk, "done", "", by_clinician=False)
    check_task_record(inventory, "waived", "no family alive", by_clinician=True)
    with pytest.raises(TaskMetByFact):
        check_task_record(inventory, "done", "", by_clinician=True)
    with pytest.raises(ReasonMissing):
        check_task_record(risk, "waived", " ", by_clinician=True)
    with pytest.raises(OverrideByClinicianOnly):
        check_task_record(risk, "waived", "reason", by_clinician=False)


def test_flags_show_and_refuse_nothing():
    middle = replace(FULL, phase="middle", status="active", sessions_held=13)
    assert flags_of(middle, STANDARD, 16, None) == []
    assert flags_of(replace(middle, sessions_held=14), STANDARD, 16, None) == ["notice_of_the_end_due"]
    assert flags_of(replace(middle, sessions_held=15), STANDARD, 16, 14) == []
    assert flags_of(replace(middle, sessions_held=16), STANDARD, 16, 15) == ["notice_of_the_end_late"]
    assert flags_of(replace(middle, sessions_held=17), STANDARD, 16, 12) == ["sessions_beyond_contract"]
    assert flags_of(middle, STANDARD, None, None) == ["contract_missing"]
    assert flags_of(replace(FULL, phase="initial", sessions_held=5), STANDARD, None, None) == ["initial_phase_long"]
    assert flags_of(replace(middle, contraindicated=True), STANDARD, 16, None) == ["contraindication_recorded"]


def test_proposals_propose_and_a_contraindication_stops_planning():
    middle = replace(FULL, phase="middle", status="active", sessions_held=12)
    assert proposals_of(middle, 16, 12, 0) == ["start_termination"]
    assert proposals_of(replace(middle, sessions_held=11), 16, 12, 0) == []
    assert proposals_of(replace(middle, sessions_held=17), 16, 12, 0) == ["amend_contract"]
    assert proposals_of(replace(middle, sessions_held=10, end_date_told=False), 16, 12, 2) == ["tell_the_end_date", "make_up_lost_sessions"]
    for silent in ({"contraindicated": True}, {"risk_on_hold": True}):
        assert proposals_of(replace(middle, **silent), 16, 12, 3) == []
    assert proposals_of(middle, None, None, 0) == []


@pytest.mark.parametrize(("left", "days", "lost"), [(4, 21, 0), (4, 20, 1), (4, -1, 4), (0, -1, 0), (None, 5, 0)])
def test_sessions_that_no_longer_fit_are_lost(left, days, lost):
    assert sessions_lost(left, date(2026, 5, 20) + timedelta(days=days), date(2026, 5, 20), 1.0) == lost


def test_a_final_measure_lies_within_fourteen_days_of_the_last_session():
    last = date(2026, 5, 20)
    assert measured_at_the_end(last, [date(2026, 1, 1), date(2026, 5, 6)])
    assert not measured_at_the_end(last, [date(2026, 5, 5)])
    assert not measured_at_the_end(last, [])
    assert not measured_at_the_end(None, [last])


@pytest.mark.parametrize("one", list(protocols().values()), ids=lambda p: p.code)
def test_every_protocol_names_its_sources_and_says_where_it_departs(one):
    assert one.sources
    assert one.four_areas == (one.no_areas_reason == "")
    assert (one.format == "group") == (one.group_min > 0)
    if not one.boundaries:
        assert one.phases == ("screening", "middle", "termination", "follow_up")
        assert one.departures
        return
    middle = one.boundaries["middle"][1] - one.boundaries["middle"][0] + 1
    assert middle >= 8 or one.departures
