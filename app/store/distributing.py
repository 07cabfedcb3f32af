"""Distribution by partner with Citus: an existing schema becomes distributed in one transaction.

Every partner's rows live together on one node: `partner_id` leads every key (tests/store/test_catalogue.py), so each statement of a request goes to
one node. Shared tables that partners' rows point to, or that every request reads, become reference tables; queues and what operators
decide stay with the coordinator.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.domain.errors import CommandRefused
from app.store.database import Connection
from app.store.tables.every import metadata
from app.store.tables.frame import SHARED_TABLES

REFERENCE = ("partner", "signing_key", "revocation")
ROLES = ("ipt_service", "ipt_worker", "ipt_audit")
FIRST = "patient"  # the table that the others are placed beside


class CitusMissing(CommandRefused):
    """The extension citus is not in this database: install it on every node, and run CREATE EXTENSION citus as a superuser."""


class SuperuserNeeded(CommandRefused):
    """Tables are placed, and roles are changed, by a superuser: name such a login in IPT_MIGRATION_DATABASE_URL."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key as the catalogue has it."""

    name: str
    table: str
    definition: str


def partner_tables() -> list[str]:
    """Return the tables that are distributed, the one that the others are placed beside first."""
    names = sorted(name for name in metadata.tables if name not in SHARED_TABLES)
    return [FIRST, *(name for name in names if name != FIRST)]


def plan(keys: Sequence[ForeignKey], distributed: Sequence[str]) -> list[str]:
    """Return the statements, one for each execute: keys off, tables placed, keys on again as they were. Placed tables are passed over."""
    statements = ["SET LOCAL citus.multi_shard_modify_mode = 'sequential'"]
    statements += [f"ALTER TABLE {key.table} DROP CONSTRAINT {key.name}" for key in keys]
    statements += [f"SELECT create_reference_table('{name}')" for name in REFERENCE if name not in distributed]
    for name in partner_tables():
        if name not in distributed:
            beside = "" if name == FIRST else f", colocate_with => '{FIRST}'"
            statements.append(f"SELECT create_distributed_table('{name}', 'partner_id'{beside})")
    statements += [f"ALTER TABLE {key.table} ADD CONSTRAINT {key.name} {key.definition}" for key in keys]
    return statements + [f"ALTER ROLE {role} SET citus.propagate_set_commands = 'local'" for role in ROLES]


async def distribute(connection: Connection) -> int:
    """Distribute what is not distributed yet; return how many tables. Raises CitusMissing. The caller commits."""
    if not await connection.value(sa.text("SELECT count(*) FROM pg_extension WHERE extname = 'citus'")):
        raise CitusMissing
    if not await connection.value(sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")):
        raise SuperuserNeeded
    there = await connection.rows(sa.text("SELECT logicalrelid::text AS name FROM pg_dist_partition"))
    rows = await connection.rows(
        sa.text(
            "SELECT conname, conrelid::regclass::text AS tab, pg_get_constraintdef(oid) AS definition FROM pg_constraint"
            " WHERE contype = 'f' AND connamespace = 'public'::regnamespace ORDER BY conrelid::regclass::text, conname"
        )
    )
    placed = [r["name"] for r in there]
    keys = [ForeignKey(r["conname"], r["tab"], r["definition"]) for r in rows]
    wanted = [name for name in (*REFERENCE, *partner_tables()) if name not in placed]
    for statement in plan(keys, placed) if wanted else ():
        await connection.script(statement)
    return len(wanted)
