"""The newcomer's two minutes: `ipt run` and `ipt demo` on a home of their own."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from app import embedded
from tests.command import ipt

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def env(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path / "home"
    yield {k: v for k, v in os.environ.items() if not k.startswith("IPT_")} | {
        "IPT_HOME": str(home),
        "IPT_PORT": str(port),
        "IPT_POSTGRES": os.environ.get("IPT_POSTGRES", "auto"),
        "IPT_LOG_LEVEL": "warning",
        "COLUMNS": "300",
    }
    note = home / embedded.ROOM_NOTE
    if note.exists():
        shutil.rmtree(note.read_text().strip(), ignore_errors=True)


def started(env):
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "run"], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Stop: Ctrl-C" in line:
            return process, "".join(lines)
    raise AssertionError("".join(lines))


def test_run_serves_a_sandbox_whose_first_request_works_and_remembers_it(env):
    process, shown = started(env)
    with process:
        try:
            file = Path(env["IPT_HOME"]) / "sandbox.json"
            sandbox = json.loads(file.read_text())
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert set(sandbox) == {"base_url", "token_url", "client_id", "client_secret", "scopes", "partner_id", "episode_ids", "analyst"}
            assert len(sandbox["episode_ids"]) == 4
            script = shown[shown.index("TOKEN=") : shown.index("Anonymised outcomes")]
            answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
            assert json.loads(answer.stdout)["episode_id"] == sandbox["episode_ids"][0]
            script = shown[shown.index("ANALYST=") : shown.index("A whole course")]
            offer = json.loads(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout)
            assert [t["status"] for t in offer["tables"]] == ["ready"] * 36, "the standard pack of twelve quarters"
            second = ipt("run", env=env | {"IPT_PORT": "1"})
            assert second.returncode == 1
            same_port = ipt("run", env=env)
            assert "cannot be used" in same_port.stderr
            other_port = ipt("run", env=env | {"IPT_PORT": "18997"})
            assert "in use already" in other_port.stderr
            demo = ipt("demo", "--course", "retirement", env=env)
            assert demo.returncode == 0, demo.stdout + demo.stderr
            for said in ("Gate to middle: shut", "The clinician decides: role_transition", "Phase: follow_up", "The course has ended"):
                assert said in demo.stdout
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
    began = time.monotonic()
    process, _ = started(env)
    with process:
        assert time.monotonic() - began < 60
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert json.loads(file.read_text())["client_secret"] == sandbox["client_secret"]


def test_demo_starts_the_service_when_it_does_not_run_and_stops_it_again(env):
    demo = subprocess.run([sys.executable, "-m", "app.cli", "demo"], env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "The service is not running: starting it." in demo.stdout
    assert "reliable change: improvement" in demo.stdout
    assert re.search(r"because nonreciprocal_expectations \+4", demo.stdout)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{env['IPT_PORT']}/health/live")
    unknown = ipt("demo", "--course", "none", env=env)
    assert (unknown.returncode, "There are:" in unknown.stdout) == (1, True)
