"""What a partner brings and manages over its whole caseload: protocols of its own, imports."""

import sqlalchemy as sa

from app.store.tables.frame import code, document, flag, kept, partner_table, text, whole

partner_protocol = partner_table(
    "partner_protocol",
    text("code"),
    sa.Column("protocol_version", sa.Integer, nullable=False),
    document("definition"),
    kept(),
    sa.UniqueConstraint("partner_id", "code", "protocol_version"),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
)

import_job = partner_table(
    "import_job",
    flag("dry_run"),
    code("status", ("done", "refused")),
    whole("rows", 0, 10_000, nullable=False),
    whole("loaded", 0, 10_000, nullable=False),
    document("report"),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    kept(),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
)
