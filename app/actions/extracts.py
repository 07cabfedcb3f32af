"""Extracts: ordered by a client under an agreement, approved by two people, made by the worker, fetched once by a link, gone after a day."""

import base64
import hashlib
import hmac
import math
import os
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.actions.visit import Visit
from app.domain.anonymity import COLUMNS, LEVELS, PROFILES, Generalised, KUnreachable, generalise
from app.domain.errors import Conflict, Fault, Forbidden, Invalid, NotFound
from app.domain.outcome_facts import NOT_RECORDED
from app.domain.outcome_tables import PeriodOpen, schema_version
from app.domain.quarters import Quarter, frozen_by
from app.keys.cipher import KeyRing
from app.render.files import bundle, data_file
from app.store.database import Connection, Row
from app.store.extracts import (
    add_extract,
    add_link,
    add_parts,
    drop_parts,
    find_extract,
    overdue_extracts,
    page_extracts,
    parts_of,
    update_extract,
    use_link,
)
from app.store.facts import frozen_quarters, records
from app.store.releases import add_job

APPROVALS_NEEDED = 2
KEPT_FOR = timedelta(hours=24)
QUARTERS_OF_A_YEAR = 4
SAMPLED = 0.8  # own design: being in the data is no certainty that one is in the extract
PART_BYTES = 4 * 1024 * 1024
MOST_BYTES = 64 * 1024 * 1024
FEWEST_CANARIES, RECORDS_PER_CANARY = 3, 500
ID_LETTERS = 26
LABEL = "De-identified records about persons. Not anonymous: linking, re-identifying or passing on is forbidden by the agreement."


class ApprovedAlready(Conflict):
    """This person has approved the extract already: it needs two different ones."""


class OwnOrder(Forbidden):
    """An extract is approved through another app than the one that ordered it."""


class ExtractNotWaiting(Conflict):
    """The extract does not wait for that: its status says where it stands."""


class ExtractGone(Forbidden):
    """The file is not there: it was not made yet, was cancelled, or its 24 hours are over."""


class LinkUsed(Forbidden):
    """The link was used, or there is no such link. Make a new one."""


async def order_extract(visit: Visit, first: Quarter, last: Quarter, order: Mapping[str, Any]) -> Row:
    """Order an extract of the courses that ended in a span of frozen quarters. Raises PeriodOpen, Invalid."""
    kept = frozen_by(visit.now)
    if order["profile"] == "expert" and not order.get("determination_id"):
        raise Invalid(faults=[Fault("/determination_id", "names the expert's determination: 45 CFR 164.514(b)(1)")])
    if first > last:
        raise Invalid(faults=[Fault("/period_to", "lies before period_from")])
    if order["profile"] == "safe_harbor" and (first.number, last.number) != (1, QUARTERS_OF_A_YEAR):
        raise Invalid(
            faults=[Fault("/period_from", "safe_harbor covers whole calendar years, from a Q1 to a Q4: a shorter span would tell the quarter")]
        )
    frozen = await frozen_quarters(visit.connection, visit.caller.partner_id)
    wanted = [q for q in kept if first <= q <= last]
    if first not in kept or last not in kept or any(str(q) not in frozen for q in wanted):
        raise PeriodOpen
    values: dict[str, Any] = {
        "id": uuid7(),
        "client_id": visit.caller.client_id,
        "status": "awaiting_approval",
        "profile": order["profile"],
        "order": {**order, "quarters": [str(q) for q in wanted]},
        "approvals": [],
        "ordered_at": visit.now,
    }
    await add_extract(visit.connection, values)
    visit.journal.kept_beside = True
    return await _mine(visit, values["id"])


async def _mine(visit: Visit, extract_id: UUID, *, lock: bool = False) -> Row:
    row = await find_extract(visit.connection, extract_id, visit.caller.client_id, lock=lock)
    if row is None:
        raise NotFound
    visit.trace.resources.append(f"outcome_extract/{extract_id}")
    visit.journal.kept_beside |= lock  # whoever locks it changes it
    return row


async def read_extract(visit: Visit, extract_id: UUID) -> Row:
    """Return an order of this client. Raises NotFound."""
    return await _mine(visit, extract_id)


async def list_extracts(visit: Visit, status: str | None, after: Sequence[Any] | None, limit: int) -> list[Row]:
    """Return a page of this client's orders."""
    return await page_extracts(visit.connection, visit.caller.client_id, status, after, limit)


async def list_awaiting(visit: Visit, after: Sequence[Any] | None, limit: int) -> list[Row]:
    """Return a page of the partner's orders that wait for approval. Raises ClinicianOnly for a bare client."""
    visit.clinician()
    return await page_extracts(visit.connection, None, "awaiting_approval", after, limit)


async def approve_extract(visit: Visit, extract_id: UUID) -> Row:
    """Approve an order as a person; the second person's approval puts it to work.

    Raises ClinicianOnly, NotFound, OwnOrder, ApprovedAlready, ExtractNotWaiting.
    """
    person = str(visit.clinician())
    row = await find_extract(visit.connection, extract_id, None, lock=True)
    if row is None:
        raise NotFound
    if row["client_id"] == visit.caller.client_id:
        raise OwnOrder
    if any(a["clinician_id"] == person for a in row["approvals"]):
        raise ApprovedAlready
    if row["status"] != "awaiting_approval":
        raise ExtractNotWaiting
    approvals = [*row["approvals"], {"clinician_id": person, "client_id": visit.caller.client_id, "at": visit.now.isoformat()}]
    values: dict[str, Any] = {"approvals": approvals}
    if len(approvals) >= APPROVALS_NEEDED:
        values |= {"status": "ordered", "decided_at": visit.now}
        await add_job(visit.connection, extract_id, visit.caller.partner_id, "extract", visit.now)
    await update_extract(visit.connection, extract_id, values)
    visit.trace.resources.append(f"outcome_extract/{extract_id}")
    visit.journal.kept_beside = True
    return row | values


async def cancel_extract(visit: Visit, extract_id: UUID) -> Row:
    """Cancel an order of this client: nothing more is made or handed out. Raises NotFound, ExtractNotWaiting."""
    row = await _mine(visit, extract_id, lock=True)
    if row["status"] not in {"awaiting_approval", "ordered", "ready"}:
        raise ExtractNotWaiting(f"The status is {row['status']}.")
    values = {"status": "cancelled", "decided_at": row["decided_at"] or visit.now}
    await update_extract(visit.connection, extract_id, values)
    return row | values


async def make_link(visit: Visit, extract_id: UUID) -> tuple[str, datetime]:
    """Return a ticket that opens the file once, and when it ends. Raises NotFound, ExtractGone."""
    row = await _mine(visit, extract_id, lock=True)
    _check_there(row, visit.now)
    ticket = secrets.token_urlsafe(32)
    await add_link(visit.connection, extract_id, hashlib.sha256(ticket.encode()).digest(), visit.now)
    return ticket, row["expires_at"]


async def fetch_file(visit: Visit, extract_id: UUID, ticket: str) -> bytes:
    """Return the file of an extract and use the link up. Raises NotFound, ExtractGone, LinkUsed."""
    row = await _mine(visit, extract_id, lock=True)
    _check_there(row, visit.now)
    if not await use_link(visit.connection, extract_id, hashlib.sha256(ticket.encode()).digest(), visit.now):
        raise LinkUsed
    sealed = await parts_of(visit.connection, extract_id)
    return b"".join(visit.keys.open(part, _place(visit.caller.partner_id, extract_id, n)) for n, part in enumerate(sealed))


def _check_there(row: Row, now: datetime) -> None:
    if row["status"] != "ready" or row["expires_at"] <= now:
        raise ExtractGone


def _place(partner_id: UUID, extract_id: UUID, part: int) -> str:
    return f"{partner_id}|outcome_file|{extract_id}|{part}"


async def gather_extract(connection: Connection, extract_id: UUID) -> tuple[Row, list[Row]] | None:
    """Return an approved order and the facts it asks for; None when it does not wait to be made."""
    row = await find_extract(connection, extract_id, None)
    if row is None or row["status"] != "ordered":
        return None
    return row, await records(connection, row["order"]["quarters"])


def make_extract(row: Row, facts: Sequence[Row], ring: KeyRing, now: datetime) -> tuple[bytes, dict[str, Any]] | str:
    """Return the archive of an extract and its manifest, or the name of what stands in the way. Takes seconds, and touches no database."""
    try:
        return _made(facts, row, ring, now)
    except (KUnreachable, ExtractTooLarge) as refused:
        return type(refused).__name__


async def keep_extract(connection: Connection, ring: KeyRing, extract_id: UUID, made: tuple[bytes, dict[str, Any]] | str, now: datetime) -> bool:
    """Keep what was made, sealed; False when the order was cancelled meanwhile. The caller commits."""
    row = await find_extract(connection, extract_id, None, lock=True)
    if row is None or row["status"] != "ordered":
        return False
    if isinstance(made, str):
        await update_extract(connection, extract_id, {"status": "failed", "failure": made, "ready_at": now})
        return True
    data, manifest = made
    parts = [data[n : n + PART_BYTES] for n in range(0, len(data), PART_BYTES)]
    await add_parts(connection, extract_id, [ring.seal(part, _place(row["partner_id"], extract_id, n)) for n, part in enumerate(parts)])
    await update_extract(connection, extract_id, {"status": "ready", "manifest": manifest, "ready_at": now, "expires_at": now + KEPT_FOR})
    return True


class ExtractTooLarge(Conflict):
    """The extract is larger than 64 MiB: choose a shorter period."""


def _made(facts: Sequence[Row], row: Row, ring: KeyRing, now: datetime) -> tuple[bytes, dict[str, Any]]:
    """Return the archive and its manifest. The key of the pseudonyms lives in this call alone."""
    chance = secrets.SystemRandom()
    key = os.urandom(32)
    first_of = {f["person_id"]: f for f in reversed(facts)}  # one record a person: of the earliest quarter
    sampled = [_record(f, key) for f in first_of.values() if chance.random() < SAMPLED]
    found = generalise(sampled, PROFILES[row["profile"]])
    canaries = _canaries(found, ring, row["partner_id"], row["id"], chance)
    rows = sorted([*found.records, *canaries], key=lambda r: str(r["extract_pid"]))
    files = {f"outcomes.{form}": data_file(rows, tuple(COLUMNS), form) for form in row["order"]["formats"]}
    data, manifest = bundle(files, _manifest(row, found, len(rows), len(canaries), now))
    if len(data) > MOST_BYTES:
        raise ExtractTooLarge
    return data, manifest


def _record(fact: Row, key: bytes) -> dict[str, Any]:
    """Return a fact as a record: bands and codes only, under a pseudonym that nobody can make again."""
    digest = hmac.digest(key, f"{fact['partner_id']}|{fact['patient_id']}".encode(), "sha256")
    band = (
        "not_assessable"
        if not fact["paired_phq9"]
        else "reliable_improvement"
        if fact["improved_phq9"]
        else "reliable_deterioration"
        if fact["deteriorated_phq9"]
        else "no_reliable_change"
    )
    same = {name: fact[name] for name in ("sex", "protocol", "modality", "sessions_band", "area")}
    own = {"extract_pid": _letters(digest), "period": fact["quarter"], "age": fact["age_decade"], "outcome_band": band}
    severity = {"severity_at_start": fact["severity_at_start"] or NOT_RECORDED}
    return own | same | severity | {"remission": bool(fact["remitted"]) if fact["paired_phq9"] else None}


def _letters(digest: bytes) -> str:
    return base64.b32encode(digest).decode()[:ID_LETTERS]


def canary_ids(ring: KeyRing, partner_id: UUID, extract_id: UUID, number: int) -> list[str]:
    """Return the pseudonyms of an extract's made-up records: by them a copy that has leaked names its order."""
    key = ring.derived(f"watermark|{partner_id}|{extract_id}")
    return [_letters(hmac.digest(key, str(n).encode(), "sha256")) for n in range(number)]


def canaries_for(records_there: int) -> int:
    """Return how many made-up records stand among so many."""
    return max(FEWEST_CANARIES, math.ceil(records_there / RECORDS_PER_CANARY))


def _canaries(found: Generalised, ring: KeyRing, partner_id: UUID, extract_id: UUID, chance: secrets.SystemRandom) -> list[dict[str, Any]]:
    """Return made-up records: each stands in a class that is there, and what is secret in it comes from different records of that class."""
    names = tuple(found.levels)
    classes: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for record in found.records:
        classes[tuple(record[n] for n in names)].append(record)
    made = []
    for pid in canary_ids(ring, partner_id, extract_id, canaries_for(len(found.records))):
        one = chance.choice(found.records)
        same = classes[tuple(one[n] for n in names)]
        made.append({name: one[name] if name in names else chance.choice(same)[name] for name in COLUMNS} | {"extract_pid": pid})
    return made


def _manifest(row: Row, found: Generalised, rows: int, canaries: int, now: datetime) -> dict[str, Any]:
    order = row["order"]
    return {
        "label": LABEL,
        "schema_version": schema_version(),
        "extract_id": str(row["id"]),
        "made_at": now.isoformat(),
        "profile": row["profile"],
        "agreement_id": order["agreement_id"],
        "determination_id": order.get("determination_id"),
        "purpose": order["purpose"],
        "periods": order["quarters"],
        "records": rows,
        "made_up_records": canaries,
        "sampled_share": SAMPLED,
        "k": found.k,
        "l": found.l,
        "largest_risk": round(1 / found.k, 4),
        "suppressed_share": round(found.suppressed / found.of, 2),
        "known_columns": list(found.levels),
        "secret_columns": list(PROFILES[row["profile"]].secret),
        "levels": {name: LEVELS[name][level] for name, level in found.levels.items()},
        "columns": list(COLUMNS),
    }


async def clear_extracts(connection: Connection, now: datetime) -> int:
    """Delete the files of extracts whose day has passed, or that were cancelled; return how many. The caller commits."""
    rows = await overdue_extracts(connection, now)
    for row in rows:
        await drop_parts(connection, row["id"])
        if row["status"] == "ready":
            await update_extract(connection, row["id"], {"status": "expired"})
    return len(rows)
