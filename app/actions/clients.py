"""A partner manages its own clients: names, scopes, secrets, keys. Nobody hands out more than they hold."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from app.actions.door import CLIENT_NAME, OUTCOMES
from app.actions.people import check_backend
from app.actions.visit import Visit
from app.domain.errors import Conflict, Fault, Forbidden, Invalid, NotFound
from app.keys.jws import KeyRefused, checked_public_key
from app.store.database import Row
from app.store.door import (
    add_client,
    add_client_key,
    add_secret,
    clients_of,
    disable_client,
    expire_client_secrets,
    find_client,
    kids_of_clients,
    remove_client_key,
    revoke,
    secrets_of_clients,
)

SECRET_BYTES = 32
MOST_CLIENTS = 200
MOST_KEYS, MOST_SECRETS = 10, 5
RESERVED = {"worker"}  # the service's own, in the audit trail


class ClientNameTaken(Conflict):
    """A client of this name exists; a name is not used twice, also when the client was disabled."""


class ScopesTooWide(Forbidden):
    """A client's scopes go beyond those of the token: nobody hands out, or takes over, more than they hold."""


class OwnClient(Conflict):
    """A client does not disable itself: let another one do it, or the operator."""


class TooManyCredentials(Conflict):
    """A client has at most ten keys and five live secrets: retire one, or let one end."""


class TooManyClients(Conflict):
    """The partner has as many clients as there can be."""


async def list_clients(visit: Visit) -> list[dict[str, Any]]:
    """Return the partner's clients with what they authenticate by; secrets are not kept and not shown. Raises BackendOnly."""
    check_backend(visit)
    return await _described(visit, await clients_of(visit.connection))


async def create_client(visit: Visit, name: str, scopes: frozenset[str]) -> tuple[dict[str, Any], str]:
    """Add a client; return it and its secret, which is shown this once. Raises BackendOnly, ClientNameTaken, ScopesTooWide."""
    check_backend(visit)
    if CLIENT_NAME.fullmatch(name) is None or name in RESERVED:
        raise Invalid(
            faults=[Fault("/name", "has 1 to 40 of a-z, 0-9 and -, begins with no -, and is not `worker`, the service's own name in the audit trail")]
        )
    await _check_not_wider(visit, scopes)
    if len(await clients_of(visit.connection)) >= MOST_CLIENTS:
        raise TooManyClients
    if not await add_client(visit.connection, name, sorted(scopes), visit.now):
        raise ClientNameTaken
    secret = await _new_secret(visit, name)
    return (await _described(visit, [await _client(visit, name)]))[0], secret


async def rotate_client_secret(visit: Visit, name: str, overlap: timedelta) -> tuple[dict[str, Any], str]:
    """Give a client a new secret; the present ones end after the overlap. Raises BackendOnly, NotFound, ScopesTooWide."""
    row = await _managed(visit, name)
    await expire_client_secrets(visit.connection, name, visit.now + overlap)
    live = [s for s in await secrets_of_clients(visit.connection, [name]) if s["expires_at"] is None or s["expires_at"] > visit.now]
    if len(live) >= MOST_SECRETS:
        raise TooManyCredentials
    secret = await _new_secret(visit, name)
    return (await _described(visit, [row]))[0], secret


async def add_key(visit: Visit, name: str, public: Mapping[str, Any]) -> dict[str, Any]:
    """Register a public key of a client, for private_key_jwt. Raises BackendOnly, NotFound, ScopesTooWide, Invalid for an unfit key."""
    row = await _managed(visit, name)
    try:
        jwk = checked_public_key(public)
    except KeyRefused as refused:
        raise Invalid(faults=[Fault("/jwk", str(refused))]) from None
    if len(await kids_of_clients(visit.connection, [name])) >= MOST_KEYS:
        raise TooManyCredentials
    await add_client_key(visit.connection, name, jwk, visit.now)
    visit.journal.kept_beside = True
    return (await _described(visit, [row]))[0]


async def retire_key(visit: Visit, name: str, kid: str) -> dict[str, Any]:
    """Take a public key of a client away. Raises BackendOnly, NotFound, ScopesTooWide."""
    row = await _managed(visit, name)
    if not await remove_client_key(visit.connection, name, kid):
        raise NotFound
    visit.journal.kept_beside = True
    return (await _described(visit, [row]))[0]


async def turn_off(visit: Visit, name: str) -> dict[str, Any]:
    """Disable a client: its tokens are refused within five seconds, for ever. Raises BackendOnly, NotFound, OwnClient."""
    check_backend(visit)
    client_id = f"{visit.caller.partner_id}.{name}"
    if client_id == visit.caller.client_id:
        raise OwnClient
    await _client(visit, name)
    await disable_client(visit.connection, name, visit.now)
    await revoke(visit.connection, "client", client_id, visit.now, None)
    visit.journal.kept_beside = True
    return (await _described(visit, [await _client(visit, name)]))[0]


async def _client(visit: Visit, name: str) -> Row:
    row = await find_client(visit.connection, name)
    if row is None:
        raise NotFound
    visit.trace.resources.append(f"client/{name}")
    return row


async def _managed(visit: Visit, name: str) -> Row:
    """Return a client that the caller may give credentials to: one that holds no more than the caller."""
    check_backend(visit)
    row = await _client(visit, name)
    if row["disabled_at"] is not None:
        raise NotFound
    await _check_not_wider(visit, frozenset(row["scopes"]))
    return row


async def _check_not_wider(visit: Visit, scopes: frozenset[str]) -> None:
    """Hold scopes against the token's; those of outcomes, which go into tokens of their own, against the client's."""
    own = await find_client(visit.connection, visit.caller.client_id.partition(".")[2])
    wider = scopes - visit.caller.scopes - (OUTCOMES & set(own["scopes"] if own else ()))
    if wider:
        raise ScopesTooWide(f"Beyond the token: {' '.join(sorted(wider))}.")


async def _new_secret(visit: Visit, name: str) -> str:
    secret = secrets.token_urlsafe(SECRET_BYTES)
    await add_secret(visit.connection, name, hashlib.sha256(secret.encode()).digest(), visit.now)
    visit.journal.kept_beside = True
    return secret


async def _described(visit: Visit, rows: Sequence[Row]) -> list[dict[str, Any]]:
    names = [r["name"] for r in rows]
    secrets_there = await secrets_of_clients(visit.connection, names)
    keys_there = await kids_of_clients(visit.connection, names)
    return [
        {
            "client_id": f"{visit.caller.partner_id}.{row['name']}",
            "name": row["name"],
            "scopes": sorted(row["scopes"]),
            "created_at": row["created_at"],
            "disabled_at": row["disabled_at"],
            "secrets": [s for s in secrets_there if s["client_name"] == row["name"]],
            "keys": [k["kid"] for k in keys_there if k["client_name"] == row["name"]],
        }
        for row in rows
    ]
