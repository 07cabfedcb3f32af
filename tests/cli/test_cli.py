"""The command line, as an operator types it, against a home of its own."""

import json
import os
import re
import shutil
import stat
from datetime import UTC, datetime

import pytest

from app import embedded
from app.keys.tokens import new_signing_key
from tests import command


@pytest.fixture(scope="module")
def ipt(tmp_path_factory):
    home = tmp_path_factory.mktemp("cli") / "home"
    env = {k: v for k, v in os.environ.items() if not k.startswith("IPT_")} | {
        "IPT_HOME": str(home),
        "IPT_POSTGRES": os.environ.get("IPT_POSTGRES", "auto"),
        "COLUMNS": "200",
    }

    def run(*words, **more):
        return command.ipt(*words, env=env | more)

    run.home, run.env = home, env
    yield run
    note = home / embedded.ROOM_NOTE
    if note.exists():
        shutil.rmtree(note.read_text().strip(), ignore_errors=True)


@pytest.fixture(scope="module")
def partner_id(ipt):
    migrated = ipt("migrate")
    assert "at head" in migrated.stdout, migrated.stderr
    added = ipt("partner", "add", "A clinic", "--risk-responder", "duty@example.org", "--crisis-text", "Call the line.")
    assert added.returncode == 0, added.stderr
    return added.stdout.strip()


def test_partners_clients_and_keys_are_managed_from_the_command_line(ipt, partner_id, tmp_path):
    assert "A clinic" in ipt("partner", "list").stdout
    added = ipt("client", "add", partner_id, "backend", "--scope", "patients:read", "--scope", "patients:write")
    secret = re.search(r"client_secret\s+(\S+)", added.stdout).group(1)
    assert len(secret) >= 43
    client_id = f"{partner_id}.backend"
    listed = ipt("client", "list", partner_id).stdout
    assert f"{client_id}  active  patients:read patients:write" in listed
    assert secret not in listed
    key = new_signing_key(datetime.now(UTC))
    (tmp_path / "jwk.json").write_text(json.dumps(dict(key.public_jwk)))
    assert ipt("client", "key", "add", client_id, str(tmp_path / "jwk.json")).stdout.strip() == key.kid
    (tmp_path / "private.json").write_text(json.dumps({**key.public_jwk, "d": "x"}))
    refused = ipt("client", "key", "add", client_id, str(tmp_path / "private.json"))
    assert refused.returncode == 1
    assert "private key" in refused.stderr
    assert ipt("client", "disable", client_id).returncode == 0
    assert f"{client_id}  disabled" in ipt("client", "list", partner_id).stdout


def test_signing_keys_rotate(ipt, partner_id):
    first = ipt("key", "rotate").stdout
    assert re.match(r"kid \S{43}", first)


def test_what_cannot_be_is_one_sentence_and_no_trace(ipt, partner_id):
    client = "0190b5a0-0000-7000-8000-000000000000.none"
    tries = [
        ("client", "add", partner_id, "Bad Name"),
        ("client", "add", partner_id, "backend", "--scope", "root"),
        ("client", "add", "0190b5a0-0000-7000-8000-000000000000", "x"),
        ("client", "disable", client),
        ("client", "disable", "nonsense"),
        ("client", "key", "add", client, "/no/such/file"),
        ("partner", "add", "x", "--risk-responder", " ", "--crisis-text", " "),
    ]
    for words in tries:
        done = ipt(*words)
        assert done.returncode == 1, words
        assert done.stderr.strip()
        assert "Traceback" not in done.stderr
    assert ipt("partner", "add", "x").returncode == 2


def test_a_home_with_data_and_another_key_file_is_refused(ipt, partner_id):
    other = ipt.home.parent / "other.json"
    assert ipt("key", "init", IPT_KEYS_FILE=str(other)).returncode == 0
    assert stat.S_IMODE(other.stat().st_mode) == 0o600
    done = ipt("serve", IPT_KEYS_FILE=str(other), IPT_PORT="18999")
    assert done.returncode != 0
    assert "There is no key to open this with" in done.stdout + done.stderr


def test_serving_without_keys_on_a_given_server_says_what_to_do(ipt):
    done = ipt("migrate", IPT_DATABASE_URL="postgresql://ipt@127.0.0.1:1/none", IPT_KEYS_FILE="/no/such/keys.json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_commands_work_on_what_was_named_and_make_nothing_by_the_way(ipt, partner_id, tmp_path):
    away = "postgresql://ipt@127.0.0.1:1/none"
    for words, address in (
        (("migrate",), "MIGRATION"),
        (("backup", str(tmp_path / "x")), "MIGRATION"),
        (("worker",), "WORKER"),
        (("serve",), "AUDIT"),
    ):
        done = ipt(*words, **{"IPT_HOME": str(tmp_path / "empty"), f"IPT_{address}_DATABASE_URL": away, "IPT_KEYS_FILE": str(ipt.home / "keys.json")})
        assert done.returncode == 1, words
        assert ("No database" if address == "AUDIT" else "Connect call failed") in done.stderr, done.stderr
    done = ipt("serve", IPT_DATABASE_URL=away, IPT_PROCESSES="2", IPT_PORT="18998")
    assert (done.returncode, done.stderr.startswith("The database cannot be reached: ")) == (1, True), "no trace, and not a clean stop"
    (tmp_path / "dump").touch()
    for words in (
        ("partner", "list"),
        ("key", "status"),
        ("backup", str(tmp_path / "x")),
        ("worker",),
        ("outcomes", "freeze"),
        ("restore", str(tmp_path / "dump")),
    ):
        done = ipt(*words, IPT_HOME=str(tmp_path / "empty"))
        assert done.returncode == 1
        assert "There is no" in done.stderr, done.stderr
    done = ipt("restore", "--finish", "--without-journals", IPT_HOME=str(tmp_path / "empty"), IPT_KEYS_FILE=str(ipt.home / "keys.json"))
    assert "There is no database" in done.stderr, "nothing to finish"
    assert not (tmp_path / "empty").exists()
    assert "There is no folder" in ipt("backup", "/no/such/x").stderr
    done = ipt("backup", str(tmp_path / "x"))
    assert re.search(r"schema \d{4}, 1 partners, of postgresql://ipt_admin@/ipt", done.stdout), done.stdout + done.stderr


def test_the_openapi_command_prints_the_document(ipt):
    assert json.loads(ipt("openapi").stdout)["info"]["title"] == "IPT backend"


def test_help_names_every_command(ipt):
    shown = ipt("--help").stdout
    for name in ("serve", "run", "demo", "migrate", "worker", "openapi", "partner", "client", "key"):
        assert name in shown
