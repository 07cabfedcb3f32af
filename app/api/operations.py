"""Health, readiness, metrics, and the docs page with its assets served from here."""

import asyncio
import os
from importlib import resources
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from pydantic import Field
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from app.api.request import House
from app.api.routing import Router
from app.api.shapes import Out
from app.store.database import DatabaseAway
from app.store.installation import standing_of

router = Router(tags=["operations"])


class Health(Out):
    """Whether the process lives, or is ready, and why not."""

    status: str = Field(examples=["ok"])
    detail: str | None = None


@router.get("/health/live", response_model=Health)
async def read_liveness() -> dict[str, Any]:
    """Tell that the process answers."""
    return {"status": "ok"}


class Readiness:
    """Whether requests can be served: however many ask at once, one looks for all of them, and so never stands in the way of the door's own look."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._looking: asyncio.Task[str | None] | None = None

    async def fault(self) -> str | None:
        """Return why requests cannot be served, or None."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="readiness")
        return await asyncio.shield(self._looking)

    async def _look(self) -> str | None:
        try:
            fault = (await standing_of(self._house.door.login)).fault
            if fault is None and not self._house.door.is_fresh:
                fault = "The copy of revocations is too old to trust."
            if fault is None:
                await self._house.trail.check()
        except DatabaseAway:
            return "The database cannot be reached."
        return fault


@router.get("/health/ready", response_model=Health, responses={503: {"model": Health}})
async def read_readiness(request: Request) -> Any:
    """Tell whether requests can be served: by this process, on a database that is there, takes writes, and is not behind this release.

    It asks by a connection of its own: a process with all its hands full is busy, not broken.
    """
    if request.app.state.house.stopping.is_set():
        return _not_ready("This process is stopping.")
    fault = await request.app.state.readiness.fault()
    return {"status": "ok"} if fault is None else _not_ready(fault)


def _not_ready(why: str) -> Response:
    return JSONResponse({"status": "unready", "detail": why}, 503, {"Retry-After": "2"})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def read_metrics() -> Response:
    """Read Prometheus metrics: counts and times by route. Nothing in them names a partner or a patient."""
    return Response(generate_latest(_registry()), media_type=CONTENT_TYPE_LATEST)


def _registry() -> CollectorRegistry:
    """Return what is measured: by this process; of several behind one port, by all of them."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    together = CollectorRegistry()
    MultiProcessCollector(together)  # type: ignore[no-untyped-call]
    return together


def add_docs(app: FastAPI) -> None:
    """Serve /docs with assets from this service: it works without internet."""
    app.mount("/docs/assets", StaticFiles(directory=str(resources.files("fastapi_offline") / "static")), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="/docs/assets/favicon.png",
        )

    written: list[bytes] = []  # the document, once somebody has asked for it

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> Response:
        if not written:
            written.append(orjson.dumps(app.openapi()))
        return Response(written[0], media_type="application/json")
