"""Roles: an owner that nobody logs in as, and one role for each kind of work.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROLES = {
    "ipt_owner": "NOLOGIN",
    "ipt_migrator": "LOGIN",
    "ipt_service": "LOGIN",
    "ipt_worker": "LOGIN",
    "ipt_audit": "LOGIN",
    "ipt_analyst": "LOGIN",
}
BYPASSING = {"ipt_loader": "restores dumps", "ipt_backup": "takes dumps"}


def upgrade() -> None:
    """Create the roles (they belong to the cluster, so they may be there) and hand the schema to the owner."""
    for name, login in ROLES.items():
        op.execute(create_role(name, f"{login} NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"))
    for name in BYPASSING:
        op.execute(create_role(name, "NOLOGIN NOSUPERUSER BYPASSRLS", optional=True))
    op.execute(owner_member("CURRENT_USER", "current_user"))
    op.execute(owner_member("ipt_migrator", "'ipt_migrator'"))
    op.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    op.execute("GRANT USAGE, CREATE ON SCHEMA public TO ipt_owner")
    op.execute("GRANT USAGE ON SCHEMA public TO ipt_service, ipt_worker, ipt_audit, ipt_analyst")
    op.execute(_temporary_tables_revoked())
    op.execute("GRANT SELECT ON alembic_version TO ipt_service, ipt_worker")
    op.execute("ALTER TABLE alembic_version OWNER TO ipt_owner")
    op.execute("SET ROLE ipt_owner")


def downgrade() -> None:
    """Leave the roles: other databases of the cluster may use them."""
    op.execute("RESET ROLE")


def create_role(name: str, options: str, *, optional: bool = False) -> str:
    """Create a role unless it is there; another database's migration may be doing the same at this moment."""
    skipped = "WHEN insufficient_privilege THEN RAISE NOTICE 'role not created: needs a superuser';" if optional else ""
    return f"""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{name}') THEN
                CREATE ROLE {name} {options};
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; {skipped}
        END $$
    """


def owner_member(role: str, name: str) -> str:
    """Make a role a member of the owner, unless it is: in another database of the cluster that was done before."""
    return f"DO $$ BEGIN IF NOT pg_has_role({name}, 'ipt_owner', 'MEMBER') THEN GRANT ipt_owner TO {role}; END IF; END $$"


def _temporary_tables_revoked() -> str:
    return "DO $$ BEGIN EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()); END $$"
