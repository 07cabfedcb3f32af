"""The rules that each migration puts on its tables: confinement to the partner, and grants."""

from alembic import op

POLICY = "partner_id = current_setting('app.partner_id')::uuid"
AUDIT_INSERT_ONLY = "audit_event"


def confine(*tables: str) -> None:
    """Force row security on partners' tables: without `app.partner_id` set, every statement fails loudly."""
    for table in tables:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY confined_to_partner ON {table} USING ({POLICY}) WITH CHECK ({POLICY})")


def grant(rights: str, *tables: str, to: str = "ipt_service") -> None:
    """Grant `rights` on tables to one role."""
    for table in tables:
        op.execute(f"GRANT {rights} ON {table} TO {to}")
