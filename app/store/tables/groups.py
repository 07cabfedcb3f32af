"""People treated together: groups with their members and sessions, and couples."""

import sqlalchemy as sa

from app.domain.sessions import MODES, STATUSES
from app.store.tables.frame import chart_table, code, day, document, kept, moment, partner_table, sealed, text, whole

therapy_group = partner_table(
    "therapy_group",
    text("external_ref", nullable=True),
    text("protocol_code"),
    sa.Column("protocol_version", sa.Integer, nullable=False),
    sa.Column("lead_clinician_id", sa.Uuid, nullable=False),
    sa.Column("cover_clinician_id", sa.Uuid, nullable=True),
    code("status", ("forming", "running", "ended")),
    day("starts_on"),
    kept(),
    sa.UniqueConstraint("partner_id", "external_ref"),
    sa.ForeignKeyConstraint(["partner_id"], ["partner.partner_id"]),
    sa.ForeignKeyConstraint(["partner_id", "lead_clinician_id"], ["clinician.partner_id", "clinician.id"], name="fk_therapy_group_lead"),
    sa.ForeignKeyConstraint(["partner_id", "cover_clinician_id"], ["clinician.partner_id", "clinician.id"], name="fk_therapy_group_cover"),
)

group_member = chart_table(
    "group_member",
    sa.Column("group_id", sa.Uuid, nullable=False),
    day("joined_on"),
    day("left_on"),
    day("confidentiality_agreed_on"),
    extra=[
        sa.UniqueConstraint("partner_id", "group_id", "episode_id"),
        sa.ForeignKeyConstraint(["partner_id", "group_id"], ["therapy_group.partner_id", "therapy_group.id"]),
    ],
)

group_session = partner_table(
    "group_session",
    sa.Column("group_id", sa.Uuid, nullable=False),
    whole("number", 1, 1000),
    code("status", STATUSES),
    moment("starts_at"),
    whole("minutes", 1, 600),
    code("mode", MODES),
    document("techniques"),
    sealed(),
    kept(),
    sa.UniqueConstraint("partner_id", "group_id", "number"),
    sa.ForeignKeyConstraint(["partner_id", "group_id"], ["therapy_group.partner_id", "therapy_group.id"]),
)

couple = partner_table(
    "couple",
    *(
        part
        for side in ("first", "second")
        for part in (
            sa.Column(f"{side}_episode_id", sa.Uuid, nullable=False),
            sa.Column(f"{side}_relationship_id", sa.Uuid, nullable=False),
            day(f"{side}_screened_alone_on"),
            day(f"{side}_agreed_on"),
            sa.ForeignKeyConstraint(["partner_id", f"{side}_episode_id"], ["episode.partner_id", "episode.id"], name=f"fk_couple_{side}_episode"),
            sa.ForeignKeyConstraint(
                ["partner_id", f"{side}_relationship_id"], ["relationship.partner_id", "relationship.id"], name=f"fk_couple_{side}_person"
            ),
        )
    ),
    kept(),
    sa.CheckConstraint("first_episode_id <> second_episode_id", name="two_episodes"),
    sa.UniqueConstraint("partner_id", "first_episode_id", "second_episode_id"),
)
