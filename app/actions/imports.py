"""Import of an existing caseload, at any phase: row by row, each whole or not at all, with a dry run and a report by row.

`occurred_at`, `starts_at` and the like are when it happened; the record times say that it came now. Old answers raise no
live alarm: where the newest answer to a risk item is positive or missing, one alert asks for a review within a day.
"""

import hmac
from collections.abc import Awaitable, Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from app.actions.alerts import raise_risk_alert
from app.actions.classification import check_areas, open_areas
from app.actions.contacts import record_session
from app.actions.course import put_contract, put_formulation
from app.actions.inventory import add_to_chart
from app.actions.people import add_episode, add_patient, check_backend, episode_row, record_consent
from app.actions.records import Fields, IdTaken, Made, amend, create, fields_for
from app.actions.scoring import record_assessment
from app.actions.visit import Visit, open_chart, public
from app.domain.errors import Fault, Invalid, NotFound, Refusal
from app.domain.instruments import instrument
from app.domain.lifecycle import check_placing
from app.domain.phase import RUNNING
from app.domain.risk import trigger_of
from app.domain.scoring import score
from app.store.database import OutOfRange, UniqueTaken
from app.store.idempotency import hold_for_transaction
from app.store.rows import find_row
from app.store.tables.caseload import import_job
from app.store.tables.inventory import goal, life_event, problem, relationship
from app.store.tables.people import clinician, consent, episode, patient
from app.store.tables.work import focus, phase_transition

PLACED = "imported"
RECENT = timedelta(days=28)  # own design: an answer of an ended course that somebody should still look at
SAVEPOINT, RELEASE, BACK = "SAVEPOINT import_row", "RELEASE SAVEPOINT import_row", "ROLLBACK TO SAVEPOINT import_row"


async def run_import(visit: Visit, rows: list[dict[str, Any]], *, dry_run: bool, job_id: UUID | None = None) -> Made:
    """Load charts one by one and keep the report. A row that breaks a rule is refused whole, with its faults; the others are loaded.

    A dry run does everything and keeps nothing but the report. Raises BackendOnly.
    """
    check_backend(visit)
    content = hmac.digest(visit.keys.derived("import"), orjson.dumps([dry_run, rows], default=str), "sha256")
    given = Fields({"dry_run": dry_run, "rows": len(rows), "digest": content}, id=job_id)
    if job_id is not None:  # whoever sends it again at the same moment waits, and finds the report
        await hold_for_transaction(visit.connection, f"import|{visit.caller.partner_id}|{job_id}")
        there = await find_row(visit.connection, import_job, id=job_id)
        if there is not None:
            if there["digest"] != content:
                raise IdTaken
            return Made(public(there), new=False)
    report = []
    traced = len(visit.trace.resources)
    await visit.connection.script("SAVEPOINT whole_import")
    whole = visit.journal.mark()
    for number, row in enumerate(rows):
        report.append({"row": number, **await _one(visit, row)})
    if dry_run:
        await visit.connection.script("ROLLBACK TO SAVEPOINT whole_import")
        visit.journal.truncate(whole)
        del visit.trace.resources[traced:]
    visit.trace.patient_id = visit.trace.episode_id = None
    loaded = sum(1 for r in report if r["ok"])
    derived = {"status": "done", "loaded": loaded, "report": report}
    return await create(visit, import_job, Fields(given.clear, id=job_id, derived=derived))


async def _one(visit: Visit, row: dict[str, Any]) -> dict[str, Any]:
    """Load one chart inside a savepoint; say what it became, or why it was refused."""
    mark, traced = visit.journal.mark(), len(visit.trace.resources)
    await visit.connection.script(SAVEPOINT)
    try:
        found = await _load(visit, row)
    except (Refusal, OutOfRange, UniqueTaken) as refusal:
        await visit.connection.script(BACK)
        visit.journal.truncate(mark)
        del visit.trace.resources[traced:]
        faults = [f._asdict() for f in getattr(refusal, "faults", ())]
        detail = str(refusal) if isinstance(refusal, Refusal) else "A value is outside of what the database keeps, or is taken."
        return {"ok": False, "problem": type(refusal).__name__, "detail": detail, "errors": faults}
    await visit.connection.script(RELEASE)
    return {"ok": True, **found}


async def _load(visit: Visit, row: dict[str, Any]) -> dict[str, Any]:
    who = (await _at("/patient", add_patient(visit, fields_for(patient, row["patient"])))).row["id"]
    course = dict(row["episode"])
    placed, team = course.pop("placed"), {"lead": course.pop("lead_clinician_id"), "cover": course.pop("cover_clinician_id")}
    fields = fields_for(episode, course)
    links = {"imported": True}
    made = await _at("/episode", add_episode(visit, who, course.pop("protocol"), team, Fields(fields.clear, id=fields.id), links=links))
    episode_id = made.row["id"]
    if not made.new:
        return {"patient_id": str(who), "episode_id": str(episode_id), "new": False}
    for n, given in enumerate(row["consents"]):
        await _at(f"/consents/{n}", record_consent(visit, who, fields_for(consent, given)))
    await _inventory(visit, episode_id, row)
    await _at("/episode", _place(visit, episode_id, placed))
    if row["focus"] is not None:
        await _at("/focus", _decided(visit, episode_id, row["focus"], team["lead"]))
    await _sessions(visit, episode_id, row)
    return {"patient_id": str(who), "episode_id": str(episode_id), "new": True}


async def _inventory(visit: Visit, episode_id: UUID, row: dict[str, Any]) -> None:
    for name, table in (("relationships", relationship), ("life_events", life_event), ("problems", problem), ("goals", goal)):
        for n, given in enumerate(row[name]):
            await _at(f"/{name}/{n}", add_to_chart(visit, table, episode_id, given, imported=True))
    for name, put in (("formulation", put_formulation), ("contract", put_contract)):
        if row[name] is not None:
            await _at(f"/{name}", put(visit, episode_id, row[name]))


async def _sessions(visit: Visit, episode_id: UUID, row: dict[str, Any]) -> None:
    for n, given in sorted(enumerate(row["sessions"]), key=lambda pair: pair[1]["starts_at"]):
        await _at(f"/sessions/{n}", record_session(visit, episode_id, given, imported=True))
    newest: dict[tuple[str, str], list[tuple[dict[str, Any], Any]]] = {}
    for n, given in sorted(enumerate(row["assessments"]), key=lambda pair: pair[1]["answered_at"]):
        made, _, _ = await _at(f"/assessments/{n}", record_assessment(visit, episode_id, given, imported=True))
        same = newest.setdefault((given["instrument"], given["respondent"]), [])
        if same and same[0][0]["answered_at"] < given["answered_at"]:
            same.clear()
        same.append((given, made.row))  # of the same moment, each counts
    await _review_newest(visit, episode_id, [pair for pairs in newest.values() for pair in pairs])


async def _review_newest(visit: Visit, episode_id: UUID, newest: Iterable[tuple[dict[str, Any], Any]]) -> None:
    """Ask for a review where the newest answer to a risk item is positive or missing: of a course that runs, or of the last four weeks."""
    chart = await open_chart(visit, episode_id, lock=True)
    running = chart.episode["status"] in RUNNING
    for given, made in newest:
        if not running and visit.now - made["answered_at"] > RECENT:
            continue
        known = instrument(given["instrument"])
        answers = {int(k): v for k, v in given["answers"].items()}
        trigger = trigger_of(known, answers, score(known, answers, age=chart.episode["age_at_referral"]))
        if trigger is not None:
            await raise_risk_alert(visit, chart, trigger, made, imported=True)


async def _place(visit: Visit, episode_id: UUID, placed: dict[str, Any]) -> None:
    """Put the course into the phase and status that it is in, as one step marked as imported."""
    chart = await open_chart(visit, episode_id, lock=True)
    check_placing(placed["phase"], placed["status"], ended=placed.get("ended_at") is not None)
    _check_past(visit, {f"/placed/{name}": placed.get(name) for name in ("since", "ended_at")})
    fields = {"phase": placed["phase"], "status": placed["status"], "ended_at": placed.get("ended_at")}
    if placed["status"] == "closed":
        fields["ended_as"] = "completed" if placed["phase"] == "follow_up" else "ended_early"
    await amend(visit, episode, episode_row(chart.episode), Fields(fields), key=chart.key)
    if placed["phase"] != "screening":
        step = {
            "from_phase": "screening",
            "to_phase": placed["phase"],
            "occurred_at": placed["since"],
            "overridden": [{"code": PLACED, "detail": "Placed by an import.", "source": "import"}],
            "decided_by": None,
        }
        await create(visit, phase_transition, Fields(step), chart=chart)


async def _decided(visit: Visit, episode_id: UUID, decision: dict[str, Any], lead: UUID) -> None:
    """Keep a decision on the focus that was made elsewhere."""
    chart = await open_chart(visit, episode_id, lock=True)
    check_areas(chart)
    _check_past(visit, {"/decided_at": decision["decided_at"]})
    if decision["primary"] == decision["secondary"]:
        raise Invalid(faults=[Fault("/secondary", "must differ from the primary area")])
    decided_by = decision.get("decided_by") or lead
    if await find_row(visit.connection, clinician, id=decided_by) is None:
        raise NotFound
    fields = {
        "primary_area": decision["primary"],
        "secondary_area": decision["secondary"],
        "patient_agreed": decision["patient_agreed"],
        "agrees_with_suggestion": None,
        "classification_id": None,
        "decided_by": decided_by,
        "decided_at": decision["decided_at"],
        "flags": [PLACED],
    }
    await create(visit, focus, Fields(fields, {"reason": decision["reason"]}), chart=chart)
    places = {decision["primary"]: "primary"} | ({decision["secondary"]: "secondary"} if decision["secondary"] else {})
    await open_areas(visit, chart, places)


def _check_past(visit: Visit, moments: dict[str, datetime | None]) -> None:
    faults = [Fault(pointer, "lies in the future") for pointer, moment in moments.items() if moment is not None and moment > visit.now]
    if faults:
        raise Invalid(faults=faults)


async def _at(pointer: str, step: Awaitable[Any]) -> Any:
    """Run one step; the faults of its refusal point into the row."""
    try:
        return await step
    except Refusal as refusal:
        faults = [Fault(f"{pointer}{f.pointer}", f.detail) for f in refusal.faults] or [Fault(pointer, str(refusal))]
        refusal.faults = tuple(faults)
        raise
