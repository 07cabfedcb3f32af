"""The interpersonal inventory: relationships, life events, the patient's problems and goals."""

import sqlalchemy as sa

from app.domain.inventory import EVENT_TYPES, RELATION_TYPES, SAFETY, STATUSES
from app.domain.problem_area import AREAS
from app.store.tables.frame import chart_table, code, day, document, flag, maybe, moment, points_to, whole

PRECISIONS = ("day", "month", "year")

relationship = chart_table(
    "relationship",
    code("relation_type", RELATION_TYPES),
    code("status", STATUSES),
    whole("closeness_now", 1, 4),
    whole("closeness_before_onset", 1, 4),
    whole("closeness_wished", 1, 4),
    code("contact_frequency", ("daily", "weekly", "monthly", "yearly", "none"), nullable=True),
    document("contact_modes"),
    code("expectation_mismatch", ("none", "mild", "moderate", "severe", "unknown"), nullable=True),
    code("change_wanted_in", ("self", "other", "both"), nullable=True),
    whole("support_received_emotional", 0, 3),
    whole("support_received_practical", 0, 3),
    whole("support_given_emotional", 0, 3),
    whole("support_given_practical", 0, 3),
    whole("confiding", 0, 3),
    whole("conflict_level", 0, 3),
    code("conflict_style", ("overt", "covert", "mixed", "none"), nullable=True),
    code("dispute_stage", ("none", "renegotiation", "impasse", "dissolution"), nullable=True),
    code("dispute_setting", ("marriage", "family", "community", "school", "work"), nullable=True),
    document("patterns"),
    code("linked_to_onset", ("none", "possible", "clear"), nullable=True),
    code("safety", SAFETY),
    day("death_date"),
    code("death_date_precision", PRECISIONS, nullable=True),
    document("mourning_signs"),
    code("source", ("patient", "clinician", "import")),
    whole("circle_angle", 0, 359),
    whole("circle_radius_percent", 0, 100),
    day("recent_change_on"),
    maybe("recent_change_wanted"),
    maybe("lives_with"),
    maybe("legal_guardian"),
    maybe("school_contact"),
    maybe("peer_group"),
    maybe("online_only"),
    maybe("parent_informed"),
    points_to("safety_lift_asked_by"),
    moment("safety_lift_asked_at", nullable=True),
    moment("deleted_at", nullable=True),
)

life_event = chart_table(
    "life_event",
    code("type", EVENT_TYPES),
    day("happened_on"),
    code("happened_on_precision", PRECISIONS, nullable=True),
    flag("imminent"),
    sa.Column("relationship_id", sa.Uuid, nullable=True),
    sa.Column("wanted", sa.Boolean, nullable=True),
    sa.Column("expected", sa.Boolean, nullable=True),
    sa.Column("adapted", sa.Boolean, nullable=True),
    code("linked_to_onset", ("none", "possible", "clear")),
    moment("deleted_at", nullable=True),
    extra=[sa.ForeignKeyConstraint(["partner_id", "relationship_id"], ["relationship.partner_id", "relationship.id"])],
)

problem = chart_table(
    "problem",
    code("area", AREAS, nullable=True),
    document("relationship_ids"),
    whole("severity", 0, 10),
    whole("difficulty", 0, 10),
    whole("link_to_mood", 0, 10),
    whole("readiness", 0, 10),
    flag("agreed_focus"),
    moment("deleted_at", nullable=True),
)

goal = chart_table(
    "goal",
    code("term", ("short", "long")),
    code("area", AREAS, nullable=True),
    whole("attainment", 0, 10),
    day("met_on"),
    moment("deleted_at", nullable=True),
)
