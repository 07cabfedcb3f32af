"""The sandbox of `make run`: one partner, one client, and the four courses, played through the API itself."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from rich.console import Console
from rich.progress import Progress

from app.actions.operators import list_partners, register_client, register_partner
from app.api.request import SCOPES
from app.sandbox.courses.every import COURSES
from app.sandbox.player import Playing
from app.sandbox.vendor import Vendor
from app.store.database import Database

CRISIS_TEXT = {
    "default": "This is a sandbox. In a real service your crisis contacts stand here.",
    "es": "Esto es un entorno de pruebas. En un servicio real figuran aquí sus contactos de crisis.",
}


async def prepare_sandbox(app: FastAPI, owner: Database, file: Path, base_url: str, console: Console) -> dict[str, Any]:
    """Return the sandbox's particulars; make partner, client and caseload the first time. Written last: half of one is made anew."""
    try:
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))  # noqa: ASYNC240 - a small file, before anything is served
    except (OSError, ValueError):
        known = {}
    try:
        if known and await _still_there(owner, known):
            return _write(file, {**known, "base_url": base_url, "token_url": f"{base_url}/oauth/token"})
        return _write(file, await _make(app, owner, base_url, console))
    finally:
        await owner.close()


async def _still_there(owner: Database, known: dict[str, Any]) -> bool:
    return known["partner_id"] in {str(p["partner_id"]) for p in await list_partners(owner)}


async def _make(app: FastAPI, owner: Database, base_url: str, console: Console) -> dict[str, Any]:
    now = datetime.now(UTC)
    setting = {"risk_responder": "duty@sandbox.example", "secondary_responder": None, "crisis_text": CRISIS_TEXT, "classifier_on": True}
    partner_id = await register_partner(owner, "Sandbox", "sandbox", setting, now)
    client_id, secret = await register_client(owner, partner_id, "sandbox-backend", sorted(SCOPES), now)
    episodes = []
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("Loading the sandbox's caseload", total=len(COURSES))
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url) as http:
            player = Vendor(http, client_id, secret)
            await player.arrive()
            for course in COURSES.values():
                episodes.append(await Playing(player, course, now.date()).whole())
                progress.advance(bar)
    return {
        "base_url": base_url,
        "token_url": f"{base_url}/oauth/token",
        "client_id": client_id,
        "client_secret": secret,
        "scopes": sorted(SCOPES),
        "partner_id": str(partner_id),
        "episode_ids": episodes,
    }


def _write(file: Path, sandbox: dict[str, Any]) -> dict[str, Any]:
    """Write the particulars for the owner's eyes only, whole or not at all."""
    half = file.with_suffix(".new")
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        json.dump(sandbox, out, indent=1)
        out.write("\n")
    half.rename(file)
    return sandbox


def announcement(sandbox: dict[str, Any]) -> str:
    """Return what a newcomer reads: the address, the credentials, and a first request to paste."""
    episode = sandbox["episode_ids"][0]
    base = sandbox["base_url"]
    return f"""
Serving on {base}    documentation: {base}/docs

Sandbox credentials (also in sandbox.json of the data folder)
  client_id      {sandbox["client_id"]}
  client_secret  {sandbox["client_secret"]}

A first request to paste:

TOKEN=$(curl -s -u '{sandbox["client_id"]}:{sandbox["client_secret"]}' -d grant_type=client_credentials \\
  {sandbox["token_url"]} | python3 -c 'import json,sys; print(json.load(sys.stdin)["access_token"])')
curl -s -H "Authorization: Bearer $TOKEN" {base}/v1/episodes/{episode}/phase | python3 -m json.tool

A whole course, played live: make demo        Stop: Ctrl-C
"""
