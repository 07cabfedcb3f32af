"""What may be done with a patient's data, as rules: consent by purpose, restriction, legal hold, emergency access, retention.

One rule (`check_use`) stands before every chart, whichever way leads to it: HTTP, synchronisation, imports, exports.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from app.domain.errors import Conflict, Fault, Forbidden, Invalid

RESTRICTIONS = ("accuracy_contested", "processing_unlawful", "needed_for_claims", "objection_pending")  # GDPR Art. 18(1) a to d
ERASURE_REQUESTERS = ("patient", "guardian", "partner", "retention")
REVIEWS = ("awaiting_review", "reviewed")
FINDINGS = ("justified", "not_justified")

CARE = "care"  # what treatment needs
RECORD = "record"  # keeping the record true and bringing care to its end: it goes on after consent was withdrawn
SAFETY = "safety"  # risk alerts
RIGHTS = "rights"  # the person's own rights over the data
SHARING = "sharing"  # documents made to be given to others
CLIENT, CLINICIAN, PATIENT = "client", "clinician", "patient"

EMERGENCY_LASTS = timedelta(minutes=60)  # own design, as is the next figure
EMERGENCIES_A_DAY = 3
SHORTEST_REASON = 20
AGE_OF_CONSENT = 16  # GDPR Art. 8(1); a partner sets what its law says
YEARS_KEPT_MIN, YEARS_KEPT_MAX = 1, 100


class ProcessingRestricted(Forbidden):
    """The processing of this patient's data is restricted: only alerts of risk, emergency access and the person's own rights go on."""


class ConsentWithdrawn(Forbidden):
    """The patient has withdrawn consent to treatment: what took place is recorded, answers and endings are taken, nothing new is begun."""


class SharingRefused(Forbidden):
    """The patient has withdrawn consent to sharing: no document for others is made."""


class GuardianNeeded(Invalid):
    """The patient is below the age of consent: a guardian decides."""


class UnderLegalHold(Conflict):
    """The record is under a legal hold: it cannot be erased until the hold is lifted."""


class EmergencyUsedUp(Forbidden):
    """A clinician opens at most three charts by emergency access in 24 hours; the lead, or the partner's backend, can take you into the care team."""


class AlreadyInCareTeam(Conflict):
    """Every course of this patient is open to the clinician already: no emergency access is needed."""


class EmergencyOnly(Forbidden):
    """The chart is open by emergency access, which makes no lasting tie."""


class OwnReview(Forbidden):
    """Emergency access is reviewed by somebody else than the clinician who used it."""


class ReviewDone(Conflict):
    """This emergency access was reviewed already."""


def check_use(use: str, by: str, *, writes: bool, restricted: bool, emergency: bool, treatment: bool | None) -> None:
    """Hold a use of a chart against the patient's restriction and consent. `treatment`: the newest decision, None when there is none.

    `by`: who acts: the partner's `client`, a `clinician`, or the `patient`. A restriction does not bind the person it protects (their own answers
    may be a cry for help), nor the client that carries out their rights. Emergency access passes it: it protects life, is told at once, and is
    reviewed. Raises ProcessingRestricted, ConsentWithdrawn.
    """
    free = by == PATIENT or use == SAFETY or (use == RIGHTS and by == CLIENT)
    if restricted and not free and not emergency:
        raise ProcessingRestricted
    if writes and use in {CARE, SHARING} and treatment is False:
        raise ConsentWithdrawn


def check_guardian(given_by: str, birth_year: int | None, decided_on: date, age_of_consent: int) -> None:
    """Raise GuardianNeeded when a patient who is certainly below the age of consent decides alone; a birth year is all that is known."""
    if given_by == "patient" and birth_year is not None and decided_on.year - birth_year < age_of_consent:
        raise GuardianNeeded(faults=[Fault("/given_by", f"must be guardian: the patient is below {age_of_consent}")])


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a partner keeps records: years after the last course ended, and not before a minor has reached an age."""

    years: int
    minors_until_age: int | None = None
    erase: bool = False
    """Whether the worker erases what is due; else it is only listed."""


def kept_until(policy: Retention, ended_on: date, birth_year: int | None) -> date:
    """Return the last day on which a record must be kept: the later of both limits; with a birth year alone, the end of that year."""
    last = _years_after(ended_on, policy.years)
    if policy.minors_until_age is not None and birth_year is not None:
        last = max(last, date(birth_year + policy.minors_until_age, 12, 31))
    return last


def _years_after(day: date, years: int) -> date:
    try:
        return day.replace(year=day.year + years)
    except ValueError:  # the 29th of February
        return date(day.year + years, 3, 1)
