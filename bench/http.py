"""Reading, writing, synchronising and released tables over HTTP, each beside what it is held against."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from bench import replay
from bench.load import Measured, drive, pgbench
from bench.stage import NUMBERED, PHQ9, Stage, clinician_token, numbered, reference, service, token
from bench.table import Row, alternating, at_least, at_most

SECONDS, ROUNDS = 5.0, 5
HEARD = 7  # the numbered course of which the service is heard
BATCH = 100
PULLED = 1_000


class Caller:
    """A client of the service that asks one thing after another."""

    def __init__(self, address: str, bearer: str) -> None:
        self.address, self.headers = address, {"Authorization": f"Bearer {bearer}"}

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {**self.headers, "Content-Type": "application/json"} | ({"Idempotency-Key": str(uuid4())} if method == "POST" else {})
        with urllib.request.urlopen(urllib.request.Request(self.address + path, data, headers, method=method), timeout=30) as answer:
            return json.load(answer)


def phase_of(course: str) -> str:
    return f"/v1/episodes/{course}/phase"


def session_and_answers() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a held session, and a PHQ-9 of the same day."""
    at = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    session = {"status": "held", "starts_at": at, "minutes": 50, "mode": "video", "mood": 5, "therapist_activity": 4, "risk_asked": True}
    return session, {"instrument": "PHQ-9", "answers": PHQ9, "answered_at": at}


def recording() -> list[tuple[str, str, str]]:
    """Return what a clinician's app sends after a session, for each numbered course: the session, then the PHQ-9."""
    session, answers = map(json.dumps, session_and_answers())
    return [
        ("POST", f"/v1/episodes/{numbered(2, n)}/{what}", body)
        for n in range(1, NUMBERED + 1)
        for what, body in (("sessions", session), ("assessments", answers))
    ]


class Heard:
    """What the service says to PostgreSQL for each piece of work, as PostgreSQL wrote it down."""

    def __init__(self, stage: Stage, pulled: str) -> None:
        self.read_course, self.pulled = stage.courses[5], pulled
        asyncio.run(replay.listening(stage))
        try:
            with service(stage) as address:
                self._listen(stage, Caller(address, token(stage, address)), Caller(address, token_of(stage, address, "phone")))
        finally:
            asyncio.run(replay.not_listening(stage))

    def _listen(self, stage: Stage, app: Caller, device: Caller) -> None:
        session, answers = session_and_answers()
        course = numbered(2, HEARD)

        def twice(act: Any, of: str) -> list[replay.Transaction]:
            act()  # the first time, statements are prepared and answers kept
            return replay.heard(stage.log, act, of=of)

        read = twice(lambda: app("GET", phase_of(self.read_course)), self.read_course)
        self.reading = [s for s in read[0].statements if s.sql.startswith("SELECT")]
        self.writing = [
            next(t for t in twice(lambda p=path, b=body: app("POST", f"/v1/episodes/{course}/{p}", b), course) if t.statements[-1].sql == "COMMIT")
            for path, body in (("sessions", session), ("assessments", answers))
        ]
        pull = twice(lambda: device("GET", self.pulled), str(stage.partner_id))
        self.rows = [s for t in pull for s in t.statements if "max(" in s.sql and "patient_key" in s.sql]
        assert len(self.rows) == 1, "one statement brings the page"


def token_of(stage: Stage, address: str, clinician: str, device: str | None = None) -> str:
    """Return a token that acts for a clinician of the numbered courses: `lead`, or `phone` of those that are pulled."""
    found = Caller(address, token(stage, address))("GET", f"/v1/clinicians?subject=bench%7C{clinician}")
    return clinician_token(stage, address, found["items"][0]["id"], device)


def reading(stage: Stage, heard: Heard) -> Iterator[Row]:
    """The phase of a course: a token, confinement, the facts of the gates, an audit row that is durable, an ETag."""
    with service(stage) as address, reference(stage, heard.read_course, {"transaction": heard.reading}) as bare:
        bearer = {"Authorization": f"Bearer {token(stage, address)}"}
        ours, same, plain = alternating(
            ROUNDS,
            lambda: drive(address, [("GET", phase_of(c), "") for c in stage.courses], bearer, seconds=SECONDS),
            lambda: drive(bare, [("GET", f"/transaction/{c}", "") for c in stage.courses], {}, seconds=SECONDS),
            lambda: drive(bare, [("GET", f"/plain/{c}", "") for c in stage.courses], {}, seconds=SECONDS),
        )
    yield at_least("read a course's phase", "reads/s", ours, same, 0.60, "of bare ASGI + asyncpg, the same transaction")
    yield at_least("read a course's phase, beside a bare row by its key", "reads/s", ours, plain, None, "of bare ASGI + asyncpg, SELECT by key")


def writing(stage: Stage, heard: Heard) -> Iterator[Row]:
    """A session and its PHQ-9: idempotent, audited, in the feed, scored, looked at for risk."""
    script = replay.pgbench_script(heard.writing, HEARD, NUMBERED)
    runs = iter(range(int(time.time()) // 10 % 15_000, 10**9))
    with service(stage) as address:
        headers = {"Authorization": f"Bearer {token(stage, address)}", "Content-Type": "application/json", "Idempotency-Key": "$KEY"}
        ours, same = alternating(
            ROUNDS,
            lambda: _pairs(drive(address, recording(), headers, seconds=SECONDS)),
            lambda: pgbench(stage.url("ipt_service"), script, seconds=SECONDS, run=next(runs)),
        )
    yield at_least("record a session and its PHQ-9", "pairs/s", ours, same, 0.35, "of pgbench, the same statements; a pair is two requests")
    assert ours.p50_ms
    assert ours.p99_ms
    yield at_most("record a session and its PHQ-9: p99 over p50", "ms", ours.p99_ms, ours.p50_ms, 3.0, "of each request")


def _pairs(found: Measured) -> Measured:
    return Measured(found.per_second / 2, found.p50_ms, found.p99_ms)


def pulling(stage: Stage, heard: Heard) -> Iterator[Row]:
    """A page of a pull."""
    with service(stage) as address, reference(stage, heard.read_course, {"rows": heard.rows}) as bare:
        bearer = {"Authorization": f"Bearer {token_of(stage, address, 'phone')}"}
        number = len(Caller(address, bearer["Authorization"].split()[1])("GET", heard.pulled)["changes"])
        ours, same = alternating(
            ROUNDS,
            lambda: drive(address, [("GET", heard.pulled, "")], bearer, seconds=SECONDS, connections=4),
            lambda: drive(bare, [("GET", "/rows", "")], {}, seconds=SECONDS, connections=4),
        )
    ours, same = (Measured(m.per_second * number, m.p50_ms, m.p99_ms) for m in (ours, same))
    yield at_least(f"sync pull, pages of {number}", "rows/s", ours, same, 0.60, "of bare asyncpg + orjson, the same rows, sealed as they are")


def pushing(stage: Stage, _heard: Heard) -> Iterator[Row]:
    """Answers pushed by a device, a hundred at a time, beside as many POSTs one after another."""
    _, answers = session_and_answers()
    with service(stage) as address:
        app = Caller(address, token(stage, address))
        device_id = str(uuid4())
        device = Caller(address, token_of(stage, address, "lead", device_id))

        def batch() -> float:
            mutations = [
                {"mutation_id": str(uuid4()), "entity": "assessment", "id": str(uuid4()), "op": "create", "fields": {"episode_id": course, **answers}}
                for course in (numbered(2, n) for n in range(101, 101 + BATCH))
            ]
            started = time.perf_counter()
            results = device("POST", "/v1/sync/push", {"client_id": device_id, "mutations": mutations})["results"]
            assert {r["status"] for r in results} == {"applied"}, results[0]
            return (time.perf_counter() - started) / BATCH

        def posts() -> float:
            started = time.perf_counter()
            for n in range(101, 101 + BATCH):
                app("POST", f"/v1/episodes/{numbered(2, n)}/assessments", answers)
            return (time.perf_counter() - started) / BATCH

        batch(), posts()
        pairs = [(batch(), posts()) for _ in range(ROUNDS)]
    ours, post = (sorted(each)[ROUNDS // 2] * 1000 for each in zip(*pairs, strict=True))
    yield at_most("sync push, one mutation of a batch of 100", "ms", ours, post, 0.30, "of one POST of the same, one client")


def released(stage: Stage, _heard: Heard) -> Iterator[Row]:
    """A table that was released, beside a plain read of the service."""
    from app.cli_outcomes import freeze_now  # noqa: PLC0415 - brings the libraries of noise along

    asyncio.run(freeze_now(stage.settings, stage.partner_id))
    with service(stage) as address:
        bearer = {"Authorization": f"Bearer {token(stage, address)}"}
        analyst = token(stage, address, grant_type="client_credentials", scope="outcomes:read")
        tables = Caller(address, analyst)("GET", "/v1/outcomes/tables")["tables"]
        table, plain = alternating(
            ROUNDS,
            lambda: drive(
                address, [("GET", f"/v1/outcomes/tables/{t['id']}", "") for t in tables[:20]], {"Authorization": f"Bearer {analyst}"}, seconds=SECONDS
            ),
            lambda: drive(address, [("GET", phase_of(c), "") for c in stage.courses], bearer, seconds=SECONDS),
        )
    ratio = plain.per_second / table.per_second
    yield Row(
        *("anonymised table, released already", "reads/s", table.per_second, plain.per_second, ratio, "<= 1.5", ratio <= 1.5),
        *(table.p50_ms, table.p99_ms, "cost of one, of the fastest read of a chart (the phase)"),
    )


def memory(stage: Stage, _heard: Heard) -> Iterator[Row]:
    """The memory of one process after 100,000 requests."""
    import psutil  # noqa: PLC0415 - of the tools for tests

    with service(stage) as address:
        headers = {"Authorization": f"Bearer {token(stage, address)}", "Content-Type": "application/json", "Idempotency-Key": "$KEY"}
        mix = [r for pair in zip([("GET", phase_of(c), "") for c in stage.courses] * 2, recording(), strict=False) for r in pair]
        port = int(address.rpartition(":")[2])
        mine = next(c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port)
        done, sizes, started = 0.0, [], time.monotonic()
        while done < 100_000:
            headers["Authorization"] = f"Bearer {token(stage, address)}"  # ten minutes may pass
            before = time.monotonic()
            done += drive(address, mix, headers, seconds=30).per_second * (time.monotonic() - before)
            sizes.append(psutil.Process(mine).memory_info().rss / 2**20)
        half = len(sizes) // 2
    taken = time.monotonic() - started
    yield at_most("memory of one process after 100,000 requests", "MB", sizes[-1], None, 150, f"{sizes[0]:.0f} MB at first, {taken:.0f} s in all")
    yield at_most("memory: growth over the second half", "MB", max(0.0, sizes[-1] - sizes[half]), None, 5)
