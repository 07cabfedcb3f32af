"""How far suggestions and decisions agree over a partner's caseload. It judges the ruleset, never a person."""

from datetime import date
from typing import Any

from app.actions.people import check_backend
from app.actions.visit import Visit
from app.domain.agreement import Decision, statistics
from app.store.work import decisions_with_runs


async def read_agreement(visit: Visit, start: date | None, end: date | None) -> dict[str, Any]:
    """Return kappa per area and on the primary focus, and override rates, of decisions made in a span of days. Raises BackendOnly."""
    check_backend(visit)
    rows = await decisions_with_runs(visit.connection, start, end)
    decisions = [
        Decision(
            (r["result"]["suggested_primary"], r["result"]["suggested_secondary"]) if r["result"] else (None, None),
            (r["primary_area"], r["secondary_area"]),
            r["decided_at"].strftime("%Y-%m"),
        )
        for r in rows
    ]
    return statistics(decisions)
