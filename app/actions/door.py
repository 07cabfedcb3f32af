"""The door: authenticate a partner's client, and say what a token for it, or for one of its clinicians, may do."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.actions.records import Fields, create
from app.actions.visit import Visit
from app.keys.cipher import KeyRing
from app.keys.jws import TokenRefused
from app.keys.tokens import Assertion, SigningKey, claimed_client, read_assertion
from app.store.database import Connection, Row
from app.store.door import client_keys, clinician_is_active, find_client, patient_is_there, secret_digests, use_assertion
from app.store.sync import find_device, saw_device
from app.store.tables.sync import device
from app.store.wrapping import signing_place

CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
KEPT_AFTER_EXPIRY = timedelta(minutes=5)  # longer than the skew that is allowed for: a used assertion outlives itself
NOBODY = hashlib.sha256(secrets.token_bytes(32)).digest()
CARE = ("patients", "episodes", "inventory", "classification", "sessions", "assessments", "termination", "risk", "consents", "groups", "notes")
FOR_CLINICIANS = frozenset(f"{noun}:{verb}" for noun in CARE for verb in ("read", "write")) | {
    "inventory:names",
    "sync",
    "emergency:use",
    "outcomes:approve",
}
FOR_PATIENTS = frozenset({"assessments:read", "assessments:write", "sessions:read", "sessions:write", "sync"})
LONGEST_LABEL = 60
OUTCOMES = frozenset({"outcomes:read", "outcomes:extract", "outcomes:approve"})


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
    live: bool
    """A live partner, with real patients; else a sandbox with made-up ones."""

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
    return Client(row["partner_id"], row["name"], frozenset(row["scopes"]), row["partner_kind"] == "live")


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
    return Client(row["partner_id"], row["name"], frozenset(row["scopes"]), row["partner_kind"] == "live")


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
        return most - OUTCOMES or most
    asked = frozenset(wanted.split())
    code = "invalid_scope"
    if not asked <= most:
        raise GrantRefused(code, "A scope is wider than the client's.")
    if asked & OUTCOMES and asked - OUTCOMES:
        raise GrantRefused(code, "Scopes of outcomes go into a token of their own: it opens no patient's route.")
    return asked


def check_bound(client: Client, thumbprint: str | None, scopes: frozenset[str], *, personal: bool) -> None:
    """Raise GrantRefused when a token must be bound to a key and is not: a person's, or one for extracts, of a live partner."""
    if client.live and thumbprint is None and (personal or "outcomes:extract" in scopes):
        code = "invalid_dpop_proof"
        raise GrantRefused(code, "This token must be bound to a key: send a DPoP proof (RFC 9449), or dpop_jkt with the key's thumbprint.")


async def granted_for_person(
    connection: Connection, client: Client, kind: str, subject: str | None, wanted: str | None
) -> tuple[UUID, frozenset[str]]:
    """Return the person (clinician or patient) that a client may act for, and the scopes of that token. Raises GrantRefused."""
    if "token:exchange" not in client.scopes:
        code = "unauthorized_client"
        raise GrantRefused(code, "The client has no scope token:exchange.")
    person_id = _uuid(subject)
    known = {"clinician": clinician_is_active, "patient": patient_is_there}[kind]
    if person_id is None or not await known(connection, person_id):
        code = "invalid_request"
        raise GrantRefused(code, f"subject_token must be the id of {'an active clinician' if kind == 'clinician' else 'a patient'} of this partner.")
    return person_id, granted(wanted, client.scopes & (FOR_CLINICIANS if kind == "clinician" else FOR_PATIENTS))


async def bind_device(visit: Visit, kind: str, person_id: UUID, claimed: str, label: str | None) -> UUID:
    """Return the device that a token is bound to; its first token registers it. Raises GrantRefused.

    A device stays with one person and one client: a phone that changes hands is a new device. A revoked one gets no token again.
    """
    device_id = _uuid(claimed)
    code = "invalid_request"
    if device_id is None or device_id.version not in {4, 7}:
        raise GrantRefused(code, "actor_token must be the device's own id: a UUID of version 7 or 4 that the app made when it was installed.")
    if label is not None and not (0 < len(label) <= LONGEST_LABEL and label.isprintable()):
        raise GrantRefused(code, f"device_label has 1 to {LONGEST_LABEL} visible characters.")
    owner = {"client_id": visit.caller.client_id, "person_kind": kind, "person_id": person_id}
    there = await find_device(visit.connection, device_id, lock=True)
    if there is None:
        fields = Fields(owner | {"label": label, "last_token_at": visit.now}, id=device_id)
        await create(visit, device, fields)
        there = await find_device(visit.connection, device_id)
    if there is None or any(there[name] != value for name, value in owner.items()):
        raise GrantRefused(code, "This device belongs to another person or client.")
    if there["revoked_at"] is not None:
        code = "invalid_grant"
        raise GrantRefused(code, "device_revoked: the device must delete every copy of the data that it holds.")
    await saw_device(visit.connection, device_id, visit.now)
    return device_id


def signing_pairs(rows: Iterable[Row], ring: KeyRing) -> list[SigningKey]:
    """Open stored signing keys. Raises KeyMissing."""
    return [
        SigningKey(r["kid"], ring.open(r["private_sealed"], signing_place(r["kid"])).decode(), r["public_jwk"], r["signs_from"], r["published_until"])
        for r in rows
    ]


def newest_signing(keys: Iterable[SigningKey], now: datetime) -> SigningKey | None:
    """Return the key that signs now: the newest whose time has come."""
    return next((k for k in sorted(keys, key=lambda k: k.signs_from, reverse=True) if k.signs_from <= now), None)


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text or "")
    except ValueError:
        return None
