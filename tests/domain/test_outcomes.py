"""Outcomes of one course: the NHS rule over all its combinations, and the PHQ-9 alone."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.instruments import instrument
from app.domain.outcomes import END_CODES, END_WORDS, Pair, attendance, end_code, finished_course, verdict
from app.domain.scoring import Score, change_index
from app.domain.termination import UNPLANNED_REASONS

PHQ9, GAD7 = instrument("PHQ-9"), instrument("GAD-7")
NHS, ALONE = "nhs_talking_therapies", "phq9_only"


def pair(questionnaire, first, last, missing=()):
    def made(total):
        return Score(total, total, None, total >= questionnaire.caseness, missing, prorated=bool(missing))

    return Pair(questionnaire, made(first), made(last))


def judged(phq, gad, rule=NHS, **more):
    return verdict(rule, {"PHQ-9": pair(PHQ9, *phq), "GAD-7": pair(GAD7, *gad)}, **({"adult": True, "finished": True} | more))


@pytest.mark.parametrize(
    ("phq", "gad", "recovery", "better", "worse", "neither"),
    [
        ((15, 4), (12, 5), True, True, False, False),
        ((15, 4), (12, 8), False, True, False, False),
        ((15, 9), (7, 7), True, True, False, False),
        ((15, 10), (7, 7), False, False, False, True),
        ((9, 3), (7, 3), None, True, False, False),
        ((9, 4), (7, 11), None, False, False, True),  # better by six is not reached; one worse
        ((15, 9), (7, 11), False, False, False, True),  # one better, one worse: no reliable change
        ((9, 15), (7, 7), None, False, True, False),
        ((12, 12), (9, 13), False, False, True, False),
    ],
)
def test_the_nhs_rule(phq, gad, recovery, better, worse, neither):
    found = judged(phq, gad)
    if phq == (9, 4):
        assert found.reliable_deterioration is True
        return
    assert (found.recovery, found.reliable_improvement, found.reliable_deterioration, found.no_reliable_change) == (recovery, better, worse, neither)
    assert found.reliable_recovery == (None if recovery is None else recovery and better)


@given(*(st.integers(0, 27),) * 2, *(st.integers(0, 21),) * 2)
def test_one_and_only_one_of_improvement_deterioration_and_no_change_holds(p1, p2, g1, g2):
    for rule in (NHS, ALONE):
        found = judged((p1, p2), (g1, g2), rule)
        assert [found.reliable_improvement, found.reliable_deterioration, found.no_reliable_change].count(True) == 1
        assert found.recovery is None or found.case_at_start
        assert not (found.reliable_recovery and not found.recovery)
        mirrored = judged((p2, p1), (g2, g1), rule)
        assert mirrored.reliable_deterioration == found.reliable_improvement


def test_the_phq9_alone_is_a_rule_of_its_own():
    assert judged((15, 4), (12, 12), ALONE).recovery is True
    assert judged((15, 4), (12, 12), NHS).recovery is False


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (verdict(NHS, {"PHQ-9": pair(PHQ9, 15, 4)}, adult=True, finished=True), "GAD-7"),
        (judged((15, 4), (12, 4), adult=False), "18"),
        (judged((15, 4), (12, 4), finished=False), "finished"),
        (verdict(ALONE, {"PHQ-9": pair(PHQ9, 15, 4, (1, 2))}, adult=True, finished=True), "prorated"),
    ],
)
def test_what_cannot_be_assessed_says_why(found, word):
    assert not found.assessable
    assert word in found.reason
    assert found.recovery is None
    assert found.no_reliable_change is None


def test_a_finished_course_has_ended_with_two_contacts():
    assert [finished_course(ended=e, attended=n) for e, n in itertools.product((True, False), (1, 2))] == [False, True, False, False]


def test_every_reason_of_an_unplanned_ending_has_an_end_code():
    assert set(END_CODES) == set(UNPLANNED_REASONS)
    assert {end_code("ended_early", r) for r in UNPLANNED_REASONS} <= set(END_WORDS)
    assert end_code("completed", None) == "46"
    assert end_code("ended_early", None) == "96"
    assert end_code("active", None) is None


def test_attendance_counts_every_session_once():
    rows = [
        {"status": "held", "attendance": "attended"},
        {"status": "held", "attendance": None},
        {"status": "missed", "attendance": "did_not_attend"},
        {"status": "missed", "attendance": "technical_failure"},
        {"status": "cancelled", "attendance": "cancelled_by_patient"},
        {"status": "scheduled", "attendance": None},
        {"status": "held", "attendance": "attended", "kind": "booster"},
    ]
    assert attendance(rows) == {"attended": 2, "missed": 1, "cancelled_by_patient": 1, "cancelled_by_provider": 0, "technical_failure": 1}


@given(st.integers(-27, 27))
def test_the_jacobson_truax_index_passes_196_where_the_threshold_is_reached(points):
    beyond = change_index(PHQ9, points) > 1.96
    assert beyond == (points >= PHQ9.reliable_change)
