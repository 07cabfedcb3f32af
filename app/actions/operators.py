"""What the operator does from the command line: partners, clients, keys. Runs as the owner of the schema."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.actions.door import partner_of
from app.domain.errors import Conflict, NotFound
from app.keys.cipher import KeyRing
from app.keys.jws import checked_public_key
from app.keys.tokens import ACCESS_TOKEN_SECONDS, new_signing_key
from app.store.database import Database, Row
from app.store.door import (
    add_client,
    add_client_key,
    add_partner,
    add_secret,
    add_signing_key,
    clients_of,
    disable_client,
    find_client,
    partners,
    retire_signing_keys,
    revoke,
    signing_keys,
)
from app.store.trail import every_signing_key
from app.store.wrapping import signing_keys_by_version, signing_place, wrapped_by_version

SHORTEST_OVERLAP = timedelta(seconds=10)  # every process polls the keys within five seconds
KEPT_AFTER = timedelta(seconds=2 * ACCESS_TOKEN_SECONDS)


class ClientExists(Conflict):
    """A client of this name exists."""


async def register_partner(database: Database, name: str, kind: str, setting: dict[str, Any], now: datetime) -> UUID:
    """Add a partner with its settings and its change clock; return its id."""
    partner_id = uuid7()
    async with database.transaction(partner_id) as connection:
        row = {"partner_id": partner_id, "name": name, "kind": kind, "created_at": now}
        await add_partner(connection, row, setting, now)
        await connection.commit()
    return partner_id


async def register_client(database: Database, partner_id: UUID, name: str, scopes: list[str], now: datetime) -> tuple[str, str]:
    """Add a client; return its id and its secret, which is shown this once and kept only as a digest."""
    secret = secrets.token_urlsafe(32)
    async with database.transaction(partner_id) as connection:
        known = {p["partner_id"] for p in await partners(connection)}
        if partner_id not in known:
            raise NotFound
        if not await add_client(connection, name, scopes, now):
            raise ClientExists
        await add_secret(connection, name, hashlib.sha256(secret.encode()).digest(), now)
        await connection.commit()
    return f"{partner_id}.{name}", secret


async def register_client_key(database: Database, client_id: str, public: dict[str, Any], now: datetime) -> str:
    """Register a client's public key for private_key_jwt; return its kid. Raises NotFound, KeyRefused."""
    partner_id, name = partner_of(client_id)
    jwk = checked_public_key(public)
    async with database.transaction(partner_id) as connection:
        if await find_client(connection, name) is None:
            raise NotFound
        await add_client_key(connection, name, jwk, now)
        await connection.commit()
    return jwk["kid"]


async def turn_client_off(database: Database, client_id: str, now: datetime) -> None:
    """Disable a client and revoke what it holds: every process refuses its tokens within five seconds."""
    partner_id, name = partner_of(client_id)
    async with database.transaction(partner_id) as connection:
        if not await disable_client(connection, name, now):
            raise NotFound
        await revoke(connection, "client", client_id, now, None)
        await connection.commit()


async def list_clients(database: Database, partner_id: UUID) -> list[Row]:
    """Return a partner's clients."""
    async with database.transaction(partner_id) as connection:
        return await clients_of(connection)


async def list_partners(database: Database) -> list[Row]:
    """Return every partner."""
    async with database.transaction(None) as connection:
        return await partners(connection)


async def rotate_signing_key(database: Database, ring: KeyRing, overlap: timedelta, now: datetime) -> str:
    """Publish a new signing key now, let it sign after the overlap, and let the old ones go once no token of theirs lives."""
    async with database.transaction(None) as connection:
        first = not await signing_keys(connection, now)
        signs_from = now if first else now + max(overlap, SHORTEST_OVERLAP)
        key = new_signing_key(signs_from)
        row = {
            "kid": key.kid,
            "public_jwk": dict(key.public_jwk),
            "private_sealed": ring.seal(key.private_pem.encode(), signing_place(key.kid)),
            "created_at": now,
            "signs_from": signs_from,
        }
        await add_signing_key(connection, row)
        await retire_signing_keys(connection, key.kid, signs_from + KEPT_AFTER)
        await connection.commit()
    return key.kid


async def renew_signing_keys(database: Database, ring: KeyRing, now: datetime) -> str:
    """Sign with a new key from now on, and publish no older one: after a restore, which brings back what was retired since. Tokens of before are dead."""
    async with database.transaction(None) as connection:
        await retire_signing_keys(connection, "", now)
        await connection.commit()
    return await rotate_signing_key(database, ring, timedelta(0), now)


async def check_keys(database: Database, ring: KeyRing) -> None:
    """Open every signing key: it tells the right key file from another one. Raises KeyMissing."""
    async with database.transaction(None) as connection:
        for row in await every_signing_key(connection):
            ring.open(row["private_sealed"], signing_place(row["kid"]))


async def ensure_signing_key(database: Database, ring: KeyRing, now: datetime) -> None:
    """Make the first signing key, if there is none."""
    async with database.transaction(None) as connection:
        there = await signing_keys(connection, now)
    if not there:
        await rotate_signing_key(database, ring, timedelta(0), now)


async def wrapped_under(database: Database) -> dict[int, int]:
    """Return how much each version of the key-encryption key wraps, over all partners."""
    async with database.transaction(None) as connection:
        found = await signing_keys_by_version(connection)
        known = await partners(connection)
    for row in known:
        async with database.transaction(row["partner_id"]) as connection:
            for version, number in (await wrapped_by_version(connection)).items():
                found[version] = found.get(version, 0) + number
    return found
