"""Partners, their clients and keys, and what the door remembers."""

import sqlalchemy as sa

from app.store.tables.frame import code, document, flag, kept, metadata, moment, partner_table, text, whole

partner = sa.Table(
    "partner",
    metadata,
    sa.Column("partner_id", sa.Uuid, primary_key=True),
    text("name"),
    *code("kind", ("sandbox", "live")),
    moment("created_at"),
    moment("disabled_at", nullable=True),
)

signing_key = sa.Table(
    "signing_key",
    metadata,
    sa.Column("kid", sa.Text, primary_key=True),
    document("public_jwk"),
    sa.Column("private_sealed", sa.LargeBinary, nullable=False),
    moment("created_at"),
    moment("signs_from"),
    moment("published_until", nullable=True),
)

revocation = sa.Table(
    "revocation",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    *code("kind", ("client", "clinician", "patient", "device", "token")),
    text("value"),
    moment("revoked_at"),
    moment("expires_at", nullable=True),
    sa.UniqueConstraint("kind", "value"),
)

security_event = sa.Table(
    "security_event",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    moment("at"),
    text("what"),
    text("reason"),
    text("claimed_client", nullable=True),
    text("route", nullable=True),
    text("request_id"),
    sa.Index(None, "at"),
)

partner_setting = partner_table(
    "partner_setting",
    text("risk_responder", nullable=True),
    text("secondary_responder", nullable=True),
    document("crisis_text"),
    flag("classifier_on"),
    document("retention", nullable=True),
    whole("consent_age", 10, 21, nullable=True),
    kept(),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
    key=(),
)

client = partner_table(
    "client",
    text("name"),
    document("scopes"),
    moment("created_at"),
    moment("disabled_at", nullable=True),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
    key=("name",),
)
client.c.name.nullable = False

client_secret = partner_table(
    "client_secret",
    text("client_name"),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    moment("created_at"),
    moment("expires_at", nullable=True),
    sa.ForeignKeyConstraint(["partner_id", "client_name"], ["client.partner_id", "client.name"]),
    sa.Index(None, "partner_id", "client_name"),
)

client_key = partner_table(
    "client_key",
    text("client_name"),
    text("kid"),
    document("public_jwk"),
    moment("created_at"),
    sa.ForeignKeyConstraint(["partner_id", "client_name"], ["client.partner_id", "client.name"]),
    key=("client_name", "kid"),
)

used_assertion = partner_table(
    "used_assertion",
    text("client_name"),
    text("jti"),
    moment("expires_at"),
    key=("client_name", "jti"),
)

used_proof = partner_table(
    "used_proof",
    text("thumbprint"),
    text("jti"),
    moment("expires_at"),
    sa.Index(None, "partner_id", "expires_at"),
    key=("thumbprint", "jti"),
)

idempotency_key = partner_table(
    "idempotency_key",
    sa.Column("key_hash", sa.LargeBinary, nullable=False),
    sa.Column("patient_id", sa.Uuid, nullable=True),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    document("headers"),
    sa.Column("answer", sa.LargeBinary, nullable=False),
    moment("created_at"),
    moment("expires_at"),
    sa.Index(None, "partner_id", "expires_at"),
    key=("key_hash",),
)
