"""What the service is held against over HTTP: bare ASGI and asyncpg on uvicorn, without accounts, confinement, audit or rules.

It says to PostgreSQL what the plan in IPT_BENCH_PLAN holds (statements that the service was heard to say, with their parameters):
`/transaction/{course}` all of them, with this course in the place of the one that was heard; `/plain/{course}` the row of the course by its key;
`/rows` the rows of a pull, as JSON; `/table` one row of a released table by its key.
"""

import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson

PLAN: dict[str, Any] = json.loads(Path(os.environ["IPT_BENCH_PLAN"]).read_text())
POOL = 8
JSON = [(b"content-type", b"application/json")]
CAST = re.compile(r"\$(\d+)::(UUID\[\]|TEXT\[\]|UUID|BIGINT|INTEGER|TIMESTAMP WITH TIME ZONE)")


def _value(text: str | None, kind: str) -> Any:
    if text is None:
        return None
    if kind.endswith("[]"):
        of = UUID if kind == "UUID[]" else str
        return [of(one) for one in text.strip("{}").split(",") if one]
    return {"UUID": UUID, "BIGINT": int, "INTEGER": int, "TIMESTAMP WITH TIME ZONE": datetime.fromisoformat}.get(kind, str)(text)


class Saying:
    """One statement, and where the course stands among its parameters."""

    def __init__(self, sql: str, parameters: dict[str, str | None]) -> None:
        kinds = {int(n): kind for n, kind in CAST.findall(sql)}
        self.sql = sql
        self.fixed = [_value(parameters[str(n)], kinds.get(n, "")) for n in range(1, len(parameters) + 1)]
        heard = UUID(PLAN["course"])
        self.places = [(n, isinstance(v, list)) for n, v in enumerate(self.fixed) if v in (heard, [heard])]

    def of(self, course: UUID) -> list[Any]:
        found = self.fixed.copy()
        for place, many in self.places:
            found[place] = [course] if many else course
        return found


SAYINGS = {name: [Saying(s["sql"], s["parameters"]) for s in statements] for name, statements in PLAN["said"].items()}
state: dict[str, Any] = {}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    what, _, course = scope["path"][1:].partition("/")
    async with state["plain" if what == "plain" else "pool"].acquire() as connection:
        body = await globals()[f"_{what}"](connection, UUID(course) if course else None)
    await send({"type": "http.response.start", "status": 200, "headers": [*JSON, (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Any, send: Any) -> None:
    await receive()
    for name in ("pool", "plain"):  # the plain read is not confined: it goes as the superuser, whom row security does not bind
        state[name] = await asyncpg.create_pool(PLAN["urls"][name], min_size=1, max_size=POOL, reset=_as_it_is)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _as_it_is(_connection: Any) -> None:
    pass


def _plain_row(row: Any) -> dict[str, Any]:
    return {k: v.hex() if isinstance(v, bytes) else v for k, v in row.items()}


async def _transaction(connection: Any, course: UUID) -> bytes:
    await connection.execute(PLAN["begin"])
    found = [await connection.fetch(s.sql, *s.of(course)) for s in SAYINGS["transaction"]]
    await connection.execute("ROLLBACK")
    return orjson.dumps([[_plain_row(r) for r in rows] for rows in found], default=str)


async def _plain(connection: Any, course: UUID) -> bytes:
    row = await connection.fetchrow("SELECT * FROM episode WHERE partner_id = $1 AND id = $2", UUID(PLAN["partner_id"]), course)
    return orjson.dumps(_plain_row(row), default=str)


async def _rows(connection: Any, _course: UUID | None) -> bytes:
    await connection.execute(PLAN["begin"])
    said = SAYINGS["rows"][0]
    rows = await connection.fetch(said.sql, *said.fixed)
    await connection.execute("ROLLBACK")
    return orjson.dumps([_plain_row(r) for r in rows], default=str)


async def _table(connection: Any, _course: UUID | None) -> bytes:
    await connection.execute(PLAN["begin"])
    said = SAYINGS["table"][-1]
    rows = await connection.fetch(said.sql, *said.fixed)
    await connection.execute("ROLLBACK")
    return orjson.dumps([_plain_row(r) for r in rows], default=str)


async def _health(_connection: Any, _course: UUID | None) -> bytes:
    return b"{}"
