"""Patients and their keys, consents, clinicians, episodes and their care teams."""

import sqlalchemy as sa

from app.domain.lifecycle import STATUSES
from app.domain.people import CARE_ROLES, CONSENT_PURPOSES, FORMATS, SEXES
from app.domain.protection import RESTRICTIONS
from app.domain.protocol_faults import PHASES
from app.store.tables.frame import code, day, document, flag, kept, maybe, moment, partner_table, points_to, sealed, text, whole

patient = partner_table(
    "patient",
    sa.Column("external_ref_bidx", sa.LargeBinary, nullable=True),
    whole("birth_year", 1900, 2100),
    code("sex", SEXES),
    text("locale"),
    text("time_zone"),
    points_to("merged_into"),
    code("restricted_because", RESTRICTIONS, nullable=True),
    flag("legal_hold"),
    moment("erased_at", nullable=True),
    sealed(),
    kept(),
    sa.UniqueConstraint("partner_id", "external_ref_bidx"),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
    sa.ForeignKeyConstraint(["partner_id", "merged_into"], ["patient.partner_id", "patient.id"], name="fk_patient_merged_into"),
    sa.CheckConstraint("merged_into <> id", name="not_into_itself"),
    sa.Index(None, "partner_id", "merged_into"),
)

patient_key = partner_table(
    "patient_key",
    sa.Column("patient_id", sa.Uuid, nullable=False),
    sa.Column("key_version", sa.Integer, nullable=False),
    sa.Column("wrapped", sa.LargeBinary, nullable=True),
    moment("created_at"),
    moment("destroyed_at", nullable=True),
    sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"]),
    key=("patient_id",),
)

consent = partner_table(
    "consent",
    sa.Column("patient_id", sa.Uuid, nullable=False),
    code("purpose", CONSENT_PURPOSES),
    flag("given"),
    text("wording"),
    text("language"),
    code("given_by", ("patient", "guardian")),
    moment("decided_at"),
    sealed(),
    kept(),
    sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"]),
    sa.Index(None, "partner_id", "patient_id", "decided_at"),
)

clinician = partner_table(
    "clinician",
    text("subject"),
    flag("active"),
    kept(),
    sa.UniqueConstraint("partner_id", "subject"),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
)

episode = partner_table(
    "episode",
    sa.Column("patient_id", sa.Uuid, nullable=False),
    text("external_ref", nullable=True),
    text("protocol_code"),
    sa.Column("protocol_version", sa.Integer, nullable=False),
    code("format", FORMATS),
    code("status", STATUSES),
    code("phase", PHASES),
    day("referred_on", nullable=False),
    whole("age_at_referral", 5, 120),
    day("illness_onset_date"),
    code("illness_onset_precision", ("day", "month", "year"), nullable=True),
    whole("lifetime_episodes", 1, 200),
    flag("concurrent_medication"),
    document("diagnoses"),
    document("contraindications", nullable=True),
    flag("risk_screened"),
    moment("ended_at", nullable=True),
    code("ended_as", ("completed", "ended_early"), nullable=True),
    maybe("risk_hold"),
    points_to("continues_episode_id"),
    code("continues_as", ("continuation", "maintenance"), nullable=True),
    maybe("imported"),
    kept(),
    sa.UniqueConstraint("partner_id", "external_ref"),
    sa.ForeignKeyConstraint(["partner_id", "continues_episode_id"], ["episode.partner_id", "episode.id"], name="fk_episode_continues"),
    sa.Index(None, "partner_id", "continues_episode_id"),
    sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"]),
    sa.Index(None, "partner_id", "patient_id"),
    sa.Index("ix_episode_ended", "partner_id", "ended_at", postgresql_where=sa.text("ended_at IS NOT NULL")),
)

care_team = partner_table(
    "care_team",
    sa.Column("patient_id", sa.Uuid, nullable=False),
    sa.Column("episode_id", sa.Uuid, nullable=False),
    sa.Column("clinician_id", sa.Uuid, nullable=False),
    code("role", CARE_ROLES),
    kept(),
    sa.UniqueConstraint("partner_id", "episode_id", "clinician_id"),
    sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"]),
    sa.ForeignKeyConstraint(["partner_id", "clinician_id"], ["clinician.partner_id", "clinician.id"]),
    sa.Index(None, "partner_id", "clinician_id", "episode_id"),
    sa.Index(
        "ix_care_team_one_lead",
        "partner_id",
        "episode_id",
        unique=True,
        postgresql_where=sa.text("role = 'lead'"),
    ),
)
