"""Webhooks as rows: secrets, how far each endpoint was told, and deliveries, which are a queue that many workers may share.

A delivery is claimed with FOR UPDATE SKIP LOCKED and a lease: a worker that dies lets go by itself.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from uuid_utils.compat import uuid7

from app.domain.webhooks import event_type
from app.store.database import Connection, Row
from app.store.feed import public
from app.store.rows import own
from app.store.tables.record import change, change_clock
from app.store.tables.webhooks import webhook_delivery, webhook_endpoint, webhook_position, webhook_secret

LEASE = timedelta(seconds=30)  # twice as long as an attempt may take; an alert that a dead worker had claimed still comes within a minute
MOST_WAITING = 1_000
MOST_AT_ONCE = 500
ATTEMPTS_LOGGED = 30


async def add_secret(connection: Connection, endpoint_id: UUID, secret_id: UUID, sealed: bytes, now: datetime) -> None:
    """Insert a sealed secret."""
    values = {"partner_id": connection.partner_id, "id": secret_id, "endpoint_id": endpoint_id, "secret": sealed, "created_at": now}
    await connection.run(sa.insert(webhook_secret).values(values))


async def expire_secrets(connection: Connection, endpoint_id: UUID, at: datetime) -> None:
    """Let the present secrets of an endpoint end at `at`, unless they end sooner."""
    s = webhook_secret
    sooner = sa.or_(s.c.expires_at.is_(None), s.c.expires_at > at)
    await connection.run(sa.update(s).where(own(connection, s), s.c.endpoint_id == endpoint_id, sooner).values(expires_at=at))


async def secrets_of(connection: Connection, endpoint_id: UUID, now: datetime) -> list[Row]:
    """Return the sealed secrets that are valid, the newest first."""
    s = webhook_secret
    live = sa.or_(s.c.expires_at.is_(None), s.c.expires_at > now)
    return await connection.rows(sa.select(s).where(own(connection, s), s.c.endpoint_id == endpoint_id, live).order_by(s.c.created_at.desc()))


async def place_at_head(connection: Connection, endpoint_id: UUID) -> None:
    """Let a new endpoint be told of what is written from now on."""
    seq = sa.select(change_clock.c.seq).where(change_clock.c.partner_id == connection.partner_id).scalar_subquery()
    values = {"partner_id": connection.partner_id, "endpoint_id": endpoint_id, "seq": seq, "urgent_seq": seq, "failures": 0}
    await connection.run(sa.insert(webhook_position).values(values))


async def move_back(connection: Connection, endpoint_id: UUID, seq: int, now: datetime, give_up_at: datetime) -> None:
    """Let an endpoint be told again of everything after `seq`: what was delivered or given up is due anew."""
    p, d = webhook_position, webhook_delivery
    where = (own(connection, p), p.c.endpoint_id == endpoint_id)
    await connection.run(sa.update(p).where(*where).values(seq=sa.func.least(p.c.seq, seq), urgent_seq=sa.func.least(p.c.urgent_seq, seq)))
    await connection.run(
        sa.update(d).where(own(connection, d), d.c.endpoint_id == endpoint_id, d.c.seq > seq).values(_anew(now, give_up_at) | {"status": "pending"})
    )


def _anew(now: datetime, give_up_at: datetime) -> dict[str, Any]:
    return {"attempts": 0, "next_attempt_at": now, "give_up_at": give_up_at, "claim": None, "claimed_until": None, "delivered_at": None}


async def begin_anew(connection: Connection, endpoint_id: UUID, now: datetime, give_up_at: datetime) -> None:
    """Let an endpoint that is enabled again, or has another address, begin with a clean sheet: what waits is due now, for the full time."""
    p, d = webhook_position, webhook_delivery
    await connection.run(sa.update(p).where(own(connection, p), p.c.endpoint_id == endpoint_id).values(failing_since=None, failures=0))
    waits = (own(connection, d), d.c.endpoint_id == endpoint_id, d.c.status == "pending")
    await connection.run(sa.update(d).where(*waits).values(_anew(now, give_up_at)))


async def forget_endpoint(connection: Connection, endpoint_id: UUID) -> None:
    """Delete what hangs on an endpoint; its position first, which a worker that is turning the feed into deliveries holds."""
    for table in (webhook_position, webhook_delivery, webhook_secret):
        await connection.run(sa.delete(table).where(own(connection, table), table.c.endpoint_id == endpoint_id))


async def standing_of(connection: Connection, endpoint_id: UUID) -> Row:
    """Return how an endpoint fares: how far it was told, since when it fails, how many deliveries wait and were given up."""
    p, d = webhook_position, webhook_delivery

    def number(status: str) -> Any:
        counted = sa.select(sa.func.count()).where(own(connection, d), d.c.endpoint_id == endpoint_id, d.c.status == status)
        return counted.scalar_subquery()

    query = sa.select(p.c.seq, p.c.failing_since, p.c.last_success_at, number("pending").label("waiting"), number("dead").label("given_up")).where(
        own(connection, p), p.c.endpoint_id == endpoint_id
    )
    return await connection.first(query) or {}


async def enabled_endpoints(connection: Connection) -> list[Row]:
    """Return the partner's endpoints that are told of events, with since when each fails."""
    e, p = webhook_endpoint, webhook_position
    return await connection.rows(
        sa.select(e, p.c.failing_since, p.c.seq, p.c.urgent_seq)
        .join(p, (p.c.partner_id == e.c.partner_id) & (p.c.endpoint_id == e.c.id))
        .where(own(connection, e), e.c.status == "enabled")
        .order_by(e.c.id)
    )


async def walk(connection: Connection, endpoint: Row, wanted: Collection[tuple[str, str]], urgent: str, now: datetime, give_up_at: datetime) -> int:
    """Turn what the feed has to tell an endpoint into deliveries; return how many. `wanted`: pairs of entity and operation.

    Position and deliveries move in one transaction; another worker at the same endpoint passes on. What is urgent is looked for
    by a position of its own, so that no backlog stands before it; the rest waits in the feed while many deliveries wait already.
    """
    p, d = webhook_position, webhook_delivery
    where = (own(connection, p), p.c.endpoint_id == endpoint["id"])
    head = await connection.value(sa.select(change_clock.c.seq).where(change_clock.c.partner_id == connection.partner_id))
    if endpoint["seq"] >= head and endpoint["urgent_seq"] >= head:
        return 0
    at = await connection.first(sa.select(p).where(*where).with_for_update(skip_locked=True))
    if at is None:
        return 0
    waiting = await connection.value(
        sa.select(sa.func.count()).where(own(connection, d), d.c.endpoint_id == endpoint["id"], d.c.status == "pending", ~d.c.urgent)
    )
    pairs = sa.tuple_(change.c.entity, change.c.op).in_(list(wanted)) if wanted else sa.false()
    told = 0
    moved: dict[str, int] = {}
    for name, lane, most in (
        ("urgent_seq", change.c.entity == urgent, MOST_AT_ONCE),
        ("seq", change.c.entity != urgent, min(MOST_AT_ONCE, MOST_WAITING - waiting)),
    ):
        if most <= 0 or at[name] >= head:
            continue
        columns = [c for c in change.c if c.name != "state"]
        query = sa.select(*columns).where(public(connection), change.c.seq > at[name], change.c.seq <= head, lane, pairs)
        rows = await connection.rows(query.order_by(change.c.seq).limit(most))
        moved[name] = rows[-1]["seq"] if len(rows) == most else head
        told += await _insert(connection, endpoint["id"], rows, name == "urgent_seq", now, give_up_at)
    if moved:
        await connection.run(sa.update(p).where(*where).values(moved))
    return told


async def _insert(connection: Connection, endpoint_id: UUID, rows: Sequence[Row], urgent: bool, now: datetime, give_up_at: datetime) -> int:  # noqa: FBT001
    if not rows:
        return 0
    values = [
        new_delivery(connection, endpoint_id, now, give_up_at, urgent=urgent)
        | {
            "seq": r["seq"],
            "type": event_type(r["entity"], r["op"]),
            "entity": r["entity"],
            "entity_id": r["entity_id"],
            "entity_version": r["version"],
            "patient_id": r["patient_id"],
            "episode_id": r["episode_id"],
            "happened_at": r["at"],
        }
        for r in rows
    ]
    return await connection.run(insert(webhook_delivery).values(values).on_conflict_do_nothing())


def new_delivery(connection: Connection, endpoint_id: UUID, now: datetime, give_up_at: datetime, *, urgent: bool) -> dict[str, Any]:
    """Return the columns of a delivery that is due now."""
    return {
        "partner_id": connection.partner_id,
        "id": uuid7(),
        "endpoint_id": endpoint_id,
        "happened_at": now,
        "urgent": urgent,
        "status": "pending",
        "attempts": 0,
        "next_attempt_at": now,
        "give_up_at": give_up_at,
        "log": [],
        "created_at": now,
    }


async def add_ping(connection: Connection, endpoint_id: UUID, name: str, now: datetime, give_up_at: datetime) -> UUID:
    """Insert a test delivery, which is about nothing and waits behind nobody's alert."""
    values = new_delivery(connection, endpoint_id, now, give_up_at, urgent=False) | {"type": name}
    await connection.run(sa.insert(webhook_delivery).values(values))
    return UUID(str(values["id"]))


async def claim(connection: Connection, endpoint_id: UUID, now: datetime, *, urgent: bool, most_at_once: int, room: int) -> list[Row]:
    """Take due deliveries of an endpoint for the length of a lease, so that no more than `most_at_once` are under way by all workers.

    What was never tried comes first, of alerts the newest. The rows are chosen by a statement of their own: inside the UPDATE the
    planner may run the choice again and again, past its limit.
    """
    d = webhook_delivery
    of_lane = (own(connection, d), d.c.endpoint_id == endpoint_id, d.c.status == "pending", d.c.urgent == urgent)
    under_way = await connection.value(sa.select(sa.func.count()).where(*of_lane, d.c.claimed_until > now))
    most = min(most_at_once - under_way, room)
    if most <= 0:
        return []
    free = sa.or_(d.c.claimed_until.is_(None), d.c.claimed_until <= now)
    order = (d.c.attempts > 0, d.c.seq.desc().nulls_first()) if urgent else (d.c.next_attempt_at, d.c.seq)
    due = sa.select(d.c.id).where(*of_lane, d.c.next_attempt_at <= now, free).order_by(*order).limit(most).with_for_update(skip_locked=True)
    ids = [r["id"] for r in await connection.rows(due)]
    if not ids:
        return []
    values = {"claim": uuid7(), "claimed_until": now + LEASE, "attempts": d.c.attempts + 1}
    taken = sa.update(d).where(own(connection, d), d.c.id.in_(ids)).values(values).returning(*d.c)
    return sorted(await connection.rows(taken), key=lambda r: r["seq"] or 0)


async def settle(connection: Connection, delivery: Row, outcome: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Write what became of an attempt; False when the delivery was claimed anew since, or is done."""
    d = webhook_delivery
    mine = (own(connection, d), d.c.id == delivery["id"], d.c.status == "pending", d.c.claim == delivery["claim"])
    log = [*delivery["log"], entry][-ATTEMPTS_LOGGED:]
    return await connection.run(sa.update(d).where(*mine).values(claim=None, claimed_until=None, log=log, **outcome)) == 1


async def endpoint_succeeded(connection: Connection, endpoint_id: UUID, now: datetime, wake_if_failing_before: datetime) -> None:
    """Note that an endpoint answers; when it had not for a while, everything that waits for it is due now."""
    p, d = webhook_position, webhook_delivery
    where = (own(connection, p), p.c.endpoint_id == endpoint_id)
    failing = await connection.value(sa.select(p.c.failing_since).where(*where))
    await connection.run(sa.update(p).where(*where).values(failing_since=None, failures=0, last_success_at=now))
    if failing is not None and failing <= wake_if_failing_before:
        waits = (own(connection, d), d.c.endpoint_id == endpoint_id, d.c.status == "pending", d.c.next_attempt_at > now)
        await connection.run(sa.update(d).where(*waits).values(next_attempt_at=now))


async def endpoint_failed(connection: Connection, endpoint_id: UUID, now: datetime) -> tuple[datetime, int]:
    """Note that an endpoint does not answer, and return since when, and how many times by now."""
    p = webhook_position
    found = await connection.first(
        sa.update(p)
        .where(own(connection, p), p.c.endpoint_id == endpoint_id)
        .values(failing_since=sa.func.coalesce(p.c.failing_since, now), failures=p.c.failures + 1)
        .returning(p.c.failing_since, p.c.failures)
    )
    return (found["failing_since"], found["failures"]) if found else (now, 0)


async def give_up_overdue(connection: Connection, now: datetime) -> int:
    """Make dead letters of what was tried and has had its time, also where no attempt came to an end any more."""
    d = webhook_delivery
    free = sa.or_(d.c.claimed_until.is_(None), d.c.claimed_until <= now)
    overdue = (own(connection, d), d.c.status == "pending", d.c.attempts > 0, d.c.give_up_at < now - LEASE, free)
    return await connection.run(sa.update(d).where(*overdue).values(status="dead"))


async def clear_deliveries(connection: Connection, before: datetime) -> int:
    """Delete deliveries that were done before `before`, and secrets that ended before it."""
    d, s = webhook_delivery, webhook_secret
    cleared = await connection.run(sa.delete(d).where(own(connection, d), d.c.status != "pending", d.c.created_at < before))
    return cleared + await connection.run(sa.delete(s).where(own(connection, s), s.c.expires_at < before))
