"""Protocols of a partner's own, and imports of a caseload.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rules import confine, grant

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = ["partner_protocol", "import_job"]
APPEND_ONLY: list[str] = ["partner_protocol", "import_job"]


def upgrade() -> None:
    """Create the tables, confine them, and grant what each role needs."""
    op.create_table(
        "partner_protocol",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("protocol_version", sa.Integer(), nullable=False),
        sa.Column("definition", JSONB(none_as_null=True), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("version > 0", name=op.f("ck_partner_protocol_version")),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_partner_protocol_partner")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_partner_protocol")),
        sa.UniqueConstraint("partner_id", "code", "protocol_version", name=op.f("uq_partner_protocol_partner_id_code_protocol_version")),
    )

    op.create_table(
        "import_job",
        sa.Column("partner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("loaded", sa.Integer(), nullable=False),
        sa.Column("report", JSONB(none_as_null=True), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("status IN ('done', 'refused')", name=op.f("ck_import_job_status")),
        sa.CheckConstraint("loaded BETWEEN 0 AND 10000", name=op.f("ck_import_job_loaded")),
        sa.CheckConstraint("rows BETWEEN 0 AND 10000", name=op.f("ck_import_job_rows")),
        sa.CheckConstraint("version > 0", name=op.f("ck_import_job_version")),
        sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"], name=op.f("fk_import_job_partner")),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_import_job")),
    )

    confine(*TABLES)
    grant("SELECT, INSERT", *APPEND_ONLY)
    grant("SELECT, INSERT, UPDATE", *(t for t in TABLES if t not in APPEND_ONLY))


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        op.drop_table(table)
