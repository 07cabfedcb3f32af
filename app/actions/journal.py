"""Journals: files outside of the database of what must outlive a backup. Lines are only ever added, each with a code of the service's own.

The first line says that it is a journal of this installation: one that is missing, or another's, is not mistaken for an empty one.
"""

import hmac
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.domain.errors import CommandRefused
from app.keys.cipher import KeyRing

RELEASES = ("release journal", ("population", "release_key"))
ERASURES = ("erasure journal", ("partner_id", "patient_id"))
RESTORES = ("restore journal", ("epoch",))
BEGUN = "journal"


class JournalAway(Exception):
    """The journal cannot be written: what hangs on it is not done."""


class JournalFaulty(CommandRefused):
    """A journal is not there, or is another's."""


class Journal:
    """A file of lines, of which the newest with the same names stands: a purpose (of its code), and which members name a line."""

    def __init__(self, path: Path, ring: KeyRing, kind: tuple[str, Sequence[str]] = RELEASES) -> None:
        self.path = path
        self._kind, self._names = kind
        self._key = ring.derived(self._kind)
        self._read = 0
        self._is_begun = self._holds_others = False
        self._newest: dict[tuple[Any, ...], dict[str, Any]] = {}

    def begin(self) -> None:
        """Write the first line, if there is none. Raises OSError."""
        self._read_on()
        if not self._is_begun:
            self.write({BEGUN: self._kind})

    def check(self) -> None:
        """Raise JournalFaulty unless this is a journal that was begun by this installation, and whole; lines of another's are not in it."""
        self._read_on()
        if not self.path.exists():
            raise JournalFaulty(f"{self.path} is not there.")
        for number, entry in enumerate(self.path.read_bytes().split(b"\n"), start=1):
            if entry and _taken_apart(entry) is None:
                raise JournalFaulty(
                    f"Line {number} of {self.path} is broken. Of a copy that was cut off, bring the whole file. If this is the file itself, its writer"
                    f" was killed there before anything hung on that line: take it out (sed -i {number}d '{self.path}')."
                )
        if not self._is_begun or self._holds_others:
            raise JournalFaulty(f"{self.path} is another installation's, or the key file is: its lines do not carry this installation's code.")

    def write(self, line: dict[str, Any]) -> None:
        """Add a line and return when it is on the disk. Raises OSError when it cannot be written whole: then nothing may hang on it."""
        plain = json.dumps(line, sort_keys=True, separators=(",", ":"))
        entry = f"\n{json.dumps([plain, self._code(plain)])}\n".encode()  # begins a line of its own, whatever a killed writer has left
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        _append(self.path, entry)
        if is_new:
            _sync(self.path.parent)

    def lines(self) -> list[dict[str, Any]]:
        """Return the newest line of each name."""
        self._read_on()
        return list(self._newest.values())

    def find(self, *names: Any) -> dict[str, Any] | None:
        """Return the newest line of a name, or None."""
        self._read_on()
        return self._newest.get(names)

    def _read_on(self) -> None:
        """Read what was added since; half a line, or another's, is passed over."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            added = file.read()
        whole, _, _ = added.rpartition(b"\n")
        self._read += len(whole)
        for entry in whole.splitlines():
            line = self._opened(entry)
            if line is None:
                continue
            if BEGUN in line:
                self._is_begun = True
            else:
                self._newest[tuple(line[name] for name in self._names)] = line

    def _opened(self, entry: bytes) -> dict[str, Any] | None:
        parts = _taken_apart(entry)
        if parts is None:
            return None
        plain, code = parts
        if hmac.compare_digest(code, self._code(plain)):
            return dict(json.loads(plain))
        self._holds_others = True
        return None

    def _code(self, plain: str) -> str:
        return hmac.digest(self._key, plain.encode(), "sha256").hex()


def _taken_apart(entry: bytes) -> tuple[str, str] | None:
    """Return what a line says and its code, or None when it is broken."""
    try:
        plain, code = json.loads(entry)
    except (ValueError, TypeError):
        return None
    return (plain, code) if all(isinstance(part, str) and part.isascii() for part in (plain, code)) else None


def _append(path: Path, entry: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        if os.write(descriptor, entry) != len(entry):
            message = f"{path} cannot be written whole."
            raise OSError(message)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
