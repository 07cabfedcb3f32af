"""Where the key-encryption keys come from: a file, the environment, or a command that asks a key management service.

All three give the same JSON: `{"keys": {"1": "<base64 of 32 bytes>", ...}, "wraps": 1, "derivation": "<base64 of 32 bytes>"}`. `wraps` is the
version that wraps (the newest when it is left out), every one still unwraps; `derivation` is what keys for single purposes are derived
from, and stays when the others rotate.
"""

import base64
import fcntl
import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from app.keys.cipher import KEY_BYTES, KeyMissing, KeyRing

COMMAND_SECONDS = 10


class KeyProvider(Protocol):
    """Gives the keys as JSON text. Raises KeyMissing with a sentence."""

    def read(self) -> str:
        """Return the keys as they are now."""


class KeyFile:
    """Keys in a file of mode 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> str:
        """Read the file."""
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            message = f"There is no key file at {self.path}. Bring yours back, or name it in IPT_KEYS_FILE; only a new installation makes one, by `ipt key init`."
            raise KeyMissing(message) from None
        except (OSError, ValueError) as error:
            message = f"The key file {self.path} cannot be read: {type(error).__name__}."
            raise KeyMissing(message) from None


class KeysGiven:
    """Keys handed over as text (the environment)."""

    def __init__(self, text: str) -> None:
        self._text = text

    def read(self) -> str:
        """Return what was given."""
        return self._text


class KeyCommand:
    """Keys printed by a command, so that any key management service can unwrap them: `aws kms decrypt ...`, `vault read ...`."""

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)

    def read(self) -> str:
        """Run the command; what it prints is never logged."""
        try:
            done = subprocess.run(self._command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True)  # noqa: S603 - the operator's own
        except (OSError, subprocess.SubprocessError) as error:
            message = f"The key command {self._command[0]} failed: {type(error).__name__}."
            raise KeyMissing(message) from None
        return done.stdout


def read_keys(provider: KeyProvider) -> KeyRing:
    """Return the ring of keys; it reads them again when it meets a version that it does not know. Raises KeyMissing."""
    return KeyRing(*parsed(provider.read()), reread=lambda: parsed(provider.read()))


def read_key_ring(path: Path) -> KeyRing:
    """Return the ring of a key file. Raises KeyMissing."""
    return read_keys(KeyFile(path))


def parsed(text: str) -> tuple[dict[int, bytes], bytes, int]:
    """Parse the JSON of the keys: by version, the derivation, and which version wraps. Raises KeyMissing with a sentence that shows nothing of it."""
    try:
        stored = json.loads(text)
        keys = {int(v): base64.b64decode(k, validate=True) for v, k in stored["keys"].items()}
        derivation = base64.b64decode(stored["derivation"], validate=True) if "derivation" in stored else keys[min(keys)]
        wraps = int(stored.get("wraps", max(keys)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"The keys cannot be read: {type(error).__name__}."
        raise KeyMissing(message) from None
    return keys, derivation, wraps


def create_key_file(path: Path) -> bool:
    """Make a key file of mode 0600 with fresh keys; False when it is there already. It is never overwritten."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        _write(file, {"keys": {"1": _fresh()}, "wraps": 1, "derivation": _fresh()})
    return True


def add_key(path: Path) -> int:
    """Add a key of the next version, which unwraps and does not wrap yet, and return that version. Raises KeyMissing."""

    def change(stored: dict[str, Any], keys: Mapping[int, bytes], derivation: bytes, wraps: int) -> int:
        version = max(keys) + 1
        stored["keys"][str(version)] = _fresh()
        stored |= {"derivation": base64.b64encode(derivation).decode(), "wraps": wraps}
        return version

    return _changed(path, change)


def use_key(path: Path, version: int) -> None:
    """Let a version wrap from now on: every process must have the file that holds it. Raises KeyMissing."""

    def change(stored: dict[str, Any], keys: Mapping[int, bytes], _: bytes, __: int) -> int:
        if version not in keys:
            message = f"There is no version {version} in this file."
            raise KeyMissing(message)
        stored["wraps"] = version
        return version

    _changed(path, change)


def drop_key(path: Path, version: int) -> None:
    """Take a key out of the file. Whoever calls has made sure that nothing is sealed under it. Raises KeyMissing."""

    def change(stored: dict[str, Any], keys: Mapping[int, bytes], _: bytes, wraps: int) -> int:
        if version not in keys or version == wraps:
            message = f"Version {version} cannot be dropped: it is not in this file, or it is the one that wraps."
            raise KeyMissing(message)
        del stored["keys"][str(version)]
        return version

    _changed(path, change)


def _changed(path: Path, change: Callable[[dict[str, Any], Mapping[int, bytes], bytes, int], int]) -> int:
    """Write the file anew beside itself and move it into place, one at a time: a killed process leaves the old one or the new one, whole."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = KeyFile(path).read()
        stored = json.loads(text)
        version = change(stored, *parsed(text))
        owner = path.stat()
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".keys-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), owner.st_mode & 0o777)
            with suppress(PermissionError):
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            _write(file, stored)
        Path(beside).replace(path)
    return version


def _write(file: Any, stored: dict[str, Any]) -> None:
    json.dump(stored, file)
    file.flush()
    os.fsync(file.fileno())


def _fresh() -> str:
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()
