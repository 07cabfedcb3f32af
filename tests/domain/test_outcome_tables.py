"""Anonymised outcomes as rules: what one person can move, what is shown, what a fact says, who is not counted."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.instruments import instrument
from app.domain.outcome_facts import AGE_BANDS, Decision, EndedCourse, describe, fact_of, follow_up_fact, may_be_counted, not_counted
from app.domain.outcome_tables import (
    CAPS,
    EPSILONS,
    HIGHEST_CAP,
    SHOWN_FROM,
    STANDARD_PACK,
    QuestionUnknown,
    cells_of,
    dimensions,
    families,
    question_from,
    shown,
    standard_pack,
)
from app.domain.people import SEXES
from app.domain.problem_area import AREAS
from app.domain.protocol_faults import PHASES
from app.domain.protocols import protocols
from app.domain.quarters import Quarter
from app.domain.scoring import Score, score

START = date(2026, 1, 5)
Q = Quarter(2026, 1)


def scored(code, total):
    questionnaire = instrument(code)
    answers = {i.number: 0 for i in questionnaire.items}
    for number in list(answers)[:8]:
        answers[number] = min(3, total)
        total -= answers[number]
    return score(questionnaire, answers)


@st.composite
def courses(draw):
    held = draw(st.integers(1, 20))
    days = [START + timedelta(days=7 * n) for n in range(held)]
    found = {}
    for code, top in (("PHQ-9", 24), ("GAD-7", 21)):
        when = draw(st.lists(st.integers(-10, 7 * held + 30), max_size=8))
        found[code] = [(START + timedelta(days=n), scored(code, draw(st.integers(0, top)))) for n in sorted(when)]
    return EndedCourse(
        age=draw(st.one_of(st.none(), st.integers(5, 120))),
        sex=draw(st.sampled_from(SEXES)),
        protocol=draw(st.sampled_from(["IPT-16", "IPT-A", "acme-own"])),
        area=draw(st.one_of(st.none(), st.sampled_from(AREAS))),
        ended_as=draw(st.sampled_from(["completed", "ended_early", "closed"])),
        phase=draw(st.sampled_from(PHASES)),
        held=[(d, draw(st.sampled_from(["in_person", "video", "phone", "text"]))) for d in days],
        last_day=draw(st.one_of(st.none(), st.just(days[-1] + timedelta(days=14)))),
        scores=found,
    )


def component_of(component, fact):
    if component.of == "all":
        return 1
    value = fact.get(component.column)
    if component.of == "flag":
        return int(value is True)
    if component.of == "known":
        return int(value is not None)
    if component.of == "is":
        return int(value == component.name)
    return 0 if value is None else max(-component.bound, min(component.bound, value))


@given(courses(), st.integers(0, 27))
def test_one_person_moves_no_group_by_more_than_its_sensitivity(course, total):
    facts = {"end": fact_of(course), "follow_up_3": follow_up_fact(describe(course), total), "follow_up_6": follow_up_fact(describe(course), total)}
    for family in families().values():
        values = {c.name: component_of(c, facts[family.fact]) for c in family.components}
        for group in family.groups(EPSILONS[0.5]):
            assert sum(abs(values[name]) for name in group.components) <= group.sensitivity, family.code


@given(courses())
def test_every_fact_stands_in_a_cell_that_is_public(course):
    fact = fact_of(course)
    for code, dimension in dimensions().items():
        assert fact[code] in dimension.categories
    for family in families().values():
        for component in family.components:
            if component.of == "is" and family.fact == "end":
                allowed = {c.name for c in family.components}
                assert fact[component.column] is None or fact[component.column] in allowed | (
                    {"follow_up"} if family.code == "drop_out_by_phase" else set()
                )


@pytest.mark.parametrize("family", families().values(), ids=lambda f: f.code)
def test_the_parts_of_an_epsilon_are_no_more_than_the_whole_and_every_component_gets_noise_once(family):
    for epsilon in EPSILONS.values():
        groups = family.groups(epsilon)
        assert sum(g.epsilon for g in groups) <= epsilon
        assert sorted(n for g in groups for n in g.components) == sorted(c.name for c in family.components)


@given(st.sampled_from(sorted(families())), st.lists(st.integers(-200, 4000), min_size=6, max_size=6))
def test_what_is_shown_is_never_one_to_ten_and_always_in_range(code, numbers):
    family = families()[code]
    noisy = dict(zip((c.name for c in family.components), numbers, strict=False))
    accuracy = {name: {"one": 7, "each_of_two": 8} for name in noisy}
    for measure in shown(family, noisy, accuracy):
        if measure.suppressed:
            assert (measure.value, measure.accuracy_95) == (None, None)
            continue
        assert measure.accuracy_95 >= 0
        if measure.unit == "persons":
            assert measure.value >= SHOWN_FROM
            assert measure.value % 5 == 0
        elif measure.unit == "share":
            assert 0 <= measure.value <= 1
        else:
            assert -15 <= measure.value <= 15


def test_the_codebook_lists_what_the_rest_of_the_service_knows():
    assert dimensions()["area"].categories == (*AREAS, "not_recorded")
    assert set(dimensions()["protocol"].categories) == {code for code, _ in protocols()} | {"own_protocol"}
    assert dimensions()["sex"].categories == SEXES
    assert dimensions()["phase_reached"].categories == PHASES
    assert [band for _, band in AGE_BANDS] == list(dimensions()["age_band"].categories[:4])


def test_a_question_has_one_spelling_and_another_population_another_key():
    one = question_from("partner", Q, "recovery", ["sex", "area"], 0.5)
    same = question_from("partner", Q, "recovery", ["area", "sex"], 0.50)
    assert one.canonical == same.canonical
    a, b = UUID(int=1), UUID(int=2)
    assert one.key(a) == same.key(a) != one.key(b)
    assert question_from("partner", Q, "recovery", ["area"], 0.5).key(a) != one.key(a)
    assert len(cells_of(one.dimensions)) == 25
    assert len(cells_of(())) == 1


@pytest.mark.parametrize(
    ("dims", "epsilon"), [(["area", "sex", "modality"], 0.5), (["x"], 0.5), ([], 0.1), ([], float("nan")), (["area", "area"], 0.5)]
)
def test_what_is_outside_of_the_grammar_is_refused(dims, epsilon):
    with pytest.raises(QuestionUnknown):
        question_from("partner", Q, "counts", dims, epsilon)


def test_the_standard_pack_fits_every_cap():
    cost = sum(EPSILONS[e] for _, _, e in STANDARD_PACK)
    assert cost <= min(cap for (_, scope), cap in CAPS.items() if scope == "population")
    assert {q.family.scope for q in standard_pack("network", Q)} == {"population"}
    assert max(CAPS.values()) <= HIGHEST_CAP


def course(*, first, last, held=6, age=40, **more):
    days = [START + timedelta(days=7 * n) for n in range(held)]
    plain = {"sex": "female", "protocol": "IPT-12", "area": None, "ended_as": "completed", "phase": "follow_up", "last_day": days[-1]}
    scores = {"PHQ-9": [(days[0], scored("PHQ-9", first)), (days[held // 2], scored("PHQ-9", 9)), (days[-1], scored("PHQ-9", last))]}
    return EndedCourse(age=age, held=[(d, "video") for d in days], scores=scores, **(plain | more))


def test_sessions_to_recovery_count_what_was_held_by_the_first_day_below_caseness():
    assert fact_of(course(first=16, last=4))["recovered_within"] == "4_to_7"
    assert fact_of(course(first=16, last=4, held=2))["recovered_within"] == "1_to_3"
    assert fact_of(course(first=8, last=4))["recovered_within"] is None
    never = course(first=16, last=14)
    assert (
        fact_of(
            EndedCourse(
                **{n: getattr(never, n) for n in EndedCourse.__slots__} | {"scores": {"PHQ-9": [never.scores["PHQ-9"][0], never.scores["PHQ-9"][2]]}}
            )
        )["recovered_within"]
        == "not_recovered"
    )


@pytest.mark.parametrize(
    ("age", "band", "decade"),
    [
        (None, "not_recorded", "not_recorded"),
        (5, "under_18", "under_18"),
        (17, "under_18", "under_18"),
        (18, "18_to_25", "18_to_29"),
        (25, "18_to_25", "18_to_29"),
        (26, "26_to_40", "18_to_29"),
        (41, "41_to_64", "40_to_49"),
        (65, "65_and_over", "60_to_69"),
        (89, "65_and_over", "80_to_89"),
        (90, "65_and_over", "90_and_over"),
        (119, "65_and_over", "90_and_over"),
    ],
)
def test_ages_fall_into_their_bands(age, band, decade):
    fact = fact_of(course(first=16, last=4, age=age))
    assert (fact["age_band"], fact["age_decade"]) == (band, decade)


def test_severity_at_the_start_is_the_band_of_the_first_score():
    assert fact_of(course(first=16, last=4))["severity_at_start"] == "moderately_severe"


A, B, C, D, X, Y = (UUID(int=n) for n in range(1, 7))
FROZEN = datetime(2026, 4, 15, tzinfo=UTC)


def said(*pairs, days=-30):
    """Decisions in their order: who, and whether consent was given; recorded so many days after the freeze."""
    return [Decision(who, given, FROZEN + timedelta(days=days)) for who, given in pairs]


def test_who_is_not_counted():
    merged = {B: A, D: C}
    assert not_counted(merged, [], [], FROZEN, [A, B, C]) == {B}
    assert not_counted(merged, [B], [], FROZEN, [A, B]) == {A, B}
    assert not_counted(merged, [X], [], FROZEN, []) == {X}
    assert not_counted({}, [], [], FROZEN, []) == set()
    assert not_counted(merged, [], [], FROZEN, [D]) == set()


def test_who_has_withdrawn_since_or_refuses_now_is_not_counted_by_whichever_registration():
    merged = {B: A}
    assert not_counted(merged, [], said((A, False), days=1), FROZEN, [A, B]) == {A, B}
    assert not_counted(merged, [], said((X, False), (X, True), days=1), FROZEN, []) == {X}, "withdrawn since, and given again"
    assert not_counted(merged, [], said((B, False), (A, True)), FROZEN, [A]) == set(), "one registration refused, the person consents"
    assert not_counted(merged, [], said((A, True), (B, False)), FROZEN, [A]) == {A, B}
    assert not_counted(merged, [], said((Y, True), (Y, False)), FROZEN, []) == {Y}, "a withdrawal that the freeze did not see"


def test_who_may_be_counted():
    person_of = {A: A, B: A, C: C}
    yes = said((A, True), (C, True))
    assert may_be_counted(person_of, [], yes, []) == {A, C}
    assert may_be_counted(person_of, [], [], []) == set()
    assert may_be_counted(person_of, [B], yes, []) == {C}
    assert may_be_counted(person_of, [], said((A, True), (B, False), (C, True)), []) == {C}
    assert may_be_counted(person_of, [], yes, [A, B, B]) == {C}, "three in a life, by all registrations"
    assert may_be_counted(person_of, [], yes, [A, B]) == {A, C}


def test_a_score_that_is_no_sum_gives_no_fact_of_change():
    days = [START, START + timedelta(days=7)]
    empty = Score(0, None, None, None, (9,), prorated=False)
    found = fact_of(
        EndedCourse(
            40,
            "male",
            "IPT-12",
            None,
            "completed",
            "follow_up",
            [(d, "in_person") for d in days],
            days[-1],
            {"PHQ-9": [(days[0], empty), (days[1], empty)]},
        )
    )
    assert found["change_phq9"] is None
    assert found["paired_phq9"] is False
