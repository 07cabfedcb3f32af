"""A chart of an anonymised table: each figure with where the true one lies, and each cell that is not shown said to be so.

Drawn by matplotlib, which loads when the first chart is asked for. A dot for the figure and a line for its 95 %: nobody reads a bar's length
as certain. Text stays text, and nothing depends on colour.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any

MOST_ROWS = 120
WIDTH_INCHES, ROW_INCHES, FRAME_INCHES = 7.2, 0.3, 1.9
MARGIN = 0.02
INK, GREY = "#111111", "#666666"
MARKERS = ("o", "s", "^", "D", "v")
NOT_SHOWN = "not shown (few people)"


@dataclass(frozen=True, slots=True)
class Dot:
    """One figure: its row, its series, the value and how far the true one may lie from it; None: it is not shown."""

    row: str
    series: str
    value: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """What a chart shows, in plain values. `low` and `high` bound what the figure can be."""

    title: str
    note: str
    axis: str
    low: float | None
    high: float | None
    dots: tuple[Dot, ...]


@lru_cache(maxsize=64)
def chart(picture: Picture) -> str:
    """Return the chart as SVG."""
    figure, axes, save = _canvas(len({d.row for d in picture.dots}))
    rows = list(dict.fromkeys(d.row for d in picture.dots))
    series = list(dict.fromkeys(d.series for d in picture.dots))
    for n, name in enumerate(series):
        own = [d for d in picture.dots if d.series == name]
        _draw(axes, picture, own, rows, _offset(n, len(series)), MARKERS[n % len(MARKERS)], name)
    axes.set_yticks(range(len(rows)), labels=[r.replace("_", " ") for r in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(picture.axis)
    if picture.low is not None and picture.high is not None:
        room = MARGIN * (picture.high - picture.low)
        axes.set_xlim(picture.low - room, picture.high + room)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(series))
    figure.suptitle(picture.title, fontsize=11, color=INK)
    figure.supxlabel(picture.note, fontsize=7, color=GREY)
    return _accessible(save(), picture)


def _canvas(rows: int) -> tuple[Any, Any, Any]:
    import matplotlib as mpl  # noqa: PLC0415 - heavy: it loads with the first chart
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ipt", "font.size": 9, "text.parse_math": False})
    figure = Figure(figsize=(WIDTH_INCHES, FRAME_INCHES + ROW_INCHES * min(rows, MOST_ROWS)), layout="constrained")
    FigureCanvasSVG(figure)

    def save() -> str:
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        return out.getvalue()

    return figure, figure.subplots(), save


def _offset(number: int, of: int) -> float:
    return 0.0 if of == 1 else (number - (of - 1) / 2) * 0.5 / (of - 1)


def _draw(axes: Any, picture: Picture, dots: Sequence[Dot], rows: Sequence[str], offset: float, marker: str, name: str) -> None:
    shown = [d for d in dots if d.value is not None and d.accuracy is not None]
    places = [rows.index(d.row) + offset for d in shown]
    ends = [[_least(picture, d), _most(picture, d)] for d in shown]
    axes.hlines(places, [e[0] for e in ends], [e[1] for e in ends], color=GREY, linewidth=1.4)
    axes.plot([d.value for d in shown], places, marker, color=INK, markersize=5, label=name.replace("_", " "))
    for dot in dots:
        if dot.value is None:
            at = picture.low if picture.low is not None else 0
            axes.text(at, rows.index(dot.row) + offset, f" {NOT_SHOWN}", fontsize=7, fontstyle="italic", color=GREY, va="center")


def _least(picture: Picture, dot: Dot) -> float:
    low = (dot.value or 0) - (dot.accuracy or 0)
    return low if picture.low is None else max(picture.low, low)


def _most(picture: Picture, dot: Dot) -> float:
    high = (dot.value or 0) + (dot.accuracy or 0)
    return high if picture.high is None else min(picture.high, high)


def _accessible(svg: str, picture: Picture) -> str:
    """Give the picture a title and a description for those who cannot see it."""
    told = "; ".join(
        f"{d.row.replace('_', ' ')}{f', {d.series}' if d.series else ''}: "
        + (NOT_SHOWN if d.value is None else f"{d.value:g}, with 95 % within {d.accuracy:g} of the true figure")
        for d in picture.dots
    ).replace("_", " ")
    words = f'<title id="title">{escape(picture.title)}</title><desc id="desc">{escape(told)}. {escape(picture.note)}</desc>'
    return re.sub(r"<svg ([^>]*)>", rf'<svg role="img" aria-labelledby="title desc" \1>{words}'.replace("\\1", r"\g<1>"), svg, count=1)
