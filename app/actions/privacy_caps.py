"""What operators alone decide about privacy, two of them together: caps of budgets, membership of the networks, who is an operator.

An operator is a person with a secret of their own. What this guards against is one person alone; whoever owns the database can do anything.
"""

import csv
import hashlib
import hmac
import json
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.actions.door import CLIENT_NAME
from app.actions.extracts import canary_ids
from app.domain.errors import CommandRefused, Fault, Invalid, NotFound
from app.domain.outcome_tables import CONSUMER_CAP, FOLLOW_UP, HIGHEST_CAP, MICRO, NETWORKS, POPULATION, consumer_scope, schema_version
from app.domain.quarters import frozen_by, quarter_from
from app.keys.cipher import KeyRing
from app.store.audit import Access, insert_access
from app.store.database import Connection, Database, Row
from app.store.door import partners
from app.store.operators import (
    all_operators,
    close_population,
    drop_member,
    extracts_made,
    hold_proposal,
    insert_operator,
    insert_proposal,
    note_approval,
    put_member,
    switch_operator_off,
    waiting_proposals,
)
from app.store.releases import add_budget, all_budgets, declared_size, set_cap

FREELY_ADDED = 2
APPROVALS = {"cap": 1, "membership": 1, "operator": 2}
"""How many operators must approve beside whoever proposed. A newcomer proposes itself, so that nobody else ever holds its secret."""


class OperatorUnknown(CommandRefused):
    """There is no such operator, or the secret is not theirs."""


class OperatorNameTaken(CommandRefused):
    """An operator of this name exists; a name is not used twice."""


class OwnProposal(CommandRefused):
    """Another operator must approve: not the one who proposed, and none twice."""


class CapRefused(CommandRefused):
    """The cap cannot be set: there is no such budget, or more than that is spent already."""


async def add_operator(database: Database, name: str, now: datetime) -> tuple[str, UUID | None]:
    """Return a newcomer's secret, and the proposal that two operators must approve before it works; None for the first two, who are simply added."""
    if CLIENT_NAME.fullmatch(name) is None:
        raise Invalid(faults=[Fault("/name", "has 1 to 40 of a-z, 0-9 and -")])
    secret, proposal = secrets.token_urlsafe(24), None
    async with database.transaction(None) as connection:
        there = await all_operators(connection)
        if name in {o["name"] for o in there}:
            raise OperatorNameTaken
        if len(there) < FREELY_ADDED:
            await insert_operator(connection, name, _digest(secret), now)
        else:
            proposal = await _propose(connection, "operator", {"name": name, "digest": _digest(secret).hex()}, name, now)
        await connection.commit()
    return secret, proposal


async def list_operators(database: Database) -> tuple[list[Row], list[Row]]:
    """Return the operators, and what waits for approval."""
    async with database.transaction(None) as connection:
        return await all_operators(connection), await waiting_proposals(connection)


async def disable_operator(database: Database, name: str, by: str, secret: str, now: datetime) -> None:
    """Disable an operator. Raises OperatorUnknown, NotFound."""
    async with database.transaction(None) as connection:
        _check(await all_operators(connection), by, secret)
        if not await switch_operator_off(connection, name, now):
            raise NotFound
        await connection.commit()


async def propose_cap(database: Database, population: str, quarter: str, scope: str, epsilon: float, by: str, secret: str, now: datetime) -> UUID:
    """Propose a cap of one budget; return the proposal's id. Raises OperatorUnknown, Invalid."""
    cap = round(epsilon * MICRO)
    name = scope.removeprefix("consumer:") if scope.startswith("consumer:") else None
    if scope not in {POPULATION, FOLLOW_UP} and (name is None or CLIENT_NAME.fullmatch(name) is None):
        raise Invalid(faults=[Fault("/scope", "is population, follow_up, or consumer:<client name>")])
    if not 0 <= cap <= HIGHEST_CAP:
        raise Invalid(faults=[Fault("/epsilon", f"lies between 0 and {HIGHEST_CAP // MICRO}")])
    quarter_from(quarter)
    proposal = {"population": str(population_from(population)), "quarter": quarter, "scope": consumer_scope(name) if name else scope, "cap": cap}
    return await _proposed(database, "cap", proposal, by, secret, now)


async def propose_membership(database: Database, partner_id: UUID, patients: int | None, by: str, secret: str, now: datetime) -> UUID:
    """Propose that a partner joins the network of its kind (with so many patients a year, as its contract declares), or leaves it (None).

    Raises OperatorUnknown, NotFound.
    """
    async with database.transaction(partner_id) as connection:
        if partner_id not in {p["partner_id"] for p in await partners(connection)}:
            raise NotFound
    return await _proposed(database, "membership", {"population": str(partner_id), "patients": patients}, by, secret, now)


async def _proposed(database: Database, kind: str, proposal: dict[str, Any], by: str, secret: str, now: datetime) -> UUID:
    async with database.transaction(None) as connection:
        _check(await all_operators(connection), by, secret)
        made = await _propose(connection, kind, proposal, by, now)
        await connection.commit()
    return made


async def _propose(connection: Connection, kind: str, proposal: dict[str, Any], by: str, now: datetime) -> UUID:
    made = uuid7()
    values = {"id": made, "kind": kind, "proposal": proposal, "proposed_by": by, "proposed_at": now, "approved_by": []}
    await insert_proposal(connection, values)
    return made


async def approve(database: Database, ring: KeyRing, proposal_id: UUID, by: str, secret: str, now: datetime) -> str:
    """Approve what somebody else has proposed; the last approval that it needs carries it out, in the same transaction. Return a sentence.

    Raises OperatorUnknown, NotFound, OwnProposal, CapRefused, OperatorNameTaken.
    """
    async with database.transaction(None) as connection:
        waiting = await hold_proposal(connection, proposal_id)
    if waiting is None:
        raise NotFound
    population = UUID(waiting["proposal"]["population"]) if "population" in waiting["proposal"] else None
    async with database.transaction(population) as connection:
        there = await all_operators(connection)
        _check(there, by, secret)
        waiting = await hold_proposal(connection, proposal_id)
        if waiting is None:
            raise NotFound
        if by in {waiting["proposed_by"], *waiting["approved_by"]}:
            raise OwnProposal
        if waiting["kind"] != "operator" and waiting["proposed_by"] not in {o["name"] for o in there if o["disabled_at"] is None}:
            raise OperatorUnknown
        approved = [*waiting["approved_by"], by]
        is_last = len(approved) >= APPROVALS[waiting["kind"]]
        await note_approval(connection, proposal_id, approved, now if is_last else None)
        told = (
            await _carry_out(connection, ring, waiting | {"approved_by": approved}, now)
            if is_last
            else "Approved. Another operator must approve, too."
        )
        await connection.commit()
    if is_last and population in NETWORKS.values():
        await _tell_members(database, ring, waiting | {"approved_by": approved}, now)
    return told


async def _carry_out(connection: Connection, ring: KeyRing, waiting: Row, now: datetime) -> str:
    proposal = waiting["proposal"]
    if waiting["kind"] == "operator":
        if not await insert_operator(connection, proposal["name"], bytes.fromhex(proposal["digest"]), now):
            raise OperatorNameTaken
        return f"{proposal['name']} is an operator now."
    population = UUID(proposal["population"])
    if waiting["kind"] == "membership":
        await insert_access(connection, ring, _access(population, waiting, now))
        if proposal["patients"] is None:
            await drop_member(connection)
            return "The partner leaves the network with the next freeze."
        await put_member(connection, proposal["patients"], now)
        return "The partner is in the network from the next freeze on."
    if proposal["scope"] not in {POPULATION, FOLLOW_UP}:
        await add_budget(connection, population, proposal["quarter"], proposal["scope"], CONSUMER_CAP)
    if not await set_cap(connection, population, proposal["quarter"], proposal["scope"], proposal["cap"]):
        raise CapRefused
    if population not in NETWORKS.values():
        await insert_access(connection, ring, _access(population, waiting, now))
    return f"The cap of {proposal['scope']} in {proposal['quarter']} is {proposal['cap'] / MICRO:g} now."


async def _tell_members(database: Database, ring: KeyRing, waiting: Row, now: datetime) -> None:
    """Write a changed cap of a network into the audit trail of every partner of its kind: its patients' privacy rests on it."""
    kind = next(k for k, network in NETWORKS.items() if str(network) == waiting["proposal"]["population"])
    async with database.transaction(None) as connection:
        known = [p["partner_id"] for p in await partners(connection) if p["kind"] == kind]
    for partner_id in known:
        async with database.transaction(partner_id) as connection:
            if await declared_size(connection) is not None:
                await insert_access(connection, ring, _access(partner_id, waiting, now))
                await connection.commit()


def _access(partner_id: UUID, waiting: Row, now: datetime) -> Access:
    """Return the partner's audit row: who changed what its patients' privacy rests on."""
    p = waiting["proposal"]
    what = f"outcome_member/{p['patients']}" if waiting["kind"] == "membership" else f"outcome_budget/{p['quarter']}/{p['scope']}/{p['cap']}"
    return Access(
        partner_id=partner_id,
        at=now,
        client_id=f"{partner_id}.operator",
        person=None,
        action="update",
        route=f"operator change_{waiting['kind']}",
        outcome=200,
        reason=f"proposed by {waiting['proposed_by']}, approved by {', '.join(waiting['approved_by'])}",
        request_id=str(waiting["id"]),
        patient_id=None,
        episode_id=None,
        resources=[what],
    )


def population_from(text: str) -> UUID:
    """Read a population: a partner's id, network-live or network-sandbox. Raises Invalid."""
    network = NETWORKS.get(text.removeprefix("network-")) if text.startswith("network-") else None
    try:
        return network or UUID(text)
    except ValueError:
        raise Invalid(faults=[Fault("/population", "is a partner's id, network-live or network-sandbox")]) from None


async def show_budgets(database: Database, population: str) -> list[Row]:
    """Return every budget of a population, each with what its spendings add up to (`noted`)."""
    found = population_from(population)
    async with database.transaction(found) as connection:
        return await all_budgets(connection, found)


async def close_quarters(database: Database, now: datetime) -> int:
    """After a loss: let nothing more be drawn over any quarter that has ended, for what was shown before is not known. Return how many budgets."""
    number, quarters = 0, [str(q) for q in frozen_by(now)]
    async with database.transaction(None) as connection:
        known = [p["partner_id"] for p in await partners(connection)]
    for population in [*known, *NETWORKS.values()]:
        async with database.transaction(population) as connection:
            number += await close_population(connection, quarters, schema_version(), now)
            await connection.commit()
    return number


async def trace(database: Database, ring: KeyRing, file: Path) -> list[Row]:
    """Return the extracts whose made-up records stand in a file. Raises Invalid."""
    there = _pids(file)
    found = []
    async with database.transaction(None) as connection:
        known = [p["partner_id"] for p in await partners(connection)]
    for partner_id in known:
        async with database.transaction(partner_id) as connection:
            rows = await extracts_made(connection)
        for row in rows:
            marks = canary_ids(ring, partner_id, row["id"], row["manifest"]["made_up_records"])
            hits = sum(mark in there for mark in marks)
            if hits:
                found.append(
                    {"id": row["id"], "client_id": row["client_id"], "agreement_id": row["order"]["agreement_id"], "hits": hits, "of": len(marks)}
                )
    return found


def _pids(file: Path) -> set[str]:
    """Return the pseudonyms of an extract's file. Raises Invalid."""
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq  # noqa: PLC0415 - heavy, and for this command alone

            return set(pq.read_table(file, columns=["extract_pid"])["extract_pid"].to_pylist())
        with file.open(encoding="utf-8", newline="") as lines:
            if file.suffix == ".ndjson":
                return {json.loads(line)["extract_pid"] for line in lines if line.strip()}
            return {row["extract_pid"] for row in csv.DictReader(lines)}
    except (KeyError, ValueError) as error:
        raise Invalid(f"{file} is no extract: {error}") from None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _check(there: list[Row], name: str, secret: str) -> None:
    """Raise OperatorUnknown unless the secret is this operator's."""
    row = next((o for o in there if o["name"] == name and o["disabled_at"] is None), None)
    if not hmac.compare_digest(_digest(secret), row["digest"] if row else _digest(secrets.token_urlsafe(8))):
        raise OperatorUnknown
