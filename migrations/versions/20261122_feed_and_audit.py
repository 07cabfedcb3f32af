"""The change feed and the audit trail.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import confine, grant

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = ["change_clock", "change", "audit_event"]


def upgrade() -> None:
    """Create the tables, confine them, and grant what each role needs."""
    op.create_table(
        "change_clock",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("min_seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_change_clock_partner")),
        sa.PrimaryKeyConstraint("partner_id", name=op.f("pk_change_clock")),
        postgresql_with={"fillfactor": "20"},
    )
    op.create_table(
        "change",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=True),
        sa.Column("episode_id", sa.Uuid(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("op", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("mutation_id", sa.Uuid(), nullable=True),
        sa.Column("state", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("op IN ('create', 'update', 'delete', 'grant', 'revoke')", name=op.f("ck_change_op")),
        sa.PrimaryKeyConstraint("partner_id", "seq", name=op.f("pk_change")),
    )
    op.create_index(op.f("ix_change_partner_id_entity_entity_id_version"), "change", ["partner_id", "entity", "entity_id", "version"], unique=False)
    op.create_index(op.f("ix_change_partner_id_episode_id_seq"), "change", ["partner_id", "episode_id", "seq"], unique=False)
    op.create_table(
        "audit_event",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=True),
        sa.Column("episode_id", sa.Uuid(), nullable=True),
        sa.Column("resources", JSONB(none_as_null=True), nullable=False),
        sa.Column("sealed_by", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("action IN ('create', 'read', 'update', 'delete', 'execute')", name=op.f("ck_audit_event_action")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_audit_event")),
    )
    op.create_index(op.f("ix_audit_event_partner_id_patient_id_at"), "audit_event", ["partner_id", "patient_id", "at"], unique=False)
    op.create_index(op.f("ix_audit_event_partner_id_sealed_by_at"), "audit_event", ["partner_id", "sealed_by", "at"], unique=False)
    confine(
        "change_clock",
        "change",
        "audit_event",
    )
    op.execute("CREATE POLICY insert_only ON audit_event FOR INSERT TO ipt_audit WITH CHECK (true)")
    grant("SELECT, UPDATE", "change_clock")
    grant("SELECT, INSERT", "change", "audit_event")
    grant("INSERT", "audit_event", to="ipt_audit")
    grant("SELECT", "change", "change_clock", "audit_event", to="ipt_worker")
    grant("UPDATE (sealed_by)", "audit_event", to="ipt_worker")


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        op.drop_table(table)
