"""Trust: references sealed, restriction and hold, emergency access, erasure, seals of the audit trail, proofs of possession.

Revision ID: 0013
Revises: 0012
"""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects.postgresql import JSONB

from app.keys.cipher import KeyRing, place_of
from app.store.audit import mac_of
from migrations.rules import confine, grant

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TABLES = ["audit_subject", "audit_seal", "used_proof", "break_glass", "erasure"]
RESTRICTIONS = "'accuracy_contested', 'processing_unlawful', 'needed_for_claims', 'objection_pending'"
ERASED_WITH_THEIR_PATIENT = [
    *("group_member", "focus", "focus_area", "formulation", "contract", "phase_task", "phase_transition", "session", "follow_up"),
    *("assessment", "risk_alert", "termination", "early_ending", "indicator_set", "classification", "session_note", "addendum"),
    *("change_attempt", "analysis", "medication", "homework", "assessment_request", "indicator_proposal", "status_change"),
    *("relationship", "life_event", "problem", "goal", "consent", "episode", "care_team", "sync_conflict"),
]


def upgrade() -> None:
    """Add columns and tables, seal what stood open, confine, and grant what each role needs."""
    _add_columns()
    op.create_table(
        "audit_subject",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("partner_id", "patient_id", "event_id", name=op.f("pk_audit_subject")),
    )
    op.create_table(
        "audit_seal",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("kid", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_audit_seal_partner")),
        sa.PrimaryKeyConstraint("partner_id", "number", name=op.f("pk_audit_seal")),
    )
    op.create_table(
        "used_proof",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("thumbprint", sa.Text(), nullable=False),
        sa.Column("jti", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("partner_id", "thumbprint", "jti", name=op.f("pk_used_proof")),
    )
    op.create_index(op.f("ix_used_proof_partner_id_expires_at"), "used_proof", ["partner_id", "expires_at"])
    _create_protection()
    confine(*TABLES)
    _seal_references()
    _code_events()
    op.drop_constraint(op.f("uq_patient_partner_id_external_ref"), "patient")
    op.drop_column("patient", "external_ref")
    _grant()


def _add_columns() -> None:
    op.add_column("patient", sa.Column("external_ref_bidx", sa.LargeBinary(), nullable=True))
    op.add_column("patient", sa.Column("restricted_because", sa.Text(), nullable=True))
    op.add_column("patient", sa.Column("legal_hold", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.alter_column("patient", "legal_hold", server_default=None)
    op.add_column("patient", sa.Column("erased_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("patient", sa.Column("sealed", sa.LargeBinary(), nullable=True))
    op.create_check_constraint(op.f("ck_patient_restricted_because"), "patient", f"restricted_because IN ({RESTRICTIONS})")
    op.create_unique_constraint(op.f("uq_patient_partner_id_external_ref_bidx"), "patient", ["partner_id", "external_ref_bidx"])
    op.add_column("partner_setting", sa.Column("retention", JSONB(none_as_null=True), nullable=True))
    op.add_column("partner_setting", sa.Column("consent_age", sa.Integer(), nullable=True))
    op.create_check_constraint(op.f("ck_partner_setting_consent_age"), "partner_setting", "consent_age BETWEEN 10 AND 21")
    op.add_column("audit_event", sa.Column("break_glass_id", sa.Uuid(), nullable=True))
    op.add_column("audit_event", sa.Column("mac", sa.LargeBinary(), nullable=True))
    op.add_column("audit_event", sa.Column("patients", JSONB(none_as_null=True), nullable=False, server_default=sa.text("'[]'::jsonb")))
    op.alter_column("audit_event", "patients", server_default=None)


def _create_protection() -> None:
    op.create_table(
        "break_glass",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("clinician_id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("finding", sa.Text(), nullable=True),
        sa.Column("reviewed_by", sa.Text(), nullable=True),
        sa.Column("reviewed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        *_kept("break_glass"),
        sa.CheckConstraint("status IN ('awaiting_review', 'reviewed')", name=op.f("ck_break_glass_status")),
        sa.CheckConstraint("finding IN ('justified', 'not_justified')", name=op.f("ck_break_glass_finding")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_break_glass_patient")),
        sa.ForeignKeyConstraint(["partner_id", "clinician_id"], ["clinician.partner_id", "clinician.id"], name=op.f("fk_break_glass_clinician")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_break_glass")),
    )
    columns = ["partner_id", "clinician_id", "expires_at"]
    op.create_index(op.f("ix_break_glass_partner_id_clinician_id_expires_at"), "break_glass", columns)
    op.create_index(op.f("ix_break_glass_partner_id_status_id"), "break_glass", ["partner_id", "status", "id"])
    op.create_table(
        "erasure",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("ordered_by", sa.Text(), nullable=False),
        sa.Column("key_destroyed_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("rows_erased_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("counts", JSONB(none_as_null=True), nullable=False),
        *_kept("erasure"),
        sa.CheckConstraint("requested_by IN ('patient', 'guardian', 'partner', 'retention')", name=op.f("ck_erasure_requested_by")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_erasure_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_erasure")),
        sa.UniqueConstraint("partner_id", "patient_id", name=op.f("uq_erasure_partner_id_patient_id")),
    )
    op.create_index("ix_erasure_to_do", "erasure", ["partner_id", "id"], postgresql_where=sa.text("rows_erased_at IS NULL"))


def _kept(table: str) -> list[Any]:
    return [
        sa.Column("version", sa.Integer(), nullable=False),
        sa.CheckConstraint("version > 0", name=op.f(f"ck_{table}_version")),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
    ]


def _grant() -> None:
    grant("SELECT, INSERT", "audit_subject", "used_proof", "erasure")
    grant("SELECT, INSERT, UPDATE", "break_glass")
    grant("SELECT", "audit_seal")
    grant("INSERT", "client", "client_secret", "client_key")
    grant("UPDATE (disabled_at)", "client")
    grant("UPDATE (expires_at)", "client_secret")
    grant("DELETE", "client_key")
    grant("INSERT", "audit_subject", to="ipt_audit")
    op.execute("CREATE POLICY insert_only ON audit_subject FOR INSERT TO ipt_audit WITH CHECK (true)")
    grant("SELECT, INSERT", "audit_subject", "audit_seal", to="ipt_worker")
    grant("SELECT, DELETE", "used_proof", to="ipt_worker")
    grant("SELECT, INSERT, UPDATE", "erasure", to="ipt_worker")
    grant("SELECT, DELETE", "couple", "device", to="ipt_worker")
    grant("SELECT (partner_id, patient_id), DELETE", *ERASED_WITH_THEIR_PATIENT, to="ipt_worker")
    grant(
        "UPDATE (external_ref_bidx, birth_year, sex, locale, time_zone, sealed, merged_into, restricted_because, erased_at, updated_at, version)",
        "patient",
        to="ipt_worker",
    )
    grant("UPDATE (wrapped, key_version, destroyed_at)", "patient_key", to="ipt_worker")
    grant("SELECT (partner_id, patient_id), UPDATE (sealed)", "break_glass", to="ipt_worker")
    grant("SELECT (id, purpose, given, decided_at)", "consent", to="ipt_worker")
    grant("UPDATE (answer, expires_at)", "idempotency_key", to="ipt_worker")
    grant("UPDATE (state)", "change", to="ipt_worker")
    grant("UPDATE (problem)", "sync_mutation", to="ipt_worker")
    grant("UPDATE (secret)", "webhook_secret", to="ipt_worker")
    grant("SELECT, UPDATE (private_sealed)", "signing_key", to="ipt_worker")
    grant("INSERT, UPDATE", "revocation", to="ipt_worker")


def _ring() -> KeyRing:
    """Return the key-encryption keys that whoever migrates has handed over."""
    ring = context.config.attributes.get("ring")
    if not isinstance(ring, KeyRing):
        message = "Patients' references are sealed by this migration: run it with `ipt migrate`, which knows the keys."
        raise TypeError(message)
    return ring


def _each_patient(wanted: str) -> Any:
    """Yield every patient that fits, partner by partner, with its key."""
    connection = op.get_bind()
    for partner_id in connection.execute(sa.text("SELECT partner_id FROM partner")).scalars().all():
        connection.execute(sa.text(f"SET LOCAL app.partner_id = '{UUID(str(partner_id))}'"))
        query = (
            "SELECT p.*, k.wrapped, k.key_version FROM patient p JOIN patient_key k ON k.partner_id = p.partner_id AND k.patient_id = p.id"
            f" WHERE p.partner_id = :partner AND k.wrapped IS NOT NULL AND {wanted}"
        )
        for row in connection.execute(sa.text(query), {"partner": partner_id}).mappings().all():
            yield connection, row, _ring().patient_key(row["partner_id"], row["id"], row["key_version"], row["wrapped"])


def _seal_references() -> None:
    for connection, row, key in _each_patient("p.external_ref IS NOT NULL"):
        values = {
            "sealed": key.seal({"external_ref": row["external_ref"]}, place_of(row["partner_id"], "patient", row["id"], row["version"])),
            "blind": _ring().blind(row["partner_id"], "patient.external_ref", row["external_ref"]),
            "partner": row["partner_id"],
            "id": row["id"],
        }
        connection.execute(
            sa.text("UPDATE patient SET sealed = :sealed, external_ref_bidx = :blind WHERE partner_id = :partner AND id = :id"), values
        )


def _code_events() -> None:
    """Give events that are there the code by which the service knows its own."""
    connection = op.get_bind()
    for partner_id in connection.execute(sa.text("SELECT partner_id FROM partner")).scalars().all():
        connection.execute(sa.text(f"SET LOCAL app.partner_id = '{UUID(str(partner_id))}'"))
        while (
            rows := connection.execute(sa.text("SELECT * FROM audit_event WHERE partner_id = :p AND mac IS NULL LIMIT 1000"), {"p": partner_id})
            .mappings()
            .all()
        ):
            codes = [{"p": partner_id, "id": r["id"], "mac": mac_of(_ring(), dict(r))} for r in rows]
            connection.execute(sa.text("UPDATE audit_event SET mac = :mac WHERE partner_id = :p AND id = :id"), codes)


def downgrade() -> None:
    """Open the references again, and take tables and columns away."""
    op.add_column("patient", sa.Column("external_ref", sa.Text(), nullable=True))
    for connection, row, key in _each_patient("p.sealed IS NOT NULL"):
        opened = key.open(row["sealed"], place_of(row["partner_id"], "patient", row["id"], row["version"]))
        values = {"reference": opened.get("external_ref"), "partner": row["partner_id"], "id": row["id"]}
        connection.execute(sa.text("UPDATE patient SET external_ref = :reference WHERE partner_id = :partner AND id = :id"), values)
    op.create_unique_constraint(op.f("uq_patient_partner_id_external_ref"), "patient", ["partner_id", "external_ref"])
    for column in ("external_ref_bidx", "restricted_because", "legal_hold", "erased_at", "sealed"):
        op.drop_column("patient", column)
    for column in ("retention", "consent_age"):
        op.drop_column("partner_setting", column)
    for column in ("break_glass_id", "mac", "patients"):
        op.drop_column("audit_event", column)
    for table in reversed(TABLES):
        op.drop_table(table)
    for rights, table in (("INSERT", "client"), ("INSERT", "client_secret"), ("INSERT, DELETE", "client_key")):
        op.execute(f"REVOKE {rights} ON {table} FROM ipt_service")
    op.execute("REVOKE UPDATE (disabled_at) ON client FROM ipt_service")
    op.execute("REVOKE UPDATE (expires_at) ON client_secret FROM ipt_service")
