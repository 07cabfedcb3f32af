"""Patients, clinicians, episodes and care teams: what the actions and lists ask for."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from app.store.database import Connection, Row
from app.store.rows import own, page
from app.store.statements import EACH, Confined, Prepared, any_of, given
from app.store.tables.caseload import partner_protocol
from app.store.tables.door import partner_setting
from app.store.tables.groups import group_member
from app.store.tables.people import care_team, clinician, consent, episode, patient, patient_key
from app.store.tables.protection import break_glass
from app.store.tables.record import change
from app.store.tables.work import risk_alert


def in_caseload(connection: Confined, clinician_id: Any, *, patient_id: Any, episode_id: Any = None) -> sa.ColumnElement[bool]:
    """Return the condition that a clinician's token sees only its caseload, and charts opened by emergency access; a partner's client sees all."""
    if clinician_id is None:
        return sa.true()
    return sa.or_(in_care_team(connection, clinician_id, patient_id, episode_id), _emergency(connection, clinician_id, patient_id).exists())


def in_care_team(connection: Confined, clinician_id: Any, patient_id: Any, episode_id: Any = None) -> sa.ColumnElement[bool]:
    """Return the condition that a clinician stands in the care team."""
    t = care_team.alias("caseload")
    tie = t.c.episode_id == episode_id if episode_id is not None else t.c.patient_id == patient_id
    return sa.exists().where(t.c.partner_id == connection.partner_id, t.c.clinician_id == clinician_id, tie)


def in_team(connection: Confined, clinician_id: UUID | None, patient_id: Any, episode_id: Any = None) -> sa.ColumnElement[bool]:
    """Return the condition of lists: the charts of the own care teams; emergency access opens a chart, and puts it into no list."""
    return sa.true() if clinician_id is None else in_care_team(connection, clinician_id, patient_id, episode_id)


async def courses_of(connection: Connection, patient_id: UUID, clinician_id: UUID) -> list[Row]:
    """Return a patient's courses, each with whether a clinician stands in its care team (`mine`)."""
    mine = in_care_team(connection, clinician_id, episode.c.patient_id, episode.c.id).label("mine")
    query = sa.select(episode.c.id, mine).where(own(connection, episode), episode.c.patient_id == patient_id)
    return await connection.rows(query.order_by(episode.c.created_at.desc(), episode.c.id.desc()))


def _emergency(connection: Confined, clinician_id: Any, patient_id: Any) -> sa.Select[Any]:
    """Select the emergency access by which a clinician may open a chart now. The clock is the database's: it is the same for every process."""
    g = break_glass.alias("emergency")
    return (
        sa.select(g.c.id)
        .where(
            g.c.partner_id == connection.partner_id, g.c.clinician_id == clinician_id, g.c.patient_id == patient_id, g.c.expires_at > sa.func.now()
        )
        .correlate_except(g)
    )


def listed(connection: Confined, patient_id: Any, *, restricted: bool = False) -> sa.ColumnElement[bool]:
    """Return the condition that lists show rows of a patient: not of one who was erased, nor (unless `restricted`) whose data are restricted."""
    p = patient.alias("whose")
    hidden = p.c.erased_at.is_not(None) if restricted else sa.or_(p.c.erased_at.is_not(None), p.c.restricted_because.is_not(None))
    return ~sa.exists().where(p.c.partner_id == connection.partner_id, p.c.id == patient_id, hidden)


def person_of(p: Any) -> sa.ColumnElement[Any]:
    """Return the registration that a patient's was merged into, or its own. Under row security COALESCE in a condition keeps the index away."""
    return sa.case((p.c.merged_into.is_(None), p.c.id), else_=p.c.merged_into)


def decision_on(connection: Confined, root: Any, purpose: str, of: Any = None) -> sa.Select[Any]:
    """Select a person's newest decision on a purpose, by whichever registration: given (true) or withdrawn (false).

    `of`: the table that `root` is taken from. The registrations are joined: a list of them made for each row would be a condition that
    row security does not let near the index, and every consent of the partner would be read.
    """
    c, t = consent.alias("decision"), patient.alias("same_person")
    parts = [sa.select(sa.cast(root, sa.Uuid).label("id")), sa.select(t.c.id).where(t.c.partner_id == connection.partner_id, t.c.merged_into == root)]
    registrations = sa.union_all(*(p if of is None else p.correlate(of) for p in parts)).subquery("registration")
    query = sa.select(c.c.given).join_from(registrations, c, (c.c.partner_id == connection.partner_id) & (c.c.patient_id == registrations.c.id))
    query = query.where(c.c.purpose == purpose).order_by(c.c.decided_at.desc(), c.c.id.desc()).limit(1)
    return query if of is None else query.correlate(of)


async def newest_decision(connection: Connection, root: UUID, purpose: str) -> bool | None:
    """Return a person's newest decision on a purpose; None when there is none. `root`: the registration that others were merged into."""
    return await connection.value(decision_on(connection, root, purpose))  # type: ignore[no-any-return]


def _standing(connection: Confined, clinician_id: Any, patient_id: Any, episode_id: Any = None) -> list[Any]:
    """Select what stands over a chart: the newest decision on treatment, and the emergency access when that alone opens it."""
    newest = decision_on(connection, person_of(patient), "treatment", patient).scalar_subquery().label("treatment_given")
    if clinician_id is None:
        return [newest, sa.null().label("emergency_id")]
    emergency = _emergency(connection, clinician_id, patient_id).limit(1).scalar_subquery()
    not_needed = in_care_team(connection, clinician_id, patient_id, episode_id) & patient.c.restricted_because.is_(None)
    return [newest, sa.case((not_needed, sa.null()), else_=emergency).label("emergency_id")]


async def find_patient(connection: Connection, patient_id: UUID, clinician_id: UUID | None, *, lock: bool = False) -> Row | None:
    """Return a patient with its wrapped key and what stands over the chart, or None; one who was erased is not there."""
    found = _patient(of_clinician=clinician_id is not None, lock=lock)
    return await connection.first(found, patient_id=patient_id, clinician_id=clinician_id)


@cache
def _patient(*, of_clinician: bool, lock: bool) -> Prepared:
    k, by = patient_key, given("clinician_id", sa.Uuid()) if of_clinician else None
    query = (
        sa.select(patient, k.c.wrapped, k.c.key_version, *_standing(EACH, by, patient.c.id))
        .join(k, (k.c.partner_id == patient.c.partner_id) & (k.c.patient_id == patient.c.id))
        .where(own(EACH, patient), patient.c.id == given("patient_id", sa.Uuid()), patient.c.erased_at.is_(None), k.c.wrapped.is_not(None))
        .where(in_caseload(EACH, by, patient_id=patient.c.id))
    )
    return Prepared(lambda: query.with_for_update(key_share=True, of=patient) if lock else query)


def charts(connection: Confined, clinician_id: Any) -> sa.Select[Any]:
    """Select episodes with what every step in them needs: the wrapped key, the time zone, the partner's settings and own protocol, what stands over it."""
    e, p, k, s, o = episode, patient, patient_key, partner_setting, partner_protocol
    settings = (s.c.classifier_on, s.c.risk_responder, s.c.secondary_responder, s.c.crisis_text)
    of_patient = (p.c.time_zone, p.c.locale, p.c.merged_into, p.c.restricted_because, k.c.wrapped, k.c.key_version)
    standing = _standing(connection, clinician_id, e.c.patient_id, e.c.id)
    return (
        sa.select(e, *of_patient, *settings, o.c.definition.label("own_protocol"), *standing)
        .join(p, (p.c.partner_id == e.c.partner_id) & (p.c.id == e.c.patient_id))
        .join(k, (k.c.partner_id == e.c.partner_id) & (k.c.patient_id == e.c.patient_id))
        .join(s, s.c.partner_id == e.c.partner_id)
        .outerjoin(o, (o.c.partner_id == e.c.partner_id) & (o.c.code == e.c.protocol_code) & (o.c.protocol_version == e.c.protocol_version))
        .where(own(connection, e), p.c.erased_at.is_(None), k.c.wrapped.is_not(None))
        .where(in_caseload(connection, clinician_id, patient_id=e.c.patient_id, episode_id=e.c.id))
    )


async def find_chart(connection: Connection, episode_id: UUID, clinician_id: UUID | None, *, lock: bool = False) -> Row | None:
    """Return an episode of the caseload with what every step in it needs, or None.

    Locked, the patient is locked with it: an erasure or a restriction waits for the writers, and a writer that waited for it meets it.
    """
    found = _chart(of_clinician=clinician_id is not None, lock=lock)
    return await connection.first(found, episode_id=episode_id, clinician_id=clinician_id)


@cache
def _chart(*, of_clinician: bool, lock: bool) -> Prepared:
    query = charts(EACH, given("clinician_id", sa.Uuid()) if of_clinician else None).where(episode.c.id == given("episode_id", sa.Uuid()))
    return Prepared(lambda: query.with_for_update(key_share=True, of=(episode, patient)) if lock else query)


async def lock_charts(
    connection: Connection,
    rows: Mapping[sa.Table, Sequence[UUID]],
    episode_ids: Sequence[UUID],
    clinician_id: UUID | None,
    patient_id: UUID | None,
) -> list[Row]:
    """Lock the charts of some rows, and some charts, of the caseload (or the patient's own), in one order: two that want the same ones cannot cross.

    Returns the charts, read under their locks.
    """
    wanted = set(episode_ids)
    for table, ids in rows.items():
        found = await connection.rows(_episodes_of(table), ids=list(ids))
        wanted |= {r["episode_id"] for r in found}
    if not wanted:
        return []
    locked = await connection.rows(
        _locking(of_clinician=clinician_id is not None, of_patient=patient_id is not None),
        episode_ids=list(wanted),
        clinician_id=clinician_id,
        patient_id=patient_id,
    )
    ids = [r["id"] for r in locked]
    return await connection.rows(_charts_of(of_clinician=clinician_id is not None), episode_ids=ids, clinician_id=clinician_id)


@cache
def _episodes_of(table: sa.Table) -> Prepared:
    return Prepared(lambda: sa.select(table.c.episode_id).distinct().where(own(EACH, table), table.c.id == any_of("ids", table.c.id)))


@cache
def _locking(*, of_clinician: bool, of_patient: bool) -> Prepared:
    e = episode
    by = given("clinician_id", sa.Uuid()) if of_clinician else None
    mine = [in_caseload(EACH, by, patient_id=e.c.patient_id, episode_id=e.c.id)]
    mine += [e.c.patient_id == given("patient_id", sa.Uuid())] if of_patient else []
    whose = (patient.c.partner_id == e.c.partner_id) & (patient.c.id == e.c.patient_id)
    query = sa.select(e.c.id).join(patient, whose).where(own(EACH, e), e.c.id == any_of("episode_ids", e.c.id), *mine)
    return Prepared(lambda: query.order_by(e.c.id).with_for_update(key_share=True, of=(e, patient)))


@cache
def _charts_of(*, of_clinician: bool) -> Prepared:
    query = charts(EACH, given("clinician_id", sa.Uuid()) if of_clinician else None)
    return Prepared(lambda: query.where(episode.c.id == any_of("episode_ids", episode.c.id)))


async def was_told_to_forget(connection: Connection, person_id: UUID, episode_id: UUID) -> bool:
    """Tell whether a person was in a care team and has left it: their devices were told to forget the chart."""
    wanted = (change.c.partner_id == connection.partner_id, change.c.audience == person_id, change.c.episode_id == episode_id)
    return await connection.value(sa.select(change.c.seq).where(*wanted, change.c.op == "revoke").limit(1)) is not None


async def newest_episode_of(connection: Connection, patient_id: UUID, clinician_id: UUID | None) -> UUID | None:
    """Return the newest course of a patient in the caseload, or None."""
    mine = in_caseload(connection, clinician_id, patient_id=episode.c.patient_id, episode_id=episode.c.id)
    query = sa.select(episode.c.id).where(own(connection, episode), episode.c.patient_id == patient_id, mine)
    return await connection.value(query.order_by(episode.c.created_at.desc(), episode.c.id.desc()).limit(1))  # type: ignore[no-any-return]


async def page_charts(
    connection: Connection, clinician_id: UUID | None, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Return a page of charts by id, closed records without an open alert left out; `filters` by clinician and patient."""
    waiting = sa.exists().where(
        risk_alert.c.partner_id == connection.partner_id, risk_alert.c.episode_id == episode.c.id, risk_alert.c.status != "closed"
    )
    mine = in_team(connection, clinician_id, episode.c.patient_id, episode.c.id)
    query = charts(connection, clinician_id).where(sa.or_(episode.c.status != "closed", waiting), patient.c.restricted_because.is_(None), mine)
    if filters.get("patient_id") is not None:
        query = query.where(of_patient(connection, episode.c.patient_id, filters["patient_id"]))
    if filters.get("clinician_id") is not None:
        query = query.where(in_care_team(connection, filters["clinician_id"], episode.c.patient_id, episode.c.id))
    return await page(connection, query, [episode.c.id], after, limit)


def of_patient(connection: Confined, column: sa.ColumnElement[Any], patient_id: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a row is of a patient, or of one that was found to be the same person.

    A list of ids, so that the index of the column finds the rows however many patients there are.
    """
    t = patient.alias("same_person")
    others = sa.select(t.c.id).where(t.c.partner_id == connection.partner_id, t.c.merged_into == patient_id).correlate_except(t)
    ids = sa.func.array_append(sa.func.array(others.scalar_subquery(), type_=ARRAY(sa.Uuid)), patient_id, type_=ARRAY(sa.Uuid))
    return column == sa.any_(ids)


async def same_person(connection: Connection, patient_id: UUID, *, standing: bool = False) -> list[UUID]:
    """Return every registration of a patient's person, erased ones too unless `standing`; none when the patient is unknown."""
    mine = sa.select(sa.func.coalesce(patient.c.merged_into, patient.c.id)).where(own(connection, patient), patient.c.id == patient_id)
    query = sa.select(patient.c.id).where(own(connection, patient), of_patient(connection, patient.c.id, mine.scalar_subquery()))
    query = query.where(patient.c.erased_at.is_(None)) if standing else query
    return [r["id"] for r in await connection.rows(query)]


async def group_members(connection: Connection, group_id: UUID) -> list[Row]:
    """Return the members of a group in the order of their joining; whoever's data are restricted, or erased, is not shown."""
    m = group_member
    query = sa.select(m).where(own(connection, m), m.c.group_id == group_id, listed(connection, m.c.patient_id))
    return await connection.rows(query.order_by(m.c.created_at, m.c.id))


async def page_patients(
    connection: Connection, clinician_id: UUID | None, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Return a page of patients by id, each with its wrapped key."""
    k = patient_key
    query = (
        sa.select(patient, k.c.wrapped, k.c.key_version)
        .join(k, (k.c.partner_id == patient.c.partner_id) & (k.c.patient_id == patient.c.id))
        .where(own(connection, patient), patient.c.erased_at.is_(None), in_team(connection, clinician_id, patient.c.id))
    )
    query = query.where(*(patient.c[name] == value for name, value in filters.items() if value is not None))
    return await page(connection, query, [patient.c.id], after, limit)


async def page_episodes(
    connection: Connection, clinician_id: UUID | None, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Return a page of episodes by id."""
    mine = in_team(connection, clinician_id, episode.c.patient_id, episode.c.id)
    query = sa.select(episode).where(own(connection, episode), mine, listed(connection, episode.c.patient_id))
    query = query.where(*(episode.c[n] == filters[n] for n in ("external_ref", "status", "phase") if filters.get(n) is not None))
    if filters.get("patient_id") is not None:
        query = query.where(of_patient(connection, episode.c.patient_id, filters["patient_id"]))
    if filters.get("clinician_id") is not None:
        query = query.where(in_care_team(connection, filters["clinician_id"], episode.c.patient_id, episode.c.id))
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
