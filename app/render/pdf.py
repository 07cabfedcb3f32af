"""The letter as PDF, by fpdf2 with FiraGO (Latin, Greek, Cyrillic, Arabic, Hebrew, Devanagari, Thai and more). Loaded on first use."""

import atexit
import logging
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from app.render.letter import Section

MARGIN = 20  # mm
SIZE, SMALL, LARGE, HEADING = 10.5, 9, 16, 12.5  # points
LEADING = 5.4  # mm
FAMILY = "FiraGO"
STYLES = {"": "figo", "B": "figbo"}


@cache
def _fonts() -> Path:
    """Unpack the fonts once for this process: the library reads files. The folder goes with the process."""
    from pymupdf_fonts import fontbuffers  # noqa: PLC0415 - four megabytes that only a letter needs

    for name in ("fpdf", "fontTools"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they would log the characters that the font lacks: content of a letter
    folder = Path(mkdtemp(prefix="ipt-fonts-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for style, name in STYLES.items():
        (folder / f"{style or 'R'}.ttf").write_bytes(fontbuffers[name]())
    return folder


def as_pdf(title: str, made_on: str, sections: Sequence[Section]) -> bytes:
    """Return the letter as a PDF document of A4 pages, with its title, language and page numbers."""
    from fpdf import FPDF  # noqa: PLC0415 - loaded on first use

    class Letter(FPDF):
        """A page with its number at the foot."""

        def footer(self) -> None:
            """Write the page number."""
            self.set_y(-14)
            self.set_font(FAMILY, size=SMALL)
            self.cell(0, 8, f"{title}   {self.page_no()} / {{nb}}", align="C")

    letter = Letter(format="A4")
    for style in STYLES:
        letter.add_font(FAMILY, style, _fonts() / f"{style or 'R'}.ttf")
    letter.set_title(title)
    letter.set_lang("en")
    letter.set_margins(MARGIN, MARGIN)
    letter.set_auto_page_break(auto=True, margin=MARGIN)
    letter.add_page()
    letter.set_font(FAMILY, "B", LARGE)
    letter.multi_cell(0, 8, title, new_x="LMARGIN", new_y="NEXT")
    letter.set_font(FAMILY, size=SIZE)
    letter.multi_cell(0, LEADING, made_on, new_x="LMARGIN", new_y="NEXT")
    for section in sections:
        _write(letter, section)
    return bytes(letter.output())


def _write(page: Any, section: Section) -> None:
    page.ln(4)
    page.set_font(FAMILY, "B", HEADING)
    page.multi_cell(0, 7, section.heading, new_x="LMARGIN", new_y="NEXT")
    page.set_font(FAMILY, size=SIZE)
    for paragraph in section.paragraphs:
        page.multi_cell(0, LEADING, paragraph, align="L", new_x="LMARGIN", new_y="NEXT")
        page.ln(1)
    for row in section.table:
        _row(page, row, head=row is section.table[0])


def _row(page: Any, row: Sequence[str], *, head: bool) -> None:
    if not any(row):
        return
    first, rest = 55, (170 - 55) / max(1, len(row) - 1)
    top = page.get_y()
    if top > 270:  # noqa: PLR2004 - mm: the row goes to the next page whole
        page.add_page()
        top = page.get_y()
    bottom = top
    for n, words in enumerate(row):
        page.set_font(FAMILY, "B" if head or n == 0 else "", SIZE)
        page.set_xy(MARGIN + (0 if n == 0 else first + (n - 1) * rest), top)
        page.multi_cell(first if n == 0 else rest, LEADING, words, align="L", new_x="RIGHT", new_y="NEXT")
        bottom = max(bottom, page.get_y())
    page.set_font(FAMILY, size=SIZE)
    page.set_y(bottom)
