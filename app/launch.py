"""Getting ready to run: the database (given or embedded), its migrations, the keys. Used by the command line and tests."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from app import embedded
from app.actions.operators import ensure_signing_key
from app.api.bearer import utc_now
from app.config import Settings
from app.domain.errors import CommandRefused
from app.keys.provider import create_key_file, read_keys
from app.main import key_provider
from app.store.database import Database

ROOT = Path(__file__).resolve().parent.parent
ADDRESSES = ("database_url", "audit_database_url", "worker_database_url", "migration_database_url")
WORKER_ENDS_WITHIN_SECONDS = 20.0  # an attempt to deliver takes 15 at the most


class NoDatabase(CommandRefused):
    """No address of a database was given, or the one that a command needs was not."""


@contextmanager
def database_for(settings: Settings, *, attach: bool = False, make: bool = True) -> Iterator[Settings]:
    """Yield settings whose addresses are set: the given server's, else the embedded one's (started, or attached to).

    Any address that is given means a server of one's own. Without `make`, a home that has no database gets none. Raises NoDatabase.
    """
    if any(getattr(settings, name) is not None for name in ADDRESSES):
        yield settings
        return
    running = embedded.attach(settings.home, account=settings.embedded_account) if attach else None
    if running is not None:
        yield _addressed(settings, running)
        return
    if not make and not embedded.is_made(settings.home):
        raise NoDatabase(
            f"There is no database in {settings.home.absolute()}. Name its folder in IPT_HOME, or a server's in IPT_MIGRATION_DATABASE_URL"
            " (a worker's: IPT_WORKER_DATABASE_URL)."
        )
    server = embedded.start(
        settings.home,
        prefer=settings.postgres,
        account=settings.embedded_account,
        durable=settings.embedded_durable,
    )
    try:
        if settings.keys is None and settings.keys_command is None:
            create_key_file(settings.keys_path)
        yield _addressed(settings, server.url())
    finally:
        server.stop()


def _addressed(settings: Settings, superuser: str) -> Settings:
    """Return the settings with one address for each role of the embedded server."""

    def as_role(role: str) -> str:
        return superuser.replace(f"//{embedded.SUPERUSER}@", f"//{role}@")

    urls = {f"{prefix}database_url": as_role(f"ipt_{role}") for prefix, role in (("", "service"), ("audit_", "audit"), ("worker_", "worker"))}
    return settings.model_copy(update=urls | {"migration_database_url": superuser})


def migrate(settings: Settings) -> None:
    """Bring the database to this release's schema, and make the first signing key if there is none."""
    from alembic import command  # noqa: PLC0415 - a service on a database that is there starts without it
    from alembic.config import Config  # noqa: PLC0415

    url = migrators(settings)
    config = Config(str(ROOT / "alembic.ini"))
    config.attributes["url"] = url
    config.attributes["ring"] = read_keys(key_provider(settings))
    command.upgrade(config, "head")
    asyncio.run(_first_key(settings))


async def _first_key(settings: Settings) -> None:
    database = owner_of(settings)
    try:
        await ensure_signing_key(database, read_keys(key_provider(settings)), utc_now())
    finally:
        await database.close()


def migrators(settings: Settings) -> str:
    """Return the address by which the migrator logs in. Raises NoDatabase."""
    url = settings.migration_database_url or settings.database_url
    if url is None:
        raise NoDatabase("Name the database in IPT_MIGRATION_DATABASE_URL, with the login that migrates it.")
    return url


def named(settings: Settings) -> str:
    """Name the database that a command works on, without a password."""
    url = make_url(migrators(settings)).set(drivername="postgresql", password=None)
    return url.difference_update_query(["password"]).render_as_string(hide_password=False)


def owner_of(settings: Settings) -> Database:
    """Return the database as its owner sees it: for the operator's commands only."""
    return Database(migrators(settings), "ipt_owner", pool_size=1, statement_seconds=None)


def as_it_logs_in(settings: Settings) -> Database:
    """Return the database as the migrator's login sees it, before there is an owner."""
    url = make_url(migrators(settings))
    return Database(url.render_as_string(hide_password=False), url.username or "", pool_size=1, statement_seconds=None)


def run_as_owner(settings: Settings, job: Callable[[Database, Settings], Coroutine[Any, Any, Any]]) -> Any:
    """Run a job as the owner of the schema, and close the database again."""

    async def done() -> Any:
        database = owner_of(settings)
        try:
            return await job(database, settings)
        finally:
            await database.close()

    return asyncio.run(done())


def as_owner(job: Callable[[Database, Settings], Coroutine[Any, Any, Any]]) -> Any:
    """Run a job as the owner of the schema, on the given, running or started database of the environment's settings."""
    with database_for(Settings(), attach=True, make=False) as ready:
        return run_as_owner(ready, job)


@contextmanager
def worker_beside(settings: Settings) -> Iterator[None]:
    """Run the worker as a process of its own beside the API; it goes with this one, however that ends."""
    share_with_processes(settings)
    command = [sys.executable, "-m", "app.cli", "worker", "--beside", str(os.getpid())]
    worker = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "IPT_LOG_LEVEL": settings.log_level})  # noqa: S603 - our own command
    try:
        yield
    finally:
        worker.terminate()
        try:
            worker.wait(WORKER_ENDS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()


def share_with_processes(settings: Settings) -> None:
    """Put the addresses into the environment, where further API processes read their settings."""
    for name in ADDRESSES:
        value = getattr(settings, name)
        if value is not None:
            os.environ[f"IPT_{name.upper()}"] = value
