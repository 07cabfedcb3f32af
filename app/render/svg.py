"""Small pieces of SVG: pictures that a phone of 360 points shows legibly, that print in black, and that screen readers can tell."""

from collections.abc import Iterable
from html import escape

WIDTH = 360  # points: the narrowest phone in use; everything else is larger
FONT = "system-ui, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
INK, GREY, PALE, PAPER = "#111", "#555", "#bbb", "#fff"
XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


def document(title: str, description: str, height: float, parts: Iterable[str]) -> str:
    """Return an SVG document with a title and a description for those who cannot see it."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="100%" role="img" '
        f'aria-labelledby="title desc" font-family="{FONT}" font-size="12">'
        f'<title id="title">{escape(title)}</title><desc id="desc">{escape(description)}</desc>'
        f'<rect width="{WIDTH}" height="{height:g}" fill="{PAPER}"/>'
    )
    return XML + head + "".join(parts) + "</svg>\n"


def text(x: float, y: float, words: str, *, size: float = 12, anchor: str = "start", bold: bool = False, fill: str = INK) -> str:
    """Return a line of text."""
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="{fill}"{weight}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, *, stroke: str = INK, width: float = 1, dash: str = "") -> str:
    """Return a straight line."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" stroke-width="{width:g}"{dashes}/>'


def cut(words: str, most: int) -> str:
    """Return text cut to a length that the picture has room for."""
    return words if len(words) <= most else words[: most - 1].rstrip() + "\u2026"
