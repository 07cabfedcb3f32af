"""Routers that pass over a path are right to: FastAPI's own look through every route finds the same."""

import random

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import Match

from app.api import routing
from app.config import Settings
from app.main import EVERYWHERE, ROUTERS, create_app

ROUTES = [route for module in ROUTERS for route in module.router.routes] + [route for router in EVERYWHERE for route in router.routes]
ENDS = ("/", "/more", "//", "")


def test_every_router_is_one_that_knows_its_shapes_and_every_route_has_a_literal_beginning():
    assert all(isinstance(module.router, routing.Router) for module in ROUTERS)
    assert all(isinstance(router, routing.Router) for router in EVERYWHERE)
    for route in ROUTES:
        assert isinstance(route, APIRoute)
        assert not route.path_format.split("/")[1].startswith("{"), route.path
        assert "{" not in "".join(route.path_format.split("/")[2:3]), route.path
        assert ":path}" not in route.path


def paths(chance):
    """Make paths near those of routes: as they are, with segments of others, cut short, or longer."""
    segments = sorted({s for route in ROUTES for s in route.path_format.split("/")[1:]})
    for route in ROUTES:
        own = ["x{y" if s.startswith("{") and chance.random() < 0.1 else "0f" if s.startswith("{") else s for s in route.path_format.split("/")[1:]]
        yield "/" + "/".join(own)
        for _ in range(6):
            other = own.copy()
            other[chance.randrange(len(other))] = chance.choice(segments).strip("{}")
            yield "/" + "/".join(other[: chance.randint(1, len(other))]) + chance.choice(ENDS)


@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_what_is_passed_over_matches_nothing(method, monkeypatch):
    app = create_app(Settings())
    wanted = list(paths(random.Random(7)))

    def found():
        matched = []
        for path in wanted:
            scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
            matched.append(next(((m, c.get("path_params")) for m, c in (r.matches(dict(scope)) for r in app.router.routes) if m != Match.NONE), None))
        return matched

    ours = found()
    monkeypatch.setattr(routing.Router, "matches", APIRouter.matches)
    assert found() == ours
    assert sum(m is not None for m in ours) > len(ROUTES) / 2
