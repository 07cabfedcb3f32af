"""Phases of a course and the gates between them: plain facts in, unmet conditions out.

Screening, initial, middle, termination, follow_up. A gate never stands in the way of care: sessions, answers and alerts
are recorded in every phase. It only says what is still owed, and a clinician may pass it with a reason.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from app.domain.errors import Conflict, Fault, Forbidden, Invalid, Unmet
from app.domain.instruments import ADULT_AGE
from app.domain.protocols import Protocol, Task
from app.domain.risk import ClinicianOnly

RUNNING = {"referred", "active", "paused"}
RELATIONSHIPS_IN_A_TAKEN_INVENTORY = 3  # own design
FINAL_MEASURE_WITHIN = timedelta(days=14)  # own design
FOLLOW_UPS = {3, 6}  # months; the founding description: gains often peak 3 to 6 months after the end
CLINICIANS_COMMAND = {"termination", "follow_up"}  # beginning and completing the ending: proposed by the service, commanded by a clinician
NOTICE_OF_THE_END_SESSIONS = 2  # Weissman, Markowitz and Klerman 2000: speak of the end 2 to 4 sessions before
MET, WAIVED, OWED = "done", "waived", "owed"


class PhaseGateShut(Conflict):
    """The gate to this phase has unmet conditions."""


class PhaseNotNext(Conflict):
    """This phase does not follow the present one."""


class EpisodeNotRunning(Conflict):
    """The course has ended."""


class TaskMetByFact(Conflict):
    """This task is met by what is recorded elsewhere, and cannot be ticked by hand."""


class ReasonMissing(Invalid):
    """A reason is needed."""


class OverrideByClinicianOnly(Forbidden):
    """Passing a gate needs a token that acts for a clinician."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the gates look at. Counts are of this episode; dates are the patient's calendar."""

    phase: str
    status: str
    age_at_referral: int | None
    consented_to_treatment: bool
    contraindications_answered: bool
    contraindicated: bool
    risk_screened: bool
    lead_named: bool
    cover_named: bool
    relationships: int
    baseline_measured: bool
    focus_decided: bool
    focus_agreed: bool
    formulation_told: bool
    contract_agreed: bool
    sessions_held: int
    measured_at_the_end: bool
    final_assessment_excused: bool
    responded: bool | None
    risk_on_hold: bool
    end_date_told: bool
    follow_ups_booked: frozenset[int]
    termination: Mapping[str, bool]
    recorded: Mapping[str, str]
    """Tasks recorded by hand: task code to `done` or `waived`."""


def task_status(task: Task, facts: Facts) -> str:
    """Return `done`, `waived` or `owed` for one task of the protocol."""
    met = {
        "relationships": facts.relationships >= RELATIONSHIPS_IN_A_TAKEN_INVENTORY,
        "assessments": facts.baseline_measured,
        "focus": facts.focus_decided,
        "formulation": facts.formulation_told,
        "contract": facts.contract_agreed,
        "follow_ups": facts.follow_ups_booked >= FOLLOW_UPS,
        "termination": facts.termination.get(task.code, False),
        "record": facts.recorded.get(task.code) == MET,
    }[task.met_by]
    return MET if met else WAIVED if facts.recorded.get(task.code) == WAIVED else OWED


def check_task_record(task: Task, status: str, reason: str, *, by_clinician: bool) -> None:
    """Refuse a record of a task that a fact must meet, one that no clinician makes, and a waiver without a reason.

    Raises TaskMetByFact, ClinicianOnly, ReasonMissing, OverrideByClinicianOnly.
    """
    if status == MET and task.met_by != "record":
        raise TaskMetByFact(f"{task.code} is met by: {task.met_by}. It may be waived by a clinician with a reason.")
    if status == MET and not by_clinician:
        raise ClinicianOnly
    if status == WAIVED and not reason.strip():
        raise ReasonMissing(faults=[Fault("/reason", "a waiver needs a reason")])
    if status == WAIVED and not by_clinician:
        raise OverrideByClinicianOnly


def unmet_conditions(to: str, facts: Facts, protocol: Protocol) -> list[Unmet]:
    """Return every condition of the gate into `to` that does not hold."""
    gate = {"initial": _into_initial, "middle": _into_middle, "termination": _into_termination, "follow_up": _into_follow_up}[to]
    return gate(facts, protocol)


def check_transition(to: str, facts: Facts, protocol: Protocol, *, reason: str, by_clinician: bool) -> list[Unmet]:
    """Return the conditions that a clinician's override passes over (none: the gate was open).

    Raises EpisodeNotRunning, PhaseNotNext, ClinicianOnly, PhaseGateShut with every unmet condition,
    OverrideByClinicianOnly.
    """
    if facts.status not in RUNNING:
        raise EpisodeNotRunning(f"The status is {facts.status}.")
    if protocol.phase_after(facts.phase) != to:
        raise PhaseNotNext(f"After {facts.phase} comes {protocol.phase_after(facts.phase) or 'nothing'}.")
    if to in CLINICIANS_COMMAND and not by_clinician:
        raise ClinicianOnly
    unmet = unmet_conditions(to, facts, protocol)
    if unmet and not reason.strip():
        raise PhaseGateShut(f"Unmet conditions: {len(unmet)}. A clinician may override them with a reason.", unmet=unmet)
    if unmet and not by_clinician:
        raise OverrideByClinicianOnly(unmet=unmet)
    return unmet


def _into_initial(facts: Facts, protocol: Protocol) -> list[Unmet]:
    own = "own design"
    age = facts.age_at_referral
    wanted = [
        (facts.consented_to_treatment, "consent_recorded", "Consent to treatment is recorded.", own),
        (
            age is not None and protocol.age_min <= age <= protocol.age_max,
            "age_fits_protocol",
            f"The age at referral is known and lies from {protocol.age_min} to {protocol.age_max}.",
            own,
        ),
        (facts.contraindications_answered, "contraindications_answered", "The list of contraindications is answered.", own),
        (facts.risk_screened, "risk_screened", "Risk is screened.", own),
        (facts.lead_named, "lead_named", "A lead clinician is named.", "own design"),
        (facts.cover_named, "cover_named", "A covering clinician is named (care team, role cover).", "own design"),
    ]
    return [Unmet(code, text, source) for met, code, text, source in wanted if not met]


def _into_middle(facts: Facts, protocol: Protocol) -> list[Unmet]:
    if "initial" not in protocol.phases:
        return _into_initial(facts, protocol)  # no phase of its own comes between
    unmet = _owed_tasks("initial", facts, protocol)
    if facts.focus_decided and not facts.focus_agreed:
        unmet.append(Unmet("patient_agreed_to_focus", "The patient agrees to the focus.", "own design"))
    if facts.sessions_held < protocol.initial_sessions_min:
        text = f"At least {protocol.initial_sessions_min} sessions are held ({facts.sessions_held} so far)."
        unmet.append(Unmet("initial_sessions_held", text, f"protocol {protocol.code} v{protocol.version}"))
    return unmet


def _into_termination(facts: Facts, protocol: Protocol) -> list[Unmet]:
    """Return nothing: the ending is a clinician's command, and what is missing then is shown as a flag."""
    del facts, protocol
    return []


def _into_follow_up(facts: Facts, protocol: Protocol) -> list[Unmet]:
    unmet = _owed_tasks("termination", facts, protocol)
    if not (facts.measured_at_the_end or facts.final_assessment_excused):
        text = "A final measure lies within 14 days of the last session held, or is recorded as refused or unreachable."
        unmet.append(Unmet("final_measure_taken", text, "own design"))
    adult = facts.age_at_referral is None or facts.age_at_referral >= ADULT_AGE  # what counts as response is not established under 18
    if adult and facts.responded is not True and task_status(protocol.task("alternative_offered"), facts) == OWED:
        text = "The patient has not responded, as far as measured: another treatment is offered."
        unmet.append(Unmet("alternative_offered", text, "The Guide to IPT, chapter 9"))
    return unmet


def measured_at_the_end(last_held_on: date | None, measured_on: Iterable[date]) -> bool:
    """Tell whether a whole final measure lies within 14 days of the last session held."""
    return last_held_on is not None and any(abs(day - last_held_on) <= FINAL_MEASURE_WITHIN for day in measured_on)


def _owed_tasks(phase: str, facts: Facts, protocol: Protocol) -> list[Unmet]:
    return [
        Unmet(task.code, f"{task.title}.", task.source)
        for task in protocol.tasks
        if task.phase == phase and task.gate and task_status(task, facts) == OWED
    ]


def flags_of(facts: Facts, protocol: Protocol, contracted: int | None, end_told_at_session: int | None) -> list[str]:
    """Return what a clinician should see and nothing refuses.

    A contraindication, a long beginning, no contract, an overrun, and the notice of the end: due with two sessions left,
    late when it was told with fewer.
    """
    flags = ["contraindication_recorded"] if facts.contraindicated else []
    if facts.phase == "initial" and facts.sessions_held > protocol.initial_sessions_max:
        flags.append("initial_phase_long")
    if contracted is None:
        return [*flags, "contract_missing"] if facts.phase in {"middle", "termination"} else flags
    if facts.sessions_held > contracted:
        flags.append("sessions_beyond_contract")
    if facts.phase in {"middle", "termination"}:
        if end_told_at_session is None and contracted - facts.sessions_held <= NOTICE_OF_THE_END_SESSIONS:
            flags.append("notice_of_the_end_due")
        if end_told_at_session is not None and contracted - end_told_at_session < NOTICE_OF_THE_END_SESSIONS:
            flags.append("notice_of_the_end_late")
    return flags


def proposals_of(facts: Facts, contracted: int | None, last_before_ending: int | None, lost: int) -> list[str]:
    """Return proposals, which are never applied by themselves; a contraindication, and risk on hold, stop automatic planning.

    `start_termination` when the sessions before the ending are used up, `tell_the_end_date` when two of them are left and
    it was not told, `amend_contract` when the contract is overrun, `make_up_lost_sessions` when the sessions left no
    longer fit before the agreed end date (`lost` of them). Own design; the notice of the end: Weissman, Markowitz and Klerman 2000.
    """
    if facts.contraindicated or facts.risk_on_hold or contracted is None or last_before_ending is None:
        return []
    found = ["amend_contract"] if facts.sessions_held > contracted else []
    if facts.phase == "middle" and not found and facts.sessions_held >= last_before_ending:
        found.append("start_termination")
    near = last_before_ending - facts.sessions_held <= NOTICE_OF_THE_END_SESSIONS
    if facts.phase in {"middle", "termination"} and near and not facts.end_date_told:
        found.append("tell_the_end_date")
    if facts.phase in {"initial", "middle", "termination"} and lost > 0:
        found.append("make_up_lost_sessions")
    return found


def sessions_lost(left: int | None, ends_on: date | None, today: date, per_week: float) -> int:
    """Return how many of the sessions left no longer fit before the agreed end date at the agreed frequency."""
    if left is None or ends_on is None:
        return 0
    fit = 0 if ends_on < today else int((ends_on - today).days / 7 * per_week) + 1
    return max(0, left - fit)
