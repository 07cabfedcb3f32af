"""The field cipher: AES-256-GCM under one data key per patient, which is wrapped by a versioned key-encryption key.

A sealed blob is `format (1) | nonce (12) | ciphertext | tag (16)`. What it belongs to (partner, table, row and the
row's version, and the format byte itself) is authenticated with it: a blob moved to another place does not open.
"""

import hashlib
import hmac
import os
import time
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
VERSION_BYTES = 2
MOST_VERSIONS = 255  # the first byte of the two stays 0, which tells these blobs from those under a patient's key
BLIND_BYTES = 16
LOOK_AGAIN_SECONDS = 1.0
MARK_BYTES = 4
FIELD, WRAPPED, STATE, SHOWN = b"\x01", b"\x02", b"\x03", b"\x04"


class KeyMissing(Exception):
    """There is no key to open this with: it was destroyed, or the key file is not the one it was sealed under."""

    def __str__(self) -> str:
        return super().__str__() or str(self.__doc__)


@dataclass(frozen=True, slots=True)
class PatientKey:
    """A patient's unwrapped data key. It lives as long as the request."""

    patient_id: UUID
    key: bytes = field(repr=False)
    _cipher: AESGCM = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_cipher", AESGCM(self.key))

    def seal(self, secret: Mapping[str, Any], place: str) -> bytes:
        """Seal a row's secret fields for one place and version."""
        return _sealed(self._cipher, FIELD, orjson.dumps(secret, default=str), place)

    def open(self, blob: bytes | None, place: str) -> dict[str, Any]:
        """Open what `seal` made; None opens to nothing. Raises KeyMissing when key or place do not fit."""
        if blob is None:
            return {}
        found: dict[str, Any] = orjson.loads(_opened(self._cipher, FIELD, blob, place))
        return found

    def seal_state(self, marked: bytes, place: str) -> bytes:
        """Seal a row's whole state: the mark of its shape, then its JSON, which is handed on as it is."""
        return _sealed(self._cipher, SHOWN, marked, place)

    def open_state(self, blob: bytes, place: str) -> tuple[bytes, bytes]:
        """Open a row's whole state: its mark (empty for one of before there were marks) and its JSON. Raises KeyMissing."""
        if blob[:1] == FIELD:
            return b"", _opened(self._cipher, FIELD, blob, place)
        marked = _opened(self._cipher, SHOWN, blob, place)
        return marked[:MARK_BYTES], marked[MARK_BYTES:]

    def digest(self, data: bytes) -> bytes:
        """Return an HMAC of small data: a plain hash of a short questionnaire could be guessed."""
        return hmac.digest(self.key, b"digest|" + data, hashlib.sha256)


class KeyRing:
    """The key-encryption keys, versioned. One wraps (`newest`); every one still unwraps. `reread` gives the keys as they are now."""

    def __init__(
        self,
        keys: Mapping[int, bytes],
        derivation: bytes | None = None,
        wraps: int | None = None,
        reread: Callable[[], tuple[Mapping[int, bytes], bytes, int]] | None = None,
    ) -> None:
        self._reread = reread
        self._looked_for: dict[int, float] = {}
        self._take(keys, derivation if derivation is not None else keys[min(keys)] if keys else b"", wraps or max(keys, default=0))

    @property
    def versions(self) -> frozenset[int]:
        """Return the versions that unwrap."""
        return frozenset(self._keys)

    def _take(self, keys: Mapping[int, bytes], derivation: bytes, wraps: int) -> None:
        if not keys or any(len(k) != KEY_BYTES for k in (*keys.values(), derivation)) or not all(0 < v <= MOST_VERSIONS for v in keys):
            message = "The keys are not of 32 bytes each."
            raise KeyMissing(message)
        if wraps not in keys:
            message = "The version that is to wrap is not among the keys."
            raise KeyMissing(message)
        self._keys, self._derivation, self.newest = {version: AESGCM(key) for version, key in keys.items()}, derivation, wraps

    def refresh(self) -> None:
        """Read the keys again. Raises KeyMissing; the ring then stays as it was."""
        if self._reread is not None:
            self._take(*self._reread())

    def _key(self, version: int) -> AESGCM:
        """Return the key of a version; one that was added since is looked for, each once a second at the most. Raises KeyMissing."""
        now = time.monotonic()
        if version not in self._keys and now - self._looked_for.get(version, float("-inf")) > LOOK_AGAIN_SECONDS:
            self._looked_for[version] = now
            self.refresh()
        if version not in self._keys:
            raise KeyMissing
        return self._keys[version]

    def new_patient_key(self, partner_id: UUID, patient_id: UUID) -> tuple[PatientKey, int, bytes]:
        """Return a fresh data key, the version of the key that wraps it, and the wrapped bytes."""
        key = os.urandom(KEY_BYTES)
        return PatientKey(patient_id, key), self.newest, self.wrapped(partner_id, PatientKey(patient_id, key))

    def wrapped(self, partner_id: UUID, key: PatientKey) -> bytes:
        """Wrap a patient's data key under the newest key."""
        return _sealed(self._keys[self.newest], WRAPPED, key.key, f"{partner_id}|{key.patient_id}|{self.newest}")

    def patient_key(self, partner_id: UUID, patient_id: UUID, version: int, wrapped: bytes | None) -> PatientKey:
        """Unwrap a patient's data key. Raises KeyMissing when it was destroyed or this ring cannot open it."""
        if wrapped is None:
            raise KeyMissing
        return PatientKey(patient_id, _opened(self._key(version), WRAPPED, wrapped, f"{partner_id}|{patient_id}|{version}"))

    def seal(self, data: bytes, place: str) -> bytes:
        """Seal bytes of the service's own (a signing key) under the newest key; the version stands in front."""
        return self.newest.to_bytes(VERSION_BYTES) + _sealed(self._keys[self.newest], STATE, data, f"{place}|{self.newest}")

    def open(self, blob: bytes, place: str) -> bytes:
        """Open what `seal` made. Raises KeyMissing."""
        version = int.from_bytes(blob[:VERSION_BYTES])
        return _opened(self._key(version), STATE, blob[VERSION_BYTES:], f"{place}|{version}")

    def own_key(self, partner_id: UUID) -> "PatientKey":
        """Return the key for what belongs to a partner and to no single patient (a group's process note)."""
        return PatientKey(partner_id, self.derived(f"partner data|{partner_id}"))

    def blind(self, partner_id: UUID, column: str, text: str) -> bytes:
        """Return the blind index of a sealed text: what it can be looked up by, and no more. 128 bits, another in each partner and column."""
        return hmac.digest(self.derived(f"blind|{partner_id}|{column}"), unicodedata.normalize("NFC", text).encode(), hashlib.sha256)[:BLIND_BYTES]

    def derived(self, purpose: str) -> bytes:
        """Return a key for one purpose (cursors, request hashes), the same in every process with the same keys."""
        return hmac.digest(self._derivation, b"ipt/derive/v1|" + purpose.encode(), hashlib.sha256)


def place_of(partner_id: UUID, table: str, row_id: object, version: int) -> str:
    """Name the place of a sealed blob."""
    return f"{partner_id}|{table}|{row_id}|{version}"


def _sealed(cipher: AESGCM, form: bytes, data: bytes, place: str) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return form + nonce + cipher.encrypt(nonce, data, _context(form, place))


def _opened(cipher: AESGCM, form: bytes, blob: bytes, place: str) -> bytes:
    if blob[:1] != form:
        raise KeyMissing
    try:
        return cipher.decrypt(blob[1 : 1 + NONCE_BYTES], blob[1 + NONCE_BYTES :], _context(form, place))
    except InvalidTag:
        raise KeyMissing from None


def _context(form: bytes, place: str) -> bytes:
    return b"ipt/fld/v1|" + form + b"|" + place.encode()
