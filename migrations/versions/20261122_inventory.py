"""The interpersonal inventory, problems and goals.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import confine, grant

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = ["relationship", "life_event", "problem", "goal"]


def upgrade() -> None:
    """Create the tables, confine them, and grant what each role needs."""
    op.create_table(
        "relationship",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("relation_type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("closeness_now", sa.Integer(), nullable=True),
        sa.Column("closeness_before_onset", sa.Integer(), nullable=True),
        sa.Column("closeness_wished", sa.Integer(), nullable=True),
        sa.Column("contact_frequency", sa.Text(), nullable=True),
        sa.Column("contact_modes", JSONB(none_as_null=True), nullable=False),
        sa.Column("expectation_mismatch", sa.Text(), nullable=True),
        sa.Column("change_wanted_in", sa.Text(), nullable=True),
        sa.Column("support_received_emotional", sa.Integer(), nullable=True),
        sa.Column("support_received_practical", sa.Integer(), nullable=True),
        sa.Column("support_given_emotional", sa.Integer(), nullable=True),
        sa.Column("support_given_practical", sa.Integer(), nullable=True),
        sa.Column("confiding", sa.Integer(), nullable=True),
        sa.Column("conflict_level", sa.Integer(), nullable=True),
        sa.Column("conflict_style", sa.Text(), nullable=True),
        sa.Column("dispute_stage", sa.Text(), nullable=True),
        sa.Column("dispute_setting", sa.Text(), nullable=True),
        sa.Column("patterns", JSONB(none_as_null=True), nullable=False),
        sa.Column("linked_to_onset", sa.Text(), nullable=True),
        sa.Column("safety", sa.Text(), nullable=False),
        sa.Column("death_date", sa.Date(), nullable=True),
        sa.Column("death_date_precision", sa.Text(), nullable=True),
        sa.Column("mourning_signs", JSONB(none_as_null=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("deleted_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("change_wanted_in IN ('self', 'other', 'both')", name=op.f("ck_relationship_change_wanted_in")),
        sa.CheckConstraint("conflict_style IN ('overt', 'covert', 'mixed', 'none')", name=op.f("ck_relationship_conflict_style")),
        sa.CheckConstraint("contact_frequency IN ('daily', 'weekly', 'monthly', 'yearly', 'none')", name=op.f("ck_relationship_contact_frequency")),
        sa.CheckConstraint("death_date BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_relationship_death_date")),
        sa.CheckConstraint("death_date_precision IN ('day', 'month', 'year')", name=op.f("ck_relationship_death_date_precision")),
        sa.CheckConstraint("dispute_setting IN ('marriage', 'family', 'community', 'school', 'work')", name=op.f("ck_relationship_dispute_setting")),
        sa.CheckConstraint("dispute_stage IN ('none', 'renegotiation', 'impasse', 'dissolution')", name=op.f("ck_relationship_dispute_stage")),
        sa.CheckConstraint(
            "expectation_mismatch IN ('none', 'mild', 'moderate', 'severe', 'unknown')", name=op.f("ck_relationship_expectation_mismatch")
        ),
        sa.CheckConstraint("linked_to_onset IN ('none', 'possible', 'clear')", name=op.f("ck_relationship_linked_to_onset")),
        sa.CheckConstraint(
            "relation_type IN ('spouse_partner', 'ex_partner', 'parent', 'step_parent', 'child', 'sibling', 'grandparent', 'in_law', 'godparent', 'co_wife', 'head_of_household', 'other_family', 'friend', 'colleague', 'supervisor', 'subordinate', 'teacher', 'neighbour', 'faith_community', 'carer', 'professional', 'other')",
            name=op.f("ck_relationship_relation_type"),
        ),
        sa.CheckConstraint("safety IN ('none', 'coercion', 'violence', 'stalking', 'safeguarding_child')", name=op.f("ck_relationship_safety")),
        sa.CheckConstraint("source IN ('patient', 'clinician', 'import')", name=op.f("ck_relationship_source")),
        sa.CheckConstraint("status IN ('current', 'past', 'estranged', 'deceased')", name=op.f("ck_relationship_status")),
        sa.CheckConstraint("closeness_before_onset BETWEEN 1 AND 4", name=op.f("ck_relationship_closeness_before_onset")),
        sa.CheckConstraint("closeness_now BETWEEN 1 AND 4", name=op.f("ck_relationship_closeness_now")),
        sa.CheckConstraint("closeness_wished BETWEEN 1 AND 4", name=op.f("ck_relationship_closeness_wished")),
        sa.CheckConstraint("confiding BETWEEN 0 AND 3", name=op.f("ck_relationship_confiding")),
        sa.CheckConstraint("conflict_level BETWEEN 0 AND 3", name=op.f("ck_relationship_conflict_level")),
        sa.CheckConstraint("support_given_emotional BETWEEN 0 AND 3", name=op.f("ck_relationship_support_given_emotional")),
        sa.CheckConstraint("support_given_practical BETWEEN 0 AND 3", name=op.f("ck_relationship_support_given_practical")),
        sa.CheckConstraint("support_received_emotional BETWEEN 0 AND 3", name=op.f("ck_relationship_support_received_emotional")),
        sa.CheckConstraint("support_received_practical BETWEEN 0 AND 3", name=op.f("ck_relationship_support_received_practical")),
        sa.CheckConstraint("version > 0", name=op.f("ck_relationship_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_relationship_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_relationship_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_relationship")),
    )
    op.create_index(op.f("ix_relationship_partner_id_episode_id_id"), "relationship", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "life_event",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("happened_on", sa.Date(), nullable=True),
        sa.Column("happened_on_precision", sa.Text(), nullable=True),
        sa.Column("imminent", sa.Boolean(), nullable=False),
        sa.Column("relationship_id", sa.Uuid(), nullable=True),
        sa.Column("wanted", sa.Boolean(), nullable=True),
        sa.Column("expected", sa.Boolean(), nullable=True),
        sa.Column("adapted", sa.Boolean(), nullable=True),
        sa.Column("linked_to_onset", sa.Text(), nullable=False),
        sa.Column("deleted_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("happened_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_life_event_happened_on")),
        sa.CheckConstraint("happened_on_precision IN ('day', 'month', 'year')", name=op.f("ck_life_event_happened_on_precision")),
        sa.CheckConstraint("linked_to_onset IN ('none', 'possible', 'clear')", name=op.f("ck_life_event_linked_to_onset")),
        sa.CheckConstraint(
            "type IN ('death', 'pregnancy_loss', 'anniversary', 'separation', 'divorce', 'affair_discovered', 'relationship_start', 'marriage', 'birth', 'child_leaves_home', 'parental_separation', 'caregiving_start', 'caregiving_end', 'job_loss', 'job_change', 'promotion', 'retirement', 'education_start', 'education_end', 'course_change', 'relocation', 'migration', 'status_change', 'illness_diagnosis_self', 'illness_other', 'disability', 'loss_of_driving', 'financial_loss', 'legal', 'release', 'coming_out', 'business_change', 'partner_job_change', 'other')",
            name=op.f("ck_life_event_type"),
        ),
        sa.CheckConstraint("version > 0", name=op.f("ck_life_event_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_life_event_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_life_event_patient")),
        sa.ForeignKeyConstraint(
            ["partner_id", "relationship_id"], ["relationship.partner_id", "relationship.id"], name=op.f("fk_life_event_relationship")
        ),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_life_event")),
    )
    op.create_index(op.f("ix_life_event_partner_id_episode_id_id"), "life_event", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "problem",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("area", sa.Text(), nullable=True),
        sa.Column("relationship_ids", JSONB(none_as_null=True), nullable=False),
        sa.Column("severity", sa.Integer(), nullable=True),
        sa.Column("difficulty", sa.Integer(), nullable=True),
        sa.Column("link_to_mood", sa.Integer(), nullable=True),
        sa.Column("readiness", sa.Integer(), nullable=True),
        sa.Column("agreed_focus", sa.Boolean(), nullable=False),
        sa.Column("deleted_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("area IN ('grief', 'role_dispute', 'role_transition', 'interpersonal_deficits')", name=op.f("ck_problem_area")),
        sa.CheckConstraint("difficulty BETWEEN 0 AND 10", name=op.f("ck_problem_difficulty")),
        sa.CheckConstraint("link_to_mood BETWEEN 0 AND 10", name=op.f("ck_problem_link_to_mood")),
        sa.CheckConstraint("readiness BETWEEN 0 AND 10", name=op.f("ck_problem_readiness")),
        sa.CheckConstraint("severity BETWEEN 0 AND 10", name=op.f("ck_problem_severity")),
        sa.CheckConstraint("version > 0", name=op.f("ck_problem_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_problem_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_problem_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_problem")),
    )
    op.create_index(op.f("ix_problem_partner_id_episode_id_id"), "problem", ["partner_id", "episode_id", "id"], unique=False)
    op.create_table(
        "goal",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("term", sa.Text(), nullable=False),
        sa.Column("area", sa.Text(), nullable=True),
        sa.Column("attainment", sa.Integer(), nullable=True),
        sa.Column("met_on", sa.Date(), nullable=True),
        sa.Column("deleted_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("area IN ('grief', 'role_dispute', 'role_transition', 'interpersonal_deficits')", name=op.f("ck_goal_area")),
        sa.CheckConstraint("met_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_goal_met_on")),
        sa.CheckConstraint("term IN ('short', 'long')", name=op.f("ck_goal_term")),
        sa.CheckConstraint("attainment BETWEEN 0 AND 10", name=op.f("ck_goal_attainment")),
        sa.CheckConstraint("version > 0", name=op.f("ck_goal_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_goal_episode")),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_goal_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_goal")),
    )
    op.create_index(op.f("ix_goal_partner_id_episode_id_id"), "goal", ["partner_id", "episode_id", "id"], unique=False)
    confine(
        "relationship",
        "life_event",
        "problem",
        "goal",
    )
    grant("SELECT, INSERT, UPDATE", *TABLES)


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        op.drop_table(table)
