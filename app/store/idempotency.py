"""Kept answers: the key and the effect commit together, and a replay returns the first answer's bytes."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.store.database import Connection, Row
from app.store.statements import EACH, given, prepared
from app.store.tables.door import idempotency_key
from app.store.tables.people import patient_key

KEPT_FOR = timedelta(hours=72)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What is kept under a key: hashes and the sealed answer, with the patient whose key seals it."""

    key_hash: bytes
    request_hash: bytes
    patient_id: UUID | None
    status: int
    headers: dict[str, str]
    answer: bytes


def hash_of(*parts: str) -> bytes:
    """Hash the scope of a key: client, person, method, path and the key itself."""
    return hashlib.sha256("\x00".join(parts).encode()).digest()


async def hold(connection: Connection, key_hash: bytes) -> bool:
    """Take the key for this transaction; False when another request holds it at this moment."""
    return bool(await connection.value(_held, lock=int.from_bytes(key_hash[:8], signed=True)))


@prepared
def _held() -> sa.Select[Any]:
    return sa.select(sa.func.pg_try_advisory_xact_lock(given("lock", sa.BigInteger())))


async def hold_for_transaction(connection: Connection, name: str) -> None:
    """Wait for a name and hold it until this transaction ends: whoever else wants it comes after."""
    lock = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    await connection.value(sa.select(sa.func.pg_advisory_xact_lock(lock)))


async def find_kept(connection: Connection, key_hash: bytes, now: datetime) -> Row | None:
    """Return the kept answer and its patient's wrapped key, or None."""
    return await connection.first(_kept, key_hash=key_hash, now=now)


@prepared
def _kept() -> sa.Select[Any]:
    k, p = idempotency_key, patient_key
    return (
        sa.select(k, p.c.wrapped, p.c.key_version)
        .select_from(k.outerjoin(p, (p.c.partner_id == k.c.partner_id) & (p.c.patient_id == k.c.patient_id)))
        .where(k.c.partner_id == EACH.partner_id, k.c.key_hash == given("key_hash", k.c.key_hash), k.c.expires_at > given("now", k.c.expires_at))
    )


async def keep(connection: Connection, kept: KeptAnswer, now: datetime) -> None:
    """Keep an answer; an expired one under the same key is replaced."""
    values = {name: getattr(kept, name) for name in ("key_hash", "patient_id", "request_hash", "status", "headers", "answer")}
    await connection.run(_keep, **values, created_at=now, expires_at=now + KEPT_FOR)


@prepared
def _keep() -> sa.Insert:
    k = idempotency_key
    made = insert(k).values({c.name: EACH.partner_id if c.name == "partner_id" else given(c.name, c) for c in k.c})
    fresh = {c.name: made.excluded[c.name] for c in k.c if c.name not in {"partner_id", "key_hash"}}
    return made.on_conflict_do_update(index_elements=["partner_id", "key_hash"], set_=fresh)
