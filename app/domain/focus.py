"""The clinician's decision on the focus: one primary area, at most one secondary, agreed with the patient."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.domain.errors import Conflict, Fault, Invalid
from app.domain.problem_area import AREAS, DEFICITS, ruleset


class FocusInvalid(Invalid):
    """The focus breaks a rule."""


class ProtocolWithoutAreas(Conflict):
    """This protocol does not work with the four problem areas."""


@dataclass(frozen=True, slots=True)
class FocusChoice:
    """What the clinician chose. `reason` may be empty only where no rule asks for one."""

    primary: str
    secondary: str | None
    reason: str
    patient_agreed: bool


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What the latest classification said: its suggested primary area and each area's score (None: not eligible)."""

    primary: str | None
    scores: Mapping[str, int | None]


def decide_focus(choice: FocusChoice, suggestion: Suggestion | None, *, changes_focus: bool) -> bool | None:
    """Return whether the choice agrees with the suggestion (None when there is none).

    Raises FocusInvalid when the two areas are the same, or when no reason is given for: deficits beside an area that
    scores 35 or more, deficits in either place beside another area, a departure from the suggestion, or a change of
    focus. Source: own design; one or two areas: the founding description.
    """
    faults = [Fault(f"/{name}", f"must be one of {', '.join(AREAS)}") for name, area in _named(choice) if area not in AREAS]
    if choice.primary == choice.secondary:
        faults.append(Fault("/secondary", "must differ from the primary area"))
    wants_reason = list(_reasons_due(choice, suggestion, changes_focus=changes_focus))
    if wants_reason and not choice.reason.strip():
        faults.append(Fault("/reason", f"is needed: {'; '.join(wants_reason)}"))
    if faults:
        raise FocusInvalid(faults=faults)
    return None if suggestion is None or suggestion.primary is None else suggestion.primary == choice.primary


def _named(choice: FocusChoice) -> list[tuple[str, str]]:
    return [("primary", choice.primary), *([("secondary", choice.secondary)] if choice.secondary else [])]


def _reasons_due(choice: FocusChoice, suggestion: Suggestion | None, *, changes_focus: bool) -> list[str]:
    due = []
    if changes_focus:
        due.append("the focus changes")
    if DEFICITS in {choice.primary, choice.secondary} and choice.secondary is not None:
        due.append("interpersonal deficits are not suggested beside another area")
    if suggestion is None:
        return due
    for place, area in _named(choice):
        if area != DEFICITS and (suggestion.scores.get(area) or 0) < ruleset().possible_from and suggestion.primary != area:
            due.append(f"the {place} area scores under {ruleset().possible_from} or is not eligible")
    standing = [a for a, score in suggestion.scores.items() if a != DEFICITS and (score or 0) >= ruleset().possible_from]
    if choice.primary == DEFICITS and standing:
        due.append(f"interpersonal deficits are the area of last resort, and {standing[0]} stands")
    if suggestion.primary is not None and suggestion.primary != choice.primary:
        due.append(f"the suggestion was {suggestion.primary}")
    return due


def is_late_change(sessions_held: int, contracted: int | None) -> bool:
    """Tell whether a change of focus comes after half of the contract: it is flagged, never refused."""
    return contracted is not None and sessions_held > contracted / 2
