"""How rows look on the wire: moments in UTC with milliseconds, every column there. The feed keeps states just so, so that a pull need not read them."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TIMESTAMP

from app.actions.visit import STORE_ONLY
from app.keys.cipher import MARK_BYTES

NEVER_ON_THE_WIRE = {"deleted_at"}


def wire_of(moment: datetime) -> str:
    """Write a moment as the wire shows it, for documents that are kept as JSON."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def dumped(value: Any) -> bytes:
    """Write plain values as JSON of the wire."""
    return orjson.dumps(value, default=_said, option=orjson.OPT_PASSTHROUGH_DATETIME)


def _said(value: Any) -> str:
    if isinstance(value, datetime):
        return wire_of(value)
    return value.isoformat() if isinstance(value, date) else str(value)


@cache
def shape_of(table: sa.Table) -> tuple[dict[str, Any], tuple[str, ...], bytes]:
    """Return a row of a table with nothing in it, which of its members are moments, and a mark that changes when its columns do."""
    columns = [c for c in table.c if c.name not in {*STORE_ONLY, *NEVER_ON_THE_WIRE}]
    nothing, moments = {str(c.name): None for c in columns}, tuple(str(c.name) for c in columns if isinstance(c.type, TIMESTAMP))
    mark = hashlib.sha256("|".join((*sorted(nothing), "", *moments)).encode()).digest()[:MARK_BYTES]
    return nothing, moments, mark


def whole(table: sa.Table, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state as HTTP shows the same row: every column there, moments in UTC with milliseconds."""
    nothing, moments, _ = shape_of(table)
    found = {**nothing, **state}
    for name in NEVER_ON_THE_WIRE:
        found.pop(name, None)
    for name in moments:
        moment = found[name]
        if isinstance(moment, str) and not moment.endswith("Z"):
            found[name] = wire_of(datetime.fromisoformat(moment))
    return found


def kept_state(table: sa.Table, row: Mapping[str, Any]) -> bytes:
    """Return a row as the feed keeps it: the mark of its shape, then the JSON of the wire."""
    nothing, _, mark = shape_of(table)
    found = {**nothing, **row}
    if found.get("deleted_at") is None:
        found.pop("deleted_at", None)
    return mark + dumped(found)
