"""The database away, a commit that fails, a process that stops: nothing half, nothing lost, nothing said too early."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy.engine import make_url

from app import embedded
from app.api.traffic import Traffic
from app.keys.provider import create_key_file
from app.launch import migrate
from app.main import COLLECTS_AFTER
from app.store.database import Database, DatabaseAway, OutcomeUnknown, Unsafe, check_durability, check_login
from tests.conftest import HOME, Clock, Service, run_sql, settings_of
from tests.driver import now


def test_an_answer_leaves_only_after_its_commit(own_service, fresh_database):
    """A deferred trigger makes COMMIT itself fail: the client must not have been told that it worked."""
    run_sql(
        fresh_database,
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$",
        "CREATE CONSTRAINT TRIGGER fails AFTER INSERT ON goal DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()",
    )
    with own_service.partner() as partner:
        episode = partner.add_episode()
        key = str(uuid4())
        answer = partner.send("POST", f"{episode.path}/goals", {"text": "x"}, Idempotency_Key=key)
        assert answer.status_code == 500
        assert answer.json()["type"] == "/problems/failure"
        assert partner.get(f"{episode.path}/goals")["items"] == []
        run_sql(fresh_database, "DROP TRIGGER fails ON goal")
        assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}, Idempotency_Key=key).status_code == 201


def test_a_serialization_failure_is_retried_inside(own_service, fresh_database):
    run_sql(
        fresh_database,
        "CREATE SEQUENCE tries",
        "GRANT USAGE ON SEQUENCE tries TO ipt_service",
        "CREATE FUNCTION sometimes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('tries') < 3 THEN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER sometimes BEFORE INSERT ON goal FOR EACH ROW EXECUTE FUNCTION sometimes()",
    )
    with own_service.partner() as partner:
        episode = partner.add_episode()
        assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}).status_code == 201
        assert len(partner.get(f"{episode.path}/goals")["items"]) == 1


def test_when_the_audit_row_cannot_be_written_the_request_fails(own_service, fresh_database):
    with own_service.partner() as partner:
        episode = partner.add_episode()
        run_sql(fresh_database, "REVOKE INSERT ON audit_event FROM ipt_audit, ipt_service")
        read = partner.send("GET", episode.path)
        write = partner.send("POST", f"{episode.path}/goals", {"text": "x"})
        assert (read.status_code, write.status_code) == (503, 503)
        run_sql(fresh_database, "GRANT INSERT ON audit_event TO ipt_audit, ipt_service")
        assert partner.send("GET", episode.path).status_code == 200
        assert partner.get(f"{episode.path}/goals")["items"] == []


def test_the_audit_writer_outlives_a_connection_that_dies_in_its_commit(own_service, fresh_database):
    with own_service.partner() as partner:
        trail = own_service.house.trail
        whole = trail._insert
        fails = {"left": 3}

        async def breaking(entries):
            if fails["left"]:
                fails["left"] -= 1
                raise OutcomeUnknown
            await whole(entries)

        trail._insert = breaking
        statuses = [partner.send("GET", "/v1/patients").status_code for _ in range(5)]
        assert statuses == [503, 503, 503, 200, 200]


@pytest.fixture
def own_server(tmp_path):
    """A PostgreSQL of the test's own, with a service on it."""
    prefer = os.environ.get("IPT_POSTGRES", "auto")
    server = embedded.start(tmp_path / "home", prefer=prefer)
    create_key_file(tmp_path / "home" / "keys.json")
    settings = settings_of(server.url(), tmp_path / "home").model_copy(update={"keys_file": tmp_path / "home" / "keys.json"})
    migrate(settings)
    service = Service(settings, Clock()).start()
    state = {"server": server}
    yield service, state, tmp_path / "home", prefer
    service.stop()
    state["server"].stop()
    if state["server"].data.parent != tmp_path / "home":
        subprocess.run(["rm", "-rf", str(state["server"].data.parent)], check=True)


def test_the_database_away_is_a_503_within_two_seconds_and_heals_by_itself(own_server):
    service, state, home, prefer = own_server
    with service.partner() as partner:
        episode = partner.add_episode()
        assert partner.http.get("/health/ready").status_code == 200
        state["server"].stop()
        for _ in range(3):
            started = time.monotonic()
            answer = partner.send("GET", episode.path)
            assert time.monotonic() - started < 2
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert answer.json()["type"] == "/problems/unavailable"
        assert partner.http.get("/health/ready").status_code == 503
        assert partner.http.get("/health/live").status_code == 200
        assert partner.ask_token(grant_type="client_credentials").status_code == 503
        state["server"] = embedded.start(home, prefer=prefer)
        deadline = time.monotonic() + 10
        while partner.send("GET", episode.path).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}).status_code == 201


def test_a_frozen_database_is_a_503_within_two_seconds_too(own_server):
    service, state, _, _ = own_server
    with service.partner() as partner:
        episode = partner.add_episode()
        group = state["server"].process.pid
        os.killpg(group, signal.SIGSTOP)
        try:
            for backend in _children(group):
                os.kill(backend, signal.SIGSTOP)
            started = time.monotonic()
            assert partner.send("GET", episode.path).status_code == 503
            assert time.monotonic() - started < 2.5
        finally:
            for backend in _children(group):
                os.kill(backend, signal.SIGCONT)
            os.killpg(group, signal.SIGCONT)
        deadline = time.monotonic() + 10
        while partner.send("GET", episode.path).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def _children(pid):
    import psutil  # noqa: PLC0415

    return [p.pid for p in psutil.Process(pid).children(recursive=True)]


def test_acknowledged_writes_survive_an_immediate_stop(own_server):
    service, state, home, prefer = own_server
    acknowledged, stop = [], threading.Event()
    with service.partner() as partner:
        episode = partner.add_episode()

        def write():
            while not stop.is_set():
                answer = partner.send("POST", f"{episode.path}/goals", {"text": "x"})
                if answer.status_code == 201:
                    acknowledged.append(answer.json()["id"])

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        state["server"].process.send_signal(signal.SIGQUIT)
        state["server"].process.wait(10)
        time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join()
        state["server"].stop()
        state["server"] = embedded.start(home, prefer=prefer)
        deadline = time.monotonic() + 10
        while partner.send("GET", episode.path).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        kept, cursor = set(), ""
        while cursor is not None:
            page = partner.get(f"{episode.path}/goals?limit=200{cursor and f'&cursor={cursor}'}")
            kept |= {g["id"] for g in page["items"]}
            cursor = page["next"]
        assert len(acknowledged) > 5
        assert set(acknowledged) <= kept


def test_readiness_waits_for_the_migrations_and_does_not_mind_a_database_ahead(own_service, fresh_database):
    http = httpx.Client(base_url=own_service.base_url)
    assert http.get("/health/ready").status_code == 200
    run_sql(fresh_database, "UPDATE alembic_version SET version_num = '0001'")
    behind = http.get("/health/ready")
    assert behind.status_code == 503
    assert "ipt migrate" in behind.json()["detail"]
    run_sql(fresh_database, "UPDATE alembic_version SET version_num = '9999'")
    assert http.get("/health/ready").status_code == 200
    http.close()


def test_the_service_refuses_a_login_that_row_security_does_not_bind(fresh_database):
    async def check(role):
        database = Database(fresh_database, role, pool_size=1)
        try:
            await check_login(database)
        finally:
            await database.close()

    asyncio.run(check("ipt_service"))
    for role in ("ipt_admin", "ipt_owner", "ipt_backup"):
        with pytest.raises(Unsafe):
            asyncio.run(check(role))


def test_the_service_refuses_a_server_that_forgets_commits(fresh_database):
    async def check():
        database = Database(fresh_database, "ipt_service", pool_size=1)
        try:
            await check_durability(database)
        finally:
            await database.close()

    with pytest.raises(Unsafe, match="fsync"):
        asyncio.run(check())  # the tests' own server runs without durability


def test_a_stop_under_load_answers_what_it_has_taken(fresh_database, tmp_path):
    """SIGTERM while requests are under way: each of them is answered, and the process ends."""
    url = make_url(fresh_database)
    env = os.environ | {
        "IPT_HOME": str(tmp_path),
        "IPT_KEYS_FILE": os.environ["IPT_TEST_HOME"] + "/keys.json",
        "IPT_DATABASE_URL": url.set(username="ipt_service").render_as_string(hide_password=False),
        "IPT_AUDIT_DATABASE_URL": url.set(username="ipt_audit").render_as_string(hide_password=False),
        "IPT_MIGRATION_DATABASE_URL": fresh_database,
        "IPT_EMBEDDED_DURABLE": "false",
        "IPT_LOG_LEVEL": "error",
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "app.cli", "serve"], env=env | {"IPT_PORT": str(port)}, stdout=subprocess.PIPE, text=True)
    base = f"http://127.0.0.1:{port}"
    assert "Serving on" in process.stdout.readline()
    maker = Service.__new__(Service)
    maker.settings, maker.base_url = settings_of(fresh_database, tmp_path).model_copy(update={"port": port}), base
    with process, maker.partner() as partner:
        episode = partner.add_episode()
        results = []

        def write():
            with httpx.Client(base_url=base, timeout=20) as http:
                for _ in range(200):
                    try:
                        answer = http.post(
                            f"{episode.path}/sessions",
                            json={"starts_at": now(days=1), "status": "held", "minutes": 50},
                            headers={"Authorization": f"Bearer {partner.token}"},
                        )
                    except httpx.ConnectError:
                        return
                    except httpx.TransportError as error:
                        results.append(repr(error))
                        return
                    results.append(answer.status_code)

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while len(results) <= 10:  # well under way, however slow the machine
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0 or process.returncode == -signal.SIGTERM
        for thread in threads:
            thread.join()
        cut = [r for r in results if r != 201]
        assert len([r for r in results if r == 201]) > 10
        assert all("disconnected" in str(r) or "RemoteProtocolError" in str(r) or "ReadError" in str(r) for r in cut)


def test_more_at_once_than_a_process_can_answer_waits_for_a_place_then_is_refused_and_health_goes_on(fresh_database, tmp_path, monkeypatch):
    monkeypatch.setattr("app.api.traffic.MOST_UNDER_WAY", 2)
    monkeypatch.setattr("app.api.traffic.WAITS_SECONDS", 0.3)
    run_sql(
        fresh_database,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1.2); RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE INSERT ON goal FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    service = Service(settings_of(fresh_database, tmp_path).model_copy(update={"keys_file": Path(os.environ[HOME]) / "keys.json"}), Clock()).start()
    try:
        with service.partner() as partner, ThreadPoolExecutor(8) as pool:
            episodes = [partner.add_episode() for _ in range(8)]
            answers = list(pool.map(lambda e: partner.send("POST", f"{e.path}/goals", {"text": "x"}), episodes))
            slow = pool.submit(lambda: [partner.send("POST", f"{e.path}/goals", {"text": "y"}) for e in episodes[:2]])
            assert partner.http.get("/health/live").status_code == 200
            assert partner.http.get("/health/ready").status_code == 200
            slow.result()
            assert partner.send("GET", f"{episodes[0].path}/phase").status_code == 200, "every place was given back"
    finally:
        service.stop()
    statuses = sorted(a.status_code for a in answers)
    assert statuses == [201] * 2 + [503] * 6
    refused = next(a for a in answers if a.status_code == 503)
    assert refused.json()["type"] == "/problems/unavailable"
    assert refused.headers["retry-after"]


def test_a_connection_that_dies_in_the_middle_of_a_request_is_a_503_and_in_its_commit_an_unknown_outcome(own_service, fresh_database):
    dies = "CREATE FUNCTION dies() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"
    run_sql(fresh_database, dies, "CREATE TRIGGER dies BEFORE INSERT ON goal FOR EACH ROW EXECUTE FUNCTION dies()")
    with own_service.partner() as partner:
        episode, key = partner.add_episode(), str(uuid4())
        assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}, Idempotency_Key=key).status_code == 503
        run_sql(
            fresh_database,
            "DROP TRIGGER dies ON goal",
            "CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON goal DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dies()",
        )
        unknown = partner.send("POST", f"{episode.path}/goals", {"text": "x"}, Idempotency_Key=key)
        assert (unknown.status_code, unknown.json()["type"]) == (503, "/problems/outcome-not-known")
        run_sql(fresh_database, "DROP TRIGGER dies ON goal")
        assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}, Idempotency_Key=key).status_code == 201
        assert len(partner.get(f"{episode.path}/goals")["items"]) == 1


def test_a_database_that_takes_no_writes_is_not_ready(own_service, fresh_database):
    name = make_url(fresh_database).database
    run_sql(fresh_database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    run_sql(fresh_database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
    with httpx.Client(base_url=own_service.base_url, timeout=10) as http:
        ready = http.get("/health/ready")
    assert (ready.status_code, "read-only" in ready.json()["detail"]) == (503, True)


def test_who_floods_the_health_address_does_not_starve_the_copy_of_revocations(own_service):
    looked = []
    poll = own_service.house.door.refresh

    async def counted():
        await poll()
        looked.append(time.monotonic())

    own_service.house.door.refresh = counted
    ends = time.monotonic() + 7

    def flood(_):
        with httpx.Client(base_url=own_service.base_url, timeout=10) as http:
            while time.monotonic() < ends:
                assert http.get("/health/ready").status_code == 200

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(flood, range(24)))
    assert len(looked) >= 3
    assert max(b - a for a, b in pairwise(looked)) < 3


def test_bodies_that_trickle_and_answers_that_nobody_reads_hold_no_place(fresh_database, tmp_path, monkeypatch):
    """A phone on a bad line, or somebody who means ill: the others are answered meanwhile."""
    monkeypatch.setattr("app.api.traffic.MOST_UNDER_WAY", 2)
    monkeypatch.setattr("app.api.traffic.WAITS_SECONDS", 0.3)
    settings = settings_of(fresh_database, tmp_path).model_copy(update={"keys_file": Path(os.environ[HOME]) / "keys.json", "docs": True})
    service = Service(settings, Clock()).start()
    open_ended = []
    try:
        with service.partner() as partner:
            assert partner.http.get("/openapi.json").status_code == 200  # built by now
            head = f"Host: {service.settings.host}\r\nAuthorization: Bearer {partner.token}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
            form = "Host: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\n"
            for sent in [f"POST /v1/patients HTTP/1.1\r\n{head}{{"] * 5 + [f"POST /oauth/token HTTP/1.1\r\n{form}g"] * 5:
                open_ended.append(socket.create_connection((service.settings.host, service.settings.port)))
                open_ended[-1].sendall(sent.encode())
            for _ in range(5):
                open_ended.append(socket.socket())
                open_ended[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                open_ended[-1].connect((service.settings.host, service.settings.port))
                open_ended[-1].sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.5)
            for _ in range(5):
                assert partner.send("GET", "/v1/patients").status_code == 200
    finally:
        for each in open_ended:
            each.close()
        service.stop()


def test_an_answer_that_nobody_reads_holds_no_place(monkeypatch):
    monkeypatch.setattr("app.api.traffic.MOST_UNDER_WAY", 1)
    monkeypatch.setattr("app.api.traffic.WAITS_SECONDS", 0.2)

    async def answers(_scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def body():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def both():
        traffic, read, sent = Traffic(answers), asyncio.Event(), []

        async def to_nobody(message):
            if message["type"] == "http.response.body":
                await read.wait()

        async def to_a_reader(message):
            sent.append(message.get("status"))

        def scope():
            return {"type": "http", "method": "GET", "path": "/v1/x", "headers": [], "query_string": b""}

        greedy = asyncio.create_task(traffic(scope(), body, to_nobody))
        await asyncio.sleep(0.05)
        await traffic(scope(), body, to_a_reader)
        read.set()
        await greedy
        return sent[0]

    assert asyncio.run(both()) == 200


def test_a_process_that_is_stopping_says_so_to_the_balancer(own_service):
    with httpx.Client(base_url=own_service.base_url) as http:
        assert http.get("/health/ready").status_code == 200
        own_service.house.stopping.set()
        assert (http.get("/health/ready").status_code, http.get("/health/live").status_code) == (503, 200)


@pytest.mark.usefixtures("own_service")
def test_the_collector_runs_rarely_while_the_service_is_up():
    assert gc.get_threshold()[0] == COLLECTS_AFTER >= 10_000
    assert gc.get_freeze_count() > 10_000


def test_a_commit_that_postgresql_turned_into_a_rollback_is_not_taken_for_one(on_database):
    async def job(database):
        async with database.transaction(None) as connection:
            with suppress(Exception):
                await connection.script("SELECT nothing FROM nowhere")
            await connection.commit()

    with pytest.raises(RuntimeError, match="ROLLBACK"):
        on_database(job)


def test_jobs_that_go_through_everything_may_take_longer_than_an_answer_may(fresh_database):
    async def slept(seconds):
        database = Database(fresh_database, "ipt_worker", pool_size=1, statement_seconds=seconds)
        try:
            async with database.transaction(None) as connection:
                await connection.script("SELECT pg_sleep(1.5)")
        finally:
            await database.close()

    asyncio.run(slept(None))
    asyncio.run(slept(5))
    with pytest.raises(DatabaseAway):
        asyncio.run(slept(1))
