"""The table of a benchmark: one line for each piece of work, ours beside what it is held against."""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench.load import Measured

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `ours` and `reference` are in `unit`; `ratio` is what the aim is about; `met` is None without an aim."""

    work: str
    unit: str
    ours: float
    reference: float | None
    ratio: float | None
    aim: str
    met: bool | None
    p50_ms: float | None = None
    p99_ms: float | None = None
    note: str = ""


def at_least(work: str, unit: str, ours: Measured, reference: Measured, aim: float | None, note: str = "") -> Row:
    """Compare two throughputs: ours should be at least so much of the reference."""
    ratio = ours.per_second / reference.per_second
    text = "" if aim is None else f">= {aim:.2f}"
    return Row(work, unit, ours.per_second, reference.per_second, ratio, text, None if aim is None else ratio >= aim, ours.p50_ms, ours.p99_ms, note)


def at_most(work: str, unit: str, ours: float, reference: float | None, aim: float, note: str = "") -> Row:
    """Compare two costs, or one with its aim: at most so much of the reference, or so much."""
    ratio = ours / reference if reference else None
    return Row(work, unit, ours, reference, ratio, f"<= {aim:g}", (ours if ratio is None else ratio) <= aim, note=note)


def alternating(rounds: int, *drives: Callable[[], Measured]) -> list[Measured]:
    """Drive in turn, A B A B, and return the median of each (by its throughput)."""
    found: list[list[Measured]] = [[] for _ in drives]
    for _ in range(rounds):
        for drive, into in zip(drives, found, strict=True):
            into.append(drive())
    return [_middle(each) for each in found]


def _middle(each: Sequence[Measured]) -> Measured:
    def mid(values: list[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return median(known) if known else None

    return Measured(median(m.per_second for m in each), mid([m.p50_ms for m in each]), mid([m.p99_ms for m in each]))


def machine() -> str:
    """Name the machine by its cores and memory only."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return f"{os.cpu_count()} cores, {round(pages * size / 2**30)} GiB"


def show(row: Row) -> None:
    """Print a line."""

    def figure(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"

    met = "" if row.met is None else "yes" if row.met else "NO"
    figures = f"{figure(row.ours):>10}{figure(row.reference):>11}{figure(row.ratio):>8}{row.aim:>10}{met:>5}"
    print(f"{row.work:58}{row.unit:16}{figures}{figure(row.p50_ms):>9}{figure(row.p99_ms):>9}  {row.note}", flush=True)


def head() -> None:
    """Print the head of the table."""
    print(f"{machine()}; PostgreSQL, service, references and load tools on the same machine; default durability\n")
    print(f"{'work':58}{'unit':16}{'ours':>10}{'reference':>11}{'ratio':>8}{'aim':>10}{'met':>5}{'p50 ms':>9}{'p99 ms':>9}")


def save(rows: Sequence[Row], name: str = "latest.json") -> None:
    """Write the results; rows that were not measured now stay as they were: each says when it was, and of which commit."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / name
    before = json.loads(file.read_text())["rows"] if file.exists() else []
    fresh = {r.work for r in rows}
    kept = [r for r in before if r["work"] not in fresh]
    done = [asdict(r) | {"measured": datetime.now(UTC).date().isoformat(), "commit": _commit()} for r in rows]
    file.write_text(json.dumps({"machine": machine(), "rows": done + kept}, indent=1) + "\n")


def _commit() -> str:
    """Return the newest commit of what is measured."""
    said = subprocess.run(["git", "log", "-1", "--format=%h", "--", "../app", "."], cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return said.stdout.strip()
