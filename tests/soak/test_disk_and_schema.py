"""R6, R9, R23, R24: a worker killed in its work, a disk that is full, migrations under load, a machine that is gone."""

import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from app import cli_database, embedded
from app.actions.journal import Journal
from app.binaries import candidates, run_as
from app.keys.provider import read_keys
from app.launch import ADDRESSES
from app.main import key_provider
from app.store.installation import SCHEMA
from tests.soak.machine import ROOT, Machine, Writer, finish
from tests.soak.test_kills import lost_and_doubled

WORKER_KILLS, EVENTS = 12, 300


def test_r6_a_worker_killed_in_its_work_delivers_everything_and_the_same_ids(machine, figure, receiver):
    host = receiver.host

    def got():
        return Counter(headers["webhook-id"] for headers, _ in receiver.got)

    api = machine.api(IPT_WEBHOOK_ALLOWED_HOSTS=host)
    with machine.partner(api) as partner:
        partner.post("/v1/webhook-endpoints", {"url": f"http://{host}/", "event_types": ["goal.created"]})
        episode = partner.add_episode()
        resumed, made = [], []
        for kill in range(WORKER_KILLS):
            made += [partner.post(f"{episode.path}/goals", {"text": f"{kill} {n}"})["id"] for n in range(EVENTS // WORKER_KILLS)]
            before = len(got())
            started = time.monotonic()
            worker = machine.worker(IPT_WEBHOOK_ALLOWED_HOSTS=host)
            while len(got()) == before and time.monotonic() - started < 90:
                time.sleep(0.02)
            resumed.append(time.monotonic() - started)
            time.sleep(random.uniform(0, 0.3))
            worker.kill()
            worker.wait()
        worker = machine.worker(IPT_WEBHOOK_ALLOWED_HOSTS=host)
        deadline = time.monotonic() + 120
        while len(got()) < EVENTS and time.monotonic() < deadline:
            time.sleep(0.2)
        worker.terminate()
        worker.wait(30)
    repeated = sum(got().values()) - len(got())
    figure(
        f"{WORKER_KILLS} kills, {EVENTS} events: {len(got())} delivered, {repeated} of them again with the same id; resumed within {max(resumed):.1f} s"
    )
    goal_of = defaultdict(set)
    for headers, body in receiver.got:
        goal_of[headers["webhook-id"]].add(json.loads(body)["data"]["entity_id"])
    assert sorted(i for ids in goal_of.values() for i in ids) == sorted(made), "each event under one id of its own, however often it came"
    assert max(resumed) < 60


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_r9_a_full_disk_refuses_writes_reads_on_and_heals_without_corruption(tmp_path, figure):
    home = tmp_path / "home"
    home.mkdir()
    room = Path("/var/lib/ipt") / f"home-soak-{os.getpid()}"
    room.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "none", str(room)], check=True)
    try:
        person = embedded._account(None)
        os.chown(room, person.uid, person.gid)
        (home / "database-folder").write_text(f"{room}\n")
        machine = Machine(tmp_path)
        api = machine.api()
        with machine.partner(api) as partner:
            episode = partner.add_episode()
            acknowledged = {partner.post(f"{episode.path}/goals", {"text": "x" * 4000})["id"] for _ in range(100)}
            ballast = room / "ballast"
            with ballast.open("wb") as file:
                while shutil.disk_usage(room).free > 0:
                    try:
                        file.write(b"x" * min(1 << 20, shutil.disk_usage(room).free))
                        file.flush()
                    except OSError:
                        break
            writes, reads = Counter(), Counter()
            for n in range(400):
                answer = partner.send("POST", f"{episode.path}/goals", {"text": "x" * 4000})
                writes[answer.status_code] += 1
                acknowledged |= {answer.json()["id"]} if answer.status_code == 201 else set()
                if n % 10 == 0:
                    reads[partner.send("GET", "/v1/instruments/PHQ-9").status_code] += 1
            ballast.unlink()
            if machine.server.process.poll() is not None:  # without room for its log it stops rather than lose a commit
                machine.start_postgres()
            deadline = time.monotonic() + 30
            while (answer := partner.send("POST", f"{episode.path}/goals", {"text": "again"})).status_code != 201:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            acknowledged.add(answer.json()["id"])
            there = {str(r["id"]) for r in machine.ask("SELECT id FROM goal")}
            machine.ask("CREATE EXTENSION IF NOT EXISTS amcheck")
            indexes = machine.ask(
                "SELECT bt_index_check(c.oid)::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relkind = 'i'"
                " AND c.relnamespace = 'public'::regnamespace"
            )  # raises when one is broken
        figure(f"writes {dict(writes)}, catalogue reads {dict(reads)}; {len(acknowledged)} acknowledged, {len(acknowledged - there)} lost")
        assert len(indexes) > 100
        assert writes[500] == 0
        assert set(writes) <= {201, 503, 507}
        assert writes[503] + writes[507] > 0
        assert acknowledged <= there
        machine.stop()
    finally:
        subprocess.run(["umount", "-l", str(room)], check=False)
        room.rmdir()


def test_r23_migrations_down_and_up_under_load_wait_for_nobody_long(machine, figure):
    api = machine.api()
    config = Config(str(ROOT / "alembic.ini"))
    config.attributes["url"] = machine.settings.migration_database_url.replace("postgresql://", "postgresql+asyncpg://")
    config.attributes["ring"] = read_keys(key_provider(machine.settings))
    taken = []
    with machine.partner(api) as partner:
        ends = threading.Event()
        writers = [Writer(partner, api.base_url, partner.add_episode(), ends, pause=0.01) for _ in range(4)]
        for writer in writers:
            writer.start()
        for _ in range(3):
            for move, revision in ((command.downgrade, "-1"), (command.upgrade, "head")):
                started = time.monotonic()
                move(config, revision)
                taken.append(time.monotonic() - started)
                time.sleep(1)
        finish(ends, writers)
    lost, doubled = lost_and_doubled(machine, writers)
    statuses = sum((Counter(w.statuses) for w in writers), Counter())
    longest = max(w.longest for w in writers)
    figure(
        f"the newest migration down and up three times under load: each within {max(taken):.1f} s, the longest answer {longest:.2f} s, "
        f"statuses {dict(statuses)}, {lost} lost, {doubled} doubled"
    )
    assert (lost, doubled) == (0, 0)
    assert longest < 3
    assert not [s for s in statuses if s >= 500]


def test_r23_the_release_before_serves_on_the_new_schema(machine, figure, tmp_path):
    """While processes are exchanged one by one, those of the release before write beside the new ones."""
    newest = next(f for f in (ROOT / "migrations" / "versions").glob("*.py") if f'\nrevision = "{SCHEMA}"' in f.read_text())
    added = _git("log", "--diff-filter=A", "--format=%H", "--", str(newest)).split()
    if not added or not _git("rev-parse", "--verify", "--quiet", f"{added[-1]}^"):
        pytest.skip("the history of the newest migration is not in this clone")
    before = tmp_path / "before"
    before.mkdir()
    archive = subprocess.run(["git", "archive", f"{added[-1]}^", "app", "migrations"], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", before], input=archive.stdout, check=True)
    new, old = machine.api(), machine.api(checkout=before)
    with machine.partner(new) as partner:
        ends = threading.Event()
        episodes = [partner.add_episode() for _ in range(4)]
        writers = [Writer(partner, api.base_url, e, ends, pause=0.01) for api, e in zip((new, old) * 2, episodes, strict=True)]
        for writer in writers:
            writer.start()
        time.sleep(20)
        finish(ends, writers)
    lost, doubled = lost_and_doubled(machine, writers)
    statuses = sum((Counter(w.statuses) for w in writers), Counter())
    written = len(writers[1].acknowledged) + len(writers[3].acknowledged)
    figure(f"{written} writes by the release before on the new schema, beside the new one: statuses {dict(statuses)}, {lost} lost, {doubled} doubled")
    assert written > 50
    assert (lost, doubled) == (0, 0)
    assert set(statuses) == {201}


def _git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, check=False, capture_output=True, text=True).stdout.strip()


def test_r24_a_base_backup_and_its_log_bring_back_everything_acknowledged(machine, figure, tmp_path, monkeypatch):
    """The machine dies under load, its disk with it. What is left is a base backup, and the log that another machine took, commit by commit."""
    archive = machine.server.data.parent / "archive"
    archive.mkdir(mode=0o700)
    shutil.chown(archive, machine.server.data.owner())
    api = machine.api()
    backup = machine.server.data.parent / "base"
    binaries = next(iter(candidates(os.environ.get("IPT_POSTGRES", "auto")))).folder
    login = ["-h", machine.server.socket, "-U", embedded.SUPERUSER]
    person = run_as(embedded._account(None))
    receiving = [
        binaries / "pg_receivewal",
        "-D",
        archive,
        "--synchronous",
        "--no-loop",
        "-d",
        f"host={machine.server.socket} application_name=elsewhere",
        *login[2:],
    ]
    elsewhere = subprocess.Popen(receiving, stderr=subprocess.DEVNULL, **person)
    machine.ask("ALTER SYSTEM SET synchronous_standby_names = 'elsewhere'")
    machine.ask("SELECT pg_reload_conf()")
    with machine.partner(api) as partner:
        ends = threading.Event()
        writers = [Writer(partner, api.base_url, partner.add_episode(), ends) for _ in range(4)]
        for writer in writers:
            writer.start()
        time.sleep(2)
        subprocess.run([binaries / "pg_basebackup", *login, "-D", backup, "-X", "none", "--checkpoint=fast", "--no-manifest"], check=True, **person)
        time.sleep(8)
        machine.stop_postgres_at_once()
        for writer in writers:
            writer.gives_up = True
        api.kill()
        finish(ends, writers)
    elsewhere.wait(20)
    acknowledged = {i for w in writers for i in list(w.acknowledged.values())}
    shutil.rmtree(machine.server.data)
    backup.rename(machine.server.data)
    with (machine.server.data / "postgresql.auto.conf").open("a") as file:
        file.write(f"restore_command = 'cp {archive}/%f %p || cp {archive}/%f.partial %p'\nsynchronous_standby_names = ''\n")
    (machine.server.data / "recovery.signal").touch()
    shutil.chown(machine.server.data / "recovery.signal", archive.owner())
    machine.start_postgres()
    deadline = time.monotonic() + 60
    while machine.ask("SELECT pg_is_in_recovery() AS still")[0]["still"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    there = {str(r["id"]) for r in machine.ask("SELECT id FROM goal")}
    for name in ADDRESSES:
        monkeypatch.setenv(f"IPT_{name.upper()}", getattr(machine.settings, name))
    monkeypatch.setenv("IPT_HOME", str(machine.home))
    ring = read_keys(key_provider(machine.settings))
    Journal(machine.settings.journal_path, ring).begin()  # a worker would have
    cli_database.restore(finish=True)
    epoch = machine.ask("SELECT max(epoch) AS epoch FROM change_clock")[0]["epoch"]
    api.start()
    figure(
        f"{len(acknowledged)} writes acknowledged, {len(acknowledged - there)} lost by base backup and log; reconciled as epoch {epoch}, and served"
    )
    assert len(acknowledged) > 50
    assert acknowledged <= there
    assert epoch == 2
