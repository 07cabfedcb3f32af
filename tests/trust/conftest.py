"""Rounds of upkeep on this worker's database, and keys that prove possession."""

import base64
import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jose import jws

from app import upkeep
from app.actions.journal import ERASURES, Journal
from app.keys.provider import read_key_ring
from app.store.database import clock
from tests.conftest import newest_partners_only


class PhoneKey:
    """A key pair of an app, and the proofs (RFC 9449) that it makes with it."""

    def __init__(self):
        private = ec.generate_private_key(ec.SECP256R1())
        self.pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
        numbers = private.public_key().public_numbers()
        self.jwk = {"kty": "EC", "crv": "P-256", "x": b64(numbers.x.to_bytes(32)), "y": b64(numbers.y.to_bytes(32))}
        canonical = json.dumps(dict(sorted(self.jwk.items())), separators=(",", ":"))
        self.thumbprint = b64(hashlib.sha256(canonical.encode()).digest())

    def proof(self, method, address, token=None, *, header=None, **claims):
        said = {"jti": str(uuid4()), "htm": method, "htu": address, "iat": int(time.time())}
        if token is not None:
            said["ath"] = b64(hashlib.sha256(token.encode()).digest())
        whole = {k: v for k, v in (said | claims).items() if v is not None}
        return jws.sign(whole, self.pem, headers={"typ": "dpop+jwt", "jwk": self.jwk} | (header or {}), algorithm="ES256")


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.fixture
def phone_key():
    return PhoneKey()


@pytest.fixture
def upkept(service, on_database, monkeypatch, tmp_path):
    """Run a job of the worker's upkeep at a moment that the test chooses, for the partners of this test."""
    newest_partners_only(monkeypatch, "app.upkeep")
    ring = read_key_ring(service.settings.keys_path)

    def run(name, *, later=timedelta(0)):
        job = getattr(upkeep, name)
        moment = clock(lambda: datetime.now(UTC) + later)
        journal = (Journal(tmp_path / "erasures.jsonl", ring, ERASURES),) if name in {"erase_rows", "retire_records"} else ()
        arguments = (ring,) if name == "rewrap_keys" else (ring, moment, *journal)
        return on_database(lambda database: job(database, *arguments), "ipt_worker")

    return run
