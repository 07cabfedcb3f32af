"""Groups with their members and sessions, and couples.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import confine, grant

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = ["therapy_group", "group_member", "group_session", "couple"]
APPEND_ONLY: list[str] = []


def upgrade() -> None:
    """Create the tables, confine them, and grant what each role needs."""
    op.create_table(
        "therapy_group",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("external_ref", sa.Text(), nullable=True),
        sa.Column("protocol_code", sa.Text(), nullable=False),
        sa.Column("protocol_version", sa.Integer(), nullable=False),
        sa.Column("lead_clinician_id", sa.Uuid(), nullable=False),
        sa.Column("cover_clinician_id", sa.Uuid(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("starts_on", sa.Date(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("starts_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_therapy_group_starts_on")),
        sa.CheckConstraint("status IN ('forming', 'running', 'ended')", name=op.f("ck_therapy_group_status")),
        sa.CheckConstraint("version > 0", name=op.f("ck_therapy_group_version")),
        sa.ForeignKeyConstraint(["partner_id", "cover_clinician_id"], ["clinician.partner_id", "clinician.id"], name="fk_therapy_group_cover"),
        sa.ForeignKeyConstraint(["partner_id", "lead_clinician_id"], ["clinician.partner_id", "clinician.id"], name="fk_therapy_group_lead"),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_therapy_group_partner")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_therapy_group")),
        sa.UniqueConstraint("partner_id", "external_ref", name=op.f("uq_therapy_group_partner_id_external_ref")),
    )

    op.create_table(
        "group_member",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("episode_id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("joined_on", sa.Date(), nullable=True),
        sa.Column("left_on", sa.Date(), nullable=True),
        sa.Column("confidentiality_agreed_on", sa.Date(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("confidentiality_agreed_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_group_member_confidentiality_agreed_on")),
        sa.CheckConstraint("joined_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_group_member_joined_on")),
        sa.CheckConstraint("left_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_group_member_left_on")),
        sa.CheckConstraint("version > 0", name=op.f("ck_group_member_version")),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"], name=op.f("fk_group_member_episode")),
        sa.ForeignKeyConstraint(
            ["partner_id", "group_id"], ["therapy_group.partner_id", "therapy_group.id"], name=op.f("fk_group_member_therapy_group")
        ),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"], name=op.f("fk_group_member_patient")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_group_member")),
        sa.UniqueConstraint("partner_id", "group_id", "episode_id", name=op.f("uq_group_member_partner_id_group_id_episode_id")),
    )
    op.create_index(op.f("ix_group_member_partner_id_episode_id_id"), "group_member", ["partner_id", "episode_id", "id"], unique=False)

    op.create_table(
        "group_session",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("minutes", sa.Integer(), nullable=True),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("techniques", JSONB(none_as_null=True), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("mode IN ('in_person', 'video', 'phone', 'text')", name=op.f("ck_group_session_mode")),
        sa.CheckConstraint("status IN ('scheduled', 'held', 'missed', 'cancelled')", name=op.f("ck_group_session_status")),
        sa.CheckConstraint("minutes BETWEEN 1 AND 600", name=op.f("ck_group_session_minutes")),
        sa.CheckConstraint("number BETWEEN 1 AND 1000", name=op.f("ck_group_session_number")),
        sa.CheckConstraint("version > 0", name=op.f("ck_group_session_version")),
        sa.ForeignKeyConstraint(
            ["partner_id", "group_id"], ["therapy_group.partner_id", "therapy_group.id"], name=op.f("fk_group_session_therapy_group")
        ),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_group_session")),
        sa.UniqueConstraint("partner_id", "group_id", "number", name=op.f("uq_group_session_partner_id_group_id_number")),
    )

    op.create_table(
        "couple",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("first_episode_id", sa.Uuid(), nullable=False),
        sa.Column("first_relationship_id", sa.Uuid(), nullable=False),
        sa.Column("first_screened_alone_on", sa.Date(), nullable=True),
        sa.Column("first_agreed_on", sa.Date(), nullable=True),
        sa.Column("second_episode_id", sa.Uuid(), nullable=False),
        sa.Column("second_relationship_id", sa.Uuid(), nullable=False),
        sa.Column("second_screened_alone_on", sa.Date(), nullable=True),
        sa.Column("second_agreed_on", sa.Date(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("first_agreed_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_couple_first_agreed_on")),
        sa.CheckConstraint("first_screened_alone_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_couple_first_screened_alone_on")),
        sa.CheckConstraint("second_agreed_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_couple_second_agreed_on")),
        sa.CheckConstraint("second_screened_alone_on BETWEEN '1900-01-01' AND '2100-12-31'", name=op.f("ck_couple_second_screened_alone_on")),
        sa.CheckConstraint("first_episode_id <> second_episode_id", name=op.f("ck_couple_two_episodes")),
        sa.CheckConstraint("version > 0", name=op.f("ck_couple_version")),
        sa.ForeignKeyConstraint(["partner_id", "first_episode_id"], ["episode.partner_id", "episode.id"], name="fk_couple_first_episode"),
        sa.ForeignKeyConstraint(
            ["partner_id", "first_relationship_id"], ["relationship.partner_id", "relationship.id"], name="fk_couple_first_person"
        ),
        sa.ForeignKeyConstraint(["partner_id", "second_episode_id"], ["episode.partner_id", "episode.id"], name="fk_couple_second_episode"),
        sa.ForeignKeyConstraint(
            ["partner_id", "second_relationship_id"], ["relationship.partner_id", "relationship.id"], name="fk_couple_second_person"
        ),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_couple")),
        sa.UniqueConstraint(
            "partner_id", "first_episode_id", "second_episode_id", name=op.f("uq_couple_partner_id_first_episode_id_second_episode_id")
        ),
    )

    confine(*TABLES)
    grant("SELECT, INSERT", *APPEND_ONLY)
    grant("SELECT, INSERT, UPDATE", *(t for t in TABLES if t not in APPEND_ONLY))


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        op.drop_table(table)
