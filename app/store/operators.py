"""Operators and what they propose: rows that no role of the service can read. The command line alone comes here, as the owner of the schema."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.store.database import Connection, Row
from app.store.tables.outcomes import (
    operator,
    operator_proposal,
    outcome_budget,
    outcome_extract,
    outcome_job,
    outcome_member,
    outcome_quarter,
    outcome_release,
)

ONE_AT_A_TIME = 4_961_702  # an arbitrary advisory lock key, the same in every process


async def all_operators(connection: Connection) -> list[Row]:
    """Return every operator by name; whoever changes who they are waits for the transaction that asked before."""
    await connection.script(f"SELECT pg_advisory_xact_lock({ONE_AT_A_TIME})")
    return await connection.rows(sa.select(operator).order_by(operator.c.name))


async def insert_operator(connection: Connection, name: str, digest: bytes, now: datetime) -> bool:
    """Add an operator; False when the name is taken."""
    values = {"name": name, "digest": digest, "created_at": now}
    return await connection.run(insert(operator).values(values).on_conflict_do_nothing()) == 1


async def switch_operator_off(connection: Connection, name: str, now: datetime) -> bool:
    """Disable an operator; False when there is none."""
    return await connection.run(sa.update(operator).where(operator.c.name == name, operator.c.disabled_at.is_(None)).values(disabled_at=now)) == 1


async def insert_proposal(connection: Connection, values: Mapping[str, Any]) -> None:
    """Add a proposal."""
    await connection.run(sa.insert(operator_proposal).values(values))


async def hold_proposal(connection: Connection, proposal_id: UUID) -> Row | None:
    """Return a proposal that waits, locked, or None."""
    p = operator_proposal
    return await connection.first(sa.select(p).where(p.c.id == proposal_id, p.c.approved_at.is_(None)).with_for_update())


async def waiting_proposals(connection: Connection) -> list[Row]:
    """Return the proposals that wait for a second operator."""
    p = operator_proposal
    return await connection.rows(sa.select(p).where(p.c.approved_at.is_(None)).order_by(p.c.proposed_at))


async def note_approval(connection: Connection, proposal_id: UUID, by: Sequence[str], now: datetime | None) -> None:
    """Note who has approved a proposal; `now` when that was the last approval it needed."""
    p = operator_proposal
    await connection.run(sa.update(p).where(p.c.id == proposal_id).values(approved_by=list(by), approved_at=now))


async def put_member(connection: Connection, patients: int, now: datetime) -> None:
    """Let the partner of the connection into its network, or change what it declares."""
    values = {"partner_id": connection.partner_id, "declared_patients": patients, "joined_at": now}
    statement = insert(outcome_member).values(values)
    await connection.run(statement.on_conflict_do_update(index_elements=["partner_id"], set_={"declared_patients": patients}))


async def drop_member(connection: Connection) -> bool:
    """Let the partner of the connection out of its network; False when it is in none."""
    return await connection.run(sa.delete(outcome_member).where(outcome_member.c.partner_id == connection.partner_id)) == 1


async def close_population(connection: Connection, quarters: Sequence[str], schema: int, now: datetime) -> int:
    """Let nothing more be drawn over the population of the connection; return how many budgets were closed.

    Nothing is left in any budget, orders that wait are dropped, and quarters that are not frozen yet are noted as frozen and shut.
    """
    b, r, j = outcome_budget, outcome_release, outcome_job
    population = connection.partner_id
    closed = await connection.run(sa.update(b).where(b.c.partner_id == population, b.c.spent < b.c.cap).values(cap=b.c.spent))
    waiting = sa.select(r.c.id).where(r.c.partner_id == population, r.c.released_at.is_(None))
    await connection.run(sa.delete(j).where(j.c.id.in_(waiting)))
    await connection.run(sa.delete(r).where(r.c.partner_id == population, r.c.released_at.is_(None)))
    shut = [{"partner_id": population, "quarter": q, "schema_version": schema, "is_open": False, "frozen_at": now} for q in quarters]
    await connection.run(insert(outcome_quarter).values(shut).on_conflict_do_nothing())
    return closed


async def extracts_made(connection: Connection) -> list[Row]:
    """Return the extracts of the partner of the connection that were made."""
    x = outcome_extract
    return await connection.rows(sa.select(x).where(x.c.partner_id == connection.partner_id, x.c.manifest.is_not(None)))
