"""Tokens: access tokens, client assertions and proofs of possession are made and read here and nowhere else.

What they must claim is checked here, strictly; shape and signature in keys/jws.py. Every fault ends in one error: TokenRefused.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.keys.jws import KeyRefused, TokenRefused, b64, checked_public_key, expect, parsed, sign, thumbprint, verified

ACCESS_TOKEN_SECONDS = 600
ASSERTION_SECONDS = 60
SKEW_SECONDS = 30
LONGEST_LIFE_SECONDS = 3600
LARGEST_MOMENT = 253_402_300_799  # the last second of the year 9999
P256_BYTES = 32
ACCESS_TOKEN_TYPE = "at+jwt"  # noqa: S105 - RFC 9068's media type
ASSERTION_ALGORITHMS = {"ES256": "EC", "RS256": "RSA"}
PERSONAL = ("clinician_id", "patient_id", "device_id")
PROOF_TYPE = "dpop+jwt"
SEAL_TYPE = "ipt-audit-seal+jwt"
PROOF_SECONDS = 60
THUMBPRINT_CHARACTERS = 43  # SHA-256 in base64url
LONGEST_JTI = 255


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling: the partner, its client, what it may do, the person it acts for, if any, and that person's device, if any."""

    partner_id: UUID
    client_id: str
    scopes: frozenset[str]
    token_id: str
    expires_at: int
    clinician_id: UUID | None = None
    patient_id: UUID | None = None
    device_id: UUID | None = None
    thumbprint: str | None = None
    """The RFC 7638 thumbprint of the key that whoever uses the token must prove to hold (RFC 9449)."""

    @property
    def person(self) -> str | None:
        """Name the person who acts, for audit and idempotency."""
        if self.patient_id is not None:
            return f"patient:{self.patient_id}"
        return None if self.clinician_id is None else f"clinician:{self.clinician_id}"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair of the service: it signs from `signs_from` on and is published until `published_until`."""

    kid: str
    private_pem: str = field(repr=False)
    public_jwk: Mapping[str, str]
    signs_from: datetime
    published_until: datetime | None


@dataclass(frozen=True, slots=True)
class Assertion:
    """What a verified client assertion (RFC 7523) says."""

    client_id: str
    jti: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What a verified proof of possession says: whose key, and the id that makes it good for one use."""

    thumbprint: str
    jti: str


def new_signing_key(signs_from: datetime) -> SigningKey:
    """Make a P-256 key pair; its kid is the RFC 7638 thumbprint."""
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    public = public_half(pem)
    return SigningKey(public["kid"], pem, public, signs_from, None)


def public_half(private_pem: str) -> dict[str, str]:
    """Return the public JWK of a P-256 private key. Raises ValueError for anything else."""
    private = serialization.load_pem_private_key(private_pem.encode(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        message = "no P-256 private key"
        raise ValueError(message)  # noqa: TRY004 - what it is was read from text
    numbers = private.public_key().public_numbers()
    public = {"kty": "EC", "crv": "P-256", "x": b64(numbers.x.to_bytes(P256_BYTES)), "y": b64(numbers.y.to_bytes(P256_BYTES))}
    return {**public, "kid": thumbprint(public), "alg": "ES256", "use": "sig"}


def mint(key: SigningKey, issuer: str, caller: Caller, now: int) -> str:
    """Make an access token (RFC 9068) of ten minutes for a caller."""
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": issuer,
        "sub": caller.person or caller.client_id,
        "client_id": caller.client_id,
        "partner": str(caller.partner_id),
        "scope": " ".join(sorted(caller.scopes)),
        "jti": caller.token_id,
        "iat": now,
        "exp": caller.expires_at,
    }
    personal = {name: str(getattr(caller, name)) for name in PERSONAL if getattr(caller, name) is not None}
    if personal:
        claims |= personal | {"act": {"sub": caller.client_id}}
    if caller.thumbprint is not None:
        claims["cnf"] = {"jkt": caller.thumbprint}
    return sign(claims, key.private_pem, {"kid": key.kid, "typ": ACCESS_TOKEN_TYPE})


def new_caller(partner_id: UUID, client_id: str, scopes: Iterable[str], now: int, *, thumbprint: str | None = None, **person: UUID | None) -> Caller:
    """Describe the holder of a token that is about to be made; `person` names clinician_id or patient_id, and device_id."""
    return Caller(partner_id, client_id, frozenset(scopes), str(uuid4()), now + ACCESS_TOKEN_SECONDS, thumbprint=thumbprint, **person)


def read_access_token(token: str, keys: Mapping[str, Mapping[str, str]], issuer: str, now: int) -> Caller:
    """Verify an access token and return its caller. `keys` are the published keys by kid. Raises TokenRefused."""
    claims = verified(token, lambda header: _issued_key(header, keys))
    _check_times(claims, now)
    expect(claims.get("iss") == issuer and claims.get("aud") == issuer)
    known = {"iss", "aud", "sub", "client_id", "partner", "scope", "jti", "iat", "exp", "act", "cnf", *PERSONAL}
    expect(set(claims) <= known and all(isinstance(claims.get(c), str) for c in ("sub", "client_id", "partner", "scope", "jti")))
    personal = {name: claims[name] for name in PERSONAL if claims.get(name) is not None}
    expect(all(isinstance(value, str) for value in personal.values()))
    expect(not {"clinician_id", "patient_id"} <= set(personal) and (set(personal) != {"device_id"}))
    try:
        person = {name: UUID(value) for name, value in personal.items()}
        partner = UUID(claims["partner"])
    except ValueError:
        raise TokenRefused from None
    bound = _bound_to(claims.get("cnf"))
    return Caller(partner, claims["client_id"], frozenset(claims["scope"].split()), claims["jti"], claims["exp"], thumbprint=bound, **person)


def _bound_to(confirmation: Any) -> str | None:
    if confirmation is None:
        return None
    expect(isinstance(confirmation, dict) and set(confirmation) == {"jkt"} and is_thumbprint(confirmation["jkt"]))
    return str(confirmation["jkt"])


def is_thumbprint(text: Any) -> bool:
    """Tell whether this has the shape of an RFC 7638 thumbprint."""
    return isinstance(text, str) and len(text) == THUMBPRINT_CHARACTERS and text.isascii() and text.replace("-", "a").replace("_", "a").isalnum()


def read_proof(proof: str, method: str, address: str, now: int, token: str | None = None) -> Proof:
    """Verify a DPoP proof (RFC 9449) of one request, and of one access token when it is given. Raises TokenRefused.

    ES256 only; made within 60 s of now; `htu` is the address without query. The jti must be used up by the caller.
    """
    shown: dict[str, str] = {}

    def key_of(header: Mapping[str, Any]) -> Mapping[str, str]:
        expect(set(header) == {"alg", "typ", "jwk"} and header["typ"] == PROOF_TYPE and header["alg"] == "ES256")
        expect(set(header["jwk"]) <= {"kty", "crv", "x", "y", "alg", "use", "kid"} and header["jwk"].get("kty") == "EC")
        try:
            shown.update(checked_public_key(header["jwk"]))
        except KeyRefused:
            raise TokenRefused from None
        return shown

    claims = verified(proof, key_of)
    issued, jti = claims.get("iat"), claims.get("jti")
    expect(type(issued) is int and abs(now - issued) <= PROOF_SECONDS)
    expect(isinstance(jti, str) and 0 < len(jti) <= LONGEST_JTI)
    expect(claims.get("htm") == method and isinstance(claims.get("htu"), str))
    expect(claims["htu"].partition("#")[0].partition("?")[0] == address)
    expect(claims.get("ath") == (None if token is None else b64(hashlib.sha256(token.encode("ascii")).digest())))
    return Proof(shown["kid"], str(jti))


def sign_seal(key: SigningKey, claims: Mapping[str, Any]) -> str:
    """Sign a seal of the audit trail."""
    return sign(claims, key.private_pem, {"kid": key.kid, "typ": SEAL_TYPE})


def read_seal(token: str, keys: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return what a seal of the audit trail says. Raises TokenRefused when no key of `keys` signed it."""

    def key_of(header: Mapping[str, Any]) -> Mapping[str, str]:
        expect(set(header) == {"alg", "typ", "kid"} and header["typ"] == SEAL_TYPE and header["kid"] in keys and header["alg"] == "ES256")
        return keys[header["kid"]]

    return verified(token, key_of)


def claimed_client(assertion: str) -> str:
    """Return whose key must verify an assertion: its unverified `sub`. Raises TokenRefused. Trust nothing else in it."""
    subject = parsed(assertion)[1].get("sub")
    expect(isinstance(subject, str))
    return str(subject)


def read_assertion(token: str, keys: Mapping[str, Mapping[str, str]], issuer: str, now: int) -> Assertion:
    """Verify a client assertion (RFC 7523): aud = issuer, at most 60 s of life, a jti. Raises TokenRefused.

    `keys` are the client's registered keys by kid; a header without kid is accepted only when there is one key.
    """
    claims = verified(token, lambda header: _registered_key(header, keys))
    _check_times(claims, now, longest=ASSERTION_SECONDS)
    expect(claims["exp"] <= now + ASSERTION_SECONDS)
    expect(claims.get("aud") == issuer and isinstance(claims.get("jti"), str) and 0 < len(claims["jti"]) <= LONGEST_JTI)
    expect(isinstance(claims.get("sub"), str) and claims.get("iss") == claims["sub"])
    return Assertion(claims["sub"], claims["jti"], claims["exp"])


def _issued_key(header: Mapping[str, Any], keys: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    expect(set(header) == {"alg", "typ", "kid"} and header["typ"] == ACCESS_TOKEN_TYPE and isinstance(header["kid"], str))
    key = keys.get(header["kid"])
    if key is None or header["alg"] != key["alg"]:
        raise TokenRefused
    return key


def _registered_key(header: Mapping[str, Any], keys: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    expect(set(header) <= {"alg", "typ", "kid"} and header.get("alg") in ASSERTION_ALGORITHMS)
    expect(header.get("typ") in {None, "JWT", "client-authentication+jwt"})
    kid = header.get("kid")
    expect(kid is None or isinstance(kid, str))
    key = keys.get(kid) if kid is not None else next(iter(keys.values())) if len(keys) == 1 else None
    if key is None or header["alg"] != key["alg"]:
        raise TokenRefused
    return key


def _check_times(claims: Mapping[str, Any], now: int, longest: int = LONGEST_LIFE_SECONDS) -> None:
    issued, expires = claims.get("iat"), claims.get("exp")
    expect(type(expires) is int and 0 < expires <= LARGEST_MOMENT and now < expires + SKEW_SECONDS)
    expect(issued is None or (type(issued) is int and issued <= now + SKEW_SECONDS))
    start = issued if issued is not None else now
    expect(expires - start <= longest)  # type: ignore[operator]
    not_before = claims.get("nbf")
    expect(not_before is None or (type(not_before) is int and not_before <= now + SKEW_SECONDS))
