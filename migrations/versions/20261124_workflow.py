"""Notes, addenda, analyses, change attempts, homework, medication, requests, proposals, changes of status.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import confine, grant

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLES = [
    "session_note",
    "addendum",
    "change_attempt",
    "analysis",
    "medication",
    "homework",
    "assessment_request",
    "indicator_proposal",
    "status_change",
]
APPEND_ONLY: list[str] = ["addendum", "status_change"]


def upgrade() -> None:
    """Create the tables, confine them, and grant what each role needs."""
    op.create_table(
        "session_note",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("author_id", sa.Uuid(), nullable=False),
        sa.Column("signed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("version > 0", name=op.f("ck_session_note_version")),
        sa.ForeignKeyConstraint(["partner_id", "author_id"], ["clinician.partner_id", "clinician.id"], name=op.f("fk_session_note_clinician")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_session_note_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_session_note_patient")),
        sa.ForeignKeyConstraint(["partner_id", "session_id"], ["session.partner_id", "session.id"], name=op.f("fk_session_note_session")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_session_note")),
        sa.UniqueConstraint("partner_id", "session_id", name=op.f("uq_session_note_partner_id_session_id")),
    )
    op.create_index(op.f("ix_session_note_partner_id_episode_id_id"), "session_note", ["partner_id", "episode_id", "id"], unique=False)

    op.create_table(
        "addendum",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("written_by", sa.Uuid(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("subject IN ('session', 'assessment', 'note')", name=op.f("ck_addendum_subject")),
        sa.CheckConstraint("version > 0", name=op.f("ck_addendum_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_addendum_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_addendum_patient")),
        sa.ForeignKeyConstraint(["partner_id", "written_by"], ["clinician.partner_id", "clinician.id"], name=op.f("fk_addendum_clinician")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_addendum")),
    )
    op.create_index(op.f("ix_addendum_partner_id_episode_id_id"), "addendum", ["partner_id", "episode_id", "id"], unique=False)
    op.create_index(
        op.f("ix_addendum_partner_id_episode_id_subject_subject_id"), "addendum", ["partner_id", "episode_id", "subject", "subject_id"], unique=False
    )

    op.create_table(
        "change_attempt",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("tried_on", sa.Date(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("effect_on_mood", sa.Integer(), nullable=True),
        sa.Column("relationship_id", sa.Uuid(), nullable=True),
        sa.Column("problem_id", sa.Uuid(), nullable=True),
        sa.Column("entered_in_error", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("result IN ('better', 'same', 'worse', 'mixed')", name=op.f("ck_change_attempt_result")),
        sa.CheckConstraint("tried_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_change_attempt_tried_on")),
        sa.CheckConstraint("effect_on_mood BETWEEN -5 AND 5", name=op.f("ck_change_attempt_effect_on_mood")),
        sa.CheckConstraint("version > 0", name=op.f("ck_change_attempt_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_change_attempt_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_change_attempt_patient")),
        sa.ForeignKeyConstraint(["partner_id", "problem_id"], ["problem.partner_id", "problem.id"], name=op.f("fk_change_attempt_problem")),
        sa.ForeignKeyConstraint(
            ["partner_id", "relationship_id"], ["relationship.partner_id", "relationship.id"], name=op.f("fk_change_attempt_relationship")
        ),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_change_attempt")),
    )
    op.create_index(op.f("ix_change_attempt_partner_id_episode_id_id"), "change_attempt", ["partner_id", "episode_id", "id"], unique=False)

    op.create_table(
        "analysis",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("took_place_on", sa.Date(), nullable=True),
        sa.Column("session_id", sa.Uuid(), nullable=True),
        sa.Column("relationship_id", sa.Uuid(), nullable=True),
        sa.Column("entered_in_error", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('communication', 'decision', 'rehearsal')", name=op.f("ck_analysis_kind")),
        sa.CheckConstraint("took_place_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_analysis_took_place_on")),
        sa.CheckConstraint("version > 0", name=op.f("ck_analysis_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_analysis_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_analysis_patient")),
        sa.ForeignKeyConstraint(
            ["partner_id", "relationship_id"], ["relationship.partner_id", "relationship.id"], name=op.f("fk_analysis_relationship")
        ),
        sa.ForeignKeyConstraint(["partner_id", "session_id"], ["session.partner_id", "session.id"], name=op.f("fk_analysis_session")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_analysis")),
    )
    op.create_index(op.f("ix_analysis_partner_id_episode_id_id"), "analysis", ["partner_id", "episode_id", "id"], unique=False)

    op.create_table(
        "medication",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("started_on", sa.Date(), nullable=True),
        sa.Column("stopped_on", sa.Date(), nullable=True),
        sa.Column("entered_in_error", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "kind IN ('antidepressant', 'mood_stabiliser', 'antipsychotic', 'anxiolytic', 'hypnotic', 'stimulant', 'other')",
            name=op.f("ck_medication_kind"),
        ),
        sa.CheckConstraint("started_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_medication_started_on")),
        sa.CheckConstraint("stopped_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_medication_stopped_on")),
        sa.CheckConstraint("stopped_on >= started_on", name=op.f("ck_medication_order")),
        sa.CheckConstraint("version > 0", name=op.f("ck_medication_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_medication_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_medication_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_medication")),
    )
    op.create_index(op.f("ix_medication_partner_id_episode_id_id"), "medication", ["partner_id", "episode_id", "id"], unique=False)

    op.create_table(
        "homework",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("agreed_on", sa.Date(), nullable=True),
        sa.Column("due_on", sa.Date(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("agreed_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_homework_agreed_on")),
        sa.CheckConstraint("due_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_homework_due_on")),
        sa.CheckConstraint("status IN ('agreed', 'done', 'partly_done', 'not_done', 'cancelled')", name=op.f("ck_homework_status")),
        sa.CheckConstraint("version > 0", name=op.f("ck_homework_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_homework_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_homework_patient")),
        sa.ForeignKeyConstraint(["partner_id", "session_id"], ["session.partner_id", "session.id"], name=op.f("fk_homework_session")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_homework")),
    )
    op.create_index(op.f("ix_homework_partner_id_episode_id_id"), "homework", ["partner_id", "episode_id", "id"], unique=False)

    op.create_table(
        "assessment_request",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("respondent", sa.Text(), nullable=False),
        sa.Column("due_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("assessment_id", sa.Uuid(), nullable=True),
        sa.Column("requested_by", sa.Uuid(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("respondent IN ('patient', 'clinician', 'parent', 'partner')", name=op.f("ck_assessment_request_respondent")),
        sa.CheckConstraint("status IN ('open', 'answered', 'cancelled')", name=op.f("ck_assessment_request_status")),
        sa.CheckConstraint("version > 0", name=op.f("ck_assessment_request_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_assessment_request_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_assessment_request_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_assessment_request")),
    )
    op.create_index(op.f("ix_assessment_request_partner_id_episode_id_id"), "assessment_request", ["partner_id", "episode_id", "id"], unique=False)
    op.create_index(op.f("ix_assessment_request_partner_id_status_due_at"), "assessment_request", ["partner_id", "status", "due_at"], unique=False)

    op.create_table(
        "indicator_proposal",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("indicator", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("because", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("relationship_id", sa.Uuid(), nullable=True),
        sa.Column("life_event_id", sa.Uuid(), nullable=True),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("decided_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("origin IN ('inventory', 'text')", name=op.f("ck_indicator_proposal_origin")),
        sa.CheckConstraint("status IN ('open', 'confirmed', 'refused')", name=op.f("ck_indicator_proposal_status")),
        sa.CheckConstraint("value IN ('possible', 'present', 'not_applicable')", name=op.f("ck_indicator_proposal_value")),
        sa.CheckConstraint("version > 0", name=op.f("ck_indicator_proposal_version")),
        sa.ForeignKeyConstraint(["partner_id", "decided_by"], ["clinician.partner_id", "clinician.id"], name=op.f("fk_indicator_proposal_clinician")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_indicator_proposal_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_indicator_proposal_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_indicator_proposal")),
    )
    op.create_index(op.f("ix_indicator_proposal_partner_id_episode_id_id"), "indicator_proposal", ["partner_id", "episode_id", "id"], unique=False)

    op.create_table(
        "status_change",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=False),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("flags", JSONB(none_as_null=True), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "command IN ('pause', 'resume', 'hold_for_risk', 'release_hold', 're_engage', 'close', 'reopen')", name=op.f("ck_status_change_command")
        ),
        sa.CheckConstraint(
            "from_status IN ('referred', 'active', 'paused', 'completed', 'ended_early', 'closed')", name=op.f("ck_status_change_from_status")
        ),
        sa.CheckConstraint(
            "to_status IN ('referred', 'active', 'paused', 'completed', 'ended_early', 'closed')", name=op.f("ck_status_change_to_status")
        ),
        sa.CheckConstraint("version > 0", name=op.f("ck_status_change_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_status_change_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_status_change_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_status_change")),
    )
    op.create_index(op.f("ix_status_change_partner_id_episode_id_id"), "status_change", ["partner_id", "episode_id", "id"], unique=False)

    confine(*TABLES)
    grant("SELECT, INSERT", *APPEND_ONLY)
    grant("SELECT, INSERT, UPDATE", *(t for t in TABLES if t not in APPEND_ONLY))


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        op.drop_table(table)
