"""One visit: a caller in a confined transaction, the present moment, and the journal of what it changes."""

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from uuid import UUID

from app.domain.errors import Conflict, Forbidden, NotFound
from app.domain.people import today_of
from app.domain.protection import CARE, CLIENT, CLINICIAN, PATIENT, SHARING, SharingRefused, check_use
from app.domain.protocols import Protocol, common_tasks, protocol, protocol_from
from app.domain.risk import ClinicianOnly
from app.keys.cipher import KeyRing, PatientKey
from app.keys.tokens import Caller
from app.store.database import Connection, Row
from app.store.feed import Journal
from app.store.people import find_chart, find_patient, newest_decision

STORE_ONLY = {"partner_id", "sealed", "wrapped", "key_version", "external_ref_bidx", "treatment_given", "emergency_id"}


class VersionStale(Conflict):
    """The resource has changed since it was read."""


class VersionUnmatched(Conflict):
    """The precondition does not fit: the resource exists already, or does not exist."""


@dataclass(slots=True)
class Precondition:
    """What the caller last saw: a version (If-Match), or nothing at all (If-None-Match: *)."""

    version: int | None = None
    must_be_new: bool = False
    any_version: bool = False
    checked: bool = False

    def check(self, present: int | None) -> None:
        """Hold the stored row's version (None: there is no row) against it. Raises VersionStale, VersionUnmatched."""
        self.checked = True
        if self.any_version:
            return
        if self.must_be_new:
            if present is not None:
                raise VersionUnmatched("It exists already: send If-Match with its ETag.")
            return
        if present is None:
            raise VersionUnmatched("It does not exist yet: send If-None-Match: *.")
        if present != self.version:
            raise VersionStale("Read it again, and send If-Match with the ETag that you then see.")


@dataclass(slots=True)
class Trace:
    """What the visit touched, for the audit row."""

    patient_id: UUID | None = None
    episode_id: UUID | None = None
    many: list[UUID] = field(default_factory=list)
    """The episodes of an answer that is of several patients."""
    resources: list[str] = field(default_factory=list)
    patients: set[UUID] = field(default_factory=set)
    """The patients of whom a list shows something."""
    emergencies: dict[UUID, UUID] = field(default_factory=dict)
    """The emergency access by which the chart of a patient was opened."""
    by_patient: dict[UUID | None, list[str]] = field(default_factory=dict)
    """What a request about several patients touched, patient by patient: each gets an audit row of its own."""

    def of(self, patient_id: UUID | None, resource: str) -> None:
        """Note what was touched of one of several patients, once."""
        noted = self.by_patient.setdefault(patient_id, [])
        if resource not in noted[-2:]:
            noted.append(resource)

    def parts(self) -> "list[Trace]":
        """Return one trace for each patient; the whole when there are not several."""
        if not self.by_patient:
            return [self]
        return [Trace(patient_id, resources=resources, emergencies=self.emergencies) for patient_id, resources in self.by_patient.items()]

    @property
    def break_glass_id(self) -> UUID | None:
        """Return the emergency access that marks this audit row: the patient's; of a list, the first."""
        return self.emergencies.get(self.patient_id) if self.patient_id else next(iter(self.emergencies.values()), None)


@dataclass(frozen=True, slots=True)
class Visit:
    """A caller's visit. Created by the assembly's plumbing, given to every action and query."""

    connection: Connection
    caller: Caller
    now: datetime
    keys: KeyRing
    journal: Journal = field(default_factory=Journal)
    precondition: Precondition = field(default_factory=lambda: Precondition(any_version=True))
    trace: Trace = field(default_factory=Trace)
    use: str = CARE
    """What the charts are opened for: see domain/protection.py."""
    patient_keys: dict[UUID, PatientKey] = field(default_factory=dict)
    charts: dict[UUID, Row] = field(default_factory=dict)
    """Charts that this transaction has locked and read already, as they stand: `told` forgets them when one of them may have changed."""

    @property
    def actor(self) -> str:
        """Name who acts: the person, else the client."""
        return self.caller.person or f"client:{self.caller.client_id}"

    def clinician(self) -> UUID:
        """Return the clinician that this visit acts for. Raises ClinicianOnly for a bare client."""
        if self.caller.clinician_id is None:
            raise ClinicianOnly
        return self.caller.clinician_id

    def key_of(self, row: Row) -> PatientKey:
        """Unwrap and remember the patient's key that came along with a row."""
        patient_id = row.get("patient_id") or row["id"]
        key = self.keys.patient_key(self.caller.partner_id, patient_id, row["key_version"], row["wrapped"])
        self.patient_keys[patient_id] = key
        self.trace.patient_id = patient_id
        self.trace.patients.add(patient_id)
        return key


@dataclass(frozen=True, slots=True)
class Chart:
    """An open episode: its row, its protocol, its patient's key, and the patient's calendar day."""

    episode: Row
    protocol: Protocol
    key: PatientKey
    today: date

    @property
    def episode_id(self) -> UUID:
        """Return the episode's id."""
        return UUID(str(self.episode["id"]))

    @property
    def patient_id(self) -> UUID:
        """Return the patient's id."""
        return UUID(str(self.episode["patient_id"]))


async def open_chart(visit: Visit, episode_id: UUID, *, lock: bool = False) -> Chart:
    """Return the chart of an episode in the caller's caseload; locked, its writes come one after another.

    Raises NotFound: unknown, another partner's, and outside the caseload look alike.
    """
    row = visit.charts.get(episode_id) if lock else None
    row = row or await find_chart(visit.connection, episode_id, visit.caller.clinician_id, lock=lock)
    return await admitted(visit, row, writes=lock)


async def admitted(visit: Visit, row: Row | None, *, writes: bool = False) -> Chart:
    """Return the chart of a row that was looked up in the caller's caseload. Raises NotFound, SharingRefused, and what `chart_of` raises."""
    if row is None or visit.caller.patient_id not in {None, row["patient_id"]}:
        raise NotFound
    visit.trace.episode_id = row["id"]
    if visit.use == SHARING and await newest_decision(visit.connection, row["merged_into"] or row["patient_id"], "data_sharing") is False:
        raise SharingRefused
    return chart_of(visit, row, writes=writes)


def chart_of(visit: Visit, row: Row, *, writes: bool = False) -> Chart:
    """Return the chart of a row that was read together with what a chart needs. Raises ProcessingRestricted, ConsentWithdrawn."""
    _check_use(visit, row, writes=writes)
    return Chart(row, protocol_of(row), visit.key_of(row), today_of(row["time_zone"], visit.now))


def _check_use(visit: Visit, row: Row, *, writes: bool) -> None:
    """Hold the visit's use against the patient's restriction and consent: the one place, for every way that leads to a chart."""
    emergency = row["emergency_id"]
    by = PATIENT if visit.caller.patient_id else CLINICIAN if visit.caller.clinician_id else CLIENT
    restricted = row["restricted_because"] is not None
    check_use(visit.use, by, writes=writes, restricted=restricted, emergency=emergency is not None, treatment=row["treatment_given"])
    if emergency is not None:
        visit.trace.emergencies[row.get("patient_id") or row["id"]] = emergency


def may_read(visit: Visit, row: Row) -> bool:
    """Tell whether a chart, or a patient, may be shown for the visit's use."""
    try:
        _check_use(visit, row, writes=False)
    except Forbidden:
        return False
    return True


def protocol_of(row: Row) -> Protocol:
    """Return the protocol version that an episode keeps: the catalogue's, or the partner's own."""
    if row.get("own_protocol") is None:
        return protocol(row["protocol_code"], row["protocol_version"])
    return protocol_from(row["own_protocol"], common_tasks(), origin="partner")


async def open_patient(visit: Visit, patient_id: UUID, *, lock: bool = False) -> tuple[Row, PatientKey]:
    """Return a patient of the caller's caseload and its key. Raises NotFound."""
    row = await find_patient(visit.connection, patient_id, visit.caller.clinician_id, lock=lock)
    if row is None or visit.caller.patient_id not in {None, row["id"]}:
        raise NotFound
    _check_use(visit, row, writes=lock)
    return row, visit.key_of(row)


def public(row: Row) -> dict[str, Any]:
    """Return a row without what only the store needs."""
    shown = row.copy()
    for name in STORE_ONLY:
        shown.pop(name, None)
    return shown
