"""Supply chain and posture: the lock against known advisories, headers, switches, secrets; and that the mapping names tests that exist."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from app.config import Settings
from app.keys.cipher import KeyRing, PatientKey
from app.main import create_app
from tests.conftest import Clock, Service

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-bench.lock", "requirements-node.lock", "requirements-analyst.lock")
PINNED = re.compile(r"^([a-zA-Z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)(?:\s*;[^\\]*)?", re.MULTILINE)
ADVISORIES = tomllib.loads((ROOT / "docs" / "security" / "advisories.toml").read_text(encoding="utf-8"))["advisory"]
POINTER = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def locked(name="requirements.lock"):
    return dict(PINNED.findall((ROOT / name).read_text(encoding="utf-8")))


def pointer_exists(name):
    path, function = name.split("::")
    return re.search(rf"^(async )?def {function}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE) is not None


# Supply chain


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes_and_no_lock_names_a_registry(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.split(r"(?m)^(?=[a-zA-Z0-9_.-]+(?:\[[^\]]*\])?==)", text)[1:]
    assert blocks
    assert [b.splitlines()[0] for b in blocks if "--hash=sha256:" not in b] == []
    assert not re.search(r"https?://|--index-url|--extra-index-url|--find-links", text)


@pytest.mark.parametrize("advisory", ADVISORIES, ids=lambda a: f"{a['package']} {a['ids'][0]}")
def test_a_known_advisory_is_fixed_in_the_lock_or_says_why_it_does_not_touch_us(advisory):
    version = locked()[advisory["package"]]
    touched = Version(version) in SpecifierSet(advisory["affected"])
    assert advisory["status"] in {"fixed", "not_affected"}
    if advisory["status"] == "fixed":
        assert not touched, f"{advisory['package']} {version} is affected by {advisory['ids']}"
    else:
        assert touched, "the lock has moved on: this row can say fixed"
        assert len(advisory["because"]) > 20
        assert pointer_exists(advisory["test"])


def test_the_advisories_cover_the_token_library_and_what_it_brings():
    assert {"python-jose", "ecdsa", "rsa", "pyasn1", "cryptography", "starlette", "h11"} <= {a["package"] for a in ADVISORIES}
    assert all(re.fullmatch(r"CVE-\d{4}-\d{4,}|GHSA(-[0-9a-z]{4}){3}|PYSEC-\d{4}-\d+", i) for a in ADVISORIES for i in a["ids"])
    assert {a["package"] for a in ADVISORIES} <= set(locked())


def test_the_bill_of_materials_lists_every_locked_package_with_its_hashes(tmp_path):
    out = tmp_path / "sbom.json"
    command = [
        str(Path(sys.executable).with_name("cyclonedx-py")),
        "requirements",
        "--pyproject",
        str(ROOT / "pyproject.toml"),
        "--output-reproducible",
    ]
    done = subprocess.run([*command, "-o", str(out), str(ROOT / "requirements.lock")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bill = json.loads(out.read_text(encoding="utf-8"))
    listed = {c["name"].lower().replace("_", "-"): c for c in bill["components"]}
    assert set(listed) == {n.lower().replace("_", "-") for n in locked()}
    assert all(any(r.get("hashes") for r in c["externalReferences"]) for c in listed.values())
    assert {n: c["version"] for n, c in listed.items()} == {n.lower().replace("_", "-"): v for n, v in locked().items()}


# Headers and switches


@pytest.mark.parametrize("path", ["/health/live", "/v1/patients", "/v1/protocols", "/nowhere", "/problems/not-found", "/.well-known/jwks.json"])
def test_every_answer_carries_the_security_headers(http, path):
    headers = http.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "max-age=31536000" in headers["strict-transport-security"]
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "access-control-allow-origin" not in headers, "no page of another site reads an answer"
    assert "set-cookie" not in headers


def test_docs_are_off_by_configuration_and_nothing_else_shows_the_contract(own_service):
    closed = Service(own_service.settings.model_copy(update={"docs": False}), Clock()).start()
    try:
        with httpx.Client(base_url=closed.base_url) as http:
            for path in ("/docs", "/openapi.json", "/redoc", "/docs/assets/swagger-ui.css"):
                assert http.get(path).status_code == 404, path
            assert http.get("/problems/not-found").status_code == 200, "problem types stay explained"
    finally:
        closed.stop()
    assert Settings(_env_file=None).docs is True


def test_answers_about_patients_are_kept_by_no_shared_cache(partner):
    episode = partner.add_episode()
    for path in (episode.path, f"{episode.path}/inventory", "/v1/patients", "/v1/audit-events"):
        assert partner.send("GET", path).headers["cache-control"] in {"private, no-cache", "no-store"}
    assert partner.ask_token(grant_type="client_credentials").headers["cache-control"] == "no-store"


def test_no_method_but_the_declared_ones_and_no_override(partner, http):
    episode = partner.add_episode()
    for method in ("TRACE", "OPTIONS", "PROPFIND"):
        assert http.request(method, episode.path).status_code == 405
    assert http.request("BREW", episode.path).status_code == 400, "no method of HTTP at all"
    header = {"Authorization": f"Bearer {partner.token}", "X-HTTP-Method-Override": "DELETE"}
    assert http.post(f"{episode.path}/goals", headers=header, json={"text": "x"}).status_code == 201


# Secrets


def test_secrets_stand_in_no_representation_no_log_and_no_failure(partner, capfd):
    key = os.urandom(32)
    ring = KeyRing({1: key})
    settings = Settings(keys='{"keys": {"1": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlYzA="}}', _env_file=None)
    for thing in (ring, settings):
        assert "c2VjcmV0" not in repr(thing) + str(thing)
        assert key.hex() not in repr(thing)
    assert str(key) not in repr(PatientKey(__import__("uuid").uuid4(), key)), "a key shows itself in no trace"
    partner.send("POST", "/v1/patients", {"external_ref": 5})
    partner.http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(partner.client_id, "wrong-secret-shown"))
    out = "".join(capfd.readouterr())
    for secret in (partner.secret, partner.token, "wrong-secret-shown"):
        assert secret not in out


def test_a_child_process_of_the_service_gets_no_key_by_its_environment(tmp_path):
    """What the launcher hands to further processes by the environment are addresses, never keys."""
    from app.launch import share_with_processes  # noqa: PLC0415

    before = dict(os.environ)
    try:
        share_with_processes(Settings(home=tmp_path, database_url="postgresql://ipt_service@db/ipt", _env_file=None))
        added = {k: v for k, v in os.environ.items() if before.get(k) != v}
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
    assert set(added) == {"IPT_DATABASE_URL"}


def test_no_secret_is_committed():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("no checkout")
    for name in tracked:
        assert not name.endswith((".pem", ".key", "keys.json", "sandbox.json", ".env"))
        if name.endswith((".py", ".md", ".toml", ".yaml", ".json")) and "lock" not in name:
            text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
            assert "-----BEGIN " + "PRIVATE KEY" not in text, name
            assert "-----BEGIN " + "EC PRIVATE" not in text, name


# The mapping


def mapping():
    return (ROOT / "SECURITY.md").read_text(encoding="utf-8") + (ROOT / "docs" / "security" / "mapping.md").read_text(encoding="utf-8")


def test_every_pointer_of_the_mapping_is_a_test_that_exists():
    pointers = {f"{path}::{name}" for path, name in POINTER.findall(mapping())}
    assert len(pointers) > 40
    missing = [p for p in sorted(pointers) if not (ROOT / p.split("::")[0]).exists() or not pointer_exists(p)]
    assert missing == []


def test_every_row_of_the_mapping_points_to_a_test_or_says_that_it_does_not_apply():
    rows = [line for line in (ROOT / "docs" / "security" / "mapping.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [r for r in rows if not r.startswith(("| requirement", "| ---"))]
    assert len(rows) > 50
    assert [r for r in rows if not POINTER.search(r) and "not applicable" not in r and "the operator" not in r] == []


@pytest.mark.parametrize(
    "words",
    [
        *("164.312(a)(1)", "164.312(a)(2)(i)", "164.312(a)(2)(ii)", "164.312(a)(2)(iii)", "164.312(a)(2)(iv)", "164.312(b)", "164.312(c)(1)"),
        *("164.312(c)(2)", "164.312(d)", "164.312(e)(1)", "164.312(e)(2)(i)", "164.312(e)(2)(ii)"),
        *("Art. 7", "Art. 8", "Art. 15", "Art. 16", "Art. 17", "Art. 18", "Art. 20", "Art. 25", "Art. 30", "Art. 32", "Art. 33"),
        *(f"API{n}:2023" for n in range(1, 11)),
        *(f"V{n} " for n in range(1, 18)),
    ],
)
def test_the_mapping_has_every_requirement(words):
    assert words in (ROOT / "docs" / "security" / "mapping.md").read_text(encoding="utf-8")


def test_the_app_is_built_without_a_default_that_opens_something():
    app = create_app(Settings(public_url="http://localhost", _env_file=None))
    assert app.debug is False
    assert not [m for m in app.user_middleware if "CORS" in str(m)]
