"""`make demo`: one course played live over HTTP, saying at each step what the service decided and why."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from app.sandbox.courses.every import COURSES
from app.sandbox.player import Playing
from app.sandbox.vendor import PlayedWrong, Vendor

START_WITHIN_SECONDS = 90.0
STOP_WITHIN_SECONDS = 40.0


async def play_live(file: Path, code: str, console: Console) -> int:
    """Play a course; start the service first if it does not run, and stop it again. Returns the exit status."""
    if code not in COURSES:
        console.print(f"No course {code}. There are: {', '.join(COURSES)}", markup=False)
        return 1
    async with _running(file, console) as sandbox:
        if sandbox is None:
            return 1
        started = time.monotonic()
        async with httpx.AsyncClient(base_url=sandbox["base_url"], timeout=30) as http:
            player = Vendor(http, sandbox["client_id"], sandbox["client_secret"], console.print)
            try:
                await player.arrive()
                await Playing(player, COURSES[code], datetime.now(UTC).date()).whole()
            except PlayedWrong as error:
                console.print(f"The service did not answer as the course expects: {error}", markup=False)
                return 1
        console.print(f"The course has ended after {time.monotonic() - started:.1f} s. It was added to the sandbox's caseload.")
    return 0


@contextlib.asynccontextmanager
async def _running(file: Path, console: Console) -> AsyncIterator[dict[str, Any] | None]:
    sandbox = await _ready(file)
    if sandbox is not None:
        yield sandbox
        return
    console.print("The service is not running: starting it.")
    log = file.with_name("demo-service.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen([sys.executable, "-m", "app.cli", "run"], stdout=out, stderr=out)  # noqa: ASYNC220 - our own command
    try:
        deadline = time.monotonic() + START_WITHIN_SECONDS
        while sandbox is None and process.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            sandbox = await _ready(file)
        if sandbox is None:
            console.print(f"It did not start; see {log}:\n{log.read_text(encoding='utf-8')[-2000:]}", markup=False)
        yield sandbox
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_WITHIN_SECONDS)


async def _ready(file: Path) -> dict[str, Any] | None:
    """Return the sandbox's particulars when its service answers and its client is known there."""
    try:
        sandbox: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))  # noqa: ASYNC240 - a small file, before anything is served
        async with httpx.AsyncClient(base_url=sandbox["base_url"], timeout=5) as http:
            ready = await http.get("/health/ready")
            answer = await http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(sandbox["client_id"], sandbox["client_secret"]))
    except (OSError, ValueError, KeyError, httpx.HTTPError):
        return None
    return sandbox if ready.is_success and answer.is_success else None
