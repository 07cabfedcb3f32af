"""After a restore, before the service opens: what happened since the backup, and is not in the database, is brought back from the journals.

A backup knows nothing of the people who were erased after it, of what anonymised tables have shown since, nor of the cursors that devices hold.
Each step may be repeated; the last one lets the database be opened.
"""

import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from app.actions.journal import ERASURES, RELEASES, RESTORES, Journal, JournalFaulty
from app.actions.protection import erasure_line, order_erasure, protect, read_protection
from app.actions.releases import Confined, release_line
from app.actions.visit import Visit
from app.domain.errors import CommandRefused, NotFound
from app.domain.outcome_tables import NETWORKS
from app.domain.sync import EPOCH_STEP
from app.keys.cipher import KeyRing
from app.store.database import Connection, Row
from app.store.feed import newest_moment, raise_epoch, where_it_stands
from app.store.protection import erasures_of
from app.store.releases import find_release, released_keys

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
    restores: list[Line]
    seen: list[str]
    """Which files were read, and how far each goes, in words: only a person can tell that one is not the newest."""


def read_journals(folders: Sequence[Path], releases: str, erasures: str, restores: str, ring: KeyRing) -> Journals:
    """Read the journals of some folders, by their files' names. Raises JournalFaulty when one is missing, another's, or they contradict each other.

    That of restores need not be there: nobody restores before something is lost.

    Two that show different numbers for one table: one of them was drawn, and perhaps shown, by a worker that died before its commit.
    """
    charged: dict[tuple[Any, ...], Line] = {}
    erased: dict[tuple[Any, ...], Line] = {}
    seen: list[str] = []
    for name, kind, into in ((releases, RELEASES, charged), (erasures, ERASURES, erased)):
        there = [Journal(folder / name, ring, kind) for folder in folders if (folder / name).exists()]
        if not there:
            raise JournalFaulty(f"{name} is not there, in {', '.join(map(str, folders))}.")
        for journal in there:
            journal.check()
            lines = journal.lines()
            newest = max((line["ordered_at" if kind is RELEASES else "at"] for line in lines), default="none")
            seen.append(f"{journal.path}: {len(lines)} lines, the newest of {newest}")
            for line in lines:
                names = tuple(line[n] for n in kind[1])
                known = into.get(names)
                if known and kind is RELEASES and known["noisy"] != line["noisy"]:
                    raise JournalFaulty(f"{journal.path} has other numbers for a released table than another journal: say --without-journals.")
                if known is None or not known.get("done", True):
                    into[names] = line
    epochs = [line for folder in folders for line in Journal(folder / restores, ring, RESTORES).lines()]
    return Journals(list(erased.values()), list(charged.values()), epochs, seen)


async def check_journals(open_for: Confined, partners: Sequence[UUID], journals: Journals) -> None:
    """Raise JournalFaulty when the database itself knows more than its journals: they are older than the backup, or some are missing."""
    erased = {(line["partner_id"], line["patient_id"]) for line in journals.erasures}
    released = {(line["population"], line["release_key"]) for line in journals.releases}
    lacking = 0
    for population in [*partners, *NETWORKS.values()]:
        async with open_for(population) as connection:
            lacking += len({(str(population), str(e["patient_id"])) for e in await erasures_of(connection)} - erased)
            lacking += len({(str(population), key.hex()) for key in await released_keys(connection, population)} - released)
    if lacking:
        raise JournalFaulty(
            f"The backup knows {lacking} erasures and releases that the journals do not: they are older than it, or not all are here."
        )


async def newest_change(open_for: Confined, partners: Sequence[UUID]) -> datetime | None:
    """Return the moment of the newest change of any partner: what the database goes up to."""
    moments = []
    for partner_id in partners:
        async with open_for(partner_id) as connection:
            moments.append(await newest_moment(connection))
    return max(filter(None, moments), default=None)


async def raise_epochs(open_for: Confined, partners: Sequence[UUID], journal: Journal, journals: Journals | None, now: datetime) -> int:
    """Begin one new epoch for every partner's feed, higher than any there ever was; return it. Raises EpochsSpent.

    It is in the journal of restores first: two restores of the same backup never share an epoch, so that no device mistakes one for the other.
    Where the journals are lost (None), some are skipped by chance.
    """
    epochs = [line["epoch"] for line in [*journal.lines(), *(journals.restores if journals else [])]]
    for partner_id in partners:
        async with open_for(partner_id) as connection:
            epochs.append((await where_it_stands(connection)).epoch)
    epoch = max(epochs, default=0) + 1 + (0 if journals else secrets.randbelow(SKIPPED_WITHOUT_A_JOURNAL))
    if epoch > MOST_EPOCHS:
        raise EpochsSpent
    journal.write({"epoch": epoch, "at": now.isoformat()})
    for partner_id in partners:
        async with open_for(partner_id) as connection:
            await raise_epoch(connection, epoch)
            await connection.commit()
    return epoch


async def complete_journals(open_for: Confined, partners: Sequence[UUID], releases: Journal, erasures: Journal) -> int:
    """Write into this machine's journals what the database knows and they do not; return how much. Raises OSError.

    Journals of before there were any, of other machines, or that were lost: after this, each can be restored by.
    """
    number = 0
    for population in [*partners, *NETWORKS.values()]:
        async with open_for(population) as connection:
            for row in await erasures_of(connection):
                known = erasures.find(str(population), str(row["patient_id"]))
                if known is None or not known.get("done", True):
                    erasures.write(erasure_line(population, row, done=True))
                    number += 1
            for key in await released_keys(connection, population):
                if releases.find(str(population), key.hex()) is None:
                    release = await find_release(connection, population, key)
                    assert release is not None
                    releases.write(release_line(population, release))
                    number += 1
    return number


@dataclass(slots=True)
class Erased:
    """What became of the journal's erasures."""

    again: int = 0
    doubtful: dict[UUID, str] = field(default_factory=dict)
    """Those of whom it is not clear whether they were erased, and why: somebody must decide."""


async def replay_erasures(
    open_for: Confined, visit_of: VisitOf, commit: Commit, lines: Sequence[Line], partners: Sequence[UUID], *, also_doubtful: bool
) -> Erased:
    """Erase again whom the journal names and the database still has, and nobody else. Their rows go with the worker's next round."""
    found, named = Erased(), defaultdict(set)
    for line in lines:
        named[line["partner_id"]].add(UUID(line["patient_id"]))
    for line in lines:
        partner_id, patient_id = UUID(line["partner_id"]), UUID(line["patient_id"])
        if partner_id not in partners:
            continue
        async with open_for(partner_id) as connection:
            visit = visit_of(connection, partner_id)
            try:
                stands = await read_protection(visit, patient_id)
            except NotFound:
                continue  # registered after the backup, or erased in it: there is nothing to erase
            why = _doubt(line, stands)
            if why is not None and not also_doubtful:
                found.doubtful[patient_id] = why
                continue
            if stands["legal_hold"]:
                await protect(visit, patient_id, {"restricted_because": stands["restricted_because"], "legal_hold": False})
            made = await order_erasure(visit, patient_id, line["requested_by"], None, only=named[line["partner_id"]])
            if made.new:
                await commit(visit, "ipt restore")
                found.again += 1
    return found


def _doubt(line: Line, stands: Row) -> str | None:
    """Say why it is not clear whether somebody was erased, or None."""
    if not line.get("done", True):
        return f"erasure asked for at {line['at']}, and nobody saw it done"
    return "under a legal hold in this backup, which was lifted before the erasure, if there was one" if stands["legal_hold"] else None
