"""What changed between two states of the same thing."""

from collections.abc import Mapping
from typing import Any

UNTOLD = {"version", "updated_at", "created_at", "deleted_at", "patient_id", "episode_id", "id"}
CLOSENESS = ("closeness_now", "closeness_before_onset", "closeness_wished")


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each field that differs, with its value before and after, in the order of the names."""
    names = sorted({*before, *after} - UNTOLD)
    return [{"field": n, "before": before.get(n), "after": after.get(n)} for n in names if before.get(n) != after.get(n)]


def compare(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare two collections by id: what was added, removed, and changed (with the fields that differ)."""
    found: list[dict[str, Any]] = []
    for row_id in sorted({*before, *after}):
        old, new = before.get(row_id), after.get(row_id)
        if old is None or new is None:
            found.append({"id": row_id, "change": "added" if old is None else "removed", "fields": []})
        elif fields := changed_fields(old, new):
            found.append({"id": row_id, "change": "changed", "fields": fields})
    return found


def moves(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the moves between rings of the closeness circles: per person and time point, from which ring to which (1 to 4)."""
    return [
        {"relationship_id": row_id, "time_point": name.removeprefix("closeness_"), "from_ring": before[row_id].get(name), "to_ring": row.get(name)}
        for row_id, row in sorted(after.items())
        if row_id in before
        for name in CLOSENESS
        if before[row_id].get(name) != row.get(name)
    ]
