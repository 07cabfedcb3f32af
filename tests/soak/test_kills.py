"""R4, R5, R19, R25: processes and the database killed under load. Nothing acknowledged is lost, nothing is done twice."""

import random
import threading
import time
from collections import Counter
from uuid import uuid4

import httpx

from tests.soak.history import History
from tests.soak.machine import AGAIN, UNANSWERED, Writer, finish, goals_of

WRITERS = 6
API_KILLS, DATABASE_STOPS, ENOUGH = 100, 50, 500
CLIENTS, ROWS, SECONDS = 20, 12, 60.0


def under_load(machine, api, act):
    """Let writers write while something is done to the machine; return them once they have heard of every write of theirs."""
    with machine.partner(api) as partner:
        ends = threading.Event()
        writers = [Writer(partner, api.base_url, partner.add_episode(), ends) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        act()
        finish(ends, writers, within=60)
    return writers


def lost_and_doubled(machine, writers):
    lost = doubled = 0
    for writer in writers:
        there = Counter(goals_of(machine, writer.episode))
        lost += len(set(writer.acknowledged.values()) - set(there))
        doubled += sum(n - 1 for n in there.values()) + len(set(there) - set(writer.acknowledged.values()))
    return lost, doubled


def test_r4_the_api_killed_again_and_again(machine, figure):
    api = machine.api()
    starts = []

    def act():
        for _ in range(API_KILLS):
            time.sleep(random.uniform(0.2, 1.2))
            api.kill()
            starts.append(api.start())

    writers = under_load(machine, api, act)
    lost, doubled = lost_and_doubled(machine, writers)
    number = sum(len(w.acknowledged) for w in writers)
    figure(f"{API_KILLS} kills, {number} writes acknowledged, {lost} lost, {doubled} doubled; ready again in {max(starts):.1f} s at the longest")
    assert number > ENOUGH
    assert (lost, doubled) == (0, 0)
    assert max(starts) < 5
    assert machine.ask("SELECT count(*) AS n FROM idempotency_key WHERE status IS NULL")[0]["n"] == 0


def test_r5_postgresql_stopped_at_once_again_and_again(machine, figure):
    api = machine.api()
    refused, healed = [], []

    def act():
        for _ in range(DATABASE_STOPS):
            time.sleep(random.uniform(0.5, 1.5))
            machine.stop_postgres_at_once()
            started = time.monotonic()
            answer = httpx.get(f"{api.base_url}/health/ready", timeout=10)
            refused.append((answer.status_code, time.monotonic() - started))
            machine.start_postgres()
            started = time.monotonic()
            while httpx.get(f"{api.base_url}/health/ready", timeout=10).status_code != 200:
                time.sleep(0.05)
            healed.append(time.monotonic() - started)

    writers = under_load(machine, api, act)
    lost, doubled = lost_and_doubled(machine, writers)
    number = sum(len(w.acknowledged) for w in writers)
    figure(
        f"{DATABASE_STOPS} immediate stops, {number} writes acknowledged, {lost} lost, {doubled} doubled; "
        f"503 within {max(s for _, s in refused):.2f} s, healed within {max(healed):.1f} s"
    )
    assert number > ENOUGH
    assert (lost, doubled) == (0, 0)
    assert {status for status, _ in refused} == {503}
    assert max(s for _, s in refused) < 2
    assert max(healed) < 10


def test_r19_one_copy_that_loses_nothing_under_kills_of_all_kinds(machine, figure):
    """Twenty clients read and write a few rows with If-Match while API and database die; what they saw must be possible."""
    api = machine.api()
    history, ends = History(), threading.Event()
    partner = machine.partner(api)
    episode = partner.add_episode()
    rows = [partner.post(f"{episode.path}/goals", {"text": "0"})["id"] for _ in range(ROWS)]

    def client(seed):
        chance = random.Random(seed)
        http = httpx.Client(base_url=api.base_url, timeout=12, headers={"Authorization": f"Bearer {partner.token}"})
        while not ends.is_set():
            row = chance.choice(rows)
            path = f"{episode.path}/goals/{row}"
            started = time.monotonic()
            try:
                answer = http.get(path)
            except UNANSWERED:
                continue
            if answer.status_code != 200:
                continue
            history.note(row, "read", answer.json()["version"], started, time.monotonic(), answer.json()["text"])
            if chance.random() < 0.5:
                write(http, path, row, answer.headers["etag"])
        http.close()

    def write(http, path, row, etag):
        started, text = time.monotonic(), str(uuid4())
        try:
            answer = http.patch(path, json={"text": text}, headers={"If-Match": etag})
        except UNANSWERED:
            history.note(row, "write", None, started, time.monotonic())
            return
        if answer.status_code == 200:
            history.note(row, "write", answer.json()["version"], started, time.monotonic(), text)
        elif answer.status_code in AGAIN:
            history.note(row, "write", None, started, time.monotonic())
        else:
            assert answer.status_code in {412, 409}, answer.text

    clients = [threading.Thread(target=client, args=(n,), daemon=True) for n in range(CLIENTS)]
    for each in clients:
        each.start()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        time.sleep(random.uniform(2, 5))
        if random.random() < 0.5:
            api.kill()
            api.start()
        else:
            machine.stop_postgres_at_once()
            machine.start_postgres()
    ends.set()
    for each in clients:
        each.join(30)
    final = {str(r["id"]): r["version"] for r in machine.ask("SELECT id, version FROM goal")}
    faults = history.faults(final)
    partner.http.close()
    kinds = Counter((s.kind, s.version is None) for s in history.seen)
    figure(
        f"{len(history.seen)} operations of {CLIENTS} clients in {SECONDS:.0f} s "
        f"({kinds['write', False]} writes acknowledged, {kinds['write', True]} without an answer): {len(faults)} faults"
    )
    assert kinds["write", False] > ENOUGH
    assert faults == []


def test_r25_stops_under_load_answer_what_was_taken(machine, figure):
    api = machine.api()
    taken = []

    def act():
        for _ in range(10):
            time.sleep(1)
            started = time.monotonic()
            assert api.stop() in {0, -15}  # uvicorn raises the signal again once it is done
            taken.append(time.monotonic() - started)
            api.start()

    writers = under_load(machine, api, act)
    lost, doubled = lost_and_doubled(machine, writers)
    five = sum(n for w in writers for s, n in w.statuses.items() if s == 500)
    number = sum(len(w.acknowledged) for w in writers)
    figure(f"10 stops, {number} writes, {lost} lost, {doubled} doubled, {five} faults; stopped within {max(taken):.1f} s")
    assert number > ENOUGH
    assert (lost, doubled, five) == (0, 0, 0)
    assert max(taken) < 30
