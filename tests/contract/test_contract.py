"""The OpenAPI document: it does not drift, it is whole, and clients built from it work."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from app.api.problems import every_problem
from app.api.request import SCOPES
from app.config import Settings
from app.main import create_app
from tests.driver import PHQ9, day, now

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "openapi" / "openapi.json"
NODE = ROOT / "tests" / "clients" / "typescript"


@pytest.fixture(scope="module")
def document():
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_the_release_is_the_packages(document):
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert document["info"]["version"] == package
    assert f"## {package}" in (ROOT / "CHANGELOG.md").read_text()


def operations(document):
    return [(m, p, o) for p, item in document["paths"].items() for m, o in item.items()]


def test_the_file_is_what_the_service_serves(document):
    fresh = json.loads(json.dumps(create_app(Settings(public_url="http://localhost")).openapi()))
    assert fresh == document, "run `make openapi` and review the difference"


def test_operation_ids_are_clean_and_unique(document):
    ids = [o["operationId"] for _, _, o in operations(document)]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", i) for i in ids)


def test_every_operation_is_described_and_declares_its_scopes_and_problems(document):
    for method, path, operation in operations(document):
        assert operation["description"], path
        if not path.startswith("/v1/") or "catalogue" in operation["tags"]:
            continue
        scopes = operation["security"][0]["partner"]
        assert scopes
        assert set(scopes) <= set(SCOPES)
        wanted = {"400", "401", "403", "404", "422", "429", "503"}
        wanted |= {"412", "428"} if method in {"put", "patch", "delete"} else set()
        assert wanted <= set(operation["responses"]), f"{method} {path}"
        headers = {p["$ref"].rpartition("/")[2] for p in operation["parameters"] if "$ref" in p}
        assert ("IdempotencyKey" in headers) == (method in {"post", "put", "patch"})
        assert ("IfMatch" in headers) == (method in {"put", "patch", "delete"})


def test_every_problem_stands_in_the_document(document):
    text = json.dumps(document["components"]["responses"])
    assert [name for name in every_problem() if f"/problems/{name}`" not in text] == []


def test_every_schema_is_described_and_requests_have_examples(document):
    schemas = document["components"]["schemas"]
    assert [n for n, s in schemas.items() if s.get("type") == "object" and not s.get("description")] == []
    assert sum("examples" in json.dumps(s) for n, s in schemas.items() if n.endswith("In")) >= 8


@pytest.fixture(scope="module")
def python_client(tmp_path_factory):
    """The client that openapi-python-client makes, imported."""
    folder = tmp_path_factory.mktemp("client")
    config = folder / "config.yml"
    config.write_text(
        "project_name_override: ipt\npackage_name_override: ipt_client\npost_hooks: []\n"
        "content_type_overrides:\n  image/svg+xml: application/octet-stream\n  application/pdf: application/octet-stream\n"
        "  application/x-ndjson: application/octet-stream\n  text/event-stream: application/octet-stream\n"
    )
    tool = Path(sys.executable).with_name("openapi-python-client")
    made = subprocess.run(
        [tool, "generate", "--path", FILE, "--meta", "none", "--config", config, "--output-path", folder / "ipt_client"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert "WARNING" not in made.stdout + made.stderr, made.stdout + made.stderr
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def test_the_generated_python_client_drives_a_course(python_client, partner):
    from ipt_client import AuthenticatedClient, models  # noqa: PLC0415
    from ipt_client.api.assessments import create_assessment, read_episode_trajectory  # noqa: PLC0415
    from ipt_client.api.classification import classify_episode, replace_indicators  # noqa: PLC0415
    from ipt_client.api.course import read_episode_phase, take_transition  # noqa: PLC0415
    from ipt_client.api.episodes import create_episode, read_episode, update_episode  # noqa: PLC0415
    from ipt_client.api.inventory import create_relationship, read_whole_inventory  # noqa: PLC0415
    from ipt_client.api.people import create_clinician, create_consent, create_patient  # noqa: PLC0415
    from ipt_client.api.sessions import create_session  # noqa: PLC0415

    with AuthenticatedClient(base_url=partner.base_url, token=partner.token) as client:
        patient = create_patient.sync(client=client, body=models.PatientIn(birth_year=1980), idempotency_key="one")
        again = create_patient.sync(client=client, body=models.PatientIn(birth_year=1980), idempotency_key="one")
        assert again.id == patient.id
        team = [create_clinician.sync(client=client, body=models.ClinicianIn(subject=f"idp|{n}")) for n in (1, 2)]
        body = models.EpisodeIn.from_dict(
            {
                "patient_id": str(patient.id),
                "protocol": "IPC",
                "referred_on": day(days=30),
                "age_at_referral": 46,
                "illness_onset_date": day(days=90),
                "lead_clinician_id": str(team[0].id),
                "cover_clinician_id": str(team[1].id),
            }
        )
        episode = create_episode.sync(client=client, body=body)
        consent = models.ConsentIn.from_dict({"purpose": "treatment", "given": True, "wording": "v1", "decided_at": now(days=20)})
        create_consent.sync(patient.id, client=client, body=consent)
        refused = take_transition.sync_detailed(episode.id, client=client, body=models.TransitionIn.from_dict({"to": "initial"}))
        assert refused.status_code == 409
        patched = update_episode.sync(
            episode.id, client=client, body=models.EpisodePatch.from_dict({"contraindications": [], "risk_screened": True}), if_match='"1.1"'
        )
        assert patched.version == 2
        step = take_transition.sync(episode.id, client=client, body=models.TransitionIn.from_dict({"to": "initial"}))
        assert step.to_phase == "initial"
        person = models.RelationshipIn.from_dict({"label": "the ward team", "relation_type": "colleague"})
        create_relationship.sync(episode.id, client=client, body=person)
        assert read_whole_inventory.sync(episode.id, client=client).measures.relationships == 1
        create_session.sync(episode.id, client=client, body=models.SessionIn.from_dict({"starts_at": now(days=7), "status": "held", "minutes": 30}))
        scored = create_assessment.sync(
            episode.id, client=client, body=models.AssessmentIn.from_dict({"instrument": "PHQ-9", "answers": PHQ9, "answered_at": now(days=7)})
        )
        assert (scored.total, scored.band) == (8, "mild")
        replace_indicators.sync(
            episode.id,
            client=client,
            body=models.IndicatorsIn.from_dict({"answers": {"role_change_identified": {"value": "present"}}}),
            if_none_match="*",
        )
        assert classify_episode.sync(episode.id, client=client).result.decision_status == "awaiting_clinician"
        assert read_episode_phase.sync(episode.id, client=client).sessions_held == 1
        assert read_episode_trajectory.sync(episode.id, client=client).instruments[0].latest == 8
        assert read_episode.sync(episode.id, client=client).status == "active"


def test_the_typescript_client_is_built_and_type_checks(tmp_path):
    path = os.environ["PATH"] + os.pathsep + str(Path(sys.executable).parent)
    node = shutil.which("node", path=path)
    assert node, "make test sets Node up; run the tests through make"
    tools = NODE / "node_modules"
    types = tmp_path / "ipt.d.ts"
    made = subprocess.run(
        [node, tools / "openapi-typescript" / "bin" / "cli.js", FILE, "-o", types, "--default-non-nullable", "false"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": path},
    )
    assert made.returncode == 0, made.stdout + made.stderr
    use = tmp_path / "use.ts"
    use.write_text(
        'import type { components, operations } from "./ipt";\n'
        'type Patient = components["schemas"]["PatientOut"];\n'
        'type Submit = operations["create_assessment"]["requestBody"]["content"]["application/json"];\n'
        'export const body: Submit = { instrument: "PHQ-9", answers: { "1": 1, "9": null }, answered_at: "2026-01-01T00:00:00Z" };\n'
        "export const birth = (p: Patient): number | null => p.birth_year;\n"
        'export type Shut = operations["take_transition"]["responses"]["409"]["content"]["application/problem+json"];\n'
    )
    compiler = tools / "typescript" / "bin" / "tsc"
    checked = subprocess.run(
        [node, compiler, "--noEmit", "--strict", "--skipLibCheck", "false", use], capture_output=True, text=True, check=False, env={"PATH": path}
    )
    assert checked.returncode == 0, checked.stdout
