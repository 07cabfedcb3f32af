"""Which database this is: a copy of it, or one that was restored, knows by this that it is not the same."""

import sqlalchemy as sa

from app.store.tables.frame import metadata, moment, text

installation = sa.Table(
    "installation",
    metadata,
    sa.Column("here", sa.Boolean, primary_key=True),
    text("system_identifier"),
    sa.Column("database_oid", sa.BigInteger, nullable=False),
    moment("opened_at"),
    sa.CheckConstraint("here", name="here"),
)
