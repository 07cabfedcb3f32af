"""Crafted tokens and a hundred thousand mutants: none accepted, none a fault of ours."""

import os
import random

import pytest

from app.keys.jws import TokenRefused
from app.keys.tokens import new_signing_key, read_access_token, read_proof
from tests.trust.conftest import PhoneKey

MUTANTS = int(os.environ.get("IPT_ATTACK_MUTANTS", "100000"))
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\0é"


def mutants(token, number, seed):
    """Yield mutants: one character changed, added, taken out or swapped, segments exchanged, parts repeated."""
    chance = random.Random(seed)
    for _ in range(number):
        at = chance.randrange(len(token))
        match chance.randrange(6):
            case 0:
                made = token[:at] + chance.choice(ALPHABET) + token[at + 1 :]
            case 1:
                made = token[:at] + token[at + 1 :]
            case 2:
                made = token[:at] + chance.choice(ALPHABET) + token[at:]
            case 3:
                other = chance.randrange(len(token))
                low, high = sorted((at, other))
                made = token[:low] + token[high : high + 1] + token[low + 1 : high] + token[low : low + 1] + token[high + 1 :]
            case 4:
                parts = token.split(".")
                chance.shuffle(parts)
                made = ".".join(parts)
            case _:
                made = token[:at] + token[at // 2 :]
        if made != token:
            yield made


@pytest.fixture(scope="module")
def issued():
    key = new_signing_key(None)
    from uuid import uuid4  # noqa: PLC0415

    from app.keys.tokens import mint, new_caller  # noqa: PLC0415

    caller = new_caller(uuid4(), f"{uuid4()}.backend", ["patients:read"], 1_000_000, clinician_id=uuid4())
    return key, mint(key, "https://issuer", caller, 1_000_000)


def test_no_mutant_of_an_access_token_is_accepted_and_none_escapes(issued, record_property):
    key, token = issued
    keys = {key.kid: key.public_jwk}
    assert read_access_token(token, keys, "https://issuer", 1_000_001)
    tried = accepted = 0
    for mutant in mutants(token, MUTANTS, 7):
        tried += 1
        try:
            read_access_token(mutant, keys, "https://issuer", 1_000_001)
            accepted += 1
        except (TokenRefused, UnicodeError):
            pass
    record_property("tried", f"{tried} mutants of an access token, {accepted} accepted")
    assert accepted == 0
    assert tried > MUTANTS * 0.8


def test_no_mutant_of_a_proof_is_accepted():
    key = PhoneKey()
    proof = key.proof("GET", "https://issuer/x", "token", iat=1_000_000)
    assert read_proof(proof, "GET", "https://issuer/x", 1_000_000, "token").thumbprint == key.thumbprint
    for mutant in mutants(proof, MUTANTS // 20, 8):
        try:
            found = read_proof(mutant, "GET", "https://issuer/x", 1_000_000, "token")
        except (TokenRefused, UnicodeError):
            continue
        pytest.fail(f"accepted: {found}")


def test_over_http_every_mutant_is_a_401(partner):
    chance = random.Random(9)
    sent = 0
    for mutant in mutants(partner.token, 400, chance.randrange(1000)):
        try:
            mutant.encode("ascii")
        except UnicodeError:
            continue
        if any(c in mutant for c in "\n\0"):
            continue
        sent += 1
        answer = partner.http.get("/v1/patients", headers={"Authorization": f"Bearer {mutant}"})
        assert answer.status_code == 401, mutant
    assert sent > 250
