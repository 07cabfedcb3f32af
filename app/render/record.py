"""A person's whole record as one HTML document that they can read: table by table, field by field, with every version and every access."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse;width:100%;margin:0 0 1.5rem}"
    "td,th{border:1px solid #bbb;padding:.25rem .5rem;text-align:left;vertical-align:top;overflow-wrap:anywhere}th{width:16rem;background:#f4f4f4}"
    "h1,h2,h3{line-height:1.2}details{margin:0 0 1rem}"
)
LAST = ("history",)


def record_as_html(found: Mapping[str, Any]) -> str:
    """Return an export as HTML. `found` is plain JSON data: what `POST /v1/patients/{id}/export` answers. Everything in it is shown."""
    return "".join(_parts(found))


def _parts(found: Mapping[str, Any]) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    yield f"<title>Everything held of this person</title><style>{STYLE}</style></head><body><h1>Everything held of this person</h1>"
    yield f"<p>Made at {_text(found['made_at'])} for patient {_text(found['patient_id'])}.</p>"
    if found["left_out"]:
        yield f"<p>Left out: {_text(', '.join(_words(n) for n in found['left_out']))}.</p>"
    for number, record in enumerate(found["registrations"], start=1):
        yield f"<h2>Registration {number}</h2>"
        for name, rows in record.items():
            if name not in LAST:
                yield from _table(name, rows)
        for name in LAST:
            yield f"<details><summary>{_text(_words(name))}: every version of every row</summary>"
            yield from _table(name, record.get(name, []))
            yield "</details>"
    yield "<h2>Who saw or changed it</h2>"
    yield from _table("accesses", found["accesses"])
    yield "</body></html>\n"


def _table(name: str, rows: Any) -> Iterator[str]:
    listed = rows if isinstance(rows, list) else [rows]
    yield f"<h3>{_text(_words(name))}</h3>"
    if not listed:
        yield "<p>Nothing is held.</p>"
    for row in listed:
        members = row.items() if isinstance(row, Mapping) else [(name, row)]
        shown = "".join(f"<tr><th>{_text(_words(k))}</th><td>{_value(v)}</td></tr>" for k, v in members)
        yield f"<table>{shown}</table>"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f"{_text(_words(k))}: {_value(v)}" for k, v in value.items()) or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "<br>".join(_value(v) for v in value) or "-"
    return "-" if value is None else _text(value).replace("\n", "<br>")


def _text(value: object) -> str:
    return escape(str(value))


def _words(name: object) -> str:
    return str(name).replace("_", " ")
