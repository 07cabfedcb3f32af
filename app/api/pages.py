"""Lists: keyset cursors, opaque and bound by HMAC to the partner and the query, so they are stable and not portable."""

import base64
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import Query

from app.api.problems import Malformed

MOST_ROWS = 200
TAG_BYTES = 16

Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description="How many rows at the most")]
Cursor = Annotated[str | None, Query(max_length=2000, description="The `next` of the page before; opaque")]


@dataclass(frozen=True, slots=True)
class Pager:
    """A page that is asked for: how many rows, after which key; and how its successor is named."""

    limit: int
    after: Sequence[Any] | None
    _key: bytes
    _scope: bytes

    def cut(self, rows: list[dict[str, Any]], *keys: str) -> tuple[list[dict[str, Any]], str | None]:
        """Return the rows of this page and the cursor of the next (None: this is the last)."""
        shown = rows[: self.limit]
        if len(rows) <= self.limit:
            return shown, None
        return shown, _written([shown[-1][k] for k in keys], self._key, self._scope)


def pager(key: bytes, partner_id: UUID, path: str, query: Mapping[str, Any], limit: int, cursor: str | None, kinds: Sequence[type]) -> Pager:
    """Read a cursor. Raises Malformed for one that was tampered with, or made for another partner or another query."""
    scope = orjson.dumps([partner_id, path, sorted((k, str(v)) for k, v in query.items() if v is not None)])
    after = None if cursor is None else _read(cursor, key, scope, kinds)
    return Pager(limit, after, key, scope)


def _written(values: Sequence[Any], key: bytes, scope: bytes) -> str:
    raw = orjson.dumps(values, default=str)
    return base64.urlsafe_b64encode(_tag(key, scope, raw) + raw).rstrip(b"=").decode()


def _read(cursor: str, key: bytes, scope: bytes, kinds: Sequence[type]) -> list[Any]:
    try:
        packed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        if base64.urlsafe_b64encode(packed).rstrip(b"=").decode() != cursor:
            raise ValueError(cursor)
        tag, raw = packed[:TAG_BYTES], packed[TAG_BYTES:]
        if not hmac.compare_digest(tag, _tag(key, scope, raw)):
            raise ValueError(cursor)
        return [_typed(kind, value) for kind, value in zip(kinds, orjson.loads(raw), strict=True)]
    except (ValueError, TypeError):
        raise Malformed("The cursor is not one of this list.") from None


def _typed(kind: type, value: Any) -> Any:
    if kind is datetime:
        return datetime.fromisoformat(value)
    return kind(value)


def _tag(key: bytes, scope: bytes, raw: bytes) -> bytes:
    return hmac.digest(key, len(scope).to_bytes(4) + scope + raw, "sha256")[:TAG_BYTES]
