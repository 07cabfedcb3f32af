"""After a restore, before the service opens: what happened since the backup, and is not in the database, is brought back from the journals.

A backup knows nothing of the people who were erased after it, of what anonymised tables have shown since, nor of the cursors that devices hold.
Each step may be repeated; the last one lets the database be opened.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.actions.journal import Journal
from app.actions.protection import order_erasure
from app.actions.releases import Confined
from app.actions.visit import Visit
from app.domain.errors import CommandRefused, NotFound
from app.domain.protection import UnderLegalHold
from app.domain.sync import EPOCH_STEP
from app.store.database import Connection
from app.store.feed import raise_epoch, where_it_stands

MOST_EPOCHS = (1 << 53) // EPOCH_STEP - 1
VisitOf = Callable[[Connection, UUID], Visit]
Commit = Callable[[Visit, str], Awaitable[None]]


class EpochsSpent(CommandRefused):
    """The feed has no epoch left: a cursor would no longer be a number that JavaScript holds."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What became of the journal's erasures."""

    again: int
    held: int
    """Those that a legal hold refuses in the restored database: somebody must look at them."""


async def raise_epochs(open_for: Confined, partners: list[UUID], journal: Journal, now: datetime) -> int:
    """Begin one new epoch for every partner's feed, higher than any there ever was; return it. Raises EpochsSpent.

    It is in the journal first: two restores of the same backup never share an epoch, so that no device mistakes one for the other.
    """
    epochs = [line["epoch"] for line in journal.lines()]
    for partner_id in partners:
        async with open_for(partner_id) as connection:
            epochs.append((await where_it_stands(connection)).epoch)
    epoch = max(epochs, default=0) + 1
    if epoch > MOST_EPOCHS:
        raise EpochsSpent
    journal.write({"epoch": epoch, "at": now.isoformat()})
    for partner_id in partners:
        async with open_for(partner_id) as connection:
            await raise_epoch(connection, epoch)
            await connection.commit()
    return epoch


async def replay_erasures(open_for: Confined, visit_of: VisitOf, commit: Commit, journal: Journal, partners: list[UUID]) -> Erased:
    """Erase again whom the journal names and the database still has. Their rows go with the worker's next round."""
    again = held = 0
    for line in journal.lines():
        partner_id = UUID(line["partner_id"])
        if partner_id not in partners:
            continue
        async with open_for(partner_id) as connection:
            visit = visit_of(connection, partner_id)
            try:
                made = await order_erasure(visit, UUID(line["patient_id"]), line["requested_by"])
            except NotFound:
                continue  # registered after the backup: there is nothing to erase
            except UnderLegalHold:
                held += 1
                continue
            if made.new:
                await commit(visit, "ipt restore")
                again += 1
    return Erased(again, held)
