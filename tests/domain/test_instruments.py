import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.instruments import instrument, instruments
from app.domain.reading import round_half_up
from app.domain.risk import trigger_of
from app.domain.scoring import AnswersInvalid, change, headline, reliable_change_threshold, score
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


@pytest.mark.parametrize("one", list(instruments().values()), ids=lambda i: i.code)
def test_every_instrument_can_be_scored_at_both_ends_and_says_where_its_figures_come_from(one):
    assert one.sources
    assert one.licence
    assert (one.wording == "shipped") == all(i.text for i in one.items)
    worst, best = ({i.number: getattr(i, edge) for i in one.items} for edge in ("value_max", "value_min"))
    ends = [score(one, given) for given in (worst, best)]
    if one.method in {"sum", "domains"}:
        reachable = sum(max(i.values.values(), default=i.value_max) for i in one.items)
        assert one.total_max == reachable or one.method == "domains"
        assert all(e.total is not None and e.total <= one.total_max for e in ends)
        spans = [n for b in one.bands for n in range(b.low, b.high + 1)]
        lowest = sum(min(i.values.values(), default=i.value_min) for i in one.items)
        assert spans == [] or spans == list(range(lowest, one.total_max + 1))
    else:
        assert all(e.total is None and e.scales for e in ends)
    assert all(r.item in {i.number for i in one.items} for r in one.risk_items)
    if one.reliable_change_index:
        assert reliable_change_threshold(one.reliable_change_index) == one.reliable_change


def test_reversed_items_domains_and_recoded_scales():
    core = instrument("CORE-10")
    assert score(core, dict.fromkeys(range(1, 11), 0)).total == 8  # items 2 and 3 reversed
    qids = instrument("QIDS-SR16")
    assert score(qids, {n: 3 if n in {1, 2, 3, 4} else 0 for n in range(1, 17)}).total == 3  # the highest of the sleep items
    rand = instrument("RAND-36-SF")
    found = score(rand, {1: 2, 2: 4})
    assert (found.total, headline(rand, found)) == (None, 75.0)
    assert headline(rand, score(rand, {1: 3})) == 50.0
    worse, better = score(rand, {1: 5, 2: 1}), score(rand, {1: 1, 2: 5})
    assert change(rand, worse, better, adult=True, sessions_held=5).points == 100.0
    ipip = instrument("IPIP-IPC")
    profile = score(ipip, {n: 5 if ipip.items[n - 1].scale == "warm_agreeable" else 1 for n in range(1, 33)})
    assert profile.scales["warm_agreeable"] == 5.0
    assert profile.scales["cold_hearted"] == 1.0
    assert headline(ipip, profile) is None


@pytest.mark.parametrize(
    ("code", "answers", "level"),
    [
        ("CORE-10", {6: 1}, "urgent"),
        ("EPDS", {10: 1}, "urgent"),
        ("HAM-D17", {3: 1}, "urgent"),
        ("MADRS", {10: 1}, "urgent"),
        ("QIDS-SR16", {12: 1}, "urgent"),
        ("ASQ", {1: 1}, "urgent"),
        ("ASQ", {1: 1, 5: 1}, "emergency"),
        ("ASQ", {}, None),
    ],
)
def test_risk_items_of_every_instrument_raise_their_level(code, answers, level):
    known = instrument(code)
    given = {i.number: 0 for i in known.items if i.number != 5 or code != "ASQ"} | answers
    trigger = trigger_of(known, given, score(known, given))
    assert (trigger.level if trigger else None) == level


def test_a_draft_alarms_for_what_is_answered_and_not_for_what_is_missing():
    assert trigger_of(PHQ9, {1: 3}) is None
    assert trigger_of(PHQ9, {9: 2}).reason == "risk_item_positive_in_draft"


@given(
    st.sampled_from([c for c, i in instruments().items() if i.method in {"sum", "domains"}]),
    st.lists(st.integers(0, 99), min_size=20, max_size=20),
    st.sets(st.integers(1, 20), max_size=4),
)
def test_totals_stay_within_their_range_whatever_is_answered(code, drawn, left_out):
    known = instrument(code)
    span = {i.number: i.value_max - i.value_min + 1 for i in known.items}
    answers = {i.number: None if i.number in left_out else i.value_min + drawn[i.number - 1] % span[i.number] for i in known.items}
    if not known.risk_items and all(v is None for v in answers.values()):
        return
    found = score(known, answers)
    assert found.total is None or 0 <= found.total <= known.total_max
    assert (found.total is None) == bool(
        all(v is None for v in answers.values())
        or any(answers[r.item] is None and r.missing_is_unknown for r in known.risk_items)
        or (known.may_be_missing and not set(found.missing) <= set(known.may_be_missing))
        or len([n for n in found.missing if not any(r.item == n and not r.missing_is_unknown for r in known.risk_items)]) > known.missing_allowed
    )


def test_teens_have_a_screening_cut_and_no_reliable_change():
    found = phq(2, 1, 1, 1, 1, 1, 1, 1, 1)
    assert score(PHQ9, answers_by_number([2, 1, 1, 1, 1, 1, 1, 1, 1]), age=15).case is False
    assert found.case is True
    assert change(PHQ9, found, phq(0, 0, 0, 0, 0, 0, 0, 0, 0), adult=False, sessions_held=6).reliable == "not_assessable"


def test_only_the_first_item_of_the_wsas_may_not_apply():
    wsas = instrument("WSAS")
    assert score(wsas, dict.fromkeys(range(2, 6), 4)).total == 20
    assert score(wsas, dict.fromkeys(range(1, 5), 4)).total is None


def test_who_is_well_or_was_never_a_case_is_not_judged_on_or_off_track():
    well, ill, middling = phq(1, 1, 1, 0, 0, 0, 0, 0, 0), phq(2, 2, 2, 2, 2, 2, 2, 2, 0), phq(2, 2, 2, 2, 2, 2, 1, 1, 0)
    assert change(PHQ9, well, well, adult=True, sessions_held=6).on_track is None
    assert change(PHQ9, ill, middling, adult=True, sessions_held=6).on_track is False
    assert change(PHQ9, ill, well, adult=True, sessions_held=6).on_track is True
