"""Noise for anonymised tables: OpenDP behind one module, as exact whole numbers from end to end.

Discrete Laplace noise on integer vectors. Known edges of the library that are closed here: a scale of zero is accepted there and means no
noise; 32-bit integers are its default and saturate; its mechanisms are opt-in ("contrib"), so the privacy map is checked once more.
The library takes half a second to load: only the worker imports this module, when it makes its first table.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import opendp.prelude as dp

from app.domain.outcome_tables import MICRO, Family

dp.enable_features("contrib")
SLACK = 1e-9  # the privacy map rounds outwards in floating point
LARGEST = 2**53


class NoiseRefused(Exception):
    """The mechanism does not give the privacy that was asked for: nothing is released."""


@cache
def mechanism(sensitivity: int, micro_epsilon: int) -> Any:
    """Return the mechanism for vectors that one person changes by `sensitivity` in all. Raises NoiseRefused."""
    if sensitivity < 1 or micro_epsilon < 1:
        raise NoiseRefused
    epsilon = micro_epsilon / MICRO
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64")
    made = space >> dp.m.then_laplace(scale=sensitivity / epsilon)
    spent = made.map(sensitivity)
    if not (math.isfinite(spent) and 0 < spent <= epsilon * (1 + SLACK)):
        raise NoiseRefused
    return made


def add_noise(family: Family, micro_epsilon: int, cells: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
    """Return the cells with noise on every component. `cells`: exact whole numbers by component. Raises NoiseRefused."""
    noisy: list[dict[str, int]] = [{} for _ in cells]
    for group in family.groups(micro_epsilon):
        vector = [cell[name] for cell in cells for name in group.components]
        if any(type(v) is not int or abs(v) > LARGEST for v in vector):
            raise NoiseRefused
        drawn = iter(mechanism(group.sensitivity, group.epsilon)(vector))
        for cell in noisy:
            cell.update({name: int(next(drawn)) for name in group.components})
    return noisy


def accuracy_of(family: Family, micro_epsilon: int) -> dict[str, dict[str, int]]:
    """Return how far the noise on each component reaches: in 95 % of all draws (`one`), in 97.5 % (`each_of_two`, for figures made of two)."""
    found = {}
    for group in family.groups(micro_epsilon):
        scale = group.sensitivity / (group.epsilon / MICRO)
        reach = {
            name: math.ceil(dp.discrete_laplacian_scale_to_accuracy(scale=scale, alpha=a)) for name, a in (("one", 0.05), ("each_of_two", 0.025))
        }
        found.update(dict.fromkeys(group.components, reach))
    return found


def mechanism_of(family: Family, micro_epsilon: int) -> dict[str, Any]:
    """Return what is published about the noise: distribution, scales, the library."""
    groups = [
        {"components": list(g.components), "sensitivity": g.sensitivity, "micro_epsilon": g.epsilon, "scale": g.sensitivity * MICRO / g.epsilon}
        for g in family.groups(micro_epsilon)
    ]
    return {"distribution": "discrete_laplace", "groups": groups, "library": f"opendp {version('opendp')}"}
