import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.instruments import AnswersInvalid, change, instrument, instruments, score
from app.domain.reading import round_half_up
from app.domain.risk import trigger_of
from tests.driver import answers_by_number

PHQ9, GAD7 = instrument("PHQ-9"), instrument("GAD-7")


def phq(*values):
    return score(PHQ9, answers_by_number(values))


@pytest.mark.parametrize(
    ("total", "band"),
    [
        (0, "minimal"),
        (4, "minimal"),
        (5, "mild"),
        (9, "mild"),
        (10, "moderate"),
        (14, "moderate"),
        (15, "moderately_severe"),
        (20, "severe"),
        (27, "severe"),
    ],
)
def test_phq9_bands_and_caseness(total, band):
    values = [3] * (total // 3) + ([total % 3] if total % 3 else [])
    found = phq(*(values + [0] * (9 - len(values))))
    assert (found.total, found.band, found.case) == (total, band, total >= 10)


def test_a_missing_risk_item_is_never_imputed():
    found = phq(1, 1, 1, 1, 1, 1, 1, 1, None)
    assert (found.partial_sum, found.total, found.band, found.case) == (8, None, None, None)
    assert trigger_of(PHQ9, answers_by_number([1] * 8 + [None]), found).reason == "risk_item_not_answered"


def test_up_to_two_other_missing_items_are_prorated_and_flagged_half_up():
    found = phq(1, 1, 1, 1, 1, 1, None, None, 0)
    assert (found.total, found.prorated, found.missing) == (8, True, (7, 8))  # 6 x 9 / 7 = 7.71
    assert phq(1, 1, 1, 1, 1, None, None, None, 0).total is None
    assert round_half_up(2.5) == 3


@pytest.mark.parametrize(("value", "level"), [(0, None), (1, "review"), (2, "urgent"), (3, "urgent")])
def test_item_nine_sets_the_level(value, level):
    answers = answers_by_number([0] * 8 + [value])
    trigger = trigger_of(PHQ9, answers, score(PHQ9, answers))
    assert (trigger.level if trigger else None) == level


@pytest.mark.parametrize("answers", [{10: 1}, {1: 4}, {1: -1}])
def test_answers_that_do_not_fit_are_refused(answers):
    with pytest.raises(AnswersInvalid):
        score(PHQ9, answers)


@given(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=9, max_size=9))
def test_a_total_is_never_out_of_range_and_never_without_a_band(values):
    if all(v is None for v in values):
        return
    found = phq(*values)
    assert (found.total is None) == (found.band is None) == (found.case is None)
    assert found.total is None or 0 <= found.total <= 27
    assert found.partial_sum == sum(v for v in values if v is not None)


@pytest.mark.parametrize(("before", "after", "reliable"), [(15, 9, "improvement"), (15, 10, "none"), (9, 15, "deterioration"), (9, 14, "none")])
def test_reliable_change_of_phq9_is_six_points(before, after, reliable):
    def of(total):
        return phq(*([3] * (total // 3) + [total % 3] + [0] * 9)[:9])

    assert change(PHQ9, of(before), of(after), adult=True, sessions_held=1).reliable == reliable
    assert change(PHQ9, of(before), of(after), adult=False, sessions_held=1).reliable == "not_assessable"


def test_on_track_is_judged_from_session_four_on_or_at_a_deterioration():
    start, better, little = phq(3, 3, 3, 3, 3, 0, 0, 0, 0), phq(3, 3, 3, 3, 0, 0, 0, 0, 0), phq(3, 3, 3, 3, 2, 0, 0, 0, 0)
    worse = phq(3, 3, 3, 3, 3, 3, 3, 0, 0)
    assert change(PHQ9, start, little, adult=True, sessions_held=3).on_track is None
    assert change(PHQ9, start, little, adult=True, sessions_held=4).on_track is False
    assert change(PHQ9, start, better, adult=True, sessions_held=4).on_track is True
    assert change(PHQ9, start, worse, adult=True, sessions_held=1).on_track is False


def test_two_prorated_items_make_a_change_not_assessable():
    start = phq(3, 3, 3, 3, 3, 3, None, None, 0)
    assert change(PHQ9, start, phq(*[0] * 9), adult=True, sessions_held=1).reliable == "not_assessable"


def test_every_instrument_names_its_licence_sources_and_whole_bands():
    for one in instruments().values():
        assert one.licence
        assert one.sources
        assert [b.low for b in one.bands] == [0, *(b.high + 1 for b in one.bands[:-1])]
        assert one.bands[-1].high == one.total_max == one.value_max * len(one.items)
    assert (GAD7.caseness, GAD7.reliable_change) == (8, 4)


def test_a_blank_form_with_a_risk_item_is_an_unknown_risk_and_without_one_it_is_refused():
    blank = score(PHQ9, {})
    assert (blank.partial_sum, blank.total) == (0, None)
    assert trigger_of(PHQ9, {}, blank).level == "review"
    with pytest.raises(AnswersInvalid):
        score(GAD7, {1: None})


def test_adult_thresholds_do_not_hold_for_teens_nor_for_an_unknown_age():
    ten, eleven = answers_by_number([2] * 5 + [0] * 4), answers_by_number([2] * 5 + [1] + [0] * 3)
    assert [score(PHQ9, a, age=15).case for a in (ten, eleven)] == [False, True]
    assert score(PHQ9, ten, age=40).case is True
    assert score(PHQ9, ten, age=None).case is None
    assert score(GAD7, answers_by_number([2] * 7), age=15).case is None
    teen = change(PHQ9, score(PHQ9, ten), score(PHQ9, answers_by_number([0] * 9)), adult=False, sessions_held=9)
    assert (teen.points, teen.reliable, teen.response, teen.remission, teen.on_track) == (10, "not_assessable", None, None, None)


def test_the_on_track_rule_is_the_phq9s_alone():
    same = score(GAD7, answers_by_number([2] * 7))
    assert change(GAD7, same, same, adult=True, sessions_held=9).on_track is None
