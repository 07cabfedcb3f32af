"""Tokens: what the library alone would accept and must not be accepted here."""

import base64
import json
import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jws

from app.keys.jws import KeyRefused, TokenRefused, checked_public_key, thumbprint
from app.keys.tokens import Caller, claimed_client, mint, new_caller, new_signing_key, read_access_token, read_assertion

ISSUER = "https://ipt.example"
KEY, OTHER = new_signing_key(datetime.now(UTC)), new_signing_key(datetime.now(UTC))
KEYS = {KEY.kid: KEY.public_jwk}
NOW = int(time.time())
PARTNER = uuid4()
CALLER = new_caller(PARTNER, f"{PARTNER}.backend", ["patients:read"], NOW)
CLAIMS = {
    "iss": ISSUER,
    "aud": ISSUER,
    "sub": CALLER.client_id,
    "client_id": CALLER.client_id,
    "partner": str(PARTNER),
    "scope": "patients:read",
    "jti": "j",
    "iat": NOW,
    "exp": NOW + 600,
}
HEADER = {"alg": "ES256", "typ": "at+jwt", "kid": KEY.kid}


def b64(data):
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(claims=None, header=None, key=KEY, raw_claims=None, raw_header=None):
    """Sign exactly these bytes with the real key, whatever they are."""
    from jose import jwk  # noqa: PLC0415

    message = f"{b64(raw_header or {**HEADER, **(header or {})})}.{b64(raw_claims or {**CLAIMS, **(claims or {})})}"
    return f"{message}.{b64(jwk.construct(key.private_pem, 'ES256').sign(message.encode()))}"


def without(name):
    return signed(raw_claims=json.dumps({k: v for k, v in CLAIMS.items() if k != name}).encode())


def read(token):
    return read_access_token(token, KEYS, ISSUER, NOW)


def test_a_minted_token_reads_back_as_its_caller():
    assert read(mint(KEY, ISSUER, CALLER, NOW)) == CALLER
    person = new_caller(PARTNER, CALLER.client_id, ["risk:write"], NOW, clinician_id=uuid4(), device_id=uuid4())
    token = mint(KEY, ISSUER, person, NOW)
    assert read(token) == person
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["act"] == {"sub": CALLER.client_id}
    assert claims["sub"] == f"clinician:{person.clinician_id}"
    assert read(signed()) == Caller(PARTNER, CALLER.client_id, frozenset({"patients:read"}), "j", NOW + 600)


def hs256_with_the_public_key():
    pem = (
        ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return jws.sign(CLAIMS, pem, headers={"kid": KEY.kid, "typ": "at+jwt"}, algorithm="HS256")


BAD = {
    "alg none": f"{b64({'alg': 'none', 'typ': 'at+jwt', 'kid': KEY.kid})}.{b64(CLAIMS)}.",
    "alg none with a signature": signed(header={"alg": "none"}),
    "HS256 with the public key": hs256_with_the_public_key(),
    "unknown crit header": signed(header={"crit": ["b64"], "b64": False}),
    "jwk in the header": signed(header={"jwk": dict(OTHER.public_jwk)}),
    "jku in the header": signed(header={"jku": "https://evil.example"}),
    "typ JWT": signed(header={"typ": "JWT"}),
    "no typ": signed(raw_header=json.dumps({"alg": "ES256", "kid": KEY.kid}).encode()),
    "no kid": signed(raw_header=json.dumps({"alg": "ES256", "typ": "at+jwt"}).encode()),
    "unknown kid": signed(header={"kid": OTHER.kid}),
    "another key under our kid": signed(key=OTHER),
    "without exp": without("exp"),
    "without aud": without("aud"),
    "without iss": without("iss"),
    "without partner": without("partner"),
    "without scope": without("scope"),
    "without jti": without("jti"),
    "exp as text": signed({"exp": str(NOW + 600)}),
    "exp as a fraction": signed({"exp": NOW + 600.5}),
    "exp true": signed({"exp": True}),
    "exp 10^400": signed(raw_claims=json.dumps(CLAIMS).replace(str(NOW + 600), "1" + "0" * 400).encode()),
    "exp Infinity": signed(raw_claims=json.dumps({**CLAIMS, "exp": 0}).replace('"exp": 0', '"exp": Infinity').encode()),
    "exp 1e400": signed(raw_claims=json.dumps({**CLAIMS, "exp": 0}).replace('"exp": 0', '"exp": 1e400').encode()),
    "expired": signed({"iat": NOW - 1200, "exp": NOW - 600}),
    "lives too long": signed({"exp": NOW + 7200}),
    "iat an hour ahead": signed({"iat": NOW + 3600, "exp": NOW + 4000}),
    "iat as text": signed({"iat": str(NOW)}),
    "nbf ahead": signed({"nbf": NOW + 3600}),
    "wrong audience": signed({"aud": "https://other.example"}),
    "a list of audiences": signed({"aud": [ISSUER, "https://other.example"]}),
    "wrong issuer": signed({"iss": "https://other.example"}),
    "partner that is no id": signed({"partner": "x"}),
    "clinician that is no id": signed({"clinician_id": "x"}),
    "clinician as a number": signed({"clinician_id": 7}),
    "scope as a list": signed({"scope": ["patients:read"]}),
    "unknown claim": signed({"admin": True}),
    "duplicate claim": signed(raw_claims=json.dumps(CLAIMS)[:-1].encode() + b', "scope": "clients:write"}'),
    "duplicate header member": signed(raw_header=json.dumps(HEADER)[:-1].encode() + b', "alg": "none"}'),
    "claims that are a list": signed(raw_claims=b"[1]"),
    "claims that are no JSON": signed(raw_claims=b"{x}"),
    "claims that are not UTF-8": signed(raw_claims=b'{"a": "\xff"}'),
    "deep claims": signed(raw_claims=b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"),
    "deep header": signed(raw_header=b'{"alg":' + b"[" * 900 + b"]" * 900 + b"}"),
    "too long": signed({"scope": "x" * 5000}),
    "padding": signed() + "=",
    "two parts": ".".join(signed().split(".")[:2]),
    "four parts": signed() + ".x",
    "white space": f" {signed()}",
    "newline": signed() + "\n",
    "plus and slash": signed().replace("-", "+").replace("_", "/") + "+",
    "nothing": "",
    "dots": "..",
    "not ASCII": "é.é.é",
}


@pytest.mark.parametrize("token", list(BAD.values()), ids=list(BAD))
def test_a_crafted_token_is_refused_with_the_one_error(token):
    with pytest.raises(TokenRefused):
        read(token)


def test_no_one_character_mutant_is_accepted_and_none_escapes_with_another_error():
    token = signed()
    chance = random.Random(7)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ "
    accepted = 0
    for _ in range(3000):
        index = chance.randrange(len(token))
        mutant = token[:index] + chance.choice(alphabet) + token[index + 1 :]
        if mutant == token:
            continue
        try:
            read(mutant)
            accepted += 1
        except TokenRefused:
            pass
    assert accepted == 0


ASSERTING = new_signing_key(datetime.now(UTC))
PUBLIC = checked_public_key({k: v for k, v in ASSERTING.public_jwk.items() if k in {"kty", "crv", "x", "y"}})
REGISTERED = {PUBLIC["kid"]: PUBLIC}


def assertion(header=None, **claims):
    body = {"iss": "p.c", "sub": "p.c", "aud": ISSUER, "jti": "one", "iat": NOW, "exp": NOW + 60, **claims}
    return signed(
        raw_claims=json.dumps({k: v for k, v in body.items() if v is not None}).encode(),
        raw_header=json.dumps({"alg": "ES256", "kid": PUBLIC["kid"], **(header or {})}).encode(),
        key=ASSERTING,
    )


def test_an_assertion_is_read_with_the_clients_own_key():
    found = read_assertion(assertion(), REGISTERED, ISSUER, NOW)
    assert (found.client_id, found.jti) == ("p.c", "one")
    assert claimed_client(assertion()) == "p.c"


@pytest.mark.parametrize(
    "wrong",
    [
        {"aud": f"{ISSUER}/oauth/token"},
        {"exp": NOW + 61 + 30},
        {"exp": NOW - 60, "iat": NOW - 90},
        {"jti": None},
        {"jti": ""},
        {"jti": "x" * 256},
        {"sub": "p.other"},
        {"exp": None},
        {"iat": None, "exp": NOW + 100},
        {"iat": NOW + 29, "exp": NOW + 88},
    ],
)
def test_an_assertion_out_of_rule_is_refused(wrong):
    with pytest.raises(TokenRefused):
        read_assertion(assertion(**wrong), REGISTERED, ISSUER, NOW)


def test_an_access_token_is_no_assertion_and_an_assertion_no_access_token():
    with pytest.raises(TokenRefused):
        read_assertion(signed(), REGISTERED, ISSUER, NOW)
    with pytest.raises(TokenRefused):
        read(assertion())


def test_registered_keys_are_public_and_strong():
    numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    strong = {"kty": "RSA", "n": b64(numbers.n.to_bytes(256)), "e": b64(numbers.e.to_bytes(3))}
    kept = checked_public_key(strong)
    assert (kept["alg"], kept["kid"]) == ("RS256", thumbprint(strong))
    weak = {"kty": "RSA", "n": b64(b"\xff" * 128), "e": "AQAB"}
    for wrong in (
        weak,
        {"kty": "oct", "k": "x"},
        {**PUBLIC, "d": "x"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-521", "x": "x", "y": "y"},
        {},
    ):
        with pytest.raises(KeyRefused):
            checked_public_key(wrong)


def test_the_thumbprint_is_that_of_rfc_7638():
    example = {
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
    }
    assert thumbprint(example) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_the_ecdsa_package_is_not_loaded_by_the_service():
    code = "import app.main, sys; sys.exit('ecdsa' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
