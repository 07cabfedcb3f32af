"""Routers that say at once whether a path could be theirs: there are 250 routes, and FastAPI looks through them one after another."""

from typing import Any, NamedTuple

from fastapi import APIRouter
from starlette.routing import Match
from starlette.types import Scope


class Shape(NamedTuple):
    """What tells most paths apart: how many segments, the first two, and the fourth (`/v1/episodes/{episode_id}/phase`); None: a parameter, or none."""

    segments: int
    first: str
    second: str | None
    fourth: str | None


class Router(APIRouter):
    """A router that is passed over when no route of it has the shape of the path."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._shapes: set[Shape] = set()
        self._counted = 0

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match a path as FastAPI does, if it can be one of ours at all."""
        return super().matches(scope) if self._may_have(shape_of(scope["path"])) else (Match.NONE, {})

    def _may_have(self, shape: Shape) -> bool:
        if self._counted != len(self.routes):
            self._shapes = {shape_of(route.path_format) for route in self.routes}  # type: ignore[attr-defined]
            self._counted = len(self.routes)
        return shape in self._shapes or shape._replace(fourth=None) in self._shapes


def shape_of(path: str) -> Shape:
    """Return the shape of a path, or of a route's."""
    _, *parts = path.split("/")
    second, fourth = (parts[n] if n < len(parts) and not parts[n].startswith("{") else None for n in (1, 3))
    return Shape(len(parts), parts[0] if parts else "", second, fourth)
