"""Indicators proposed from the inventory and from texts; a clinician confirms or refuses each."""

from dataclasses import asdict
from typing import Any
from uuid import UUID, uuid5

from app.actions.classification import check_areas, put_answer
from app.actions.records import Fields, Made, amend, create, get_in_chart, reveal
from app.actions.visit import Chart, Visit, open_chart
from app.domain.errors import Fault, NotFound
from app.domain.phase import ReasonMissing
from app.domain.proposals import Proposal, ProposalDecided, check_span, propose
from app.store.database import Row
from app.store.rows import rows_of
from app.store.tables.inventory import life_event, relationship
from app.store.tables.workflow import indicator_proposal


async def read_proposals(visit: Visit, episode_id: UUID) -> list[Row]:
    """Return the proposals of a course: derived from the inventory as it stands, from texts, and those decided already."""
    chart = await open_chart(visit, episode_id)
    check_areas(chart)
    kept = await _kept(visit, chart)
    derived = [_row(chart, p) for p in await _derived(visit, chart)]
    visit.trace.resources += [f"indicator_proposal/{i}" for i in kept]
    return [*kept.values(), *(r for r in derived if r["id"] not in kept)]


async def propose_from_text(visit: Visit, episode_id: UUID, values: dict[str, Any]) -> Made:
    """Keep what a text speaks for: only `possible`, never a gate, with the quoted span. The text itself is not kept."""
    chart = await open_chart(visit, episode_id, lock=True)
    check_areas(chart)
    quote = check_span(values["indicator"], values["text"], values["start"], values["end"])
    clear = {"indicator": values["indicator"], "value": "possible", "origin": "text", "because": "a text"}
    return await create(visit, indicator_proposal, Fields(clear, {"quote": quote}, values.get("id"), {"status": "open"}), chart=chart)


async def decide_proposal(visit: Visit, episode_id: UUID, proposal_id: UUID, values: dict[str, Any]) -> Row:
    """Confirm a proposal (it becomes an answer, with its evidence) or refuse it, as a clinician.

    A refusal stands until the facts change. Raises ClinicianOnly, NotFound, ProposalDecided, IndicatorsInvalid.
    """
    clinician_id = visit.clinician()
    chart = await open_chart(visit, episode_id, lock=True)
    check_areas(chart)
    present = await _open_proposal(visit, chart, proposal_id)
    confirmed = values["decision"] == "confirm"
    reason = {"reason": values["reason"]} if values.get("reason") else {}
    if confirmed:
        value = values.get("value") or present["value"]
        if present["origin"] == "text" and value == "present" and not reason:
            raise ReasonMissing(faults=[Fault("/reason", "a text only proposes possible: say what makes it present")])
        answer = {"value": value, "relationship_id": _plain(present["relationship_id"]), "life_event_id": _plain(present["life_event_id"])}
        await put_answer(visit, chart, present["indicator"], answer, present.get("quote"))
    decided = {"status": "confirmed" if confirmed else "refused", "decided_by": clinician_id, "decided_at": visit.now}
    if present.get("version"):
        return await amend(visit, indicator_proposal, present, Fields(decided, reason), key=chart.key)
    clear = {k: present[k] for k in ("indicator", "value", "origin", "because", "relationship_id", "life_event_id")}
    return (await create(visit, indicator_proposal, Fields({**clear, **decided}, reason, proposal_id), chart=chart)).row


async def _open_proposal(visit: Visit, chart: Chart, proposal_id: UUID) -> Row:
    derived = {_id(chart, p): p for p in await _derived(visit, chart)}
    kept = await _kept(visit, chart)
    if proposal_id in kept:
        present = await get_in_chart(visit, indicator_proposal, chart, proposal_id)
        if present["status"] != "open":
            raise ProposalDecided
        return present
    if proposal_id not in derived:
        raise NotFound
    return _row(chart, derived[proposal_id])


async def _derived(visit: Visit, chart: Chart) -> list[Proposal]:
    people = [reveal(chart.key, relationship, r) for r in await rows_of(visit.connection, relationship, episode_id=chart.episode_id)]
    events = [reveal(chart.key, life_event, r) for r in await rows_of(visit.connection, life_event, episode_id=chart.episode_id)]
    return propose(people, events, chart.episode["illness_onset_date"], chart.today)


async def _kept(visit: Visit, chart: Chart) -> dict[UUID, Row]:
    rows = await rows_of(visit.connection, indicator_proposal, "created_at", episode_id=chart.episode_id)
    return {r["id"]: reveal(chart.key, indicator_proposal, r) for r in rows}


def _id(chart: Chart, proposal: Proposal) -> UUID:
    """Return the id of a derived proposal: the same facts make the same one, so a decision on it is found again."""
    return uuid5(chart.episode_id, proposal.key)


def _row(chart: Chart, proposal: Proposal) -> Row:
    ties = {"id": _id(chart, proposal), "patient_id": chart.patient_id, "episode_id": chart.episode_id}
    return {**asdict(proposal), **ties, "origin": "inventory", "status": "open"}


def _plain(value: Any) -> str | None:
    return None if value is None else str(value)
