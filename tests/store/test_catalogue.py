"""The rules of isolation and of distribution by partner, held against every table of the real schema."""

import re

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from app.domain.outcome_tables import NETWORKS as POPULATIONS
from app.store.database import Database
from app.store.tables.every import SHARED_TABLES, metadata
from app.store.tables.outcomes import NETWORK_TABLES

POLICY = "(partner_id = (current_setting('app.partner_id'::text))::uuid)"
INSERT_ONLY = {  # the audit login writes many partners' rows in one statement
    (table, "insert_only", "{ipt_audit}", "a", None, "true") for table in ("audit_event", "audit_subject")
}
NETWORKS = "(partner_id = ANY (ARRAY['00000000-0000-7000-8000-00000000a11e'::uuid, '00000000-0000-7000-8000-00000000a11f'::uuid]))"
OPEN_TO_MEMBERS = {  # what a network has released, and what it cost; its two ids are no partner's
    (table, "open_to_members", "{}", "*", NETWORKS, NETWORKS) for table in NETWORK_TABLES
}

TABLES = """
    SELECT c.relname AS name, c.relrowsecurity AS rls, c.relforcerowsecurity AS forced, r.rolname AS owner, c.relkind::text AS kind
    FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
"""
CONSTRAINTS = """
    SELECT t.relname AS table, c.conname AS name, c.contype::text AS type, f.relname AS target,
           ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k(n, o)
                 JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.o) AS columns,
           c.confdeltype::text AS on_delete, c.confupdtype::text AS on_update
    FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid LEFT JOIN pg_class f ON f.oid = c.confrelid
    WHERE t.relnamespace = 'public'::regnamespace AND c.contype IN ('p', 'u', 'x', 'f')
"""
INDEXES = """
    SELECT t.relname AS table, i.relname AS name, x.indisunique AS is_unique,
           (SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum = x.indkey[0]) AS first
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
    WHERE t.relnamespace = 'public'::regnamespace
"""


@pytest.fixture(scope="module")
def ask(database_url):
    import asyncio  # noqa: PLC0415

    def asked(sql):
        async def done():
            engine = create_async_engine(database_url)
            async with engine.connect() as connection:
                rows = (await connection.execute(sa.text(sql))).mappings().all()
            await engine.dispose()
            return [dict(r) for r in rows]

        return asyncio.run(done())

    return asked


def partner_tables(ask):
    return {t["name"] for t in ask(TABLES) if t["name"] not in SHARED_TABLES}


def test_there_are_only_tables_and_the_owner_owns_them(ask):
    found = ask(TABLES)
    assert {t["kind"] for t in found} == {"r"}, "no views, sequences or foreign tables: each would need its own rule"
    assert {t["owner"] for t in found} == {"ipt_owner"}
    assert {t["name"] for t in found} == {t.name for t in metadata.tables.values()} | {"alembic_version"}


def test_row_security_is_forced_with_the_one_policy_on_every_partners_table(ask):
    assert all(t["rls"] and t["forced"] for t in ask(TABLES) if t["name"] not in SHARED_TABLES)
    policies = ask(
        "SELECT c.relname AS table, p.polname AS name, p.polpermissive AS permissive, p.polcmd::text AS command,"
        " ARRAY(SELECT rolname::text FROM pg_roles WHERE oid = ANY(p.polroles))::text AS roles,"
        " pg_get_expr(p.polqual, p.polrelid) AS using, pg_get_expr(p.polwithcheck, p.polrelid) AS check"
        " FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid"
    )
    exceptions = {(p["table"], p["name"], p["roles"], p["command"], p["using"], p["check"]) for p in policies if p["name"] != "confined_to_partner"}
    assert exceptions == INSERT_ONLY | OPEN_TO_MEMBERS
    confined = [p for p in policies if p["name"] == "confined_to_partner"]
    assert {p["table"] for p in confined} == partner_tables(ask)
    assert all((p["using"], p["check"], p["permissive"], p["command"], p["roles"]) == (POLICY, POLICY, True, "*", "{}") for p in confined)


def test_the_networks_that_the_policy_opens_are_those_that_the_service_knows_and_no_role_reads_what_it_must_not(ask):
    assert all(str(network) in NETWORKS for network in POPULATIONS.values())
    rights = ask("SELECT grantee, table_name, privilege_type FROM information_schema.column_privileges WHERE table_schema = 'public'")
    readers = {(r["table_name"], r["grantee"]) for r in rights if r["privilege_type"] == "SELECT" and r["grantee"].startswith("ipt_")}
    readers -= {(table, "ipt_backup") for table, _ in readers}  # a dump is of everything; nobody logs in as its role
    assert {g for t, g in readers if t == "outcome_fact"} <= {"ipt_owner", "ipt_worker"}
    assert {g for t, g in readers if t in {"operator", "operator_proposal"}} <= {"ipt_owner"}


def test_the_allow_list_of_shared_tables_is_short_and_reasoned(ask):
    assert {t["name"] for t in ask(TABLES)} >= set(SHARED_TABLES)
    assert len(SHARED_TABLES) <= 9
    assert all(len(reason) > 20 for reason in SHARED_TABLES.values())


def test_partner_id_leads_every_key_and_is_never_null(ask):
    own = partner_tables(ask)
    constraints = [c for c in ask(CONSTRAINTS) if c["table"] in own]
    assert {c["table"] for c in constraints if c["type"] == "p"} == own, "every table has a primary key"
    assert [c["name"] for c in constraints if c["columns"][0] != "partner_id"] == []
    nullable = ask(
        "SELECT table_name FROM information_schema.columns WHERE column_name = 'partner_id' AND is_nullable = 'YES' AND table_schema = 'public'"
    )
    assert nullable == []
    assert [i["name"] for i in ask(INDEXES) if i["table"] in own and i["first"] != "partner_id"] == []


def test_foreign_keys_neither_null_nor_cascade_and_no_shared_table_points_into_a_partners(ask):
    own = partner_tables(ask)
    keys = [c for c in ask(CONSTRAINTS) if c["type"] == "f"]
    assert keys
    assert {(c["on_delete"], c["on_update"]) for c in keys} == {("a", "a")}
    assert [c["name"] for c in keys if c["table"] not in own and c["target"] in own] == []


def test_no_triggers_identity_columns_defaults_or_definer_functions(ask):
    assert ask("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal") == []
    assert ask("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace") == []
    assert (
        ask(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND (is_identity = 'YES' OR column_default IS NOT NULL)"
        )
        == []
    )


def test_roles_can_do_no_more_than_their_work(ask):
    roles = {
        r["rolname"]: r for r in ask("SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcanlogin FROM pg_roles WHERE rolname LIKE 'ipt_%'")
    }
    for name in ("ipt_service", "ipt_worker", "ipt_audit", "ipt_analyst", "ipt_migrator", "ipt_owner"):
        assert not roles[name]["rolsuper"]
        assert not roles[name]["rolbypassrls"]
        assert not roles[name]["rolcreaterole"]
    assert not roles["ipt_owner"]["rolcanlogin"]
    assert roles["ipt_backup"]["rolbypassrls"]
    assert not roles["ipt_backup"]["rolcanlogin"]
    rights = ask(
        "SELECT grantee, table_name, privilege_type FROM information_schema.role_table_grants WHERE table_schema = 'public' AND grantee LIKE 'ipt_%' AND grantee NOT IN ('ipt_owner', 'ipt_admin')"
    )
    granted = {(r["grantee"], r["table_name"], r["privilege_type"]) for r in rights}
    assert not {g for g in granted if g[2] in {"TRUNCATE", "REFERENCES", "TRIGGER"}}
    assert {(g[1], g[2]) for g in granted if g[0] == "ipt_audit"} == {
        (table, "INSERT") for table in ("audit_event", "audit_subject", "security_event")
    }
    assert {g[1] for g in granted if g[0] == "ipt_service" and g[2] == "DELETE"} == {
        "care_team",
        "client_key",
        "webhook_endpoint",
        "webhook_secret",
        "webhook_position",
        "webhook_delivery",
    }
    append_only = (
        "change",
        "audit_event",
        "audit_subject",
        "audit_seal",
        "erasure",
        "consent",
        "classification",
        "phase_transition",
        "used_assertion",
    )
    assert not {g for g in granted if g[0] == "ipt_service" and g[1] in append_only and g[2] in {"UPDATE", "DELETE"}}


def test_the_service_cannot_make_objects(ask):
    found = ask(
        "SELECT has_schema_privilege('ipt_service', 'public', 'CREATE') AS make,"
        " has_database_privilege('ipt_service', current_database(), 'TEMPORARY') AS temporary"
    )
    assert found == [{"make": False, "temporary": False}]


def test_the_migrations_build_exactly_the_tables_that_the_service_declares(database_url):
    import asyncio  # noqa: PLC0415

    async def differences():
        engine = create_async_engine(database_url)
        async with engine.connect() as connection:
            found = await connection.run_sync(lambda c: compare_metadata(MigrationContext.configure(c, opts={"compare_type": True}), metadata))
        await engine.dispose()
        return found

    assert [d for d in asyncio.run(differences()) if "alembic_version" not in str(d)] == []


def test_checks_in_the_database_are_those_that_the_service_declares(ask):
    declared = {c.name for t in metadata.tables.values() for c in t.constraints if isinstance(c, sa.CheckConstraint)}
    there = {c["conname"] for c in ask("SELECT conname FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace")}
    assert there == declared


def test_every_statement_without_a_partner_fails_loudly_on_every_table(on_database, ask):
    names = sorted(partner_tables(ask))

    async def job(database: Database):
        outcomes = {}
        for name in names:
            try:
                async with database.transaction(None) as connection:
                    await connection.rows(sa.text(f"SELECT 1 FROM {name} LIMIT 1"))
                outcomes[name] = "answered"
            except Exception as error:  # noqa: BLE001
                outcomes[name] = re.sub(r"\s+", " ", str(error))[:300]
        return outcomes

    outcomes = on_database(job)
    assert not [n for n, o in outcomes.items() if "app.partner_id" not in o and "invalid input syntax for type uuid" not in o]
