"""Reading and sealing the audit trail."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.audit import FORGED
from app.store.database import Connection, Row
from app.store.rows import own, page
from app.store.tables.door import signing_key
from app.store.tables.record import audit_event, audit_seal, audit_subject

MOST_UNDER_A_SEAL = 10_000


def _about(connection: Connection, patient_ids: Sequence[UUID]) -> sa.ColumnElement[bool]:
    """Return the condition that an access showed or changed something of some patients."""
    e, s = audit_event, audit_subject
    pointed = sa.select(s.c.event_id).where(own(connection, s), s.c.patient_id.in_(patient_ids))
    return sa.or_(e.c.patient_id.in_(patient_ids), e.c.id.in_(pointed))


async def page_audit_events(connection: Connection, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int) -> list[Row]:
    """Return a page of events by id, which is nearly the order in which they happened."""
    e = audit_event
    query = sa.select(e).where(own(connection, e))
    query = query.where(*(e.c[n] == filters[n] for n in ("client_id", "person", "request_id", "sealed_by") if filters.get(n) is not None))
    if filters.get("patient_id") is not None:
        query = query.where(_about(connection, [filters["patient_id"]]))
    if filters.get("at_from") is not None:
        query = query.where(e.c.at >= filters["at_from"])
    if filters.get("at_to") is not None:
        query = query.where(e.c.at <= filters["at_to"])
    if filters.get("emergency") is not None:
        query = query.where(e.c.break_glass_id.is_not(None) if filters["emergency"] else e.c.break_glass_id.is_(None))
    return await page(connection, query, [e.c.id], after, limit)


async def accesses_by_person(connection: Connection, patient_ids: Sequence[UUID]) -> list[Row]:
    """Return who read and who wrote of some patients: a row for each client, person and kind of action."""
    e = audit_event
    keys = (
        e.c.client_id,
        e.c.person,
        e.c.action,
        e.c.break_glass_id.is_not(None).label("emergency"),
        (e.c.outcome >= sa.literal_column("400")).label("refused"),
    )
    numbers = (sa.func.count().label("times"), sa.func.min(e.c.at).label("first_at"), sa.func.max(e.c.at).label("last_at"))
    genuine = e.c.sealed_by.is_distinct_from(FORGED)
    query = sa.select(*keys, *numbers).where(own(connection, e), genuine, _about(connection, patient_ids)).group_by(*keys)
    return await connection.rows(query.order_by(sa.func.max(e.c.at).desc(), e.c.client_id))


async def page_seals(connection: Connection, number: int | None, after: Sequence[Any] | None, limit: int) -> list[Row]:
    """Return a page of seals by number, from `number` on."""
    query = sa.select(audit_seal).where(own(connection, audit_seal), *([audit_seal.c.number >= number] if number else []))
    return await page(connection, query, [audit_seal.c.number], after, limit)


async def newest_seal(connection: Connection) -> Row | None:
    """Return the partner's newest seal, or None."""
    query = sa.select(audit_seal).where(own(connection, audit_seal)).order_by(audit_seal.c.number.desc()).limit(1)
    return await connection.first(query)


async def unsealed(connection: Connection) -> list[Row]:
    """Return committed events that no seal covers yet, by id, at most as many as one seal takes."""
    e = audit_event
    query = sa.select(e).where(own(connection, e), e.c.sealed_by.is_(None)).order_by(e.c.id).limit(MOST_UNDER_A_SEAL)
    return await connection.rows(query)


async def mark_sealed(connection: Connection, ids: Sequence[UUID], number: int) -> None:
    """Note which seal covers some events."""
    e = audit_event
    await connection.run(sa.update(e).where(own(connection, e), e.c.id.in_(ids)).values(sealed_by=number))


async def add_seal(connection: Connection, claims: Mapping[str, Any], sealed_at: datetime, kid: str, signature: str) -> None:
    """Insert a seal."""
    values = {"partner_id": connection.partner_id, "number": claims["number"], "count": claims["count"], "sealed_at": sealed_at, "kid": kid}
    values |= {"root": bytes.fromhex(claims["root"]), "previous": bytes.fromhex(claims["previous"]), "signature": signature}
    await connection.run(sa.insert(audit_seal).values(values))


async def every_signing_key(connection: Connection) -> list[Row]:
    """Return every key that has ever signed, also those that sign no token any more: seals outlive them."""
    return await connection.rows(sa.select(signing_key).order_by(signing_key.c.created_at))
