"""Rotation of the key-encryption key: what an older version wraps is wrapped by the newest, a batch at a time."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from app.keys.cipher import KeyRing, place_of
from app.store.database import Connection, Row
from app.store.rows import own
from app.store.tables.door import idempotency_key, signing_key
from app.store.tables.people import patient_key
from app.store.tables.record import change
from app.store.tables.sync import sync_mutation
from app.store.tables.webhooks import webhook_secret

BATCH = 500


def secret_place(partner_id: object, secret_id: object) -> str:
    """Name the place of a webhook endpoint's sealed secret."""
    return f"{partner_id}|webhook_secret|{secret_id}"


def ledger_place(partner_id: object, device_id: object, mutation_id: object) -> str:
    """Name the place of what the ledger keeps of a refusal."""
    return f"{partner_id}|sync_mutation|{device_id}|{mutation_id}"


def signing_place(kid: str) -> str:
    """Name the place of a signing key's private half."""
    return f"signing_key|{kid}"


def _older(column: sa.ColumnElement[Any], newest: int) -> sa.ColumnElement[bool]:
    """Return the condition that the service's own key of an older version sealed a blob: its first two bytes are the version.

    What a patient's key sealed begins with 0x01; versions stay below 256, so the two are told apart.
    """
    return (sa.func.get_byte(column, 0) == 0) & (sa.func.get_byte(column, 1) < newest)


async def rewrap_signing_keys(connection: Connection, ring: KeyRing) -> int:
    """Seal the private halves of signing keys under the newest key; return how many."""
    t = signing_key
    rows = await connection.rows(sa.select(t).where(_older(t.c.private_sealed, ring.newest)))
    for row in rows:
        fresh = ring.seal(ring.open(row["private_sealed"], signing_place(row["kid"])), signing_place(row["kid"]))
        await connection.run(sa.update(t).where(t.c.kid == row["kid"], t.c.private_sealed == row["private_sealed"]).values(private_sealed=fresh))
    return len(rows)


async def rewrap_partner(connection: Connection, ring: KeyRing) -> int:
    """Re-wrap a batch of each kind of what a partner has; return how many."""
    done = await _rewrap_patient_keys(connection, ring)
    p = connection.partner_id
    assert p is not None
    done += await _reseal(connection, ring, webhook_secret, "secret", lambda r: secret_place(p, r["id"]))
    done += await _reseal(connection, ring, sync_mutation, "problem", lambda r: ledger_place(p, r["device_id"], r["mutation_id"]))
    states = (change.c.patient_id.is_(None) | (change.c.entity == "erasure"),)
    return done + await _reseal(
        connection, ring, change, "state", lambda r: place_of(p, f"change:{r['entity']}", r["entity_id"], r["version"]), *states
    )


async def _rewrap_patient_keys(connection: Connection, ring: KeyRing) -> int:
    k = patient_key
    old = (own(connection, k), k.c.wrapped.is_not(None), k.c.key_version < ring.newest)
    rows = await connection.rows(sa.select(k).where(*old).limit(BATCH).with_for_update(skip_locked=True))
    for row in rows:
        key = ring.patient_key(row["partner_id"], row["patient_id"], row["key_version"], row["wrapped"])
        values = {"wrapped": ring.wrapped(row["partner_id"], key), "key_version": ring.newest}
        await connection.run(sa.update(k).where(own(connection, k), k.c.patient_id == row["patient_id"]).values(values))
    return len(rows)


async def _reseal(connection: Connection, ring: KeyRing, table: sa.Table, name: str, place: Callable[[Row], str], *where: Any) -> int:
    """Seal a column of a table anew where an older key of the service's own sealed it."""
    column = table.c[name]
    rows = await connection.rows(
        sa.select(table).where(own(connection, table), column.is_not(None), _older(column, ring.newest), *where).limit(BATCH)
    )
    for row in rows:
        fresh = ring.seal(ring.open(row[name], place(row)), place(row))
        same = [c == row[c.name] for c in table.primary_key]
        await connection.run(sa.update(table).where(*same, column == row[name]).values({name: fresh}))
    return len(rows)


async def wrapped_by_version(connection: Connection) -> dict[int, int]:
    """Return how many of a partner's keys and blobs each version of the key-encryption key wraps."""
    found: dict[int, int] = {}
    k = patient_key
    queries = [sa.select(k.c.key_version.label("v"), sa.func.count().label("n")).where(own(connection, k), k.c.wrapped.is_not(None)).group_by("v")]
    for table, name in ((webhook_secret, "secret"), (sync_mutation, "problem"), (change, "state"), (idempotency_key, "answer")):
        column = table.c[name]
        mine = (own(connection, table), column.is_not(None), sa.func.get_byte(column, 0) == 0)
        queries.append(sa.select(sa.func.get_byte(column, 1).label("v"), sa.func.count().label("n")).where(*mine).group_by("v"))
    for query in queries:
        for row in await connection.rows(query):
            found[row["v"]] = found.get(row["v"], 0) + row["n"]
    return found


async def signing_keys_by_version(connection: Connection) -> dict[int, int]:
    """Return how many signing keys each version seals."""
    version = sa.func.get_byte(signing_key.c.private_sealed, 1).label("v")
    rows = await connection.rows(sa.select(version, sa.func.count().label("n")).group_by("v"))
    return {r["v"]: r["n"] for r in rows}
