"""After a restore, before the service opens: what happened since the backup, and is not in the database, is brought back from the journals.

A backup knows nothing of the people who were erased after it, of what anonymised tables have shown since, nor of the cursors that devices hold.
Each step may be repeated; the last one lets the database be opened.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from app.actions.journal import ERASURES, RELEASES, Journal, JournalFaulty
from app.actions.protection import order_erasure, protect, read_protection
from app.actions.releases import Confined
from app.actions.visit import Visit
from app.domain.errors import CommandRefused, NotFound
from app.domain.outcome_tables import NETWORKS
from app.domain.protection import UnderLegalHold
from app.domain.sync import EPOCH_STEP
from app.keys.cipher import KeyRing
from app.store.database import Connection
from app.store.feed import raise_epoch, where_it_stands
from app.store.protection import erased_patients
from app.store.releases import released_keys

MOST_EPOCHS = (1 << 53) // EPOCH_STEP - 1
SKIPPED_WITHOUT_A_JOURNAL = 64
VisitOf = Callable[[Connection, UUID], Visit]
Commit = Callable[[Visit, str], Awaitable[None]]
Line = dict[str, Any]


class EpochsSpent(CommandRefused):
    """The feed has no epoch left: a cursor would no longer be a number that JavaScript holds."""


@dataclass(frozen=True, slots=True)
class Journals:
    """What the journals of every machine that wrote some hold together."""

    erasures: list[Line]
    releases: list[Line]


def read_journals(folders: Sequence[Path], releases: str, erasures: str, ring: KeyRing) -> Journals:
    """Read the journals of some folders, by their files' names. Raises JournalFaulty when one is missing, another's, or they contradict each other.

    Two that show different numbers for one table: one of them was drawn, and perhaps shown, by a worker that died before its commit.
    """
    charged: dict[tuple[Any, ...], Line] = {}
    erased: dict[tuple[Any, ...], Line] = {}
    for folder in folders:
        for name, kind, into in ((releases, RELEASES, charged), (erasures, ERASURES, erased)):
            journal = Journal(folder / name, ring, kind)
            journal.check()
            for line in journal.lines():
                names = tuple(line[n] for n in kind[1])
                if kind is RELEASES and into.get(names, line)["noisy"] != line["noisy"]:
                    raise JournalFaulty(f"{journal.path} has other numbers for a released table than another journal: say --without-journals.")
                into[names] = line
    return Journals(list(erased.values()), list(charged.values()))


async def check_journals(open_for: Confined, partners: Sequence[UUID], journals: Journals) -> None:
    """Raise JournalFaulty when the database itself knows more than its journals: they are older than the backup, or some are missing."""
    erased = {(line["partner_id"], line["patient_id"]) for line in journals.erasures}
    released = {(line["population"], line["release_key"]) for line in journals.releases}
    lacking = 0
    for population in [*partners, *NETWORKS.values()]:
        async with open_for(population) as connection:
            lacking += len({(str(population), str(one)) for one in await erased_patients(connection)} - erased)
            lacking += len({(str(population), key.hex()) for key in await released_keys(connection, population)} - released)
    if lacking:
        raise JournalFaulty(
            f"The backup knows {lacking} erasures and releases that the journals do not: they are older than it, or not all are here."
        )


async def raise_epochs(open_for: Confined, partners: Sequence[UUID], journal: Journal, now: datetime, *, without_journals: bool) -> int:
    """Begin one new epoch for every partner's feed, higher than any there ever was; return it. Raises EpochsSpent.

    It is in the journal first: two restores of the same backup never share an epoch, so that no device mistakes one for the other. Where the
    journal is lost, some are skipped by chance.
    """
    epochs = [line["epoch"] for line in journal.lines()]
    for partner_id in partners:
        async with open_for(partner_id) as connection:
            epochs.append((await where_it_stands(connection)).epoch)
    epoch = max(epochs, default=0) + 1 + (secrets.randbelow(SKIPPED_WITHOUT_A_JOURNAL) if without_journals else 0)
    if epoch > MOST_EPOCHS:
        raise EpochsSpent
    journal.write({"epoch": epoch, "at": now.isoformat()})
    for partner_id in partners:
        async with open_for(partner_id) as connection:
            await raise_epoch(connection, epoch)
            await connection.commit()
    return epoch


@dataclass(slots=True)
class Erased:
    """What became of the journal's erasures."""

    again: int = 0
    held: list[UUID] = field(default_factory=list)
    """Those that stand under a legal hold in the restored database: it was lifted before they were erased, or their erasure never came to pass."""


async def replay_erasures(
    open_for: Confined, visit_of: VisitOf, commit: Commit, lines: Sequence[Line], partners: Sequence[UUID], *, also_held: bool
) -> Erased:
    """Erase again whom the journal names and the database still has; under a legal hold only when that is said. Their rows go with the worker's next round."""
    found = Erased()
    for line in lines:
        partner_id, patient_id = UUID(line["partner_id"]), UUID(line["patient_id"])
        if partner_id not in partners:
            continue
        async with open_for(partner_id) as connection:
            visit = visit_of(connection, partner_id)
            try:
                if also_held:
                    stands = await read_protection(visit, patient_id)
                    if stands["legal_hold"]:
                        await protect(visit, patient_id, {"restricted_because": stands["restricted_because"], "legal_hold": False})
                made = await order_erasure(visit, patient_id, line["requested_by"], None)
            except NotFound:
                continue  # registered after the backup, or erased in it: there is nothing to erase
            except UnderLegalHold:
                found.held.append(patient_id)
                continue
            if made.new:
                await commit(visit, "ipt restore")
                found.again += 1
    return found
