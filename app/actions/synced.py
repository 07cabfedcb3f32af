"""Which kinds of rows are synchronised, under which scope each is read, and how a state of the feed looks on the wire."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TIMESTAMP

from app.actions.records import wire_of
from app.actions.visit import STORE_ONLY
from app.keys.tokens import Caller
from app.store.tables.every import metadata

SCOPES_OF_ENTITIES = {
    "patients:read": ("patient",),
    "consents:read": ("consent",),
    "episodes:read": ("episode", "care_team", "contract", "phase_task", "phase_transition", "status_change", "medication"),
    "inventory:read": ("relationship", "life_event", "problem", "goal"),
    "classification:read": ("indicator_set", "indicator_proposal", "classification", "focus", "focus_area", "formulation"),
    "sessions:read": ("session", "addendum", "change_attempt", "analysis", "homework"),
    "sync": ("sync_conflict",),
    "assessments:read": ("assessment", "assessment_request"),
    "risk:read": ("risk_alert",),
    "termination:read": ("termination", "early_ending", "follow_up"),
    "groups:read": ("group_member",),
    "notes:read": ("session_note",),
}
SCOPE_OF = {entity: scope for scope, entities in SCOPES_OF_ENTITIES.items() for entity in entities}
FOR_PATIENTS = ("assessment", "assessment_request", "homework")
ANSWERED_BY_PATIENT = {"patient", "clinician_read_aloud"}
SEEN_ROW_BY_ROW = {"addendum", "sync_conflict"}  # for a clinician; a patient's rows are all looked at one by one
ABOUT_NOTES = {"session_note", "addendum"}
WITH_MICROSECONDS, WITHOUT_FRACTION = len("2026-01-01T00:00:00.000000+00:00"), len("2026-01-01T00:00:00+00:00")
NEVER_ON_THE_WIRE = {"deleted_at"}


def entities_for(scopes: frozenset[str], *, patient: bool) -> tuple[str, ...]:
    """Return the kinds of rows that a token with these scopes may synchronise."""
    return tuple(e for e, scope in SCOPE_OF.items() if scope in scopes and (not patient or e in FOR_PATIENTS))


def table_of(entity: str) -> sa.Table:
    """Return the table of a kind of row."""
    return metadata.tables[entity]


def is_shown(caller: Caller, entity: str, state: Mapping[str, Any]) -> bool:
    """Tell whether a person sees a row of a kind that they may synchronise.

    A patient sees what they answered or are asked to answer themselves, not what others say about them. What is said about a
    note, and an edit that was kept, need the scope of what they are about.
    """
    if caller.patient_id is not None:
        return entity == "homework" or state.get("respondent") in ANSWERED_BY_PATIENT
    if entity == "addendum":
        return state.get("subject") != "note" or "notes:read" in caller.scopes
    return entity != "sync_conflict" or state.get("entity") in conflicts_shown(caller)


def conflicts_shown(caller: Caller) -> set[str]:
    """Return the kinds of rows whose kept edits a caller sees. What may be about a note is shown to clinicians with its scope only."""
    return {
        e
        for e, scope in SCOPE_OF.items()
        if (scope if e not in ABOUT_NOTES else "notes:read") in caller.scopes and (e not in ABOUT_NOTES or caller.clinician_id is not None)
    }


def may_see(caller: Caller, entity: str, state: Mapping[str, Any]) -> bool:
    """Tell whether a row of a chart that is the caller's to see is itself theirs to see."""
    return entity in entities_for(caller.scopes, patient=caller.patient_id is not None) and is_shown(caller, entity, state)


def on_the_wire(entity: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state of the feed as HTTP shows the same row: every column there, moments in UTC with milliseconds."""
    nothing, moments = _shape(entity)
    whole = {**nothing, **state}
    for name in NEVER_ON_THE_WIRE:
        whole.pop(name, None)
    for name in moments:
        moment = whole[name]
        if isinstance(moment, str):
            whole[name] = _as_on_the_wire(moment)
    return whole


def _as_on_the_wire(moment: str) -> str:
    """Return a moment that a state keeps in UTC, with its milliseconds."""
    if moment.endswith("+00:00"):
        if len(moment) == WITH_MICROSECONDS:
            return f"{moment[:23]}Z"
        if len(moment) == WITHOUT_FRACTION:
            return f"{moment[:19]}.000Z"
    return wire_of(datetime.fromisoformat(moment))


@cache
def _shape(entity: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a row of a kind with nothing in it, and which of its members are moments."""
    columns = [c for c in table_of(entity).c if c.name not in {*STORE_ONLY, *NEVER_ON_THE_WIRE}]
    return {str(c.name): None for c in columns}, tuple(str(c.name) for c in columns if isinstance(c.type, TIMESTAMP))
