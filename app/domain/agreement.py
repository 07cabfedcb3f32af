"""How far the classifier and the clinicians agree: kappa per area, and how often a suggestion was overridden.

Human raters reach kappa 0.82 (Markowitz et al. 2000) and 0.64 (Braz J Psychiatry 2008) on the primary focus; anything
above 0.82 on self-written cases is suspect, not success. It judges the ruleset, never a therapist or a patient.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.domain.problem_area import AREAS
from app.domain.reading import round_half_up

FEWEST_PAIRS = 10  # own design: below this no figure is shown
HUMAN_KAPPA = {"primary_2000": 0.82, "primary_2008": 0.64}  # Source: Markowitz et al. 2000; Braz J Psychiatry 2008
STATEMENT = "Analytics are grouped and rounded; they can't be used to judge an individual patient or therapist."


@dataclass(frozen=True, slots=True)
class Decision:
    """One clinician's decision beside what was suggested: both as (primary, secondary), and the month of the decision."""

    suggested: tuple[str | None, str | None]
    chosen: tuple[str, str | None]
    month: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement on one question: pairs, the share that agrees (0 to 1), Cohen's kappa (-1 to 1). None: too few pairs."""

    pairs: int
    observed: float | None
    kappa: float | None


def agreement_on(pairs: Sequence[tuple[str, str]]) -> Agreement:
    """Return Cohen's kappa of (suggested, chosen) pairs. Where chance alone agrees always, kappa is not defined: None."""
    if len(pairs) < FEWEST_PAIRS:
        return Agreement(len(pairs), None, None)
    count = len(pairs)
    observed = sum(one == other for one, other in pairs) / count
    labels = {label for pair in pairs for label in pair}
    chance = sum(_share(label, (p[0] for p in pairs), count) * _share(label, (p[1] for p in pairs), count) for label in labels)
    kappa = None if chance == 1 else _rounded((observed - chance) / (1 - chance))
    return Agreement(count, _rounded(observed), kappa)


def statistics(decisions: Sequence[Decision]) -> dict[str, object]:
    """Return agreement per area and on the primary focus, override rates overall, by area suggested and by month."""
    with_suggestion = [d for d in decisions if d.suggested[0] is not None]
    per_area = {area: agreement_on([(_in(area, d.suggested), _in(area, d.chosen)) for d in with_suggestion]) for area in AREAS}
    primary = agreement_on([(str(d.suggested[0]), d.chosen[0]) for d in with_suggestion])
    return {
        "decisions": len(decisions),
        "with_suggestion": len(with_suggestion),
        "primary": primary,
        "areas": per_area,
        "override_rate": _override(with_suggestion),
        "override_rate_by_area": {area: _override([d for d in with_suggestion if d.suggested[0] == area]) for area in AREAS},
        "by_month": _by_month(with_suggestion),
    }


def _by_month(decisions: Iterable[Decision]) -> Mapping[str, dict[str, object]]:
    months: dict[str, list[Decision]] = {}
    for decision in decisions:
        months.setdefault(decision.month, []).append(decision)
    return {month: {"decisions": len(of), "override_rate": _override(of)} for month, of in sorted(months.items())}


def _override(decisions: Sequence[Decision]) -> float | None:
    if len(decisions) < FEWEST_PAIRS:
        return None
    return _rounded(sum(d.suggested[0] != d.chosen[0] for d in decisions) / len(decisions))


def _in(area: str, areas: tuple[str | None, str | None]) -> str:
    return "in" if area in areas else "out"


def _share(label: str, labels: Iterable[str], count: int) -> float:
    return sum(label == other for other in labels) / count


def _rounded(value: float) -> float:
    return round_half_up(value * 100) / 100
