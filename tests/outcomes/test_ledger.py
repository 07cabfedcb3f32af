"""The ledger: raced by many clients, killed in the middle, restored from before; the networks and the standard pack; and what logs say (A9, A15)."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import httpx
import pytest

from app.actions.journal import Journal
from app.actions.privacy_caps import close_quarters
from app.domain.outcome_tables import NETWORKS, STANDARD_PACK, dimensions, network_is_open
from app.keys.provider import read_key_ring
from app.launch import owner_of
from app.releasing import freeze_networks, freeze_partner, reconcile
from tests.conftest import NOTED, Clock, Service, run_sql, settings_of
from tests.outcomes.conftest import (
    ATTACK,
    PERIOD,
    SHOWN_AFTER,
    Population,
    as_worker,
    ask_until_answered,
    journal_of,
    later,
    periods,
    release,
    values_of,
)

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [[a, b] for a in dimensions() for b in dimensions() if a < b]


def environment(settings, **more):
    names = ("database_url", "audit_database_url", "worker_database_url", "migration_database_url")
    own = {f"IPT_{n.upper()}": getattr(settings, n) for n in names}
    own |= {"IPT_KEYS_FILE": str(settings.keys_path), "IPT_HOME": str(settings.home), "IPT_EMBEDDED_DURABLE": "false", "IPT_PORT": str(settings.port)}
    return {**os.environ, **own, "PYTHONPATH": str(ROOT), "IPT_REQUESTS_PER_SECOND": "100000", "IPT_TOKENS_PER_MINUTE": "100000", **more}


class Process:
    """A server or a worker as a process of its own, which can be killed and started anew. What it prints is kept."""

    def __init__(self, command, settings, log, **more):
        self.command, self.environment, self.log = [sys.executable, "-m", "app.cli", command], environment(settings, **more), log
        self.settings, self.process = settings, None

    def start(self):
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self.command, cwd=ROOT, env=self.environment, stdout=out, stderr=out)
        return self

    def ready(self):
        for _ in range(300):
            try:
                if httpx.get(f"http://127.0.0.1:{self.settings.port}/health/ready").status_code == 200:
                    return self
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def test_sixty_four_clients_racing_for_a_budget_never_pass_its_cap(population, record_property):
    population.freeze([(300, {})])
    clients = []
    for n in range(64):
        made = population.partner.post("/v1/clients", {"name": f"racer-{n}", "scopes": ["outcomes:read"]})
        clients.append((made["client_id"], made["client_secret"]))
    with (
        httpx.Client(base_url=population.partner.base_url, timeout=60, limits=httpx.Limits(max_connections=64)) as http,
        ThreadPoolExecutor(64) as pool,
    ):
        tokens = [http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=c).json()["access_token"] for c in clients]
        chance, gate = random.Random(9), threading.Barrier(64)
        questions = [population.question("counts", dims, epsilon=e) for dims in PAIRS for e in (0.25, 0.5)][:20]

        def race(token):
            gate.wait()
            own = chance.sample(questions, 6 if ATTACK else 3)
            return [ask_until_answered(http, q, token) for q in own]

        answers = [a for some in pool.map(race, tokens) for a in some]
    told = Counter((a.status_code, a.json().get("type")) for a in answers)
    assert set(told) <= {(202, None), (200, None), (409, "/problems/privacy-budget-spent")}, told
    rows = population.ask_database("SELECT * FROM outcome_budget WHERE partner_id = $1", population.id)
    spends = Counter()
    for spend in population.ask_database("SELECT * FROM outcome_spend WHERE partner_id = $1", population.id):
        spends[spend["scope"]] += spend["micro_epsilon"]
    assert all(r["spent"] <= r["cap"] for r in rows)
    assert {r["scope"]: r["spent"] for r in rows if r["spent"]} == dict(spends), "every charge has its line"
    releases = population.ask_database("SELECT * FROM outcome_release WHERE partner_id = $1", population.id)
    assert sum(r["micro_epsilon"] for r in releases) == population.spent() <= 2_000_000
    assert len({bytes(r["release_key"]) for r in releases}) == len(releases)
    release(population.service)
    assert population.ask_database("SELECT 1 FROM outcome_release WHERE partner_id = $1 AND released_at IS NULL", population.id) == []
    record_property(
        "tried",
        f"A9: 64 clients, {len(answers)} questions: {len(releases)} released for {population.spent() / 1e6} of 2.0, {told[(409, '/problems/privacy-budget-spent')]} refused, over the cap 0",
    )


def test_kills_in_the_middle_lose_no_charge_and_show_no_second_answer_and_logs_hold_no_count_and_no_patient(
    databases, worker_name, tmp_path, record_property
):
    kills = 100 if ATTACK else 3
    url = databases.create(f"ipt_kill_{worker_name}_{os.urandom(3).hex()}")
    base = Service(settings_of(url, tmp_path), Clock()).start()
    partner = base.partner()
    population = Population(base, partner, url)
    population.freeze_all({key: [(90, {}), (60, {"area": "role_dispute"})] for key in periods()}, cap=4_000_000)
    settings = base.settings
    base.stop()
    log = tmp_path / "log"
    server, worker = (Process(name, settings, log, IPT_LOG_LEVEL="debug") for name in ("serve", "worker"))
    server.start().ready()
    worker.start()
    chance, done, seen = random.Random(5), threading.Event(), {}
    headers = {"Authorization": f"Bearer {population.token}"}

    def press():
        with httpx.Client(base_url=population.partner.base_url, timeout=5) as http:
            for question in (population.question("counts", dims, period=p, epsilon=0.25) for dims in PAIRS[:16] for p in periods()):
                if done.is_set():
                    return
                while not done.is_set():
                    try:
                        answer = http.post("/v1/outcomes/tables", json=question, headers=headers)
                    except httpx.HTTPError:
                        time.sleep(0.05)
                        continue
                    if answer.status_code in {200, 202}:
                        seen.setdefault(answer.json()["id"], set())
                        break

    def look():
        with httpx.Client(base_url=population.partner.base_url, timeout=5) as http:
            while not done.is_set():
                for table_id in list(seen):
                    try:
                        answer = http.get(f"/v1/outcomes/tables/{table_id}", headers=headers)
                    except httpx.HTTPError:
                        continue
                    if answer.status_code == 200 and answer.json()["status"] == "ready":
                        seen[table_id].add(answer.content)
                time.sleep(0.05)

    threads = [threading.Thread(target=press) for _ in range(3)] + [threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(kills):
            time.sleep(chance.uniform(0.2, 1.2))
            worker.kill()
            worker.start()
            if chance.random() < 0.5:
                server.kill()
                server.start().ready()
    finally:
        time.sleep(3)
        done.set()
        for thread in threads:
            thread.join()
    deadline = time.monotonic() + 30
    waiting = "SELECT 1 FROM outcome_release WHERE released_at IS NULL"
    while population.ask_database(waiting) and time.monotonic() < deadline:
        time.sleep(0.2)
    metrics = httpx.get(f"{partner.base_url}/metrics").text
    server.stop()
    worker.stop()
    releases = population.ask_database("SELECT * FROM outcome_release")
    assert all(r["released_at"] for r in releases)
    assert population.ask_database("SELECT 1 FROM outcome_job") == []
    assert {len(v) for v in seen.values()} <= {0, 1}, "whatever was killed, an answer that was shown never changes"
    assert {str(r["id"]) for r in releases} >= set(seen)
    uncharged = population.ask_database(
        "SELECT r.id FROM outcome_release r LEFT JOIN outcome_spend s ON s.partner_id = r.partner_id AND s.release_id = r.id AND s.scope = 'population' WHERE s.release_id IS NULL"
    )
    assert uncharged == []
    wrong = population.ask_database(
        "SELECT b.* FROM outcome_budget b WHERE spent <> coalesce((SELECT sum(micro_epsilon) FROM outcome_spend s WHERE s.partner_id = b.partner_id AND s.quarter = b.quarter AND s.scope = b.scope), 0) OR spent > cap"
    )
    assert wrong == []
    partner.http.close()
    look_for_counts_and_patients(population, log.read_text() + metrics, record_property)
    record_property(
        "tried",
        f"A9: {kills} kills of the worker, half of them of the server too: {len(releases)} tables, {sum(map(len, seen.values()))} seen, none twice different, none uncharged",
    )


def look_for_counts_and_patients(population, said, record_property):
    """A15: neither logs, nor metrics, nor the audit trail hold an exact count or a patient."""
    patients = {str(r["patient_id"]) for r in population.ask_database("SELECT patient_id FROM outcome_fact")}
    trail = json.dumps([str(dict(r)) for r in population.ask_database("SELECT route, resources, patients, reason FROM audit_event")])
    found = set(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", said + trail))
    for text in (said, trail):
        assert not re.search(r"(?<![\w.-])(1237|613|1850|6185|3065|9250)(?![\w.-])", text)
    assert not found & patients
    assert "outcome_table/" in trail
    record_property("tried", f"A15: {len(said)} characters of logs and metrics, {len(trail)} of the audit trail: exact counts 0, patients 0")


def test_a_database_restored_from_before_a_release_shows_the_same_numbers_and_has_paid(databases, worker_name, tmp_path, record_property):
    name = f"ipt_back_{worker_name}_{os.urandom(3).hex()}"
    url = databases.create(name)
    before = Service(settings_of(url, tmp_path), Clock()).start()
    with before.partner() as partner:
        population = Population(before, partner, url)
        population.freeze([(150, {}), (40, {"area": "role_dispute"})])
        before.stop()
        databases.drop(f"{name}_copy")
        copy = databases.create(f"{name}_copy", template=name)  # the backup
        run_sql(copy, "DELETE FROM installation", NOTED)
        again = Service(settings_of(url, tmp_path), Clock()).start()
        move_to(population, again, url)
        shown = population.answer("counts", ["area"], epsilon=1.0)
        journal = journal_of(again)
        again.stop()
        restored = Service(settings_of(copy, tmp_path), Clock()).start()
        move_to(population, restored, copy)
        assert population.spent() == 0, "the backup has forgotten"
        assert as_worker(restored, lambda database: reconcile(database, journal, later())) == 1
        assert as_worker(restored, lambda database: reconcile(database, journal, later())) == 0
        assert population.spent() == 1_000_000
        asked = population.ask("counts", ["area"], epsilon=1.0)
        time.sleep(SHOWN_AFTER)
        assert population.table(asked.json()["id"]) == shown
        assert population.spent() == 1_000_000
        closed = asyncio.run(_closed(restored.settings))
        assert closed >= 2
        assert population.ask("recovery", ["sex"], epsilon=0.25).status_code == 409
        restored.stop()
    record_property("tried", "A9: restored from before a release: the same numbers, charged again; without the journal every quarter can be closed")


def move_to(population, service, url):
    """Let the same partner talk to another service, on another database."""
    population.partner.http.close()
    population.service, population.url, population.partner.http = service, url, httpx.Client(base_url=service.base_url, timeout=20)
    population.token = population.new_token("outcomes:read")


async def _closed(settings):
    owner = owner_of(settings)
    try:
        return await close_quarters(owner, later())
    finally:
        await owner.close()


def test_the_journal_survives_torn_lines_and_takes_none_that_is_not_its_own(service, tmp_path):
    ring = read_key_ring(service.settings.keys_path)
    journal = Journal(tmp_path / "journal", ring)

    def line(key, n):
        return {"population": str(UUID(int=1)), "release_key": key, "n": n}

    journal.write(line("aa", 1))
    whole = journal.path.read_bytes()
    with journal.path.open("ab") as out:
        out.write(whole.strip()[:-9])  # a writer was killed in the middle: no end of line
    journal.write(line("cc", 2))
    with journal.path.open("ab") as out:
        out.write(b'["{}", "00"]\n{"half": \n[1,2]\n5\nnull\n["\\u00e9", "x"]\n\xff\xfe\n')
    journal.write(line("aa", 3))
    assert {li["release_key"]: li["n"] for li in journal.lines()} == {"aa": 3, "cc": 2}
    assert {li["release_key"]: li["n"] for li in Journal(journal.path, ring).lines()} == {"aa": 3, "cc": 2}
    assert journal.find(str(UUID(int=1)), "cc")["n"] == 2
    assert journal.find(str(UUID(int=2)), "cc") is None
    assert journal.path.stat().st_mode & 0o077 == 0


def test_without_room_for_the_journal_nothing_is_released(population, monkeypatch):
    population.freeze([(100, {})])
    asked = population.ask()
    monkeypatch.setattr("app.actions.journal.os", SimpleNamespace(**{**vars(os), "write": lambda *_: 3}))  # this module's alone
    assert release(population.service) == 0
    monkeypatch.undo()
    time.sleep(SHOWN_AFTER)
    assert population.table(asked.json()["id"])["status"] == "ordered"
    population.ask_database("UPDATE outcome_job SET ordered_at = now() WHERE population = $1", population.id)
    assert release(population.service) == 1


def test_a_database_that_went_back_under_a_running_worker_shows_what_it_had_shown(population):
    population.freeze([(150, {})])
    shown = population.answer("counts", ["area"], epsilon=1.0)
    for table in ("outcome_release", "outcome_spend"):
        population.ask_database(f"DELETE FROM {table} WHERE partner_id = $1", population.id)
    population.ask_database("UPDATE outcome_budget SET spent = 0 WHERE partner_id = $1", population.id)
    again = population.answer("counts", ["area"], epsilon=1.0)
    assert again["cells"] == shown["cells"]


def test_a_job_that_fails_waits_behind_the_others(population, other_population):
    for one in (population, other_population):
        one.freeze([(100, {})])
    bad, good = population.ask().json()["id"], other_population.ask().json()["id"]
    population.ask_database("UPDATE outcome_release SET question = question - 'family' WHERE id = $1", bad)
    release(population.service)
    time.sleep(SHOWN_AFTER)
    assert other_population.table(good)["status"] == "ready"
    [job] = population.ask_database("SELECT * FROM outcome_job WHERE population = $1", population.id)
    assert job["ordered_at"] > datetime.now(UTC)
    population.ask_database("DELETE FROM outcome_job WHERE population = $1", population.id)
    population.ask_database("DELETE FROM outcome_release WHERE partner_id = $1", population.id)


def test_a_replayed_release_is_charged_above_the_cap_and_then_nothing_is_left(population, tmp_path):
    population.freeze([(100, {})])
    service = population.service
    shown = population.answer("counts", ["area"], epsilon=1.0)
    [line] = [li for li in journal_of(service).lines() if li["id"] == shown["id"]]
    for table in ("outcome_release", "outcome_spend"):
        population.ask_database(f"DELETE FROM {table} WHERE partner_id = $1", population.id)
    population.ask_database("UPDATE outcome_budget SET spent = 0 WHERE partner_id = $1", population.id)
    population.ask_database("UPDATE outcome_budget SET cap = 500000 WHERE partner_id = $1 AND scope = 'population'", population.id)
    journal = Journal(tmp_path / "lost", read_key_ring(service.settings.keys_path))
    journal.write(line)
    assert as_worker(service, lambda database: reconcile(database, journal, later())) == 1
    assert population.spent() == 1_000_000
    assert population.ask("counts", ["sex"], epsilon=0.25).status_code == 409, "nothing is left"
    assert population.answer("counts", ["area"], epsilon=1.0) == shown, "what had been released stays open"


# networks and the standard pack


def test_every_population_gets_its_standard_pack_once_for_everybody(partner, service, database_url):
    ring = read_key_ring(service.settings.keys_path)
    population = Population(service, partner, database_url)
    as_worker(service, lambda database: freeze_partner(database, ring, UUID(population.id), later()))
    release(service)
    offer = partner.get("/v1/outcomes/tables", token=population.token)
    standard = [t for t in offer["tables"] if t["period"] == PERIOD and t["dataset"] == "partner"]
    assert Counter((t["family"], tuple(t["dimensions"]), t["micro_epsilon"]) for t in standard) == Counter(
        (f, d, int(e * 1e6)) for f, d, e in STANDARD_PACK
    )
    assert all(t["standard"] and t["status"] == "ready" for t in standard)
    assert population.spent() == 1_000_000
    family, dims, epsilon = STANDARD_PACK[0]
    asked = population.ask(family, list(dims), epsilon=epsilon)
    assert asked.status_code == 200, "free, and at once"
    assert population.spent("consumer|backend") is None
    assert as_worker(service, lambda database: freeze_partner(database, ring, UUID(population.id), later())) == 0


def test_a_network_opens_with_three_partners_none_of_them_too_large_and_a_partner_compares_itself(own_service, fresh_database):
    members = [Population(own_service, own_service.partner(), fresh_database) for _ in range(4)]
    outsider = members.pop()
    for n, one in enumerate(members):
        one.freeze_all({key: [(100 + 50 * n, {"area": "grief"}), (80, {"area": "role_dispute"})] for key in periods()})
    outsider.freeze_all({key: [(900, {"area": "grief"})] for key in periods()})

    for one, size in zip(members, (400, 300, 500), strict=True):
        one.ask_database("INSERT INTO outcome_member (partner_id, declared_patients, joined_at) VALUES ($1, $2, now())", one.id, size)
    assert as_worker(own_service, lambda database: freeze_networks(database, later())) == 24
    release(own_service)
    one = members[0]
    offer = one.partner.get("/v1/outcomes/tables", token=one.token)
    network = [p for p in offer["periods"] if p["dataset"] == "network"]
    assert {p["state"] for p in network} == {"askable"}
    assert network[0]["micro_epsilon_left"] == {"population": 0, "follow_up": 500_000}, "the pack takes all of it"
    tables = {t["family"]: one.table(t["id"]) for t in offer["tables"] if t["dataset"] == "network" and t["period"] == PERIOD}
    assert set(tables) == {"counts", "change_phq9", "recovery"}
    counts = values_of(tables["counts"], "courses")
    assert abs(counts[("grief",)]["value"] - 450) <= 40, "members only"
    assert abs(counts[("role_dispute",)]["value"] - 240) <= 40
    assert one.ask("counts", ["sex"], dataset="network", epsilon=0.25).json()["type"] == "/problems/privacy-budget-spent"
    same = outsider.partner.get(f"/v1/outcomes/tables/{tables['counts']['id']}", token=outsider.token)
    assert same["cells"] == tables["counts"]["cells"], "released for everyone"
    asked = one.ask("follow_up_3_months", ["area"], dataset="network", epsilon=0.25)
    assert asked.status_code == 202
    assert outsider.partner.send("GET", f"/v1/outcomes/tables/{asked.json()['id']}", token=outsider.token).status_code == 404
    picture = one.partner.send("GET", f"/v1/outcomes/tables/{tables['recovery']['id']}/chart.svg", token=one.token)
    assert "network" in picture.text
    for population in (*members, outsider):
        population.partner.http.close()


def test_a_network_that_is_too_small_stays_shut(own_service, fresh_database):
    with own_service.partner() as partner:
        one = Population(own_service, partner, fresh_database)
        as_worker(own_service, lambda database: freeze_networks(database, later()))
        assert one.ask(dataset="network").json()["type"] == "/problems/network-too-small"


@pytest.mark.parametrize(
    ("sizes", "is_open"),
    [((), False), ((100, 100), False), ((100, 100, 100), True), ((100, 100, 200), True), ((100, 99, 200), False), ((1, 1, 1, 1), True)],
)
def test_whether_a_network_is_open_hangs_on_what_was_declared(sizes, is_open):
    assert network_is_open(dict(enumerate(sizes))) is is_open


def test_live_and_sandbox_partners_never_meet():
    assert set(NETWORKS) == {"live", "sandbox"}
    assert NETWORKS["live"] != NETWORKS["sandbox"]
