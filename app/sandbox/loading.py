"""The sandbox of `make run`: a partner with the four courses, played through the API itself, and one with a synthetic cohort for an analyst."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI
from rich.console import Console
from rich.progress import Progress

from app.actions.operators import list_partners, register_client, register_partner
from app.api.request import SCOPES
from app.sandbox.cohort_loading import Cohort, load_cohort
from app.sandbox.courses.every import COURSES
from app.sandbox.partner import SETTING
from app.sandbox.player import Playing
from app.sandbox.vendor import Vendor
from app.store.database import Database

COHORT = 2_000
ANALYST = ["outcomes:approve", "outcomes:extract", "outcomes:read"]


async def prepare_sandbox(
    app: FastAPI, owner: Database, file: Path, base_url: str, console: Console, cohort_of: Callable[[UUID, int], Cohort]
) -> dict[str, Any]:
    """Return the sandbox's particulars; make partners, clients and caseloads the first time. Written last: half of one is made anew."""
    try:
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))  # noqa: ASYNC240 - a small file, before anything is served
    except (OSError, ValueError):
        known = {}
    try:
        if known and await _still_there(owner, known):
            found = {**known, "base_url": base_url, "token_url": f"{base_url}/oauth/token"}
        else:
            found = await _make(app, owner, base_url, console)
        if "analyst" not in found:
            found["analyst"] = await _make_cohort(owner, console, cohort_of)
        return _write(file, found)
    finally:
        await owner.close()


async def _still_there(owner: Database, known: dict[str, Any]) -> bool:
    return known["partner_id"] in {str(p["partner_id"]) for p in await list_partners(owner)}


async def _make_cohort(owner: Database, console: Console, cohort_of: Callable[[UUID, int], Cohort]) -> dict[str, Any]:
    """Make a second sandbox partner with a synthetic cohort; return its analyst's credentials."""
    now = datetime.now(UTC)
    partner_id = await register_partner(owner, "Sandbox cohort", "sandbox", SETTING, now)
    client_id, secret = await register_client(owner, partner_id, "analyst", ANALYST, now)
    await load_cohort(cohort_of(partner_id, COHORT), console, now)
    return {"partner_id": str(partner_id), "client_id": client_id, "client_secret": secret}


async def _make(app: FastAPI, owner: Database, base_url: str, console: Console) -> dict[str, Any]:
    now = datetime.now(UTC)
    partner_id = await register_partner(owner, "Sandbox", "sandbox", SETTING, now)
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
    base, analyst = sandbox["base_url"], sandbox["analyst"]
    return f"""
Serving on {base}    documentation: {base}/docs

Sandbox credentials (also in sandbox.json of the data folder)
  client_id      {sandbox["client_id"]}
  client_secret  {sandbox["client_secret"]}

A first request to paste:

TOKEN=$(curl -s -u '{sandbox["client_id"]}:{sandbox["client_secret"]}' -d grant_type=client_credentials \\
  {sandbox["token_url"]} | python3 -c 'import json,sys; print(json.load(sys.stdin)["access_token"])')
curl -s -H "Authorization: Bearer $TOKEN" {base}/v1/episodes/{episode}/phase | python3 -m json.tool

Anonymised outcomes of {COHORT:,} made-up courses:

ANALYST=$(curl -s -u '{analyst["client_id"]}:{analyst["client_secret"]}' -d grant_type=client_credentials -d scope=outcomes:read \\
  {sandbox["token_url"]} | python3 -c 'import json,sys; print(json.load(sys.stdin)["access_token"])')
curl -s -H "Authorization: Bearer $ANALYST" {base}/v1/outcomes/tables | python3 -m json.tool

A whole course, played live: make demo        Stop: Ctrl-C
"""
