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
ROOM_FOR_A_FIGURE = 6.0
PROFILE_ROW = 18.0


@dataclass(frozen=True, slots=True)
class Axis:
    """The common axis: one place for each day with an answer, with its label (the session's number, F for a follow-up)."""

    days: tuple[str, ...]
    labels: tuple[str, ...]
    latest: Mapping[str, str]
    """The time of the last answer of each day."""

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
        for item in (i for i in own if i not in drawn):
            pieces, words, size = _profile(item, name, y)
            parts, y = [*parts, *pieces], y + size
            told.append(words)
        if not own:
            parts.append(text(12, y + 16, f"{name}: not measured", fill=GREY))
            told.append(f"{name}: not measured.")
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
    latest: dict[str, str] = {}
    for item in instruments:
        for point in item["points"]:
            day = str(point["answered_at"])[:10]
            label = "F" if point["follow_up_id"] else str(point["session_number"] or "")
            labels[day] = labels.get(day) or label
            latest[day] = max(latest.get(day, ""), str(point["answered_at"]))
    days = tuple(sorted(labels))
    return Axis(days, tuple(labels[d] for d in days), latest)


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
        after = [d for d in axis.days if axis.latest[d] >= str(step["from"])]
        name = PHASES.get(step["phase"])
        if not after or name is None:
            continue
        x = axis.x(after[0]) - 5
        parts.append(line(x, top, x, floor, stroke=GREY, dash="1 3"))
        if x - before > 46:  # noqa: PLR2004 - room for a word
            fits = x + 50 < WIDTH
            parts.append(text(x + 2 if fits else RIGHT, top + 9, name, size=10, anchor="start" if fits else "end", fill=GREY))
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
        above = v - 6 if v - 6 > y(item["range"][1]) + ROOM_FOR_A_FIGURE else v + 15
        parts.append(text(x, above, f"{points[n]['score']:g}", size=11, anchor="middle", bold=True))
    return parts


def _profile(item: Mapping[str, Any], component: str, top: float) -> tuple[list[str], str, float]:
    """Return a profile of scales, the first as open rings and the last as dots; in words; and how high it is."""
    scored = [p["scales"] for p in item["points"] if p["scales"]]
    parts = [
        text(12, top + 14, f"{component}: {item['code']}", bold=True),
        text(RIGHT, top + 14, "open: first, filled: last", size=11, anchor="end", fill=GREY),
    ]
    if not scored:
        return [*parts, text(12, top + 32, "no whole answer yet", fill=GREY)], f"{component}, {item['code']}: no whole answer yet.", 48
    left, room = 168.0, RIGHT - 168.0 - 8
    told = []
    for n, name in enumerate(sorted(scored[-1])):
        y = top + 32 + n * PROFILE_ROW
        first, last = (left + (s.get(name, scored[-1][name]) - 1) / 4 * room for s in (scored[0], scored[-1]))
        parts.append(text(12, y + 4, name.replace("_", " "), size=11))
        parts.append(line(left, y, left + room, y, stroke=PALE))
        parts.append(f'<circle cx="{first:.1f}" cy="{y:.1f}" r="5" fill="#fff" stroke="{INK}" stroke-width="1.4"/>')
        parts.append(f'<circle cx="{last:.1f}" cy="{y:.1f}" r="2.8" fill="{INK}"/>')
        told.append(f"{name.replace('_', ' ')} {scored[0].get(name, scored[-1][name]):g} to {scored[-1][name]:g}")
    bottom = top + 32 + len(scored[-1]) * PROFILE_ROW
    parts += [
        text(left, bottom + 2, "1", size=11, anchor="middle", fill=GREY),
        text(left + room, bottom + 2, "5", size=11, anchor="middle", fill=GREY),
    ]
    return parts, f"{component}, {item['code']}, means from 1 to 5: {', '.join(told)}.", bottom - top + 22


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
