"""Growth: the hot paths on a large database beside the same on a small one, in one run."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.freezing import freezing
from bench.http import ROUNDS, SECONDS, phase_of, recording, token_of
from bench.load import Measured, drive
from bench.stage import COURSES_FOR_10_000_SESSIONS, Stage, service, stage, token
from bench.table import Row, alternating

AIM = 1.2
SESSIONS_A_COURSE = 10.3  # of the synthetic cohort, on average
FEW = 4  # connections: what is asked is the time of one answer, not what the machine lets through


def growth(sessions: int, home: Path | None) -> Iterator[Row]:
    """Compare the p50 of each hot path in a database with so many sessions with that in one of 10,000; then freeze a quarter of it."""
    with ExitStack() as stack:
        small = stack.enter_context(stage(COURSES_FOR_10_000_SESSIONS))
        large = stack.enter_context(stage(round(sessions / SESSIONS_A_COURSE), home=home))
        held = [int(stack_rows[0][0]) for stack_rows in (_count(small), _count(large))]
        addresses = [stack.enter_context(service(each)) for each in (small, large)]
        for work, asked in (("read a course's phase", _reads), ("record a session and its PHQ-9", _writes), ("sync pull, 200 rows", _pulls)):
            drives = [asked(each, address) for each, address in zip((small, large), addresses, strict=True)]
            few, many = alternating(ROUNDS, *drives)
            assert few.p50_ms
            assert many.p50_ms
            ratio = many.p50_ms / few.p50_ms
            note = f"p50 with {held[1]:,} sessions, beside {held[0]:,}"
            yield Row(f"growth: {work}", "ms", many.p50_ms, few.p50_ms, ratio, f"<= {AIM}", ratio <= AIM, many.p50_ms, many.p99_ms, note)
        yield from freezing(large)


def _count(found: Stage) -> list[Any]:
    import asyncio  # noqa: PLC0415

    return asyncio.run(found.sql("SELECT count(*) FROM session"))


def _reads(found: Stage, address: str) -> Any:
    bearer = {"Authorization": f"Bearer {token(found, address)}"}
    return lambda: _driven(address, [("GET", phase_of(c), "") for c in found.courses], bearer)


def _writes(found: Stage, address: str) -> Any:
    headers = {"Authorization": f"Bearer {token(found, address)}", "Content-Type": "application/json", "Idempotency-Key": "$KEY"}
    return lambda: _driven(address, recording(), headers)


def _pulls(found: Stage, address: str) -> Any:
    bearer = {"Authorization": f"Bearer {token_of(found, address, 'phone')}"}
    return lambda: _driven(address, [("GET", "/v1/sync/pull?since=0&limit=200", "")], bearer)


def _driven(address: str, requests: list[tuple[str, str, str]], headers: dict[str, str]) -> Measured:
    return drive(address, requests, headers, seconds=SECONDS, connections=FEW)
