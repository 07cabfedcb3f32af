"""Reading the catalogue's data files and rounding numbers the one way that the whole service rounds."""

import math
import tomllib
from importlib import resources
from typing import Any


def read_catalogue(name: str) -> dict[str, Any]:
    """Return the parsed TOML file `name` of the catalogue that ships with the service."""
    return tomllib.loads(resources.files("app.domain.catalog").joinpath(name).read_text(encoding="utf-8"))


def round_half_up(value: float) -> int:
    """Return the nearest integer; a half goes up, everywhere in the service."""
    return math.floor(value + 0.5)
