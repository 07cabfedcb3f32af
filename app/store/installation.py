"""Whether a database is the one that it was: a dump that was restored must be reconciled before it is served."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.store.database import Connection, Database, Unsafe
from app.store.tables.installation import installation

HERE = "(SELECT system_identifier::text FROM pg_control_system()), (SELECT oid::bigint FROM pg_database WHERE datname = current_database())"


async def check_installation(database: Database) -> None:
    """Refuse a database that is a copy of another, or was restored, and was not reconciled since. Raises Unsafe."""
    async with database.transaction(None) as connection:
        if await connection.value(sa.text("SELECT to_regclass('public.installation')")) is None:
            return  # before the migration that made it: readiness says that the database is behind
        noted = await connection.first(sa.select(installation))
        if noted is None:
            return
        here = await _here(connection)
    if (noted["system_identifier"], noted["database_oid"]) != here:
        message = (
            "This database was restored from a backup, or is a copy of another, and was not reconciled since: people who were erased, and what "
            "anonymised tables have shown, may be forgotten in it. Run `ipt restore --finish` (docs/operations.md) before it is opened."
        )
        raise Unsafe(message)


async def _here(connection: Connection) -> tuple[str, int]:
    found = (await connection.rows(sa.text(f"SELECT {HERE}")))[0]
    return found["system_identifier"], found["oid"]


async def note_installation(connection: Connection, now: datetime, *, again: bool = False) -> None:
    """Note that this is the database that is served: once; `again`, after a restore was reconciled."""
    system_identifier, oid = await _here(connection)
    values: dict[str, Any] = {"system_identifier": system_identifier, "database_oid": oid, "opened_at": now}
    statement = insert(installation).values(here=True, **values)
    changed = statement.on_conflict_do_update(index_elements=["here"], set_=values) if again else statement.on_conflict_do_nothing()
    await connection.run(changed)
