"""The facts that gates, worklist and summary look at: gathered for one course, or for many in the same few statements."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from uuid import UUID

from app.actions.records import reveal
from app.actions.scoring import score_of
from app.actions.visit import Chart, Visit, admitted
from app.domain.instruments import instrument, is_adult
from app.domain.people import today_of
from app.domain.phase import FINAL_MEASURE_WITHIN, Facts, measured_at_the_end, proposals_of, sessions_lost
from app.domain.protocols import Plan, last_session_before_the_ending, plan_for
from app.domain.scoring import change, headline
from app.domain.termination import tasks_met
from app.store.database import Row
from app.store.rows import rows_of
from app.store.tables.work import termination
from app.store.work import SCORED, find_course, gate_facts, scores

PER_WEEK = {"twice_weekly": 2.0, "weekly": 1.0, "fortnightly": 0.5, "monthly": 0.25}


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was gathered for one course: the facts, the raw counts, the record of the ending, every valid score."""

    facts: Facts
    counts: Row
    ending: Row
    totals: list[Row] = field(default_factory=list)

    @property
    def contracted(self) -> int | None:
        """Return the contracted number of sessions."""
        return self.counts["contracted_sessions"]  # type: ignore[no-any-return]


async def gather(visit: Visit, charts: Sequence[Chart]) -> dict[UUID, Gathered]:
    """Return what the rules need to know of each course, in three statements for all of them."""
    ids = [c.episode_id for c in charts]
    counts = await gate_facts(visit.connection, ids)
    endings = {r["episode_id"]: r for r in await rows_of(visit.connection, termination, episode_id=ids)}
    totals: dict[UUID, list[Row]] = {i: [] for i in ids}
    for row in await scores(visit.connection, *ids):
        totals[row["episode_id"]].append(row)
    found = {}
    for chart in charts:
        ending = endings.get(chart.episode_id)
        revealed = {} if ending is None else reveal(chart.key, termination, ending)
        own = totals[chart.episode_id]
        found[chart.episode_id] = Gathered(_facts(chart, counts[chart.episode_id], revealed, own), counts[chart.episode_id], revealed, own)
    return found


async def gather_one(visit: Visit, chart: Chart) -> Gathered:
    """Return what the rules need to know of one course."""
    return (await gather(visit, [chart]))[chart.episode_id]


async def open_course(visit: Visit, episode_id: UUID) -> tuple[Chart, Gathered]:
    """Return a chart of the caseload and what the rules need to know of it, in one statement: for reading, not for writing. Raises NotFound."""
    row = await find_course(visit.connection, episode_id, visit.caller.clinician_id)
    chart = await admitted(visit, row)
    counts = {**chart.episode, "consented": chart.episode["treatment_given"]}  # a writer asks again, behind the lock
    ending = {k.removeprefix("ending_"): v for k, v in counts.items() if k.startswith("ending_")}
    revealed = reveal(chart.key, termination, ending) if ending["id"] is not None else {}
    totals = [dict(zip(SCORED, t, strict=True)) for t in counts["scores"] or ()]
    for t in totals:
        t["answered_at"] = datetime.fromisoformat(t["answered_at"])
    return chart, Gathered(_facts(chart, counts, revealed, totals), counts, revealed, totals)


def _facts(chart: Chart, counts: Row, ending: Row, totals: list[Row]) -> Facts:
    episode = chart.episode
    symptoms = {i.code for i in chart.protocol.instruments if i.respondent == "patient" and instrument(i.code).component == "symptoms"}
    main = chart.protocol.instruments[0]
    scored = [t for t in totals if t["total"] is not None or headline(instrument(t["instrument"]), score_of(t)) is not None]
    return Facts(
        phase=episode["phase"],
        status=episode["status"],
        age_at_referral=episode["age_at_referral"],
        consented_to_treatment=bool(counts["consented"]),
        contraindications_answered=episode["contraindications"] is not None,
        contraindicated=contraindicated(chart),
        risk_screened=episode["risk_screened"],
        lead_named="lead" in counts["roles"],
        cover_named="cover" in counts["roles"],
        relationships=counts["relationships"],
        baseline_measured=symptoms <= {t["instrument"] for t in scored if _by(t) == "patient"},
        focus_decided=counts["focus_agreed"] is not None,
        focus_agreed=bool(counts["focus_agreed"]),
        formulation_told=counts["formulation_told_on"] is not None,
        contract_agreed=bool(counts["contract_agreed"]),
        sessions_held=counts["sessions_held"],
        measured_at_the_end=measured_at_the_end(
            day_of(chart, counts["last_held_at"]),
            (_day(chart, t["answered_at"]) for t in reversed(scored) if (t["instrument"], _by(t)) == (main.code, main.respondent)),
        ),
        final_assessment_excused=ending.get("final_assessment") in {"refused", "unreachable"} and bool(ending.get("final_assessment_reason")),
        responded=_responded(chart, scored),
        risk_on_hold=bool(episode["risk_hold"]),
        end_date_told=bool(ending.get("end_date_told_on")),
        follow_ups_booked=frozenset(counts["follow_ups"]),
        termination=tasks_met(ending),
        recorded=counts["tasks"],
    )


def day_of(chart: Chart, moment: datetime | None) -> date | None:
    """Return the patient's calendar day of a moment."""
    return None if moment is None else _day(chart, moment)


def _day(chart: Chart, moment: datetime) -> date:
    return today_of(chart.episode["time_zone"], moment)


def end_of_treatment(chart: Chart, last_held_at: datetime | None) -> date | None:
    """Return the last day whose scores belong to the treatment: the day it ended, or 14 days after the last session; None while it runs."""
    if chart.episode["ended_at"] is None:
        return None
    ended, last = _day(chart, chart.episode["ended_at"]), day_of(chart, last_held_at)
    return ended if last is None else max(ended, last + FINAL_MEASURE_WITHIN)


def in_treatment(chart: Chart, last_held_at: datetime | None, row: Row) -> bool:
    """Tell whether a score belongs to the treatment: no follow-up's, and not given after its end."""
    last = end_of_treatment(chart, last_held_at)
    return row["follow_up_id"] is None and (last is None or _day(chart, row["answered_at"]) <= last)


def _responded(chart: Chart, scored: list[Row]) -> bool | None:
    """Tell whether the first instrument of the protocol fell by half, or symptoms are gone; None when it cannot be told."""
    main = chart.protocol.instruments[0]
    questionnaire = instrument(main.code)
    own = [t for t in scored if t["instrument"] == questionnaire.code and t["follow_up_id"] is None and _by(t) == main.respondent]
    adult = is_adult(chart.episode["age_at_referral"])
    if not own or not adult:
        return None
    if questionnaire.remission_below is not None and own[-1]["total"] < questionnaire.remission_below:
        return True
    found = change(questionnaire, score_of(own[0]), score_of(own[-1]), adult=adult, sessions_held=0)
    return found.response if found and len(own) > 1 else None


def contraindicated(chart: Chart) -> bool:
    """Tell whether a contraindication stands that is not the very indication of the protocol."""
    return bool(set(chart.episode["contraindications"] or ()) - set(chart.protocol.indications))


def plan_of(chart: Chart, counts: Row) -> Plan | None:
    """Return the plan of phases for the contracted number of sessions; None without a contract, or with a contraindication."""
    number = counts["contracted_sessions"]
    return None if number is None or contraindicated(chart) else plan_for(chart.protocol, number, PER_WEEK[counts["frequency"]])


def proposals_for(chart: Chart, found: Gathered) -> list[str]:
    """Return what the service proposes to the clinician; nothing of it is applied by itself."""
    number = found.contracted
    if number is None:
        return []
    per_week = PER_WEEK[found.counts["frequency"]]
    left = max(0, number - found.facts.sessions_held)
    lost = sessions_lost(left, found.counts["ends_on"], chart.today, per_week)
    return proposals_of(found.facts, number, last_session_before_the_ending(chart.protocol, number, per_week), lost)


def _by(row: Row) -> str:
    return "patient" if row["respondent"] == "clinician_read_aloud" else str(row["respondent"])


def score_dates(totals: Sequence[Row]) -> dict[tuple[str, str], Any]:
    """Return when each instrument was last answered, by instrument and by whom (read aloud counts as the patient's)."""
    return {(t["instrument"], _by(t)): t["answered_at"] for t in totals}
