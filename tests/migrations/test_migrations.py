"""Migrations: up, down and up again on a database with rows; two at once; by a login that is no superuser."""

import asyncio
import os
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url

from app.keys.provider import read_key_ring
from app.launch import ROOT, migrate
from app.store.installation import SCHEMA
from tests.conftest import HOME, Clock, Service, _on, run_sql, settings_of
from tests.driver import Partner


@pytest.fixture
def empty_database(databases, worker_name):
    name = f"ipt_empty_{worker_name}_{os.urandom(4).hex()}"
    yield databases.create(name, template="template0")
    databases.drop(name)


def config_for(url):
    config = Config(str(ROOT / "alembic.ini"))
    config.attributes["url"] = url
    return config


def test_the_schema_that_the_service_needs_is_the_newest_migration():
    assert ScriptDirectory(str(ROOT / "migrations")).get_current_head() == SCHEMA


def test_up_down_and_up_again_leaves_a_database_that_serves(empty_database):
    settings = settings_of(empty_database, Path(os.environ[HOME]))
    migrate(settings)
    command.downgrade(config_for(empty_database), "0001")
    migrate(settings)
    migrate(settings)
    service = Service(settings, Clock()).start()
    try:
        with service.partner() as partner:
            assert partner.get(partner.add_episode().path)["status"] == "referred"
    finally:
        service.stop()


def test_a_database_with_patients_and_a_trail_goes_down_and_up_without_a_loss(empty_database):
    """Down from trust and up again: references are opened and sealed anew, and the trail that was written before is known as the service's own."""
    settings = settings_of(empty_database, Path(os.environ[HOME]))
    migrate(settings)
    service = Service(settings, Clock()).start()
    with service.partner() as partner:
        patient = partner.add_patient(external_ref="emr-4711")
    service.stop()
    config = config_for(empty_database)
    config.attributes["ring"] = read_key_ring(settings.keys_path)
    command.downgrade(config, "0012")
    migrate(settings)
    service = Service(settings, Clock()).start()
    try:
        with Partner(service.base_url, partner.partner_id, partner.client_id, partner.secret) as again:
            assert again.get(f"/v1/patients/{patient['id']}")["external_ref"] == "emr-4711"
            assert [p["id"] for p in again.get("/v1/patients?external_ref=emr-4711")["items"]] == [patient["id"]]
            events = again.get("/v1/audit-events?limit=1000")["items"]
            assert any(e["route"] == "POST /v1/patients" for e in events)
            assert not [e for e in events if e["forged"]]
    finally:
        service.stop()


def test_a_migrator_that_is_no_superuser_can_migrate_a_database_of_its_own(databases, worker_name):
    """Roles exist in the cluster already: then CREATEROLE is not needed, membership in the owner is."""
    name = f"ipt_managed_{worker_name}_{os.urandom(4).hex()}"
    url = databases.create(name, template="template0")
    run_sql(url, f"ALTER DATABASE {name} OWNER TO ipt_migrator", "GRANT ALL ON SCHEMA public TO ipt_migrator WITH GRANT OPTION")
    as_migrator = make_url(url).set(username="ipt_migrator").render_as_string(hide_password=False)
    try:
        command.upgrade(config_for(as_migrator), "head")
        asyncio.run(_on(url, "SELECT 1 FROM patient"))
    finally:
        databases.drop(name)
