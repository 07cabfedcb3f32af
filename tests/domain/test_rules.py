from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import NotFound, title_of
from app.domain.focus import FocusChoice, FocusInvalid, Suggestion, decide_focus, is_late_change
from app.domain.instruments import instrument
from app.domain.inventory import (
    FullNameRefused,
    HistoryImpossible,
    check_event,
    check_label,
    check_relationship,
    completeness,
    measures,
    next_questions,
)
from app.domain.people import DatesImpossible, TimeZoneUnknown, check_not_future, check_time_zone, today_of
from app.domain.protocols import ProtocolInvalid, extension_faults, plan_for, protocol, protocol_from
from app.domain.reading import read_catalogue
from app.domain.risk import due_at, higher, late_by
from app.domain.scoring import score
from app.domain.sessions import SessionInvalid, SessionNotScheduled, activity_slope, check_session, check_status_change, flags_of
from app.domain.techniques import UnknownTechnique, check_strategies, check_techniques
from app.domain.termination import follow_up_due, follow_up_finding, maintenance_reasons, tasks_met
from tests.driver import answers_by_number

TODAY = date(2026, 6, 1)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def choice(primary="grief", secondary=None, reason="", patient_agreed=True):
    return FocusChoice(primary, secondary, reason, patient_agreed)


SUGGESTED = Suggestion("grief", {"grief": 60, "role_transition": 40, "interpersonal_deficits": None})


def test_a_focus_that_follows_the_suggestion_needs_no_reason():
    assert decide_focus(choice(), SUGGESTED, changes_focus=False) is True
    assert decide_focus(choice(secondary="role_transition"), SUGGESTED, changes_focus=False) is True
    assert decide_focus(choice(), None, changes_focus=False) is None


@pytest.mark.parametrize(
    ("chosen", "changes"),
    [
        (choice("role_transition"), False),
        (choice("interpersonal_deficits"), False),
        (choice(secondary="interpersonal_deficits"), False),
        (choice("interpersonal_deficits", "grief"), False),
        (choice(), True),
    ],
)
def test_departures_and_changes_of_focus_need_a_reason(chosen, changes):
    with pytest.raises(FocusInvalid) as refused:
        decide_focus(chosen, SUGGESTED, changes_focus=changes)
    assert refused.value.faults[0].pointer == "/reason"
    reasoned = FocusChoice(chosen.primary, chosen.secondary, "because", patient_agreed=True)
    assert decide_focus(reasoned, SUGGESTED, changes_focus=changes) is (chosen.primary == "grief")


def test_one_area_cannot_be_both_and_an_unknown_one_neither():
    for wrong in (choice("grief", "grief"), choice("sadness"), choice("grief", "sadness")):
        with pytest.raises(FocusInvalid):
            decide_focus(wrong, None, changes_focus=False)


def test_a_change_after_half_of_the_contract_is_late():
    assert is_late_change(9, 16)
    assert not is_late_change(8, 16)
    assert not is_late_change(9, None)


def test_impossible_histories_are_refused_and_unusual_ones_are_not():
    for wrong in (
        {"status": "deceased", "death_date": date(2026, 6, 2)},
        {"status": "current", "death_date": date(2020, 1, 1)},
        {"status": "past", "mourning_signs": ["numb"]},
    ):
        with pytest.raises(HistoryImpossible):
            check_relationship({"label": "M.", **wrong}, TODAY)
    check_relationship({"label": "M.", "status": "deceased", "death_date": TODAY}, TODAY)
    with pytest.raises(HistoryImpossible):
        check_event({"happened_on": date(2026, 7, 1)}, TODAY)
    check_event({"happened_on": date(2026, 7, 1), "imminent": True}, TODAY)


@pytest.mark.parametrize(
    "label",
    [
        "Maria Lopez",
        "John Paul Smith",
        "Ana Belén",
        "ANNA SMITH",
        "Mary O'Brien",
        "Anna-Maria Schmidt",
        "John F. Kennedy",
        "Anna de la Cruz",
        "Li Wei",
    ],
)
def test_a_full_name_is_refused_as_a_label(label):
    with pytest.raises(FullNameRefused):
        check_label(label, "/label")


@pytest.mark.parametrize("label", ["husband", "M.", "my sister", "Uncle J.", "Aunt Mary", "my sister Ana", "the ward team", "Mum", "J. from work"])
def test_a_nickname_relation_or_initials_do(label):
    assert check_label(label, "/label") is None


def test_measures_of_an_inventory():
    rows = [
        {
            "status": "current",
            "closeness_now": 2,
            "closeness_before_onset": 1,
            "closeness_wished": 1,
            "confiding": 2,
            "conflict_level": 3,
            "support_received_emotional": 1,
            "support_given_emotional": 3,
        },
        {"status": "current", "closeness_now": 4, "closeness_wished": 4, "confiding": 0, "conflict_level": 0},
        {"status": "deceased", "closeness_before_onset": 1, "confiding": 3, "conflict_level": 3},
    ]
    found = measures(rows)
    assert (found.relationships, found.close_now, found.close_before_onset, found.confidants) == (3, 1, 2, 1)
    assert (found.mean_closeness_gap, found.moves_since_onset, found.conflict_share, found.support_balance) == (0.5, 1, 0.5, -2.0)
    assert measures([]).mean_closeness_gap is None


def test_an_inventory_says_what_to_ask_next_until_it_is_whole():
    assert completeness([], onset_known=False, events=0) == 0
    assert next_questions([], onset_known=False, events=0)[0].startswith("When did this illness begin")
    person = {"status": "current", "closeness_now": 1, "expects_of_other": "a", "other_expects": "b"}
    whole = [person, person, person, {"status": "deceased"}]
    assert completeness(whole, onset_known=True, events=1) == 1
    assert next_questions(whole, onset_known=True, events=1) == []


def test_today_is_the_patients_own():
    late = datetime(2026, 6, 1, 23, 30, tzinfo=UTC)
    assert today_of("Asia/Tokyo", late) == date(2026, 6, 2)
    assert today_of("America/Toronto", late) == date(2026, 6, 1)
    for wrong in ("Mars/Base", "", "../etc/passwd", "Europe"):
        with pytest.raises(TimeZoneUnknown):
            check_time_zone(wrong)
    with pytest.raises(DatesImpossible):
        check_not_future(date(2026, 6, 2), TODAY, "/x")


def test_sessions_are_recorded_with_flags_and_refused_only_for_what_cannot_be():
    held = {"status": "held", "starts_at": NOW, "minutes": 50, "attendance": "attended", "focus_areas": [], "strategies": []}
    check_session(held, NOW)
    check_session(held | {"starts_at": NOW + timedelta(minutes=14)}, NOW)
    for wrong in ({"starts_at": NOW + timedelta(minutes=16)}, {"attendance": "did_not_attend"}):
        with pytest.raises(SessionInvalid):
            check_session(held | wrong, NOW)
    today = date(2026, 6, 1)
    assert flags_of(held, date(2026, 1, 1), date(2026, 2, 1), None, set()) == ["before_episode"]
    assert flags_of(held, date(2026, 9, 1), date(2026, 2, 1), date(2026, 8, 1), set()) == ["after_agreed_end"]
    odd = held | {"minutes": None, "focus_areas": ["grief", "role_dispute", "role_transition"], "strategies": ["x"]}
    assert flags_of(odd, today, today, None, {"y"}) == ["minutes_missing", "more_than_two_areas", "strategy_outside_focus"]
    check_status_change("scheduled", "held")
    check_status_change("held", "held")
    check_status_change("missed", "held")
    for present, to in (("held", "missed"), ("held", "scheduled"), ("cancelled", "scheduled")):
        with pytest.raises(SessionNotScheduled):
            check_status_change(present, to)


def test_the_activity_slope_falls_with_the_levels_and_needs_five():
    assert activity_slope([8, 7, 6, 5]) is None
    assert activity_slope([8, 7, 6, 5, 4]) == -1
    assert activity_slope([5, 5, 5, 5, 5, 9]) == 0


def test_codes_outside_the_catalogue_are_named():
    check_techniques(["role_play"])
    check_strategies(["find_parallels"], ["role_dispute"])
    for call in (lambda: check_techniques(["hypnosis"]), lambda: check_strategies(["find_parallels"], ["grief"])):
        with pytest.raises(UnknownTechnique):
            call()


def test_alert_levels_rise_and_late_answers_say_how_late():
    assert higher("review", "urgent") == "urgent"
    assert due_at("urgent", NOW) - NOW == timedelta(hours=4)
    assert due_at("review", NOW) - NOW == timedelta(hours=24)
    assert due_at("emergency", NOW) == NOW
    assert late_by(NOW - timedelta(minutes=59), NOW) is None
    assert late_by(NOW - timedelta(days=3), NOW) == timedelta(days=3)


def test_empty_parts_of_an_ending_meet_no_task():
    assert not any(tasks_met({}).values())
    assert tasks_met({"remaining_problems": []})["remaining_problems_reviewed"]
    assert not tasks_met({"end_date": TODAY})["end_date_named"]
    assert tasks_met({"end_date": TODAY, "end_date_told_on": TODAY})["end_date_named"]


def test_maintenance_is_a_list_of_reasons():
    assert maintenance_reasons(7, 3, ("patient_wish",)) == ["three_or_more_lifetime_episodes", "residual_symptoms", "patient_wish"]
    assert maintenance_reasons(3, 1, ()) == []


@given(st.dates(date(2000, 1, 1), date(2090, 1, 1)), st.sampled_from([3, 6, 12]))
def test_a_follow_up_is_due_so_many_months_later(ended, months):
    due = follow_up_due(ended, months)
    assert (due.year * 12 + due.month) - (ended.year * 12 + ended.month) == months
    assert due.day in {ended.day, 28}


def test_a_follow_up_finds_relapse_and_late_gains():
    phq9 = instrument("PHQ-9")

    def of(total):
        return score(phq9, answers_by_number(([3] * (total // 3) + [total % 3] + [0] * 9)[:9]))

    assert follow_up_finding(phq9, score(phq9, {1: 1}), of(3), adult=True) is None
    assert follow_up_finding(phq9, of(4), of(12), adult=True).relapse
    assert follow_up_finding(phq9, of(12), of(5), adult=True).late_reliable_improvement
    assert not follow_up_finding(phq9, of(12), of(11), adult=True).relapse
    assert follow_up_finding(phq9, of(4), of(12), adult=False).relapse is None


@given(st.integers(1, 200))
def test_a_plan_covers_every_session_once(sessions):
    plan = plan_for(protocol("IPT-16"), sessions)
    assert plan.initial[0] == 1
    assert plan.termination[1] == max(sessions, plan.termination[0] - 1) or sessions == 1
    assert plan.middle[0] == plan.initial[1] + 1
    assert plan.termination[0] == plan.middle[1] + 1


def test_a_full_course_keeps_eight_middle_sessions_and_says_when_the_ending_is_short():
    spans = {n: plan_for(protocol("IPT-16"), n) for n in range(12, 17)}
    assert {n: (p.initial[1], p.middle[1] - p.middle[0] + 1, p.termination[1] - p.termination[0] + 1) for n, p in spans.items()} == {
        12: (2, 8, 2),
        13: (2, 8, 3),
        14: (2, 8, 4),
        15: (3, 8, 4),
        16: (4, 8, 4),
    }
    assert [n for n, p in spans.items() if p.departures] == [12, 13]
    assert plan_for(protocol("IPT-16"), 20).termination == (17, 20)
    assert plan_for(protocol("IPT-16"), 16, per_week=2).termination == (11, 16)


@pytest.mark.parametrize(
    ("sessions", "per_week", "good"),
    [(11, 1, False), (12, 1, True), (16, 1, True), (17, 1, False), (20, 1, True), (18, 0.5, True), (20, 2, False), (24, 2, True)],
)
def test_an_extension_adds_four_weeks_or_more(sessions, per_week, good):
    assert (extension_faults(protocol("IPT-16"), sessions, per_week) == []) is good


@pytest.mark.parametrize(
    "broken",
    [
        {"sessions_min": 99},
        {"version": "1"},
        {"specialist": 1},
        {"boundaries": {"initial": [1, 4]}},
        {"boundaries": {"initial": [1, 4], "middle": [6, 12], "termination": [13, 16]}},
        {"departures": [], "boundaries": {"initial": [1, 4], "middle": [5, 6], "termination": [7, 16]}},
    ],
)
def test_a_broken_protocol_is_refused_with_pointers(broken):
    row = read_catalogue("protocols.toml")["protocol"][0]
    with pytest.raises(ProtocolInvalid) as refused:
        protocol_from(row | broken, ())
    assert all(f.pointer.startswith("/") for f in refused.value.faults)


def test_an_unknown_protocol_is_not_found():
    with pytest.raises(NotFound):
        protocol("IPT-99")
    assert title_of(NotFound) == "There is no such resource, or it is not yours to see"
