"""Which kinds of rows are synchronised, under which scope each is read, and how a state of the feed looks on the wire."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from app.actions.wire import whole
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
    """Return a state of the feed as HTTP shows the same row."""
    return whole(table_of(entity), state)
