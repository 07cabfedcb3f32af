"""JSON Web Signatures, strictly: the one module that uses python-jose, and only its signature check.

python-jose by itself accepts tokens without `exp` or `aud`, unknown `crit` headers, any `typ`, duplicate members, and lets some
errors escape. So a key is chosen by us before anything is verified, shape, header and members are checked here, and every fault
ends in one error: TokenRefused.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from jose import jwk, jws
from jose.exceptions import JOSEError

LONGEST_TOKEN = 4096
DEEPEST = 32
SMALLEST_RSA_BYTES, LARGEST_RSA_BYTES = 256, 512  # 2048 to 4096 bits
COORDINATE_BYTES = 32
EXPONENTS = {b"\x01\x00\x01", b"\x03"}
MOST_MEMBERS, LONGEST_MEMBER = 20, 1_000
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

_SEGMENT = r"[A-Za-z0-9_-]+"
_SHAPE = re.compile(rf"{_SEGMENT}\.{_SEGMENT}\.{_SEGMENT}", re.ASCII)


class TokenRefused(Exception):
    """The token is not acceptable."""


class KeyRefused(Exception):
    """The public key is not acceptable."""


def thumbprint(public: Mapping[str, str]) -> str:
    """Return the RFC 7638 thumbprint of a public EC or RSA key."""
    members = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}[public["kty"]]
    canonical = json.dumps({m: public[m] for m in members}, separators=(",", ":"), sort_keys=True)
    return b64(hashlib.sha256(canonical.encode()).digest())


def checked_public_key(public: Mapping[str, Any]) -> dict[str, str]:
    """Return a partner's public key as it is kept. Raises KeyRefused.

    Accepted: P-256 for ES256, RSA of 2048 to 4096 bits for RS256; each key in one spelling only. A private member is refused: the partner has just
    shown its private key and should make a new one.
    """
    if PRIVATE_MEMBERS & set(public):
        message = "This is a private key. Make a new pair and register its public half only."
        raise KeyRefused(message)
    if len(public) > MOST_MEMBERS or any(not isinstance(v, str) or len(v) > LONGEST_MEMBER for v in public.values() if not isinstance(v, list)):
        message = "The key has members that no public key has."
        raise KeyRefused(message)
    try:
        kind = str(public["kty"])
        if kind == "EC" and public["crv"] == "P-256" and all(len(unb64(public[m])) == COORDINATE_BYTES for m in ("x", "y")):
            kept = {m: str(public[m]) for m in ("kty", "crv", "x", "y")} | {"alg": "ES256"}
        elif kind == "RSA" and SMALLEST_RSA_BYTES <= len(unb64(public["n"]).lstrip(b"\0")) <= LARGEST_RSA_BYTES and unb64(public["e"]) in EXPONENTS:
            kept = {m: str(public[m]) for m in ("kty", "n", "e")} | {"alg": "RS256"}
        else:
            message = "The key must be P-256, or RSA of 2048 to 4096 bits."
            raise KeyRefused(message)
        jwk.construct(kept, kept["alg"]).to_pem()
    except KeyRefused:
        raise
    except Exception as error:
        message = "The key is not a valid public JWK."
        raise KeyRefused(message) from error
    return kept | {"kid": thumbprint(kept)}


def sign(claims: Mapping[str, Any], private_pem: str, header: Mapping[str, Any]) -> str:
    """Sign claims with ES256; `header` names typ, and kid or jwk."""
    return str(jws.sign(dict(claims), private_pem, headers=dict(header), algorithm="ES256"))


def verified(token: str, key_for: Callable[[Mapping[str, Any]], Mapping[str, str]]) -> dict[str, Any]:
    """Return the claims of a token whose signature holds under the key that `key_for` chooses by its header. Raises TokenRefused."""
    header, claims = parsed(token)
    key = key_for(header)
    try:
        jws.verify(token, dict(key), [key["alg"]])
    except (JOSEError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise TokenRefused from error
    return claims


def parsed(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims, strictly parsed and unverified."""
    expect(len(token) <= LONGEST_TOKEN and _SHAPE.fullmatch(token) is not None)
    header, claims, signature = (unb64(part) for part in token.split("."))
    del signature
    head = _object(header)
    expect(all(isinstance(value, dict if name == "jwk" else str) for name, value in head.items()))
    return head, _object(claims)


def _object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object: UTF-8, no duplicate member, no NaN, no deep nesting, no endless number."""
    expect(raw.count(b"{") + raw.count(b"[") <= DEEPEST)
    try:
        found = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refused_number, parse_float=_refused_number, parse_int=_small_int
        )
    except (ValueError, RecursionError) as error:
        raise TokenRefused from error
    expect(isinstance(found, dict) and _plain(found))
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
    expect(len(found) == len(pairs))
    return found


def _refused_number(_: str) -> Any:
    raise TokenRefused


def _small_int(digits: str) -> int:
    expect(len(digits) <= 15)  # noqa: PLR2004 - 15 digits hold every moment up to the year 9999
    return int(digits)


def expect(held: bool) -> None:  # noqa: FBT001 - a plain assertion that stays on with -O
    """Raise TokenRefused unless it holds."""
    if not held:
        raise TokenRefused


def b64(raw: bytes) -> str:
    """Encode as base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(segment: str) -> bytes:
    """Decode canonical base64url: unused bits must be zero, or one token would have several spellings."""
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        raise TokenRefused from None
    expect(b64(raw) == segment)
    return raw
