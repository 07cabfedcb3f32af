"""What the door asks: clients, their secrets and keys, used assertions, signing keys, revocations."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from uuid_utils.compat import uuid7

from app.store.database import Connection, Row
from app.store.rows import own
from app.store.statements import EACH, prepared
from app.store.tables.door import client, client_key, client_secret, partner, partner_setting, revocation, signing_key, used_assertion, used_proof
from app.store.tables.people import clinician, patient
from app.store.tables.record import change_clock


async def find_client(connection: Connection, name: str) -> Row | None:
    """Return a client with its partner's state, or None."""
    query = (
        sa.select(client, partner.c.disabled_at.label("partner_disabled_at"), partner.c.kind.label("partner_kind"))
        .join(partner, partner.c.partner_id == client.c.partner_id)
        .where(own(connection, client), client.c.name == name)
    )
    return await connection.first(query)


async def secret_digests(connection: Connection, name: str, now: datetime) -> list[bytes]:
    """Return the digests of a client's live secrets."""
    t = client_secret
    rows = await connection.rows(
        sa.select(t.c.digest).where(own(connection, t), t.c.client_name == name, sa.or_(t.c.expires_at.is_(None), t.c.expires_at > now))
    )
    return [r["digest"] for r in rows]


async def client_keys(connection: Connection, name: str) -> dict[str, dict[str, str]]:
    """Return a client's registered public keys by kid."""
    rows = await connection.rows(sa.select(client_key).where(own(connection, client_key), client_key.c.client_name == name))
    return {r["kid"]: r["public_jwk"] for r in rows}


async def use_assertion(connection: Connection, name: str, jti: str, expires_at: datetime) -> bool:
    """Note that an assertion was used; False when it was used before, by whichever process."""
    values = {"partner_id": connection.partner_id, "client_name": name, "jti": jti, "expires_at": expires_at}
    return await connection.run(insert(used_assertion).values(values).on_conflict_do_nothing()) == 1


async def commit_soon(connection: Connection) -> None:
    """Let this transaction's COMMIT not wait for the disk: a crash of the database forgets its last instants."""
    await connection.script("SET LOCAL synchronous_commit = off")


async def use_proof(connection: Connection, thumbprint: str, jti: str, expires_at: datetime) -> bool:
    """Note that a proof of possession was used; False when it was used before, by whichever process."""
    values = {"partner_id": connection.partner_id, "thumbprint": thumbprint, "jti": jti, "expires_at": expires_at}
    return await connection.run(insert(used_proof).values(values).on_conflict_do_nothing()) == 1


async def signing_keys(connection: Connection, now: datetime) -> list[Row]:
    """Return the keys that are still published, the newest first."""
    live = sa.or_(signing_key.c.published_until.is_(None), signing_key.c.published_until > now)
    return await connection.rows(sa.select(signing_key).where(live).order_by(signing_key.c.signs_from.desc()))


async def revoked(connection: Connection, now: datetime) -> list[Row]:
    """Return the live revocations."""
    live = sa.or_(revocation.c.expires_at.is_(None), revocation.c.expires_at > now)
    return await connection.rows(sa.select(revocation.c.kind, revocation.c.value).where(live))


async def revoke(connection: Connection, kind: str, value: str, now: datetime, expires_at: datetime | None) -> None:
    """Note a revocation; every process reads it within seconds."""
    values = {"id": uuid7(), "kind": kind, "value": value, "revoked_at": now, "expires_at": expires_at}
    again = {"revoked_at": now, "expires_at": expires_at}
    await connection.run(insert(revocation).values(values).on_conflict_do_update(index_elements=["kind", "value"], set_=again))


async def add_partner(connection: Connection, row: dict[str, Any], setting: dict[str, Any], now: datetime) -> None:
    """Insert a partner with its settings and its change clock."""
    await connection.run(sa.insert(partner).values(row))
    await connection.run(sa.insert(partner_setting).values(partner_id=row["partner_id"], version=1, created_at=now, updated_at=now, **setting))
    await connection.run(sa.insert(change_clock).values(partner_id=row["partner_id"], epoch=1, seq=0, at=now, min_seq=0))


async def add_client(connection: Connection, name: str, scopes: Sequence[str], now: datetime) -> bool:
    """Insert a client; False when the name is taken."""
    values = {"partner_id": connection.partner_id, "name": name, "scopes": list(scopes), "created_at": now}
    return await connection.run(insert(client).values(values).on_conflict_do_nothing()) == 1


async def add_secret(connection: Connection, name: str, digest: bytes, now: datetime) -> None:
    """Insert the digest of a client's secret."""
    values = {"partner_id": connection.partner_id, "id": uuid7(), "client_name": name, "digest": digest, "created_at": now}
    await connection.run(sa.insert(client_secret).values(values))


async def add_client_key(connection: Connection, name: str, jwk: dict[str, str], now: datetime) -> bool:
    """Insert a client's public key; False when it is registered already."""
    values = {"partner_id": connection.partner_id, "client_name": name, "kid": jwk["kid"], "public_jwk": jwk, "created_at": now}
    return await connection.run(insert(client_key).values(values).on_conflict_do_nothing()) == 1


async def secrets_of_clients(connection: Connection, names: Sequence[str]) -> list[Row]:
    """Return when secrets of some clients were made and end, the newest first."""
    t = client_secret
    query = sa.select(t.c.client_name, t.c.id, t.c.created_at, t.c.expires_at).where(own(connection, t), t.c.client_name.in_(names))
    return await connection.rows(query.order_by(t.c.created_at.desc(), t.c.id.desc()))


async def kids_of_clients(connection: Connection, names: Sequence[str]) -> list[Row]:
    """Return the kids of some clients' public keys."""
    t = client_key
    return await connection.rows(sa.select(t.c.client_name, t.c.kid).where(own(connection, t), t.c.client_name.in_(names)).order_by(t.c.kid))


async def expire_client_secrets(connection: Connection, name: str, at: datetime) -> None:
    """Let a client's present secrets end at `at`, unless they end sooner."""
    t = client_secret
    sooner = sa.or_(t.c.expires_at.is_(None), t.c.expires_at > at)
    await connection.run(sa.update(t).where(own(connection, t), t.c.client_name == name, sooner).values(expires_at=at))


async def remove_client_key(connection: Connection, name: str, kid: str) -> bool:
    """Delete a client's public key; False when there is none."""
    t = client_key
    return await connection.run(sa.delete(t).where(own(connection, t), t.c.client_name == name, t.c.kid == kid)) == 1


async def disable_client(connection: Connection, name: str, now: datetime) -> bool:
    """Mark a client as disabled; False when there is none, or it is disabled already."""
    live = (own(connection, client), client.c.name == name, client.c.disabled_at.is_(None))
    return await connection.run(sa.update(client).where(*live).values(disabled_at=now)) == 1


async def clients_of(connection: Connection) -> list[Row]:
    """Return the partner's clients by name."""
    return await connection.rows(sa.select(client).where(own(connection, client)).order_by(client.c.name))


async def partner_kind(connection: Connection) -> str:
    """Return whether the partner that the connection is confined to is live, or a sandbox."""
    return str(await connection.value(_kind))


@prepared
def _kind() -> sa.Select[Any]:
    return sa.select(partner.c.kind).where(partner.c.partner_id == EACH.partner_id)


async def partners(connection: Connection) -> list[Row]:
    """Return every partner, the oldest first."""
    return await connection.rows(sa.select(partner).order_by(partner.c.created_at))


async def add_signing_key(connection: Connection, row: dict[str, Any]) -> None:
    """Insert a signing key."""
    await connection.run(sa.insert(signing_key).values(row))


async def retire_signing_keys(connection: Connection, except_kid: str, until: datetime) -> None:
    """Let every other key go out of publication at `until`, unless it goes sooner."""
    t = signing_key
    sooner = sa.or_(t.c.published_until.is_(None), t.c.published_until > until)
    await connection.run(sa.update(t).where(t.c.kid != except_kid, sooner).values(published_until=until))


async def clinician_is_active(connection: Connection, clinician_id: UUID) -> bool:
    """Tell whether a clinician exists in the partner and is active."""
    return bool(await connection.value(sa.select(clinician.c.active).where(own(connection, clinician), clinician.c.id == clinician_id)))


async def patient_is_there(connection: Connection, patient_id: UUID) -> bool:
    """Tell whether a patient exists in the partner."""
    there = sa.select(patient.c.id).where(own(connection, patient), patient.c.id == patient_id, patient.c.erased_at.is_(None))
    return await connection.value(there.with_for_update(read=True)) is not None  # an erasure waits, or is seen
