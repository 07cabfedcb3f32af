"""The `ipt` command as an operator types it: its modules are loaded once, and each command is a process of its own, forked from there."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_loaded = multiprocessing.get_context("forkserver")
_loaded.set_forkserver_preload(["app.cli"])


def ipt(*words, env, within=120):
    """Run a command to its end; return what it said, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "stdout"), Path(folder, "stderr")
        process = _loaded.Process(target=_run, args=(words, dict(env), *said))
        process.start()
        process.join(within)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, within, *(file.read_text() for file in said))
        return subprocess.CompletedProcess(words, process.exitcode, *(file.read_text() for file in said))


def _run(words, env, *said):
    from app.cli import main  # noqa: PLC0415 - there already, in this process

    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    for number, file in enumerate(said, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = ["ipt", *words]
    main()
