"""The door: authenticate a partner's client, and say what a token for it, or for one of its clinicians, may do."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.keys.tokens import Assertion, TokenRefused, claimed_client, read_assertion
from app.store.database import Connection
from app.store.door import client_keys, clinician_is_active, find_client, secret_digests, use_assertion

CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
KEPT_AFTER_EXPIRY = timedelta(minutes=5)  # longer than the skew that is allowed for: a used assertion outlives itself
NOBODY = hashlib.sha256(secrets.token_bytes(32)).digest()
CARE = ("patients", "episodes", "inventory", "classification", "sessions", "assessments", "termination", "risk", "consents", "groups", "notes")
FOR_CLINICIANS = frozenset(f"{noun}:{verb}" for noun in CARE for verb in ("read", "write")) | {"inventory:names"}


class ClientRefused(Exception):
    """The client cannot be authenticated. Unknown, disabled, wrong secret, wrong signature: all alike."""


class GrantRefused(Exception):
    """The client is known, and what it asks for is refused; carries the OAuth error code and a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Client:
    """An authenticated client of a partner."""

    partner_id: UUID
    name: str
    scopes: frozenset[str]

    @property
    def client_id(self) -> str:
        """Return the id that the partner uses: `<partner>.<name>`."""
        return f"{self.partner_id}.{self.name}"


def partner_of(client_id: str) -> tuple[UUID, str]:
    """Split a client id into its partner and its name. One spelling only. Raises ClientRefused."""
    partner, _, name = client_id.partition(".")
    try:
        found = UUID(partner)
    except ValueError:
        raise ClientRefused from None
    if str(found) != partner or CLIENT_NAME.fullmatch(name) is None:
        raise ClientRefused
    return found, name


async def authenticate_by_secret(connection: Connection, name: str, secret: str, now: datetime) -> Client:
    """Return the client that holds this secret. Raises ClientRefused after the same work in every case."""
    row = await find_client(connection, name)
    digests = await secret_digests(connection, name, now)
    shown = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
    matched = [hmac.compare_digest(shown, digest) for digest in [NOBODY, *digests]]
    if not any(matched) or row is None or row["disabled_at"] is not None or row["partner_disabled_at"] is not None:
        raise ClientRefused
    return Client(row["partner_id"], row["name"], frozenset(row["scopes"]))


async def authenticate_by_assertion(connection: Connection, name: str, token: str, issuer: str, now: datetime) -> Client:
    """Return the client that signed this assertion; each assertion works once, whichever process sees it."""
    row = await find_client(connection, name)
    keys = await client_keys(connection, name)
    try:
        assertion: Assertion = read_assertion(token, keys, issuer, int(now.timestamp()))
    except TokenRefused:
        raise ClientRefused from None
    if row is None or row["disabled_at"] is not None or row["partner_disabled_at"] is not None:
        raise ClientRefused
    if partner_of(assertion.client_id) != (row["partner_id"], row["name"]):
        raise ClientRefused
    if not await use_assertion(connection, name, assertion.jti, datetime.fromtimestamp(assertion.expires_at, UTC) + KEPT_AFTER_EXPIRY):
        raise ClientRefused
    return Client(row["partner_id"], row["name"], frozenset(row["scopes"]))


def assertion_client(token: str) -> str:
    """Return the client id that an assertion claims. Raises ClientRefused."""
    try:
        return claimed_client(token)
    except TokenRefused:
        raise ClientRefused from None


def granted(wanted: str | None, held: Iterable[str]) -> frozenset[str]:
    """Return the scopes of a token: what was asked for, or all that is held. Raises GrantRefused for more than is held."""
    most = frozenset(held)
    if wanted is None or not wanted.strip():
        return most
    asked = frozenset(wanted.split())
    if not asked <= most:
        code = "invalid_scope"
        raise GrantRefused(code, "A scope is wider than the client's.")
    return asked


async def granted_for_clinician(connection: Connection, client: Client, subject: str | None, wanted: str | None) -> tuple[UUID, frozenset[str]]:
    """Return the clinician that a client may act for, and the scopes of that token. Raises GrantRefused."""
    if "token:exchange" not in client.scopes:
        code = "unauthorized_client"
        raise GrantRefused(code, "The client has no scope token:exchange.")
    try:
        clinician_id = UUID(subject or "")
    except ValueError:
        clinician_id = None
    if clinician_id is None or not await clinician_is_active(connection, clinician_id):
        code = "invalid_request"
        raise GrantRefused(code, "subject_token must be the id of an active clinician of this partner.")
    return clinician_id, granted(wanted, client.scopes & FOR_CLINICIANS)
