import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.indicator_answers import Event, IndicatorsInvalid, check_answers
from app.domain.problem_area import ANSWERS, Answer, classify, ruleset

RULES = ruleset()
CODES = [i.code for a in RULES.areas for i in a.indicators] + [a.gate.code for a in RULES.areas if a.code != "interpersonal_deficits"]
GATES = {a.gate.code for a in RULES.areas}


def answers(**values):
    return {code: value if isinstance(value, Answer) else Answer(value) for code, value in values.items()}


def absent(*areas):
    return {i.code: Answer("absent") for a in RULES.areas if a.code in areas for i in a.indicators if i.kind == "against"}


def area(result, code):
    return next(a for a in result.areas if a.area == code)


def test_the_maxima_of_ruleset_1_0_are_18_16_18_18():
    assert [sum(i.weight for i in a.indicators if i.weight > 0) for a in RULES.areas] == [18, 16, 18, 18]


def test_the_worked_example_of_a_transition_scores_69_and_its_dispute_0():
    result = classify(
        absent("role_transition", "role_dispute")
        | answers(
            role_change_identified="present",
            onset_linked_to_change="present",
            old_role_mourned="possible",
            new_demands_beyond_skill="present",
            identity_shaken="absent",
            patient_names_the_change="present",
            unwanted_or_sudden_change="present",
            continuing_relation_with_other="present",
            nonreciprocal_expectations="possible",
            onset_linked_to_conflict="absent",
            overt_or_covert_quarrels="possible",
            unresolved_and_stuck="absent",
            patient_names_the_dispute="absent",
            communication_fault_visible="absent",
            conflict_began_after_onset="present",
        )
    )
    transition, dispute = area(result, "role_transition"), area(result, "role_dispute")
    assert (transition.score, transition.band) == (69, "likely")
    assert transition.coverage == 0.94  # contra-indicators count (0a): 29 of 31, not 16 of 18
    assert (dispute.score, dispute.band, dispute.coverage) == (0, "weak", 1.0)
    assert result.suggested_primary == "role_transition"


def test_case_a_a_widow_14_months_after_the_death_with_the_onset_at_12_is_led_by_grief():
    events = {"d": Event("death", "clear"), "a": Event("anniversary", "clear"), "w": Event("status_change", "possible")}
    given_answers = absent("grief", "role_transition") | answers(
        significant_person_died=Answer("present", life_event_id="d"),
        onset_linked_to_death=Answer("present", life_event_id="a"),
        mourning_avoided_or_delayed="present",
        persistent_yearning="possible",
        patient_names_the_death="present",
        role_change_identified=Answer("present", life_event_id="w"),
        onset_linked_to_change="possible",
        new_demands_beyond_skill="present",
        unwanted_or_sudden_change="present",
    )
    check_answers(given_answers, events)
    result = classify(given_answers)
    assert result.ranking[0] == "grief"
    assert result.suggested_primary == "grief"


def test_case_b_deficits_alone_need_information_and_are_not_likely():
    codes = ["few_close_ties_before_onset", "relations_not_started_or_kept", "chronic_loneliness", "repeating_pattern", "patient_names_loneliness"]
    result = classify({c: Answer("present") for c in codes})
    deficits = area(result, "interpersonal_deficits")
    assert result.outcome == "needs_information"
    assert (deficits.status, deficits.score, deficits.band) == ("needs_information", None, None)
    assert deficits.would_be == 83
    assert deficits.excluded_by == ("grief", "role_dispute", "role_transition")
    assert result.questions[0].indicator in GATES


def test_deficits_stand_only_when_every_other_area_is_shut_or_cannot_reach_35():
    shut = answers(significant_person_died="absent", continuing_relation_with_other="absent", role_change_identified="absent")
    lonely = answers(few_close_ties_before_onset="present", chronic_loneliness="present", repeating_pattern="present")
    assert area(classify(shut | lonely), "interpersonal_deficits").status == "eligible"
    standing = shut | lonely | answers(role_change_identified="present", onset_linked_to_change="present", old_role_mourned="present")
    standing |= absent("role_transition")
    found = area(classify(standing), "interpersonal_deficits")
    assert (found.status, found.excluded_by) == ("not_eligible", ("role_transition",))


def test_isolation_that_began_with_the_illness_shuts_deficits():
    shut = answers(significant_person_died="absent", continuing_relation_with_other="absent", role_change_identified="absent")
    found = area(classify(shut | answers(isolation_began_with_illness="present")), "interpersonal_deficits")
    assert (found.status, found.excluded_by) == ("not_eligible", ("isolation_began_with_illness",))


def test_a_change_that_is_a_death_shuts_transition_on_that_event_only():
    same = answers(role_change_identified=Answer("present", life_event_id="x"), change_is_a_death=Answer("present", life_event_id="x"))
    own = answers(role_change_identified=Answer("present", life_event_id="y"), change_is_a_death=Answer("present", life_event_id="x"))
    assert area(classify(same), "role_transition").status == "not_eligible"
    assert area(classify(own), "role_transition").status == "eligible"


def test_what_is_not_applicable_leaves_the_maximum():
    base = answers(significant_person_died="present", onset_linked_to_death="present")
    with_item = area(classify(base), "grief").score
    without = area(classify(base | answers(persistent_yearning="not_applicable")), "grief").score
    assert (with_item, without) == (22, 27)  # 4 of 18, 4 of 15


def test_areas_within_ten_points_of_the_top_are_ordered_by_temporal_link_then_by_the_patient_and_else_left_to_decide():
    both = absent("grief", "role_dispute", "role_transition") | answers(
        significant_person_died="absent",
        continuing_relation_with_other="present",
        nonreciprocal_expectations="present",
        onset_linked_to_conflict="absent",
        overt_or_covert_quarrels="present",
        unresolved_and_stuck="present",
        patient_names_the_dispute="absent",
        communication_fault_visible="present",
        role_change_identified="present",
        onset_linked_to_change="absent",
        old_role_mourned="present",
        new_demands_beyond_skill="present",
        supports_lost_through_change="present",
        identity_shaken="present",
        patient_names_the_change="absent",
        unwanted_or_sudden_change="absent",
    )
    tie = classify(both)
    assert [area(tie, a).score for a in ("role_dispute", "role_transition")] == [56, 56]
    assert (tie.outcome, set(tie.tied), tie.suggested_primary) == ("decision_required", {"role_dispute", "role_transition"}, None)
    named = classify(both | answers(patient_names_the_dispute="possible"))
    assert named.outcome == "suggested"
    assert named.suggested_primary == "role_dispute"


def test_low_coverage_makes_an_area_provisional():
    result = classify(answers(role_change_identified="present", onset_linked_to_change="present", patient_names_the_change="present"))
    assert area(result, "role_transition").provisional
    assert result.outcome == "provisional"


def test_nothing_is_suggested_beside_deficits_and_deficits_beside_nothing():
    shut = answers(significant_person_died="absent", continuing_relation_with_other="absent", role_change_identified="absent")
    lonely = {c.code: Answer("present") for c in RULES.area("interpersonal_deficits").indicators if c.kind == "for"} | absent(
        "interpersonal_deficits"
    )
    result = classify(shut | lonely)
    assert (result.suggested_primary, result.suggested_secondary) == ("interpersonal_deficits", None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("onset_linked_to_death", "death_mourned_and_remote"),
        ("onset_linked_to_conflict", "conflict_began_after_onset"),
        ("onset_linked_to_change", "change_adapted_to"),
        ("few_close_ties_before_onset", "isolation_began_with_illness"),
        ("patient_names_the_death", "patient_names_loneliness"),
        ("continuing_relation_with_other", "relation_ended"),
    ],
)
def test_contradictions_are_refused_by_name(one, other):
    with pytest.raises(IndicatorsInvalid) as refused:
        check_answers(answers(**{one: "present", other: "present"}), {})
    assert one in refused.value.faults[0].detail
    assert other in refused.value.faults[0].pointer


@pytest.mark.parametrize(
    ("claim", "linked", "refused"),
    [
        ("present", "none", False),
        ("present", "possible", True),
        ("present", "clear", True),
        ("possible", "possible", False),
        ("possible", "clear", True),
        ("absent", "clear", False),
    ],
)
def test_no_life_event_near_onset_contradicts_an_event_that_is_linked(claim, linked, refused):
    given_answers, events = answers(no_life_event_near_onset=claim), {"e": Event("relocation", linked)}
    if not refused:
        check_answers(given_answers, events)
        return
    with pytest.raises(IndicatorsInvalid):
        check_answers(given_answers, events)


def test_no_life_event_near_onset_contradicts_a_link_that_cites_an_event():
    cited = answers(no_life_event_near_onset="possible", onset_linked_to_change=Answer("possible", life_event_id="e"))
    with pytest.raises(IndicatorsInvalid):
        check_answers(cited, {"e": Event("relocation", "none")})


def test_where_somebody_died_a_transition_needs_an_event_of_its_own():
    died = answers(significant_person_died="present", onset_linked_to_death="present")
    change = answers(role_change_identified="present", onset_linked_to_change="present", new_demands_beyond_skill="present")
    assert area(classify(died | change), "role_transition").status == "needs_information"
    own = {code: Answer("present", life_event_id="duties") for code in ("role_change_identified", "onset_linked_to_change")}
    assert area(classify(died | change | own), "role_transition").score == 39


def test_an_area_under_35_takes_no_part_in_a_tie():
    """A weak area with a temporal link must not push a standing one aside."""
    given_answers = absent("role_dispute", "role_transition") | answers(
        significant_person_died="absent",
        continuing_relation_with_other="present",
        nonreciprocal_expectations="present",
        onset_linked_to_conflict="absent",
        overt_or_covert_quarrels="present",
        unresolved_and_stuck="absent",
        patient_names_the_dispute="absent",
        communication_fault_visible="absent",
        role_change_identified="present",
        onset_linked_to_change="present",
        old_role_mourned="absent",
        new_demands_beyond_skill="absent",
        supports_lost_through_change="present",
        identity_shaken="absent",
        patient_names_the_change="absent",
        unwanted_or_sudden_change="absent",
    )
    result = classify(given_answers)
    assert [area(result, a).score for a in ("role_dispute", "role_transition")] == [38, 33]
    assert (result.outcome, result.suggested_primary) == ("suggested", "role_dispute")


def test_an_unanswered_gate_that_could_overturn_the_ranking_makes_it_provisional():
    known = absent("role_dispute") | {c.code: Answer("present") for c in RULES.area("role_dispute").indicators if c.kind == "for"}
    known |= answers(continuing_relation_with_other="present", role_change_identified="absent")
    assert classify(known).outcome == "provisional"
    assert classify(known | answers(significant_person_died="absent")).outcome == "suggested"


def test_a_shut_area_asks_nothing_more():
    result = classify(answers(change_is_a_death="present", isolation_began_with_illness="present"))
    assert {q.area for q in result.questions} == {"grief", "role_dispute"}


def test_a_death_cannot_answer_for_a_transition_nor_one_event_for_two_areas():
    for code in ("role_change_identified", "onset_linked_to_change", "old_role_mourned"):
        with pytest.raises(IndicatorsInvalid, match="break a rule"):
            check_answers(answers(**{code: Answer("present", life_event_id="d")}), {"d": Event("death", "clear")})
    two = answers(onset_linked_to_death=Answer("present", life_event_id="e"), role_change_identified=Answer("present", life_event_id="e"))
    with pytest.raises(IndicatorsInvalid):
        check_answers(two, {"e": Event("status_change", "clear")})


@pytest.mark.parametrize(
    "wrong",
    [
        {"nonsense": "present"},
        {"no_other_area_stands": "present"},
        {"old_role_mourned": "maybe"},
        {"significant_person_died": "not_applicable"},
        {"old_role_mourned": "not_applicable"},
    ],
)
def test_unknown_indicators_and_answers_are_refused(wrong):
    with pytest.raises(IndicatorsInvalid):
        check_answers(answers(**wrong), {})


any_answers = st.dictionaries(st.sampled_from(CODES), st.sampled_from(ANSWERS).map(Answer), max_size=len(CODES))


@given(any_answers)
def test_scores_lie_between_their_bounds_and_bounds_between_0_and_100(found):
    for result in classify(found).areas:
        assert 0 <= result.lower <= result.would_be <= 100
        assert 0 <= result.upper <= 100
        assert result.lower <= result.upper
        assert 0 <= result.coverage <= 1
        assert (result.score is not None) == (result.status == "eligible")


@given(any_answers, st.sampled_from(CODES), st.sampled_from(["absent", "possible", "present"]))
def test_no_answer_to_an_unknown_leaves_the_bounds(found, code, value):
    if code in GATES:
        return
    unknown = {k: v for k, v in found.items() if k != code}
    before = {a.area: a for a in classify(unknown).areas}
    for after in classify(unknown | {code: Answer(value)}).areas:
        assert before[after.area].lower <= after.would_be <= before[after.area].upper


@given(any_answers)
def test_the_same_answers_give_the_same_result_and_at_most_two_areas_are_suggested(found):
    result = classify(found)
    assert result == classify(dict(reversed(list(found.items()))))
    assert result.suggested_primary is None or result.suggested_primary != result.suggested_secondary
    assert result.suggested_secondary != "interpersonal_deficits"
    if result.suggested_primary:
        assert area(result, result.suggested_primary).score >= 35


@pytest.mark.parametrize("evidence", [None, "an id"])
@pytest.mark.parametrize(("value", "share"), [("present", 1.0), ("possible", 0.5), ("absent", 0.0), ("unknown", None), ("not_applicable", None)])
def test_each_contribution_shows_its_answer_times_its_weight_with_and_without_evidence(value, share, evidence):
    for one in RULES.areas:  # alone, so that no answer of another area bears on it
        result = classify({i.code: Answer(value, evidence) for i in one.indicators})
        assert {c.indicator: (c.answer, c.points, c.relationship_id) for c in area(result, one.code).contributions} == {
            i.code: (value, None if share is None else share * i.weight, evidence) for i in one.indicators
        }
