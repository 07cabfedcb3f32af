"""Devices, the ledger of their mutations, kept conflicts; and whom a row of the feed is for.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

from migrations.rules import confine, grant

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLES = ["device", "sync_mutation", "sync_conflict"]


def upgrade() -> None:
    """Create the tables, confine them, grant what each role needs; widen the feed, the audit trail and the revocations."""
    op.create_table(
        "device",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("person_kind", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("revoked_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.Text(), nullable=True),
        sa.Column("wiped_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_token_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("person_kind IN ('clinician', 'patient')", name=op.f("ck_device_person_kind")),
        sa.CheckConstraint("version > 0", name=op.f("ck_device_version")),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_device_partner")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_device")),
    )

    op.create_index(op.f("ix_device_partner_id_person_id"), "device", ["partner_id", "person_id"], unique=False)

    op.create_table(
        "sync_mutation",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("device_id", sa.Uuid(), nullable=False),
        sa.Column("mutation_id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=True),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("conflict_id", sa.Uuid(), nullable=True),
        sa.Column("problem", sa.LargeBinary(), nullable=True),
        sa.Column("occurred_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("outcome IN ('applied', 'merged', 'conflict', 'rejected')", name=op.f("ck_sync_mutation_outcome")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_sync_mutation_patient")),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_sync_mutation_partner")),
        sa.PrimaryKeyConstraint("partner_id", "device_id", "mutation_id", name=op.f("pk_sync_mutation")),
    )

    op.create_index(op.f("ix_sync_mutation_partner_id_at"), "sync_mutation", ["partner_id", "at"], unique=False)

    op.create_table(
        "sync_conflict",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("op", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("base_version", sa.Integer(), nullable=True),
        sa.Column("server_version", sa.Integer(), nullable=True),
        sa.Column("device_id", sa.Uuid(), nullable=False),
        sa.Column("mutation_id", sa.Uuid(), nullable=False),
        sa.Column("occurred_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("sent_by", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.Column("resolved_by", sa.Uuid(), nullable=True),
        sa.Column("resolved_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("op IN ('create', 'update', 'delete', 'command')", name=op.f("ck_sync_conflict_op")),
        sa.CheckConstraint("reason IN ('same_field', 'changed', 'deleted', 'base_unknown', 'rule')", name=op.f("ck_sync_conflict_reason")),
        sa.CheckConstraint("resolution IN ('keep_server', 'take_client', 'merge')", name=op.f("ck_sync_conflict_resolution")),
        sa.CheckConstraint("status IN ('open', 'resolved')", name=op.f("ck_sync_conflict_status")),
        sa.CheckConstraint("version > 0", name=op.f("ck_sync_conflict_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_sync_conflict_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_sync_conflict_patient")),
        sa.ForeignKeyConstraint(["partner_id", "resolved_by"], ["clinician.partner_id", "clinician.id"], name="fk_sync_conflict_resolved"),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_sync_conflict")),
        sa.UniqueConstraint("partner_id", "device_id", "mutation_id", name=op.f("uq_sync_conflict_partner_id_device_id_mutation_id")),
    )

    op.create_index(op.f("ix_sync_conflict_partner_id_episode_id_id"), "sync_conflict", ["partner_id", "episode_id", "id"], unique=False)

    op.create_index(op.f("ix_sync_conflict_partner_id_status_id"), "sync_conflict", ["partner_id", "status", "id"], unique=False)

    op.add_column("audit_event", sa.Column("device_id", sa.Uuid(), nullable=True))

    op.add_column("change", sa.Column("audience", sa.Uuid(), nullable=True))

    op.create_index("ix_change_audience", "change", ["partner_id", "audience", "seq"], unique=False, postgresql_where=sa.text("audience IS NOT NULL"))

    op.create_index(op.f("ix_change_partner_id_patient_id_seq"), "change", ["partner_id", "patient_id", "seq"], unique=False)

    op.drop_constraint(op.f("ck_revocation_kind"), "revocation")
    op.create_check_constraint(op.f("ck_revocation_kind"), "revocation", "kind IN ('client', 'clinician', 'patient', 'device', 'token')")
    confine(*TABLES)
    grant("SELECT, INSERT, UPDATE", "device", "sync_conflict")
    grant("SELECT, INSERT", "sync_mutation")
    grant("SELECT, DELETE", "sync_mutation", to="ipt_worker")
    grant("DELETE", "change", to="ipt_worker")


def downgrade() -> None:
    """Drop the tables and columns; revocations of the newer kinds go with them."""
    op.execute("DELETE FROM revocation WHERE kind IN ('patient', 'device')")
    op.drop_constraint(op.f("ck_revocation_kind"), "revocation")
    op.create_check_constraint(op.f("ck_revocation_kind"), "revocation", "kind IN ('client', 'clinician', 'token')")
    op.execute("REVOKE DELETE ON change FROM ipt_worker")
    op.drop_index(op.f("ix_change_partner_id_patient_id_seq"), table_name="change")
    op.drop_index("ix_change_audience", table_name="change")
    op.drop_column("change", "audience")
    op.drop_column("audit_event", "device_id")
    for table in reversed(TABLES):
        op.drop_table(table)
