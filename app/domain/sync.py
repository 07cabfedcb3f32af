"""Synchronisation as rules: cursors, what a field-by-field merge makes of two edits, and what a replica hashes to.

Device clocks decide nothing here: order is the partner's sequence, and the base of an edit is a version.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain.errors import Conflict, Invalid, Refusal

EPOCH_STEP = 1 << 40  # a cursor is epoch * 2^40 + seq: below 2^53 while the epoch is below 8,192, a legal JavaScript number
LARGEST_CURSOR = (1 << 53) - 1
DIGEST_MODULUS = 1 << 64

DEVICE_PEOPLE = ("clinician", "patient")
OPERATIONS = ("create", "update", "delete", "command")
OUTCOMES = ("applied", "merged", "conflict", "rejected")
REASONS = ("same_field", "changed", "deleted", "base_unknown", "rule")
RESOLUTIONS = ("keep_server", "take_client", "merge")
SCHEMA_VERSION = 1
OLDEST_SCHEMA_VERSION = 1  # the three latest are accepted; so far there is one

SERVER_MADE = frozenset({"id", "version", "created_at", "updated_at", "deleted_at", "patient_id", "episode_id"})


class CursorMalformed(Refusal):
    """The cursor is not a whole number that this service has given out."""


class CursorAhead(Refusal):
    """The cursor lies ahead of the feed: it belongs to another database or partner."""


class CursorExpired(Refusal):
    """The cursor is older than what the feed still holds, or the database was restored: start again from 0 and replace the copy."""


class MutationReused(Conflict):
    """This mutation id was used for another mutation of the device."""


class MutationUnknown(Invalid):
    """This kind of row is not changed by synchronisation, or not in this way."""


class BaseMissing(Invalid):
    """An update or a deletion names the version that the device saw, in base_version."""


class BaseAhead(Invalid):
    """The version in base_version does not exist yet."""


class FieldFixed(Invalid):
    """This field is the service's, or does not change any more."""


class MutationMalformed(Invalid):
    """The mutation cannot be read."""


class GroupRefused(Conflict):
    """Another mutation of the group was not taken, so none of them was."""


class DeletedStays(Conflict):
    """The row was deleted and does not come back: enter it anew."""


class ConflictResolved(Conflict):
    """Somebody has resolved this conflict already."""


class SchemaUnknown(Invalid):
    """This schema version is newer than the service."""


class SchemaTooOld(Refusal):
    """This client is too old to read: update it. What it has not sent yet is still taken."""


@dataclass(frozen=True, slots=True)
class Feed:
    """Where a partner's feed stands: its epoch, its newest number, and the oldest cursor that misses nothing."""

    epoch: int
    seq: int
    min_seq: int

    @property
    def head(self) -> int:
        """Return the cursor of the newest change."""
        return cursor_of(self.epoch, self.seq)

    def seq_of(self, cursor: int) -> int:
        """Return the number that a cursor stands for; 0 is the start. Raises CursorMalformed, CursorExpired, CursorAhead."""
        if cursor == 0:
            return 0
        if not 0 < cursor <= LARGEST_CURSOR or cursor < EPOCH_STEP:
            raise CursorMalformed
        epoch, seq = divmod(cursor, EPOCH_STEP)
        if epoch < self.epoch:
            raise CursorExpired
        if epoch > self.epoch or seq > self.seq:
            raise CursorAhead
        if seq < self.min_seq:
            raise CursorExpired
        return seq


def cursor_of(epoch: int, seq: int) -> int:
    """Return the wire cursor of a number of the feed: a whole number below 2^53."""
    return epoch * EPOCH_STEP + seq


def check_schema(version: int, *, reading: bool) -> None:
    """Hold a client's schema version against those accepted. A client that is too old may still push. Raises SchemaUnknown, SchemaTooOld."""
    if version > SCHEMA_VERSION:
        raise SchemaUnknown
    if reading and version < OLDEST_SCHEMA_VERSION:
        raise SchemaTooOld


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Return the names of the fields that differ between two states, those that only the server sets aside."""
    return {name for name in {*before, *after} - SERVER_MADE if before.get(name) != after.get(name)}


def changed_since(states: Sequence[Mapping[str, Any]], own: Sequence[bool]) -> tuple[set[str], set[str]]:
    """Return the fields that the device itself has written since the first state, and those whose last change was another's.

    `own` tells, state by state, whether the device's write made it.
    """
    last: dict[str, bool] = {}
    written: set[str] = set()
    for before, after, mine in zip(states, states[1:], own[1:], strict=False):
        fields = changed_fields(before, after)
        last |= dict.fromkeys(fields, mine)
        written |= fields if mine else set()
    return written, {name for name, mine in last.items() if not mine}


def disputed_fields(theirs: Collection[str], present: Mapping[str, Any], sent: Mapping[str, Any], seen: Mapping[str, Any] | None = None) -> list[str]:
    """Return the sent fields that others changed since the base to another value, which the device has not seen. None: the edits merge."""
    return sorted(
        name
        for name, value in sent.items()
        if name in theirs and present.get(name) != value and (seen is None or name not in seen or seen[name] != present.get(name))
    )


def digest_of(rows: Iterable[tuple[str, int]]) -> tuple[int, str]:
    """Return how many rows there are, and their order-free hash as 16 hex digits.

    For each row the first 8 bytes, big-endian, of SHA-256 over the text `id:version`; summed modulo 2^64.
    """
    count = total = 0
    for row_id, version in rows:
        count += 1
        total += int.from_bytes(hashlib.sha256(f"{row_id}:{version}".encode()).digest()[:8])
    return count, f"{total % DIGEST_MODULUS:016x}"
