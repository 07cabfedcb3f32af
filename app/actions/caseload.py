"""What concerns a whole caseload: settings, protocols of the partner's own, transfer, duplicate registrations, export on exit."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from app.actions.people import CoverIsLead, check_backend, get_patient
from app.actions.protection import tell_phones
from app.actions.records import Fields, Made, amend, create, remove, reveal
from app.actions.subject import whole_chart
from app.actions.visit import Visit, open_patient, public
from app.domain.errors import Conflict, Fault, Invalid, NotFound
from app.domain.instruments import instruments
from app.domain.protocols import ProtocolInvalid, common_tasks, protocol_from, protocols
from app.store.database import Row
from app.store.people import page_patients, tied_to
from app.store.rows import find_row, rows_of
from app.store.tables.caseload import partner_protocol
from app.store.tables.door import partner_setting
from app.store.tables.people import care_team, clinician, patient

MOST_TRANSFERS = 500


class AlreadyMerged(Conflict):
    """This registration was found to be another patient's already, or another was found to be this one's."""


class CodeOfTheCatalogue(Conflict):
    """The catalogue has a protocol of this code; choose another."""


async def read_settings(visit: Visit) -> Row:
    """Return the partner's settings. Raises BackendOnly."""
    check_backend(visit)
    return public(await _settings(visit))


async def amend_settings(visit: Visit, values: dict[str, Any]) -> Row:
    """Change whom alerts go to, the crisis texts, or whether the classifier is on. Raises BackendOnly."""
    check_backend(visit)
    row = await _settings(visit, lock=True)
    visit.precondition.check(row["version"])
    if "crisis_text" in values and "default" not in values["crisis_text"]:
        raise Invalid(faults=[Fault("/crisis_text/default", "is needed: it stands in for every other language")])
    return await amend(visit, partner_setting, {**public(row), "id": visit.caller.partner_id}, Fields(values))


async def _settings(visit: Visit, *, lock: bool = False) -> Row:
    row = await find_row(visit.connection, partner_setting, lock=lock)
    if row is None:
        raise NotFound
    return row


async def register_protocol(visit: Visit, definition: Mapping[str, Any]) -> Made:
    """Register a protocol of the partner's own, checked by the same rules as the catalogue's; a code used before makes its next version.

    Raises BackendOnly, ProtocolInvalid with a pointer for each fault, CodeOfTheCatalogue.
    """
    check_backend(visit)
    code = str(definition.get("code"))
    if any(code == known for known, _ in protocols()):
        raise CodeOfTheCatalogue
    await find_row(visit.connection, partner_setting, lock=True)  # versions of one partner come one after another
    there = await rows_of(visit.connection, partner_protocol, "protocol_version", code=code)
    version = there[-1]["protocol_version"] + 1 if there else 1
    plain = {**definition, "version": version}
    built = protocol_from(plain, common_tasks(), origin="partner")
    faults = [Fault(f"/instruments/{n}/code", "is not in the catalogue") for n, i in enumerate(built.instruments) if i.code not in instruments()]
    faults += [
        Fault(f"/instruments/{n}/respondent", f"{i.code} is answered by {' or '.join(instruments()[i.code].respondents)}")
        for n, i in enumerate(built.instruments)
        if i.code in instruments() and i.respondent not in instruments()[i.code].respondents
    ]
    if faults:
        raise ProtocolInvalid(faults=faults)
    if there and {**there[-1]["definition"], "version": version} == plain:
        return Made(public(there[-1]), new=False)
    return await create(visit, partner_protocol, Fields({"code": code, "protocol_version": version, "definition": plain}))


async def transfer_caseload(visit: Visit, clinician_id: UUID, values: dict[str, Any]) -> dict[str, Any]:
    """Hand the open courses of a clinician to another: each role they hold in them. At most 500 at a time; `left` says how many remain.

    Raises BackendOnly, NotFound, and CoverIsLead where the other is in that care team already with another part.
    """
    check_backend(visit)
    to = values["to_clinician_id"]
    found = await find_row(visit.connection, clinician, id=to)
    if found is None or not found["active"] or await find_row(visit.connection, clinician, id=clinician_id) is None:
        raise NotFound
    if to == clinician_id:
        raise CoverIsLead(faults=[Fault("/to_clinician_id", "must be another clinician")])
    wanted = values.get("episode_ids")
    ties = await tied_to(visit.connection, clinician_id, wanted)
    if wanted is not None and {t["episode_id"] for t in ties} != set(wanted):
        raise NotFound
    moved = []
    for tie in ties[:MOST_TRANSFERS]:
        await _hand_over(visit, tie, to)
        moved.append(tie["episode_id"])
    return {"from_clinician_id": clinician_id, "to_clinician_id": to, "episode_ids": moved, "left": max(0, len(ties) - len(moved))}


async def _hand_over(visit: Visit, tie: Row, to: UUID) -> None:
    """Give one role to the other clinician; who handed it over leaves. One who is there already takes the higher part."""
    _, key = await open_patient(visit, tie["patient_id"])
    own = {str(c.name): tie[c.name] for c in care_team.c if c.name != "partner_id"}
    there = await find_row(visit.connection, care_team, episode_id=tie["episode_id"], clinician_id=to)
    if there is None:
        await amend(visit, care_team, own, Fields({"clinician_id": to}), key=key)
        return
    if "lead" in {tie["role"], there["role"]} and "cover" in {tie["role"], there["role"]}:
        pointer = f"is lead or cover of episode {tie['episode_id']}: name another for one of the two first"
        raise CoverIsLead(faults=[Fault("/to_clinician_id", pointer)])
    role = tie["role"] if tie["role"] in {"lead", "cover"} else there["role"]
    await remove(visit, care_team, own, key)
    await amend(visit, care_team, public(there), Fields({"role": role}), key=key)


async def merge_duplicate(visit: Visit, patient_id: UUID, duplicate_id: UUID) -> Row:
    """Say that another registration is the same person: its courses and consents count as this patient's. Nothing is re-sealed or lost.

    Raises BackendOnly, NotFound, AlreadyMerged.
    """
    check_backend(visit)
    if patient_id == duplicate_id:
        raise Invalid(faults=[Fault("/patient_id", "must be another registration")])
    for one in sorted((patient_id, duplicate_id)):
        await open_patient(visit, one, lock=True)
    row, _ = await open_patient(visit, patient_id)
    other, key = await open_patient(visit, duplicate_id)
    followers = await rows_of(visit.connection, patient, merged_into=duplicate_id)
    if row["merged_into"] is not None or other["merged_into"] is not None or followers:
        raise AlreadyMerged
    stands = {"restricted_because": row["restricted_because"] or other["restricted_because"], "legal_hold": row["legal_hold"] or other["legal_hold"]}
    for registration in (row, other):
        if stands["restricted_because"] is not None and registration["restricted_because"] is None:
            await tell_phones(visit, registration["id"], "revoke")
    if stands != {name: row[name] for name in stands}:  # what stands over one registration stands over the person
        await amend(visit, patient, reveal(visit.patient_keys[patient_id], patient, row), Fields(stands), key=visit.patient_keys[patient_id])
    return await amend(visit, patient, reveal(key, patient, other), Fields({"merged_into": patient_id, **stands}), key=key)


async def split_duplicate(visit: Visit, patient_id: UUID, duplicate_id: UUID) -> None:
    """Take a merge back: they were two people after all. Raises BackendOnly, NotFound."""
    check_backend(visit)
    other, key = await open_patient(visit, duplicate_id, lock=True)
    if other["merged_into"] != patient_id:
        raise NotFound
    visit.precondition.check(other["version"])
    await amend(visit, patient, reveal(key, patient, other), Fields({"merged_into": None}), key=key)


async def duplicates_of(visit: Visit, patient_id: UUID) -> list[Row]:
    """Return the registrations that were found to be this patient's. Raises BackendOnly."""
    check_backend(visit)
    await open_patient(visit, patient_id)
    rows = await rows_of(visit.connection, patient, merged_into=patient_id)
    return [await get_patient(visit, r["id"]) for r in rows]


async def page_of_charts(visit: Visit, after: Sequence[Any] | None, limit: int, *, with_notes: bool) -> list[Row]:
    """Return a page of whole charts for a partner that leaves: each patient with everything held of them, table by table.

    Psychotherapy notes, and addenda to them, are included for a token with their scope only. Raises BackendOnly.
    """
    check_backend(visit)
    rows = await page_patients(visit.connection, None, {}, after, limit)
    return [await whole_chart(visit, r["id"], with_notes=with_notes) for r in rows[:limit]] + rows[limit:]
