"""Rotation of the key-encryption keys: by the worker, resumable, with nothing lost; and where keys come from."""

import asyncio
import base64
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.actions.operators import wrapped_under
from app.config import Settings
from app.keys.cipher import KeyMissing, KeyRing
from app.keys.provider import KeyCommand, KeyFile, KeysGiven, add_key, create_key_file, drop_key, parsed, read_key_ring, read_keys, use_key
from app.launch import owner_of
from app.main import create_app, key_provider
from app.store.database import Database
from app.upkeep import rewrap_keys
from tests.conftest import Clock, Service, settings_of

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("IPT_ATTACK_KILLS", "4"))
REWRAPPER = """
import asyncio, sys
from pathlib import Path
from app.keys.provider import read_key_ring
from app.store.database import Database
from app.upkeep import rewrap_keys
from app.store import wrapping
wrapping.BATCH = 3
async def main():
    database = Database(sys.argv[1], "ipt_worker", pool_size=1)
    ring = read_key_ring(Path(sys.argv[2]))
    print("begun", flush=True)
    while await rewrap_keys(database, ring):
        pass
asyncio.run(main())
"""


@pytest.fixture
def own_keys(fresh_database, tmp_path):
    """A service on a database and a key file of the test's own."""
    keys = tmp_path / "keys.json"
    keys.write_text(Path(os.environ["IPT_TEST_HOME"], "keys.json").read_text())  # what the template's signing key is sealed under
    settings = settings_of(fresh_database, tmp_path).model_copy(update={"keys_file": keys})
    running = Service(settings, Clock()).start()
    yield running, keys
    running.stop()


def wrapped(settings):
    async def done():
        owner = owner_of(settings)
        try:
            return await wrapped_under(owner)
        finally:
            await owner.close()

    return asyncio.run(done())


def rewrap(settings, keys):
    async def done():
        database = Database(settings.worker_database_url, "ipt_worker", pool_size=1)
        ring, number = read_key_ring(keys), 0
        while done := await rewrap_keys(database, ring):
            number += done
        await database.close()
        return number

    return asyncio.run(done())


@pytest.fixture
def used(own_keys):
    with own_keys[0].partner() as partner:
        episodes = [partner.add_episode() for _ in range(4)]
        for episode in episodes:
            episode.add_relationship(label="Anna")
            partner.post("/v1/webhook-endpoints", {"url": "https://hooks.example.com/x", "event_types": ["*"]})
        yield partner, episodes


def test_a_running_service_reads_under_old_and_new_keys_and_the_old_one_can_go(own_keys, used):
    service, keys = own_keys
    partner, episodes = used
    assert set(wrapped(service.settings)) == {1}
    assert add_key(keys) == 2
    assert rewrap(service.settings, keys) == 0, "it does not wrap yet: other machines may not have it"
    use_key(keys, 2)
    assert rewrap(service.settings, keys) >= 4 + 4
    assert set(wrapped(service.settings)) == {2}
    for episode in episodes:  # the service still runs with the ring it has read: it meets version 2 and reads the file again
        assert partner.get(f"{episode.path}/inventory")["relationships"][0]["label"] == "Anna"
    partner.add_patient()
    drop_key(keys, 1)
    assert set(wrapped(service.settings)) == {2}
    service.stop()
    again = Service(service.settings, Clock()).start()
    try:
        partner.http.base_url = again.base_url
        partner.token = partner.new_token(grant_type="client_credentials")["access_token"]
        assert partner.get(f"{episodes[0].path}/inventory")["relationships"][0]["label"] == "Anna"
        assert partner.get(f"/v1/patients/{episodes[0].patient_id}/history")["items"]
    finally:
        again.stop()


def test_reads_and_writes_go_on_while_keys_are_rewrapped(own_keys, used):
    service, keys = own_keys
    partner, episodes = used
    stop, statuses = threading.Event(), []

    def work():
        while not stop.is_set():
            episode = random.choice(episodes)
            statuses.append(partner.send("GET", f"{episode.path}/inventory").status_code)
            statuses.append(partner.send("POST", f"{episode.path}/goals", {"text": "x"}).status_code)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for _ in range(3):
        use_key(keys, add_key(keys))
        rewrap(service.settings, keys)
    stop.set()
    for t in threads:
        t.join()
    assert set(statuses) == {200, 201}


def test_a_rewrapping_that_is_killed_goes_on_where_it_was(own_keys, used, tmp_path):
    service, keys = own_keys
    partner, episodes = used
    for _ in range(20):
        partner.add_patient()
    script = tmp_path / "rewrap.py"
    script.write_text(REWRAPPER)
    for _ in range(KILLS):
        use_key(keys, add_key(keys))
        arguments = [sys.executable, str(script), service.settings.worker_database_url, str(keys)]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
        process.stdout.readline()
        threading.Event().wait(random.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for episode in episodes:
            assert partner.get(f"{episode.path}/inventory")["relationships"][0]["label"] == "Anna"
    rewrap(service.settings, keys)
    assert set(wrapped(service.settings)) == {KILLS + 1}
    assert len(partner.get("/v1/patients?limit=100")["items"]) == 24


def test_the_service_refuses_to_start_with_a_wrong_key(fresh_database, tmp_path):
    create_key_file(tmp_path / "wrong.json")
    settings = settings_of(fresh_database, tmp_path).model_copy(update={"keys_file": tmp_path / "wrong.json", "port": 1})

    async def start():
        app = create_app(settings)
        async with asyncio.timeout(5), app.router.lifespan_context(app):
            pass

    with pytest.raises(KeyMissing):
        asyncio.run(start())


def test_keys_come_from_a_file_the_environment_or_a_command(tmp_path):
    path = tmp_path / "keys.json"
    create_key_file(path)
    text = path.read_text()
    command = shlex.join([sys.executable, "-c", f"print(open({str(path)!r}).read())"])
    rings = [read_keys(p) for p in (KeyFile(path), KeysGiven(text), KeyCommand(command))]
    blob = rings[0].seal(b"x", "place")
    assert [r.open(blob, "place") for r in rings] == [b"x"] * 3
    assert len({r.derived("x") for r in rings}) == 1
    settings = Settings(home=tmp_path, keys_file=path)
    assert isinstance(key_provider(settings), KeyFile)
    assert isinstance(key_provider(settings.model_copy(update={"keys_command": command})), KeyCommand)
    given = Settings(home=tmp_path, keys=text)
    assert isinstance(key_provider(given), KeysGiven)
    assert json.loads(text)["keys"]["1"] not in repr(given) + str(given.model_dump())


@pytest.mark.parametrize(
    "provider",
    [
        KeysGiven("{}"),
        KeysGiven("not json"),
        KeysGiven('{"keys": {"1": "c2hvcnQ="}}'),
        KeysGiven('{"keys": {"300": "' + base64.b64encode(bytes(32)).decode() + '"}}'),
        KeyCommand("/does/not/exist"),
        KeyCommand("false"),
        KeyFile(Path("/does/not/exist")),
    ],
)
def test_keys_that_cannot_be_read_are_refused_with_a_sentence_that_shows_nothing_of_them(provider):
    with pytest.raises(KeyMissing) as refusal:
        read_keys(provider)
    assert str(refusal.value).endswith(".")
    assert "c2hvcnQ" not in str(refusal.value)


def test_a_key_file_changes_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "keys.json"
    create_key_file(path)
    before = path.read_text()
    monkeypatch.setattr("app.keys.provider._write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        add_key(path)
    assert path.read_text() == before
    monkeypatch.undo()
    assert add_key(path) == 2
    assert path.stat().st_mode & 0o777 == 0o600
    for version in (1, 3):
        with pytest.raises(KeyMissing):
            drop_key(path, version)
    with pytest.raises(KeyMissing):
        use_key(path, 3)
    use_key(path, 2)
    drop_key(path, 1)
    assert set(parsed(path.read_text())[0]) == {2}


def test_what_is_derived_stays_when_keys_rotate_also_in_a_file_of_the_first_kind(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": {"1": base64.b64encode(os.urandom(32)).decode()}}))
    path.chmod(0o600)
    before = read_key_ring(path).derived("cursor")
    use_key(path, add_key(path))
    drop_key(path, 1)
    assert read_key_ring(path).derived("cursor") == before


def test_a_blind_index_is_the_same_for_one_partner_and_column_only():
    from uuid import uuid4  # noqa: PLC0415

    ring, one, two = KeyRing({1: os.urandom(32)}), uuid4(), uuid4()
    assert ring.blind(one, "patient.external_ref", "emr-1") == ring.blind(one, "patient.external_ref", "emr-1")
    found = {ring.blind(p, c, t) for p in (one, two) for c in ("a", "b") for t in ("emr-1", "emr-2")}
    assert len(found) == 8
    assert {len(f) for f in found} == {16}


def test_two_who_add_a_key_at_once_add_two(tmp_path):
    path = tmp_path / "keys.json"
    create_key_file(path)
    path.chmod(0o640)
    threads = [threading.Thread(target=add_key, args=(path,)) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    keys, _, wraps = parsed(path.read_text())
    assert (set(keys), wraps) == (set(range(1, 10)), 1)
    assert path.stat().st_mode & 0o777 == 0o640, "who may read it stays"
