"""The `ipt` command: serve, migrate, partners, clients, keys, the sandbox and its demo."""

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import typer
import uvicorn
from fastapi import FastAPI
from rich.console import Console

from app.actions import operators
from app.actions.door import CLIENT_NAME, ClientRefused
from app.api.bearer import utc_now
from app.api.request import SCOPES
from app.binaries import EmbeddedPostgresError
from app.cli_database import backup, distribute, restore
from app.cli_outcomes import cohort, cohort_for, freeze_now, operator_app, outcomes_app
from app.cli_trust import add_key_commands, audit_app
from app.config import Settings
from app.domain.errors import CommandRefused, Refusal
from app.keys.cipher import KeyMissing
from app.keys.jws import KeyRefused
from app.keys.provider import create_key_file, read_keys
from app.launch import as_owner, database_for, named, owner_of, share_with_processes, worker_beside
from app.launch import migrate as migrate_database
from app.main import NO_DATABASE, check_database, create_app, key_provider
from app.patience import PatientProtocol
from app.store.database import Database, DatabaseAway, Unsafe
from app.worker import work

GRACE_SECONDS = 30
START_SECONDS = 60  # by 5 s, its default, uvicorn kills and replaces a process that is still loading, on a busy machine for ever
LOGIN_REFUSED = ("28", "42", "22")  # classes of SQLSTATE: authorization, access rule, a role that is not there
WRONG_LOGIN = "The database refuses this login (operators' commands need the migrator's, in IPT_MIGRATION_DATABASE_URL)"
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
partner_app = typer.Typer(no_args_is_help=True, help="Partners: the tenants.")
client_app = typer.Typer(no_args_is_help=True, help="Clients: the apps of a partner.")
client_key_app = typer.Typer(no_args_is_help=True, help="Public keys of a client, for private_key_jwt.")
key_app = typer.Typer(no_args_is_help=True, help="The service's own keys.")
app.add_typer(partner_app, name="partner")
app.add_typer(client_app, name="client")
client_app.add_typer(client_key_app, name="key")
app.add_typer(key_app, name="key")
add_key_commands(key_app)
app.add_typer(audit_app, name="audit")
app.add_typer(operator_app, name="operator")
app.add_typer(outcomes_app, name="outcomes")
app.command()(cohort)
app.command()(backup)
app.command()(restore)
app.command()(distribute)
console = Console(highlight=False, soft_wrap=True)


class Announcing(uvicorn.Server):
    """A server that says when it is ready."""

    def __init__(self, app: FastAPI, announce: Callable[[], None], options: dict[str, Any]) -> None:
        super().__init__(uvicorn.Config(app, **options))
        self._app, self._announce = app, announce

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop when asked to; open streams end at once, requests under way are finished."""
        house = getattr(self._app.state, "house", None)
        if house is not None:
            house.stopping.set()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.started and not self.should_exit:
            self._announce()


def service() -> Any:
    """Build the app from the environment, for further processes."""
    return create_app(Settings())


def _serve(settings: Settings, announce: Callable[[], None]) -> None:
    """Serve until asked to stop; requests under way are finished first."""
    asyncio.run(_looked_at(settings))
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "http": PatientProtocol,
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": settings.trusted_proxies or None,
        "timeout_graceful_shutdown": GRACE_SECONDS,
        "timeout_keep_alive": 15,
        "h11_max_incomplete_event_size": 32_768,
    }
    if settings.processes == 1:
        Announcing(create_app(settings), announce, options).run()
        return
    share_with_processes(settings)
    announce()
    with tempfile.TemporaryDirectory(prefix="ipt-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # whichever process is asked for metrics answers for all
        uvicorn.run("app.cli:service", factory=True, workers=settings.processes, timeout_worker_healthcheck=START_SECONDS, **options)


async def _looked_at(settings: Settings) -> None:
    """Look at the database before anything is served: what is wrong with it is one sentence here, and a trace of each process later."""
    if settings.database_url is None:
        raise Unsafe(NO_DATABASE)
    database = Database(settings.database_url, "ipt_service", pool_size=1, pooler=settings.pooler)
    try:
        await check_database(database, durable=settings.embedded_durable)
    finally:
        await database.close()


@app.command()
def serve() -> None:
    """Serve the API. With embedded PostgreSQL the database is made and migrated first."""
    settings = Settings()
    _check_port(settings)
    with database_for(settings) as ready:
        if ready is not settings:  # the embedded one
            migrate_database(ready)
        _serve(ready, lambda: console.print(f"Serving on {settings.issuer}"))


@app.command()
def run() -> None:
    """Serve the API with a sandbox partner and its synthetic caseload, and print a first request to paste."""
    from app.sandbox.loading import announcement, prepare_sandbox  # noqa: PLC0415 - only this command needs the courses

    settings = Settings()
    _check_port(settings)
    with database_for(settings) as ready:
        migrate_database(ready)
        quiet = ready.model_copy(update={"log_level": "warning"})
        file = settings.home / "sandbox.json"
        loaded = partial(cohort_for, ready, seed=1)
        sandbox = asyncio.run(prepare_sandbox(create_app(quiet), owner_of(ready), file, settings.issuer, console, loaded))
        asyncio.run(freeze_now(ready, UUID(sandbox["analyst"]["partner_id"])))
        shown = ready if "IPT_LOG_LEVEL" in os.environ else quiet  # the credentials should not scroll away
        with worker_beside(shown):
            _serve(shown, lambda: console.print(announcement(sandbox)))


@app.command()
def demo(course: Annotated[str, typer.Option(help="Which course to play; see app/sandbox")] = "wife-wants-autonomy") -> None:
    """Play a whole course live over HTTP against the running service, saying what it decides and why."""
    from app.sandbox.demo import play_live  # noqa: PLC0415 - only this command needs the courses

    settings = Settings()
    raise typer.Exit(asyncio.run(play_live(settings.home / "sandbox.json", course, console)))


@app.command()
def migrate() -> None:
    """Bring the database to this release's schema; make the first signing key."""
    with database_for(Settings(), attach=True) as ready:
        migrate_database(ready)
        console.print(f"The database is at head: {named(ready)}")


@app.command()
def worker(beside: Annotated[int | None, typer.Option(hidden=True, help="Stop when this process, our parent, is gone")] = None) -> None:
    """Run the worker: webhooks, alerts that wait, clearing. Several may run."""
    with database_for(Settings(), attach=True, make=False) as ready:
        asyncio.run(work(ready, parent=beside))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    document = create_app(Settings(public_url="http://localhost")).openapi()
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


@partner_app.command("add")
def partner_add(
    name: str,
    risk_responder: Annotated[str, typer.Option(help="The duty contact for risk alerts: no risk item is collected without one")],
    crisis_text: Annotated[str, typer.Option(help="What a person in crisis reads beside their answer")],
    secondary_responder: Annotated[str | None, typer.Option(help="Who is told when nobody acknowledges")] = None,
    sandbox: Annotated[bool, typer.Option(help="A sandbox partner, not a live one")] = False,
    classifier: Annotated[bool, typer.Option(help="Whether the problem-area classifier is on")] = True,
) -> None:
    """Add a partner; prints its id."""
    if not risk_responder.strip() or not crisis_text.strip():
        _stop("A partner needs a risk responder and a crisis text.")
    setting = {
        "risk_responder": risk_responder,
        "secondary_responder": secondary_responder,
        "crisis_text": {"default": crisis_text},
        "classifier_on": classifier,
    }
    kind = "sandbox" if sandbox else "live"
    console.print(str(as_owner(lambda database, _: operators.register_partner(database, name, kind, setting, utc_now()))))


@partner_app.command("list")
def partner_list() -> None:
    """List the partners."""
    for row in as_owner(lambda database, _: operators.list_partners(database)):
        console.print(f"{row['partner_id']}  {row['kind']:8}  {row['name']}")


@client_app.command("add")
def client_add(
    partner: UUID,
    name: str,
    scope: Annotated[list[str] | None, typer.Option(help="A scope; repeat it. Default: every scope")] = None,
) -> None:
    """Add a client; prints its id and its secret, once."""
    scopes = scope or sorted(SCOPES)
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not CLIENT_NAME.fullmatch(name):
        _stop(f"Unknown scopes: {', '.join(unknown)}" if unknown else "A client's name has 1 to 40 of a-z, 0-9 and -.")
    client_id, secret = as_owner(lambda database, _: operators.register_client(database, partner, name, scopes, utc_now()))
    console.print(f"client_id      {client_id}\nclient_secret  {secret}\n\nThe secret is not kept and cannot be shown again.")


@client_app.command("list")
def client_list(partner: UUID) -> None:
    """List a partner's clients."""
    for row in as_owner(lambda database, _: operators.list_clients(database, partner)):
        state = "disabled" if row["disabled_at"] else "active"
        console.print(f"{row['partner_id']}.{row['name']}  {state}  {' '.join(row['scopes'])}")


@client_app.command("disable")
def client_disable(client_id: str) -> None:
    """Disable a client: its tokens are refused within five seconds."""
    as_owner(lambda database, _: operators.turn_client_off(database, client_id, utc_now()))
    console.print("Disabled.")


@client_key_app.command("add")
def client_key_add(client_id: str, public_jwk: Annotated[Path, typer.Argument(help="File with the public key as a JWK")]) -> None:
    """Register a client's public key; prints its kid."""
    try:
        jwk = json.loads(public_jwk.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        _stop(f"{public_jwk} cannot be read as JSON: {error}")
    if not isinstance(jwk, dict):
        _stop(f"{public_jwk} is not one JWK.")
    console.print(as_owner(lambda database, _: operators.register_client_key(database, client_id, jwk, utc_now())))


@key_app.command("init")
def key_init() -> None:
    """Make the file of key-encryption keys, if there is none. Keep a copy apart: without it the data cannot be read."""
    path = Settings().keys_path
    console.print(f"{'Made' if create_key_file(path) else 'There is already'} {path}")


@key_app.command("rotate")
def key_rotate(
    overlap_seconds: Annotated[int, typer.Option(min=0, help="Published this long before it signs (at least 10 s)")] = 86_400,
) -> None:
    """Publish a new signing key; it signs after the overlap, and the old one goes when its last token is dead."""

    async def job(database: Database, ready: Settings) -> str:
        return await operators.rotate_signing_key(database, read_keys(key_provider(ready)), timedelta(seconds=overlap_seconds), utc_now())

    console.print(f"kid {as_owner(job)}")


def _check_port(settings: Settings) -> None:
    """Stop early when the port is taken: the database may take a while to make."""
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            _stop(f"Port {settings.port} on {settings.host} cannot be used ({error.strerror}). Choose another in IPT_PORT.")


def _stop(sentence: str) -> Any:
    Console(stderr=True, highlight=False, soft_wrap=True).print(sentence, markup=False)
    raise typer.Exit(1)


def main() -> None:
    """Run the command; what the person at the keyboard can mend is one sentence, not a trace."""
    with suppress(BrokenPipeError):
        try:
            app()
        except (EmbeddedPostgresError, KeyMissing, KeyRefused, Unsafe, Refusal, CommandRefused) as error:
            faults = "".join(f" {f.pointer.strip('/')}: {f.detail}." for f in getattr(error, "faults", ()))
            sys.stderr.write(f"{error}{faults}\n")
            raise SystemExit(1) from None
        except ClientRefused:
            sys.stderr.write("A client id is <partner id>.<name>.\n")
            raise SystemExit(1) from None
        except DatabaseAway as error:
            refused = str(getattr(error.__cause__, "sqlstate", "")).startswith(LOGIN_REFUSED)
            sys.stderr.write(f"{WRONG_LOGIN if refused else 'The database cannot be reached'}: {error.__cause__}\n")
            raise SystemExit(1) from None
        except (OSError, asyncpg.PostgresError) as error:
            sys.stderr.write(f"{type(error).__name__}: {str(error).splitlines()[0]}\n")
            raise SystemExit(1) from None


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
