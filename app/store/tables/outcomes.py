"""Anonymised outcomes: frozen facts, releases, the privacy budget, extracts; and the operators who alone may raise a budget.

`partner_id` of a quarter, a release, a budget and a spending is the population: a partner, or one of the two networks. A network's rows are
open to every partner by a policy of their own: they hold what has been released to all, and what it cost.
"""

import sqlalchemy as sa

from app.domain.anonymity import PROFILES
from app.domain.outcome_tables import HIGHEST_CAP
from app.store.tables.frame import code, document, flag, maybe, metadata, moment, partner_table, text, whole

KINDS = ("end", "follow_up_3", "follow_up_6")
EXTRACT_STATUSES = ("awaiting_approval", "ordered", "ready", "failed", "cancelled", "expired")
NETWORK_TABLES = ("outcome_quarter", "outcome_release", "outcome_budget", "outcome_spend")

outcome_quarter = partner_table(
    "outcome_quarter",
    text("quarter"),
    sa.Column("schema_version", sa.Integer, nullable=False),
    document("members", nullable=True),
    flag("is_open"),
    moment("frozen_at"),
    key=("quarter",),
)

outcome_fact = partner_table(
    "outcome_fact",
    text("quarter"),
    code("kind", KINDS),
    sa.Column("patient_id", sa.Uuid, nullable=False),
    sa.Column("episode_id", sa.Uuid, nullable=False),
    *(text(name) for name in ("area", "protocol", "age_band", "sex", "modality", "sessions_band", "phase_reached")),
    *(text(name, nullable=True) for name in ("age_decade", "ended_in", "recovered_within", "severity_at_start")),
    *(maybe(name) for name in ("completed", "remitted", "below_caseness")),
    *(maybe(f"{name}_{rule}") for rule in ("nhs", "phq9") for name in ("paired", "case", "recovered", "improved", "deteriorated")),
    whole("change_phq9", -27, 27),
    whole("change_gad7", -21, 21),
    sa.ForeignKeyConstraint(["partner_id", "quarter"], ["outcome_quarter.partner_id", "outcome_quarter.quarter"]),
    sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"]),
    sa.Index(None, "partner_id", "patient_id"),
    sa.UniqueConstraint("partner_id", "episode_id", "kind"),
    key=("quarter", "kind", "patient_id"),
)

outcome_release = partner_table(
    "outcome_release",
    sa.Column("release_key", sa.LargeBinary, nullable=False),
    text("quarter"),
    document("question"),
    sa.Column("micro_epsilon", sa.BigInteger, nullable=False),
    flag("standard"),
    document("noisy", nullable=True),
    document("accuracy", nullable=True),
    document("mechanism", nullable=True),
    moment("ordered_at"),
    moment("released_at", nullable=True),
    sa.UniqueConstraint("partner_id", "release_key"),
    sa.Index(None, "partner_id", "quarter"),
)

outcome_budget = partner_table(
    "outcome_budget",
    text("quarter"),
    text("scope"),
    sa.Column("cap", sa.BigInteger, nullable=False),
    sa.Column("spent", sa.BigInteger, nullable=False),
    sa.CheckConstraint("spent BETWEEN 0 AND cap", name="spent"),
    sa.CheckConstraint(f"cap <= {HIGHEST_CAP}", name="cap"),
    key=("quarter", "scope"),
)

outcome_spend = partner_table(
    "outcome_spend",
    sa.Column("release_id", sa.Uuid, nullable=False),
    text("scope"),
    text("quarter"),
    sa.Column("micro_epsilon", sa.BigInteger, nullable=False),
    moment("at"),
    key=("release_id", "scope"),
)

outcome_member = partner_table(
    "outcome_member",
    sa.Column("declared_patients", sa.Integer, nullable=False),
    sa.CheckConstraint("declared_patients > 0", name="declared_patients"),
    moment("joined_at"),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
    key=(),
)

outcome_extract = partner_table(
    "outcome_extract",
    text("client_id"),
    *code("status", EXTRACT_STATUSES),
    *code("profile", tuple(PROFILES)),
    document("order"),
    document("approvals"),
    document("manifest", nullable=True),
    text("failure", nullable=True),
    moment("ordered_at"),
    moment("decided_at", nullable=True),
    moment("ready_at", nullable=True),
    moment("expires_at", nullable=True),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
)

outcome_file = partner_table(
    "outcome_file",
    sa.Column("extract_id", sa.Uuid, nullable=False),
    sa.Column("part", sa.Integer, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.ForeignKeyConstraint(["partner_id", "extract_id"], ["outcome_extract.partner_id", "outcome_extract.id"]),
    key=("extract_id", "part"),
)

outcome_link = partner_table(
    "outcome_link",
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("extract_id", sa.Uuid, nullable=False),
    moment("made_at"),
    moment("used_at", nullable=True),
    sa.ForeignKeyConstraint(["partner_id", "extract_id"], ["outcome_extract.partner_id", "outcome_extract.id"]),
    key=("digest",),
)

outcome_job = sa.Table(
    "outcome_job",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("population", sa.Uuid, nullable=False),
    *code("kind", ("release", "extract")),
    moment("ordered_at"),
)

operator = sa.Table(
    "operator",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    moment("created_at"),
    moment("disabled_at", nullable=True),
)

operator_proposal = sa.Table(
    "operator_proposal",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    *code("kind", ("cap", "operator", "membership")),
    document("proposal"),
    text("proposed_by"),
    moment("proposed_at"),
    document("approved_by"),
    moment("approved_at", nullable=True),
)
