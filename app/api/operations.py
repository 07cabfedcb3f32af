"""Health, readiness, metrics, and the docs page with its assets served from here."""

from importlib import resources
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from app.api.request import House
from app.api.shapes import Out
from app.store.database import DatabaseAway, is_read_only, schema_revision

router = APIRouter(tags=["operations"])


class Health(Out):
    """Whether the process lives, or is ready, and why not."""

    status: str = Field(examples=["ok"])
    detail: str | None = None


@router.get("/health/live", response_model=Health)
async def read_liveness() -> dict[str, Any]:
    """Tell that the process answers."""
    return {"status": "ok"}


@router.get("/health/ready", response_model=Health, responses={503: {"model": Health}})
async def read_readiness(request: Request) -> Any:
    """Tell whether requests can be served: by this process, on a database that is there, takes writes, and is not behind this release.

    It asks by a connection of its own: a process with all its hands full is busy, not broken.
    """
    house: House = request.app.state.house
    if house.stopping.is_set():
        return _not_ready("This process is stopping.")
    try:
        revision = await schema_revision(house.door.login)
        if await is_read_only(house.door.login):
            return _not_ready("The database takes no writes: it is a standby.")
        await house.trail.check()
    except DatabaseAway:
        return _not_ready("The database cannot be reached.")
    if not house.door.is_fresh:
        return _not_ready("The copy of revocations is too old to trust.")
    if revision is None or revision < house.head:
        return _not_ready(f"The database is at migration {revision}, this release needs {house.head}: run `ipt migrate`.")
    return {"status": "ok"}


def _not_ready(why: str) -> Response:
    return JSONResponse({"status": "unready", "detail": why}, 503, {"Retry-After": "2"})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def read_metrics() -> Response:
    """Read Prometheus metrics: counts and times by route. Nothing in them names a partner or a patient."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


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

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> JSONResponse:
        return JSONResponse(app.openapi())
