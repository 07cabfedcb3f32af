"""Which database this is, so that a restored one is reconciled before it is served; and what a dump may read.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, and note the database as the one that is served. While one is being restored nobody opens it, noted or not (app/store/installation.py)."""
    op.create_table(
        "installation",
        sa.Column("here", sa.Boolean(), nullable=False),
        sa.Column("system_identifier", sa.Text(), nullable=False),
        sa.Column("database_oid", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("here", name=op.f("ck_installation_here")),
        sa.PrimaryKeyConstraint("here", name=op.f("pk_installation")),
    )
    op.execute("GRANT SELECT ON installation TO ipt_service, ipt_worker")
    op.execute(
        "INSERT INTO installation (here, system_identifier, database_oid, opened_at) SELECT true, system_identifier::text, oid, now()"
        " FROM pg_control_system(), pg_database WHERE datname = current_database()"
    )
    op.execute(_granted("GRANT", "TO"))


def downgrade() -> None:
    """Drop it; not while the database waits to be reconciled, for then nothing would tell so any more."""
    op.execute(_REFUSED_UNRECONCILED)
    op.execute(_granted("REVOKE", "FROM"))
    op.drop_table("installation")


_REFUSED_UNRECONCILED = """
    DO $$ BEGIN
        IF to_regnamespace('ipt_restoring') IS NOT NULL OR NOT EXISTS (
            SELECT 1 FROM installation, pg_control_system(), pg_database d
            WHERE d.datname = current_database() AND installation.system_identifier = pg_control_system.system_identifier::text
                AND database_oid = d.oid
        ) THEN
            RAISE EXCEPTION 'This database was restored from a backup, or is a copy of another: run `ipt restore --finish` first.';
        END IF;
    END $$
"""


def _granted(verb: str, to: str) -> str:
    """Let the role that takes dumps read every table, those of later migrations as well; where a superuser has made it."""
    return f"""
        DO $$ BEGIN
            IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'ipt_backup') THEN
                {verb} USAGE ON SCHEMA public {to} ipt_backup;
                {verb} SELECT ON ALL TABLES IN SCHEMA public {to} ipt_backup;
                ALTER DEFAULT PRIVILEGES FOR ROLE ipt_owner IN SCHEMA public {verb} SELECT ON TABLES {to} ipt_backup;
            END IF;
        END $$
    """
