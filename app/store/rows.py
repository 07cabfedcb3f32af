"""Rows of any table: insert, update by version, find, page. Decides nothing; every statement names the partner."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.store.database import Connection, Row


def own(connection: Connection, table: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition that keeps a statement inside the partner; row security holds it too."""
    return table.c.partner_id == connection.partner_id


async def insert_row(connection: Connection, table: sa.Table, values: Mapping[str, Any]) -> bool:
    """Insert; False when a unique key stands in the way."""
    statement = insert(table).values(partner_id=connection.partner_id, **values).on_conflict_do_nothing()
    return await connection.run(statement) == 1


async def update_row(connection: Connection, table: sa.Table, row_id: UUID, version: int, values: Mapping[str, Any]) -> bool:
    """Update the row if it is still at `version`; False otherwise."""
    where = [own(connection, table), table.c.version == version]
    where += [table.c.id == row_id] if "id" in table.c else []  # the partner's settings are one row
    return await connection.run(sa.update(table).where(*where).values(**values)) == 1


async def delete_row(connection: Connection, table: sa.Table, row_id: UUID) -> bool:
    """Delete the row; False when it is not there."""
    return await connection.run(sa.delete(table).where(own(connection, table), table.c.id == row_id)) == 1


async def find_row(connection: Connection, table: sa.Table, *, lock: bool = False, **where: Any) -> Row | None:
    """Return the one row whose columns equal `where`, or None."""
    statement = sa.select(table).where(own(connection, table), *(table.c[k] == v for k, v in where.items()))
    return await connection.first(statement.with_for_update(key_share=True) if lock else statement)


async def rows_of(connection: Connection, table: sa.Table, *order: str, **where: Any) -> list[Row]:
    """Return every row whose columns equal `where` (or are among a list), without those marked deleted."""
    conditions = [table.c[k].in_(v) if isinstance(v, (list, tuple, set)) else table.c[k] == v for k, v in where.items()]
    if "deleted_at" in table.c:
        conditions.append(table.c.deleted_at.is_(None))
    by = [table.c[name] for name in (*order, "id")]
    return await connection.rows(sa.select(table).where(own(connection, table), *conditions).order_by(*by))


async def page(
    connection: Connection, query: sa.Select[Any], keys: Sequence[sa.ColumnElement[Any]], after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Return up to `limit` + 1 rows after the keyset `after`: the one too many says that there is more."""
    if after is not None:
        bound = [sa.literal(v, type_=k.type) for k, v in zip(keys, after, strict=True)]
        query = query.where(sa.tuple_(*keys) > sa.tuple_(*bound))
    return await connection.rows(query.order_by(*keys).limit(limit + 1))
