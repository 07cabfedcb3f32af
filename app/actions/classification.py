"""From indicators to the focus: answers with evidence, a run of the classifier, the clinician's decision, the work."""

from datetime import datetime
from typing import Any
from uuid import UUID

from app.actions.inventory import check_relationships_known
from app.actions.records import Fields, Made, amend, create, fields_for, find_one, get_in_chart, get_one, put_one, reveal
from app.actions.visit import Chart, Visit, open_chart
from app.domain.errors import Conflict, Fault, Invalid, NotFound
from app.domain.focus import FocusChoice, ProtocolWithoutAreas, Suggestion, decide_focus, is_late_change
from app.domain.focus_work import check_work, plan_for_stage
from app.domain.indicator_answers import Event, IndicatorsInvalid, check_answers
from app.domain.problem_area import DISPUTE, DISPUTE_STRATEGIES, GRIEF, Answer, as_plain, classify, ruleset
from app.domain.techniques import check_strategies
from app.store.database import Row
from app.store.rows import rows_of
from app.store.tables.inventory import life_event, relationship
from app.store.tables.work import classification, focus, focus_area, indicator_set
from app.store.work import gate_facts, latest_classification


class ClassifierOff(Conflict):
    """This partner has switched the classifier off; the clinician decides the focus without it."""


class IndicatorsMissing(Conflict):
    """There are no indicator answers to classify yet."""


class SubStateUnknown(Invalid):
    """The sub-state does not belong to this problem area."""


class SafetyBarsStrategies(Conflict):
    """With a safety mark on that relationship, strategies of a dispute are not used with that person."""


def check_areas(chart: Chart) -> None:
    """Raise ProtocolWithoutAreas where the four problem areas do not belong."""
    if not chart.protocol.four_areas:
        raise ProtocolWithoutAreas(chart.protocol.no_areas_reason)


def _answers(stored: dict[str, Any]) -> dict[str, Answer]:
    return {code: Answer(a["value"], a.get("relationship_id"), a.get("life_event_id")) for code, a in stored.items()}


async def put_indicators(visit: Visit, episode_id: UUID, answers: dict[str, dict[str, Any]]) -> Made:
    """Replace the indicator answers; quoted evidence is sealed. Raises IndicatorsInvalid with each contradiction."""
    chart = await open_chart(visit, episode_id, lock=True)
    check_areas(chart)
    clear = {c: {k: v for k, v in a.items() if k in {"value", "relationship_id", "life_event_id"}} for c, a in answers.items()}
    await _check_evidence(visit, chart, clear)
    quotes = {c: a["quote"] for c, a in answers.items() if a.get("quote")}
    return await put_one(visit, indicator_set, chart, Fields({"answers": clear}, {"quotes": quotes}))


async def put_answer(visit: Visit, chart: Chart, indicator: str, answer: dict[str, Any], quote: str | None) -> None:
    """Write one answer beside those that stand; together they must hold. Raises IndicatorsInvalid."""
    found = await find_one(visit, indicator_set, chart)
    answers = {**(found["answers"] if found else {}), indicator: answer}
    quotes = {**(found.get("quotes", {}) if found else {}), **({indicator: quote} if quote else {})}
    await _check_evidence(visit, chart, answers)
    fields = Fields({"answers": answers}, {"quotes": quotes})
    if found is None:
        await create(visit, indicator_set, fields, chart=chart)
    else:
        await amend(visit, indicator_set, found, fields, key=chart.key)


async def _check_evidence(visit: Visit, chart: Chart, answers: dict[str, Any]) -> None:
    """Hold new answers against the episode: evidence that is not there is a plain 404, a contradiction a 422 by name."""
    known = await _events(visit, chart)
    if any(a.get("life_event_id") and a["life_event_id"] not in known for a in answers.values()):
        raise NotFound
    check_answers(_answers(answers), known)
    people = await check_relationships_known(visit, chart, (a.get("relationship_id") for a in answers.values()))
    if _blames(answers, {str(r["id"]) for r in people if r["safety"] != "none"}):
        pointer = "/answers/communication_fault_visible"
        raise IndicatorsInvalid(faults=[Fault(pointer, "is not read into a relationship that carries a safety mark")])


async def _events(visit: Visit, chart: Chart) -> dict[str, Event]:
    rows = await rows_of(visit.connection, life_event, episode_id=chart.episode_id)
    return {str(e["id"]): Event(e["type"], e["linked_to_onset"]) for e in rows}


async def _marked(visit: Visit, chart: Chart) -> set[str]:
    """Return the ids of people whose relationship carries a safety mark."""
    return {str(r["id"]) for r in await rows_of(visit.connection, relationship, episode_id=chart.episode_id) if r["safety"] != "none"}


def _blames(answers: dict[str, Any], marked: set[str]) -> bool:
    """Tell whether submission to somebody who is dangerous is read as a fault of communication."""
    fault = answers.get("communication_fault_visible", {})
    about = fault.get("relationship_id") or answers.get("continuing_relation_with_other", {}).get("relationship_id")
    return fault.get("value") in {"present", "possible"} and about in marked


async def run_classifier(visit: Visit, episode_id: UUID) -> Made:
    """Classify the present answers and keep the run with its inputs. It decides nothing.

    Events are looked at anew: one that was changed or taken out since may make an answer a contradiction, named in a 422.
    """
    chart = await open_chart(visit, episode_id, lock=True)
    check_areas(chart)
    if not chart.episode["classifier_on"]:
        raise ClassifierOff
    found = await find_one(visit, indicator_set, chart)
    if found is None:
        raise IndicatorsMissing
    answers = dict(found["answers"])
    if _blames(answers, await _marked(visit, chart)):
        del answers["communication_fault_visible"]  # a safety mark set since: the reading no longer counts
    check_answers(_answers(answers), await _events(visit, chart))
    result = as_plain(classify(_answers(answers)))
    fields = {"ruleset": result["ruleset"], "indicator_version": found["version"], "answers": answers, "result": result}
    return await create(visit, classification, Fields(fields), chart=chart)


async def get_classification(visit: Visit, episode_id: UUID) -> Row:
    """Return the newest run. Raises NotFound before the first."""
    chart = await open_chart(visit, episode_id)
    row = await latest_classification(visit.connection, episode_id)
    if row is None:
        raise NotFound
    visit.trace.resources.append(f"classification/{row['id']}")
    return reveal(chart.key, classification, row)


async def choose_focus(visit: Visit, episode_id: UUID, choice: FocusChoice, decided_at: datetime | None = None) -> Made:
    """Record the clinician's decision and open its focus areas; areas that leave the focus are closed, not lost."""
    clinician_id = visit.clinician()
    chart = await open_chart(visit, episode_id, lock=True)
    check_areas(chart)
    if decided_at is not None and decided_at > visit.now:
        raise Invalid(faults=[Fault("/decided_at", "lies in the future")])
    before = await find_one(visit, focus, chart)
    run = await latest_classification(visit.connection, episode_id) if chart.episode["classifier_on"] else None
    changes = before is not None and (before["primary_area"], before["secondary_area"]) != (choice.primary, choice.secondary)
    agrees = decide_focus(choice, _suggestion(run), changes_focus=changes)
    facts = (await gate_facts(visit.connection, [episode_id]))[episode_id]
    flags = [f for f in (before["flags"] if before and not changes else []) if f != "no_death_recorded"]
    if changes and is_late_change(facts["sessions_held"], facts["contracted_sessions"]):
        flags.append("changed_after_half_of_contract")
    if DISPUTE in {choice.primary, choice.secondary} and await _counterpart(visit, chart) & await _marked(visit, chart):
        flags.append("dispute_with_safety_mark")
    if GRIEF in {choice.primary, choice.secondary} and not await _death_recorded(visit, chart):
        flags.append("no_death_recorded")
    reason = choice.reason or ("" if changes or before is None else before["reason"])
    fields = {
        "primary_area": choice.primary,
        "secondary_area": choice.secondary,
        "patient_agreed": choice.patient_agreed,
        "agrees_with_suggestion": agrees,
        "classification_id": None if run is None else run["id"],
        "decided_by": clinician_id,
        "decided_at": decided_at or visit.now,
        "flags": sorted(set(flags)),
    }
    made = await put_one(visit, focus, chart, Fields(fields, {"reason": reason}))
    await open_areas(visit, chart, {choice.primary: "primary"} | ({choice.secondary: "secondary"} if choice.secondary else {}))
    return made


def _suggestion(run: Row | None) -> Suggestion | None:
    if run is None:
        return None
    return Suggestion(run["result"]["suggested_primary"], {a["area"]: a["score"] for a in run["result"]["areas"]})


async def open_areas(visit: Visit, chart: Chart, wanted: dict[str, str]) -> None:
    """Open the focus areas that are wanted (area to place), and close those that are not."""
    present = {r["area"]: reveal(chart.key, focus_area, r) for r in await rows_of(visit.connection, focus_area, episode_id=chart.episode_id)}
    for area, row in present.items():
        status, place = ("active", wanted[area]) if area in wanted else ("closed", row["place"])
        if (status, place) != (row["status"], row["place"]):
            await amend(visit, focus_area, row, Fields({"status": status, "place": place}), key=chart.key)
    for area, place in wanted.items():
        if area not in present:
            start: dict[str, Any] = {"area": area, "place": place, "status": "active", "sub_state": None, "strategies": []}
            await create(visit, focus_area, Fields(start), chart=chart)


async def get_focus(visit: Visit, episode_id: UUID) -> tuple[Row, list[Row]]:
    """Return the decision that stands and its focus areas. Raises NotFound before the first decision."""
    chart = await open_chart(visit, episode_id)
    row = await get_one(visit, focus, chart)
    areas = [reveal(chart.key, focus_area, r) for r in await rows_of(visit.connection, focus_area, episode_id=episode_id)]
    visit.trace.resources.append(f"focus/{row['id']}")
    return row, await with_plans(visit, chart, areas)


async def with_plans(visit: Visit, chart: Chart, areas: list[Row]) -> list[Row]:
    """Return focus areas with the published plan for the stage of a dispute; none where the other carries a safety mark."""
    people = {str(a["relationship_id"]) for a in areas if a["relationship_id"]} | await _counterpart(visit, chart)
    barred = bool(people & await _marked(visit, chart))
    return [{**a, "plan_for_stage": None if barred else plan_for_stage(a["area"], a["sub_state"])} for a in areas]


async def work_on_area(visit: Visit, episode_id: UUID, area_id: UUID, values: dict[str, Any]) -> Row:
    """Record work in a focus area: its sub-state, strategies done, whom and what it is about, progress, notes."""
    chart = await open_chart(visit, episode_id, lock=True)
    present = await get_in_chart(visit, focus_area, chart, area_id, check=True)
    area = ruleset().area(present["area"])
    if values.get("sub_state") is not None and values["sub_state"] not in area.sub_states:
        raise SubStateUnknown(faults=[Fault("/sub_state", f"must be one of {', '.join(area.sub_states)}")])
    check_work(present["area"], values)
    done: list[dict[str, Any]] = values["strategies"] if "strategies" in values else present["strategies"]
    check_strategies([s["code"] for s in done], [present["area"]])
    person = values.get("relationship_id")
    if person is not None:
        await check_relationships_known(visit, chart, [person])
    new = {s["code"] for s in done} - {s["code"] for s in present["strategies"]}
    if new & DISPUTE_STRATEGIES:
        people = {str(p) for p in (person, present["relationship_id"]) if p} or await _counterpart(visit, chart)
        if people & await _marked(visit, chart):
            raise SafetyBarsStrategies
    event = values.get("life_event_id")
    if event is not None:
        await get_in_chart(visit, life_event, chart, event)
    row = await amend(visit, focus_area, present, fields_for(focus_area, values), key=chart.key)
    return (await with_plans(visit, chart, [row]))[0]


async def _death_recorded(visit: Visit, chart: Chart) -> bool:
    """Tell whether the inventory knows of a death: grief means one."""
    people = await rows_of(visit.connection, relationship, episode_id=chart.episode_id, status="deceased")
    events = await rows_of(visit.connection, life_event, episode_id=chart.episode_id)
    return bool(people) or any(e["type"] in {"death", "pregnancy_loss"} for e in events)


async def _counterpart(visit: Visit, chart: Chart) -> set[str]:
    """Return whom the dispute is with: the evidence of its indicators."""
    found = await find_one(visit, indicator_set, chart)
    codes = ("continuing_relation_with_other", "nonreciprocal_expectations", "onset_linked_to_conflict")
    answers = found["answers"] if found else {}
    return {answers[c]["relationship_id"] for c in codes if answers.get(c, {}).get("relationship_id")}
