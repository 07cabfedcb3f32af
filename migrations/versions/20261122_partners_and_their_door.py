"""Partners, clients, signing keys, and what the door remembers.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import confine, grant

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = [
    "partner",
    "signing_key",
    "revocation",
    "security_event",
    "partner_setting",
    "client",
    "client_secret",
    "client_key",
    "used_assertion",
    "idempotency_key",
]


def upgrade() -> None:
    """Create the tables, confine them, and grant what each role needs."""
    op.create_table(
        "partner",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('sandbox', 'live')", name=op.f("ck_partner_kind")),
        sa.PrimaryKeyConstraint("partner_id", name=op.f("pk_partner")),
    )
    op.create_table(
        "signing_key",
        sa.Column("kid", sa.Text(), nullable=False),
        sa.Column("public_jwk", JSONB(none_as_null=True), nullable=False),
        sa.Column("private_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("signs_from", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("published_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("kid", name=op.f("pk_signing_key")),
    )
    op.create_table(
        "revocation",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("revoked_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('client', 'clinician', 'token')", name=op.f("ck_revocation_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revocation")),
        sa.UniqueConstraint("kind", "value", name=op.f("uq_revocation_kind_value")),
    )
    op.create_table(
        "security_event",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("claimed_client", sa.Text(), nullable=True),
        sa.Column("route", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_security_event")),
    )
    op.create_index(op.f("ix_security_event_at"), "security_event", ["at"], unique=False)
    op.create_table(
        "partner_setting",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("risk_responder", sa.Text(), nullable=True),
        sa.Column("secondary_responder", sa.Text(), nullable=True),
        sa.Column("crisis_text", JSONB(none_as_null=True), nullable=False),
        sa.Column("classifier_on", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("version > 0", name=op.f("ck_partner_setting_version")),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_partner_setting_partner")),
        sa.PrimaryKeyConstraint("partner_id", name=op.f("pk_partner_setting")),
    )
    op.create_table(
        "client",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", JSONB(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_client_partner")),
        sa.PrimaryKeyConstraint("partner_id", "name", name=op.f("pk_client")),
    )
    op.create_table(
        "client_secret",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("client_name", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["partner_id", "client_name"], ["client.partner_id", "client.name"], name=op.f("fk_client_secret_client")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_client_secret")),
    )
    op.create_index(op.f("ix_client_secret_partner_id_client_name"), "client_secret", ["partner_id", "client_name"], unique=False)
    op.create_table(
        "client_key",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("client_name", sa.Text(), nullable=False),
        sa.Column("kid", sa.Text(), nullable=False),
        sa.Column("public_jwk", JSONB(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["partner_id", "client_name"], ["client.partner_id", "client.name"], name=op.f("fk_client_key_client")),
        sa.PrimaryKeyConstraint("partner_id", "client_name", "kid", name=op.f("pk_client_key")),
    )
    op.create_table(
        "used_assertion",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("client_name", sa.Text(), nullable=False),
        sa.Column("jti", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("partner_id", "client_name", "jti", name=op.f("pk_used_assertion")),
    )
    op.create_table(
        "idempotency_key",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=True),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", JSONB(none_as_null=True), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("partner_id", "key_hash", name=op.f("pk_idempotency_key")),
    )
    op.create_index(op.f("ix_idempotency_key_partner_id_expires_at"), "idempotency_key", ["partner_id", "expires_at"], unique=False)
    confine(
        "partner_setting",
        "client",
        "client_secret",
        "client_key",
        "used_assertion",
        "idempotency_key",
    )
    grant("SELECT", "partner", "signing_key", "client", "client_secret", "client_key")
    grant("SELECT, INSERT", "used_assertion")
    grant("SELECT, INSERT, UPDATE", "revocation")
    grant("SELECT, INSERT, UPDATE", "idempotency_key")
    grant("SELECT, UPDATE", "partner_setting")
    grant("INSERT", "security_event")
    grant("INSERT", "security_event", to="ipt_audit")
    grant("SELECT", "partner", "partner_setting", to="ipt_worker")
    grant("SELECT, DELETE", "used_assertion", "idempotency_key", "revocation", to="ipt_worker")


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        op.drop_table(table)
