"""The audit trail: read by the partner, sealed by the worker so that the partner can check it alone."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from app.actions.people import check_backend
from app.actions.visit import Visit
from app.domain.audit import FIRST_PREVIOUS, FORGED, event_of, hash_of_seal, leaf_of, seal_claims
from app.domain.errors import NotFound
from app.keys.cipher import KeyMissing, KeyRing
from app.keys.tokens import SigningKey, public_half, sign_seal
from app.store.audit import is_ours
from app.store.database import Connection, Row
from app.store.idempotency import hold_for_transaction
from app.store.people import same_person
from app.store.trail import accesses_by_person, add_seal, every_signing_key, mark_sealed, newest_seal, page_audit_events, page_seals, unsealed
from app.store.wrapping import signing_place


async def read_audit_events(visit: Visit, filters: dict[str, Any], after: Sequence[Any] | None, limit: int) -> list[Row]:
    """Return a page of audit events in the spelling that is sealed, each with its seal. Raises BackendOnly."""
    check_backend(visit)
    rows = await page_audit_events(visit.connection, filters, after, limit)
    seals = [None if r["sealed_by"] == FORGED else r["sealed_by"] for r in rows]
    return [
        {**event_of(r), "seal": seal, "forged": r["sealed_by"] == FORGED or not is_ours(visit.keys, r)} for r, seal in zip(rows, seals, strict=True)
    ]


async def read_seals(visit: Visit, number: int | None, after: Sequence[Any] | None, limit: int) -> list[Row]:
    """Return a page of seals, from `number` on. Raises BackendOnly."""
    check_backend(visit)
    rows = await page_seals(visit.connection, number, after, limit)
    return [{**r, "root": r["root"].hex(), "previous": r["previous"].hex()} for r in rows]


async def read_seal_keys(visit: Visit) -> list[dict[str, str]]:
    """Return the public keys that have ever signed seals. Raises BackendOnly.

    Each is made from its private half, which only the service can open: a key that somebody else has put into the database is not shown.
    """
    check_backend(visit)
    found = []
    for row in await every_signing_key(visit.connection):
        try:
            public = public_half(visit.keys.open(row["private_sealed"], signing_place(row["kid"])).decode())
        except (KeyMissing, ValueError):
            continue
        if public["kid"] == row["kid"]:
            found.append(public)
    return found


async def read_accesses(visit: Visit, patient_id: UUID) -> list[Row]:
    """Return who read and who wrote of a person, by every registration; also after their erasure. Raises BackendOnly, NotFound."""
    check_backend(visit)
    same = await same_person(visit.connection, patient_id)
    if not same:
        raise NotFound
    visit.trace.patient_id = patient_id
    return await accesses_by_person(visit.connection, same)


async def seal_trail(connection: Connection, keys: KeyRing, signing: SigningKey, now: datetime) -> tuple[int, int]:
    """Seal what is committed and not sealed yet: a Merkle root, chained and signed. Return how many events it covers, and how many were forged.

    An event without the service's code was put there by somebody else: it is marked, never sealed. Partners are sealed one worker at a
    time. The order of commits does not matter.
    """
    await hold_for_transaction(connection, f"seal|{connection.partner_id}")
    rows = await unsealed(connection)
    if not rows:
        return 0, 0
    ours, forged = [], []
    for row in rows:
        (ours.append(row) if is_ours(keys, row) else forged.append(row["id"]))
    if forged:
        await mark_sealed(connection, forged, FORGED)
    if ours:
        last = await newest_seal(connection)
        number = 1 if last is None else last["number"] + 1
        previous = FIRST_PREVIOUS if last is None else hash_of_seal(last["signature"])
        claims = seal_claims(connection.partner_id, number, [leaf_of(event_of(r)) for r in sorted(ours, key=lambda r: str(r["id"]))], previous, now)
        await add_seal(connection, claims, now, signing.kid, sign_seal(signing, claims))
        await mark_sealed(connection, [r["id"] for r in ours], number)
    return len(ours), len(forged)
