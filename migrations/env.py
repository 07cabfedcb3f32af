"""Runs the migrations as the owner of the schema, under lock and statement timeouts, one transaction per file."""

import asyncio
import os

import sqlalchemy as sa
from alembic import context
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.store.tables.every import metadata

LOCK_TIMEOUT = "3s"
STATEMENT_TIMEOUT = "10min"
ONE_MIGRATION_AT_A_TIME = 4_961_701  # an arbitrary advisory lock key, the same in every process


def run(connection: Connection) -> None:
    """Run what is asked for on one connection; a second process that migrates waits for the first."""
    connection.execute(sa.text(f"SELECT pg_advisory_lock({ONE_MIGRATION_AT_A_TIME})"))
    connection.execute(sa.text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(sa.text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
    if connection.execute(sa.text("SELECT to_regclass('public.alembic_version')")).scalar():  # the first file hands over to the owner
        connection.execute(sa.text("SET ROLE ipt_owner"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_on(url: str) -> None:
    """Open one connection to `url` and run the migrations there."""
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"), poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


url = context.config.attributes.get("url") or os.environ.get("IPT_MIGRATION_DATABASE_URL") or os.environ["IPT_DATABASE_URL"]
asyncio.run(run_on(str(url)))
