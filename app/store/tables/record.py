"""The change feed and the audit trail: every write's change, every access's row, and the seals over those rows."""

import sqlalchemy as sa

from app.store.tables.frame import document, moment, partner_table, points_to, text

change_clock = partner_table(
    "change_clock",
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    moment("at"),
    sa.Column("min_seq", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
    key=(),
    postgresql_with={"fillfactor": "20"},
)

change = partner_table(
    "change",
    sa.Column("seq", sa.BigInteger, nullable=False),
    moment("at"),
    text("entity"),
    sa.Column("entity_id", sa.Uuid, nullable=False),
    sa.Column("patient_id", sa.Uuid, nullable=True),
    sa.Column("episode_id", sa.Uuid, nullable=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("op", sa.Text, nullable=False),
    sa.CheckConstraint("op IN ('create', 'update', 'delete', 'grant', 'revoke')", name="op"),
    text("actor"),
    text("client_id"),
    sa.Column("mutation_id", sa.Uuid, nullable=True),
    sa.Column("state", sa.LargeBinary, nullable=True),
    points_to("audience"),
    sa.Index(None, "partner_id", "entity", "entity_id", "version"),
    sa.Index(None, "partner_id", "episode_id", "seq"),
    sa.Index(None, "partner_id", "patient_id", "seq"),
    sa.Index("ix_change_audience", "partner_id", "audience", "seq", postgresql_where=sa.text("audience IS NOT NULL")),
    key=("seq",),
)

audit_event = partner_table(
    "audit_event",
    moment("at"),
    text("client_id"),
    text("person", nullable=True),
    sa.Column("action", sa.Text, nullable=False),
    sa.CheckConstraint("action IN ('create', 'read', 'update', 'delete', 'execute')", name="action"),
    text("route"),
    sa.Column("outcome", sa.Integer, nullable=False),
    text("reason", nullable=True),
    text("request_id"),
    sa.Column("patient_id", sa.Uuid, nullable=True),
    sa.Column("episode_id", sa.Uuid, nullable=True),
    document("resources"),
    sa.Column("sealed_by", sa.BigInteger, nullable=True),
    points_to("device_id"),
    points_to("break_glass_id"),
    document("patients"),
    sa.Column("mac", sa.LargeBinary, nullable=True),
    sa.Index(None, "partner_id", "patient_id", "at"),
    sa.Index(None, "partner_id", "sealed_by", "at"),
)

audit_subject = partner_table(
    "audit_subject",
    sa.Column("patient_id", sa.Uuid, nullable=False),
    sa.Column("event_id", sa.Uuid, nullable=False),
    moment("at"),
    key=("patient_id", "event_id"),
)

audit_seal = partner_table(
    "audit_seal",
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("root", sa.LargeBinary, nullable=False),
    sa.Column("previous", sa.LargeBinary, nullable=False),
    moment("sealed_at"),
    text("kid"),
    text("signature"),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
    key=("number",),
)
