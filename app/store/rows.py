"""Rows of any table: insert, update by version, find, page. Decides nothing; every statement names the partner."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.store.database import Connection, Row
from app.store.statements import EACH, Confined, Prepared, any_of, given


def own(connection: Confined, table: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition that keeps a statement inside the partner; row security holds it too."""
    return table.c.partner_id == connection.partner_id  # type: ignore[no-any-return]


async def insert_row(connection: Connection, table: sa.Table, values: Mapping[str, Any]) -> bool:
    """Insert; False when a unique key stands in the way."""
    return await connection.run(_insertion(table, tuple(values)), **values) == 1


async def update_row(connection: Connection, table: sa.Table, row_id: UUID, version: int, values: Mapping[str, Any]) -> bool:
    """Update the row if it is still at `version`; False otherwise."""
    return await connection.run(_update(table, tuple(values)), its_id=row_id, its_version=version, **values) == 1


async def delete_row(connection: Connection, table: sa.Table, row_id: UUID) -> bool:
    """Delete the row; False when it is not there."""
    return await connection.run(sa.delete(table).where(own(connection, table), table.c.id == row_id)) == 1


async def find_row(connection: Connection, table: sa.Table, *, lock: bool = False, **where: Any) -> Row | None:
    """Return the one row whose columns equal `where`, or None."""
    return await connection.first(_finding(table, tuple(where), _nulls(where), lock=lock), **where)


async def rows_of(connection: Connection, table: sa.Table, *order: str, **where: Any) -> list[Row]:
    """Return every row whose columns equal `where` (or are among a list), without those marked deleted."""
    among = tuple(k for k, v in where.items() if isinstance(v, (list, tuple, set)))
    values = {k: list(v) if k in among else v for k, v in where.items()}
    return await connection.rows(_listing(table, order, tuple(where), among, _nulls(where)), **values)


@cache
def _insertion(table: sa.Table, names: tuple[str, ...]) -> Prepared:
    values = {"partner_id": EACH.partner_id, **{name: given(name, table.c[name]) for name in names}}
    return Prepared(lambda: insert(table).values(values).on_conflict_do_nothing())


@cache
def _update(table: sa.Table, names: tuple[str, ...]) -> Prepared:
    where = [own(EACH, table), table.c.version == given("its_version", table.c.version)]
    where += [table.c.id == given("its_id", sa.Uuid())] if "id" in table.c else []  # the partner's settings are one row
    return Prepared(lambda: sa.update(table).where(*where).values({name: given(name, table.c[name]) for name in names}))


def _nulls(where: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(k for k, v in where.items() if v is None)


def _equal(table: sa.Table, names: tuple[str, ...], nulls: tuple[str, ...], among: tuple[str, ...] = ()) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that columns equal what is given for them, are among it, or are empty."""
    there = [n for n in names if n not in nulls]
    equal: list[sa.ColumnElement[bool]] = [table.c[n] == (any_of(n, table.c[n]) if n in among else given(n, table.c[n])) for n in there]
    return equal + [table.c[n].is_(None) for n in nulls]


@cache
def _finding(table: sa.Table, names: tuple[str, ...], nulls: tuple[str, ...], *, lock: bool) -> Prepared:
    found = sa.select(table).where(own(EACH, table), *_equal(table, names, nulls))
    return Prepared(lambda: found.with_for_update(key_share=True) if lock else found)


@cache
def _listing(table: sa.Table, order: tuple[str, ...], names: tuple[str, ...], among: tuple[str, ...], nulls: tuple[str, ...]) -> Prepared:
    conditions = _equal(table, names, nulls, among)
    conditions += [table.c.deleted_at.is_(None)] if "deleted_at" in table.c else []
    by = [table.c[name] for name in (*order, "id")]
    return Prepared(lambda: sa.select(table).where(own(EACH, table), *conditions).order_by(*by))


async def page(
    connection: Connection, query: sa.Select[Any], keys: Sequence[sa.ColumnElement[Any]], after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Return up to `limit` + 1 rows after the keyset `after`: the one too many says that there is more."""
    if after is not None:
        bound = [sa.literal(v, type_=k.type) for k, v in zip(keys, after, strict=True)]
        query = query.where(sa.tuple_(*keys) > sa.tuple_(*bound))
    return await connection.rows(query.order_by(*keys).limit(limit + 1))
