"""Webhooks: a partner's endpoints, their secrets, how far each has been told, and every delivery with its attempts."""

import sqlalchemy as sa

from app.domain.webhooks import DELIVERY_STATUSES, DISABLED_BECAUSE, ENDPOINT_STATUSES
from app.store.tables.frame import code, document, flag, kept, moment, partner_table, points_to, text, whole

_OF_ENDPOINT = ["partner_id", "endpoint_id"], ["webhook_endpoint.partner_id", "webhook_endpoint.id"]

webhook_endpoint = partner_table(
    "webhook_endpoint",
    text("url"),
    text("description", nullable=True),
    document("event_types"),
    code("status", ENDPOINT_STATUSES),
    code("disabled_because", DISABLED_BECAUSE, nullable=True),
    moment("disabled_at", nullable=True),
    kept(),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
)

webhook_secret = partner_table(
    "webhook_secret",
    sa.Column("endpoint_id", sa.Uuid, nullable=False),
    sa.Column("secret", sa.LargeBinary, nullable=False),
    moment("created_at"),
    moment("expires_at", nullable=True),
    sa.ForeignKeyConstraint(*_OF_ENDPOINT),
    sa.Index(None, "partner_id", "endpoint_id"),
)

webhook_position = partner_table(
    "webhook_position",
    sa.Column("endpoint_id", sa.Uuid, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("urgent_seq", sa.BigInteger, nullable=False),
    moment("failing_since", nullable=True),
    sa.Column("failures", sa.Integer, nullable=False),
    moment("last_success_at", nullable=True),
    sa.ForeignKeyConstraint(*_OF_ENDPOINT),
    key=("endpoint_id",),
)

webhook_delivery = partner_table(
    "webhook_delivery",
    sa.Column("endpoint_id", sa.Uuid, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=True),
    text("type"),
    text("entity", nullable=True),
    points_to("entity_id"),
    sa.Column("entity_version", sa.Integer, nullable=True),
    points_to("patient_id"),
    points_to("episode_id"),
    moment("happened_at"),
    flag("urgent"),
    code("status", DELIVERY_STATUSES),
    sa.Column("attempts", sa.Integer, nullable=False),
    points_to("claim"),
    moment("give_up_at"),
    moment("next_attempt_at"),
    moment("claimed_until", nullable=True),
    whole("last_status", 100, 999),
    text("last_error", nullable=True),
    document("log"),
    moment("created_at"),
    moment("delivered_at", nullable=True),
    sa.ForeignKeyConstraint(*_OF_ENDPOINT),
    sa.UniqueConstraint("partner_id", "endpoint_id", "seq"),
    sa.Index(
        "ix_webhook_delivery_waiting",
        "partner_id",
        "urgent",
        "next_attempt_at",
        postgresql_where=sa.text("status = 'pending'"),
    ),
    sa.Index(None, "partner_id", "endpoint_id", "id"),
)
