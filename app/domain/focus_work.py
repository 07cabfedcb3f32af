"""The work in a focus area: each area has its own record, and a dispute a plan by its stage."""

from collections.abc import Mapping

from app.domain.errors import Fault, Invalid
from app.domain.problem_area import DEFICITS, DISPUTE, GRIEF, TRANSITION

RECORD_OF = {GRIEF: "grief", DISPUTE: "dispute", TRANSITION: "transition", DEFICITS: "deficits"}
PLAN_BY_STAGE = {  # Source: teaching slides on role disputes (Weissman, Markowitz and Klerman)
    "renegotiation": "Both try to change it: improve the communication, so that each says what is expected and hears the other.",
    "impasse": "Trying has stopped: bring the dispute into the open and restart the negotiation, or consider whether to end the relation.",
    "dissolution": "It is beyond repair: help to take in the loss and to move on; the work is then that of a transition.",
}


class WorkOfAnotherArea(Invalid):
    """This record belongs to another problem area."""


def check_work(area: str, given: Mapping[str, object]) -> None:
    """Raise WorkOfAnotherArea when a record of another area than `area` is given."""
    wrong = [name for name in RECORD_OF.values() if given.get(name) is not None and name != RECORD_OF[area]]
    if wrong:
        raise WorkOfAnotherArea(faults=[Fault(f"/{name}", f"the focus area is {area}: give {RECORD_OF[area]}") for name in wrong])


def plan_for_stage(area: str, stage: str | None) -> str | None:
    """Return the published plan for the stage of a dispute; None for other areas, and before the stage is determined."""
    return PLAN_BY_STAGE.get(stage or "") if area == DISPUTE else None
