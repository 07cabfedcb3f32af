"""The closeness circles: the patient in the middle, four rings, the people of the inventory in them. From plain values.

Meaning is never carried by colour: a person alive is a round mark, one who died a square, a past or estranged one has a
dashed edge; conflict of 2 or 3 is a heavy edge. Each is also told in words in the list below the picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.render.svg import GREY, INK, PALE, PAPER, WIDTH, cut, document, text

RINGS = 4
CENTRE_X, CENTRE_Y = WIDTH / 2, 196.0
CENTRE_RADIUS, RING_WIDTH = 24.0, 36.0
MARK = 13.0
TOP_OF_LIST, ROW = 396.0, 34.0
HEAVY_FROM = 2
LONGEST_NAME = 36
LEGEND = ("Square: has died. Dashed edge: past or estranged.", "Heavy edge: conflict 2 or 3 of 3.")
TIMES = {"now": "now", "before_onset": "before the illness", "wished": "as wished"}


@dataclass(frozen=True, slots=True)
class Person:
    """One person of the picture: a mark of at most three letters, words for the list, rings (1 innermost to 4) at the three times."""

    mark: str
    words: str
    status: str
    conflict: int | None
    rings: dict[str, int | None]
    angle: int | None = None
    radius_percent: int | None = None


def initials(label: str) -> str:
    """Return up to three initials of a label."""
    found = "".join(word[0] for word in label.replace("-", " ").split() if word[0].isalnum())
    return found[:3].upper() or "?"


def circles(people: Sequence[Person], time_point: str) -> str:
    """Return the picture as SVG: people at one time point (now, before_onset, wished)."""
    placed = [p for p in people if p.rings[time_point] is not None]
    parts = [text(WIDTH / 2, 18, f"Closeness circles, {TIMES[time_point]}", size=14, anchor="middle", bold=True), *_rings()]
    parts += [_mark(person, *_place(n, placed, time_point)) for n, person in enumerate(placed)]
    parts += _list(people, time_point)
    height = TOP_OF_LIST + ROW * max(1, len(people)) + 44
    parts += [text(12, height - 26 + 15 * n, words, size=11, fill=GREY) for n, words in enumerate(LEGEND)]
    return document(f"Closeness circles, {TIMES[time_point]}", _described(people, time_point), height, parts)


def _rings() -> list[str]:
    parts = []
    for ring in range(RINGS, 0, -1):
        radius = CENTRE_RADIUS + ring * RING_WIDTH
        parts.append(f'<circle cx="{CENTRE_X}" cy="{CENTRE_Y}" r="{radius}" fill="none" stroke="{PALE}"/>')
        parts.append(text(CENTRE_X, CENTRE_Y - radius + RING_WIDTH - 24, str(ring), size=11, anchor="middle", fill=GREY))
    parts.append(f'<circle cx="{CENTRE_X}" cy="{CENTRE_Y}" r="{CENTRE_RADIUS}" fill="{PAPER}" stroke="{INK}"/>')
    return [*parts, text(CENTRE_X, CENTRE_Y + 4, "patient", size=11, anchor="middle")]


def _place(number: int, placed: Sequence[Person], time_point: str) -> tuple[float, float, float]:
    """Return where a person stands (x, y) and how large the mark may be: evenly round its ring, or where it was drawn by hand."""
    person = placed[number]
    ring = person.rings[time_point] or RINGS
    same = [n for n, p in enumerate(placed) if p.rings[time_point] == ring]
    radius = CENTRE_RADIUS + (ring - 0.5) * RING_WIDTH
    step = 360 / len(same)
    angle = -60.0 + 47 * ring + same.index(number) * step  # each ring is turned, so that marks do not stand in one row
    if person.angle is not None and time_point == "now":
        angle = float(person.angle) - 90
    if person.radius_percent is not None and time_point == "now":
        radius = CENTRE_RADIUS + (ring - 1 + 0.25 + person.radius_percent / 200) * RING_WIDTH
    size = min(MARK, math.pi * radius / max(1, len(same)) - 1)
    return CENTRE_X + radius * math.cos(math.radians(angle)), CENTRE_Y + radius * math.sin(math.radians(angle)), max(6.0, size)


def _mark(person: Person, x: float, y: float, size: float) -> str:
    edge = 3 if (person.conflict or 0) >= HEAVY_FROM else 1.2
    dash = ' stroke-dasharray="3 2"' if person.status in {"past", "estranged"} else ""
    style = f'fill="{PAPER}" stroke="{INK}" stroke-width="{edge}"{dash}'
    square = f'<rect x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size:.1f}" height="{2 * size:.1f}" {style}/>'
    shape = square if person.status == "deceased" else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" {style}/>'
    return shape + text(x, y + 4, person.mark, size=11 if size >= MARK else 8, anchor="middle", bold=True)


def _list(people: Sequence[Person], time_point: str) -> list[str]:
    if not people:
        return [text(12, TOP_OF_LIST + 14, "Nobody is in the inventory yet.", fill=GREY)]
    parts = []
    for n, person in enumerate(people):
        y = TOP_OF_LIST + n * ROW
        parts.append(text(12, y + 14, person.mark, bold=True))
        parts.append(text(48, y + 14, cut(person.words, LONGEST_NAME)))
        parts.append(text(48, y + 28, cut(told(person, time_point), 58), size=11, fill=GREY))
    return parts


def told(person: Person, time_point: str) -> str:
    """Return in words what the mark shows."""
    ring = person.rings[time_point]
    rings = "not placed" if ring is None else f"ring {ring}"
    others = [f"{TIMES[t]} {r}" for t, r in person.rings.items() if t != time_point and r is not None and r != ring]
    parts = [rings, *others, *([person.status] if person.status != "current" else [])]
    if (person.conflict or 0) >= HEAVY_FROM:
        parts.append(f"conflict {person.conflict} of 3")
    return "; ".join(parts)


def _described(people: Sequence[Person], time_point: str) -> str:
    if not people:
        return "Nobody is in the inventory yet."
    return f"Ring 1 is closest to the patient, ring 4 farthest. {' '.join(f'{p.mark}, {p.words}: {told(p, time_point)}.' for p in people)}"
