"""Kept answers: the key and the effect commit together, and a replay returns the first answer's bytes."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.store.database import Connection, Row
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
    lock = int.from_bytes(key_hash[:8], signed=True)
    return bool(await connection.value(sa.select(sa.func.pg_try_advisory_xact_lock(lock))))


async def hold_for_transaction(connection: Connection, name: str) -> None:
    """Wait for a name and hold it until this transaction ends: whoever else wants it comes after."""
    lock = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    await connection.value(sa.select(sa.func.pg_advisory_xact_lock(lock)))


async def find_kept(connection: Connection, key_hash: bytes, now: datetime) -> Row | None:
    """Return the kept answer and its patient's wrapped key, or None."""
    k, p = idempotency_key, patient_key
    return await connection.first(
        sa.select(k, p.c.wrapped, p.c.key_version)
        .select_from(k.outerjoin(p, (p.c.partner_id == k.c.partner_id) & (p.c.patient_id == k.c.patient_id)))
        .where(k.c.partner_id == connection.partner_id, k.c.key_hash == key_hash, k.c.expires_at > now)
    )


async def keep(connection: Connection, kept: KeptAnswer, now: datetime) -> None:
    """Keep an answer; an expired one under the same key is replaced."""
    values: dict[str, Any] = {
        "partner_id": connection.partner_id,
        "key_hash": kept.key_hash,
        "patient_id": kept.patient_id,
        "request_hash": kept.request_hash,
        "status": kept.status,
        "headers": kept.headers,
        "answer": kept.answer,
        "created_at": now,
        "expires_at": now + KEPT_FOR,
    }
    fresh = {k: v for k, v in values.items() if k not in {"partner_id", "key_hash"}}
    await connection.run(insert(idempotency_key).values(values).on_conflict_do_update(index_elements=["partner_id", "key_hash"], set_=fresh))
