"""Generalisation over many data sets: k, l, how much is left out, and what no level may lose."""

from collections import Counter, defaultdict
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.anonymity import LADDERS, MOST_OF_ONE, MOST_SUPPRESSED, PROFILES, SMALLEST_CLASS, KUnreachable, generalise

VALUES = {
    "age": ["under_18", "18_to_29", "30_to_39", "40_to_49", "50_to_59", "60_to_69", "90_and_over", "not_recorded"],
    "sex": ["female", "male", "other"],
    "period": ["2025Q4", "2026Q1", "2026Q2"],
    "protocol": ["IPT-16", "IPT-A", "DIT", "own_protocol"],
    "modality": ["in_person", "remote", "mixed"],
    "sessions_band": ["1_to_3", "4_to_7", "8_to_12", "13_and_more"],
    "area": ["grief", "role_dispute", "role_transition", "not_recorded"],
    "outcome_band": ["reliable_improvement", "no_reliable_change", "reliable_deterioration"],
    "remission": ["True", "False"],
    "severity_at_start": ["minimal", "mild", "moderate", "severe", "not_recorded"],
}


def records(chance, number, spread):
    return [{"n": n} | {name: chance.choice(values[: max(1, round(spread * len(values)))]) for name, values in VALUES.items()} for n in range(number)]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
@settings(max_examples=5, deadline=None)
@given(chance=st.randoms(use_true_random=False), number=st.integers(0, 250), spread=st.floats(0.3, 1))
def test_every_class_has_eleven_and_keeps_its_secrets_or_nothing_is_given(profile, chance, number, spread):
    rows = records(chance, number, spread)
    try:
        found = generalise(rows, profile)
    except KUnreachable:
        return
    classes = defaultdict(list)
    for row in found.records:
        classes[tuple(row[c] for c in profile.known)].append(row)
    assert min(map(len, classes.values())) == found.k >= SMALLEST_CLASS
    for own in classes.values():
        for secret in profile.secret:
            counts = Counter(r[secret] for r in own)
            assert len(counts) >= max(2, found.l) or len(counts) >= 2
            assert max(counts.values()) <= MOST_OF_ONE * len(own)
    assert found.suppressed == len(rows) - len(found.records) <= MOST_SUPPRESSED * len(rows)
    by_number = {r["n"]: r for r in rows}
    for row in found.records:
        assert all(row[c] == LADDERS[c][found.levels[c]](by_number[row["n"]][c]) for c in profile.known), "all alike, by the ladder"
    assert found.levels["period"] >= profile.finest.get("period", 0)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
@pytest.mark.parametrize("number", [0, 1, 10])
def test_too_few_records_give_nothing(profile, number):
    with pytest.raises(KUnreachable):
        generalise([dict.fromkeys(VALUES, "x") | {"period": "2026Q1", "n": n} for n in range(number)], profile)


def test_a_group_that_shares_its_secret_is_not_given():
    rows = [{n: v[0] for n, v in VALUES.items()} | {"remission": "True", "area": "grief"} for _ in range(200)]
    with pytest.raises(KUnreachable):
        generalise(rows, PROFILES["safe_harbor"])


@pytest.mark.parametrize("column", sorted(LADDERS))
def test_each_step_of_a_ladder_only_joins_what_the_step_below_held_apart(column):
    values = VALUES[column]
    for lower, upper in zip(LADDERS[column], LADDERS[column][1:], strict=False):
        joined = {}
        for value in values:
            assert joined.setdefault(lower(value), upper(value)) == upper(value)
        assert len({upper(v) for v in values}) <= len({lower(v) for v in values})


def test_safe_harbor_shows_no_more_of_a_date_than_the_year():
    found = generalise(records(Random(1), 6_000, 1.0), PROFILES["safe_harbor"])
    assert {len(r["period"]) for r in found.records} == {4}
