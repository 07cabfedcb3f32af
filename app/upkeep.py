"""What keeps the house in order, partner by partner: what expired goes, erasures end, the audit trail is sealed, keys are re-wrapped.

Every job is safe to kill and to run beside itself: it works in batches, each of them one transaction.
"""

from collections.abc import Awaitable
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.actions.door import newest_signing, signing_pairs
from app.actions.journal import Journal
from app.actions.protection import RetentionUnset, erasure_line, finish_erasure, retention_due, retire
from app.actions.trail import seal_trail
from app.actions.visit import Visit
from app.domain.protection import CARE, RIGHTS
from app.keys.cipher import KeyRing
from app.keys.tokens import SigningKey, new_caller
from app.store.audit import Access, insert_access
from app.store.database import Connection, Database, DatabaseAway, OutcomeUnknown, Row, TryAgain
from app.store.door import partners, signing_keys
from app.store.feed import compact, stamp
from app.store.protection import erasures_to_do
from app.store.sync import clear_ledger
from app.store.tables.door import idempotency_key, revocation, used_assertion, used_proof
from app.store.webhooks import clear_deliveries, give_up_overdue
from app.store.wrapping import rewrap_partner, rewrap_signing_keys

TOMBSTONES_KEPT = timedelta(days=400)
DELIVERIES_KEPT = timedelta(days=30)
RETIRED_AT_ONCE = 100
NAME = "worker"
log = structlog.get_logger("ipt.upkeep")


async def known_partners(database: Database) -> list[UUID]:
    """Return the partners' ids."""
    async with database.transaction(None) as connection:
        return [row["partner_id"] for row in await partners(connection)]


def worker_visit(connection: Connection, ring: KeyRing, partner_id: UUID, now: datetime, use: str = CARE) -> Visit:
    """Return the worker's own visit to a partner."""
    return Visit(connection, new_caller(partner_id, f"{partner_id}.{NAME}", (), int(now.timestamp())), now, ring, use=use)


def worker_access(visit: Visit, route: str) -> Access:
    """Return the audit row of what the worker did."""
    return Access(
        partner_id=visit.caller.partner_id,
        at=visit.now,
        client_id=visit.caller.client_id,
        person=None,
        action="execute",
        route=route,
        outcome=200,
        reason=None,
        request_id=NAME,
        patient_id=visit.trace.patient_id,
        episode_id=visit.trace.episode_id,
        resources=visit.trace.resources,
    )


async def commit_visit(visit: Visit, route: str) -> None:
    """Commit what the worker did, with its audit row and its changes told."""
    await insert_access(visit.connection, visit.keys, worker_access(visit, route))
    await stamp(visit.connection, visit.journal, visit.now, actor=visit.actor, client_id=visit.caller.client_id)
    await visit.connection.commit()


async def clear_expired(database: Database, now: datetime) -> int:
    """Delete kept answers after 72 hours, used assertions and proofs after their time, revocations of tokens that are dead, old deliveries."""
    async with database.transaction(None) as connection:
        cleared = await connection.run(sa.delete(revocation).where(revocation.c.expires_at < now))
        await connection.commit()
    for partner_id in await known_partners(database):
        async with database.transaction(partner_id) as connection:
            for table in (idempotency_key, used_assertion, used_proof):
                own = (table.c.partner_id == partner_id, table.c.expires_at < now)
                cleared += await connection.run(sa.delete(table).where(*own))
            cleared += await give_up_overdue(connection, now) + await clear_deliveries(connection, now - DELIVERIES_KEPT)
            await connection.commit()
    return cleared


async def compact_feeds(database: Database, now: datetime) -> int:
    """Drop from each feed what no replica needs any more, and from the ledger what no device sends again; return how many rows went."""
    before = now - TOMBSTONES_KEPT
    gone = 0
    for partner_id in await known_partners(database):
        async with database.transaction(partner_id) as connection:
            gone += await compact(connection, before, now)
            gone += await clear_ledger(connection, before)
            await connection.commit()
    return gone


async def each(kind: str, partner_id: UUID, job: Awaitable[int]) -> int:
    """Do one piece of upkeep; its trouble, whatever it is, holds up no other. It is tried again with the next round."""
    try:
        return await job
    except (DatabaseAway, TryAgain, OutcomeUnknown):
        log.warning("put_off", job=kind, partner_id=str(partner_id))
    except Exception as error:  # noqa: BLE001 - the other patients and partners go on
        log.error("failed", job=kind, partner_id=str(partner_id), error=type(error).__name__)  # noqa: TRY400 - a trace may hold values
    return 0


async def erase_rows(database: Database, ring: KeyRing, now: datetime, journal: Journal) -> int:
    """Delete the rows of patients whose keys were destroyed, and complete their certificates; return how many patients.

    Whoever ordered it has written it into the journal of erasures before the commit; here it is confirmed, for it is known to have been committed.
    """
    done = 0
    for partner_id in await known_partners(database):
        async with database.transaction(partner_id) as connection:
            waiting = await erasures_to_do(connection)
        for row in waiting:
            done += await each("erase_rows", partner_id, _erase_one(database, ring, journal, now, partner_id, row))
    return done


async def _erase_one(database: Database, ring: KeyRing, journal: Journal, now: datetime, partner_id: UUID, row: Row) -> int:
    known = journal.find(str(partner_id), str(row["patient_id"]))
    if known is None or not known["done"]:
        journal.write(erasure_line(partner_id, row, done=True))
    async with database.transaction(partner_id) as connection:
        visit = worker_visit(connection, ring, partner_id, now, use=RIGHTS)
        if not await finish_erasure(visit, row["id"]):
            return 0
        await commit_visit(visit, "worker erase_rows")
    return 1


async def seal_trails(database: Database, ring: KeyRing, now: datetime) -> int:
    """Seal what each partner's audit trail holds and no seal covers; return how many events. Forged ones are told in the log."""
    async with database.transaction(None) as connection:
        rows = await signing_keys(connection, now)
    signing = newest_signing(signing_pairs(rows, ring), now)
    if signing is None:
        return 0
    return sum([await each("seal_trails", p, _seal_one(database, ring, signing, now, p)) for p in await known_partners(database)])


async def _seal_one(database: Database, ring: KeyRing, signing: SigningKey, now: datetime, partner_id: UUID) -> int:
    async with database.transaction(partner_id) as connection:
        sealed, forged = await seal_trail(connection, ring, signing, now)
        await connection.commit()
    if forged:
        log.error("audit_forged", partner_id=str(partner_id), number=forged)
    return sealed


async def rewrap_keys(database: Database, ring: KeyRing) -> int:
    """Wrap with the newest key-encryption key what an older one still wraps, a batch for each partner; return how many. Goes on until none is left."""
    ring.refresh()
    if len(ring.versions) == 1:
        return 0
    number = 0
    async with database.transaction(None) as connection:
        number += await rewrap_signing_keys(connection, ring)
        await connection.commit()
    return number + sum([await each("rewrap_keys", p, _rewrap_one(database, ring, p)) for p in await known_partners(database)])


async def _rewrap_one(database: Database, ring: KeyRing, partner_id: UUID) -> int:
    async with database.transaction(partner_id) as connection:
        number = await rewrap_partner(connection, ring)
        await connection.commit()
    return number


async def retire_records(database: Database, ring: KeyRing, now: datetime, journal: Journal) -> int:
    """Erase what is due, for partners who have asked for that; return how many patients. A legal hold keeps its record."""
    number = 0
    for partner_id in await known_partners(database):
        async with database.transaction(partner_id) as connection:
            try:
                due = await retention_due(worker_visit(connection, ring, partner_id, now, use=RIGHTS), None, RETIRED_AT_ONCE, to_erase=True)
            except RetentionUnset:
                continue
        for row in due:
            number += await each("retire_records", partner_id, _retire_one(database, ring, journal, now, partner_id, row["patient_id"]))
    return number


async def _retire_one(database: Database, ring: KeyRing, journal: Journal, now: datetime, partner_id: UUID, patient_id: UUID) -> int:
    async with database.transaction(partner_id) as connection:
        visit = worker_visit(connection, ring, partner_id, now, use=RIGHTS)
        if not await retire(visit, patient_id, journal):
            return 0
        await commit_visit(visit, "worker retire_records")
    return 1
