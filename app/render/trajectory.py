"""The trajectory as a picture: one panel for each instrument, under the three components of depression. From plain values.

Lines are told apart by their panel, never by colour; caseness is a dashed line with its number, phases are dotted ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.render.svg import GREY, INK, PALE, WIDTH, cut, document, line, text

LEFT, RIGHT, PANEL, GAP = 34.0, 348.0, 112.0, 48.0
COMPONENTS = {"symptoms": "Symptoms", "social_functioning": "Social functioning", "personality": "Personality"}
PHASES = {"initial": "initial", "middle": "middle", "termination": "ending", "follow_up": "follow-up"}
WORST_CASE_BANDS = 6


@dataclass(frozen=True, slots=True)
class Axis:
    """The common axis: one place for each day with an answer, with its label (the session's number, F for a follow-up)."""

    days: tuple[str, ...]
    labels: tuple[str, ...]

    def x(self, day: str) -> float:
        """Return where a day stands."""
        room = RIGHT - LEFT - 16
        return LEFT + 8 + (room / 2 if len(self.days) == 1 else self.days.index(day) * room / (len(self.days) - 1))


def trajectory(found: Mapping[str, Any]) -> str:
    """Return the picture of a trajectory: the answer of the trajectory route, in plain values."""
    axis = _axis(found["instruments"])
    parts = [text(WIDTH / 2, 18, "Trajectory", size=14, anchor="middle", bold=True)]
    y = 30.0
    told = []
    for component, name in {**COMPONENTS, **_others(found["instruments"])}.items():
        own = [i for i in found["instruments"] if i["component"] == component]
        drawn = [i for i in own if i["range"] and any(p["score"] is not None for p in i["points"])]
        if not drawn:
            words = f"{name}: {'a profile without one score' if own else 'not measured'}"
            parts.append(text(12, y + 16, words, fill=GREY))
            told.append(words + ".")
            y += 26
        for item in drawn:
            parts += _panel(item, name, axis, y, found["phases"])
            told.append(_told(item, name))
            y += PANEL + GAP
    parts += _medication(found["medications"], y)
    height = y + 18 * len(found["medications"]) + 14
    return document("Trajectory of the course", " ".join(told), height, parts)


def _others(instruments: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {i["component"]: i["component"].replace("_", " ").capitalize() for i in instruments if i["component"] not in COMPONENTS}


def _axis(instruments: Sequence[Mapping[str, Any]]) -> Axis:
    labels: dict[str, str] = {}
    for item in instruments:
        for point in item["points"]:
            day = str(point["answered_at"])[:10]
            label = "F" if point["follow_up_id"] else str(point["session_number"] or "")
            labels[day] = labels.get(day) or label
    days = tuple(sorted(labels))
    return Axis(days, tuple(labels[d] for d in days))


def _panel(item: Mapping[str, Any], component: str, axis: Axis, top: float, phases: Sequence[Mapping[str, Any]]) -> list[str]:
    low, high = item["range"]
    who = "" if item["respondent"] == "patient" else f", by {item['respondent']}"
    better = "lower is better" if item["lower_is_better"] else "higher is better"
    floor = top + 26 + PANEL - 26

    def y(value: float) -> float:
        return float(floor - (value - low) / ((high - low) or 1) * (PANEL - 26))

    parts = [text(12, top + 14, f"{component}: {item['code']}{who}", bold=True), text(RIGHT, top + 14, better, size=11, anchor="end", fill=GREY)]
    parts += [line(LEFT, y(v), RIGHT, y(v), stroke=PALE) + text(LEFT - 4, y(v) + 4, f"{v:g}", size=11, anchor="end", fill=GREY) for v in (low, high)]
    parts += _phase_lines(axis, phases, top + 26, floor)
    if item["caseness_from"] is not None:
        case = y(item["caseness_from"])
        parts += [
            line(LEFT, case, RIGHT, case, stroke=GREY, dash="5 3"),
            text(RIGHT, case - 3, f"caseness {item['caseness_from']}", size=11, anchor="end"),
        ]
    parts += _curve(item, axis, y)
    every = max(1, len(axis.days) // 12 + 1)
    parts += [
        text(axis.x(d), floor + 14, label, size=11, anchor="middle", fill=GREY)
        for n, (d, label) in enumerate(zip(axis.days, axis.labels, strict=True))
        if label and (n % every == 0 or label == "F")
    ]
    return parts


def _phase_lines(axis: Axis, phases: Sequence[Mapping[str, Any]], top: float, floor: float) -> list[str]:
    parts, before = [], -100.0
    for step in phases:
        after = [d for d in axis.days if d >= str(step["from"])[:10]]
        name = PHASES.get(step["phase"])
        if not after or name is None:
            continue
        x = axis.x(after[0]) - 5
        parts.append(line(x, top, x, floor, stroke=GREY, dash="1 3"))
        if x - before > 46:  # noqa: PLR2004 - room for a word
            parts.append(text(x + 2, top + 9, name, size=10, fill=GREY))
            before = x
    return parts


def _curve(item: Mapping[str, Any], axis: Axis, y: Any) -> list[str]:
    points = [p for p in item["points"] if p["score"] is not None]
    places = [(axis.x(str(p["answered_at"])[:10]), y(p["score"])) for p in points]
    path = " ".join(f"{x:.1f},{v:.1f}" for x, v in places)
    parts = [f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.6"/>']
    parts += [f'<circle cx="{x:.1f}" cy="{v:.1f}" r="2.6" fill="{INK}"/>' for x, v in places]
    for n in {0, len(points) - 1}:
        x, v = places[n]
        parts.append(text(x, v - 6, f"{points[n]['score']:g}", size=11, anchor="middle", bold=True))
    return parts


def _told(item: Mapping[str, Any], component: str) -> str:
    scored = [p for p in item["points"] if p["score"] is not None]
    who = "" if item["respondent"] == "patient" else f" by {item['respondent']}"
    first, last = scored[0]["score"], scored[-1]["score"]
    change = scored[-1].get("change")
    reliable = f" Reliable change: {change['reliable'].replace('_', ' ')}." if change else ""
    return f"{component}, {item['code']}{who}: {len(scored)} scores from {first:g} to {last:g}.{reliable}"


def _medication(rows: Sequence[Mapping[str, Any]], top: float) -> list[str]:
    parts = []
    for n, row in enumerate(rows):
        span = f"from {row['started_on'] or '?'}" + (f" to {row['stopped_on']}" if row["stopped_on"] else ", ongoing")
        parts.append(text(12, top + 14 + 18 * n, cut(f"Medication: {row['kind'].replace('_', ' ')}, {span}", 60), size=11))
    return parts
