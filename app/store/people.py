"""Patients, clinicians, episodes and care teams: what the actions and lists ask for."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.store.database import Connection, Row
from app.store.rows import own, page
from app.store.tables.caseload import partner_protocol
from app.store.tables.door import partner_setting
from app.store.tables.people import care_team, clinician, episode, patient, patient_key
from app.store.tables.record import change
from app.store.tables.work import risk_alert


def in_caseload(connection: Connection, clinician_id: UUID | None, *, patient_id: Any = None, episode_id: Any = None) -> sa.ColumnElement[bool]:
    """Return the condition that a clinician's token sees only its caseload; a partner's client sees all."""
    if clinician_id is None:
        return sa.true()
    t = care_team.alias("caseload")
    tie = t.c.episode_id == episode_id if episode_id is not None else t.c.patient_id == patient_id
    return sa.exists().where(t.c.partner_id == connection.partner_id, t.c.clinician_id == clinician_id, tie)


async def find_patient(connection: Connection, patient_id: UUID, clinician_id: UUID | None, *, lock: bool = False) -> Row | None:
    """Return a patient with its wrapped key, or None."""
    query = (
        sa.select(patient, patient_key.c.wrapped, patient_key.c.key_version)
        .join(patient_key, (patient_key.c.partner_id == patient.c.partner_id) & (patient_key.c.patient_id == patient.c.id))
        .where(own(connection, patient), patient.c.id == patient_id, in_caseload(connection, clinician_id, patient_id=patient.c.id))
    )
    return await connection.first(query.with_for_update(key_share=True, of=patient) if lock else query)


def _charts(connection: Connection, clinician_id: UUID | None) -> sa.Select[Any]:
    """Select episodes with what every step in them needs: the wrapped key, the time zone, the partner's settings and own protocol."""
    e, p, k, s, o = episode, patient, patient_key, partner_setting, partner_protocol
    settings = (s.c.classifier_on, s.c.risk_responder, s.c.secondary_responder, s.c.crisis_text)
    return (
        sa.select(e, p.c.time_zone, p.c.locale, p.c.merged_into, k.c.wrapped, k.c.key_version, *settings, o.c.definition.label("own_protocol"))
        .join(p, (p.c.partner_id == e.c.partner_id) & (p.c.id == e.c.patient_id))
        .join(k, (k.c.partner_id == e.c.partner_id) & (k.c.patient_id == e.c.patient_id))
        .join(s, s.c.partner_id == e.c.partner_id)
        .outerjoin(o, (o.c.partner_id == e.c.partner_id) & (o.c.code == e.c.protocol_code) & (o.c.protocol_version == e.c.protocol_version))
        .where(own(connection, e), in_caseload(connection, clinician_id, episode_id=e.c.id))
    )


async def find_chart(connection: Connection, episode_id: UUID, clinician_id: UUID | None, *, lock: bool = False) -> Row | None:
    """Return an episode of the caseload with what every step in it needs, or None."""
    query = _charts(connection, clinician_id).where(episode.c.id == episode_id)
    return await connection.first(query.with_for_update(key_share=True, of=episode) if lock else query)


async def lock_charts(
    connection: Connection,
    rows: Mapping[sa.Table, Sequence[UUID]],
    episode_ids: Sequence[UUID],
    clinician_id: UUID | None,
    patient_id: UUID | None,
) -> None:
    """Lock the charts of some rows, and some charts, of the caseload (or the patient's own), in one order: two that want the same ones cannot cross."""
    wanted = set(episode_ids)
    for table, ids in rows.items():
        found = await connection.rows(sa.select(table.c.episode_id).distinct().where(own(connection, table), table.c.id.in_(ids)))
        wanted |= {r["episode_id"] for r in found}
    if wanted:
        mine = [in_caseload(connection, clinician_id, episode_id=episode.c.id), *([episode.c.patient_id == patient_id] if patient_id else [])]
        query = sa.select(episode.c.id).where(own(connection, episode), episode.c.id.in_(wanted), *mine).order_by(episode.c.id)
        await connection.rows(query.with_for_update(key_share=True, of=episode))


async def was_told_to_forget(connection: Connection, person_id: UUID, episode_id: UUID) -> bool:
    """Tell whether a person was in a care team and has left it: their devices were told to forget the chart."""
    wanted = (change.c.partner_id == connection.partner_id, change.c.audience == person_id, change.c.episode_id == episode_id)
    return await connection.value(sa.select(change.c.seq).where(*wanted, change.c.op == "revoke").limit(1)) is not None


async def newest_episode_of(connection: Connection, patient_id: UUID, clinician_id: UUID | None) -> UUID | None:
    """Return the newest course of a patient in the caseload, or None."""
    mine = in_caseload(connection, clinician_id, episode_id=episode.c.id)
    query = sa.select(episode.c.id).where(own(connection, episode), episode.c.patient_id == patient_id, mine)
    return await connection.value(query.order_by(episode.c.created_at.desc(), episode.c.id.desc()).limit(1))  # type: ignore[no-any-return]


async def page_charts(
    connection: Connection, clinician_id: UUID | None, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Return a page of charts by id, closed records without an open alert left out; `filters` by clinician and patient."""
    waiting = sa.exists().where(
        risk_alert.c.partner_id == connection.partner_id, risk_alert.c.episode_id == episode.c.id, risk_alert.c.status != "closed"
    )
    query = _charts(connection, clinician_id).where(sa.or_(episode.c.status != "closed", waiting))
    if filters.get("patient_id") is not None:
        query = query.where(of_patient(connection, episode.c.patient_id, filters["patient_id"]))
    if filters.get("clinician_id") is not None:
        query = query.where(in_caseload(connection, filters["clinician_id"], episode_id=episode.c.id))
    return await page(connection, query, [episode.c.id], after, limit)


def of_patient(connection: Connection, column: sa.ColumnElement[Any], patient_id: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a row is of a patient, or of one that was found to be the same person."""
    t = patient.alias("same_person")
    mine = sa.select(t.c.id).where(t.c.partner_id == connection.partner_id, sa.or_(t.c.id == patient_id, t.c.merged_into == patient_id))
    mine = mine.correlate_except(t)
    return column.in_(mine)


async def page_patients(
    connection: Connection, clinician_id: UUID | None, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Return a page of patients by id."""
    query = sa.select(patient).where(own(connection, patient), in_caseload(connection, clinician_id, patient_id=patient.c.id))
    if filters.get("external_ref") is not None:
        query = query.where(patient.c.external_ref == filters["external_ref"])
    return await page(connection, query, [patient.c.id], after, limit)


async def page_episodes(
    connection: Connection, clinician_id: UUID | None, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Return a page of episodes by id."""
    query = sa.select(episode).where(own(connection, episode), in_caseload(connection, clinician_id, episode_id=episode.c.id))
    query = query.where(*(episode.c[n] == filters[n] for n in ("external_ref", "status", "phase") if filters.get(n) is not None))
    if filters.get("patient_id") is not None:
        query = query.where(of_patient(connection, episode.c.patient_id, filters["patient_id"]))
    if filters.get("clinician_id") is not None:
        query = query.where(in_caseload(connection, filters["clinician_id"], episode_id=episode.c.id))
    if filters.get("referred_from") is not None:
        query = query.where(episode.c.referred_on >= filters["referred_from"])
    if filters.get("referred_to") is not None:
        query = query.where(episode.c.referred_on <= filters["referred_to"])
    return await page(connection, query, [episode.c.id], after, limit)


async def page_clinicians(connection: Connection, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int) -> list[Row]:
    """Return a page of clinicians by id."""
    query = sa.select(clinician).where(own(connection, clinician))
    if filters.get("subject") is not None:
        query = query.where(clinician.c.subject == filters["subject"])
    return await page(connection, query, [clinician.c.id], after, limit)


async def tied_to(connection: Connection, clinician_id: UUID, episode_ids: Sequence[UUID] | None) -> list[Row]:
    """Return a clinician's ties to open courses, locked: of those named, or of all."""
    t, e = care_team, episode
    query = (
        sa.select(t)
        .join(e, (e.c.partner_id == t.c.partner_id) & (e.c.id == t.c.episode_id))
        .where(own(connection, t), t.c.clinician_id == clinician_id, e.c.status != "closed")
        .order_by(t.c.episode_id)
    )
    query = query if episode_ids is None else query.where(t.c.episode_id.in_(episode_ids))
    return await connection.rows(query.with_for_update(of=(e, t), key_share=True))


async def care_roles(connection: Connection, episode_id: UUID) -> dict[UUID, str]:
    """Return the care team: role by clinician."""
    rows = await connection.rows(
        sa.select(care_team.c.clinician_id, care_team.c.role).where(own(connection, care_team), care_team.c.episode_id == episode_id)
    )
    return {r["clinician_id"]: r["role"] for r in rows}
