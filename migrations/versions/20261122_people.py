"""Patients and their keys, consents, clinicians, episodes, care teams.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import confine, grant

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = ["patient", "patient_key", "consent", "clinician", "episode", "care_team"]


def upgrade() -> None:
    """Create the tables, confine them, and grant what each role needs."""
    op.create_table(
        "patient",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("external_ref", sa.Text(), nullable=True),
        sa.Column("birth_year", sa.Integer(), nullable=True),
        sa.Column("sex", sa.Text(), nullable=False),
        sa.Column("locale", sa.Text(), nullable=False),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("sex IN ('female', 'male', 'intersex', 'other', 'not_recorded')", name=op.f("ck_patient_sex")),
        sa.CheckConstraint("birth_year BETWEEN 1900 AND 2100", name=op.f("ck_patient_birth_year")),
        sa.CheckConstraint("version > 0", name=op.f("ck_patient_version")),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_patient_partner")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_patient")),
        sa.UniqueConstraint("partner_id", "external_ref", name=op.f("uq_patient_partner_id_external_ref")),
    )
    op.create_table(
        "patient_key",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("key_version", sa.Integer(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("destroyed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_patient_key_patient")),
        sa.PrimaryKeyConstraint("partner_id", "patient_id", name=op.f("pk_patient_key")),
    )
    op.create_table(
        "consent",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("given", sa.Boolean(), nullable=False),
        sa.Column("wording", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("given_by", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("given_by IN ('patient', 'guardian')", name=op.f("ck_consent_given_by")),
        sa.CheckConstraint("purpose IN ('treatment', 'research_analytics', 'data_sharing', 'recording')", name=op.f("ck_consent_purpose")),
        sa.CheckConstraint("version > 0", name=op.f("ck_consent_version")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_consent_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_consent")),
    )
    op.create_index(op.f("ix_consent_partner_id_patient_id_decided_at"), "consent", ["partner_id", "patient_id", "decided_at"], unique=False)
    op.create_table(
        "clinician",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("version > 0", name=op.f("ck_clinician_version")),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_clinician_partner")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_clinician")),
        sa.UniqueConstraint("partner_id", "subject", name=op.f("uq_clinician_partner_id_subject")),
    )
    op.create_table(
        "episode",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("external_ref", sa.Text(), nullable=True),
        sa.Column("protocol_code", sa.Text(), nullable=False),
        sa.Column("protocol_version", sa.Integer(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("referred_on", sa.Date(), nullable=False),
        sa.Column("age_at_referral", sa.Integer(), nullable=True),
        sa.Column("illness_onset_date", sa.Date(), nullable=True),
        sa.Column("illness_onset_precision", sa.Text(), nullable=True),
        sa.Column("lifetime_episodes", sa.Integer(), nullable=True),
        sa.Column("concurrent_medication", sa.Boolean(), nullable=False),
        sa.Column("diagnoses", JSONB(none_as_null=True), nullable=False),
        sa.Column("contraindications", JSONB(none_as_null=True), nullable=True),
        sa.Column("risk_screened", sa.Boolean(), nullable=False),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("format IN ('individual', 'group', 'couple')", name=op.f("ck_episode_format")),
        sa.CheckConstraint("illness_onset_date BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_episode_illness_onset_date")),
        sa.CheckConstraint("illness_onset_precision IN ('day', 'month', 'year')", name=op.f("ck_episode_illness_onset_precision")),
        sa.CheckConstraint("phase IN ('screening', 'initial', 'middle', 'termination', 'follow_up')", name=op.f("ck_episode_phase")),
        sa.CheckConstraint("referred_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_episode_referred_on")),
        sa.CheckConstraint("status IN ('referred', 'active', 'paused', 'completed', 'ended_early', 'closed')", name=op.f("ck_episode_status")),
        sa.CheckConstraint("age_at_referral BETWEEN 5 AND 120", name=op.f("ck_episode_age_at_referral")),
        sa.CheckConstraint("lifetime_episodes BETWEEN 1 AND 200", name=op.f("ck_episode_lifetime_episodes")),
        sa.CheckConstraint("version > 0", name=op.f("ck_episode_version")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_episode_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_episode")),
        sa.UniqueConstraint("partner_id", "external_ref", name=op.f("uq_episode_partner_id_external_ref")),
    )
    op.create_index(op.f("ix_episode_partner_id_patient_id"), "episode", ["partner_id", "patient_id"], unique=False)
    op.create_table(
        "care_team",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("clinician_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("role IN ('lead', 'cover', 'supervisor', 'member')", name=op.f("ck_care_team_role")),
        sa.CheckConstraint("version > 0", name=op.f("ck_care_team_version")),
        sa.ForeignKeyConstraint(["partner_id", "clinician_id"], ["clinician.partner_id", "clinician.id"], name=op.f("fk_care_team_clinician")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_care_team_episode")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_care_team")),
        sa.UniqueConstraint("partner_id", "episode_id", "clinician_id", name=op.f("uq_care_team_partner_id_episode_id_clinician_id")),
    )
    op.create_index("ix_care_team_one_lead", "care_team", ["partner_id", "episode_id"], unique=True, postgresql_where=sa.text("role = 'lead'"))
    op.create_index(op.f("ix_care_team_partner_id_clinician_id_episode_id"), "care_team", ["partner_id", "clinician_id", "episode_id"], unique=False)
    confine(
        "patient",
        "patient_key",
        "consent",
        "clinician",
        "episode",
        "care_team",
    )
    grant("SELECT, INSERT, UPDATE", "patient", "patient_key", "clinician", "episode", "care_team")
    grant("SELECT, INSERT", "consent")
    grant("DELETE", "care_team")


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        op.drop_table(table)
