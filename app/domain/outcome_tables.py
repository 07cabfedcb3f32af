"""Anonymised tables as rules: what can be asked, what it costs, how noisy whole numbers are shown.

A closed grammar: one quarter, one family of figures, at most two dimensions out of public enumerations, one of three epsilons. Every cell of a
table gets noise, the empty ones too, so that what is there never depends on who was treated. Everything after the noise works on noisy numbers.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any
from uuid import UUID

from app.domain.errors import Conflict, Fault, Invalid
from app.domain.quarters import Quarter
from app.domain.reading import read_catalogue, round_half_up

MICRO = 1_000_000
EPSILONS = {0.25: 250_000, 0.5: 500_000, 1.0: 1_000_000}  # in micro-epsilon; own design, within the range that public releases use
MOST_DIMENSIONS = 2
SHOWN_FROM = 11  # Source: CMS cell size rule: values from 1 to 10 are never shown
ROUNDED_TO = 5  # Source: disclosure control of NHS statistics
DATASETS = ("partner", "network")
POPULATION, FOLLOW_UP = "population", "follow_up"
CAPS = {("partner", POPULATION): 2_000_000, ("partner", FOLLOW_UP): 1_000_000, ("network", POPULATION): 1_000_000, ("network", FOLLOW_UP): 500_000}
CONSUMER_CAP = 1_000_000
HIGHEST_CAP = 4_000_000
EPISODES_IN_A_LIFE = 3  # facts of one kind of one person, over all quarters
NETWORKS = {"live": UUID("00000000-0000-7000-8000-00000000a11e"), "sandbox": UUID("00000000-0000-7000-8000-00000000a11f")}
"""The populations of all partners that have joined, live ones and sandboxes apart. They are no partners: nobody can act for them."""
FEWEST_MEMBERS = 3
LARGEST_SHARE = 0.5
STANDARD_PACK = (("counts", ("area",), 0.25), ("change_phq9", ("area",), 0.5), ("recovery", ("area",), 0.25))
"""Released once for each population and quarter, for every consumer. Costs 1.0 in all."""


class QuestionUnknown(Invalid):
    """There is no such table: families, dimensions and epsilons are those of GET /v1/outcomes/tables."""


class PeriodOpen(Conflict):
    """The quarter is not frozen: it has not ended, its 14 days of grace have not passed, or it is older than what is kept."""


class PrivacyBudgetSpent(Conflict):
    """The privacy budget of this quarter does not cover this question any more. What was released stays open."""


class NetworkTooSmall(Conflict):
    """There is no network for this quarter: it needs three partners, none with more than half of the declared patients."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension: a public enumeration of categories."""

    code: str
    title: str
    definition: str
    source: str
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Component:
    """A whole number counted over facts. `of`: all rows; rows with a flag; rows where a column is known, or is `name`; or the sum of a number, cut to `bound`."""

    name: str
    of: str
    column: str | None = None
    bound: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Components that get their noise together. `sensitivity`: the most that one person changes them by, summed; `epsilon` in micro-epsilon."""

    components: tuple[str, ...]
    sensitivity: int
    epsilon: int


@dataclass(frozen=True, slots=True)
class Family:
    """A family of figures: what it counts over one row for each person and quarter, and how it is shown (count, rate, mean or distribution)."""

    code: str
    title: str
    definition: str
    denominator: str
    source: str
    fact: str
    shows: str
    components: tuple[Component, ...]
    shares: tuple[tuple[tuple[str, ...], int, int], ...]

    @property
    def scope(self) -> str:
        """Return which budget of the population it is charged to."""
        return POPULATION if self.fact == "end" else FOLLOW_UP

    def groups(self, epsilon: int) -> list[Group]:
        """Return the groups with their part of an epsilon (micro-epsilon); the parts sum to no more than the whole."""
        whole = sum(share for _, _, share in self.shares)
        return [Group(names, sensitivity, epsilon * share // whole) for names, sensitivity, share in self.shares]


@dataclass(frozen=True, slots=True)
class Question:
    """One table that can be asked for."""

    dataset: str
    period: Quarter
    family: Family
    dimensions: tuple[Dimension, ...]
    epsilon: int

    @property
    def canonical(self) -> dict[str, Any]:
        """Return the one spelling of the question."""
        return {
            "schema_version": schema_version(),
            "dataset": self.dataset,
            "period": str(self.period),
            "family": self.family.code,
            "dimensions": [d.code for d in self.dimensions],
            "micro_epsilon": self.epsilon,
        }

    def key(self, population: UUID) -> bytes:
        """Return the key of the release: two spellings of one question have the same."""
        plain = json.dumps(self.canonical | {"population": str(population)}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(plain.encode()).digest()


@cache
def _codebook() -> dict[str, Any]:
    return read_catalogue("outcomes.toml")


def schema_version() -> int:
    """Return the version of dimensions, families and facts."""
    return int(_codebook()["schema"][-1]["version"])


def schema_versions() -> list[dict[str, Any]]:
    """Return every version there has been, with what changed."""
    return list(_codebook()["schema"])


@cache
def dimensions() -> Mapping[str, Dimension]:
    """Return the dimensions by code."""
    return {d["code"]: Dimension(**{**d, "categories": tuple(d["categories"])}) for d in _codebook()["dimension"]}


@cache
def families() -> Mapping[str, Family]:
    """Return the families by code."""
    found = {}
    for plain in _codebook()["family"]:
        own = {k: v for k, v in plain.items() if k not in {"components", "groups"}}
        components = tuple(Component(**c) for c in plain["components"])
        shares = tuple((tuple(g["components"]), g["sensitivity"], g["share"]) for g in plain["groups"])
        found[plain["code"]] = Family(**own, components=components, shares=shares)
    return found


def question_from(dataset: str, period: Quarter, family: str, dims: Sequence[str], epsilon: float) -> Question:
    """Return the question in its one form: dimensions sorted. Raises QuestionUnknown."""
    faults = []
    if family not in families():
        faults.append(Fault("/family", "is none of the families"))
    if len(dims) > MOST_DIMENSIONS:
        faults.append(Fault("/dimensions", f"has at most {MOST_DIMENSIONS} members"))
    if len(set(dims)) != len(dims):
        faults.append(Fault("/dimensions", "names a dimension twice"))
    faults += [Fault(f"/dimensions/{n}", "is none of the dimensions") for n, d in enumerate(dims) if d not in dimensions()]
    if epsilon not in EPSILONS:
        faults.append(Fault("/epsilon", f"is one of {', '.join(map(str, EPSILONS))}"))
    if faults:
        raise QuestionUnknown(faults=faults)
    return Question(dataset, period, families()[family], tuple(dimensions()[d] for d in sorted(dims)), EPSILONS[epsilon])


def standard_pack(dataset: str, period: Quarter) -> list[Question]:
    """Return the questions of the standard quarterly pack."""
    return [question_from(dataset, period, family, dims, epsilon) for family, dims, epsilon in STANDARD_PACK]


def cells_of(dims: Sequence[Dimension]) -> list[tuple[str, ...]]:
    """Return every cell, by the categories of its dimensions, in the codebook's order: one, when there is no dimension."""
    return list(product(*(d.categories for d in dims)))


def consumer_scope(client_name: str) -> str:
    """Return the scope of one client's own budget."""
    return f"consumer|{client_name}"


def network_is_open(declared: Mapping[UUID, int]) -> bool:
    """Tell whether a network may be asked about: by what partners have declared, never by what was counted."""
    whole = sum(declared.values())
    return len(declared) >= FEWEST_MEMBERS and all(size <= LARGEST_SHARE * whole for size in declared.values())


def advantage(epsilon: float) -> float:
    """Return the most by which anybody can do better than guessing whether one person is in a data set released with `epsilon`: 0 to 1.

    True positives less false positives of the best test are at most (e^eps - 1) / (e^eps + 1) (Kairouz, Oh, Viswanath 2015).
    """
    return math.tanh(epsilon / 2)


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure as it is shown. `accuracy_95`: with at least 95 % the noise and the rounding moved the true figure by no more."""

    name: str
    unit: str
    value: float | None
    suppressed: bool
    accuracy_95: float | None


def shown(family: Family, noisy: Mapping[str, int], accuracy: Mapping[str, Mapping[str, int]]) -> list[Measure]:
    """Return the figures of one cell from its noisy numbers.

    `accuracy`: for each component, how far the noise reaches in 95 % (`one`) and in 97.5 % of all draws (`each_of_two`).
    """
    names = [c.name for c in family.components]
    if family.shows in {"count", "distribution"}:
        return [_count(name, noisy[name], accuracy[name]) for name in names]
    whole, *parts = names
    counted = _count(whole, noisy[whole], accuracy[whole])
    if family.shows == "mean":
        return [counted, _mean(family.components[1], noisy, accuracy, whole)]
    return [counted, *(_rate(part, noisy, accuracy, whole) for part in parts)]


def _rounded(noisy: int) -> int:
    return ROUNDED_TO * round_half_up(noisy / ROUNDED_TO)


def _is_few(noisy: int) -> bool:
    """Tell whether a number is not shown: it, or what it is rounded to, lies below 11."""
    return min(noisy, _rounded(noisy)) < SHOWN_FROM


def _count(name: str, noisy: int, accuracy: Mapping[str, int]) -> Measure:
    if _is_few(noisy):
        return Measure(name, "persons", None, suppressed=True, accuracy_95=None)
    return Measure(name, "persons", _rounded(noisy), suppressed=False, accuracy_95=accuracy["one"] + ROUNDED_TO // 2)


def _rate(part: str, noisy: Mapping[str, int], accuracy: Mapping[str, Mapping[str, int]], whole: str) -> Measure:
    x, n = noisy[part], noisy[whole]
    if _is_few(min(x, n)):
        return Measure(part, "share", None, suppressed=True, accuracy_95=None)
    value = round_half_up(100 * min(1.0, x / n)) / 100
    away_x, away_n = accuracy[part]["each_of_two"], accuracy[whole]["each_of_two"]
    low = max(0.0, (x - away_x) / (n + away_n))
    high = min(1.0, (x + away_x) / max(1, n - away_n))
    return Measure(part, "share", value, suppressed=False, accuracy_95=_outwards(max(value - low, high - value), 2))


def _mean(component: Component, noisy: Mapping[str, int], accuracy: Mapping[str, Mapping[str, int]], whole: str) -> Measure:
    bound, n, total = float(component.bound or 0), noisy[whole], noisy[component.name]
    if _is_few(n):
        return Measure(f"mean_{component.name}", "points", None, suppressed=True, accuracy_95=None)
    value = _cut(total / n, bound)
    away_sum, away_n = accuracy[component.name]["each_of_two"], accuracy[whole]["each_of_two"]
    ends = [_cut((total + s) / max(1, n + d), bound) for s in (-away_sum, away_sum) for d in (-away_n, away_n)]
    rounded = round_half_up(10 * value) / 10
    return Measure(f"mean_{component.name}", "points", rounded, suppressed=False, accuracy_95=_outwards(max(abs(e - rounded) for e in ends), 1))


def _cut(value: float, bound: float) -> float:
    return max(-bound, min(bound, value))


def _outwards(value: float, decimals: int) -> float:
    """Round up, so that what is stated is never too little."""
    steps = 10.0**decimals
    return math.ceil(round(value * steps, 6)) / steps
