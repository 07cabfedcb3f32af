"""How the whole runs: the start, two processes beside one, the ceiling of one partner's change clock."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app import embedded
from bench import replay
from bench.http import HEARD, ROUNDS, SECONDS, Heard, recording
from bench.load import drive, pgbench
from bench.stage import NUMBERED, ROOT, Stage, free_port, process, service, token
from bench.table import Row, alternating, at_least, at_most

WRITERS = 16
SLOWED_US = 3000


def starting(stage: Stage, _heard: Heard) -> Iterator[Row]:
    """The start of the service on a database that is there."""
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        with service(stage):
            taken.append(time.perf_counter() - started)
    yield at_most("`ipt serve` ready", "s", sorted(taken)[ROUNDS // 2], None, 2.0, "on a database that runs")


def newcomer(_stage: Stage, _heard: Heard) -> Iterator[Row]:
    """`make run` on a fresh clone, with the wheels at hand; and the second time."""
    folder = Path(tempfile.mkdtemp(prefix="ipt-bench-clone-"))
    clone = folder / "fresh clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    try:
        subprocess.run(["make", "--no-print-directory", ".venv/.locked"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(clone / ".venv")  # what pip keeps is now at hand
        for work, aim in (("`make run` ready, from nothing with wheels at hand", 60.0), ("`make run` ready, the second time", 15.0)):
            port = free_port()
            started = time.perf_counter()
            with process(["make", "run"], {**os.environ, "IPT_PORT": str(port)}, f"http://127.0.0.1:{port}/health/ready", folder=clone, within=240):
                yield at_most(work, "s", time.perf_counter() - started, None, aim)
    finally:
        subprocess.run(["make", "--no-print-directory", "clean"], cwd=clone, check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


def processes(stage: Stage, _heard: Heard) -> Iterator[Row]:
    """Two processes beside one, on what asks the database for little: the catalogue."""
    with service(stage) as one, service(stage, IPT_PROCESSES="2") as two:
        first, second = alternating(
            ROUNDS,
            lambda: drive(one, [("GET", "/v1/instruments/PHQ-9", "")], {}, seconds=SECONDS),
            lambda: drive(two, [("GET", "/v1/instruments/PHQ-9", "")], {}, seconds=SECONDS),
        )
    yield at_least("two processes, on the catalogue", "reads/s", second, first, 1.7, "of one process; the load tool needs a core as well")


def clock(stage: Stage, heard: Heard) -> Iterator[Row]:
    """One partner, 16 writers, each commit slowed by 3 ms, a dump running: what the one row of the change clock lets through."""
    script = replay.pgbench_script(heard.writing, HEARD, NUMBERED)
    runs = iter(range(int(time.time()) // 10 % 15_000, 10**9))
    slow = [f"ALTER ROLE ipt_service SET commit_delay = {SLOWED_US}", "ALTER ROLE ipt_service SET commit_siblings = 0"]
    asyncio.run(stage.sql(*slow, "SELECT 1"))
    try:
        with service(stage) as address, dumping(stage):
            headers = {"Authorization": f"Bearer {token(stage, address)}", "Content-Type": "application/json", "Idempotency-Key": "$KEY"}
            ours, same = alternating(
                ROUNDS,
                lambda: drive(address, recording(), headers, seconds=SECONDS, connections=WRITERS),
                lambda: pgbench(stage.url("ipt_service"), script, seconds=SECONDS, clients=WRITERS, run=next(runs)),
            )
    finally:
        asyncio.run(stage.sql("ALTER ROLE ipt_service RESET commit_delay", "ALTER ROLE ipt_service RESET commit_siblings", "SELECT 1"))
    pairs = type(same)(same.per_second * 2, same.p50_ms)  # a script is two transactions
    yield at_least("one partner's ceiling: 16 writers, commits + 3 ms, a dump", "writes/s", ours, pairs, None, "of pgbench, the same statements")


@contextmanager
def dumping(stage: Stage) -> Iterator[None]:
    """Dump the database over and over until the block ends."""
    ends = threading.Event()
    codes: list[int] = []

    def dump() -> None:
        while not ends.is_set():
            codes.append(subprocess.run(["pg_dump", "-f", os.devnull, stage.url(embedded.SUPERUSER)], check=False).returncode)

    dumper = threading.Thread(target=dump)
    dumper.start()
    try:
        yield
    finally:
        ends.set()
        dumper.join()
        if any(codes):
            raise RuntimeError("pg_dump failed: nothing was dumped meanwhile")


def rules(_stage: Stage, _heard: Heard) -> Iterator[Row]:
    """The pure rules."""
    import timeit  # noqa: PLC0415

    from bench.rules import AIM_US, CALLS, work  # noqa: PLC0415

    for name, call in work():
        call()
        yield at_most(name, "us", min(timeit.repeat(call, number=CALLS, repeat=9)) / CALLS * 1e6, None, AIM_US, "pure")
