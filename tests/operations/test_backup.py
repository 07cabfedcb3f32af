"""A backup brought back: what happened since is not undone, nothing is served before it is reconciled."""

import asyncio
import os
import stat
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import sqlalchemy.exc
from alembic import command
from alembic.config import Config

from app import cli_database, upkeep
from app.actions.journal import ERASURES, RELEASES, Journal
from app.actions.restoring import complete_journals
from app.binaries import program
from app.cli_database import Doubtful
from app.domain.errors import CommandRefused
from app.keys.cipher import KeyMissing
from app.keys.provider import create_key_file, read_key_ring
from app.launch import ADDRESSES, ROOT, migrate, owner_of
from app.store.database import Database, DatabaseAway, Unsafe
from app.store.installation import others_connected
from app.worker import _stop_when_restored
from tests.command import ipt
from tests.conftest import Clock, Service, run_sql, settings_of
from tests.driver import Device, Partner, mutation


@pytest.fixture
def place(databases, worker_name, tmp_path, monkeypatch):
    """A machine: its folder with keys and journals, and its databases, which the commands find by the environment."""
    create_key_file(tmp_path / "keys.json")
    monkeypatch.setenv("IPT_HOME", str(tmp_path))
    monkeypatch.setenv("IPT_KEYS_FILE", str(tmp_path / "keys.json"))
    made = []

    def settings(name, *, template="template0"):
        made.append(f"ipt_{name}_{worker_name}_{uuid4().hex[:6]}")
        found = settings_of(databases.create(made[-1], template=template), tmp_path).model_copy(
            update={"keys_file": tmp_path / "keys.json", "docs": False}
        )
        for address in ADDRESSES:
            monkeypatch.setenv(f"IPT_{address.upper()}", str(getattr(found, address)))
        return found, made[-1]

    yield settings, tmp_path
    for name in made:
        databases.drop(name)


def erase_rows(settings, folder):
    ring = read_key_ring(folder / "keys.json")

    async def done():
        database = Database(settings.worker_database_url, "ipt_worker", pool_size=2)
        try:
            return await upkeep.erase_rows(database, ring, datetime.now(UTC), Journal(settings.erasures_path, ring, ERASURES))
        finally:
            await database.close()

    return asyncio.run(done())


@pytest.fixture
def source(place):
    """A machine that serves, and where its backup goes."""
    settings, folder = place
    found, name = settings("source")
    migrate(found)
    begin_release_journal(folder)
    service = Service(found, Clock()).start()
    yield service, folder / "backup.dump", name
    service.stop()


def begin_release_journal(folder):
    Journal(folder / "releases.jsonl", read_key_ring(folder / "keys.json"), RELEASES).begin()  # a worker does, when it starts


def reads(settings, *paths, partner=None):
    """Serve a database, and return what some addresses answer: the status of each."""
    service = Service(settings.model_copy(update={"public_url": partner.base_url}), Clock()).start()
    try:
        with Partner(service.base_url, partner.partner_id, partner.client_id, partner.secret) as again:
            return [again.send("GET", path).status_code for path in paths]
    finally:
        service.stop()


def test_a_backup_brought_back_erases_again_begins_an_epoch_and_is_not_served_before(place, source, capsys, monkeypatch):
    settings, folder = place
    service, backup, source_name = source
    partner = service.partner()
    kept, erased = partner.add_episode(), partner.add_episode()
    partner.post(f"{kept.path}/goals", {"text": "see my sister again"})
    phone = Device(partner, kept.lead)
    phone.pull()
    cursor = phone.cursor
    cli_database.backup(backup)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    partner.post(f"/v1/patients/{erased.patient_id}/erasure", {"requested_by": "patient"})
    assert erase_rows(service.settings, folder) == 1
    later = partner.add_episode()
    old_token = partner.token
    with pytest.raises(cli_database.BackupRefused, match="exists"):
        cli_database.backup(backup)
    with pytest.raises(cli_database.BackupRefused, match="holds tables"):
        cli_database.restore(backup)
    with pytest.raises(cli_database.BackupRefused, match="other sessions"):
        cli_database.restore(finish=True)
    assert partner.send("GET", kept.path).status_code == 200, "a refused restore closes nothing"
    service.stop()

    copy, _ = settings("copy", template=source_name)
    with pytest.raises(Unsafe, match="ipt restore --finish"):
        asyncio.run(_opened(copy))
    monkeypatch.setenv("IPT_MIGRATION_DATABASE_URL", copy.migration_database_url.replace("+asyncpg", ""))  # as the docs write it
    with pytest.raises(sqlalchemy.exc.DBAPIError, match="ipt restore --finish"):
        command.downgrade(Config(str(ROOT / "alembic.ini")), "-1")
    with pytest.raises(Unsafe, match="ipt restore --finish"):
        asyncio.run(_opened(copy))

    target, _ = settings("target")
    cli_database.restore(backup)
    said = capsys.readouterr().out
    assert "Epoch 2 for 1 partners" in said
    assert "1 people erased again." in said
    assert erase_rows(target, folder) == 1
    restored = Service(target.model_copy(update={"public_url": service.settings.issuer}), Clock()).start()
    try:
        partner.http.close()
        partner.http = httpx.Client(base_url=restored.base_url, timeout=20)
        assert partner.send("GET", kept.path, token=old_token).status_code == 401, "keys that were retired since do not come back"
        partner.token = partner.new_token(grant_type="client_credentials")["access_token"]
        assert partner.get(f"{kept.path}/goals")["items"][0]["text"] == "see my sister again"
        assert partner.send("GET", erased.path).status_code == 404
        assert partner.get(f"/v1/patients/{erased.patient_id}/erasure")["rows_erased_at"]
        assert partner.send("GET", later.path).status_code == 404
        again = Device(partner, kept.lead, device_id=phone.id)
        assert partner.send("GET", f"/v1/sync/pull?since={cursor}", token=again.token).status_code == 410
        assert len(again.pull().of("goal")) == 1
        assert again.push(mutation("goal", "create", episode_id=kept.id, text="a new one"))[0]["status"] == "applied"
    finally:
        partner.http.close()
        restored.stop()

    cli_database.restore(finish=True)
    assert "Epoch 3 for 1 partners" in capsys.readouterr().out, "no two restores share an epoch"


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda f: (f / "erasures.jsonl").unlink(), "erasures.jsonl is not there"),
        (lambda f: (f / "releases.jsonl").unlink(), "releases.jsonl is not there"),
        (lambda f: (f / "erasures.jsonl").write_bytes(b""), "another installation's"),
        (lambda f: (f / "erasures.jsonl").write_bytes((f / "erasures.jsonl").read_bytes()[:-40]), "Line 4 of .* is broken"),
        (lambda f: (f / "erasures.jsonl").write_bytes((f / "erasures.jsonl").read_bytes().splitlines(keepends=True)[1]), "do not: they are older"),
        (lambda f: (f / "keys.json").unlink() or create_key_file(f / "keys.json"), "the key file is"),
    ],
    ids=["no erasures", "no releases", "emptied", "cut off", "older than the backup", "another key file"],
)
def test_journals_that_are_missing_older_or_anothers_are_not_taken_for_empty_ones(place, source, harm, complaint):
    settings, folder = place
    service, backup, _ = source
    with service.partner() as partner:
        gone = partner.add_patient()
        partner.post(f"/v1/patients/{gone['id']}/erasure", {"requested_by": "patient"})
        cli_database.backup(backup)
    service.stop()
    harm(folder)
    target, _ = settings("target")
    with pytest.raises(CommandRefused, match=complaint):
        cli_database.restore(backup)
    with pytest.raises((Unsafe, KeyMissing, DatabaseAway, asyncpg.PostgresError)):
        asyncio.run(_opened(target))


def test_without_journals_quarters_are_closed_and_an_epoch_is_taken_by_chance(place, source, capsys, monkeypatch):
    settings, folder = place
    service, backup, _ = source
    with service.partner() as partner:
        partner.add_patient()
    cli_database.backup(backup)
    service.stop()
    monkeypatch.setenv("IPT_RELEASE_JOURNAL", str(folder / "lost" / "releases.jsonl"))
    monkeypatch.setattr("app.actions.restoring.secrets.randbelow", lambda below: below - 1)
    settings("target")
    cli_database.restore(backup, without_journals=True)
    said = capsys.readouterr().out
    assert "quarters closed" in said
    assert "Epoch 65 for" in said
    with pytest.raises(cli_database.BackupRefused, match="is not there"):
        cli_database.restore(folder / "none")
    with pytest.raises(cli_database.BackupRefused, match="--finish"):
        cli_database.restore()


@pytest.mark.parametrize("decision", list(Doubtful))
@pytest.mark.parametrize("doubt", ["a legal hold", "nobody saw it done"])
def test_where_it_is_not_clear_whether_somebody_was_erased_a_person_decides(place, source, doubt, decision, capsys):
    """A hold in the backup was lifted before the erasure, or the erasure was asked for, and its commit may have failed."""
    settings, folder = place
    service, backup, _ = source
    partner = service.partner()
    episode = partner.add_episode()
    protection = f"/v1/patients/{episode.patient_id}/protection"
    for legal_hold in (doubt == "a legal hold", False):
        etag = partner.send("GET", protection).headers["etag"]
        partner.put(protection, {"restricted_because": None, "legal_hold": legal_hold}, etag=etag)
        if not backup.exists():
            cli_database.backup(backup)
    partner.post(f"/v1/patients/{episode.patient_id}/erasure", {"requested_by": "patient"})
    if doubt == "a legal hold":
        assert erase_rows(service.settings, folder) == 1
    partner.http.close()
    service.stop()
    target, _ = settings("target")
    with pytest.raises(cli_database.BackupRefused, match="--doubtful"):
        cli_database.restore(backup)
    assert f"Not clear: {episode.patient_id}" in capsys.readouterr().out
    with pytest.raises(Unsafe):
        asyncio.run(_opened(target))
    cli_database.restore(finish=True, doubtful=decision)
    assert (f"Kept: {episode.patient_id}" in capsys.readouterr().out) is (decision is Doubtful.keep)
    assert reads(target, episode.path, partner=partner) == [404 if decision is Doubtful.erase else 200]


def test_a_restore_erases_whom_the_journal_names_and_nobody_who_was_taken_for_them(place, source):
    """In the backup two registrations are one person; that was found to be wrong, and one of them was erased alone."""
    settings, folder = place
    service, backup, _ = source
    partner = service.partner()
    gone, lives = partner.add_episode(), partner.add_episode()
    partner.post(f"/v1/patients/{gone.patient_id}/duplicates", {"patient_id": lives.patient_id})
    cli_database.backup(backup)
    merged = partner.get(f"/v1/patients/{gone.patient_id}/duplicates")["items"][0]
    partner.good("DELETE", f"/v1/patients/{gone.patient_id}/duplicates/{lives.patient_id}", If_Match=f'"{merged["version"]}.1"')
    partner.post(f"/v1/patients/{gone.patient_id}/erasure", {"requested_by": "patient"})
    assert erase_rows(service.settings, folder) == 1
    partner.http.close()
    service.stop()
    target, _ = settings("target")
    cli_database.restore(backup)
    assert reads(target, gone.path, lives.path, partner=partner) == [404, 200]


def test_dumps_are_taken_and_brought_back_by_logins_that_are_no_superuser(place, source, monkeypatch):
    settings, _ = place
    service, backup, _ = source
    superuser = service.settings.migration_database_url
    with service.partner() as partner:
        episode = partner.add_episode()
    with as_login(monkeypatch, superuser, "LOGIN", "ipt_owner"), pytest.raises(CommandRefused, match="may not take dumps"):
        cli_database.backup(backup)
    with as_login(monkeypatch, superuser, "LOGIN", "ipt_service") as who:
        done = ipt("partner", "list", env=os.environ)
        assert done.stderr.startswith("The database refuses this login (operators' commands need the migrator's"), done.stderr
    with as_login(monkeypatch, superuser, "LOGIN", "ipt_owner, ipt_backup"):
        cli_database.backup(backup)
    service.stop()
    target, name = settings("target")
    with as_login(monkeypatch, target.migration_database_url, "LOGIN CREATEROLE", "ipt_owner", and_may_pass_it_on=True) as who:
        run_sql(target.migration_database_url, f'ALTER DATABASE "{name}" OWNER TO {who}')
        run_sql(target.migration_database_url, f"ALTER SCHEMA public OWNER TO {who}")
        cli_database.restore(backup)
        run_sql(target.migration_database_url, f'ALTER DATABASE "{name}" OWNER TO CURRENT_USER')
        run_sql(target.migration_database_url, "ALTER SCHEMA public OWNER TO CURRENT_USER")
        run_sql(target.migration_database_url, f"REASSIGN OWNED BY {who} TO CURRENT_USER")
    assert reads(target, episode.path, partner=partner) == [200]


@contextmanager
def as_login(monkeypatch, superuser, options, member_of, *, and_may_pass_it_on=False):
    """Let the commands log in as somebody who may no more than this."""
    who = f"ipt_login_{uuid4().hex[:8]}"
    run_sql(superuser, f"CREATE ROLE {who} {options}")
    run_sql(superuser, f"GRANT {member_of} TO {who} {'WITH ADMIN OPTION' if and_may_pass_it_on else ''}")
    with monkeypatch.context() as patched:
        patched.setenv("IPT_MIGRATION_DATABASE_URL", superuser.replace("//ipt_admin@", f"//{who}@"))
        yield who
    run_sql(superuser, f"DROP OWNED BY {who}")
    run_sql(superuser, f"DROP ROLE {who}")


def test_journals_of_several_machines_are_read_together(place, source, capsys):
    settings, folder = place
    service, backup, _ = source
    partner = service.partner()
    one, other = partner.add_episode(), partner.add_episode()
    cli_database.backup(backup)
    partner.post(f"/v1/patients/{one.patient_id}/erasure", {"requested_by": "patient"})
    assert erase_rows(service.settings, folder) == 1
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for name in ("erasures.jsonl", "releases.jsonl"):
        (folder / name).rename(elsewhere / name)
    Journal(folder / "erasures.jsonl", read_key_ring(folder / "keys.json"), ERASURES).begin()  # a machine without a worker has no other
    partner.post(f"/v1/patients/{other.patient_id}/erasure", {"requested_by": "patient"})
    assert erase_rows(service.settings, folder) == 1
    partner.http.close()
    service.stop()
    target, _ = settings("target")
    cli_database.restore(backup, journals=[elsewhere])
    said = capsys.readouterr().out
    assert all(f"{where / 'erasures.jsonl'}: 1 lines, the newest of 20" in said for where in (folder, elsewhere)), "this machine's own is always read"
    assert "The database ends at 20" in said
    assert reads(target, one.path, other.path, partner=partner) == [404, 404]


def test_a_process_that_runs_on_shows_nothing_of_a_database_that_was_brought_back_under_it(source):
    service, _, _ = source
    with service.partner() as partner:
        episode = partner.add_episode()
        assert partner.send("GET", episode.path).status_code == 200
        run_sql(service.settings.migration_database_url, "DELETE FROM installation")  # as a dump brings it back
        deadline = time.monotonic() + 10
        while partner.send("GET", episode.path).status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        refused = partner.send("GET", episode.path)
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/unavailable")
        ready = partner.http.get("/health/ready")
        assert (ready.status_code, "ipt restore --finish" in ready.text) == (503, True)
        assert partner.ask_token(grant_type="client_credentials").status_code == 503

    async def goes_on():
        database, stop = Database(service.settings.worker_database_url, "ipt_worker", pool_size=1), asyncio.Event()
        await _stop_when_restored(database, stop)
        await database.close()
        return not stop.is_set()

    assert not asyncio.run(goes_on()), "the worker stops, too"


def test_a_restore_that_breaks_off_before_the_note_existed_is_not_noted_by_the_next_migration(place, source, monkeypatch):
    """A dump of schema 0014: the migration that makes the note sees that a restore is under way."""
    settings, folder = place
    service, backup, _ = source
    with service.partner() as partner:
        partner.add_patient()
    service.stop()
    config = Config(str(ROOT / "alembic.ini"))
    config.attributes.update(url=service.settings.migration_database_url, ring=read_key_ring(folder / "keys.json"))
    command.downgrade(config, "0014")
    cli_database._run("pg_dump", service.settings, "--format=custom", f"--file={backup}")
    target, _ = settings("target")

    def dies(_):
        raise ConnectionAbortedError

    with monkeypatch.context() as broken:
        broken.setattr(cli_database, "migrate", dies)
        with pytest.raises(ConnectionAbortedError):
            cli_database.restore(backup)
    migrate(target)
    with pytest.raises(Unsafe):
        asyncio.run(_opened(target))
    cli_database.restore(finish=True)
    asyncio.run(_opened(target))


def test_sessions_of_others_are_seen_by_a_login_that_is_no_superuser_too(source):
    service, _, _ = source

    async def seen():
        owner = owner_of(service.settings)
        async with owner.transaction(None) as connection:
            number = await others_connected(connection)
        await owner.close()
        return number

    with service.partner() as partner:
        partner.add_patient()
        assert asyncio.run(seen()) >= 2


def test_a_machine_that_lost_its_journals_writes_down_what_the_database_knows(source, place):
    _, folder = place
    service, _, _ = source
    with service.partner() as partner:
        patient = partner.add_patient()
        partner.post(f"/v1/patients/{patient['id']}/erasure", {"requested_by": "patient"})
    (folder / "erasures.jsonl").unlink()
    ring = read_key_ring(folder / "keys.json")

    async def completed():
        database = Database(service.settings.worker_database_url, "ipt_worker", pool_size=2)
        journals = (Journal(folder / "releases.jsonl", ring), Journal(folder / "erasures.jsonl", ring, ERASURES))
        try:
            return [await complete_journals(database.transaction, [UUID(partner.partner_id)], *journals) for _ in range(2)]
        finally:
            await database.close()

    assert asyncio.run(completed()) == [1, 0]
    [line] = Journal(folder / "erasures.jsonl", ring, ERASURES).lines()
    assert (line["patient_id"], line["done"]) == (patient["id"], True)


def test_an_erasure_that_no_journal_can_hold_is_not_done(source):
    service, _, _ = source
    with service.partner() as partner:
        patient = partner.add_patient()
        service.house.erasures.path = Path("/proc/nowhere/erasures.jsonl")
        refused = partner.send("POST", f"/v1/patients/{patient['id']}/erasure", {"requested_by": "patient"})
        assert refused.status_code == 503
        assert "journal" in refused.json()["detail"]
        assert partner.get(f"/v1/patients/{patient['id']}")["id"] == patient["id"]


def test_a_dump_that_breaks_off_leaves_nothing_behind(place, monkeypatch):
    settings, folder = place
    source, _ = settings("source")
    migrate(source)
    run_sql(source.migration_database_url, "REVOKE SELECT ON patient FROM ipt_backup")
    with pytest.raises(cli_database.BackupRefused, match="pg_dump failed"):
        cli_database.backup(folder / "backup.dump")
    assert list(folder.glob("backup*")) == []


def test_the_programs_are_those_of_the_servers_version_or_newer():
    assert program("pg_dump", 15).exists()


async def _opened(settings):
    from app.main import create_app  # noqa: PLC0415

    app = create_app(settings)
    async with app.router.lifespan_context(app):
        pass
