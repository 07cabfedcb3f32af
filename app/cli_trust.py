"""Commands of trust: rotating the key-encryption keys, and checking the audit trail alone, as a partner does."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from app.actions.operators import wrapped_under
from app.config import Settings
from app.domain.audit import FIRST_PREVIOUS, Fault, check_seal, hash_of_seal
from app.keys.jws import TokenRefused
from app.keys.provider import KeyFile, add_key, drop_key, parsed, use_key
from app.keys.tokens import read_seal
from app.launch import as_owner

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
audit_app = typer.Typer(no_args_is_help=True, help="The audit trail.")
PAGE = 1000
SEALED_WITHIN = timedelta(minutes=2)
NEW_SEALS = 1_000  # so many may be made while a long check goes on


def add_key_commands(key_app: typer.Typer) -> None:
    """Add the commands that rotate key-encryption keys."""
    key_app.command("add")(key_add)
    key_app.command("use")(key_use)
    key_app.command("status")(key_status)
    key_app.command("drop")(key_drop)


def key_add() -> None:
    """Add a key-encryption key to the key file. It unwraps, and does not wrap yet: bring the file to every machine first, and keep a copy apart."""
    path = Settings().keys_path
    version = add_key(path)
    console.print(f"Version {version} is in {path}. Once every machine has the file: ipt key use {version}")


def key_use(version: int) -> None:
    """Let a version wrap from now on; the worker re-wraps what older ones wrap. Processes read the file when they meet it."""
    use_key(Settings().keys_path, version)
    console.print(f"Version {version} wraps from now on. `ipt key status` says how far the worker is.")


def key_status() -> None:
    """Tell how much each version of the key-encryption key still wraps."""
    keys, _, wraps = parsed(KeyFile(Settings().keys_path).read())
    found = _wrapped()
    for version in sorted(keys):
        console.print(f"version {version:4}  {found.get(version, 0)} wrapped{'  (wraps from now on)' if version == wraps else ''}")
    console.print("The worker re-wraps once a minute. Kept answers are not re-wrapped: they go 72 hours after they were made.")


def key_drop(version: int) -> None:
    """Take an old key-encryption key out of the key file, once nothing is wrapped under it."""
    KeyFile(Settings().keys_path).read()
    left = _wrapped().get(version, 0)
    if left:
        _stop(f"Version {version} still wraps {left}: let the worker finish. (Kept answers go after 72 hours.)")
    drop_key(Settings().keys_path, version)
    console.print(f"Version {version} is gone. Backups of before need it still: keep the file that you had, apart, as long as one of them is kept.")


def _wrapped() -> dict[int, int]:
    found: dict[int, int] = as_owner(lambda database, _: wrapped_under(database))
    return found


@dataclass(slots=True)
class Checked:
    """What a check of the trail found."""

    seals: int = 0
    events: int = 0
    newest: dict[str, Any] | None = None
    fault: Fault | None = None


@audit_app.command("verify")
def audit_verify(
    url: Annotated[str | None, typer.Option(help="The service; default: that of the sandbox")] = None,
    kept: Annotated[Path, typer.Option(help="File that keeps the newest seal seen: with it nobody can cut the trail short unseen")] = Path(
        "audit-seal.json"
    ),
    going_on: Annotated[bool, typer.Option("--from-kept", help="Go on from the seal that was kept, instead of from the first")] = False,  # noqa: FBT002 - an option
) -> None:
    """Fetch your seals and events and check all of it: hashes, chain, signatures. Credentials: IPT_CLIENT_ID and IPT_CLIENT_SECRET (audit:read)."""
    address, client_id, secret = _credentials(url)
    with httpx.Client(base_url=address, timeout=30) as http:
        answer = http.post("/oauth/token", data={"grant_type": "client_credentials", "scope": "audit:read"}, auth=(client_id, secret))
        if answer.status_code != httpx.codes.OK:
            _stop(f"No token: {answer.text}")
        http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None
        found = verify(http, client_id.partition(".")[0], known, going_on=going_on)
    if found.fault is not None:
        where = f"Seal {found.fault.number}: " if found.fault.number else ""
        _stop(f"{where}{found.fault.what}. Keep the database as it is, and ask whoever runs it: see docs/audit.md.")
    if found.newest is not None:
        kept.write_text(json.dumps(found.newest), encoding="utf-8")
    checked = found.seals - (known["number"] - 1 if known is not None and going_on else 0)
    console.print(f"{checked} seals over {found.events} events hold. The newest, {found.seals}, is kept in {kept}.")


def verify(http: httpx.Client, partner_id: str, known: dict[str, Any] | None, *, going_on: bool = False) -> Checked:
    """Check a partner's trail over HTTP: the whole, or from the newest seal that the partner kept on. Returns the first fault, if any."""
    keys = {k["kid"]: k for k in _got(http, "/v1/audit/keys")["keys"]}
    start = known["number"] if known is not None and going_on else 1
    checked, previous = Checked(seals=start - 1), known["previous"] if start > 1 and known else FIRST_PREVIOUS.hex()
    for seal in _pages(http, f"/v1/audit/seals?number_from={start}"):
        number = checked.seals + 1
        events = list(_pages(http, f"/v1/audit-events?seal={seal['number']}"))
        checked.fault = _fault_of(seal, events, keys, bytes.fromhex(previous), number, partner_id)
        if checked.fault is None and known is not None and known["number"] == number and known["signature"] != seal["signature"]:
            checked.fault = Fault(number, "it is not the seal that you kept")
        if checked.fault is not None:
            return checked
        checked.seals, checked.events, checked.newest = number, checked.events + len(events), seal
        previous = hash_of_seal(seal["signature"]).hex()
    if known is not None and known["number"] > checked.seals:
        checked.fault = Fault(known["number"], "you kept this seal, and it is not there any more: the trail was cut short")
    checked.fault = checked.fault or _fault_outside(http, checked.seals, known["sealed_at"] if known is not None and going_on else None)
    return checked


def _fault_of(
    seal: dict[str, Any], events: list[dict[str, Any]], keys: dict[str, Any], previous: bytes, number: int, partner_id: str
) -> Fault | None:
    try:
        said = read_seal(seal["signature"], keys)
    except TokenRefused:
        return Fault(number, "its signature does not hold")
    if said["partner"] != partner_id:
        return Fault(number, "it is another partner's")
    return check_seal(said, seal, events, previous, number)


def _fault_outside(http: httpx.Client, newest: int, since: str | None) -> Fault | None:
    """Look at events that no seal covers: one that names a seal there is none of, that was forged, or that should have been sealed long ago."""
    latest = datetime.now(UTC) - SEALED_WITHIN
    from_there = f"?at_from={since}" if since else ""
    for event in _pages(http, f"/v1/audit-events{from_there}"):
        if event["forged"]:
            return Fault(0, f"event {event['id']} was not written by the service, or not so")
        if (event["seal"] or 0) > newest + NEW_SEALS or (event["seal"] is None and datetime.fromisoformat(event["at"]) < latest):
            return Fault(0, f"event {event['id']} is under no seal")
    return None


def _pages(http: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    joined = "&" if "?" in path else "?"
    page = _got(http, f"{path}{joined}limit={PAGE}")
    while True:
        yield from page["items"]
        if page["next"] is None:
            return
        page = _got(http, f"{path}{joined}limit={PAGE}&cursor={page['next']}")


def _got(http: httpx.Client, path: str) -> dict[str, Any]:
    answer = http.get(path)
    while answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        time.sleep(float(answer.headers.get("retry-after", "1")))
        answer = http.get(path)
    if answer.status_code != httpx.codes.OK:
        _stop(f"{path}: {answer.status_code} {answer.text}")
    found: dict[str, Any] = answer.json()
    return found


def _credentials(url: str | None) -> tuple[str, str, str]:
    client_id, secret = os.environ.get("IPT_CLIENT_ID"), os.environ.get("IPT_CLIENT_SECRET")
    sandbox = Settings().home / "sandbox.json"
    if url is None or client_id is None or secret is None:
        if not sandbox.exists():
            _stop("Name the service with --url and set IPT_CLIENT_ID and IPT_CLIENT_SECRET.")
        stored = json.loads(sandbox.read_text(encoding="utf-8"))
        return url or stored["base_url"], client_id or stored["client_id"], secret or stored["client_secret"]
    return url, client_id, secret


def _stop(sentence: str) -> Any:
    errors.print(sentence, markup=False)
    raise typer.Exit(1)
