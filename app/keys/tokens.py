"""Tokens: made, read and verified here and nowhere else, through python-jose.

python-jose by itself accepts tokens without `exp` or `aud`, unknown `crit` headers, any `typ`, duplicate members, and
lets some errors escape. So only its signature check is used (`jws.verify`, with a key chosen by us); shape, header,
members and claims are checked here, strictly, and every fault ends in one error: TokenRefused.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jose import jwk, jws
from jose.exceptions import JOSEError

ACCESS_TOKEN_SECONDS = 600
ASSERTION_SECONDS = 60
SKEW_SECONDS = 30
LONGEST_TOKEN = 4096
DEEPEST = 32
LONGEST_LIFE_SECONDS = 3600
LARGEST_MOMENT = 253_402_300_799  # the last second of the year 9999
P256_BYTES = 32
SMALLEST_RSA_BYTES = 256  # 2048 bits
ACCESS_TOKEN_TYPE = "at+jwt"  # noqa: S105 - RFC 9068's media type
ASSERTION_ALGORITHMS = {"ES256": "EC", "RS256": "RSA"}
PERSONAL = ("clinician_id", "patient_id", "device_id")
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

_SEGMENT = r"[A-Za-z0-9_-]+"
_SHAPE = re.compile(rf"{_SEGMENT}\.{_SEGMENT}\.{_SEGMENT}", re.ASCII)


class TokenRefused(Exception):
    """The token is not acceptable."""


class KeyRefused(Exception):
    """The public key is not acceptable."""


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
    private_pem: str
    public_jwk: Mapping[str, str]
    signs_from: datetime
    published_until: datetime | None


@dataclass(frozen=True, slots=True)
class Assertion:
    """What a verified client assertion (RFC 7523) says."""

    client_id: str
    jti: str
    expires_at: int


def new_signing_key(signs_from: datetime) -> SigningKey:
    """Make a P-256 key pair; its kid is the RFC 7638 thumbprint."""
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    numbers = private.public_key().public_numbers()
    public = {"kty": "EC", "crv": "P-256", "x": _b64(numbers.x.to_bytes(P256_BYTES)), "y": _b64(numbers.y.to_bytes(P256_BYTES))}
    kid = thumbprint(public)
    return SigningKey(kid, pem.decode(), {**public, "kid": kid, "alg": "ES256", "use": "sig"}, signs_from, None)


def thumbprint(public: Mapping[str, str]) -> str:
    """Return the RFC 7638 thumbprint of a public EC or RSA key."""
    members = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}[public["kty"]]
    canonical = json.dumps({m: public[m] for m in members}, separators=(",", ":"), sort_keys=True)
    return _b64(hashlib.sha256(canonical.encode()).digest())


def checked_public_key(public: Mapping[str, Any]) -> dict[str, str]:
    """Return a partner's public key as it is kept. Raises KeyRefused.

    Accepted: P-256 for ES256, RSA of 2048 bits or more for RS256. A private member is refused: the partner has just
    shown its private key and should make a new one.
    """
    if PRIVATE_MEMBERS & set(public):
        message = "This is a private key. Make a new pair and register its public half only."
        raise KeyRefused(message)
    try:
        kind = str(public["kty"])
        if kind == "EC" and public["crv"] == "P-256":
            kept = {m: str(public[m]) for m in ("kty", "crv", "x", "y")} | {"alg": "ES256"}
        elif kind == "RSA" and len(_unb64(str(public["n"])).lstrip(b"\0")) >= SMALLEST_RSA_BYTES:
            kept = {m: str(public[m]) for m in ("kty", "n", "e")} | {"alg": "RS256"}
        else:
            message = "The key must be P-256, or RSA of 2048 bits or more."
            raise KeyRefused(message)
        jwk.construct(kept, kept["alg"]).to_pem()
    except KeyRefused:
        raise
    except Exception as error:
        message = "The key is not a valid public JWK."
        raise KeyRefused(message) from error
    return kept | {"kid": thumbprint(kept)}


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
    return str(jws.sign(claims, key.private_pem, headers={"kid": key.kid, "typ": ACCESS_TOKEN_TYPE}, algorithm="ES256"))


def new_caller(partner_id: UUID, client_id: str, scopes: Iterable[str], now: int, **person: UUID | None) -> Caller:
    """Describe the holder of a token that is about to be made; `person` names clinician_id or patient_id, and device_id."""
    return Caller(partner_id, client_id, frozenset(scopes), str(uuid4()), now + ACCESS_TOKEN_SECONDS, **person)


def read_access_token(token: str, keys: Mapping[str, Mapping[str, str]], issuer: str, now: int) -> Caller:
    """Verify an access token and return its caller. `keys` are the published keys by kid. Raises TokenRefused."""
    claims = _verified(token, lambda header: _issued_key(header, keys))
    _check_times(claims, now)
    _expect(claims.get("iss") == issuer and claims.get("aud") == issuer)
    known = {"iss", "aud", "sub", "client_id", "partner", "scope", "jti", "iat", "exp", "act", *PERSONAL}
    _expect(set(claims) <= known and all(isinstance(claims.get(c), str) for c in ("sub", "client_id", "partner", "scope", "jti")))
    personal = {name: claims[name] for name in PERSONAL if claims.get(name) is not None}
    _expect(all(isinstance(value, str) for value in personal.values()))
    _expect(not {"clinician_id", "patient_id"} <= set(personal) and (set(personal) != {"device_id"}))
    try:
        person = {name: UUID(value) for name, value in personal.items()}
        partner = UUID(claims["partner"])
    except ValueError:
        raise TokenRefused from None
    return Caller(partner, claims["client_id"], frozenset(claims["scope"].split()), claims["jti"], claims["exp"], **person)


def claimed_client(assertion: str) -> str:
    """Return whose key must verify an assertion: its unverified `sub`. Raises TokenRefused. Trust nothing else in it."""
    subject = _parsed(assertion)[1].get("sub")
    _expect(isinstance(subject, str))
    return str(subject)


def read_assertion(token: str, keys: Mapping[str, Mapping[str, str]], issuer: str, now: int) -> Assertion:
    """Verify a client assertion (RFC 7523): aud = issuer, at most 60 s of life, a jti. Raises TokenRefused.

    `keys` are the client's registered keys by kid; a header without kid is accepted only when there is one key.
    """
    claims = _verified(token, lambda header: _registered_key(header, keys))
    _check_times(claims, now, longest=ASSERTION_SECONDS)
    _expect(claims["exp"] <= now + ASSERTION_SECONDS)
    _expect(claims.get("aud") == issuer and isinstance(claims.get("jti"), str) and 0 < len(claims["jti"]) <= 255)  # noqa: PLR2004
    _expect(isinstance(claims.get("sub"), str) and claims.get("iss") == claims["sub"])
    return Assertion(claims["sub"], claims["jti"], claims["exp"])


def _issued_key(header: Mapping[str, Any], keys: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    _expect(set(header) == {"alg", "typ", "kid"} and header["typ"] == ACCESS_TOKEN_TYPE and isinstance(header["kid"], str))
    key = keys.get(header["kid"])
    if key is None or header["alg"] != key["alg"]:
        raise TokenRefused
    return key


def _registered_key(header: Mapping[str, Any], keys: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    _expect(set(header) <= {"alg", "typ", "kid"} and header.get("alg") in ASSERTION_ALGORITHMS)
    _expect(header.get("typ") in {None, "JWT", "client-authentication+jwt"})
    kid = header.get("kid")
    _expect(kid is None or isinstance(kid, str))
    key = keys.get(kid) if kid is not None else next(iter(keys.values())) if len(keys) == 1 else None
    if key is None or header["alg"] != key["alg"]:
        raise TokenRefused
    return key


def _verified(token: str, key_for: Callable[[Mapping[str, Any]], Mapping[str, str]]) -> dict[str, Any]:
    header, claims = _parsed(token)
    key = key_for(header)
    try:
        jws.verify(token, dict(key), [key["alg"]])
    except (JOSEError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise TokenRefused from error
    return claims


def _parsed(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims, strictly parsed and unverified."""
    _expect(len(token) <= LONGEST_TOKEN and _SHAPE.fullmatch(token) is not None)
    header, claims, signature = (_unb64(part) for part in token.split("."))
    del signature
    head = _object(header)
    _expect(all(isinstance(value, str) for value in head.values()))
    return head, _object(claims)


def _object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object: UTF-8, no duplicate member, no NaN, no deep nesting, no endless number."""
    _expect(raw.count(b"{") + raw.count(b"[") <= DEEPEST)
    try:
        found = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refused_number, parse_float=_refused_number, parse_int=_small_int
        )
    except (ValueError, RecursionError) as error:
        raise TokenRefused from error
    _expect(isinstance(found, dict) and _plain(found))
    return dict(found)


def _plain(value: Any) -> bool:
    """Tell whether every text in a parsed value is visible ASCII: nothing that a database or a log could stumble on."""
    if isinstance(value, str):
        return value.isascii() and value.isprintable()
    if isinstance(value, dict):
        return all(_plain(k) and _plain(v) for k, v in value.items())
    return all(map(_plain, value)) if isinstance(value, list) else True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    _expect(len(found) == len(pairs))
    return found


def _refused_number(_: str) -> Any:
    raise TokenRefused


def _small_int(digits: str) -> int:
    _expect(len(digits) <= 15)  # noqa: PLR2004 - 15 digits hold every moment up to the year 9999
    return int(digits)


def _check_times(claims: Mapping[str, Any], now: int, longest: int = LONGEST_LIFE_SECONDS) -> None:
    issued, expires = claims.get("iat"), claims.get("exp")
    _expect(type(expires) is int and 0 < expires <= LARGEST_MOMENT and now < expires + SKEW_SECONDS)
    _expect(issued is None or (type(issued) is int and issued <= now + SKEW_SECONDS))
    start = issued if issued is not None else now
    _expect(expires - start <= longest)  # type: ignore[operator]
    not_before = claims.get("nbf")
    _expect(not_before is None or (type(not_before) is int and not_before <= now + SKEW_SECONDS))


def _expect(held: bool) -> None:  # noqa: FBT001 - a plain assertion that stays on with -O
    if not held:
        raise TokenRefused


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unb64(segment: str) -> bytes:
    """Decode canonical base64url: unused bits must be zero, or one token would have several spellings."""
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        raise TokenRefused from None
    _expect(_b64(raw) == segment)
    return raw
