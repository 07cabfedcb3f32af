"""A checker of histories: whether what clients saw of versioned rows can be true of one copy that loses nothing.

Each operation is noted with its beginning and end. A write that was answered made its version; one whose answer was lost may have made any.
The rules (in the order of the checks): a version has one writer; versions follow each other but for those that may have been made by writes
without an answer; what is read after an acknowledged write is not older; a version has one content; in the end the highest version stands.
"""

import threading
from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class Seen:
    """One operation of one client on one row."""

    row: str
    kind: str  # write, read
    version: int | None  # None: no answer came
    started: float
    ended: float
    value: str | None = None


class History:
    """What all clients saw."""

    def __init__(self):
        self._lock = threading.Lock()
        self.seen = []

    def note(self, *what):
        with self._lock:
            self.seen.append(Seen(*what))

    def faults(self, final):
        """Return what cannot be, given the versions that the rows have in the end."""
        by_row = defaultdict(list)
        for each in self.seen:
            by_row[each.row].append(each)
        return [fault for row, seen in by_row.items() for fault in _faults(row, seen, final[row])]


def _faults(row, seen, final):
    written = [s for s in seen if s.kind == "write" and s.version is not None]
    maybe = sum(s.kind == "write" and s.version is None for s in seen)
    found = []
    writers = defaultdict(int)
    for each in written:
        writers[each.version] += 1
    found += [f"{row}: version {v} has {n} writers" for v, n in writers.items() if n > 1]
    gaps = set(range(2, final + 1)) - set(writers)
    if len(gaps) > maybe:
        found.append(f"{row}: {len(gaps)} versions without a writer, and only {maybe} writes without an answer")
    newest, highest = sorted(written, key=lambda s: s.ended), 0
    at = 0
    for read in sorted((s for s in seen if s.kind == "read" and s.version is not None), key=lambda s: s.started):
        while at < len(newest) and newest[at].ended < read.started:
            highest, at = max(highest, newest[at].version), at + 1
        if read.version < highest:
            found.append(f"{row}: version {read.version} was read after {highest} had been acknowledged")
    contents = defaultdict(set)
    for each in seen:
        if each.version is not None and each.value is not None:
            contents[each.version].add(each.value)
    found += [f"{row}: version {v} was seen with {len(c)} contents" for v, c in contents.items() if len(c) > 1]
    if written and final < max(writers):
        found.append(f"{row}: ends with version {final}, and {max(writers)} had been acknowledged")
    return found
