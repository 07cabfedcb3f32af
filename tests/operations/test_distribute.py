"""Distribution by partner, as far as it can be tried without a cluster: it refuses where Citus is missing, and its plan leaves the schema whole."""

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from app import cli_database
from app.store.database import Database
from app.store.distributing import REFERENCE, CitusMissing, ForeignKey, partner_tables, plan
from app.store.tables.every import metadata
from app.store.tables.frame import SHARED_TABLES
from tests.conftest import Clock, Service, run_sql, settings_of

KEYS = (
    "SELECT conname, conrelid::regclass::text AS tab, pg_get_constraintdef(oid) AS definition, convalidated FROM pg_constraint"
    " WHERE contype = 'f' AND connamespace = 'public'::regnamespace ORDER BY 2, 1"
)


def ask(url, statements, query=None):
    async def done():
        database = Database(url, make_url(url).username, pool_size=1)
        try:
            async with database.transaction(None) as connection:
                for statement in statements:
                    await connection.script(statement)
                found = await connection.rows(sa.text(query)) if query else []
                await connection.commit()
                return found
        finally:
            await database.close()

    return asyncio.run(done())


def test_without_the_extension_it_says_what_is_missing_and_changes_nothing(fresh_database, tmp_path, monkeypatch):
    settings = settings_of(fresh_database, tmp_path)
    monkeypatch.setenv("IPT_MIGRATION_DATABASE_URL", settings.migration_database_url)
    monkeypatch.setenv("IPT_DATABASE_URL", settings.database_url)
    before = ask(fresh_database, [], KEYS)
    with pytest.raises(CitusMissing, match="CREATE EXTENSION citus"):
        cli_database.distribute()
    assert ask(fresh_database, [], KEYS) == before


def test_the_plan_places_every_table_once_and_brings_every_foreign_key_back_as_it_was(fresh_database, tmp_path):
    """The two functions of Citus are stood in for; every other statement runs for real, and the service works afterwards."""
    run_sql(
        fresh_database,
        "CREATE SCHEMA stand_in",
        "CREATE TABLE stand_in.placed (name text PRIMARY KEY, beside text)",
        "CREATE FUNCTION stand_in.create_reference_table(name text) RETURNS void LANGUAGE sql AS"
        " 'INSERT INTO stand_in.placed VALUES (name, ''everywhere'')'",
        "CREATE FUNCTION stand_in.create_distributed_table(name text, by text, colocate_with text DEFAULT 'default') RETURNS void LANGUAGE sql AS"
        " 'INSERT INTO stand_in.placed VALUES (name, colocate_with)'",
    )
    before = ask(fresh_database, [], KEYS)
    assert len(before) > 50
    keys = [ForeignKey(r["conname"], r["tab"], r["definition"]) for r in before]
    statements = ["SET LOCAL search_path = public, stand_in", *(s for s in plan(keys, []) if "propagate_set_commands" not in s)]
    placed = {r["name"]: r["beside"] for r in ask(fresh_database, statements, "SELECT * FROM stand_in.placed")}
    assert set(placed) == {*partner_tables(), *REFERENCE}
    assert {b for n, b in placed.items() if n in partner_tables()[1:]} == {"patient"}
    assert ask(fresh_database, [], KEYS) == before
    service = Service(settings_of(fresh_database, tmp_path), Clock()).start()
    try:
        with service.partner() as partner:
            assert partner.get(f"{partner.add_episode().path}/phase")["phase"] == "screening"
    finally:
        service.stop()


def test_no_partners_table_is_forgotten_and_none_points_to_what_stays_with_the_coordinator():
    own = set(partner_tables())
    assert own == set(metadata.tables) - set(SHARED_TABLES)
    targets = {key.column.table.name for name in own for key in metadata.tables[name].foreign_keys}
    assert targets <= own | set(REFERENCE)
