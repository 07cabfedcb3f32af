"""A backup brought back: what happened since is not undone, nothing is served before it is reconciled."""

import asyncio
import stat
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest

from app import cli_database, upkeep
from app.actions.journal import ERASURES, Journal
from app.binaries import program
from app.keys.provider import create_key_file, read_key_ring
from app.launch import migrate
from app.store.database import Database, Unsafe
from tests.conftest import Clock, Service, run_sql, settings_of
from tests.driver import Device, mutation

ADDRESSES = ("database_url", "audit_database_url", "worker_database_url", "migration_database_url")


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


def test_a_backup_brought_back_erases_again_begins_an_epoch_and_is_not_served_before(place, capsys):
    settings, folder = place
    source, source_name = settings("source")
    migrate(source)
    service = Service(source, Clock()).start()
    try:
        partner = service.partner()
        kept, erased = partner.add_episode(), partner.add_episode()
        partner.post(f"{kept.path}/goals", {"text": "see my sister again"})
        phone = Device(partner, kept.lead)
        phone.pull()
        cursor = phone.cursor
        backup = folder / "backup.dump"
        cli_database.backup(backup)
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        partner.post(f"/v1/patients/{erased.patient_id}/erasure", {"requested_by": "patient"})
        assert erase_rows(source, folder) == 1
        later = partner.add_episode()
        with pytest.raises(cli_database.BackupRefused, match="exists"):
            cli_database.backup(backup)
        with pytest.raises(cli_database.BackupRefused, match="holds tables"):
            cli_database.restore(backup)
    finally:
        service.stop()

    copy, _ = settings("copy", template=source_name)
    with pytest.raises(Unsafe, match="ipt restore --finish"):
        asyncio.run(_opened(copy))

    target, _ = settings("target")
    cli_database.restore(backup)
    said = capsys.readouterr().out
    assert "Epoch 2 for 1 partners" in said
    assert "1 people erased again." in said
    assert erase_rows(target, folder) == 1
    restored = Service(target.model_copy(update={"public_url": source.issuer}), Clock()).start()
    try:
        partner.http.close()
        partner.http = httpx.Client(base_url=restored.base_url, timeout=20)
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


def test_a_backup_without_its_keys_or_journals_is_not_opened_in_silence(place, capsys, monkeypatch):
    settings, folder = place
    source, _ = settings("source")
    migrate(source)
    service = Service(source, Clock()).start()
    with service.partner() as partner:
        partner.add_patient()
    service.stop()
    cli_database.backup(folder / "backup.dump")
    monkeypatch.setenv("IPT_RELEASE_JOURNAL", str(folder / "lost" / "releases.jsonl"))
    settings("target")
    with pytest.raises(cli_database.BackupRefused, match="journals"):
        cli_database.restore(folder / "backup.dump")
    cli_database.restore(folder / "backup.dump", without_journals=True)
    assert "quarters closed" in capsys.readouterr().out
    with pytest.raises(cli_database.BackupRefused, match="is not there"):
        cli_database.restore(folder / "none")
    with pytest.raises(cli_database.BackupRefused, match="--finish"):
        cli_database.restore()


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
