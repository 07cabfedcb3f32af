"""The worker's part in anonymised outcomes: freezing quarters, making tables and extracts, bringing back what a restored database forgot.

Every job is safe to kill and to run beside itself. A quarter is frozen in one transaction; a table and what it shows are one, too.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from app.actions.extracts import clear_extracts, gather_extract, keep_extract, make_extract
from app.actions.freezing import freeze_quarter, open_quarter
from app.actions.journal import Journal
from app.actions.releases import make_release, order_standard_pack, replay
from app.domain.outcome_tables import NETWORKS, network_is_open
from app.domain.quarters import GRACE, Quarter, frozen_by
from app.keys.cipher import KeyRing
from app.store.database import Database, Row
from app.store.door import partners
from app.store.facts import frozen_quarters
from app.store.releases import add_job, declared_size, jobs, put_off_job, remove_job, take_job
from app.upkeep import commit_visit, each, known_partners, worker_visit

JOBS_AT_ONCE = 20
PUT_OFF = timedelta(seconds=30)
log = structlog.get_logger("ipt.releasing")


async def freeze_quarters(database: Database, ring: KeyRing, now: datetime) -> int:
    """Freeze for every partner, then for each network, every quarter whose time has come; return how many quarters.

    A new partner has fourteen days to import its caseload before its first freeze, which takes the quarters before it, too.
    """
    async with database.transaction(None) as connection:
        begun = {p["partner_id"]: p["created_at"] for p in await partners(connection)}
    number = 0
    for partner_id in await known_partners(database):
        if begun.get(partner_id, now) + GRACE <= now:
            number += await freeze_partner(database, ring, partner_id, now)
    return number + await freeze_networks(database, now)


async def freeze_partner(database: Database, ring: KeyRing, partner_id: UUID, now: datetime) -> int:
    """Freeze what is due of one partner, the oldest quarter first, and order the standard pack of each; return how many quarters."""
    async with database.transaction(partner_id) as connection:
        frozen = await frozen_quarters(connection, partner_id)
    due = [q for q in frozen_by(now) if str(q) not in frozen]
    return sum([await each("freeze_quarter", partner_id, _freeze(database, ring, partner_id, q, now)) for q in due])


async def freeze_networks(database: Database, now: datetime) -> int:
    """Freeze what is due of the networks; return how many quarters."""
    return sum(
        [await each("freeze_network", network, _freeze_network(database, kind, network, frozen_by(now), now)) for kind, network in NETWORKS.items()]
    )


async def _freeze(database: Database, ring: KeyRing, partner_id: UUID, quarter: Quarter, now: datetime) -> int:
    async with database.transaction(partner_id) as connection:
        visit = worker_visit(connection, ring, partner_id, now)
        if await freeze_quarter(connection, quarter, now) is None:
            return 0
        await _order_pack(connection, partner_id, "partner", quarter, now)
        visit.trace.resources.append(f"outcome_quarter/{quarter}")
        await commit_visit(visit, "worker freeze_quarter")
    return 1


async def _order_pack(connection: Any, population: UUID, dataset: str, quarter: Quarter, now: datetime) -> None:
    for release_id in await order_standard_pack(connection, population, dataset, quarter, now):
        await add_job(connection, release_id, population, "release", now)


async def _freeze_network(database: Database, kind: str, network: UUID, quarters: list[Quarter], now: datetime) -> int:
    """Freeze a network's quarters once every member has. Who is a member, and whether there are enough, was declared before: no count decides."""
    async with database.transaction(network) as connection:
        frozen = await frozen_quarters(connection, network)
        known = [p["partner_id"] for p in await partners(connection) if p["kind"] == kind]
    missing = [q for q in quarters if str(q) not in frozen]
    if not missing:
        return 0
    declared: dict[UUID, int] = {}
    done: dict[UUID, set[str]] = {}
    for partner_id in known:
        async with database.transaction(partner_id) as connection:
            size = await declared_size(connection)
            if size is not None:
                declared[partner_id] = size
                done[partner_id] = set(await frozen_quarters(connection, partner_id))
    number = 0
    for quarter in missing:
        if any(str(quarter) not in there for there in done.values()):
            continue
        members = sorted(declared) if network_is_open(declared) else []
        async with database.transaction(network) as connection:
            if not await open_quarter(connection, network, "network", quarter, now, members):
                continue
            if members:
                await _order_pack(connection, network, "network", quarter, now)
            await connection.commit()
        number += 1
    return number


async def make_releases(database: Database, journal: Journal, now: datetime) -> int:
    """Make the tables that were ordered, the oldest first; return how many. One that cannot be made waits behind the others."""
    return await _do_jobs(database, "release", now, lambda job: _make_release(database, journal, job, now))


async def make_extracts(database: Database, ring: KeyRing, now: datetime) -> int:
    """Make the extracts that two people approved; return how many. One that cannot be made waits behind the others."""
    return await _do_jobs(database, "extract", now, lambda job: _make_extract(database, ring, job, now))


async def _do_jobs(database: Database, kind: str, now: datetime, do: Callable[[Row], Awaitable[bool]]) -> int:
    async with database.transaction(None) as connection:
        waiting = await jobs(connection, kind, JOBS_AT_ONCE, now)

    async def done(job: Row) -> int:
        try:
            return int(await do(job))
        except Exception:
            async with database.transaction(None) as connection:
                await put_off_job(connection, job["id"], now + PUT_OFF)
                await connection.commit()
            raise

    return sum([await each(f"make_{kind}", job["population"], done(job)) for job in waiting])


async def _make_release(database: Database, journal: Journal, job: Row, now: datetime) -> bool:
    async with database.transaction(job["population"]) as connection:
        if not await take_job(connection, job["id"]):
            return False
        made = await make_release(connection, database.transaction, job["population"], job["id"], journal, now)
        await remove_job(connection, job["id"])
        await connection.commit()
    return made


async def _make_extract(database: Database, ring: KeyRing, job: Row, now: datetime) -> bool:
    """Read in one transaction, make outside of any, keep in another: making takes long, and the order may be cancelled meanwhile."""
    async with database.transaction(job["population"]) as connection:
        found = await gather_extract(connection, job["id"])
    made = None if found is None else await asyncio.to_thread(make_extract, *found, ring, now)
    async with database.transaction(job["population"]) as connection:
        if not await take_job(connection, job["id"]):
            return False
        visit = worker_visit(connection, ring, job["population"], now)
        kept = made is not None and await keep_extract(connection, ring, job["id"], made, now)
        await remove_job(connection, job["id"])
        visit.trace.resources.append(f"outcome_extract/{job['id']}")
        await commit_visit(visit, "worker make_extract")
    return kept


async def clear_old_extracts(database: Database, now: datetime) -> int:
    """Delete the files of extracts whose day has passed; return how many."""
    return sum([await each("clear_extracts", p, _clear(database, p, now)) for p in await known_partners(database)])


async def _clear(database: Database, partner_id: UUID, now: datetime) -> int:
    async with database.transaction(partner_id) as connection:
        number = await clear_extracts(connection, now)
        await connection.commit()
    return number


async def reconcile(database: Database, journal: Journal, now: datetime) -> int:
    """Bring back every release that the journal has and the database lost, the same numbers, and charge it; return how many.

    One population that fails holds up no other: it is tried again when the worker starts again.
    """
    found = _by_population(journal.lines())
    return sum([await each("reconcile", population, _reconcile(database, population, own, now)) for population, own in found])


async def bring_back(database: Database, lines: Sequence[dict[str, Any]], now: datetime) -> int:
    """Do the same after a restore, before the database is opened: there a failure must stop what comes next."""
    return sum([await _reconcile(database, population, own, now) for population, own in _by_population(lines)])


def _by_population(lines: Sequence[dict[str, Any]]) -> list[tuple[UUID, list[dict[str, Any]]]]:
    found: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        found[UUID(line["population"])].append(line)
    return list(found.items())


async def _reconcile(database: Database, population: UUID, lines: list[dict[str, Any]], now: datetime) -> int:
    async with database.transaction(population) as connection:
        back = [line["id"] for line in lines if await replay(connection, line, now)]
        await connection.commit()
    if back:
        log.warning("releases_brought_back", population=str(population), number=len(back))
    return len(back)
