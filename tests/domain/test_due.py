"""The worklist: its order, what silences it, and what nothing silences."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.due import KINDS, SILENCED, TITLES, Course, due_items, order
from app.domain.protocols import protocol
from app.domain.workflow import (
    DatesOutOfOrder,
    PartOfAnotherKind,
    RequestDone,
    RequestUnfit,
    check_analysis,
    check_medication,
    check_request,
    worse_after,
)
from tests.domain.test_phase import FULL

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def course(**fields):
    facts = replace(FULL, phase="middle", status="active", sessions_held=5)
    return Course(**({"facts": facts, "protocol": protocol("IPT-16", 2), "now": NOW} | fields))


def session(status, days, n=1):
    return {"id": n, "status": status, "starts_at": NOW + days * DAY}


def everything(**fields):
    return course(
        alerts=[{"id": 1, "kind": "self_harm", "level": "review", "status": "open", "due_at": NOW + DAY / 2}],
        sessions=[session("held", -1, 1), session("scheduled", -2, 2), session("scheduled", 2, 3), session("scheduled", 30, 4)],
        requests=[{"code": "PHQ-9", "title": "x", "due_at": NOW - DAY, "resource": "assessment_request/1"}],
        follow_ups=[{"id": 1, "months": 3, "due_at": NOW + 10 * DAY}, {"id": 2, "months": 6, "due_at": NOW + 100 * DAY}],
        homework=[{"code": "homework", "title": "x", "due_at": None, "resource": "homework/1"}],
        reviews=["not_on_track"],
        proposals=["start_termination"],
        questions=[("inventory", f"q{n}") for n in range(9)],
        early_ending_owed=["letter_sent"],
        **fields,
    )


def test_alerts_come_first_then_what_is_overdue():
    items = due_items(everything())
    assert items[0].kind == "alert"
    assert [i.urgency for i in items[1:]] == sorted((i.urgency for i in items[1:]), key=("overdue", "now", "soon").index)
    assert {i.kind for i in items} == set(KINDS)
    assert sum(i.kind == "question" for i in items) == 3
    assert [i.code for i in items if i.kind == "follow_up"] == ["follow_up_3"]
    assert [i.code for i in items if i.kind == "session"] == ["session_not_recorded", "session_coming"]


def test_risk_on_hold_silences_reminders_and_never_alerts_reviews_or_tasks():
    held = everything()
    kinds = {i.kind for i in due_items(replace(held, facts=replace(held.facts, risk_on_hold=True)))}
    assert kinds == set(KINDS) - SILENCED


def test_a_paused_or_ended_course_owes_no_measures_and_still_its_alerts():
    for status in ("paused", "completed", "ended_early"):
        kinds = {i.kind for i in due_items(replace(everything(), facts=replace(FULL, status=status, phase="middle")))}
        assert "alert" in kinds
        assert not {"measure", "question", "proposal"} & kinds


@pytest.mark.parametrize(
    ("last", "held", "due"),
    [
        (None, [], {"PHQ-9", "GAD-7", "RAND-36-SF", "IPIP-IPC"}),
        (-1.5, [-1], set()),
        (-9, [-1], {"PHQ-9", "GAD-7"}),
        (-60, [-1, -8, -15, -22], {"PHQ-9", "GAD-7", "RAND-36-SF"}),
    ],
)
def test_measures_are_due_by_the_protocols_schedule(last, held, due):
    codes = [i.code for i in protocol("IPT-16", 2).instruments]
    answers = {} if last is None else {(c, "patient"): NOW + last * DAY for c in codes}
    found = due_items(course(sessions=[session("held", d, n) for n, d in enumerate(held)], answers=answers))
    assert {i.code for i in found if i.kind == "measure"} == due


def test_the_profile_at_the_end_is_due_in_the_ending():
    ending = replace(FULL, phase="termination", status="active")
    answers = {(c, "patient"): NOW - DAY for c in ("PHQ-9", "GAD-7", "RAND-36-SF")} | {("IPIP-IPC", "patient"): NOW - 90 * DAY}
    found = due_items(course(facts=ending, sessions=[session("held", -2)], answers=answers))
    assert {i.code for i in found if i.kind == "measure"} == {"IPIP-IPC"}


def test_owed_tasks_of_the_phase_are_due():
    early = replace(FULL, phase="initial", status="active", recorded={}, relationships=0)
    codes = {i.code for i in due_items(course(facts=early)) if i.kind == "task"}
    assert {"diagnosis_named", "risk_assessed", "inventory_taken"} <= codes


@given(st.permutations(due_items(everything())))
def test_the_order_does_not_depend_on_where_things_come_from(items):
    assert [order(i) for i in sorted(items, key=order)] == [order(i) for i in due_items(everything())]


def test_every_review_and_proposal_has_its_words():
    assert all(TITLES.values())


def test_the_rules_of_the_daily_work():
    check_analysis("decision", {"kind": "decision", "options": [{}], "said": None})
    with pytest.raises(PartOfAnotherKind):
        check_analysis("decision", {"said": "x"})
    check_medication(None, NOW.date())
    with pytest.raises(DatesOutOfOrder):
        check_medication(NOW.date(), NOW.date() - DAY)
    request = {"status": "open", "instrument": "PHQ-9", "respondent": "patient"}
    check_request(request, "PHQ-9", "clinician_read_aloud")
    with pytest.raises(RequestUnfit):
        check_request(request, "GAD-7", "patient")
    with pytest.raises(RequestUnfit):
        check_request(request, "PHQ-9", "parent")
    with pytest.raises(RequestDone):
        check_request(request | {"status": "answered"}, "PHQ-9", "patient")
    day = NOW.date()
    assert worse_after(day, [(day - 9 * DAY, 20), (day - DAY, 8), (day + DAY, 14)], 6)  # better than at the start, worse than before the attempt
    assert not worse_after(day, [(day - 9 * DAY, 8), (day - DAY, 14), (day + DAY, 14)], 6)
    assert not worse_after(day, [(day + DAY, 20)], 6)
    assert not worse_after(None, [(day, 20)], 6)


@pytest.mark.parametrize(("last", "coming", "due"), [(-1, 1, False), (-3, 1, True), (-3, 5, False)])
def test_a_measure_of_every_session_is_due_before_the_session(last, coming, due):
    answers = {(c, "patient"): NOW + last * DAY for c in ("PHQ-9", "GAD-7", "RAND-36-SF", "IPIP-IPC")}
    found = due_items(course(sessions=[session("held", -3.5), session("scheduled", coming)], answers=answers))
    assert ("PHQ-9" in {i.code for i in found if i.kind == "measure"}) is due
