"""What every table has in common: the metadata, and the frame of a partner's table.

`partner_id` leads every primary key, unique constraint, foreign key and index, so the same schema isolates partners by
row security and can be distributed by partner. Tables outside that frame stand on the allow-list in `SHARED_TABLES`.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

SHARED_TABLES = {
    "partner": "names the tenants themselves; the service reads it, the migrator and the command line write it",
    "signing_key": "one issuer signs for every partner; private halves are sealed under the key-encryption key",
    "revocation": "polled by every process for every partner; holds client and token ids, nothing else",
    "security_event": "refused tokens have no partner to be confined to; insert only",
    "outcome_job": "the queue of tables and extracts that the worker makes for every population; holds ids, nothing else",
    "operator": "who runs the service, and belongs to no partner; no role of the service can read it",
    "operator_proposal": "what one operator has proposed and another must approve; no role of the service can read it",
    "installation": "which database this is: one row, for the whole of it",
    "alembic_version": "the migrations' own table",
}


def moment(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    """Return a column for a point in time, with its zone."""
    return sa.Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def text(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    """Return a text column."""
    return sa.Column(name, sa.Text, nullable=nullable)


def code(name: str, values: Sequence[str], *, nullable: bool = False) -> list[sa.schema.SchemaItem]:
    """Return a text column and the CHECK that holds it to `values`."""
    listed = ", ".join(f"'{v}'" for v in values)
    return [sa.Column(name, sa.Text, nullable=nullable), sa.CheckConstraint(f"{name} IN ({listed})", name=name)]


def whole(name: str, low: int, high: int, *, nullable: bool = True) -> list[sa.schema.SchemaItem]:
    """Return an integer column and the CHECK that holds it between `low` and `high`."""
    return [sa.Column(name, sa.Integer, nullable=nullable), sa.CheckConstraint(f"{name} BETWEEN {low} AND {high}", name=name)]


def day(name: str, *, nullable: bool = True) -> list[sa.schema.SchemaItem]:
    """Return a date column and the CHECK that holds it between 1900 and 2100."""
    return [sa.Column(name, sa.Date, nullable=nullable), sa.CheckConstraint(f"{name} BETWEEN '1900-01-01' AND '2100-12-31'", name=name)]


def flag(name: str) -> sa.Column[Any]:
    """Return a boolean column that is never null."""
    return sa.Column(name, sa.Boolean, nullable=False)


def maybe(name: str) -> sa.Column[Any]:
    """Return a boolean column that may be unknown."""
    return sa.Column(name, sa.Boolean, nullable=True)


def points_to(name: str) -> sa.Column[Any]:
    """Return a column for the id of another row; empty where there is none."""
    return sa.Column(name, sa.Uuid, nullable=True)


def document(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    """Return a JSONB column. It holds codes, numbers and ids; free text goes into `sealed`."""
    return sa.Column(name, JSONB(none_as_null=True), nullable=nullable)


def partner_table(name: str, *parts: Any, key: Sequence[str] = ("id",), **kwargs: Any) -> sa.Table:
    """Declare a table of a partner's rows: `partner_id` first, the primary key (partner_id, *key)."""
    items = [item for part in parts for item in (part if isinstance(part, list) else [part])]
    own = [sa.Column("id", sa.Uuid, nullable=False)] if "id" in key else []
    return sa.Table(
        name,
        metadata,
        sa.Column("partner_id", sa.Uuid, nullable=False),
        *own,
        *items,
        sa.PrimaryKeyConstraint("partner_id", *key),
        **kwargs,
    )


def kept() -> list[sa.schema.SchemaItem]:
    """Return the columns of every mutable resource: version, times of record, and who wrote last."""
    return [
        sa.Column("version", sa.Integer, nullable=False),
        sa.CheckConstraint("version > 0", name="version"),
        moment("created_at"),
        moment("updated_at"),
    ]


def sealed() -> sa.Column[Any]:
    """Return the column of the row's sealed blob: names, labels and free text under the patient's key."""
    return sa.Column("sealed", sa.LargeBinary, nullable=True)


def chart_table(name: str, *parts: Any, extra: Sequence[Any] = (), **kwargs: Any) -> sa.Table:
    """Declare a table of an episode's rows: tied to its patient and episode, versioned, with a sealed blob."""
    return partner_table(
        name,
        sa.Column("patient_id", sa.Uuid, nullable=False),
        sa.Column("episode_id", sa.Uuid, nullable=False),
        *parts,
        sealed(),
        kept(),
        sa.ForeignKeyConstraint(["partner_id", "patient_id"], ["patient.partner_id", "patient.id"]),
        sa.ForeignKeyConstraint(["partner_id", "episode_id"], ["episode.partner_id", "episode.id"]),
        *extra,
        sa.Index(None, "partner_id", "episode_id", "id"),
        **kwargs,
    )
