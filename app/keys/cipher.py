"""The field cipher: AES-256-GCM under one data key per patient, which is wrapped by a versioned key-encryption key.

A sealed blob is `format (1) | nonce (12) | ciphertext | tag (16)`. What it belongs to (partner, table, row and the
row's version, and the format byte itself) is authenticated with it: a blob moved to another place does not open.
"""

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
FIELD, WRAPPED, STATE = b"\x01", b"\x02", b"\x03"


class KeyMissing(Exception):
    """There is no key to open this with: it was destroyed, or the key file is not the one it was sealed under."""

    def __str__(self) -> str:
        return super().__str__() or str(self.__doc__)


@dataclass(frozen=True, slots=True)
class PatientKey:
    """A patient's unwrapped data key. It lives as long as the request."""

    patient_id: UUID
    key: bytes

    def seal(self, secret: Mapping[str, Any], place: str) -> bytes:
        """Seal a row's secret fields for one place and version."""
        return _sealed(self.key, FIELD, orjson.dumps(secret, default=str), place)

    def open(self, blob: bytes | None, place: str) -> dict[str, Any]:
        """Open what `seal` made; None opens to nothing. Raises KeyMissing when key or place do not fit."""
        return {} if blob is None else dict(orjson.loads(_opened(self.key, FIELD, blob, place)))

    def digest(self, data: bytes) -> bytes:
        """Return an HMAC of small data: a plain hash of a short questionnaire could be guessed."""
        return hmac.digest(self.key, b"digest|" + data, hashlib.sha256)


class KeyRing:
    """The key-encryption keys, versioned. The newest wraps; every one still unwraps."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        if not keys or any(len(k) != KEY_BYTES for k in keys.values()):
            message = "The key file holds no key of 32 bytes."
            raise KeyMissing(message)
        self._keys = dict(keys)
        self._newest = max(keys)

    def new_patient_key(self, partner_id: UUID, patient_id: UUID) -> tuple[PatientKey, int, bytes]:
        """Return a fresh data key, the version of the key that wraps it, and the wrapped bytes."""
        key = os.urandom(KEY_BYTES)
        blob = _sealed(self._keys[self._newest], WRAPPED, key, f"{partner_id}|{patient_id}|{self._newest}")
        return PatientKey(patient_id, key), self._newest, blob

    def patient_key(self, partner_id: UUID, patient_id: UUID, version: int, wrapped: bytes | None) -> PatientKey:
        """Unwrap a patient's data key. Raises KeyMissing when it was destroyed or this ring cannot open it."""
        if wrapped is None or version not in self._keys:
            raise KeyMissing
        return PatientKey(patient_id, _opened(self._keys[version], WRAPPED, wrapped, f"{partner_id}|{patient_id}|{version}"))

    def seal(self, data: bytes, place: str) -> bytes:
        """Seal bytes of the service's own (a signing key) under the newest key; the version stands in front."""
        return self._newest.to_bytes(2) + _sealed(self._keys[self._newest], STATE, data, f"{place}|{self._newest}")

    def open(self, blob: bytes, place: str) -> bytes:
        """Open what `seal` made. Raises KeyMissing."""
        version = int.from_bytes(blob[:2])
        if version not in self._keys:
            raise KeyMissing
        return _opened(self._keys[version], STATE, blob[2:], f"{place}|{version}")

    def own_key(self, partner_id: UUID) -> "PatientKey":
        """Return the key for what belongs to a partner and to no single patient (a group's process note)."""
        return PatientKey(partner_id, self.derived(f"partner data|{partner_id}"))

    def derived(self, purpose: str) -> bytes:
        """Return a key for one purpose (cursors, request hashes), the same in every process with the same key file."""
        return hmac.digest(self._keys[min(self._keys)], b"ipt/derive/v1|" + purpose.encode(), hashlib.sha256)


def place_of(partner_id: UUID, table: str, row_id: object, version: int) -> str:
    """Name the place of a sealed blob."""
    return f"{partner_id}|{table}|{row_id}|{version}"


def read_key_ring(path: Path) -> KeyRing:
    """Read the key file. Raises KeyMissing with a sentence when it is not there or not readable."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return KeyRing({int(v): base64.b64decode(k, validate=True) for v, k in stored["keys"].items()})
    except FileNotFoundError:
        message = f"There is no key file at {path}. Make one with `ipt key init`, or name yours in IPT_KEYS_FILE."
        raise KeyMissing(message) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"The key file {path} cannot be read: {type(error).__name__}."
        raise KeyMissing(message) from None


def create_key_file(path: Path) -> bool:
    """Make a key file of mode 0600 with one fresh key; False when it is there already. It is never overwritten."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"keys": {"1": base64.b64encode(os.urandom(KEY_BYTES)).decode()}}, file)
        file.flush()
        os.fsync(file.fileno())
    return True


def _sealed(key: bytes, form: bytes, data: bytes, place: str) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return form + nonce + AESGCM(key).encrypt(nonce, data, _context(form, place))


def _opened(key: bytes, form: bytes, blob: bytes, place: str) -> bytes:
    if blob[:1] != form:
        raise KeyMissing
    try:
        return AESGCM(key).decrypt(blob[1 : 1 + NONCE_BYTES], blob[1 + NONCE_BYTES :], _context(form, place))
    except InvalidTag:
        raise KeyMissing from None


def _context(form: bytes, place: str) -> bytes:
    return b"ipt/fld/v1|" + form + b"|" + place.encode()
