"""Connection, transaction and confinement: the one place where SQL meets the wire.

A transaction is opened together with its confinement in one round trip (`BEGIN; SET LOCAL app.partner_id = '<uuid>'`,
a literal made from a validated UUID) on a connection of asyncpg's pool. SQLAlchemy writes the statements (store/statements.py);
asyncpg runs them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from app import tracing
from app.store.statements import Compiled, Statement, compiled

Row = dict[str, Any]

CHECKOUT_SECONDS = 1.5  # the database away is answered within 2 s
STATEMENT_SECONDS = 8  # a link that swallows everything is noticed, and answered for, within ten
STATEMENTS_KEPT = 500  # prepared on each connection; the driver forgets what was used longest ago
SESSION = {
    "application_name": "ipt",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "15s",
    "timezone": "UTC",
}
RETRIED = {"40001", "40P01"}
UNIQUE_VIOLATION = "23505"
AWAY = ("08", "57P", "57014", "53")
OUT_OF_RANGE = ("22", "23514")
DURABILITY = ("fsync", "full_page_writes")
UNREACHABLE = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError)


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
    """One confined transaction. Counts its statements, COMMIT included.

    What a prepared statement needs is given by name; the partner is there by itself.
    """

    __slots__ = ("_driver", "partner_id", "statements")

    def __init__(self, driver: Any, partner_id: UUID | None) -> None:
        self._driver = driver
        self.partner_id = partner_id
        self.statements = 1

    def _ready(self, statement: Statement, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """Count a statement, and return its text and arguments; the partner is given by itself."""
        self.statements += 1
        made = compiled(statement)
        return made.text, made.arguments({"partner_id": self.partner_id, **values})

    async def run(self, statement: Statement, **values: Any) -> int:
        """Run a statement and return the number of rows it touched."""
        text, arguments = self._ready(statement, values)
        with _translated(), tracing.statement(text):
            status: str = await self._driver.execute(text, *arguments)
        number = status.rpartition(" ")[2]
        return int(number) if number.isdigit() else 0

    async def run_many(self, statement: Statement, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each row of parameters, in one go."""
        self.statements += 1
        made = Compiled(statement, rows[0]) if isinstance(statement, sa.ClauseElement) else compiled(statement)
        with _translated(), tracing.statement(made.text):
            await self._driver.executemany(made.text, [made.arguments({"partner_id": self.partner_id, **row}) for row in rows])

    async def rows(self, statement: Statement, **values: Any) -> list[Row]:
        """Return every row, each as a dict by column name."""
        text, arguments = self._ready(statement, values)
        with _translated(), tracing.statement(text):
            found = await self._driver.fetch(text, *arguments)
        return [dict(row.items()) for row in found]

    async def first(self, statement: Statement, **values: Any) -> Row | None:
        """Return the first row, or None."""
        found = await self.rows(statement, **values)
        return found[0] if found else None

    async def value(self, statement: Statement, **values: Any) -> Any:
        """Return the first column of the first row, or None."""
        text, arguments = self._ready(statement, values)
        with _translated(), tracing.statement(text):
            return await self._driver.fetchval(text, *arguments)

    async def script(self, sql: str) -> None:
        """Send SQL of our own making, without parameters, in one round trip."""
        self.statements += 1
        with _translated(), tracing.statement(sql):
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
            with tracing.statement("COMMIT"):
                ended: str = await self._driver.execute("COMMIT")
        except UNREACHABLE as error:
            raise OutcomeUnknown from error
        except asyncpg.PostgresError as error:
            raise _translation(error) or error from error
        if ended != "COMMIT":  # PostgreSQL's answer when a statement before had failed, and somebody went on
            message = f"The transaction was to be committed and ended with {ended}."
            raise RuntimeError(message)

    async def rollback(self) -> None:
        """Roll back."""
        await self._driver.execute("ROLLBACK", timeout=CHECKOUT_SECONDS)

    @property
    def is_open(self) -> bool:
        """Tell whether a transaction is under way (neither committed nor rolled back)."""
        return bool(self._driver.is_in_transaction())


class Database:
    """An address and a role: opens transactions confined to one partner."""

    def __init__(self, url: str, role: str, *, pool_size: int = 8, pooler: str = "none", statement_seconds: int | None = STATEMENT_SECONDS) -> None:
        """Open nothing yet. `statement_seconds` bounds each statement; None: it takes as long as it takes."""
        parsed = make_url(url)
        settings = {**SESSION, "statement_timeout": f"{statement_seconds or 0}s"}
        if parsed.username != role:
            settings["role"] = role
        self.role = role
        self._size = pool_size
        self._pool: asyncpg.Pool | None = None
        self._options: dict[str, Any] = {
            "dsn": parsed.set(drivername="postgresql").render_as_string(hide_password=False),
            "server_settings": settings,
            "timeout": CHECKOUT_SECONDS,
            "command_timeout": statement_seconds,
            "statement_cache_size": 0 if pooler == "transaction" else STATEMENTS_KEPT,
            "max_cached_statement_lifetime": 0,
        }

    @asynccontextmanager
    async def transaction(self, partner_id: UUID | None) -> AsyncIterator[Connection]:
        """Open a transaction confined to a partner (None: shared tables only). Whoever does not commit rolls back."""
        pool, driver = await self._opened(partner_id)
        connection = Connection(driver, partner_id)
        try:
            yield connection
        finally:
            try:
                if connection.is_open:
                    await connection.rollback()
            except BaseException as error:
                _cut(driver)  # whatever broke, this connection is not fit for the pool
                if not isinstance(error, Exception):
                    raise
            finally:
                await pool.release(driver)

    async def close(self) -> None:
        """Close every connection. What still hangs is cut off."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CHECKOUT_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def _opened(self, partner_id: UUID | None) -> tuple[asyncpg.Pool, Any]:
        """Check out and begin within the time that an answer may take; connections that died with the server are tried anew. Raises DatabaseAway."""
        begin = "BEGIN" if partner_id is None else f"BEGIN; SET LOCAL app.partner_id = '{UUID(str(partner_id))}'"
        try:
            pool = self._pool or await self._made()
            for _ in range(self._size + 1):
                driver = await pool.acquire(timeout=CHECKOUT_SECONDS)
                try:
                    await driver.execute(begin, timeout=CHECKOUT_SECONDS)
                except BaseException as error:
                    _cut(driver)  # one that hangs is left behind: asking it to stop would itself wait for the hanging server
                    await pool.release(driver)
                    if isinstance(error, TimeoutError) or not isinstance(error, UNREACHABLE):
                        raise
                else:
                    return pool, driver
        except (*UNREACHABLE, asyncpg.PostgresError) as error:
            raise DatabaseAway from error
        raise DatabaseAway

    async def _made(self) -> asyncpg.Pool:
        """Make the pool, in the loop that it belongs to; it connects when it is asked."""
        made = asyncpg.create_pool(min_size=0, max_size=self._size, max_queries=1_000_000, init=_readied, reset=_as_it_is, **self._options)
        await made
        if self._pool is None:
            self._pool = made
        return self._pool


def _cut(driver: Any) -> None:
    """Cut a connection off; one that broke by itself has left the pool already, and says so."""
    with suppress(asyncpg.InterfaceError):
        driver.terminate()


async def _readied(driver: Any) -> None:
    """Let a new connection read and write JSON as the service does; what is written comes as text (store/statements.py).

    In a transaction: behind a pooler the driver's two steps of a statement would else reach two servers.
    """
    async with driver.transaction():
        for name, head in (("json", b""), ("jsonb", b"\x01")):  # jsonb has a version before it on the wire
            await driver.set_type_codec(
                name,
                schema="pg_catalog",
                format="binary",
                encoder=lambda text, head=head: head + text.encode(),
                decoder=lambda sent, head=head: orjson.loads(sent[len(head) :]),
            )


async def _as_it_is(_driver: Any) -> None:
    """Leave a connection as it is when it goes back: nothing here sets what outlives a transaction."""


class _translated:  # noqa: N801 - reads as a word in `with _translated():`
    """Turn the driver's errors into those that callers know."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        known = _translation(error)
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
    if isinstance(error, UNREACHABLE) and state == "":
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


def clock(now: Callable[[], datetime]) -> datetime:
    """Return the present moment, cut to milliseconds: what the wire shows is what the database keeps."""
    moment = now()
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
