"""What protects a patient: emergency access to a chart, and the erasure of one, with its certificate."""

import sqlalchemy as sa

from app.domain.protection import ERASURE_REQUESTERS, FINDINGS, REVIEWS
from app.store.tables.frame import code, document, kept, moment, partner_table, sealed, text

_OF_PATIENT = ["partner_id", "patient_id"], ["patient.partner_id", "patient.id"]

break_glass = partner_table(
    "break_glass",
    sa.Column("patient_id", sa.Uuid, nullable=False),
    sa.Column("clinician_id", sa.Uuid, nullable=False),
    text("client_id"),
    moment("expires_at"),
    code("status", REVIEWS),
    code("finding", FINDINGS, nullable=True),
    text("reviewed_by", nullable=True),
    moment("reviewed_at", nullable=True),
    sealed(),
    kept(),
    sa.ForeignKeyConstraint(*_OF_PATIENT),
    sa.ForeignKeyConstraint(["partner_id", "clinician_id"], ["clinician.partner_id", "clinician.id"]),
    sa.Index(None, "partner_id", "clinician_id", "expires_at"),
    sa.Index(None, "partner_id", "status", "id"),
)

erasure = partner_table(
    "erasure",
    sa.Column("patient_id", sa.Uuid, nullable=False),
    code("requested_by", ERASURE_REQUESTERS),
    text("ordered_by"),
    moment("key_destroyed_at"),
    moment("rows_erased_at", nullable=True),
    document("counts"),
    kept(),
    sa.ForeignKeyConstraint(*_OF_PATIENT),
    sa.UniqueConstraint("partner_id", "patient_id"),
    sa.Index("ix_erasure_to_do", "partner_id", "id", postgresql_where=sa.text("rows_erased_at IS NULL")),
)
