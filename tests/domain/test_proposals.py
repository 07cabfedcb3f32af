"""Indicators proposed from the inventory: each rule, its evidence, and what it must not do."""

from datetime import date

import pytest

from app.domain.agreement import FEWEST_PAIRS, Decision, agreement_on, statistics
from app.domain.errors import Invalid
from app.domain.focus_work import PLAN_BY_STAGE, WorkOfAnotherArea, check_work, plan_for_stage
from app.domain.history import compare, moves
from app.domain.indicator_answers import check_answers
from app.domain.problem_area import AREAS, Answer
from app.domain.proposals import GateNotFromText, check_span, propose

ONSET, TODAY = date(2025, 6, 1), date(2026, 3, 1)


def person(n, **fields):
    start = {"id": f"p{n}", "status": "current", "safety": "none", "patterns": [], "mourning_signs": []}
    return start | fields


def event(n, **fields):
    return {"id": f"e{n}", "type": "retirement", "linked_to_onset": "none"} | fields


def found(people=(), events=()):
    return {(p.indicator, p.value, p.relationship_id or p.life_event_id) for p in propose(people, events, ONSET, TODAY)}


def test_a_death_proposes_grief_with_its_signs():
    dead = person(
        1, status="deceased", death_date=date(2025, 1, 1), mourning_signs=["never_cried", "kept_busy", "yearning", "guilt", "belongings_kept"]
    )
    assert found([dead]) == {
        ("significant_person_died", "present", "p1"),
        ("mourning_avoided_or_delayed", "present", "p1"),
        ("persistent_yearning", "present", "p1"),
        ("distorted_expression", "present", "p1"),
        ("unresolved_guilt_or_anger", "present", "p1"),
        ("onset_linked_to_death", "possible", "p1"),
    }


def test_yearning_within_six_months_does_not_apply_and_custom_is_no_avoidance():
    dead = person(
        1, status="deceased", death_date=date(2025, 12, 1), mourning_signs=["yearning", "no_grave_visit", "belongings_kept", "not_customary"]
    )
    assert ("persistent_yearning", "not_applicable", "p1") in found([dead])
    assert ("mourning_avoided_or_delayed", "possible", "p1") in found([dead])


def test_a_conflict_proposes_a_dispute_and_a_safety_mark_silences_the_reading_of_submission():
    wife = person(
        1,
        conflict_level=3,
        conflict_style="mixed",
        expectation_mismatch="severe",
        dispute_stage="impasse",
        linked_to_onset="clear",
        patterns=["submission"],
    )
    of_wife = found([wife])
    assert {i for i, _, _ in of_wife} == {
        "continuing_relation_with_other", "nonreciprocal_expectations", "onset_linked_to_conflict",
        "overt_or_covert_quarrels", "unresolved_and_stuck", "communication_fault_visible",
    }  # fmt: skip
    assert ("communication_fault_visible", "possible", "p1") in of_wife
    assert "communication_fault_visible" not in {i for i, _, _ in found([wife | {"safety": "coercion"}])}
    assert found([person(2, conflict_level=1)]) == set()


def test_changes_propose_a_transition_by_their_date_and_a_death_never_does():
    near, far = event(1, happened_on=date(2025, 3, 1), wanted=False), event(2, happened_on=date(2020, 1, 1), adapted=True)
    got = found(events=[near, far, event(3, type="death", happened_on=date(2025, 5, 1))])
    assert {
        ("onset_linked_to_change", "possible", "e1"),
        ("unwanted_or_sudden_change", "present", "e1"),
        ("change_adapted_to", "present", "e2"),
    } <= got
    assert not [g for g in got if g[2] == "e3" and "change" in g[0]]
    assert ("onset_linked_to_death", "possible", "e3") in got


def test_patterns_and_few_ties_propose_deficits_and_absence_is_only_possible():
    people = [person(n, patterns=["dependency"], closeness_before_onset=3, confiding=0) for n in range(3)]
    got = {(i, v) for i, v, _ in found(people, [event(1, happened_on=date(2019, 1, 1))])}
    assert {("repeating_pattern", "present"), ("few_close_ties_before_onset", "possible"), ("no_life_event_near_onset", "possible")} <= got
    assert ("same_pattern_with_everybody", "possible") in got
    assert "no_life_event_near_onset" not in {i for i, _, _ in found(people)}
    far = event(1, happened_on=date(2019, 1, 1))
    for near in (
        person(9, linked_to_onset="clear"),
        person(9, status="deceased", death_date=date(2025, 5, 1)),
        person(9, recent_change_on=date(2025, 5, 1)),
    ):
        assert "no_life_event_near_onset" not in {i for i, _, _ in found([*people, near], [far])}
    assert "no_life_event_near_onset" not in {i for i, _, _ in found(people, [far, event(2)])}  # one without a date might be near
    assert "few_close_ties_before_onset" not in {i for i, _, _ in found([*people, person(8)])}  # what was not asked is no evidence
    marked = [p | {"safety": "violence"} for p in people]
    assert "repeating_pattern" not in {i for i, _, _ in found(marked)}


def test_a_death_near_the_onset_a_pregnancy_loss_and_an_estrangement():
    dead = person(1, status="deceased", death_date=date(2025, 5, 1), death_date_precision="year", mourning_signs=["yearning"])
    assert found([dead]) == {("significant_person_died", "present", "p1"), ("onset_linked_to_death", "possible", "p1")}
    loss = found(events=[event(1, type="pregnancy_loss")])
    assert loss == {("significant_person_died", "possible", "e1"), ("role_change_identified", "possible", "e1")}
    silent = person(2, status="estranged", dispute_stage="impasse")
    assert found([silent]) == {("continuing_relation_with_other", "possible", "p2")}


def test_what_is_proposed_for_one_person_never_contradicts_itself():
    wife = person(1, conflict_level=3, conflict_style="overt", linked_to_onset="clear")
    answers = {p.indicator: Answer(p.value, p.relationship_id, None) for p in propose([wife], [], ONSET, TODAY)}
    assert "overt_or_covert_quarrels" in answers
    check_answers(answers, {})


def test_the_same_facts_make_the_same_proposal():
    wife = person(1, conflict_level=3, conflict_style="overt")
    assert [p.key for p in propose([wife], [], ONSET, TODAY)] == [p.key for p in propose([wife], [], ONSET, TODAY)]


def test_a_text_proposes_no_gate_no_unknown_indicator_and_no_empty_span():
    assert check_span("old_role_mourned", "I miss my work.", 2, 9) == "miss my"
    with pytest.raises(GateNotFromText):
        check_span("role_change_identified", "I retired.", 0, 5)
    for indicator, start, end in (("none", 0, 1), ("old_role_mourned", 3, 3), ("old_role_mourned", 0, 99), ("old_role_mourned", 1, 2)):
        with pytest.raises(Invalid):
            check_span(indicator, "I miss it.", start, end)


def test_kappa_is_what_cohen_says():
    pairs = [("a", "a")] * 20 + [("a", "b")] * 5 + [("b", "a")] * 10 + [("b", "b")] * 15
    got = agreement_on(pairs)
    assert (got.pairs, got.observed, got.kappa) == (50, 0.7, 0.4)
    assert agreement_on(pairs[:9]).kappa is None
    assert agreement_on([("a", "a")] * 10).kappa is None  # chance alone agrees always


def test_overrides_are_counted_and_small_numbers_are_not_shown():
    same = Decision(("grief", None), ("grief", None), "2026-01")
    other = Decision(("grief", None), ("role_dispute", "grief"), "2026-02")
    got = statistics([same] * FEWEST_PAIRS + [other] * 5 + [Decision((None, None), ("grief", None), "2026-01")])
    assert got["override_rate"] == 0.33
    assert got["with_suggestion"] == 15
    assert got["by_month"]["2026-02"] == {"decisions": 5, "override_rate": None}
    assert got["areas"]["grief"].observed == 1.0  # in focus both times, though not first
    assert set(got["areas"]) == set(AREAS)


def test_work_belongs_to_its_area_and_a_dispute_has_a_plan_by_stage():
    check_work("grief", {"grief": {"feelings": []}, "dispute": None})
    with pytest.raises(WorkOfAnotherArea):
        check_work("grief", {"dispute": {"issues": []}})
    assert plan_for_stage("role_dispute", "impasse") == PLAN_BY_STAGE["impasse"]
    assert plan_for_stage("role_dispute", None) is None
    assert plan_for_stage("grief", "impasse") is None


def test_two_states_are_compared_by_field_and_by_ring():
    before = {"a": {"label": "x", "closeness_now": 2, "version": 1}, "b": {"label": "y"}}
    after = {"a": {"label": "x", "closeness_now": 1, "version": 2}, "c": {"label": "z"}}
    got = {c["id"]: c for c in compare(before, after)}
    assert [got[i]["change"] for i in "abc"] == ["changed", "removed", "added"]
    assert got["a"]["fields"] == [{"field": "closeness_now", "before": 2, "after": 1}]
    assert moves(before, after) == [{"relationship_id": "a", "time_point": "now", "from_ring": 2, "to_ring": 1}]
