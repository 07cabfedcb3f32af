"""Which database it is: its schema, whether it takes writes, and whether it is the one that it was.

A dump that was restored, or a copy, must be reconciled before it is served: people who were erased, and what anonymised tables have shown, may be
forgotten in it. So the database that is served is noted by its migration, by the cluster and its own number. A backup does not hold the note, and
while a restore is under way an empty schema, `ipt_restoring`, says so, whatever is noted: the dump may be of before there was a note.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.store.database import Connection, Database, Unsafe
from app.store.tables.installation import installation

SCHEMA = "0015"  # the newest migration, which this release needs; a test compares them
NOTED_SINCE = "0015"
UNRECONCILED = (
    "This database was restored from a backup, or is a copy of another, and was not reconciled since. "
    "Run `ipt restore --finish` (docs/operations.md) before it is opened."
)
HERE = "(SELECT system_identifier::text FROM pg_control_system()), (SELECT oid::bigint FROM pg_database WHERE datname = current_database())"


@dataclass(frozen=True, slots=True)
class Standing:
    """What can be done with a database now. `revision`: the migration that it is at; None before the first."""

    revision: str | None
    takes_writes: bool
    is_reconciled: bool

    @property
    def fault(self) -> str | None:
        """Say why it cannot be served, or None."""
        if self.revision is None or self.revision < SCHEMA:
            return f"The database is at migration {self.revision}, this release needs {SCHEMA}: run `ipt migrate`."
        if not self.takes_writes:
            return "The database takes no writes: it is a standby, or read-only."
        return None if self.is_reconciled else UNRECONCILED


async def standing_of(database: Database) -> Standing:
    """Look at a database, in one transaction."""
    async with database.transaction(None) as connection:
        there = await connection.value(sa.text("SELECT to_regclass('public.alembic_version')::text"))
        revision = await connection.value(sa.text("SELECT version_num FROM alembic_version")) if there else None
        takes_writes = await connection.value(sa.text("SELECT current_setting('transaction_read_only') = 'off'"))
        return Standing(revision, bool(takes_writes), await is_reconciled(connection))


async def is_reconciled(connection: Connection) -> bool:
    """Tell whether this is the database that was noted as the one to serve. Before the migration that notes it, none can be told from another."""
    if await connection.value(sa.text("SELECT to_regnamespace('ipt_restoring')")) is not None:
        return False
    if await connection.value(sa.text("SELECT to_regclass('public.installation')")) is None:
        return True
    noted = await connection.first(sa.select(installation))
    return noted is not None and (noted["system_identifier"], noted["database_oid"]) == await _here(connection)


async def check_installation(database: Database) -> None:
    """Refuse a database that is not the one that was noted. Raises Unsafe."""
    async with database.transaction(None) as connection:
        if not await is_reconciled(connection):
            raise Unsafe(UNRECONCILED)


async def _here(connection: Connection) -> tuple[str, int]:
    found = (await connection.rows(sa.text(f"SELECT {HERE}")))[0]
    return found["system_identifier"], found["oid"]


async def begin_restoring(connection: Connection) -> None:
    """Let nobody open this database until it is noted again. By a login that may create schemas."""
    await connection.script("CREATE SCHEMA IF NOT EXISTS ipt_restoring")


async def end_restoring(connection: Connection) -> None:
    """Take the sign of a restore away. By whoever put it up."""
    await connection.script("DROP SCHEMA IF EXISTS ipt_restoring")


async def note_installation(connection: Connection, now: datetime) -> None:
    """Note that this is the database that is served."""
    system_identifier, oid = await _here(connection)
    values: dict[str, Any] = {"system_identifier": system_identifier, "database_oid": oid, "opened_at": now}
    statement = insert(installation).values(here=True, **values)
    await connection.run(statement.on_conflict_do_update(index_elements=["here"], set_=values))


async def forget_installation(connection: Connection) -> None:
    """Let nobody open this database until it is noted again."""
    await connection.run(sa.delete(installation))


async def others_connected(connection: Connection) -> int:
    """Return how many other sessions there are in this database."""
    return int(await connection.value(sa.text(_OTHERS)))


_OTHERS = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND usesysid IS NOT NULL
    AND coalesce(backend_type, 'client backend') = 'client backend'"""  # whoever is no superuser sees no kind of others' sessions
