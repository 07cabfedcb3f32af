"""The service, assembled: settings, database, keys, door, routes. Nothing else assembles it."""

import asyncio
import gc
import logging
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime

import orjson
import structlog
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic.warnings import UnsupportedFieldAttributeWarning

from app import tracing
from app.actions.journal import ERASURES, Journal
from app.api import (
    alerts,
    assessments,
    audit,
    caseload,
    catalogue,
    clients,
    concerns,
    conflicts,
    course,
    devices,
    door,
    due,
    endings,
    episodes,
    events,
    extracts,
    focus,
    groups,
    history,
    imports,
    inventory,
    lifecycle,
    notes,
    operations,
    outcome,
    outcome_tables,
    people,
    proposals,
    protection,
    pushes,
    requests,
    sessions,
    skins,
    sync,
    webhooks,
    workflow,
)
from app.api.bearer import Door, utc_now
from app.api.contract import document_of
from app.api.problems import add_problems
from app.api.rates import Rates
from app.api.request import House
from app.api.traffic import Traffic
from app.config import Settings
from app.keys.provider import KeyCommand, KeyFile, KeyProvider, KeysGiven, read_keys
from app.store.audit import AuditTrail
from app.store.database import Database, Unsafe, check_durability, check_login
from app.store.installation import check_installation

ROUTERS = (  # looked through from the first to the last: what is called most stands first
    *(course, sessions, assessments, sync, pushes, events, operations, door, due, people, episodes, inventory),
    *(concerns, focus, proposals, lifecycle, notes, workflow, requests, alerts, endings, outcome, history, groups, caseload, imports),
    *(catalogue, devices, conflicts, skins, webhooks, protection, audit, clients, outcome_tables, extracts),
)
RELEASE = "0.1.0"  # as in pyproject.toml; a test compares them
NO_DATABASE = "No database: set IPT_DATABASE_URL, or start the service with `ipt serve` and no address at all."
COLLECTS_AFTER = 10_000  # new objects, not Python's 700, by which hundreds of waiting requests are walked through again and again (decision 0059)
EVERYWHERE = (assessments.crisis, sessions.everywhere)


def create_app(settings: Settings, now: Callable[[], datetime] = utc_now) -> FastAPI:
    """Build the service for these settings. The clock is given, so that tests can move it."""
    configure_logs(settings.log_level)
    warnings.filterwarnings("ignore", category=UnsupportedFieldAttributeWarning)  # as FastAPI does where it builds a model itself
    app = FastAPI(
        title="IPT backend",
        version=RELEASE,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lambda app: _life(app, settings, now),
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
    )
    add_problems(app)
    for module in ROUTERS:
        app.include_router(module.router)
    for router in EVERYWHERE:
        app.include_router(router)
    app.webhooks.include_router(webhooks.hooks)
    app.openapi = lambda: document_of(app)  # type: ignore[method-assign]
    if settings.docs:
        operations.add_docs(app)
    app.add_middleware(Traffic)
    return app


@asynccontextmanager
async def _life(app: FastAPI, settings: Settings, now: Callable[[], datetime]) -> AsyncIterator[None]:
    """Open what the routes need, and close it again once the last answer has left."""
    if settings.database_url is None:
        raise Unsafe(NO_DATABASE)
    database = Database(settings.database_url, "ipt_service", pool_size=settings.pool_size, pooler=settings.pooler)
    audit_login = Database(settings.audit_database_url or settings.database_url, "ipt_audit", pool_size=1, pooler=settings.pooler)
    keys = read_keys(key_provider(settings))
    trail = AuditTrail(audit_login, keys)
    door_login = Database(settings.database_url, "ipt_service", pool_size=1, pooler=settings.pooler)  # revocations are read though requests wait
    erasures = Journal(settings.erasures_path, keys, ERASURES)
    the_door = Door(database, door_login, keys, settings.issuer, now)
    app.state.house = House(
        database=database,
        trail=trail,
        keys=keys,
        door=the_door,
        erasures=erasures,
        rates=Rates("default", settings.requests_per_second, 1, settings.processes),
        sync_rates=Rates("sync", settings.sync_requests_per_second, 1, settings.processes),
        token_rates=Rates("token", settings.tokens_per_minute, 60, settings.processes),
        knock_rates=Rates("refused", settings.refusals_per_minute, 60, settings.processes),
        allowed_hosts=settings.allowed_hosts,
        stopping=asyncio.Event(),
        now=now,
    )
    app.state.readiness = operations.Readiness(app.state.house)
    try:
        if settings.traces is not None:
            tracing.start(settings.traces)
        await check_database(database, durable=settings.embedded_durable)
        begin(erasures)
        trail.start()
        await the_door.start()
        with _collecting_rarely():
            yield
    finally:
        tracing.stop()
        app.state.house.stopping.set()
        await the_door.stop()
        await trail.stop()
        await database.close()
        await audit_login.close()
        await door_login.close()


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Let the collector pass over what is there now, which stays, and come seldom while requests wait."""
    ordinary = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTS_AFTER, *ordinary[1:])
    try:
        yield
    finally:
        gc.set_threshold(*ordinary)
        gc.unfreeze()


async def check_database(database: Database, *, durable: bool) -> None:
    """Refuse a database that cannot be served. Raises Unsafe, DatabaseAway."""
    if durable:
        await check_durability(database)
    await check_login(database)
    await check_installation(database)


def begin(*journals: Journal) -> None:
    """Begin journals that are not there yet. Raises Unsafe when one cannot be written."""
    for journal in journals:
        try:
            journal.begin()
        except OSError as error:
            message = f"The journal {journal.path} cannot be written ({error.strerror}): name a folder that is kept, apart from the database, in IPT_RELEASE_JOURNAL."
            raise Unsafe(message) from None


def key_provider(settings: Settings) -> KeyProvider:
    """Return where the key-encryption keys come from: the environment, a command, else the file."""
    if settings.keys is not None:
        return KeysGiven(settings.keys.get_secret_value())
    return KeyCommand(settings.keys_command) if settings.keys_command else KeyFile(settings.keys_path)


def configure_logs(level: str) -> None:
    """Write logs as one JSON object a line."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        logger_factory=lambda *_: structlog.BytesLogger(sys.stdout.buffer),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        cache_logger_on_first_use=False,
    )


def _operation_id(route: APIRoute) -> str:
    return route.name
