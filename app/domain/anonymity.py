"""Record-level extracts as rules: generalise every record alike until nobody stands in a group of fewer than eleven, and no group tells its secret.

k-anonymity by full-domain generalisation (Samarati 2001), l-diversity on what an attacker would want to learn (Machanavajjhala et al. 2007).
What comes out is de-identified, not anonymous: see docs/privacy.md.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from app.domain.errors import Conflict
from app.domain.quarters import quarter_from

SMALLEST_CLASS = 11  # Source: EMA policy 0070 and Health Canada: at most 9 % (1 in 11) risk of re-identification
MOST_SUPPRESSED = 0.10  # own design
MOST_OF_ONE = 0.80  # own design: no group in which more than four of five share a secret
FEWEST_VALUES = 2
ANY = "*"

Level = Callable[[str], str]


class KUnreachable(Conflict):
    """No generalisation of these records keeps everybody in a group of eleven with no more than a tenth left out: choose a longer period."""


def _same(value: str) -> str:
    return value


def _any(_: str) -> str:
    return ANY


def _age_by_twenty(decade: str) -> str:
    groups = {"18_to_29": "18_to_39", "30_to_39": "18_to_39", "40_to_49": "40_to_59", "50_to_59": "40_to_59"}
    return decade if decade in {"under_18", "not_recorded"} else groups.get(decade, "60_and_over")


def _age_by_majority(decade: str) -> str:
    return decade if decade in {"under_18", "not_recorded"} else "18_and_over"


def _half_year(quarter: str) -> str:
    found = quarter_from(quarter)
    return f"{found.year}H{(found.number + 1) // 2}"


def _year(quarter: str) -> str:
    return str(quarter_from(quarter).year)


def _sessions_in_two(band: str) -> str:
    return "1_to_7" if band in {"1_to_3", "4_to_7"} else "8_and_more"


def _adult_or_teen(protocol: str) -> str:
    return "adolescent" if protocol in {"IPT-A", "IPT-A-UK", "FB-IPT", "IPT-AST"} else "adult"


def _caseness(band: str) -> str:
    return band if band == "not_recorded" else "no_case" if band in {"minimal", "mild"} else "case"


LADDERS: Mapping[str, tuple[Level, ...]] = {
    "age": (_same, _age_by_twenty, _age_by_majority, _any),
    "sex": (_same, _any),
    "period": (_same, _half_year, _year, _any),
    "protocol": (_same, _adult_or_teen, _any),
    "modality": (_same, _any),
    "sessions_band": (_same, _sessions_in_two, _any),
    "area": (_same, _any),
    "outcome_band": (_same, _any),
    "severity_at_start": (_same, _caseness, _any),
}
"""How each column is made coarser, step by step."""

LEVELS: Mapping[str, tuple[str, ...]] = {
    "age": ("decade", "twenty_years", "majority", "any"),
    "sex": ("as_registered", "any"),
    "period": ("quarter", "half_year", "year", "any"),
    "protocol": ("as_in_the_catalogue", "adult_or_adolescent", "any"),
    "modality": ("in_person_remote_mixed", "any"),
    "sessions_band": ("four_bands", "two_bands", "any"),
    "area": ("as_decided", "any"),
    "outcome_band": ("four_bands", "any"),
    "severity_at_start": ("band_of_the_phq9", "case_or_not", "any"),
}
"""The name of each step, as a manifest shows it. `any`: every record has *."""

COLUMNS: Mapping[str, str] = {
    "extract_pid": "A pseudonym made for this extract alone; made-up records have one, too",
    "period": "When the course ended",
    "age": "Age at referral, in years",
    "sex": "As the partner registered it",
    "protocol": "The protocol of the course; own_protocol: one that the partner has registered itself",
    "modality": "How sessions were held, as in the codebook of tables",
    "sessions_band": "Numbered sessions that were held",
    "area": "The primary focus that the clinician decided",
    "severity_at_start": "Band of the first PHQ-9 of the treatment; not_recorded without a first and a last one",
    "outcome_band": "By the PHQ-9 alone, 6 points or more: reliable_improvement, reliable_deterioration, no_reliable_change; not_assessable without two scores, with one contact, or under 18",
    "remission": "PHQ-9 below 5 at the last score; nothing when not assessable",
}
"""The columns of an extract, in their order, with what each means."""

PAYLOAD = 3  # own design: what a study is about is made coarser last
WEIGHTS: Mapping[str, int] = {"area": PAYLOAD, "outcome_band": PAYLOAD, "severity_at_start": PAYLOAD}


@dataclass(frozen=True, slots=True)
class Profile:
    """What an extract promises: the columns by which somebody could be known, the finest level of the period, and what must stay secret."""

    code: str
    known: tuple[str, ...]
    finest: Mapping[str, int]
    secret: tuple[str, ...]


PROFILES = {
    # HIPAA Safe Harbor, 45 CFR 164.514(b)(2): no date finer than the year; 90 and over in one category
    "safe_harbor": Profile(
        "safe_harbor",
        ("age", "sex", "period", "protocol", "modality", "sessions_band"),
        {"period": 2},
        ("area", "severity_at_start", "outcome_band", "remission"),
    ),
    # HIPAA Expert Determination, 164.514(b)(1): an expert signs that the risk is very small; an attacker who knows the course, too, is provided for
    "expert": Profile(
        "expert", ("age", "sex", "period", "protocol", "modality", "sessions_band", "area", "severity_at_start", "outcome_band"), {}, ("remission",)
    ),
}


@dataclass(frozen=True, slots=True)
class Generalised:
    """What a generalisation came to: the records that stay, in their order, and what can be said of them."""

    records: Sequence[Mapping[str, Any]]
    levels: Mapping[str, int]
    k: int
    l: int  # noqa: E741 - the name of the measure
    suppressed: int
    of: int


def generalise(records: Sequence[Mapping[str, Any]], profile: Profile) -> Generalised:
    """Make records coarser, all alike, as little as reaches k >= 11 and l >= 2 with at most a tenth left out. Raises KUnreachable.

    Every record carries the columns of `profile.known` and `profile.secret` as text.
    """
    values = {name: sorted({str(r[name]) for r in records}) for name in profile.known}
    base = Counter(tuple(str(r[name]) for name in profile.known) for r in records)
    secrets: dict[tuple[str, ...], list[Counter[str]]] = defaultdict(lambda: [Counter() for _ in profile.secret])
    for record in records:
        for counter, name in zip(secrets[tuple(str(record[n]) for n in profile.known)], profile.secret, strict=True):
            counter[str(record[name])] += 1
    for levels in _by_loss(profile, values):
        maps = [{v: LADDERS[name][level](v) for v in values[name]} for name, level in zip(profile.known, levels, strict=True)]
        large = _large_classes(base, maps)
        if _leaves_out_too_many(sum(large.values()), len(records)):
            continue
        kept = _diverse(large, secrets, maps)
        if not _leaves_out_too_many(sum(size for size, _ in kept.values()), len(records)):
            return _applied(records, profile, levels, maps, kept)
    raise KUnreachable


def _leaves_out_too_many(staying: int, of: int) -> bool:
    return staying == 0 or of - staying > MOST_SUPPRESSED * of


def _by_loss(profile: Profile, values: Mapping[str, Sequence[str]]) -> Iterator[tuple[int, ...]]:
    """Yield the levels to try, the ones that lose least first: each step up counts by its share of the column's ladder, and by its weight."""
    tops = [len(LADDERS[name]) - 1 for name in profile.known]
    lowest = [profile.finest.get(name, 0) for name in profile.known]
    nodes = product(
        *(range(low, max(low, top if len(values[name]) > 1 else 0) + 1) for name, low, top in zip(profile.known, lowest, tops, strict=True))
    )
    weights = [WEIGHTS.get(name, 1) for name in profile.known]
    yield from sorted(nodes, key=lambda node: (sum(w * level / top for w, level, top in zip(weights, node, tops, strict=True)), node))


def _large_classes(base: Mapping[tuple[str, ...], int], maps: Sequence[Mapping[str, str]]) -> dict[tuple[str, ...], int]:
    """Return the classes with eleven records or more, each with its size."""
    sizes: Counter[tuple[str, ...]] = Counter()
    for known, number in base.items():
        sizes[_coarser(known, maps)] += number
    return {found: size for found, size in sizes.items() if size >= SMALLEST_CLASS}


def _diverse(
    large: Mapping[tuple[str, ...], int], secrets: Mapping[tuple[str, ...], Sequence[Counter[str]]], maps: Sequence[Mapping[str, str]]
) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return the classes that do not tell their secrets, each with its size and the fewest values of a secret in it."""
    merged: dict[tuple[str, ...], list[Counter[str]]] = {}
    for known, counters in secrets.items():
        found = _coarser(known, maps)
        if found in large:
            for into, counter in zip(merged.setdefault(found, [Counter() for _ in counters]), counters, strict=True):
                into.update(counter)
    kept = {}
    for found, counters in merged.items():
        fewest = min(len(c) for c in counters)
        if fewest >= FEWEST_VALUES and max(max(c.values()) for c in counters) <= MOST_OF_ONE * large[found]:
            kept[found] = (large[found], fewest)
    return kept


def _coarser(known: Sequence[str], maps: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    return tuple(m[v] for m, v in zip(maps, known, strict=True))


def _applied(
    records: Sequence[Mapping[str, Any]],
    profile: Profile,
    levels: Sequence[int],
    maps: Sequence[Mapping[str, str]],
    kept: Mapping[tuple[str, ...], tuple[int, int]],
) -> Generalised:
    staying = []
    for record in records:
        known = _coarser([str(record[name]) for name in profile.known], maps)
        if known in kept:
            staying.append({**record, **dict(zip(profile.known, known, strict=True))})
    return Generalised(
        records=staying,
        levels=dict(zip(profile.known, levels, strict=True)),
        k=min(size for size, _ in kept.values()),
        l=min(fewest for _, fewest in kept.values()),
        suppressed=len(records) - len(staying),
        of=len(records),
    )
