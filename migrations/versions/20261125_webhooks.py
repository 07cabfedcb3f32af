"""Webhook endpoints, their secrets and positions, and every delivery.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import confine, grant

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TABLES = ["webhook_endpoint", "webhook_secret", "webhook_position", "webhook_delivery"]


def upgrade() -> None:
    """Create the tables, confine them, and grant what each role needs."""
    op.create_table(
        "webhook_endpoint",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("event_types", JSONB(none_as_null=True), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("disabled_because", sa.Text(), nullable=True),
        sa.Column("disabled_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("disabled_because IN ('failing', 'gone')", name=op.f("ck_webhook_endpoint_disabled_because")),
        sa.CheckConstraint("status IN ('enabled', 'paused', 'disabled')", name=op.f("ck_webhook_endpoint_status")),
        sa.CheckConstraint("version > 0", name=op.f("ck_webhook_endpoint_version")),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_webhook_endpoint_partner")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_webhook_endpoint")),
    )

    op.create_table(
        "webhook_delivery",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=True),
        sa.Column("entity_id", sa.Uuid(), nullable=True),
        sa.Column("entity_version", sa.Integer(), nullable=True),
        sa.Column("patient_id", sa.Uuid(), nullable=True),
        sa.Column("episode_id", sa.Uuid(), nullable=True),
        sa.Column("happened_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("urgent", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("claim", sa.Uuid(), nullable=True),
        sa.Column("give_up_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("claimed_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("log", JSONB(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("status IN ('pending', 'delivered', 'dead')", name=op.f("ck_webhook_delivery_status")),
        sa.CheckConstraint("last_status BETWEEN 100 AND 999", name=op.f("ck_webhook_delivery_last_status")),
        sa.ForeignKeyConstraint(
            ["partner_id", "endpoint_id"], ["webhook_endpoint.partner_id", "webhook_endpoint.id"], name=op.f("fk_webhook_delivery_webhook_endpoint")
        ),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_webhook_delivery")),
        sa.UniqueConstraint("partner_id", "endpoint_id", "seq", name=op.f("uq_webhook_delivery_partner_id_endpoint_id_seq")),
    )

    op.create_index(op.f("ix_webhook_delivery_partner_id_endpoint_id_id"), "webhook_delivery", ["partner_id", "endpoint_id", "id"], unique=False)

    op.create_index(
        "ix_webhook_delivery_waiting",
        "webhook_delivery",
        ["partner_id", "urgent", "next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )

    op.create_table(
        "webhook_position",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("urgent_seq", sa.BigInteger(), nullable=False),
        sa.Column("failing_since", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_success_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["partner_id", "endpoint_id"], ["webhook_endpoint.partner_id", "webhook_endpoint.id"], name=op.f("fk_webhook_position_webhook_endpoint")
        ),
        sa.PrimaryKeyConstraint("partner_id", "endpoint_id", name=op.f("pk_webhook_position")),
    )

    op.create_table(
        "webhook_secret",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["partner_id", "endpoint_id"], ["webhook_endpoint.partner_id", "webhook_endpoint.id"], name=op.f("fk_webhook_secret_webhook_endpoint")
        ),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_webhook_secret")),
    )

    op.create_index(op.f("ix_webhook_secret_partner_id_endpoint_id"), "webhook_secret", ["partner_id", "endpoint_id"], unique=False)

    confine(*TABLES)
    grant("SELECT, INSERT, UPDATE, DELETE", *TABLES)
    grant("SELECT, UPDATE", "webhook_endpoint", to="ipt_worker")
    grant("SELECT, DELETE", "webhook_secret", to="ipt_worker")
    grant("SELECT, INSERT, UPDATE", "webhook_position", to="ipt_worker")
    grant("SELECT, INSERT, UPDATE, DELETE", "webhook_delivery", to="ipt_worker")


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        op.drop_table(table)
