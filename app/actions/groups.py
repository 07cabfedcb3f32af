"""Groups: members are episodes; one session of the group is one session of each member. No member's record names another."""

from typing import Any
from uuid import UUID

from app.actions.contacts import record_session
from app.actions.people import check_backend, known_protocol
from app.actions.records import Fields, IdTaken, Made, ReferenceTaken, amend, create, fields_for, reveal
from app.actions.visit import Chart, Visit, open_chart, public
from app.domain.errors import Conflict, Fault, Invalid, NotFound
from app.domain.people import check_not_future
from app.domain.protection import EmergencyOnly
from app.domain.techniques import check_techniques
from app.domain.workflow import DatesOutOfOrder
from app.store.database import Row
from app.store.people import group_members
from app.store.rows import find_row, rows_of
from app.store.tables.groups import group_member, group_session, therapy_group
from app.store.tables.people import clinician
from app.store.tables.work import session


class NotAGroupProtocol(Invalid):
    """This protocol is not for groups."""


class GroupFull(Conflict):
    """The group has as many members as its protocol allows."""


class MemberOfAnotherProtocol(Conflict):
    """A member's course runs on the protocol of the group."""


class GroupEnded(Conflict):
    """The group has ended."""


async def add_group(visit: Visit, values: dict[str, Any]) -> Made:
    """Form a group on a group protocol, with its lead and cover. Raises BackendOnly, ProtocolUnknown, NotAGroupProtocol, NotFound."""
    check_backend(visit)
    known = await known_protocol(visit, values.pop("protocol"))
    if known.format != "group":
        raise NotAGroupProtocol(faults=[Fault("/protocol", f"{known.code} is {known.format}")])
    for name in ("lead_clinician_id", "cover_clinician_id"):
        await _check_clinician(visit, values.get(name))
    fields = fields_for(therapy_group, {**values, "protocol_code": known.code})
    return await create(visit, therapy_group, Fields(fields.clear, id=fields.id, derived={"protocol_version": known.version, "status": "forming"}))


async def _check_clinician(visit: Visit, clinician_id: UUID | None) -> None:
    if clinician_id is not None:
        found = await find_row(visit.connection, clinician, id=clinician_id)
        if found is None or not found["active"]:
            raise NotFound


async def get_group(visit: Visit, group_id: UUID, *, lock: bool = False) -> Row:
    """Return a group that the caller leads or covers (a partner's client: any of the partner's). Raises NotFound."""
    row = await find_row(visit.connection, therapy_group, lock=lock, id=group_id)
    own = visit.caller.clinician_id
    if row is None or (own is not None and own not in {row["lead_clinician_id"], row["cover_clinician_id"]}):
        raise NotFound
    visit.trace.resources.append(f"therapy_group/{group_id}")
    return public(row)


async def amend_group(visit: Visit, group_id: UUID, values: dict[str, Any]) -> Row:
    """Change a group's leaders, its start, or its status."""
    row = await get_group(visit, group_id, lock=True)
    visit.precondition.check(row["version"])
    for name in ("lead_clinician_id", "cover_clinician_id"):
        await _check_clinician(visit, values.get(name))
    return await amend(visit, therapy_group, row, Fields(values))


async def join_group(visit: Visit, group_id: UUID, values: dict[str, Any]) -> Made:
    """Let an episode join a group. Raises GroupFull, GroupEnded, MemberOfAnotherProtocol, NotFound."""
    group = await get_group(visit, group_id, lock=True)
    chart = await open_chart(visit, values.pop("episode_id"), lock=True)
    if chart.episode["emergency_id"] is not None:
        raise EmergencyOnly
    if group["status"] == "ended":
        raise GroupEnded
    if (chart.episode["protocol_code"], chart.episode["protocol_version"]) != (group["protocol_code"], group["protocol_version"]):
        raise MemberOfAnotherProtocol
    present = await _present(visit, group_id)
    already = chart.episode_id in {m["episode_id"] for m in present}
    if already and values.get("id") is None:
        raise ReferenceTaken
    if not already:
        _check_room(chart, present)
    fields = fields_for(group_member, {**values, "joined_on": values.get("joined_on") or chart.today, "group_id": group_id})
    return await create(visit, group_member, fields, chart=chart)


async def _present(visit: Visit, group_id: UUID) -> list[Row]:
    return [m for m in await rows_of(visit.connection, group_member, group_id=group_id) if m["left_on"] is None]


def _check_room(chart: Chart, present: list[Row]) -> None:
    if len(present) >= chart.protocol.group_max:
        raise GroupFull(f"{chart.protocol.code} has {chart.protocol.group_min} to {chart.protocol.group_max} members.")


async def members_of(visit: Visit, group_id: UUID) -> list[Row]:
    """Return the members of a group, to whoever leads it: ids, no names."""
    await get_group(visit, group_id)
    rows = await group_members(visit.connection, group_id)
    visit.trace.resources += [f"group_member/{r['id']}" for r in rows]
    visit.trace.patients |= {r["patient_id"] for r in rows}
    return [public(r) for r in rows]


async def get_member(visit: Visit, group_id: UUID, member_id: UUID) -> Row:
    """Return one member of a group. Raises NotFound."""
    await get_group(visit, group_id)
    row = next((r for r in await group_members(visit.connection, group_id) if r["id"] == member_id), None)
    if row is None:
        raise NotFound
    visit.trace.patient_id = row["patient_id"]
    visit.trace.resources.append(f"group_member/{member_id}")
    return public(row)


async def amend_member(visit: Visit, group_id: UUID, member_id: UUID, values: dict[str, Any]) -> Row:
    """Record that a member agreed to confidentiality, left, or came back. Raises GroupFull, GroupEnded, DatesOutOfOrder."""
    group = await get_group(visit, group_id, lock=True)
    row = await get_member(visit, group_id, member_id)
    chart = await open_chart(visit, row["episode_id"], lock=True)
    row = await get_member(visit, group_id, member_id)
    visit.precondition.check(row["version"])
    left = values.get("left_on", row["left_on"])
    if left is not None and row["joined_on"] is not None and left < row["joined_on"]:
        raise DatesOutOfOrder(faults=[Fault("/left_on", "lies before the day of joining")])
    if row["left_on"] is not None and left is None:
        if group["status"] == "ended":
            raise GroupEnded
        _check_room(chart, await _present(visit, group_id))
    for name in ("confidentiality_agreed_on", "left_on"):
        check_not_future(values.get(name), chart.today, f"/{name}")
    return await amend(visit, group_member, row, Fields(values), key=chart.key)


async def record_group_session(visit: Visit, group_id: UUID, values: dict[str, Any]) -> tuple[Made, list[Row]]:
    """Record one session of the group: it becomes one session in each member's own record, with that member's own part only.

    Raises NotFound for an episode that is no member, and whatever recording a session raises, naming nobody else.
    """
    await get_group(visit, group_id, lock=True)
    parts = values.pop("participants")
    wanted = {p["episode_id"] for p in parts}
    day = values["starts_at"].date()
    present = {
        m["episode_id"] for m in await rows_of(visit.connection, group_member, group_id=group_id) if m["left_on"] is None or m["left_on"] >= day
    }
    if not wanted <= present or len(wanted) != len(parts):
        raise NotFound
    check_techniques([t["code"] for t in values["techniques"]])
    held = [r for r in await rows_of(visit.connection, group_session, group_id=group_id) if r["status"] == "held"]
    note = values.pop("process_note", None)
    clear = {**values, "group_id": group_id}
    if note is not None:
        visit.clinician()
    number = {"number": len(held) + 1} if values["status"] == "held" else {}
    key = visit.keys.own_key(visit.caller.partner_id)
    fields = Fields({k: v for k, v in clear.items() if k != "id"}, {"process_note": note} if note else {}, values.get("id"), number)
    made = await create(visit, group_session, fields, key=key)
    visit.trace.many = sorted(wanted)
    if not made.new:
        return made, await _sessions_again(visit, made.row["id"], wanted)
    in_order = sorted(parts, key=lambda p: p["episode_id"])  # always in one order: two groups' locks cannot cross
    rows = [await _members_session(visit, made.row, part) for part in in_order]
    visit.trace.patient_id = visit.trace.episode_id = None  # it is of several
    return made, rows


async def _members_session(visit: Visit, shared: Row, part: dict[str, Any]) -> Row:
    episode_id = part.pop("episode_id")
    attended = part["attendance"] in {"attended", "late_under_15_minutes"}
    status = shared["status"] if shared["status"] != "held" else "held" if attended else "missed"
    values = {
        "starts_at": shared["starts_at"],
        "minutes": shared["minutes"] if status == "held" else None,
        "mode": shared["mode"],
        "status": status,
        "techniques": shared["techniques"],
        "focus_areas": [],
        "strategies": [],
        "risk_asked": False,
        **part,
        "attendance": part["attendance"] if status != "scheduled" else None,
    }
    return (await record_session(visit, episode_id, values, group_session_id=shared["id"])).row


async def _sessions_again(visit: Visit, group_session_id: UUID, wanted: set[UUID]) -> list[Row]:
    """Return the members' sessions of a session that was sent again, to who may see each chart. Raises IdTaken for other participants."""
    rows = await rows_of(visit.connection, session, "created_at", group_session_id=group_session_id)
    if {r["episode_id"] for r in rows} != wanted:
        raise IdTaken
    shown = [reveal((await open_chart(visit, r["episode_id"])).key, session, r) for r in rows]
    visit.trace.patient_id = visit.trace.episode_id = None
    visit.trace.resources += [f"session/{r['id']}" for r in rows]
    return shown


async def group_sessions(visit: Visit, group_id: UUID) -> list[Row]:
    """Return the sessions of a group, without their process notes."""
    await get_group(visit, group_id)
    rows = await rows_of(visit.connection, group_session, "starts_at", group_id=group_id)
    visit.trace.resources += [f"group_session/{r['id']}" for r in rows]
    return [public(r) for r in rows]


async def process_note(visit: Visit, group_id: UUID, session_id: UUID) -> Row:
    """Return one session of a group with its process note, to a clinician who leads it. Raises ClinicianOnly, NotFound."""
    visit.clinician()
    await get_group(visit, group_id)
    row = await find_row(visit.connection, group_session, id=session_id, group_id=group_id)
    if row is None:
        raise NotFound
    visit.trace.resources.append(f"group_session/{session_id}")
    return reveal(visit.keys.own_key(visit.caller.partner_id), group_session, row)


async def write_process_note(visit: Visit, group_id: UUID, session_id: UUID, text: str) -> Row:
    """Write the process note of a group's session: about the group, apart from every member's own note."""
    await get_group(visit, group_id, lock=True)
    row = await process_note(visit, group_id, session_id)
    visit.precondition.check(row["version"])
    return await amend(visit, group_session, row, Fields({}, {"process_note": text}), key=visit.keys.own_key(visit.caller.partner_id))
