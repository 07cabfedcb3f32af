"""Operators and what they propose: rows that no role of the service can read. The command line alone comes here, as the owner of the schema."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.store.database import Connection, Row
from app.store.tables.outcomes import operator, operator_proposal, outcome_budget, outcome_extract, outcome_member


async def all_operators(connection: Connection) -> list[Row]:
    """Return every operator, locked, by name: two changes of who they are come one after the other."""
    return await connection.rows(sa.select(operator).order_by(operator.c.name).with_for_update())


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


async def approve_proposal(connection: Connection, proposal_id: UUID, by: str, now: datetime) -> None:
    """Note who approved a proposal, and when."""
    p = operator_proposal
    await connection.run(sa.update(p).where(p.c.id == proposal_id).values(approved_by=by, approved_at=now))


async def put_member(connection: Connection, patients: int, now: datetime) -> None:
    """Let the partner of the connection into its network, or change what it declares."""
    values = {"partner_id": connection.partner_id, "declared_patients": patients, "joined_at": now}
    statement = insert(outcome_member).values(values)
    await connection.run(statement.on_conflict_do_update(index_elements=["partner_id"], set_={"declared_patients": patients}))


async def drop_member(connection: Connection) -> bool:
    """Let the partner of the connection out of its network; False when it is in none."""
    return await connection.run(sa.delete(outcome_member).where(outcome_member.c.partner_id == connection.partner_id)) == 1


async def exhaust_budgets(connection: Connection) -> int:
    """Close every budget of the population of the connection: nothing is left; return how many."""
    b = outcome_budget
    return await connection.run(sa.update(b).where(b.c.partner_id == connection.partner_id, b.c.spent < b.c.cap).values(cap=b.c.spent))


async def extracts_made(connection: Connection) -> list[Row]:
    """Return the extracts of the partner of the connection that were made."""
    x = outcome_extract
    return await connection.rows(sa.select(x).where(x.c.partner_id == connection.partner_id, x.c.manifest.is_not(None)))
