"""Psychotherapy notes under a scope of their own, and addenda: what was learnt later, beside a record that stays as it was."""

from typing import Annotated, Literal
from uuid import UUID

import sqlalchemy as sa
from pydantic import Field

from app.actions.records import reveal
from app.actions.visit import open_chart
from app.actions.workflow import add_addendum, note_of, read_note, write_note
from app.api.inventory import read_one
from app.api.pages import Cursor, Limit
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Flag, In, InChart, Moment, NewId, Out, Prose
from app.domain.errors import NotFound
from app.domain.protection import RECORD
from app.store.database import Row
from app.store.rows import own, page
from app.store.tables.workflow import addendum

router = Router(prefix="/v1/episodes/{episode_id}", route_class=Route, tags=["notes"])


class NoteIn(In):
    """The psychotherapy note of a session. It is never in a list, a summary, a feed's content or an analysis."""

    text: Prose
    sign: Flag = Field(False, description="Closes the note: later additions are addenda")


class NoteOut(InChart):
    """A psychotherapy note."""

    session_id: UUID
    author_id: UUID
    signed_at: Moment | None
    text: str


class AddendumIn(In):
    """An addition to a record that stays as it was."""

    id: NewId = None
    subject: Literal["session", "assessment"]
    subject_id: UUID
    text: Prose


class NoteAddendumIn(In):
    """An addition to a note."""

    id: NewId = None
    text: Prose


class AddendumOut(InChart):
    """An addendum."""

    subject: str
    subject_id: UUID
    written_by: UUID | None
    text: str


class AddendumPage(Out):
    """A page of addenda."""

    items: list[AddendumOut]
    next: str | None


@router.get("/sessions/{session_id}/note", response_model=NoteOut)
async def read_session_note(call: Annotated[Call, needs("notes:read", use=RECORD)], episode_id: UUID, session_id: UUID) -> Row:
    """Read the note of a session. Needs a token that acts for a clinician of the care team."""
    return call.stored(await read_note(call.visit, episode_id, session_id))


@router.put("/sessions/{session_id}/note", response_model=NoteOut)
async def write_session_note(call: Annotated[Call, needs("notes:write", use=RECORD)], episode_id: UUID, session_id: UUID, note_in: NoteIn) -> Row:
    """Write the note of a session, as its author; signing closes it. Every version is kept."""
    return call.made(await write_note(call.visit, episode_id, session_id, note_in.text, sign=note_in.sign))


@router.post("/sessions/{session_id}/note/addenda", status_code=201, response_model=AddendumOut)
async def create_note_addendum(
    call: Annotated[Call, needs("notes:write", use=RECORD)], episode_id: UUID, session_id: UUID, addendum_in: NoteAddendumIn
) -> Row:
    """Add to a note."""
    return call.made(await add_addendum(call.visit, episode_id, "note", session_id, addendum_in.members()))


@router.get("/sessions/{session_id}/note/addenda", response_model=AddendumPage)
async def list_note_addenda(
    call: Annotated[Call, needs("notes:read", use=RECORD)], episode_id: UUID, session_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Row:
    """List what was added to a note."""
    call.visit.clinician()
    note = await note_of(call.visit, await open_chart(call.visit, episode_id), session_id)
    return await _addenda(call, episode_id, [addendum.c.subject == "note", addendum.c.subject_id == note["id"]], limit, cursor)


@router.post("/addenda", status_code=201, response_model=AddendumOut)
async def create_addendum(call: Annotated[Call, needs("sessions:write", use=RECORD)], episode_id: UUID, addendum_in: AddendumIn) -> Row:
    """Add to a session or an assessment what was learnt later."""
    values = addendum_in.members()
    made = await add_addendum(call.visit, episode_id, values.pop("subject"), values.pop("subject_id"), values)
    return call.made(made, f"/v1/episodes/{episode_id}/addenda/{{id}}")


@router.get("/addenda", response_model=AddendumPage)
async def list_addenda(
    call: Annotated[Call, needs("sessions:read", use=RECORD)],
    episode_id: UUID,
    subject_id: UUID | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Row:
    """List addenda to sessions and assessments."""
    wanted = [addendum.c.subject != "note", *([addendum.c.subject_id == subject_id] if subject_id else [])]
    return await _addenda(call, episode_id, wanted, limit, cursor, subject_id)


@router.get("/addenda/{addendum_id}", response_model=AddendumOut)
async def read_addendum(call: Annotated[Call, needs("sessions:read", use=RECORD)], episode_id: UUID, addendum_id: UUID) -> Row:
    """Read one addendum to a session or an assessment; those to notes are read beside the note."""
    row = await read_one(call, addendum, episode_id, addendum_id)
    if row["subject"] == "note":
        raise NotFound
    return row


async def _addenda(
    call: Call, episode_id: UUID, wanted: list[sa.ColumnElement[bool]], limit: int, cursor: str | None, subject_id: UUID | None = None
) -> Row:
    chart = await open_chart(call.visit, episode_id)
    pager = call.pager(limit, cursor, {"subject_id": subject_id})
    query = sa.select(addendum).where(own(call.visit.connection, addendum), addendum.c.episode_id == episode_id, *wanted)
    items, following = pager.cut(await page(call.visit.connection, query, [addendum.c.id], pager.after, limit), "id")
    call.saw(items, "addendum")
    return {"items": [reveal(chart.key, addendum, r) for r in items], "next": following}
