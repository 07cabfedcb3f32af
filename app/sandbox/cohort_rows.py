"""A synthetic course as rows of the tables: the patient, the course, its people, sessions, questionnaires, ending and follow-ups."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from random import Random
from typing import Any
from uuid import UUID

from app.domain.instruments import instrument, is_adult
from app.domain.scoring import score
from app.keys.cipher import KeyRing, PatientKey, place_of
from app.sandbox.cohort import SyntheticCourse

VARIANTS = 24
PEOPLE = (("spouse_partner", "partner"), ("parent", "mother"), ("sibling", "brother"), ("friend", "old friend"))
EVENTS = {"grief": "death", "role_dispute": "separation", "role_transition": "retirement", "interpersonal_deficits": "relocation"}
WORDS = {
    "grief": "Since the death little has had a place for you, and there was nobody to mourn with.",
    "role_dispute": "You and your partner want different things, and the talking has stopped.",
    "role_transition": "The old role is gone, the new one is not yet yours.",
    "interpersonal_deficits": "It has been hard to keep people close, and being alone weighs on you.",
}
REASONS = ("dropped_out_no_contact", "practical", "better_enough", "not_helpful", "moved")

COLUMNS = {
    "patient": ("partner_id", "id", "birth_year", "sex", "locale", "time_zone", "legal_hold", "version", "created_at", "updated_at"),
    "patient_key": ("partner_id", "patient_id", "key_version", "wrapped", "created_at"),
    "consent": (
        *("partner_id", "id", "patient_id", "purpose", "given", "wording", "language", "given_by", "decided_at", "version"),
        *("created_at", "updated_at"),
    ),
    "episode": (
        *("partner_id", "id", "patient_id", "protocol_code", "protocol_version", "format", "status", "phase", "referred_on", "age_at_referral"),
        *("illness_onset_date", "illness_onset_precision", "lifetime_episodes", "concurrent_medication", "diagnoses", "contraindications"),
        *("risk_screened", "ended_at", "version", "created_at", "updated_at"),
    ),
    "care_team": ("partner_id", "id", "patient_id", "episode_id", "clinician_id", "role", "version", "created_at", "updated_at"),
    "relationship": (
        *("partner_id", "id", "patient_id", "episode_id", "relation_type", "status", "closeness_now", "closeness_before_onset", "closeness_wished"),
        *(
            "confiding",
            "conflict_level",
            "contact_modes",
            "patterns",
            "safety",
            "mourning_signs",
            "source",
            "sealed",
            "version",
            "created_at",
            "updated_at",
        ),
    ),
    "life_event": (
        *("partner_id", "id", "patient_id", "episode_id", "type", "happened_on", "happened_on_precision", "imminent", "linked_to_onset", "version"),
        *("created_at", "updated_at"),
    ),
    "focus": (
        *("partner_id", "id", "patient_id", "episode_id", "primary_area", "patient_agreed", "decided_by", "decided_at", "flags", "sealed", "version"),
        *("created_at", "updated_at"),
    ),
    "focus_area": ("partner_id", "id", "patient_id", "episode_id", "area", "place", "status", "strategies", "version", "created_at", "updated_at"),
    "formulation": (
        *("partner_id", "id", "patient_id", "episode_id", "areas", "told_on", "patient_agreed", "sealed", "version", "created_at", "updated_at"),
    ),
    "contract": (
        *("partner_id", "id", "patient_id", "episode_id", "sessions", "frequency", "minutes", "starts_on", "ends_on", "agreed_on", "patient_agreed"),
        *("version", "created_at", "updated_at"),
    ),
    "session": (
        *("partner_id", "id", "patient_id", "episode_id", "number", "status", "starts_at", "mode", "minutes", "phase", "attendance", "focus_areas"),
        *("techniques", "strategies", "mood", "risk_asked", "entered_in_error", "flags", "kind", "version", "created_at", "updated_at"),
    ),
    "follow_up": ("partner_id", "id", "patient_id", "episode_id", "months", "due_on", "status", "held_on", "version", "created_at", "updated_at"),
    "assessment": (
        *("partner_id", "id", "patient_id", "episode_id", "instrument", "instrument_version", "session_id", "follow_up_id", "answered_at"),
        *("respondent", "mode", "locale", "answers", "partial_sum", "total", "band", "is_case", "missing", "prorated", "entered_in_error"),
        *("version", "created_at", "updated_at"),
    ),
    "termination": (
        *("partner_id", "id", "patient_id", "episode_id", "end_date", "end_date_told_on", "maintenance_reasons", "final_assessment", "version"),
        *("created_at", "updated_at"),
    ),
    "early_ending": (
        *("partner_id", "id", "patient_id", "episode_id", "reason", "ended_on", "tasks_done", "last_total", "version", "created_at", "updated_at"),
    ),
}
"""The tables in the order in which they are filled, each with the columns that a course gives."""

Rows = dict[str, list[tuple[Any, ...]]]


def rows_of(courses: Iterable[SyntheticCourse], partner_id: UUID, clinicians: Sequence[UUID], ring: KeyRing) -> Rows:
    """Return the rows of some courses by table."""
    found: Rows = defaultdict(list)
    for course in courses:
        _Writing(course, partner_id, clinicians, ring, found).whole()
    return found


class _Writing:
    """One course being written down. Ids are made of its own chance: the same course has the same ids in every partner."""

    def __init__(self, course: SyntheticCourse, partner_id: UUID, clinicians: Sequence[UUID], ring: KeyRing, into: Rows) -> None:
        self.course, self.partner_id, self.ring, self.into = course, partner_id, ring, into
        self.chance: Random = course.chance
        self.lead = clinicians[course.number % len(clinicians)]
        self.cover = clinicians[(course.number + 1) % len(clinicians)]
        self.begun = self.at(course.days[0] - timedelta(days=14))
        self.ended = self.at(course.ended_on, 12)
        self.patient_id, self.episode_id = self.new_id(), self.new_id()
        self.chart = (partner_id, self.patient_id, self.episode_id)

    def at(self, day: date, hour: int = 9) -> datetime:
        return datetime.combine(day, time(hour), UTC)

    def new_id(self) -> UUID:
        """Return a UUID of version 7 with the day of the referral in front."""
        moment = int(self.begun.timestamp() * 1000)
        return UUID(int=(moment << 80) | (7 << 76) | (self.chance.getrandbits(12) << 64) | (2 << 62) | self.chance.getrandbits(62))

    def row(self, table: str, *values: Any, when: datetime | None = None) -> UUID:
        """Add a row of the chart: its own values between the ids in front and the version and times behind."""
        row_id = self.new_id()
        partner_id, patient_id, episode_id = self.chart
        stamp = when or self.begun
        self.into[table].append((partner_id, row_id, patient_id, episode_id, *values, 1, stamp, stamp))
        return row_id

    def sealed(self, key: PatientKey, table: str, row_id: UUID, secret: dict[str, Any]) -> bytes:
        return key.seal(secret, place_of(self.partner_id, table, row_id, 1))

    def whole(self) -> None:
        """Write the whole course."""
        key = self._person()
        self._course()
        self._people(key)
        self._agreement(key)
        self._sessions()
        self._ending()

    def _person(self) -> PatientKey:
        c, p = self.course, self.partner_id
        born = c.days[0].year - c.age
        self.into["patient"].append((p, self.patient_id, born, c.sex, "en", "UTC", False, 1, self.begun, self.begun))
        key = PatientKey(self.patient_id, self.chance.randbytes(32))
        self.into["patient_key"].append((p, self.patient_id, self.ring.newest, self.ring.wrapped(p, key), self.begun))
        by = "guardian" if c.age < 16 else "patient"
        for purpose, given in (("treatment", True), ("research_analytics", c.consents)):
            self.into["consent"].append((p, self.new_id(), self.patient_id, purpose, given, "v1", "en", by, self.begun, 1, self.begun, self.begun))
        return key

    def _course(self) -> None:
        c = self.course
        status = "ended_early" if c.dropped_out else "completed"
        values = (c.protocol, 1, "group" if c.protocol == "IPT-G-WHO" else "individual", status, c.phase, self.begun.date(), c.age)
        onset = c.days[0] - timedelta(days=30 * self.chance.randint(2, 14))
        more = (onset, "month", self.chance.randint(1, 3), self.chance.random() < 0.4, "[]", "[]", True, self.ended)
        self.into["episode"].append((self.partner_id, self.episode_id, self.patient_id, *values, *more, 1, self.begun, self.ended))
        for clinician_id, role in ((self.lead, "lead"), (self.cover, "cover")):
            self.row("care_team", clinician_id, role)

    def _people(self, key: PatientKey) -> None:
        for relation, label in PEOPLE[: 2 + self.chance.randrange(3)]:
            near = [self.chance.randint(1, 4) for _ in range(3)]
            row_id = self.new_id()
            scores = (self.chance.randint(0, 3), self.chance.randint(0, 3))
            secret = self.sealed(key, "relationship", row_id, {"label": label})
            values = (relation, "current", *near, *scores, "[]", "[]", "none", "[]", "patient", secret)
            self.into["relationship"].append((self.partner_id, row_id, *self.chart[1:], *values, 1, self.begun, self.begun))
        happened = self.course.days[0] - timedelta(days=self.chance.randint(60, 400))
        self.row("life_event", EVENTS[self.course.area], happened, "month", False, "clear")

    def _agreement(self, key: PatientKey) -> None:
        c = self.course
        if c.phase == "initial":
            return
        decided = self.at(c.days[min(2, len(c.days) - 1)], 10)
        focus_id = self.new_id()
        reason = self.sealed(key, "focus", focus_id, {"reason": "Chosen together from the inventory."})
        self.into["focus"].append((self.partner_id, focus_id, *self.chart[1:], c.area, True, self.lead, decided, "[]", reason, 1, decided, decided))
        self.row("focus_area", c.area, "primary", "active" if c.dropped_out else "closed", "[]", when=decided)
        row_id = self.new_id()
        secret = self.sealed(key, "formulation", row_id, {"text": WORDS[c.area]})
        values = (json.dumps([c.area]), decided.date(), True, secret, 1, decided, decided)
        self.into["formulation"].append((self.partner_id, row_id, *self.chart[1:], *values))
        ends = c.days[0] + timedelta(weeks=c.contracted - 1)
        self.row("contract", c.contracted, "weekly", 50, c.days[0], ends, decided.date(), True, when=decided)

    def _sessions(self) -> None:
        c = self.course
        area = json.dumps([c.area])
        for n, (day, mode, totals) in enumerate(zip(c.days, c.modes, c.totals, strict=True), start=1):
            when = self.at(day, 9 + n % 8)
            phase = "initial" if n <= 3 else "termination" if n > c.contracted - 3 else "middle"
            worked = area if n > 3 else "[]"
            values = (n, "held", when, mode, 50, phase, "attended", worked, "[]", "[]", self.chance.randint(2, 9), True, False, "[]", "course")
            session_id = self.row("session", *values, when=when)
            for code, total in zip(("PHQ-9", "GAD-7"), totals, strict=True):
                self._assess(code, total, when - timedelta(minutes=20), session_id, None)

    def _assess(self, code: str, total: int, when: datetime, session_id: UUID | None, follow_up_id: UUID | None) -> None:
        answers, band, is_case = self.chance.choice(_forms(code, total, is_adult(self.course.age)))
        values = (code, 1, session_id, follow_up_id, when, "patient", "app", "en", answers, total, total, band, is_case, "[]", False, False)
        self.row("assessment", *values, when=when)

    def _ending(self) -> None:
        c = self.course
        if c.dropped_out:
            self.row("early_ending", self.chance.choice(REASONS), c.ended_on, "[]", c.totals[-1][0], when=self.ended)
            return
        told = c.days[max(0, len(c.days) - 4)]
        self.row("termination", c.ended_on, told, "[]", "taken", when=self.ended)
        held = {months: (day, total) for months, day, total in c.follow_ups}
        for months in (3, 6):
            due = c.ended_on + timedelta(days=30 * months)
            found = held.get(months)
            day = found[0] if found else None
            row_id = self.row("follow_up", months, due, "held" if found else "booked", day, when=self.at(day, 9) if day else self.ended)
            if found is not None:
                self._assess("PHQ-9", found[1], self.at(found[0], 9), None, row_id)


@cache
def _forms(code: str, total: int, adult: bool) -> list[tuple[str, str | None, bool | None]]:  # noqa: FBT001 - a key of the cache
    """Return some filled forms with a total: answers as JSON, band, caseness. Item 9 of the PHQ-9 is 0."""
    questionnaire = instrument(code)
    chance = Random(f"{code}|{total}")  # noqa: S311 - made-up answers
    free = [i.number for i in questionnaire.items if not any(r.item == i.number for r in questionnaire.risk_items)]
    found = []
    for _ in range(VARIANTS):
        answers = {i.number: 0 for i in questionnaire.items}
        while sum(answers.values()) < total:
            number = chance.choice(free)
            answers[number] = min(3, answers[number] + 1)
        scored = score(questionnaire, answers, 40 if adult else 15)
        found.append((json.dumps({str(n): v for n, v in answers.items()}), scored.band, scored.case))
    return found
