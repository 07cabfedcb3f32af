"""Import of an existing caseload, at any phase: row by row, each whole or not at all, with a dry run and a report by row.

`occurred_at`, `starts_at` and the like are when it happened; the record times say that it came now. Old answers raise no
live alarm: where the newest answer to a risk item is positive or missing, one alert asks for a review within a day.
"""

from collections.abc import Awaitable
from datetime import timedelta
from typing import Any
from uuid import UUID

from app.actions.alerts import raise_risk_alert
from app.actions.classification import open_areas
from app.actions.contacts import record_session
from app.actions.course import put_contract, put_formulation
from app.actions.inventory import add_to_chart
from app.actions.people import add_episode, add_patient, check_backend, episode_row, record_consent
from app.actions.records import Fields, Made, amend, create, fields_for
from app.actions.scoring import record_assessment
from app.actions.visit import Visit, open_chart
from app.domain.errors import Fault, NotFound, Refusal
from app.domain.instruments import instrument
from app.domain.lifecycle import check_placing
from app.domain.phase import RUNNING
from app.domain.risk import trigger_of
from app.domain.scoring import score
from app.store.database import OutOfRange, UniqueTaken
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
    if job_id is not None and await find_row(visit.connection, import_job, id=job_id) is not None:
        return await create(visit, import_job, Fields({"dry_run": dry_run, "rows": len(rows)}, id=job_id))
    report = []
    await visit.connection.script("SAVEPOINT whole_import")
    whole = visit.journal.mark()
    for number, row in enumerate(rows):
        report.append({"row": number, **await _one(visit, row)})
    if dry_run:
        await visit.connection.script("ROLLBACK TO SAVEPOINT whole_import")
        visit.journal.truncate(whole)
    visit.trace.patient_id = visit.trace.episode_id = None
    loaded = sum(1 for r in report if r["ok"])
    derived = {"status": "done", "loaded": loaded, "report": report}
    return await create(visit, import_job, Fields({"dry_run": dry_run, "rows": len(rows)}, id=job_id, derived=derived))


async def _one(visit: Visit, row: dict[str, Any]) -> dict[str, Any]:
    """Load one chart inside a savepoint; say what it became, or why it was refused."""
    mark = visit.journal.mark()
    await visit.connection.script(SAVEPOINT)
    try:
        found = await _load(visit, row)
    except (Refusal, OutOfRange, UniqueTaken) as refusal:
        await visit.connection.script(BACK)
        visit.journal.truncate(mark)
        faults = [f._asdict() for f in getattr(refusal, "faults", ())]
        detail = str(refusal) if isinstance(refusal, Refusal) else "A value is outside of what the database keeps, or is taken."
        return {"ok": False, "problem": type(refusal).__name__, "detail": detail, "errors": faults}
    await visit.connection.script(RELEASE)
    return {"ok": True, **found}


async def _load(visit: Visit, row: dict[str, Any]) -> dict[str, Any]:
    who = (await _at("/patient", add_patient(visit, fields_for(patient, row["patient"])))).row["id"]
    for n, given in enumerate(row["consents"]):
        await _at(f"/consents/{n}", record_consent(visit, who, fields_for(consent, given)))
    course = dict(row["episode"])
    placed, team = course.pop("placed"), {"lead": course.pop("lead_clinician_id"), "cover": course.pop("cover_clinician_id")}
    fields = fields_for(episode, course)
    links = {"imported": True}
    made = await _at("/episode", add_episode(visit, who, course.pop("protocol"), team, Fields(fields.clear, id=fields.id), links=links))
    episode_id = made.row["id"]
    if not made.new:
        return {"patient_id": str(who), "episode_id": str(episode_id), "new": False}
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
    for n, given in enumerate(sorted(row["sessions"], key=lambda s: s["starts_at"])):
        await _at(f"/sessions/{n}", record_session(visit, episode_id, given, imported=True))
    newest: dict[str, tuple[dict[str, Any], Any]] = {}
    for n, given in enumerate(sorted(row["assessments"], key=lambda a: a["answered_at"])):
        made, _, _ = await _at(f"/assessments/{n}", record_assessment(visit, episode_id, given, imported=True))
        newest[given["instrument"]] = (given, made.row)
    await _review_newest(visit, episode_id, newest)


async def _review_newest(visit: Visit, episode_id: UUID, newest: dict[str, tuple[dict[str, Any], Any]]) -> None:
    """Ask for a review where the newest answer to a risk item is positive or missing: of a course that runs, or of the last four weeks."""
    chart = await open_chart(visit, episode_id, lock=True)
    running = chart.episode["status"] in RUNNING
    for code, (given, made) in newest.items():
        if not running and visit.now - made["answered_at"] > RECENT:
            continue
        known = instrument(code)
        answers = {int(k): v for k, v in given["answers"].items()}
        trigger = trigger_of(known, answers, score(known, answers, age=chart.episode["age_at_referral"]))
        if trigger is not None:
            await raise_risk_alert(visit, chart, trigger, made, imported=True)


async def _place(visit: Visit, episode_id: UUID, placed: dict[str, Any]) -> None:
    """Put the course into the phase and status that it is in, as one step marked as imported."""
    chart = await open_chart(visit, episode_id, lock=True)
    check_placing(placed["phase"], placed["status"], ended=placed.get("ended_at") is not None)
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


async def _at(pointer: str, step: Awaitable[Any]) -> Any:
    """Run one step; the faults of its refusal point into the row."""
    try:
        return await step
    except Refusal as refusal:
        faults = [Fault(f"{pointer}{f.pointer}", f.detail) for f in refusal.faults] or [Fault(pointer, str(refusal))]
        refusal.faults = tuple(faults)
        raise
