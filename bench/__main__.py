"""`make bench`: every aim of speed, ours beside what it is held against, in one run; one table, and bench/results/latest.json.

`python -m bench reading writing` measures some of it. `make bench-large` compares with a database of 10,000,000 sessions.
"""

import argparse
from pathlib import Path

from bench import http, running
from bench.growth import growth
from bench.load import check_tools
from bench.stage import COURSES_FOR_10_000_SESSIONS, stage
from bench.table import Row, head, save, show

PARTS = {
    part.__name__: part
    for part in (
        *(http.reading, http.writing, http.pulling, http.pushing, http.released),
        *(running.rules, running.clock, running.processes, running.starting, running.newcomer, http.memory),
    )
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("part", nargs="*", choices=[*PARTS, []], help="what to measure; default: everything")
    asked.add_argument("--large", type=int, metavar="SESSIONS", help="compare the hot paths with a database of so many sessions")
    asked.add_argument("--home", type=Path, help="keep the database here, and use it again")
    given = asked.parse_args()
    check_tools()
    head()
    rows: list[Row] = []
    found = growth(given.large, given.home) if given.large else _parts(given.part or list(PARTS), given.home)
    for row in found:
        show(row)
        rows.append(row)
        save(rows)


def _parts(names: list[str], home: Path | None):
    with stage(COURSES_FOR_10_000_SESSIONS, home=home) as staged:
        heard = http.Heard(staged, f"/v1/sync/pull?since=0&limit={http.PULLED}")
        for name in names:
            yield from PARTS[name](staged, heard)


if __name__ == "__main__":
    main()
