"""What protecting a patient asks of the database: emergency access, the end of a key, the rows that go with an erasure, retention."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from app.store.database import Connection, Row
from app.store.rows import own, page
from app.store.tables.door import idempotency_key
from app.store.tables.every import SHARED_TABLES, metadata
from app.store.tables.groups import couple
from app.store.tables.people import episode, patient, patient_key
from app.store.tables.protection import break_glass, erasure
from app.store.tables.record import change
from app.store.tables.sync import device, sync_mutation
from app.store.tables.webhooks import webhook_delivery

STAYS = {
    "patient": "the tombstone: an id and nothing about a person",
    "patient_key": "the tombstone of the key: destroyed",
    "erasure": "the certificate",
    "break_glass": "who used emergency access and when, without the reason: its review goes on",
    "change": "ids and versions, so that replicas hear of the deletion; its sealed states go",
    "audit_event": "who did what: ids and codes, kept by law",
    "audit_subject": "points into the audit trail",
}
"""Tables with a patient_id whose rows outlive an erasure, each with the reason."""


async def emergencies_since(connection: Connection, clinician_id: UUID, since: datetime) -> int:
    """Return how many charts a clinician has opened by emergency access since a moment."""
    g = break_glass
    query = sa.select(sa.func.count()).where(own(connection, g), g.c.clinician_id == clinician_id, g.c.created_at > since)
    return int(await connection.value(query))


def _emergencies(connection: Connection) -> sa.Select[Any]:
    """Select emergency accesses, each with the patient's wrapped key; null when the patient was erased."""
    g, k = break_glass, patient_key
    with_key = g.join(k, (k.c.partner_id == g.c.partner_id) & (k.c.patient_id == g.c.patient_id))
    return sa.select(g, k.c.wrapped, k.c.key_version).select_from(with_key).where(own(connection, g))


async def page_emergencies(connection: Connection, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int) -> list[Row]:
    """Return a page of emergency accesses by id."""
    wanted = [break_glass.c[name] == value for name, value in filters.items() if value is not None]
    return await page(connection, _emergencies(connection).where(*wanted), [break_glass.c.id], after, limit)


async def find_emergency(connection: Connection, break_glass_id: UUID) -> Row | None:
    """Return an emergency access, locked, or None."""
    query = _emergencies(connection).where(break_glass.c.id == break_glass_id)
    return await connection.first(query.with_for_update(key_share=True, of=break_glass))


async def destroy_key(connection: Connection, patient_id: UUID, now: datetime) -> None:
    """Destroy a patient's data key: what was sealed under it cannot be opened any more, by nobody."""
    k = patient_key
    await connection.run(sa.update(k).where(own(connection, k), k.c.patient_id == patient_id).values(wrapped=None, destroyed_at=now))


async def blank_patient(connection: Connection, patient_id: UUID, version: int, now: datetime) -> None:
    """Leave of a patient's row an id and the moment of its erasure."""
    nothing: dict[str, Any] = {
        "external_ref_bidx": None,
        "birth_year": None,
        "sex": "not_recorded",
        "locale": "en",
        "time_zone": "UTC",
        "sealed": None,
    }
    nothing |= {"merged_into": None, "restricted_because": None, "erased_at": now, "updated_at": now, "version": version}
    await connection.run(sa.update(patient).where(own(connection, patient), patient.c.id == patient_id).values(nothing))


async def blank_emergencies(connection: Connection, patient_id: UUID) -> None:
    """Leave of emergency accesses to a patient who did what and when: their review goes on."""
    g = break_glass
    await connection.run(sa.update(g).where(own(connection, g), g.c.patient_id == patient_id).values(sealed=None))


async def blank_answers(connection: Connection, patient_id: UUID, now: datetime) -> None:
    """Blank kept answers about a patient, also those about several patients that name a course of theirs: they are replayed no more."""
    k = idempotency_key
    await connection.run(sa.update(k).where(await _answers_of(connection, patient_id)).values(answer=b"", expires_at=now))


async def _answers_of(connection: Connection, patient_id: UUID) -> sa.ColumnElement[bool]:
    k = idempotency_key
    rows = await connection.rows(sa.select(episode.c.id).where(own(connection, episode), episode.c.patient_id == patient_id))
    named = sa.func.string_to_array(k.c.headers["ipt-episodes"].astext, ",").bool_op("&&")(sa.cast([str(r["id"]) for r in rows], ARRAY(sa.Text)))
    return own(connection, k) & sa.or_(k.c.patient_id == patient_id, named)


async def erasures_to_do(connection: Connection) -> list[Row]:
    """Return the erasures whose rows are still there, the oldest first."""
    query = sa.select(erasure).where(own(connection, erasure), erasure.c.rows_erased_at.is_(None)).order_by(erasure.c.id)
    return await connection.rows(query)


async def erasures_of(connection: Connection) -> list[Row]:
    """Return the erasures of the partner: whom, by whose request, when."""
    e = erasure.c
    return await connection.rows(sa.select(e.patient_id, e.requested_by, e.key_destroyed_at).where(own(connection, erasure)))


async def hold_erasure(connection: Connection, erasure_id: UUID) -> Row | None:
    """Return an erasure that is to do, locked; None when another worker has it, or it is done."""
    query = sa.select(erasure).where(own(connection, erasure), erasure.c.id == erasure_id, erasure.c.rows_erased_at.is_(None))
    return await connection.first(query.with_for_update(skip_locked=True))


async def shared_rows(connection: Connection, patient_id: UUID) -> list[tuple[sa.Table, Row]]:
    """Return rows about a patient that name them without a patient_id: their devices, and their side of a couple."""
    episodes = sa.select(episode.c.id).where(own(connection, episode), episode.c.patient_id == patient_id)
    both = sa.or_(couple.c.first_episode_id.in_(episodes), couple.c.second_episode_id.in_(episodes))
    couples = await connection.rows(sa.select(couple).where(own(connection, couple), both))
    devices = await connection.rows(sa.select(device).where(own(connection, device), device.c.person_id == patient_id))
    return [(couple, r) for r in couples] + [(device, r) for r in devices]


async def delete_rows_of(connection: Connection, patient_id: UUID, shared_ids: Sequence[UUID]) -> dict[str, int]:
    """Delete every row of a patient, and what their devices have sent, blank the states that the feed keeps, forget kept answers.

    `shared_ids`: their devices, and the couples that they are in.

    Returns how many of each table.
    """
    counts: dict[str, int] = {}
    of_devices = (own(connection, sync_mutation), sync_mutation.c.device_id.in_(shared_ids))
    counts["sync_mutation"] = await connection.run(sa.delete(sync_mutation).where(*of_devices))
    counts["idempotency_key"] = await connection.run(sa.delete(idempotency_key).where(await _answers_of(connection, patient_id)))
    told = webhook_delivery.c.type.like("%.deleted") | (webhook_delivery.c.entity == "erasure")
    mine = (own(connection, webhook_delivery), webhook_delivery.c.patient_id == patient_id)
    counts["webhook_delivery"] = await connection.run(sa.delete(webhook_delivery).where(*mine, ~told))
    done = {"idempotency_key", "webhook_delivery"}
    for table in reversed(metadata.sorted_tables):
        if table.name in SHARED_TABLES or table.name in STAYS or table.name in done or "patient_id" not in table.c:
            continue
        gone = await connection.run(sa.delete(table).where(own(connection, table), table.c.patient_id == patient_id))
        counts[table.name] = counts.get(table.name, 0) + gone
    of_person = (change.c.patient_id == patient_id) | (change.c.entity_id.in_(shared_ids) & change.c.entity.in_(("device", "couple")))
    states = (own(connection, change), of_person, change.c.state.is_not(None), change.c.entity != "erasure")
    counts["change"] = await connection.run(sa.update(change).where(*states).values(state=None))
    return {str(name): number for name, number in sorted(counts.items()) if number}


async def ended_before(
    connection: Connection, day: date, after: UUID | None, limit: int, *, only: UUID | None = None, held: bool = True
) -> list[Row]:
    """Return persons all of whose courses, by whichever registration, are closed, the last before a day; by id, each with the moment of that end.

    `only`: this one; `held`: also those under a legal hold.
    """
    p, m, e = patient, patient.alias("registration"), episode
    last = sa.func.coalesce(sa.func.max(e.c.ended_at), sa.func.max(m.c.created_at))
    hold = sa.func.bool_or(m.c.legal_hold)
    registrations = p.join(m, (m.c.partner_id == p.c.partner_id) & ((m.c.id == p.c.id) | (m.c.merged_into == p.c.id)))
    query = (
        sa.select(p.c.id, sa.func.max(m.c.birth_year).label("birth_year"), p.c.time_zone, hold.label("legal_hold"), last.label("ended_at"))
        .select_from(registrations.outerjoin(e, (e.c.partner_id == m.c.partner_id) & (e.c.patient_id == m.c.id)))
        .where(own(connection, p), p.c.erased_at.is_(None), p.c.merged_into.is_(None), *([p.c.id > after] if after else []))
        .where(*([p.c.id == only] if only else []))
        .group_by(p.c.partner_id, p.c.id)
        .having(sa.func.bool_and(sa.or_(e.c.id.is_(None), e.c.status == "closed")), last < sa.cast(day, sa.DateTime(timezone=True)))
    )
    query = query if held else query.having(~hold)
    return await connection.rows(query.order_by(p.c.id).limit(limit))
