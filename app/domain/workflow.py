"""The daily work around sessions: its enumerations and the few rules that it has."""

from collections.abc import Sequence
from datetime import date

from app.domain.errors import Conflict, Fault, Invalid

CHANGE_RESULTS = ("better", "same", "worse", "mixed")
ANALYSES = ("communication", "decision", "rehearsal")
HOMEWORK_STATUSES = ("agreed", "done", "partly_done", "not_done", "cancelled")
REQUEST_STATUSES = ("open", "answered", "cancelled")
MEDICATION_KINDS = ("antidepressant", "mood_stabiliser", "antipsychotic", "anxiolytic", "hypnotic", "stimulant", "other")
CONTENT_OF = {  # Source: the founding description (analysing communication, options, role-play); the parts are own design
    "communication": ("said", "meant", "heard", "felt", "next_time"),
    "decision": ("question", "options", "choice"),
    "rehearsal": ("situation", "practised", "how_it_went"),
}


class RequestDone(Conflict):
    """This request was answered or cancelled already."""


class RequestUnfit(Invalid):
    """The answer does not fit the request that it names."""


class NoteSigned(Conflict):
    """The note is signed: it is not changed any more, an addendum can be added."""


class NoteOfAnother(Conflict):
    """The note is another clinician's: an addendum can be added."""


class DatesOutOfOrder(Invalid):
    """The dates contradict each other."""


class PartOfAnotherKind(Invalid):
    """This part belongs to another kind of analysis."""


def check_analysis(kind: str, given: dict[str, object]) -> None:
    """Raise PartOfAnotherKind for a part that this kind of analysis does not have."""
    known = {part for parts in CONTENT_OF.values() for part in parts}
    wrong = [part for part in given if part in known and part not in CONTENT_OF[kind] and given[part]]
    if wrong:
        raise PartOfAnotherKind(faults=[Fault(f"/{part}", f"a {kind} analysis has {', '.join(CONTENT_OF[kind])}") for part in wrong])


def check_medication(started_on: date | None, stopped_on: date | None) -> None:
    """Raise DatesOutOfOrder for a stop before the start."""
    if started_on and stopped_on and stopped_on < started_on:
        raise DatesOutOfOrder(faults=[Fault("/stopped_on", "lies before the start")])


def check_request(request: dict[str, object], instrument: str, respondent: str) -> None:
    """Raise RequestDone, RequestUnfit unless an answer with this instrument by this respondent meets the request."""
    if request["status"] != "open":
        raise RequestDone
    same = respondent == request["respondent"] or (respondent == "clinician_read_aloud" and request["respondent"] == "patient")
    if instrument != request["instrument"] or not same:
        raise RequestUnfit(faults=[Fault("/request_id", f"asks for {request['instrument']} by {request['respondent']}")])


def worse_after(tried_on: date | None, scores: Sequence[tuple[date, int]], threshold: int) -> bool:
    """Tell whether a score after a change was tried is reliably worse than the last one before it. `scores`: (day, total), oldest first."""
    if tried_on is None:
        return False
    before = [total for day, total in scores if day <= tried_on]
    return bool(before) and any(total - before[-1] >= threshold for day, total in scores if day > tried_on)
