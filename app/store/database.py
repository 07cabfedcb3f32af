"""Connection, transaction and confinement: the one place where SQL meets the wire.

A transaction is opened together with its confinement in one round trip (`BEGIN; SET LOCAL app.partner_id = '<uuid>'`,
a literal made from a validated UUID) on the driver's own connection. SQLAlchemy compiles and runs the statements of
that transaction (in autocommit mode, so that it adds no BEGIN of its own).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

Row = dict[str, Any]

CHECKOUT_SECONDS = 1.5  # the database away is answered within 2 s
STATEMENT_SECONDS = 10
SESSION = {
    "application_name": "ipt",
    "lock_timeout": "3s",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    "idle_in_transaction_session_timeout": "15s",
    "timezone": "UTC",
}
RETRIED = {"40001", "40P01"}
UNIQUE_VIOLATION = "23505"
AWAY = ("08", "57P", "57014", "53")
OUT_OF_RANGE = ("22", "23514")
DURABILITY = ("fsync", "full_page_writes")


class DatabaseAway(Exception):
    """The database cannot be reached or is shutting down; nothing was changed."""


class OutcomeUnknown(Exception):
    """The connection broke while COMMIT was on its way: it may or may not have happened."""


class TryAgain(Exception):
    """The transaction lost a race that PostgreSQL resolved (40001, 40P01): the whole of it may be repeated."""


class UniqueTaken(Exception):
    """Another row holds the unique key: the loser of a race that a check before the write could not see."""


class OutOfRange(Exception):
    """A value passed every check before the database's own: a bound stands in one place and not in the other."""


class Unsafe(Exception):
    """The database or the login breaks a rule without which the service does not start."""


class Connection:
    """One confined transaction. Counts its statements, COMMIT included."""

    __slots__ = ("_driver", "_sqlalchemy", "partner_id", "statements")

    def __init__(self, sqlalchemy: AsyncConnection, driver: Any, partner_id: UUID | None) -> None:
        self._sqlalchemy = sqlalchemy
        self._driver = driver
        self.partner_id = partner_id
        self.statements = 1

    async def run(self, statement: sa.Executable) -> int:
        """Run a statement and return the number of rows it touched."""
        self.statements += 1
        with _translated():
            return (await self._sqlalchemy.execute(statement)).rowcount

    async def run_many(self, statement: sa.Executable, rows: Sequence[Row]) -> None:
        """Run a statement once for each row of parameters, in one go."""
        self.statements += 1
        with _translated():
            await self._sqlalchemy.execute(statement, rows)

    async def rows(self, statement: sa.Executable) -> list[Row]:
        """Return every row, each as a dict by column name."""
        self.statements += 1
        with _translated():
            found = await self._sqlalchemy.execute(statement)
        names = [str(name) for name in found.keys()]  # noqa: SIM118 - a result is no mapping
        return [dict(zip(names, row, strict=True)) for row in found]

    async def first(self, statement: sa.Executable) -> Row | None:
        """Return the first row, or None."""
        found = await self.rows(statement)
        return found[0] if found else None

    async def value(self, statement: sa.Executable) -> Any:
        """Return the first column of the first row, or None."""
        self.statements += 1
        with _translated():
            return (await self._sqlalchemy.execute(statement)).scalar()

    async def script(self, sql: str) -> None:
        """Send SQL of our own making, without parameters, in one round trip."""
        self.statements += 1
        with _translated():
            await self._driver.execute(sql)

    async def copy(self, table: sa.Table, columns: Sequence[str], records: Sequence[tuple[Any, ...]]) -> None:
        """Copy rows into a table, in binary: for the loader, whose role row security does not bind."""
        self.statements += 1
        with _translated():
            await self._driver.copy_records_to_table(table.name, records=records, columns=columns)

    async def commit(self) -> None:
        """Commit. Raises OutcomeUnknown when the connection breaks on the way."""
        self.statements += 1
        try:
            await self._driver.execute("COMMIT")
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, TimeoutError) as error:
            raise OutcomeUnknown from error
        except asyncpg.PostgresError as error:
            raise _translation(error) or error from error

    async def rollback(self) -> None:
        """Roll back."""
        await self._driver.execute("ROLLBACK")

    @property
    def is_open(self) -> bool:
        """Tell whether a transaction is under way (neither committed nor rolled back)."""
        return bool(self._driver.is_in_transaction())


class Database:
    """An address and a role: opens transactions confined to one partner."""

    def __init__(self, url: str, role: str, *, pool_size: int = 8, pooler: str = "none", session: dict[str, str] | None = None) -> None:
        parsed = make_url(url).set(drivername="postgresql+asyncpg")
        settings = {**SESSION, **(session or {})}
        if parsed.username != role:
            settings["role"] = role
        arguments: dict[str, Any] = {"server_settings": settings, "timeout": CHECKOUT_SECONDS, "command_timeout": STATEMENT_SECONDS}
        if pooler == "transaction":
            arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
            arguments["prepared_statement_name_func"] = lambda: f"__ipt_{uuid4()}__"
        self.role = role
        self.engine: AsyncEngine = create_async_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=CHECKOUT_SECONDS,
            pool_reset_on_return=None,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            json_serializer=lambda v: orjson.dumps(v, default=str).decode(),
            json_deserializer=orjson.loads,
            connect_args=arguments,
        )

    @asynccontextmanager
    async def transaction(self, partner_id: UUID | None) -> AsyncIterator[Connection]:
        """Open a transaction confined to a partner (None: shared tables only). Whoever does not commit rolls back."""
        sqlalchemy, connection = await self._opened(partner_id)
        try:
            yield connection
        finally:
            await asyncio.shield(_ended(sqlalchemy, connection))

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    async def _opened(self, partner_id: UUID | None) -> tuple[AsyncConnection, Connection]:
        """Check out and begin within the time that an answer may take. Raises DatabaseAway.

        An attempt that hangs is left behind, not waited for: cancelling it would itself talk to the hanging server.
        """
        attempt = asyncio.create_task(self._begun(partner_id))
        try:
            done, _ = await asyncio.wait({attempt}, timeout=CHECKOUT_SECONDS)
        except asyncio.CancelledError:
            _leave_behind(attempt)
            raise
        if not done:
            _leave_behind(attempt)
            raise DatabaseAway
        return attempt.result()

    async def _begun(self, partner_id: UUID | None) -> tuple[AsyncConnection, Connection]:
        """Begin on a pooled connection; those that died with the server are thrown away and tried anew."""
        begin = "BEGIN" if partner_id is None else f"BEGIN; SET LOCAL app.partner_id = '{UUID(str(partner_id))}'"
        attempts = self.engine.pool.size() + 1  # type: ignore[attr-defined]
        try:
            for _ in range(attempts):
                sqlalchemy = await self.engine.connect()
                try:
                    driver = (await sqlalchemy.get_raw_connection()).driver_connection
                    await driver.execute(begin)  # type: ignore[union-attr]
                    return sqlalchemy, Connection(sqlalchemy, driver, partner_id)
                except BaseException as error:
                    await sqlalchemy.invalidate()
                    await sqlalchemy.close()
                    if not isinstance(error, (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError)):
                        raise
        except (OSError, TimeoutError, PoolTimeout, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseAway from error
        raise DatabaseAway


def _leave_behind(attempt: "asyncio.Task[tuple[AsyncConnection, Connection]]") -> None:
    """Give up an attempt to begin: whenever it ends, its connection goes back or is thrown away."""

    def clear(task: "asyncio.Task[tuple[AsyncConnection, Connection]]") -> None:
        if not task.cancelled() and task.exception() is None:
            _clearing.add(clearing := asyncio.ensure_future(_ended(*task.result())))
            clearing.add_done_callback(_clearing.discard)

    attempt.add_done_callback(clear)
    attempt.cancel()


_clearing: set["asyncio.Future[None]"] = set()


async def _ended(sqlalchemy: AsyncConnection, connection: Connection) -> None:
    try:
        if connection.is_open:
            async with asyncio.timeout(CHECKOUT_SECONDS):
                await connection.rollback()
    except Exception:  # noqa: BLE001 - whatever broke, this connection is not fit for the pool
        with suppress(Exception):
            await sqlalchemy.invalidate()
    finally:
        with suppress(Exception):
            await sqlalchemy.close()


class _translated:  # noqa: N801 - reads as a word in `with _translated():`
    """Turn the driver's errors into the three that callers know."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        cause = error.orig if isinstance(error, DBAPIError) else error
        cause = getattr(cause, "__cause__", None) or cause
        known = _translation(cause)
        if known is not None:
            raise known from error


def _translation(error: BaseException | None) -> Exception | None:
    state = str(getattr(error, "sqlstate", "") or "")
    if state in RETRIED:
        return TryAgain()
    if state == UNIQUE_VIOLATION:
        return UniqueTaken()
    if state.startswith(OUT_OF_RANGE):
        return OutOfRange()
    if state.startswith(AWAY) or state == "55P03":
        return DatabaseAway()
    if isinstance(error, (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError)) and state == "":
        return DatabaseAway()
    return None


async def check_login(database: Database) -> None:
    """Refuse to run on a login that row security does not bind, or on a server that forgets commits. Raises Unsafe."""
    async with database.transaction(None) as connection:
        role = await connection.first(
            sa.text(
                "SELECT rolsuper, rolbypassrls, pg_has_role(current_user, 'ipt_owner', 'USAGE') AS owns FROM pg_roles WHERE rolname = current_user"
            )
        )
        if role is None or role["rolsuper"] or role["rolbypassrls"] or role["owns"]:
            message = f"The service must not run as {database.role} with rights that pass row security."
            raise Unsafe(message)


async def check_durability(database: Database) -> None:
    """Refuse a server that may lose a committed write (fsync or full_page_writes off). Raises Unsafe."""
    async with database.transaction(None) as connection:
        for name in DURABILITY:
            if await connection.value(sa.text(f"SHOW {name}")) != "on":
                message = f"PostgreSQL runs with {name} = off: acknowledged writes could be lost. Switch it on."
                raise Unsafe(message)


async def schema_revision(database: Database) -> str | None:
    """Return the migration that the database is at; None before the first."""
    async with database.transaction(None) as connection:
        there = await connection.value(sa.text("SELECT to_regclass('public.alembic_version')::text"))
        return await connection.value(sa.text("SELECT version_num FROM alembic_version")) if there else None


def clock(now: Callable[[], datetime]) -> datetime:
    """Return the present moment, cut to milliseconds: what the wire shows is what the database keeps."""
    moment = now()
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
