"""A device's mutation, how one kind of it is applied, and what became of it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa

from app.actions.synced import on_the_wire
from app.actions.visit import Visit
from app.actions.wire import dumped
from app.domain.errors import Forbidden, Refusal, title_of
from app.domain.protection import CARE, RECORD, RIGHTS
from app.store.database import OutOfRange, Row, UniqueTaken
from app.store.tables.every import metadata

REFUSED = (Refusal, OutOfRange, UniqueTaken)
RECORDS = {"session", "assessment", "termination", "early_ending", "follow_up", "status_change", "session_note", "addendum"}


class ScopeOfMutationMissing(Forbidden):
    """The token lacks the scope that this mutation needs."""


Apply = Callable[[Visit, UUID, UUID, dict[str, Any]], Awaitable[tuple[Row | None, Mapping[str, str]]]]


@dataclass(frozen=True, slots=True)
class Handler:
    """How one kind of mutation is applied: `apply(visit, episode or patient id, row id, values)` returns the row and a notice.

    `merges`: an edit whose base is old is merged field by field; otherwise it is kept as a conflict.
    """

    table: sa.Table
    scope: str
    apply: Apply
    merges: bool = True
    for_patients: bool = False
    of_patient: bool = False


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change as a device sent it. `values` are its validated fields, or `refusal` says what is wrong with them."""

    mutation_id: UUID
    entity: str
    id: UUID
    op: str
    base_version: int | None
    parent_id: UUID | None
    values: dict[str, Any]
    occurred_at: datetime | None
    group: str | None
    content: bytes
    handler: Handler | None
    raw: Mapping[str, Any]
    refusal: Refusal | None = None
    ignored: tuple[str, ...] = ()

    @property
    def use(self) -> str:
        """Return what the mutation opens a chart for, as its route over HTTP declares it."""
        if self.entity == "consent":
            return RIGHTS
        return RECORD if self.entity in RECORDS else CARE

    seen: dict[str, Any] | None = None
    """What the device believes that the service has, where its client says so: an edit of what it has seen disputes nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutation."""

    mutation: Mutation
    status: str
    row: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None
    conflict_id: UUID | None = None
    patient_id: UUID | None = None
    notice: Mapping[str, str] = field(default_factory=dict)
    repeated: bool = False
    wrote: bool = False
    """Something was written, so that the device reads the row again by itself."""


def rejected(mutation: Mutation, refusal: Refusal, patient_id: UUID | None) -> Result:
    """Return the result of a mutation that a rule refuses."""
    return Result(mutation, "rejected", problem=told(refusal), patient_id=patient_id)


def told(refusal: Refusal) -> dict[str, Any]:
    """Return a refusal as plain members; its class name says its type."""
    faults = getattr(refusal, "validation", None) or [f._asdict() for f in refusal.faults]
    unmet = [u._asdict() for u in refusal.unmet]
    return {"name": type(refusal).__name__, "title": title_of(type(refusal)), "detail": str(refusal), "errors": faults, "unmet": unmet}


def named(entity: str) -> str:
    """Return the name of a kind of row for ledger and audit trail: what a device calls by another name is not written there."""
    return entity if entity in metadata.tables else "unknown"


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back: what was stored and what was sent compare alike."""
    return orjson.loads(dumped(value))


def wire(entity: str, row: Row) -> dict[str, Any]:
    """Return a row as devices get it."""
    return on_the_wire(entity, {k: v for k, v in plain(row).items() if k not in {"sealed", "wrapped", "key_version"}})
