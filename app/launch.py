"""Getting ready to run: the database (given or embedded), its migrations, the keys. Used by the command line and tests."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config

from app import embedded
from app.actions.operators import ensure_signing_key
from app.api.bearer import utc_now
from app.config import Settings
from app.keys.cipher import create_key_file, read_key_ring
from app.store.database import Database

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def database_for(settings: Settings, *, attach: bool = False) -> Iterator[Settings]:
    """Yield settings whose addresses are set: the given server's, else the embedded one's (started, or attached to)."""
    if settings.database_url is not None:
        yield settings
        return
    running = embedded.attach(settings.home, account=settings.embedded_account) if attach else None
    if running is not None:
        yield _addressed(settings, running)
        return
    server = embedded.start(
        settings.home,
        prefer=settings.postgres,
        account=settings.embedded_account,
        durable=settings.embedded_durable,
    )
    try:
        create_key_file(settings.keys_path)
        yield _addressed(settings, server.url())
    finally:
        server.stop()


def _addressed(settings: Settings, superuser: str) -> Settings:
    """Return the settings with one address for each role of the embedded server."""

    def as_role(role: str) -> str:
        return superuser.replace(f"//{embedded.SUPERUSER}@", f"//{role}@")

    urls = {"database_url": as_role("ipt_service"), "audit_database_url": as_role("ipt_audit"), "migration_database_url": superuser}
    return settings.model_copy(update=urls)


def migrate(settings: Settings) -> None:
    """Bring the database to this release's schema, and make the first signing key if there is none."""
    url = settings.migration_database_url or settings.database_url
    if url is None:
        message = "No database to migrate."
        raise ValueError(message)
    config = Config(str(ROOT / "alembic.ini"))
    config.attributes["url"] = url.replace("postgresql://", "postgresql+asyncpg://")
    command.upgrade(config, "head")
    asyncio.run(_first_key(settings))


async def _first_key(settings: Settings) -> None:
    database = owner_of(settings)
    try:
        await ensure_signing_key(database, read_key_ring(settings.keys_path), utc_now())
    finally:
        await database.close()


def owner_of(settings: Settings) -> Database:
    """Return the database as its owner sees it: for the operator's commands only."""
    url = settings.migration_database_url or settings.database_url
    if url is None:
        message = "No database."
        raise ValueError(message)
    return Database(url, "ipt_owner", pool_size=1)


def share_with_processes(settings: Settings) -> None:
    """Put the addresses into the environment, where further API processes read their settings."""
    for name in ("database_url", "audit_database_url", "migration_database_url"):
        value = getattr(settings, name)
        if value is not None:
            os.environ[f"IPT_{name.upper()}"] = value
