"""The daily work around sessions: notes, addenda, analyses, change attempts, homework, medication, requests, proposals, status."""

import sqlalchemy as sa

from app.domain.lifecycle import COMMANDS, STATUSES
from app.domain.protocol_faults import RESPONDENTS
from app.domain.workflow import ANALYSES, CHANGE_RESULTS, HOMEWORK_STATUSES, MEDICATION_KINDS, REQUEST_STATUSES
from app.store.tables.frame import chart_table, code, day, document, flag, moment, points_to, text, whole

session_note = chart_table(
    "session_note",
    sa.Column("session_id", sa.Uuid, nullable=False),
    sa.Column("author_id", sa.Uuid, nullable=False),
    moment("signed_at", nullable=True),
    extra=[
        sa.UniqueConstraint("partner_id", "session_id"),
        sa.ForeignKeyConstraint(["partner_id", "session_id"], ["session.partner_id", "session.id"]),
        sa.ForeignKeyConstraint(["partner_id", "author_id"], ["clinician.partner_id", "clinician.id"]),
    ],
)

addendum = chart_table(
    "addendum",
    code("subject", ("session", "assessment", "note")),
    sa.Column("subject_id", sa.Uuid, nullable=False),
    points_to("written_by"),
    extra=[
        sa.ForeignKeyConstraint(["partner_id", "written_by"], ["clinician.partner_id", "clinician.id"]),
        sa.Index(None, "partner_id", "episode_id", "subject", "subject_id"),
    ],
)

change_attempt = chart_table(
    "change_attempt",
    day("tried_on"),
    code("result", CHANGE_RESULTS, nullable=True),
    whole("effect_on_mood", -5, 5),
    points_to("relationship_id"),
    points_to("problem_id"),
    flag("entered_in_error"),
    extra=[
        sa.ForeignKeyConstraint(["partner_id", "relationship_id"], ["relationship.partner_id", "relationship.id"]),
        sa.ForeignKeyConstraint(["partner_id", "problem_id"], ["problem.partner_id", "problem.id"]),
    ],
)

analysis = chart_table(
    "analysis",
    code("kind", ANALYSES),
    day("took_place_on"),
    points_to("session_id"),
    points_to("relationship_id"),
    flag("entered_in_error"),
    extra=[
        sa.ForeignKeyConstraint(["partner_id", "session_id"], ["session.partner_id", "session.id"]),
        sa.ForeignKeyConstraint(["partner_id", "relationship_id"], ["relationship.partner_id", "relationship.id"]),
    ],
)

medication = chart_table(
    "medication",
    code("kind", MEDICATION_KINDS),
    day("started_on"),
    day("stopped_on"),
    flag("entered_in_error"),
    sa.CheckConstraint("stopped_on >= started_on", name="order"),
)

homework = chart_table(
    "homework",
    day("agreed_on"),
    day("due_on"),
    code("status", HOMEWORK_STATUSES),
    points_to("session_id"),
    extra=[sa.ForeignKeyConstraint(["partner_id", "session_id"], ["session.partner_id", "session.id"])],
)

assessment_request = chart_table(
    "assessment_request",
    text("instrument"),
    code("respondent", RESPONDENTS),
    moment("due_at"),
    code("status", REQUEST_STATUSES),
    points_to("assessment_id"),
    points_to("requested_by"),
    extra=[sa.Index(None, "partner_id", "status", "due_at")],
)

indicator_proposal = chart_table(
    "indicator_proposal",
    text("indicator"),
    code("value", ("possible", "present", "not_applicable")),
    code("origin", ("inventory", "text")),
    text("because"),
    code("status", ("open", "confirmed", "refused")),
    points_to("relationship_id"),
    points_to("life_event_id"),
    points_to("decided_by"),
    moment("decided_at", nullable=True),
    extra=[sa.ForeignKeyConstraint(["partner_id", "decided_by"], ["clinician.partner_id", "clinician.id"])],
)

status_change = chart_table(
    "status_change",
    code("command", COMMANDS),
    code("from_status", STATUSES),
    code("to_status", STATUSES),
    moment("occurred_at"),
    points_to("decided_by"),
    document("flags"),
)
