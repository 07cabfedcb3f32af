"""The house keeps its shape: import contracts hold, and no file of a forbidden name appears."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {"utils", "common", "core", "base", "helpers", "manager"}


def test_the_import_contracts_hold():
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_packages_are_empty_and_names_say_something():
    for path in (ROOT / "app").rglob("*.py"):
        assert path.stem not in FORBIDDEN
        if path.name == "__init__.py":
            assert path.read_text() == ""
