"""Indicators proposed from what is recorded already: with their evidence, for a clinician to confirm or refuse.

Facts of the inventory may propose any value; a text may only propose `possible`, never a gate, and comes with its
quoted span. Every rule here is own design; nothing is answered by itself.
"""

import calendar
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from app.domain.errors import Conflict, Fault, Invalid
from app.domain.inventory import CONFIDANT_FROM, CONFLICT_FROM, INNER_RINGS
from app.domain.phase import RELATIONSHIPS_IN_A_TAKEN_INVENTORY
from app.domain.problem_area import ruleset

WINDOW_MONTHS = 12  # own design: an event within a year before the onset may be linked
YEARNING_MONTHS = 6  # Source: ICD-11 6B42, persistent beyond six months
PATTERN_IN = 3  # own design: the same pattern with three people is a repeating one, with two a possible one
AVOIDED = {
    "missed_funeral",
    "never_cried",
    "avoids_reminders",
    "no_grave_visit",
    "belongings_kept",
    "not_discussed",
    "loss_not_recognised",
    "prevented",
}
DISTORTED = {"numb", "kept_busy", "symptoms_like_deceased"}
YEARNING = {"yearning", "preoccupation"}
MIXED = {"guilt", "anger"}
DEATHS = {"death", "pregnancy_loss"}
MONTHS_IN_A_YEAR = 12
VALUE_OF_LINK = {"clear": "present", "possible": "possible"}


class GateNotFromText(Invalid):
    """A text can propose an indicator, never a gate: whether an area is open at all is asked, not read."""


class ProposalDecided(Conflict):
    """This proposal was confirmed or refused already."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An indicator that recorded facts speak for: the value proposed, why, and the evidence (ids)."""

    indicator: str
    value: str
    because: str
    relationship_id: str | None = None
    life_event_id: str | None = None

    @property
    def key(self) -> str:
        """Name the proposal: the same facts make the same one, so a refusal stands until they change."""
        return "|".join([self.indicator, self.value, self.because, self.relationship_id or "", self.life_event_id or ""])


def propose(people: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], onset: date | None, today: date) -> list[Proposal]:
    """Return every proposal that the inventory supports, in the order of the ruleset; one for an indicator and its evidence."""
    order = {i.code: n for n, i in enumerate(i for a in ruleset().areas for i in (a.gate, *a.indicators))}
    found = {p.key: p for p in _all(people, events, onset, today)}
    return sorted(found.values(), key=lambda p: (order[p.indicator], p.key))


def check_span(indicator: str, text: str, start: int, end: int) -> str:
    """Return the quoted span of a text. Raises GateNotFromText, and Invalid for an unknown indicator or an empty span."""
    known = {i.code: i for a in ruleset().areas for i in (a.gate, *a.indicators)}
    if indicator not in known:
        raise Invalid(faults=[Fault("/indicator", "is not an indicator of ruleset 1.0")])
    if known[indicator].kind == "gate":
        raise GateNotFromText(faults=[Fault("/indicator", "is a gate")])
    if not 0 <= start < end <= len(text) or not text[start:end].strip():
        raise Invalid(faults=[Fault("/end", "must name a span of the text that is not empty")])
    return text[start:end]


def _all(people: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], onset: date | None, today: date) -> Iterator[Proposal]:
    for person in people:
        yield from _of_the_dead(person, onset, today) if person["status"] == "deceased" else _of_the_living(person)
    for event in events:
        yield from _of_a_death(event, onset) if event["type"] in {*DEATHS, "anniversary"} else _of_a_change(event, onset)
    yield from _of_the_whole(people, events, onset)


def _of_the_dead(person: Mapping[str, Any], onset: date | None, today: date) -> Iterator[Proposal]:
    who = str(person["id"])
    signs = set(person.get("mourning_signs") or ())
    yield Proposal("significant_person_died", "present", "a person of the inventory has died", who)
    avoided = signs & AVOIDED
    if avoided:
        value = "present" if len(avoided) > 1 and "not_customary" not in signs else "possible"
        yield Proposal("mourning_avoided_or_delayed", value, f"mourning signs: {_listed(avoided)}", who)
    died = person.get("death_date")
    known = isinstance(died, date) and person.get("death_date_precision") != "year"
    if signs & YEARNING and known and isinstance(died, date):
        beyond = _months_after(died, YEARNING_MONTHS) < today
        yield Proposal("persistent_yearning", "present" if beyond else "not_applicable", "yearning or preoccupation, by the date of the death", who)
    for code, of in (("distorted_expression", DISTORTED), ("unresolved_guilt_or_anger", MIXED)):
        if signs & of:
            yield Proposal(code, "present", f"mourning signs: {_listed(signs & of)}", who)
    if person.get("linked_to_onset") in VALUE_OF_LINK:
        yield Proposal("onset_linked_to_death", VALUE_OF_LINK[person["linked_to_onset"]], "the person is marked as linked to the onset", who)
    elif _in_window(died, onset):
        yield Proposal("onset_linked_to_death", "possible", "the death lies in the year before the onset", who)


def _of_the_living(person: Mapping[str, Any]) -> Iterator[Proposal]:
    who = str(person["id"])
    conflict = (person.get("conflict_level") or 0) >= CONFLICT_FROM
    mismatch = person.get("expectation_mismatch")
    stage = person.get("dispute_stage") or "none"
    care = "" if person["safety"] == "none" else "; it carries a safety mark: safety comes first"
    if person["status"] != "current":
        if stage == "dissolution" or (person["status"] == "past" and conflict):
            yield Proposal("relation_ended", "possible", "the relation is past or estranged", who)
        elif person["status"] == "estranged" and (conflict or stage != "none"):
            yield Proposal("continuing_relation_with_other", "possible", f"estranged: a dispute may show as silence{care}", who)
        return
    if not (conflict or mismatch in {"moderate", "severe"} or stage != "none"):
        return
    yield Proposal(
        "continuing_relation_with_other", "present", f"a current relation with conflict, unmet expectations or a stage of dispute{care}", who
    )
    if mismatch in {"moderate", "severe"}:
        yield Proposal("nonreciprocal_expectations", "present" if mismatch == "severe" else "possible", f"expectation mismatch: {mismatch}", who)
    if person.get("linked_to_onset") in VALUE_OF_LINK:
        yield Proposal("onset_linked_to_conflict", VALUE_OF_LINK[person["linked_to_onset"]], "the person is marked as linked to the onset", who)
    if conflict and (person.get("conflict_style") or "none") != "none":
        yield Proposal("overt_or_covert_quarrels", "present", f"conflict is {person['conflict_style']}", who)
    if stage == "impasse":
        yield Proposal("unresolved_and_stuck", "present", "the stage of the dispute is an impasse", who)
    if person["safety"] == "none" and "submission" in (person.get("patterns") or ()):
        yield Proposal("communication_fault_visible", "possible", "submission in a relation with conflict", who)


def _of_a_death(event: Mapping[str, Any], onset: date | None) -> Iterator[Proposal]:
    which = str(event["id"])
    if event["type"] == "pregnancy_loss":  # the clinician chooses grief or transition
        yield Proposal("significant_person_died", "possible", "a pregnancy loss: grief or transition", None, which)
        yield Proposal("role_change_identified", "possible", "a pregnancy loss: grief or transition", None, which)
    elif event["type"] in DEATHS:
        yield Proposal("significant_person_died", "present", f"life event: {event['type']}", None, which)
    value = VALUE_OF_LINK.get(event["linked_to_onset"]) or ("possible" if _near(event, onset) else None)
    if value:
        yield Proposal("onset_linked_to_death", value, "a death or its anniversary near the onset", None, which)


def _of_a_change(event: Mapping[str, Any], onset: date | None) -> Iterator[Proposal]:
    which = str(event["id"])
    yield Proposal("role_change_identified", "present", f"life event: {event['type']}", None, which)
    value = VALUE_OF_LINK.get(event["linked_to_onset"]) or ("possible" if _near(event, onset) else None)
    if value:
        yield Proposal("onset_linked_to_change", value, "a change near the onset", None, which)
    if event.get("wanted") is False or event.get("expected") is False:
        yield Proposal("unwanted_or_sudden_change", "present", "the change was not wanted or not expected", None, which)
    if event.get("supports_lost"):
        yield Proposal("supports_lost_through_change", "present", "supports were lost through it", None, which)
    if event.get("adapted") is False:
        yield Proposal("new_demands_beyond_skill", "possible", "the patient has not adapted to it", None, which)
    if event.get("adapted") is True and value is None:
        yield Proposal("change_adapted_to", "present", "adapted to, and not linked to the onset", None, which)


def _of_the_whole(people: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], onset: date | None) -> Iterator[Proposal]:
    living = [p for p in people if p["status"] != "deceased"]
    shared = _shared_patterns([p for p in living if p["safety"] == "none"])  # submission to somebody dangerous is no pattern
    if shared:
        name, count = shared
        yield Proposal("repeating_pattern", "present" if count >= PATTERN_IN else "possible", f"{name} with {count} people")
        if count >= PATTERN_IN and count == len(living):
            yield Proposal("same_pattern_with_everybody", "possible", f"{name} with everybody in the inventory")
    close = sum(1 for p in people if (p.get("closeness_before_onset") or INNER_RINGS + 1) <= INNER_RINGS)
    confidants = sum(1 for p in living if (p.get("confiding") or 0) >= CONFIDANT_FROM)
    whole = len(people) >= RELATIONSHIPS_IN_A_TAKEN_INVENTORY and all(
        p.get("closeness_before_onset") and p.get("confiding") is not None for p in living
    )
    if whole and close <= 1 and not confidants:  # what was not asked is no evidence
        yield Proposal("few_close_ties_before_onset", "possible", f"{close} in the inner rings before the onset; now nobody to confide in")
    if onset is not None and events and not _something_near(people, events, onset):
        yield Proposal("no_life_event_near_onset", "possible", "no recorded event lies in the year before the onset or is linked to it")


def _shared_patterns(living: Iterable[Mapping[str, Any]]) -> tuple[str, int] | None:
    counts: dict[str, int] = {}
    for person in living:
        for name in set(person.get("patterns") or ()):
            counts[name] = counts.get(name, 0) + 1
    best = max(sorted(counts), key=lambda n: counts[n], default=None)
    return None if best is None or counts[best] < PATTERN_IN - 1 else (best, counts[best])


def _something_near(people: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], onset: date) -> bool:
    """Tell whether anything recorded is linked to the onset or near it, or has no date and might be."""
    if any(
        (p.get("linked_to_onset") or "none") != "none" or _in_window(p.get("death_date"), onset) or _in_window(p.get("recent_change_on"), onset)
        for p in people
    ):
        return True
    return any(e["linked_to_onset"] != "none" or e.get("happened_on") is None or _near(e, onset) for e in events)


def _in_window(day: object, onset: date | None) -> bool:
    return onset is not None and isinstance(day, date) and _months_after(onset, -WINDOW_MONTHS) <= day <= onset


def _near(event: Mapping[str, Any], onset: date | None) -> bool:
    """Tell whether an event lies in the year before the onset."""
    return _in_window(event.get("happened_on"), onset)


def _months_after(day: date, months: int) -> date:
    month = day.month - 1 + months
    year, month = day.year + month // MONTHS_IN_A_YEAR, month % MONTHS_IN_A_YEAR + 1
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def _listed(codes: Iterable[str]) -> str:
    return ", ".join(sorted(codes))
