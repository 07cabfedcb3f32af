"""Reading bodies strictly: JSON that means one thing only, text that every part of the service can hold."""

import json
import re
from typing import Any

from starlette.requests import Request

from app.api.problems import Malformed, UnsupportedMedia

DEEPEST = 32
LONGEST_NUMBER = 24
MOST_MEMBERS = 20_000  # each faulty member costs time in the validation; no honest body comes near
MOST_SYNC_MEMBERS = 200_000  # a device that was offline for days sends whole rows
_NO_BRACKETS = bytes(b for b in range(256) if b not in b"[]{}")
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)  # linear: an open string runs to the end


class StrictRequest(Request):
    """A request whose JSON is parsed once, without duplicate members, NaN, endless numbers or deep nesting."""

    async def json(self) -> Any:
        """Return the parsed body. Raises Malformed."""
        if not hasattr(self, "_parsed"):
            of_device = self.url.path.startswith("/v1/sync/")
            self._parsed = parse(await self.body(), MOST_SYNC_MEMBERS if of_device else MOST_MEMBERS)
        return self._parsed


def parse(raw: bytes, most_members: int = MOST_MEMBERS) -> Any:
    """Parse JSON strictly. Raises Malformed with what is wrong."""
    if raw.count(b",") > most_members:
        raise Malformed(f"The JSON has more than {most_members} members.")
    if raw.count(b"[") + raw.count(b"{") > most_members + DEEPEST:
        raise Malformed(f"The JSON has more than {most_members} members.")
    if _depth(raw) > DEEPEST:
        raise Malformed(f"The JSON is nested deeper than {DEEPEST}.")
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole, parse_float=_fraction)
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise Malformed("The body is not valid UTF-8, or holds a lone surrogate.") from None
    except (ValueError, RecursionError) as error:
        raise Malformed(f"The body is not JSON: {getattr(error, 'msg', 'it cannot be parsed')}.") from None
    return found


def check_media_type(request: Request) -> None:
    """Refuse a body that is not JSON, or is encoded. Raises UnsupportedMedia."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise UnsupportedMedia("Send Content-Type: application/json.")


async def check_body(request: StrictRequest, *, takes_one: bool) -> bytes:
    """Read, check and parse the body before anything else is done. Raises UnsupportedMedia, Malformed."""
    body = await request.body()
    if body:
        check_media_type(request)
        found = await request.json()
        if not takes_one and found != {}:
            raise Malformed("This route takes no body.")
    return body


def _depth(raw: bytes) -> int:
    """Return the deepest nesting; brackets inside strings do not count."""
    deepest = level = 0
    if raw.count(b"[") + raw.count(b"{") <= DEEPEST:
        return 0
    for byte in _STRINGS.sub(b"", raw).translate(None, _NO_BRACKETS):
        if byte in b"[{":
            level += 1
            deepest = max(deepest, level)
            if deepest > DEEPEST:
                break
        elif byte in b"]}":
            level -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("A member stands twice in one object.")
    return found


def _no_constant(name: str) -> Any:
    raise Malformed(f"{name} is not JSON.")


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise Malformed(f"A number has more than {LONGEST_NUMBER} digits.")
    return int(digits)


def _fraction(digits: str) -> float:
    if len(digits) > LONGEST_NUMBER:
        raise Malformed(f"A number has more than {LONGEST_NUMBER} digits.")
    return float(digits)
