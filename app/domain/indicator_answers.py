"""Answers to the indicators, held against each other and against the life events that they cite."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.domain.errors import Fault, Invalid, escaped
from app.domain.problem_area import ANSWERS, DEFICITS_GATE, OPEN, TRANSITION, Answer, event_of, ruleset, value_of

CONTRADICTIONS = (
    ("onset_linked_to_death", "death_mourned_and_remote"),
    ("onset_linked_to_conflict", "conflict_began_after_onset"),
    ("onset_linked_to_change", "change_adapted_to"),
    ("few_close_ties_before_onset", "isolation_began_with_illness"),
    ("continuing_relation_with_other", "relation_ended"),
)
DEATHS = {"death", "anniversary"}  # what a death or its anniversary carries is grief
MAY_NOT_APPLY = {"persistent_yearning"}  # before six months; nothing else can be left out of the maximum
LINKS = ("onset_linked_to_death", "onset_linked_to_conflict", "onset_linked_to_change")


class IndicatorsInvalid(Invalid):
    """The indicator answers break a rule of the ruleset."""


@dataclass(frozen=True, slots=True)
class Event:
    """What the ruleset needs to know of a life event: its type and its link to the onset (none, possible, clear)."""

    type: str
    linked_to_onset: str


def check_answers(answers: Mapping[str, Answer], events: Mapping[str, Event]) -> None:
    """Refuse answers that contradict each other, by name.

    Raises IndicatorsInvalid for an unknown indicator or answer, the deficits gate (it is computed), contradicting
    pairs, two patient's choices, a death carrying the transition, one event carrying two areas, and "no life event
    near onset" beside an event that is clearly linked.
    """
    known = {i.code: i for a in ruleset().areas for i in (a.gate, *a.indicators)}
    faults = [Fault(f"/answers/{escaped(code)}", "is not an indicator of ruleset 1.0") for code in answers if code not in known]
    faults += [Fault(f"/answers/{c}/value", f"must be one of {', '.join(ANSWERS)}") for c, a in answers.items() if a.value not in ANSWERS]
    faults += [
        Fault(f"/answers/{c}/value", "cannot be not_applicable; only persistent_yearning can, before six months")
        for c, a in answers.items()
        if c in known and a.value == "not_applicable" and c not in MAY_NOT_APPLY
    ]
    if DEFICITS_GATE in answers:
        faults.append(Fault(f"/answers/{DEFICITS_GATE}", "is computed from the other areas and cannot be answered"))
    faults += [*_contradictions(answers), *_misplaced_events(answers, events)]
    if faults:
        raise IndicatorsInvalid(faults=faults)


def _contradictions(answers: Mapping[str, Answer]) -> Iterable[Fault]:
    present = {code for code, answer in answers.items() if answer.value == "present"}
    for one, other in CONTRADICTIONS:
        if one in present and other in present:
            yield Fault(f"/answers/{other}", f"contradicts {one}: both cannot be present")
    choices = [i.code for a in ruleset().areas for i in a.indicators if i.role == "patient_choice" and i.code in present]
    if len(choices) > 1:
        yield Fault(f"/answers/{choices[1]}", f"the patient names one main trouble, and {choices[0]} is present already")


def _misplaced_events(answers: Mapping[str, Answer], events: Mapping[str, Event]) -> Iterable[Fault]:
    carried: dict[str, str] = {}
    for area in ruleset().areas:
        for indicator in (area.gate, *area.indicators):
            event_id = event_of(answers, indicator.code)
            pointer = f"/answers/{indicator.code}/life_event_id"
            if event_id is None or indicator.kind == "against":
                continue
            if event_id not in events:
                yield Fault(pointer, "is no life event of this episode")
            elif area.code == TRANSITION and events[event_id].type in DEATHS:
                yield Fault(pointer, "a death carries grief; what followed from it needs an event of its own")
            elif carried.setdefault(event_id, area.code) != area.code:
                yield Fault(pointer, f"one life event may carry one area only, and this one carries {carried[event_id]}")
    yield from _events_near_onset(answers, events)


def _events_near_onset(answers: Mapping[str, Answer], events: Mapping[str, Event]) -> Iterable[Fault]:
    """Hold "no life event near onset" against events that are linked: marked so, or cited by a temporal link."""
    claim = value_of(answers, "no_life_event_near_onset")
    marked = {e.linked_to_onset for e in events.values()}
    cited = any(value_of(answers, c) in OPEN and event_of(answers, c) for c in LINKS)
    if (claim in OPEN and ("clear" in marked or cited)) or (claim == "present" and "possible" in marked):
        yield Fault("/answers/no_life_event_near_onset", "contradicts a life event that is linked to the onset")
