"""Anonymised outcomes: frozen facts, releases, the privacy budget, extracts, operators.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import confine, grant

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

OF_NETWORKS = ["outcome_quarter", "outcome_release", "outcome_budget", "outcome_spend"]
TABLES = [*OF_NETWORKS, "outcome_fact", "outcome_member", "outcome_extract", "outcome_file", "outcome_link"]
SHARED = ["outcome_job", "operator", "operator_proposal"]
NETWORKS = "partner_id IN ('00000000-0000-7000-8000-00000000a11e'::uuid, '00000000-0000-7000-8000-00000000a11f'::uuid)"


def upgrade() -> None:
    """Create the tables, confine them, open the networks' rows to all, and grant what each role needs."""
    op.create_table(
        "operator",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_operator")),
    )
    op.create_table(
        "operator_proposal",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("proposal", JSONB(none_as_null=True), nullable=False),
        sa.Column("proposed_by", sa.Text(), nullable=False),
        sa.Column("proposed_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("approved_by", JSONB(none_as_null=True), nullable=False),
        sa.Column("approved_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('cap', 'operator', 'membership')", name=op.f("ck_operator_proposal_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operator_proposal")),
    )
    op.create_table(
        "outcome_budget",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("cap", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("cap <= 4000000", name=op.f("ck_outcome_budget_cap")),
        sa.CheckConstraint("spent BETWEEN 0 AND cap", name=op.f("ck_outcome_budget_spent")),
        sa.PrimaryKeyConstraint("partner_id", "quarter", "scope", name=op.f("pk_outcome_budget")),
    )
    op.create_table(
        "outcome_job",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("population", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("ordered_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('release', 'extract')", name=op.f("ck_outcome_job_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outcome_job")),
    )
    op.create_table(
        "outcome_quarter",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("members", JSONB(none_as_null=True), nullable=True),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("frozen_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("partner_id", "quarter", name=op.f("pk_outcome_quarter")),
    )
    op.create_table(
        "outcome_release",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("release_key", sa.LargeBinary(), nullable=False),
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("question", JSONB(none_as_null=True), nullable=False),
        sa.Column("micro_epsilon", sa.BigInteger(), nullable=False),
        sa.Column("standard", sa.Boolean(), nullable=False),
        sa.Column("noisy", JSONB(none_as_null=True), nullable=True),
        sa.Column("accuracy", JSONB(none_as_null=True), nullable=True),
        sa.Column("mechanism", JSONB(none_as_null=True), nullable=True),
        sa.Column("ordered_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("released_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_outcome_release")),
        sa.UniqueConstraint("partner_id", "release_key", name=op.f("uq_outcome_release_partner_id_release_key")),
    )
    op.create_index(op.f("ix_outcome_release_partner_id_quarter"), "outcome_release", ["partner_id", "quarter"], unique=False)
    op.create_table(
        "outcome_spend",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("release_id", sa.Uuid(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("micro_epsilon", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("partner_id", "release_id", "scope", name=op.f("pk_outcome_spend")),
    )
    op.create_table(
        "outcome_extract",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("order", JSONB(none_as_null=True), nullable=False),
        sa.Column("approvals", JSONB(none_as_null=True), nullable=False),
        sa.Column("manifest", JSONB(none_as_null=True), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("ordered_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("decided_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("ready_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("profile IN ('safe_harbor', 'expert')", name=op.f("ck_outcome_extract_profile")),
        sa.CheckConstraint(
            "status IN ('awaiting_approval', 'ordered', 'ready', 'failed', 'cancelled', 'expired')", name=op.f("ck_outcome_extract_status")
        ),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_outcome_extract_partner")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_outcome_extract")),
    )
    op.create_table(
        "outcome_member",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("declared_patients", sa.Integer(), nullable=False),
        sa.Column("joined_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("declared_patients > 0", name=op.f("ck_outcome_member_declared_patients")),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_outcome_member_partner")),
        sa.PrimaryKeyConstraint("partner_id", name=op.f("pk_outcome_member")),
    )
    op.create_table(
        "outcome_fact",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("area", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("age_band", sa.Text(), nullable=False),
        sa.Column("sex", sa.Text(), nullable=False),
        sa.Column("modality", sa.Text(), nullable=False),
        sa.Column("sessions_band", sa.Text(), nullable=False),
        sa.Column("phase_reached", sa.Text(), nullable=False),
        sa.Column("age_decade", sa.Text(), nullable=True),
        sa.Column("ended_in", sa.Text(), nullable=True),
        sa.Column("recovered_within", sa.Text(), nullable=True),
        sa.Column("severity_at_start", sa.Text(), nullable=True),
        sa.Column("completed", sa.Boolean(), nullable=True),
        sa.Column("remitted", sa.Boolean(), nullable=True),
        sa.Column("below_caseness", sa.Boolean(), nullable=True),
        sa.Column("paired_nhs", sa.Boolean(), nullable=True),
        sa.Column("case_nhs", sa.Boolean(), nullable=True),
        sa.Column("recovered_nhs", sa.Boolean(), nullable=True),
        sa.Column("improved_nhs", sa.Boolean(), nullable=True),
        sa.Column("deteriorated_nhs", sa.Boolean(), nullable=True),
        sa.Column("paired_phq9", sa.Boolean(), nullable=True),
        sa.Column("case_phq9", sa.Boolean(), nullable=True),
        sa.Column("recovered_phq9", sa.Boolean(), nullable=True),
        sa.Column("improved_phq9", sa.Boolean(), nullable=True),
        sa.Column("deteriorated_phq9", sa.Boolean(), nullable=True),
        sa.Column("change_phq9", sa.Integer(), nullable=True),
        sa.Column("change_gad7", sa.Integer(), nullable=True),
        sa.CheckConstraint("kind IN ('end', 'follow_up_3', 'follow_up_6')", name=op.f("ck_outcome_fact_kind")),
        sa.CheckConstraint("change_gad7 BETWEEN -21 AND 21", name=op.f("ck_outcome_fact_change_gad7")),
        sa.CheckConstraint("change_phq9 BETWEEN -27 AND 27", name=op.f("ck_outcome_fact_change_phq9")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_outcome_fact_patient")),
        sa.ForeignKeyConstraint(
            ["partner_id", "quarter"], ["outcome_quarter.partner_id", "outcome_quarter.quarter"], name=op.f("fk_outcome_fact_outcome_quarter")
        ),
        sa.PrimaryKeyConstraint("partner_id", "quarter", "kind", "patient_id", name=op.f("pk_outcome_fact")),
        sa.UniqueConstraint("partner_id", "episode_id", "kind", name=op.f("uq_outcome_fact_partner_id_episode_id_kind")),
    )
    op.create_index(op.f("ix_outcome_fact_partner_id_patient_id"), "outcome_fact", ["partner_id", "patient_id"], unique=False)
    op.create_table(
        "outcome_file",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("extract_id", sa.Uuid(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["partner_id", "extract_id"], ["outcome_extract.partner_id", "outcome_extract.id"], name=op.f("fk_outcome_file_outcome_extract")
        ),
        sa.PrimaryKeyConstraint("partner_id", "extract_id", "part", name=op.f("pk_outcome_file")),
    )
    op.create_table(
        "outcome_link",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("extract_id", sa.Uuid(), nullable=False),
        sa.Column("made_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("used_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["partner_id", "extract_id"], ["outcome_extract.partner_id", "outcome_extract.id"], name=op.f("fk_outcome_link_outcome_extract")
        ),
        sa.PrimaryKeyConstraint("partner_id", "digest", name=op.f("pk_outcome_link")),
    )
    op.create_index("ix_episode_ended", "episode", ["partner_id", "ended_at"], postgresql_where=sa.text("ended_at IS NOT NULL"))
    confine(*TABLES)
    for table in OF_NETWORKS:
        op.execute(f"CREATE POLICY open_to_members ON {table} USING ({NETWORKS}) WITH CHECK ({NETWORKS})")
    _grant()
    op.execute(_grant_loader())


def _grant_loader() -> str:
    """Let the loader, where the server has one, fill the tables of whole courses."""
    tables = ", ".join(LOADED)
    return f"""
        DO $$ BEGIN
            IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'ipt_loader') THEN
                GRANT USAGE ON SCHEMA public TO ipt_loader;
                GRANT SELECT ON partner TO ipt_loader;
                GRANT INSERT ON {tables} TO ipt_loader;
            END IF;
        END $$
    """


LOADED = [
    *("patient", "patient_key", "consent", "clinician", "episode", "care_team", "relationship", "life_event", "focus", "focus_area"),
    *("formulation", "contract", "session", "follow_up", "assessment", "termination", "early_ending"),
]


def _grant() -> None:
    grant("SELECT, INSERT", "outcome_release", "outcome_spend", "outcome_extract", "outcome_link")
    grant("SELECT", "outcome_quarter", "outcome_budget", "outcome_file")
    grant("INSERT, UPDATE (spent)", "outcome_budget")
    grant("UPDATE (status, approvals, decided_at)", "outcome_extract")
    grant("UPDATE (used_at)", "outcome_link")
    grant("INSERT", "outcome_job")
    grant("SELECT, INSERT, DELETE", "outcome_fact", "outcome_file", to="ipt_worker")
    grant("SELECT, INSERT", "outcome_quarter", "outcome_spend", to="ipt_worker")
    grant("SELECT, INSERT, UPDATE", "outcome_release", "outcome_budget", to="ipt_worker")
    grant("SELECT", "outcome_member", to="ipt_worker")
    grant("SELECT, UPDATE", "outcome_extract", to="ipt_worker")
    grant("SELECT, DELETE", "outcome_link", to="ipt_worker")
    grant("SELECT, INSERT, DELETE, UPDATE (ordered_at)", "outcome_job", to="ipt_worker")  # UPDATE is what it takes to lock a row
    grant("SELECT (episode_id, number, status, starts_at, mode, entered_in_error)", "session", to="ipt_worker")
    grant(f"SELECT ({', '.join(OF_ASSESSMENTS)})", "assessment", to="ipt_worker")
    grant("SELECT (episode_id, primary_area)", "focus", to="ipt_worker")
    grant("SELECT (id, episode_id, months, status, held_on)", "follow_up", to="ipt_worker")
    grant("SELECT (created_at)", "consent", to="ipt_worker")


OF_ASSESSMENTS = [
    *("id", "episode_id", "instrument", "follow_up_id", "answered_at", "respondent", "partial_sum", "total", "band", "is_case", "missing"),
    *("prorated", "scales", "entered_in_error"),
]


def downgrade() -> None:
    """Drop the tables again."""
    op.execute(_grant_loader().replace("GRANT", "REVOKE").replace(" TO ipt_loader", " FROM ipt_loader"))
    op.drop_index("ix_episode_ended", "episode")
    for table, columns in (
        ("session", "episode_id, number, status, starts_at, mode, entered_in_error"),
        ("assessment", ", ".join(OF_ASSESSMENTS)),
        ("focus", "episode_id, primary_area"),
        ("follow_up", "id, episode_id, months, status, held_on"),
        ("consent", "created_at"),
    ):
        op.execute(f"REVOKE SELECT ({columns}) ON {table} FROM ipt_worker")
    for table in ["outcome_fact", "outcome_file", "outcome_link", "outcome_extract", "outcome_member", *OF_NETWORKS[1:], "outcome_quarter", *SHARED]:
        op.drop_table(table)
