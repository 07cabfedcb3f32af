"""The work: indicators, classifications, focus, formulation, contract, phase, sessions, assessments, alerts, ending."""

import sqlalchemy as sa

from app.domain.problem_area import AREAS
from app.domain.protocol_faults import PHASES
from app.domain.risk import KINDS, LEVELS
from app.domain.sessions import ATTENDANCE, MODES, STATUSES
from app.domain.sessions import KINDS as SESSION_KINDS
from app.domain.termination import UNPLANNED_REASONS
from app.store.tables.frame import chart_table, code, day, document, flag, maybe, moment, points_to, text, whole

RESPONDENTS = ("patient", "clinician_read_aloud", "clinician", "parent", "partner")


def _one_per_episode(*more: str) -> list[sa.UniqueConstraint]:
    return [sa.UniqueConstraint("partner_id", "episode_id", *more)]


indicator_set = chart_table("indicator_set", document("answers"), extra=_one_per_episode())

classification = chart_table(
    "classification",
    text("ruleset"),
    sa.Column("indicator_version", sa.Integer, nullable=False),
    document("answers"),
    document("result"),
)

focus = chart_table(
    "focus",
    code("primary_area", AREAS),
    code("secondary_area", AREAS, nullable=True),
    flag("patient_agreed"),
    sa.Column("agrees_with_suggestion", sa.Boolean, nullable=True),
    sa.Column("classification_id", sa.Uuid, nullable=True),
    sa.Column("decided_by", sa.Uuid, nullable=False),
    moment("decided_at"),
    document("flags"),
    sa.CheckConstraint("primary_area <> secondary_area", name="areas_differ"),
    extra=[
        *_one_per_episode(),
        sa.ForeignKeyConstraint(["partner_id", "decided_by"], ["clinician.partner_id", "clinician.id"]),
        sa.ForeignKeyConstraint(["partner_id", "classification_id"], ["classification.partner_id", "classification.id"]),
    ],
)

focus_area = chart_table(
    "focus_area",
    code("area", AREAS),
    code("place", ("primary", "secondary")),
    code("status", ("active", "closed")),
    text("sub_state", nullable=True),
    document("strategies"),
    sa.Column("relationship_id", sa.Uuid, nullable=True),
    sa.Column("life_event_id", sa.Uuid, nullable=True),
    whole("patient_progress", 0, 10),
    whole("clinician_progress", 0, 10),
    extra=[
        *_one_per_episode("area"),
        sa.ForeignKeyConstraint(["partner_id", "relationship_id"], ["relationship.partner_id", "relationship.id"]),
        sa.ForeignKeyConstraint(["partner_id", "life_event_id"], ["life_event.partner_id", "life_event.id"]),
    ],
)

formulation = chart_table(
    "formulation",
    document("areas"),
    day("told_on"),
    flag("patient_agreed"),
    extra=_one_per_episode(),
)

contract = chart_table(
    "contract",
    whole("sessions", 1, 200, nullable=False),
    code("frequency", ("twice_weekly", "weekly", "fortnightly", "monthly")),
    whole("minutes", 1, 600, nullable=False),
    day("starts_on", nullable=False),
    day("ends_on", nullable=False),
    day("agreed_on"),
    flag("patient_agreed"),
    code("severity", ("mild", "moderate", "severe"), nullable=True),
    document("taper", nullable=True),
    sa.CheckConstraint("ends_on >= starts_on", name="order"),
    extra=_one_per_episode(),
)

phase_task = chart_table(
    "phase_task",
    text("task"),
    code("status", ("done", "waived", "owed")),
    day("done_on"),
    sa.Column("recorded_by", sa.Uuid, nullable=True),
    extra=_one_per_episode("task"),
)

phase_transition = chart_table(
    "phase_transition",
    code("from_phase", PHASES),
    code("to_phase", PHASES),
    moment("occurred_at"),
    document("overridden"),
    sa.Column("decided_by", sa.Uuid, nullable=True),
)

session = chart_table(
    "session",
    text("external_ref", nullable=True),
    whole("number", 1, 1000),
    code("status", STATUSES),
    moment("starts_at"),
    code("mode", MODES),
    whole("minutes", 1, 600),
    code("phase", PHASES),
    code("attendance", tuple(a for group in ATTENDANCE.values() for a in group), nullable=True),
    document("focus_areas"),
    document("techniques"),
    document("strategies"),
    whole("mood", 0, 10),
    whole("therapist_activity", 0, 10),
    whole("patient_initiative", 0, 10),
    flag("risk_asked"),
    flag("entered_in_error"),
    document("flags"),
    sa.Column("joint_relationship_id", sa.Uuid, nullable=True),
    code("kind", SESSION_KINDS, nullable=True),
    text("time_zone", nullable=True),
    document("affects", nullable=True),
    whole("affect_intensity", 0, 3),
    maybe("modality_consent"),
    maybe("emergency_contact_confirmed"),
    maybe("focus_found_hard"),
    document("reschedules", nullable=True),
    points_to("group_session_id"),
    maybe("imported"),
    extra=[
        sa.ForeignKeyConstraint(["partner_id", "group_session_id"], ["group_session.partner_id", "group_session.id"]),
        sa.ForeignKeyConstraint(["partner_id", "joint_relationship_id"], ["relationship.partner_id", "relationship.id"]),
        sa.Index(
            "ix_session_external_ref",
            "partner_id",
            "external_ref",
            unique=True,
            postgresql_where=sa.text("NOT entered_in_error"),
        ),
        sa.Index(
            "ix_session_number",
            "partner_id",
            "episode_id",
            "number",
            unique=True,
            postgresql_where=sa.text("number IS NOT NULL AND NOT entered_in_error"),
        ),
    ],
)

follow_up = chart_table(
    "follow_up",
    whole("months", 1, 24, nullable=False),
    day("due_on", nullable=False),
    code("status", ("booked", "held", "missed", "declined")),
    day("held_on"),
    whole("patient_initiative", 0, 10),
    extra=_one_per_episode("months"),
)

assessment = chart_table(
    "assessment",
    text("instrument"),
    sa.Column("instrument_version", sa.Integer, nullable=False),
    sa.Column("session_id", sa.Uuid, nullable=True),
    sa.Column("follow_up_id", sa.Uuid, nullable=True),
    moment("answered_at"),
    code("respondent", RESPONDENTS),
    code("mode", ("app", "web", "paper", "phone", "in_session")),
    text("locale"),
    document("answers"),
    sa.Column("difficulty", sa.Integer, nullable=True),
    sa.CheckConstraint("difficulty BETWEEN 0 AND 3", name="difficulty"),
    sa.Column("partial_sum", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer, nullable=True),
    text("band", nullable=True),
    sa.Column("is_case", sa.Boolean, nullable=True),
    document("missing"),
    flag("prorated"),
    sa.Column("received_late_seconds", sa.BigInteger, nullable=True),
    sa.Column("clock_ahead_seconds", sa.BigInteger, nullable=True),
    flag("entered_in_error"),
    document("scales", nullable=True),
    document("flags", nullable=True),
    points_to("request_id"),
    maybe("imported"),
    extra=[
        sa.ForeignKeyConstraint(["partner_id", "request_id"], ["assessment_request.partner_id", "assessment_request.id"]),
        sa.ForeignKeyConstraint(["partner_id", "session_id"], ["session.partner_id", "session.id"]),
        sa.ForeignKeyConstraint(["partner_id", "follow_up_id"], ["follow_up.partner_id", "follow_up.id"]),
        sa.Index(None, "partner_id", "episode_id", "instrument", "answered_at"),
    ],
)

risk_alert = chart_table(
    "risk_alert",
    code("kind", KINDS),
    code("level", LEVELS),
    code("status", ("open", "acknowledged", "closed")),
    document("triggers"),
    text("responder"),
    text("secondary_responder", nullable=True),
    moment("opened_at"),
    moment("due_at"),
    sa.Column("received_late_seconds", sa.BigInteger, nullable=True),
    moment("acknowledged_at", nullable=True),
    sa.Column("acknowledged_by", sa.Uuid, nullable=True),
    moment("closed_at", nullable=True),
    sa.Column("closed_by", sa.Uuid, nullable=True),
    points_to("raised_by"),
    moment("known_stable_until", nullable=True),
    moment("escalated_at", nullable=True),
    whole("escalations", 0, 100_000),
    extra=[
        sa.ForeignKeyConstraint(["partner_id", "acknowledged_by"], ["clinician.partner_id", "clinician.id"], name="fk_risk_alert_acknowledged"),
        sa.ForeignKeyConstraint(["partner_id", "closed_by"], ["clinician.partner_id", "clinician.id"], name="fk_risk_alert_closed"),
        sa.ForeignKeyConstraint(["partner_id", "raised_by"], ["clinician.partner_id", "clinician.id"], name="fk_risk_alert_raised"),
        sa.Index(
            "ix_risk_alert_one_open",
            "partner_id",
            "episode_id",
            "kind",
            unique=True,
            postgresql_where=sa.text("status <> 'closed'"),
        ),
        sa.Index(None, "partner_id", "status", "due_at"),
    ],
)

termination = chart_table(
    "termination",
    day("end_date"),
    day("end_date_told_on"),
    whole("told_at_session", 1, 1000),
    code("maintenance_decision", ("not_needed", "offered", "accepted", "declined"), nullable=True),
    document("maintenance_reasons"),
    code("final_assessment", ("planned", "taken", "refused", "unreachable"), nullable=True),
    extra=_one_per_episode(),
)

early_ending = chart_table(
    "early_ending",
    code("reason", UNPLANNED_REASONS),
    day("ended_on", nullable=False),
    document("tasks_done"),
    sa.Column("last_total", sa.Integer, nullable=True),
    extra=_one_per_episode(),
)
