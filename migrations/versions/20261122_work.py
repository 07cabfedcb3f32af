"""Classification, focus, formulation, contract, phases, sessions, assessments, alerts, the ending.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import confine, grant

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = [
    "indicator_set",
    "classification",
    "focus",
    "focus_area",
    "formulation",
    "contract",
    "phase_task",
    "phase_transition",
    "session",
    "follow_up",
    "assessment",
    "risk_alert",
    "termination",
    "early_ending",
]


def upgrade() -> None:
    """Create the tables, confine them, and grant what each role needs."""
    op.create_table(
        "indicator_set",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("answers", JSONB(none_as_null=True), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("version > 0", name=op.f("ck_indicator_set_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_indicator_set_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_indicator_set_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_indicator_set")),
        sa.UniqueConstraint("partner_id", "episode_id", name=op.f("uq_indicator_set_partner_id_episode_id")),
    )
    op.create_index(op.f("ix_indicator_set_partner_id_episode_id_id"), "indicator_set", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "classification",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("ruleset", sa.Text(), nullable=False),
        sa.Column("indicator_version", sa.Integer(), nullable=False),
        sa.Column("answers", JSONB(none_as_null=True), nullable=False),
        sa.Column("result", JSONB(none_as_null=True), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("version > 0", name=op.f("ck_classification_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_classification_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_classification_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_classification")),
    )
    op.create_index(op.f("ix_classification_partner_id_episode_id_id"), "classification", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "focus",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("primary_area", sa.Text(), nullable=False),
        sa.Column("secondary_area", sa.Text(), nullable=True),
        sa.Column("patient_agreed", sa.Boolean(), nullable=False),
        sa.Column("agrees_with_suggestion", sa.Boolean(), nullable=True),
        sa.Column("classification_id", sa.Uuid(), nullable=True),
        sa.Column("decided_by", sa.Uuid(), nullable=False),
        sa.Column("decided_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("flags", JSONB(none_as_null=True), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "primary_area IN ('grief', 'role_dispute', 'role_transition', 'interpersonal_deficits')", name=op.f("ck_focus_primary_area")
        ),
        sa.CheckConstraint(
            "secondary_area IN ('grief', 'role_dispute', 'role_transition', 'interpersonal_deficits')", name=op.f("ck_focus_secondary_area")
        ),
        sa.CheckConstraint("primary_area <> secondary_area", name=op.f("ck_focus_areas_differ")),
        sa.CheckConstraint("version > 0", name=op.f("ck_focus_version")),
        sa.ForeignKeyConstraint(
            ["partner_id", "classification_id"], ["classification.partner_id", "classification.id"], name=op.f("fk_focus_classification")
        ),
        sa.ForeignKeyConstraint(["partner_id", "decided_by"], ["clinician.partner_id", "clinician.id"], name=op.f("fk_focus_clinician")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_focus_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_focus_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_focus")),
        sa.UniqueConstraint("partner_id", "episode_id", name=op.f("uq_focus_partner_id_episode_id")),
    )
    op.create_index(op.f("ix_focus_partner_id_episode_id_id"), "focus", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "focus_area",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("area", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("sub_state", sa.Text(), nullable=True),
        sa.Column("strategies", JSONB(none_as_null=True), nullable=False),
        sa.Column("relationship_id", sa.Uuid(), nullable=True),
        sa.Column("life_event_id", sa.Uuid(), nullable=True),
        sa.Column("patient_progress", sa.Integer(), nullable=True),
        sa.Column("clinician_progress", sa.Integer(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("area IN ('grief', 'role_dispute', 'role_transition', 'interpersonal_deficits')", name=op.f("ck_focus_area_area")),
        sa.CheckConstraint("place IN ('primary', 'secondary')", name=op.f("ck_focus_area_place")),
        sa.CheckConstraint("status IN ('active', 'closed')", name=op.f("ck_focus_area_status")),
        sa.CheckConstraint("clinician_progress BETWEEN 0 AND 10", name=op.f("ck_focus_area_clinician_progress")),
        sa.CheckConstraint("patient_progress BETWEEN 0 AND 10", name=op.f("ck_focus_area_patient_progress")),
        sa.CheckConstraint("version > 0", name=op.f("ck_focus_area_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_focus_area_episode")),
        sa.ForeignKeyConstraint(["partner_id", "life_event_id"], ["life_event.partner_id", "life_event.id"], name=op.f("fk_focus_area_life_event")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_focus_area_patient")),
        sa.ForeignKeyConstraint(
            ["partner_id", "relationship_id"], ["relationship.partner_id", "relationship.id"], name=op.f("fk_focus_area_relationship")
        ),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_focus_area")),
        sa.UniqueConstraint("partner_id", "episode_id", "area", name=op.f("uq_focus_area_partner_id_episode_id_area")),
    )
    op.create_index(op.f("ix_focus_area_partner_id_episode_id_id"), "focus_area", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "formulation",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("areas", JSONB(none_as_null=True), nullable=False),
        sa.Column("told_on", sa.Date(), nullable=True),
        sa.Column("patient_agreed", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("told_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_formulation_told_on")),
        sa.CheckConstraint("version > 0", name=op.f("ck_formulation_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_formulation_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_formulation_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_formulation")),
        sa.UniqueConstraint("partner_id", "episode_id", name=op.f("uq_formulation_partner_id_episode_id")),
    )
    op.create_index(op.f("ix_formulation_partner_id_episode_id_id"), "formulation", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "contract",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("sessions", sa.Integer(), nullable=False),
        sa.Column("frequency", sa.Text(), nullable=False),
        sa.Column("minutes", sa.Integer(), nullable=False),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("ends_on", sa.Date(), nullable=False),
        sa.Column("agreed_on", sa.Date(), nullable=True),
        sa.Column("patient_agreed", sa.Boolean(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("agreed_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_contract_agreed_on")),
        sa.CheckConstraint("ends_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_contract_ends_on")),
        sa.CheckConstraint("frequency IN ('twice_weekly', 'weekly', 'fortnightly', 'monthly')", name=op.f("ck_contract_frequency")),
        sa.CheckConstraint("severity IN ('mild', 'moderate', 'severe')", name=op.f("ck_contract_severity")),
        sa.CheckConstraint("starts_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_contract_starts_on")),
        sa.CheckConstraint("ends_on >= starts_on", name=op.f("ck_contract_order")),
        sa.CheckConstraint("minutes BETWEEN 1 AND 600", name=op.f("ck_contract_minutes")),
        sa.CheckConstraint("sessions BETWEEN 1 AND 200", name=op.f("ck_contract_sessions")),
        sa.CheckConstraint("version > 0", name=op.f("ck_contract_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_contract_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_contract_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_contract")),
        sa.UniqueConstraint("partner_id", "episode_id", name=op.f("uq_contract_partner_id_episode_id")),
    )
    op.create_index(op.f("ix_contract_partner_id_episode_id_id"), "contract", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "phase_task",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("done_on", sa.Date(), nullable=True),
        sa.Column("recorded_by", sa.Uuid(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("done_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_phase_task_done_on")),
        sa.CheckConstraint("status IN ('done', 'waived', 'owed')", name=op.f("ck_phase_task_status")),
        sa.CheckConstraint("version > 0", name=op.f("ck_phase_task_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_phase_task_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_phase_task_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_phase_task")),
        sa.UniqueConstraint("partner_id", "episode_id", "task", name=op.f("uq_phase_task_partner_id_episode_id_task")),
    )
    op.create_index(op.f("ix_phase_task_partner_id_episode_id_id"), "phase_task", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "phase_transition",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("from_phase", sa.Text(), nullable=False),
        sa.Column("to_phase", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("overridden", JSONB(none_as_null=True), nullable=False),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "from_phase IN ('screening', 'initial', 'middle', 'termination', 'follow_up')", name=op.f("ck_phase_transition_from_phase")
        ),
        sa.CheckConstraint("to_phase IN ('screening', 'initial', 'middle', 'termination', 'follow_up')", name=op.f("ck_phase_transition_to_phase")),
        sa.CheckConstraint("version > 0", name=op.f("ck_phase_transition_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_phase_transition_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_phase_transition_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_phase_transition")),
    )
    op.create_index(op.f("ix_phase_transition_partner_id_episode_id_id"), "phase_transition", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "session",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("external_ref", sa.Text(), nullable=True),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("minutes", sa.Integer(), nullable=True),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("attendance", sa.Text(), nullable=True),
        sa.Column("focus_areas", JSONB(none_as_null=True), nullable=False),
        sa.Column("techniques", JSONB(none_as_null=True), nullable=False),
        sa.Column("strategies", JSONB(none_as_null=True), nullable=False),
        sa.Column("mood", sa.Integer(), nullable=True),
        sa.Column("therapist_activity", sa.Integer(), nullable=True),
        sa.Column("patient_initiative", sa.Integer(), nullable=True),
        sa.Column("risk_asked", sa.Boolean(), nullable=False),
        sa.Column("entered_in_error", sa.Boolean(), nullable=False),
        sa.Column("flags", JSONB(none_as_null=True), nullable=False),
        sa.Column("joint_relationship_id", sa.Uuid(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "attendance IN ('attended', 'late_under_15_minutes', 'did_not_attend', 'late_too_late', 'technical_failure', 'cancelled_by_patient', 'cancelled_by_provider')",
            name=op.f("ck_session_attendance"),
        ),
        sa.CheckConstraint("mode IN ('in_person', 'video', 'phone', 'text')", name=op.f("ck_session_mode")),
        sa.CheckConstraint("phase IN ('screening', 'initial', 'middle', 'termination', 'follow_up')", name=op.f("ck_session_phase")),
        sa.CheckConstraint("status IN ('scheduled', 'held', 'missed', 'cancelled')", name=op.f("ck_session_status")),
        sa.CheckConstraint("minutes BETWEEN 1 AND 600", name=op.f("ck_session_minutes")),
        sa.CheckConstraint("mood BETWEEN 0 AND 10", name=op.f("ck_session_mood")),
        sa.CheckConstraint("number BETWEEN 1 AND 1000", name=op.f("ck_session_number")),
        sa.CheckConstraint("patient_initiative BETWEEN 0 AND 10", name=op.f("ck_session_patient_initiative")),
        sa.CheckConstraint("therapist_activity BETWEEN 0 AND 10", name=op.f("ck_session_therapist_activity")),
        sa.CheckConstraint("version > 0", name=op.f("ck_session_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_session_episode")),
        sa.ForeignKeyConstraint(
            ["partner_id", "joint_relationship_id"], ["relationship.partner_id", "relationship.id"], name=op.f("fk_session_relationship")
        ),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_session_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_session")),
    )
    op.create_index(
        "ix_session_external_ref", "session", ["partner_id", "external_ref"], unique=True, postgresql_where=sa.text("NOT entered_in_error")
    )
    op.create_index(
        "ix_session_number",
        "session",
        ["partner_id", "episode_id", "number"],
        unique=True,
        postgresql_where=sa.text("number IS NOT NULL AND NOT entered_in_error"),
    )
    op.create_index(op.f("ix_session_partner_id_episode_id_id"), "session", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "follow_up",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("months", sa.Integer(), nullable=False),
        sa.Column("due_on", sa.Date(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("held_on", sa.Date(), nullable=True),
        sa.Column("patient_initiative", sa.Integer(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("due_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_follow_up_due_on")),
        sa.CheckConstraint("held_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_follow_up_held_on")),
        sa.CheckConstraint("status IN ('booked', 'held', 'missed', 'declined')", name=op.f("ck_follow_up_status")),
        sa.CheckConstraint("months BETWEEN 1 AND 24", name=op.f("ck_follow_up_months")),
        sa.CheckConstraint("patient_initiative BETWEEN 0 AND 10", name=op.f("ck_follow_up_patient_initiative")),
        sa.CheckConstraint("version > 0", name=op.f("ck_follow_up_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_follow_up_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_follow_up_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_follow_up")),
        sa.UniqueConstraint("partner_id", "episode_id", "months", name=op.f("uq_follow_up_partner_id_episode_id_months")),
    )
    op.create_index(op.f("ix_follow_up_partner_id_episode_id_id"), "follow_up", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "assessment",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("instrument_version", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=True),
        sa.Column("follow_up_id", sa.Uuid(), nullable=True),
        sa.Column("answered_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("respondent", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("locale", sa.Text(), nullable=False),
        sa.Column("answers", JSONB(none_as_null=True), nullable=False),
        sa.Column("difficulty", sa.Integer(), nullable=True),
        sa.Column("partial_sum", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=True),
        sa.Column("band", sa.Text(), nullable=True),
        sa.Column("is_case", sa.Boolean(), nullable=True),
        sa.Column("missing", JSONB(none_as_null=True), nullable=False),
        sa.Column("prorated", sa.Boolean(), nullable=False),
        sa.Column("received_late_seconds", sa.BigInteger(), nullable=True),
        sa.Column("clock_ahead_seconds", sa.BigInteger(), nullable=True),
        sa.Column("entered_in_error", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("mode IN ('app', 'web', 'paper', 'phone', 'in_session')", name=op.f("ck_assessment_mode")),
        sa.CheckConstraint("respondent IN ('patient', 'clinician_read_aloud')", name=op.f("ck_assessment_respondent")),
        sa.CheckConstraint("difficulty BETWEEN 0 AND 3", name=op.f("ck_assessment_difficulty")),
        sa.CheckConstraint("version > 0", name=op.f("ck_assessment_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_assessment_episode")),
        sa.ForeignKeyConstraint(["partner_id", "follow_up_id"], ["follow_up.partner_id", "follow_up.id"], name=op.f("fk_assessment_follow_up")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_assessment_patient")),
        sa.ForeignKeyConstraint(["partner_id", "session_id"], ["session.partner_id", "session.id"], name=op.f("fk_assessment_session")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_assessment")),
    )
    op.create_index(op.f("ix_assessment_partner_id_episode_id_id"), "assessment", ["partner_id", "episode_id", "id"], unique=False)
    op.create_index(
        op.f("ix_assessment_partner_id_episode_id_instrument_answered_at"),
        "assessment",
        ["partner_id", "episode_id", "instrument", "answered_at"],
        unique=False,
    )
    op.create_table(
        "risk_alert",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("triggers", JSONB(none_as_null=True), nullable=False),
        sa.Column("responder", sa.Text(), nullable=False),
        sa.Column("secondary_responder", sa.Text(), nullable=True),
        sa.Column("opened_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("due_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("received_late_seconds", sa.BigInteger(), nullable=True),
        sa.Column("acknowledged_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("acknowledged_by", sa.Uuid(), nullable=True),
        sa.Column("closed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("closed_by", sa.Uuid(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('self_harm', 'safeguarding')", name=op.f("ck_risk_alert_kind")),
        sa.CheckConstraint("level IN ('review', 'urgent', 'emergency')", name=op.f("ck_risk_alert_level")),
        sa.CheckConstraint("status IN ('open', 'acknowledged', 'closed')", name=op.f("ck_risk_alert_status")),
        sa.CheckConstraint("version > 0", name=op.f("ck_risk_alert_version")),
        sa.ForeignKeyConstraint(["partner_id", "acknowledged_by"], ["clinician.partner_id", "clinician.id"], name="fk_risk_alert_acknowledged"),
        sa.ForeignKeyConstraint(["partner_id", "closed_by"], ["clinician.partner_id", "clinician.id"], name="fk_risk_alert_closed"),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_risk_alert_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_risk_alert_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_risk_alert")),
    )
    op.create_index(
        "ix_risk_alert_one_open", "risk_alert", ["partner_id", "episode_id", "kind"], unique=True, postgresql_where=sa.text("status <> 'closed'")
    )
    op.create_index(op.f("ix_risk_alert_partner_id_episode_id_id"), "risk_alert", ["partner_id", "episode_id", "id"], unique=False)
    op.create_index(op.f("ix_risk_alert_partner_id_status_due_at"), "risk_alert", ["partner_id", "status", "due_at"], unique=False)
    op.create_table(
        "termination",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("end_date", sa.Date(), nullable=True),
        sa.Column("end_date_told_on", sa.Date(), nullable=True),
        sa.Column("told_at_session", sa.Integer(), nullable=True),
        sa.Column("maintenance_decision", sa.Text(), nullable=True),
        sa.Column("maintenance_reasons", JSONB(none_as_null=True), nullable=False),
        sa.Column("final_assessment", sa.Text(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("end_date BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_termination_end_date")),
        sa.CheckConstraint("end_date_told_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_termination_end_date_told_on")),
        sa.CheckConstraint("final_assessment IN ('planned', 'taken', 'refused', 'unreachable')", name=op.f("ck_termination_final_assessment")),
        sa.CheckConstraint(
            "maintenance_decision IN ('not_needed', 'offered', 'accepted', 'declined')", name=op.f("ck_termination_maintenance_decision")
        ),
        sa.CheckConstraint("told_at_session BETWEEN 1 AND 1000", name=op.f("ck_termination_told_at_session")),
        sa.CheckConstraint("version > 0", name=op.f("ck_termination_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_termination_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_termination_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_termination")),
        sa.UniqueConstraint("partner_id", "episode_id", name=op.f("uq_termination_partner_id_episode_id")),
    )
    op.create_index(op.f("ix_termination_partner_id_episode_id_id"), "termination", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "early_ending",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("ended_on", sa.Date(), nullable=False),
        sa.Column("tasks_done", JSONB(none_as_null=True), nullable=False),
        sa.Column("last_total", sa.Integer(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("ended_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_early_ending_ended_on")),
        sa.CheckConstraint(
            "reason IN ('dropped_out_no_contact', 'moved', 'better_enough', 'not_helpful', 'practical', 'therapist_left', 'service_limit', 'stepped_up', 'crisis_admission', 'safeguarding', 'declined_focus', 'technical', 'deceased', 'unknown')",
            name=op.f("ck_early_ending_reason"),
        ),
        sa.CheckConstraint("version > 0", name=op.f("ck_early_ending_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_early_ending_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_early_ending_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_early_ending")),
        sa.UniqueConstraint("partner_id", "episode_id", name=op.f("uq_early_ending_partner_id_episode_id")),
    )
    op.create_index(op.f("ix_early_ending_partner_id_episode_id_id"), "early_ending", ["partner_id", "episode_id", "id"], unique=False)
    confine(
        "indicator_set",
        "classification",
        "focus",
        "focus_area",
        "formulation",
        "contract",
        "phase_task",
        "phase_transition",
        "session",
        "follow_up",
        "assessment",
        "risk_alert",
        "termination",
        "early_ending",
    )
    grant("SELECT, INSERT", "classification", "phase_transition")
    grant("SELECT, INSERT, UPDATE", *(t for t in TABLES if t not in {"classification", "phase_transition"}))


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        op.drop_table(table)
