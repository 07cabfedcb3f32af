"""The worker's part in anonymised outcomes: freezing quarters, making tables and extracts, bringing back what a restored database forgot.

Every job is safe to kill and to run beside itself. A quarter is frozen in one transaction; a table and what it shows are one, too.
"""

from collections import defaultdict
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from app.actions.extracts import clear_extracts, make_extract
from app.actions.freezing import freeze_quarter, open_quarter
from app.actions.releases import Journal, make_release, order_standard_pack, replay
from app.domain.outcome_tables import NETWORKS, network_is_open
from app.domain.quarters import Quarter, frozen_by
from app.keys.cipher import KeyRing
from app.store.database import Database, Row
from app.store.door import partners
from app.store.facts import frozen_quarters
from app.store.releases import add_job, declared_size, jobs, remove_job, take_job
from app.upkeep import commit_visit, each, known_partners, worker_visit

JOBS_AT_ONCE = 20
log = structlog.get_logger("ipt.releasing")


async def freeze_quarters(database: Database, ring: KeyRing, now: datetime) -> int:
    """Freeze for every partner, then for each network, every quarter whose time has come; return how many quarters.

    The oldest come first. The standard pack of each is ordered with it.
    """
    quarters, number = frozen_by(now), 0
    for partner_id in await known_partners(database):
        async with database.transaction(partner_id) as connection:
            frozen = await frozen_quarters(connection, partner_id)
        for quarter in quarters:
            if str(quarter) not in frozen:
                number += await each("freeze_quarter", partner_id, _freeze(database, ring, partner_id, quarter, now))
    for kind, network in NETWORKS.items():
        number += await each("freeze_network", network, _freeze_network(database, kind, network, quarters, now))
    return number


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
    """Make the tables that were ordered, the oldest first; return how many. One that cannot be made holds up no other."""
    async with database.transaction(None) as connection:
        waiting = await jobs(connection, "release", JOBS_AT_ONCE)
    return sum([await each("make_release", job["population"], _make_release(database, journal, job, now)) for job in waiting])


async def _make_release(database: Database, journal: Journal, job: Row, now: datetime) -> int:
    async with database.transaction(job["population"]) as connection:
        if await take_job(connection, "release", job["id"]) is None:
            return 0
        made = await make_release(connection, database.transaction, job["population"], job["id"], journal, now)
        await remove_job(connection, job["id"])
        await connection.commit()
    return int(made)


async def make_extracts(database: Database, ring: KeyRing, now: datetime) -> int:
    """Make the extracts that two people approved; return how many."""
    async with database.transaction(None) as connection:
        waiting = await jobs(connection, "extract", JOBS_AT_ONCE)
    return sum([await each("make_extract", job["population"], _make_extract(database, ring, job, now)) for job in waiting])


async def _make_extract(database: Database, ring: KeyRing, job: Row, now: datetime) -> int:
    async with database.transaction(job["population"]) as connection:
        if await take_job(connection, "extract", job["id"]) is None:
            return 0
        visit = worker_visit(connection, ring, job["population"], now)
        made = await make_extract(connection, ring, job["id"], now)
        await remove_job(connection, job["id"])
        visit.trace.resources.append(f"outcome_extract/{job['id']}")
        await commit_visit(visit, "worker make_extract")
    return int(made)


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

    Of two lines for one question the later one stands: the earlier was never committed, so nobody has seen it.
    """
    lines: dict[UUID, dict[str, dict[str, Any]]] = defaultdict(dict)
    for line in journal.lines():
        lines[UUID(line["population"])][line["release_key"]] = line
    number = 0
    for population, by_key in lines.items():
        async with database.transaction(population) as connection:
            back = [line["id"] for line in by_key.values() if await replay(connection, line, now)]
            await connection.commit()
        if back:
            log.warning("releases_brought_back", population=str(population), number=len(back))
        number += len(back)
    return number
