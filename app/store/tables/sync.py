"""Devices, the ledger of what they sent, and the edits that could not be taken as they came."""

import sqlalchemy as sa

from app.domain.sync import DEVICE_PEOPLE, OPERATIONS, OUTCOMES, REASONS, RESOLUTIONS
from app.store.tables.frame import chart_table, code, kept, moment, partner_table, points_to, text

device = partner_table(
    "device",
    text("client_id"),
    code("person_kind", DEVICE_PEOPLE),
    sa.Column("person_id", sa.Uuid, nullable=False),
    text("label", nullable=True),
    moment("revoked_at", nullable=True),
    text("revoked_by", nullable=True),
    moment("wiped_at", nullable=True),
    moment("last_token_at"),
    kept(),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
    sa.Index(None, "partner_id", "person_id"),
)

sync_mutation = partner_table(
    "sync_mutation",
    sa.Column("device_id", sa.Uuid, nullable=False),
    sa.Column("mutation_id", sa.Uuid, nullable=False),
    points_to("patient_id"),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    code("outcome", OUTCOMES),
    text("entity"),
    sa.Column("entity_id", sa.Uuid, nullable=False),
    points_to("conflict_id"),
    sa.Column("problem", sa.LargeBinary, nullable=True),
    moment("occurred_at", nullable=True),
    moment("at"),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
    sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"]),
    sa.Index(None, "partner_id", "at"),
    key=("device_id", "mutation_id"),
)

sync_conflict = chart_table(
    "sync_conflict",
    text("entity"),
    sa.Column("entity_id", sa.Uuid, nullable=False),
    code("op", OPERATIONS),
    code("reason", REASONS),
    sa.Column("base_version", sa.Integer, nullable=True),
    sa.Column("server_version", sa.Integer, nullable=True),
    sa.Column("device_id", sa.Uuid, nullable=False),
    sa.Column("mutation_id", sa.Uuid, nullable=False),
    moment("occurred_at", nullable=True),
    text("sent_by"),
    code("status", ("open", "resolved")),
    code("resolution", RESOLUTIONS, nullable=True),
    points_to("resolved_by"),
    moment("resolved_at", nullable=True),
    extra=[
        sa.UniqueConstraint("partner_id", "device_id", "mutation_id"),
        sa.ForeignKeyConstraint(["partner_id", "resolved_by"], ["clinician.partner_id", "clinician.id"], name="fk_sync_conflict_resolved"),
        sa.Index(None, "partner_id", "status", "id"),
    ],
)
