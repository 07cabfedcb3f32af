"""Migrations: up, down and up again on a database with rows; two at once; by a login that is no superuser."""

import asyncio
import os
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import make_url

from app.launch import ROOT, migrate
from tests.conftest import HOME, Clock, Service, _on, run_sql, settings_of


@pytest.fixture
def empty_database(databases, worker_name):
    name = f"ipt_empty_{worker_name}_{os.urandom(4).hex()}"
    yield databases.create(name, template="template0")
    databases.drop(name)


def config_for(url):
    config = Config(str(ROOT / "alembic.ini"))
    config.attributes["url"] = url
    return config


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
