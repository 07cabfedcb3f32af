"""Orders of extracts, their sealed files, and the links by which each is fetched once."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.store.database import Connection, Row
from app.store.rows import own, page
from app.store.tables.outcomes import outcome_extract, outcome_file, outcome_link


async def add_extract(connection: Connection, values: Mapping[str, Any]) -> None:
    """Insert an order."""
    await connection.run(sa.insert(outcome_extract).values(partner_id=connection.partner_id, **values))


async def find_extract(connection: Connection, extract_id: UUID, client_id: str | None, *, lock: bool = False) -> Row | None:
    """Return an order (of a client, when one is named), or None."""
    x = outcome_extract
    query = sa.select(x).where(own(connection, x), x.c.id == extract_id, *([x.c.client_id == client_id] if client_id else []))
    return await connection.first(query.with_for_update() if lock else query)


async def page_extracts(connection: Connection, client_id: str | None, status: str | None, after: Sequence[Any] | None, limit: int) -> list[Row]:
    """Return a page of orders by id: a client's, or all."""
    x = outcome_extract
    query = sa.select(x).where(own(connection, x), *([x.c.client_id == client_id] if client_id else []), *([x.c.status == status] if status else []))
    return await page(connection, query, [x.c.id], after, limit)


async def update_extract(connection: Connection, extract_id: UUID, values: Mapping[str, Any]) -> None:
    """Change an order. The caller holds its lock."""
    x = outcome_extract
    await connection.run(sa.update(x).where(own(connection, x), x.c.id == extract_id).values(values))


async def add_parts(connection: Connection, extract_id: UUID, parts: Sequence[bytes]) -> None:
    """Keep the sealed parts of an extract's file."""
    for number, sealed in enumerate(parts):
        values = {"partner_id": connection.partner_id, "extract_id": extract_id, "part": number, "sealed": sealed}
        await connection.run(sa.insert(outcome_file).values(values))


async def parts_of(connection: Connection, extract_id: UUID) -> list[bytes]:
    """Return the sealed parts of an extract's file, in order."""
    f = outcome_file
    rows = await connection.rows(sa.select(f.c.sealed).where(own(connection, f), f.c.extract_id == extract_id).order_by(f.c.part))
    return [r["sealed"] for r in rows]


async def drop_parts(connection: Connection, extract_id: UUID) -> None:
    """Delete an extract's file and its links."""
    for table in (outcome_file, outcome_link):
        await connection.run(sa.delete(table).where(own(connection, table), table.c.extract_id == extract_id))


async def add_link(connection: Connection, extract_id: UUID, digest: bytes, now: datetime) -> None:
    """Keep the digest of a new link."""
    values = {"partner_id": connection.partner_id, "extract_id": extract_id, "digest": digest, "made_at": now}
    await connection.run(sa.insert(outcome_link).values(values))


async def use_link(connection: Connection, extract_id: UUID, digest: bytes, now: datetime) -> bool:
    """Use a link up; False when there is none, or it was used."""
    k = outcome_link
    fresh = (own(connection, k), k.c.digest == digest, k.c.extract_id == extract_id, k.c.used_at.is_(None))
    return await connection.run(sa.update(k).where(*fresh).values(used_at=now)) == 1


async def overdue_extracts(connection: Connection, now: datetime) -> list[Row]:
    """Return what is to be cleared: extracts whose day has passed, and files of cancelled ones."""
    x, f = outcome_extract, outcome_file
    has_file = sa.exists().where(own(connection, f), f.c.extract_id == x.c.id)
    over = sa.or_((x.c.status == "ready") & (x.c.expires_at <= now), (x.c.status == "cancelled") & has_file)
    return await connection.rows(sa.select(x).where(own(connection, x), over).order_by(x.c.id).with_for_update(skip_locked=True))
