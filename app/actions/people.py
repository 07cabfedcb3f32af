"""Patients, consents, clinicians, episodes and care teams."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.actions.records import Fields, IdTaken, Made, ReferenceTaken, amend, create, get_in_chart, remove, reveal
from app.actions.visit import Visit, open_chart, open_patient
from app.domain.errors import Conflict, Fault, Forbidden, Invalid, NotFound
from app.domain.people import check_not_future, check_time_zone, today_of
from app.domain.protection import AGE_OF_CONSENT, check_guardian
from app.domain.protocols import Protocol, common_tasks, protocol, protocol_from
from app.keys.tokens import ACCESS_TOKEN_SECONDS
from app.store.database import Row
from app.store.door import revoke
from app.store.people import care_roles
from app.store.rows import find_row, insert_row, rows_of
from app.store.tables.caseload import partner_protocol
from app.store.tables.door import partner_setting
from app.store.tables.people import care_team, clinician, consent, episode, patient, patient_key

TOKENS_DEAD_AFTER = timedelta(seconds=2 * ACCESS_TOKEN_SECONDS)


class BackendOnly(Forbidden):
    """This is for the partner's backend to do or to read, not in a person's name."""


class CoverIsLead(Invalid):
    """The covering clinician must be another than the lead."""


class LeadDecides(Forbidden):
    """The care team is changed by its lead, or by the partner's backend."""


class LeadNeeded(Conflict):
    """An episode always has one lead clinician: name another lead first."""


class ProtocolUnknown(Invalid):
    """The protocol is neither in the catalogue nor registered by the partner."""


class FormatOfAnotherProtocol(Invalid):
    """The protocol is for another format: individual, group or couple."""


def check_backend(visit: Visit) -> None:
    """Raise BackendOnly for a token that acts for a person."""
    if visit.caller.person is not None:
        raise BackendOnly


async def add_patient(visit: Visit, fields: Fields) -> Made:
    """Register a patient under a pseudonym, with a data key of its own."""
    check_backend(visit)
    check_time_zone(fields.clear["time_zone"])
    patient_id = fields.id or uuid7()
    known = await find_row(visit.connection, patient, id=patient_id) if fields.id is not None else None
    fields = Fields(fields.clear, fields.secret, patient_id, {"legal_hold": False, **_reference_index(visit, fields)})
    if known is not None:
        if known["erased_at"] is not None:
            raise IdTaken
        _, key = await open_patient(visit, patient_id)
        return await create(visit, patient, fields, key=key)
    key, key_version, wrapped = visit.keys.new_patient_key(visit.caller.partner_id, patient_id)
    visit.patient_keys[patient_id] = key
    visit.trace.patient_id = patient_id
    made = await create(visit, patient, fields, key=key)
    if made.new:
        values = {"patient_id": patient_id, "key_version": key_version, "wrapped": wrapped, "created_at": visit.now}
        await insert_row(visit.connection, patient_key, values)
    else:
        await open_patient(visit, patient_id)  # another request made it: its key is the patient's
    return made


async def get_patient(visit: Visit, patient_id: UUID) -> Row:
    """Return a patient. Raises NotFound."""
    row, key = await open_patient(visit, patient_id)
    visit.trace.resources.append(f"patient/{patient_id}")
    return reveal(key, patient, row)


async def amend_patient(visit: Visit, patient_id: UUID, fields: Fields) -> Row:
    """Change a patient's pseudonymous particulars."""
    row, key = await open_patient(visit, patient_id, lock=True)
    visit.precondition.check(row["version"])
    derived = _reference_index(visit, fields)
    if derived:
        check_backend(visit)
        await _check_free(visit, patient, patient_id, **derived)
    if "time_zone" in fields.clear:
        check_time_zone(fields.clear["time_zone"])
    return await amend(visit, patient, reveal(key, patient, row), Fields(fields.clear, fields.secret, derived=derived), key=key)


def find_patients_by(visit: Visit, external_ref: str | None) -> dict[str, Any]:
    """Return the filter that finds a patient by the partner's reference, which is sealed and can be looked up only."""
    return _reference_index(visit, Fields({}, {"external_ref": external_ref})) if external_ref is not None else {}


def _reference_index(visit: Visit, fields: Fields) -> dict[str, Any]:
    """Return the blind index of a reference that is about to be sealed."""
    if "external_ref" not in fields.secret:
        return {}
    reference = fields.secret["external_ref"]
    return {"external_ref_bidx": None if reference is None else visit.keys.blind(visit.caller.partner_id, "patient.external_ref", reference)}


async def record_consent(visit: Visit, patient_id: UUID, fields: Fields) -> Made:
    """Append a decision on one purpose; the newest counts. Nothing is ever overwritten."""
    row, key = await open_patient(visit, patient_id, lock=True)
    if fields.clear["decided_at"] > visit.now:
        raise Invalid(faults=[Fault("/decided_at", "lies in the future")])
    settings = await find_row(visit.connection, partner_setting)
    age = (settings or {}).get("consent_age") or AGE_OF_CONSENT
    check_guardian(fields.clear["given_by"], row["birth_year"], today_of(row["time_zone"], fields.clear["decided_at"]), age)
    return await create(visit, consent, fields, key=key, patient_id=row["id"])


async def add_clinician(visit: Visit, fields: Fields) -> Made:
    """Register a clinician by the partner's own subject id."""
    check_backend(visit)
    return await create(visit, clinician, fields)


async def get_clinician(visit: Visit, clinician_id: UUID) -> Row:
    """Return a clinician. Raises NotFound."""
    row = await find_row(visit.connection, clinician, id=clinician_id)
    if row is None:
        raise NotFound
    visit.trace.resources.append(f"clinician/{clinician_id}")
    return reveal(None, clinician, row)


async def amend_clinician(visit: Visit, clinician_id: UUID, fields: Fields) -> Row:
    """Change a clinician's subject, or whether they are active. Every token of one who leaves is refused within seconds."""
    check_backend(visit)
    row = await find_row(visit.connection, clinician, lock=True, id=clinician_id)
    if row is None:
        raise NotFound
    visit.precondition.check(row["version"])
    if "subject" in fields.clear:
        await _check_free(visit, clinician, clinician_id, subject=fields.clear["subject"])
    if fields.clear.get("active") is False:
        await revoke(visit.connection, "clinician", f"{visit.caller.partner_id}|{clinician_id}", visit.now, visit.now + TOKENS_DEAD_AFTER)
    return await amend(visit, clinician, reveal(None, clinician, row), fields)


async def add_episode(
    visit: Visit,
    patient_id: UUID,
    code: str,
    team: Mapping[str, UUID | None],
    fields: Fields,
    *,
    links: Mapping[str, Any] | None = None,
    by_lead: bool = False,
) -> Made:
    """Open a course of treatment on the newest version of a protocol, with its lead and its cover.

    `links` names a course that this one follows; opening such a one is the clinician's too (`by_lead`).
    Raises NotFound for the patient and the clinicians, ProtocolUnknown, FormatOfAnotherProtocol, CoverIsLead.
    """
    if not by_lead:
        check_backend(visit)
    row, key = await open_patient(visit, patient_id, lock=True)
    known = await known_protocol(visit, code)
    chosen_format = _format_for(known, fields.clear.get("format"))
    today = today_of(row["time_zone"], visit.now)
    check_not_future(fields.clear["referred_on"], today, "/referred_on")
    check_not_future(fields.clear.get("illness_onset_date"), today, "/illness_onset_date")
    for clinician_id in team.values():
        if clinician_id is not None:
            await _check_clinician(visit, clinician_id)
    if team["lead"] == team.get("cover"):
        raise CoverIsLead(faults=[Fault("/cover_clinician_id", "must be another clinician than the lead")])
    start = {"protocol_version": known.version, "status": "referred", "phase": "screening", **(links or {})}
    chosen = Fields({**fields.clear, "protocol_code": known.code, "format": chosen_format}, id=fields.id, derived=start)
    made = await create(visit, episode, chosen, key=key, patient_id=patient_id)
    visit.trace.episode_id = made.row["id"]
    if not made.new and not {c for c in team.values() if c} <= set(await care_roles(visit.connection, made.row["id"])):
        raise IdTaken
    if made.new:
        for role, clinician_id in team.items():
            if clinician_id is not None:
                await _join(visit, made.row, clinician_id, role)
    return made


async def known_protocol(visit: Visit, code: str) -> Protocol:
    """Return the newest version of a protocol: the partner's own, or the catalogue's. Raises ProtocolUnknown."""
    own = await rows_of(visit.connection, partner_protocol, "protocol_version", code=code)
    if own:
        return protocol_from(own[-1]["definition"], common_tasks(), origin="partner")
    try:
        return protocol(code)
    except NotFound:
        raise ProtocolUnknown(faults=[Fault("/protocol", f"{code!r} is neither in the catalogue nor registered")]) from None


def _format_for(known: Protocol, wanted: str | None) -> str:
    """Return the format of a course on a protocol: the protocol's (a mixed one is an individual course). Raises FormatOfAnotherProtocol."""
    own = "individual" if known.format == "mixed" else known.format
    if wanted not in {None, own}:
        raise FormatOfAnotherProtocol(faults=[Fault("/format", f"{known.code} is {known.format}")])
    return own


async def get_episode(visit: Visit, episode_id: UUID) -> Row:
    """Return an episode. Raises NotFound."""
    chart = await open_chart(visit, episode_id)
    visit.trace.resources.append(f"episode/{episode_id}")
    return chart.episode


async def amend_episode(visit: Visit, episode_id: UUID, fields: Fields) -> Row:
    """Change the particulars of a course (never its status or phase: those move by transitions and endings)."""
    chart = await open_chart(visit, episode_id, lock=True)
    visit.precondition.check(chart.episode["version"])
    check_not_future(fields.clear.get("illness_onset_date"), chart.today, "/illness_onset_date")
    await _check_free(visit, episode, episode_id, external_ref=fields.clear.get("external_ref"))
    return await amend(visit, episode, episode_row(chart.episode), fields, key=chart.key)


def episode_row(row: Row) -> Row:
    """Return the episode's own columns out of a chart's row."""
    return {str(c.name): row[c.name] for c in episode.c if c.name != "partner_id"}


async def join_care_team(visit: Visit, episode_id: UUID, clinician_id: UUID, role: str) -> Made:
    """Let a clinician join the care team, or change their role; a new lead replaces the old one, who stays a member."""
    chart = await open_chart(visit, episode_id, lock=True)
    await check_lead(visit, episode_id)
    await _check_clinician(visit, clinician_id)
    there = await find_row(visit.connection, care_team, episode_id=episode_id, clinician_id=clinician_id)
    if there is not None and there["role"] == role:
        return Made(reveal(None, care_team, there), new=False)
    if there is not None and there["role"] == "lead":
        raise LeadNeeded
    lead = await find_row(visit.connection, care_team, episode_id=episode_id, role="lead")
    if role == "lead" and lead is not None:
        await amend(visit, care_team, reveal(None, care_team, lead), Fields({"role": "member"}), key=chart.key)
    if there is not None:
        return Made(await amend(visit, care_team, reveal(None, care_team, there), Fields({"role": role}), key=chart.key), new=False)
    return await _join(visit, chart.episode, clinician_id, role)


async def leave_care_team(visit: Visit, episode_id: UUID, member_id: UUID) -> None:
    """Let a clinician leave the care team; the lead cannot. Raises LeadNeeded."""
    chart = await open_chart(visit, episode_id, lock=True)
    await check_lead(visit, episode_id)
    member = await get_in_chart(visit, care_team, chart, member_id, check=True)
    if member["role"] == "lead":
        raise LeadNeeded
    await remove(visit, care_team, member, chart.key)


async def _join(visit: Visit, chart_row: Row, clinician_id: UUID, role: str) -> Made:
    ties = {"patient_id": chart_row["patient_id"], "episode_id": chart_row["id"]}
    key = visit.patient_keys[chart_row["patient_id"]]
    return await create(visit, care_team, Fields({"clinician_id": clinician_id, "role": role}), key=key, **ties)


async def _check_clinician(visit: Visit, clinician_id: UUID) -> None:
    """Raise NotFound unless this is an active clinician of the partner: unknown, foreign and gone look alike."""
    row = await find_row(visit.connection, clinician, id=clinician_id)
    if row is None or not row["active"]:
        raise NotFound


async def check_lead(visit: Visit, episode_id: UUID) -> None:
    """Raise LeadDecides for a clinician who is not the lead of the episode; a partner's client may."""
    caller = visit.caller.clinician_id
    if caller is not None and (await care_roles(visit.connection, episode_id)).get(caller) != "lead":
        raise LeadDecides


async def _check_free(visit: Visit, table: Any, own_id: UUID, **reference: Any) -> None:
    """Raise ReferenceTaken when another row of the table holds a unique reference."""
    if None in reference.values():
        return
    taken = await find_row(visit.connection, table, **reference)
    if taken is not None and taken["id"] != own_id:
        raise ReferenceTaken
