"""The ending: which tasks its record meets, reasons to consider maintenance, unplanned endings, follow-up."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from app.domain.instruments import Instrument
from app.domain.scoring import Score, change, headline

UNPLANNED_REASONS = [
    "dropped_out_no_contact",
    "moved",
    "better_enough",
    "not_helpful",
    "practical",
    "therapist_left",
    "service_limit",
    "stepped_up",
    "crisis_admission",
    "safeguarding",
    "declined_focus",
    "technical",
    "deceased",
    "unknown",
]
UNPLANNED_TASKS = ("contact_attempted_twice", "risk_checked_by_clinician", "letter_sent", "last_measure_carried")
MAINTENANCE_REASONS = (
    "three_or_more_lifetime_episodes",
    "residual_symptoms",
    "early_relapse_history",
    "chronic_interpersonal_stressor",
    "patient_wish",
)
MAINTENANCE_CAUTION = "Maintenance IPT alone is weaker when remission needed medication (Frank et al. 2007)."
RESIDUAL = (5, 9)  # PHQ-9 at the end; own design
EPISODES_FOR_MAINTENANCE = 3  # own design
FOLLOW_UP_MONTHS = (3, 6, 12)  # Source: the founding description for 3 and 6; 12 is optional
MONTHS_IN_A_YEAR = 12
LAST_DAY_OF_EVERY_MONTH = 28


@dataclass(frozen=True, slots=True)
class FollowUpFinding:
    """What a follow-up shows against the end of treatment; positive `points` mean further improvement."""

    points: float
    relapse: bool | None
    late_reliable_improvement: bool | None


def tasks_met(record: Mapping[str, object]) -> dict[str, bool]:
    """Return which termination tasks the record of the ending meets. A part that is empty meets nothing."""
    return {
        "end_date_named": bool(record.get("end_date") and record.get("end_date_told_on")),
        "ending_as_loss_explored": bool(record.get("ending_as_loss")),
        "symptoms_compared": bool(record.get("symptoms_compared")),
        "gains_credited": bool(record.get("gains")),
        "remaining_problems_reviewed": record.get("remaining_problems") is not None,
        "warning_signs_listed": bool(record.get("warning_signs")),
        "contingency_plan_made": bool(record.get("contingency_plan")),
        "maintenance_decided": bool(record.get("maintenance_decision")),
        "alternative_offered": bool(record.get("alternative_offered")),
    }


def maintenance_reasons(last_total: int | None, lifetime_episodes: int | None, declared: tuple[str, ...]) -> list[str]:
    """Return the reasons to consider maintenance: a list for the clinician, not a verdict. Own design."""
    reasons = set(declared)
    if last_total is not None and RESIDUAL[0] <= last_total <= RESIDUAL[1]:
        reasons.add("residual_symptoms")
    if lifetime_episodes is not None and lifetime_episodes >= EPISODES_FOR_MAINTENANCE:
        reasons.add("three_or_more_lifetime_episodes")
    return [r for r in MAINTENANCE_REASONS if r in reasons]


def follow_up_due(ended_on: date, months: int) -> date:
    """Return the day `months` after the end; a day that the month lacks becomes its 28th."""
    month = ended_on.month - 1 + months
    year, month = ended_on.year + month // MONTHS_IN_A_YEAR, month % MONTHS_IN_A_YEAR + 1
    try:
        return ended_on.replace(year=year, month=month)
    except ValueError:
        return ended_on.replace(year=year, month=month, day=LAST_DAY_OF_EVERY_MONTH)


def follow_up_finding(questionnaire: Instrument, at_end: Score, at_follow_up: Score, *, adult: bool) -> FollowUpFinding | None:
    """Compare a follow-up total with the last one in treatment; None when either has no total.

    Relapse: a case again after having been none at the end. Gains may still grow: they often peak 3 to 6 months
    after the end (the founding description).
    """
    found = change(questionnaire, at_end, at_follow_up, adult=adult, sessions_held=0)
    before, after = headline(questionnaire, at_end), headline(questionnaire, at_follow_up)
    if found is None or before is None or after is None:
        return None
    cut = questionnaire.caseness
    relapse = before < cut <= after if adult and cut is not None and questionnaire.lower_is_better else None
    return FollowUpFinding(found.points, relapse, (found.reliable == "improvement") if adult and found.reliable != "not_assessable" else None)
