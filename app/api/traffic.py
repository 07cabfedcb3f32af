"""What every request passes, as one pure ASGI layer: request id, limits, metrics, one log line, security headers."""

import asyncio
import re
import time
import traceback
from functools import cache
from typing import Any
from uuid import uuid4

import structlog
from prometheus_client import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import tracing
from app.api.problems import HeadersTooLarge, Malformed, TooLarge, Unavailable, UnsupportedMedia, UriTooLong, as_refusal, render
from app.domain.errors import Refusal

LARGEST_BODY = 1_048_576
LARGEST_SYNC_BODY = 5 * LARGEST_BODY
LARGEST_FORM = 65_536  # what is more than 16 KiB is told so as OAuth does; this is what is read at all
LONGEST_TARGET = 8_192
LARGEST_HEADERS = 16_384
MOST_PARAMETERS = 100
MOST_CAUSES = 3
MOST_UNDER_WAY = 96  # one process, one core: some hundreds of answers a second
WAITS_SECONDS = 1.5  # for a place; a refusal at once would be asked again at once, and refusing would be all there is time for
SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"strict-transport-security": b"max-age=31536000; includeSubDomains",
    b"cross-origin-resource-policy": b"same-origin",
}
NOTHING_RUNS = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

under_way = Gauge("ipt_requests_under_way", "Requests that are being answered", multiprocess_mode="livesum")
requests_seen = Counter("ipt_requests_total", "Requests by route and status", ["method", "route", "status"])
seconds_taken = Histogram("ipt_request_seconds", "Time to answer, by route", ["method", "route"])
statements_run = Histogram(
    "ipt_statements", "SQL statements of a request, by route", ["method", "route"], buckets=(0, 2, 4, 6, 8, 10, 15, 20, 30, 50)
)

log = structlog.get_logger("ipt.request")


class Traffic:
    """The outermost layer. Logs carry ids of requests and clients, never a path's ids, a query, a body or a token."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._places = asyncio.Semaphore(MOST_UNDER_WAY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it breaks a limit."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        with tracing.request(headers, _method(scope)) as span:
            await self._passed(scope, receive, send, headers, span)

    async def _passed(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes], span: Any) -> None:
        request_id = _request_id(headers.get(b"x-request-id"))
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        place = _Place(self._places)
        watched = _Watched(send, request_id, scope["path"], place)
        started = time.perf_counter()
        try:
            _check(scope, headers)
        except Refusal as refusal:
            await render(refusal, request_id)(scope, receive, watched)
        else:
            try:
                await self.app(scope, _limited(receive, _largest(scope), place), watched)
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a problem and the log where it arose
                _tell_failure(error, request_id)
                if not watched.started:
                    await render(as_refusal(error), request_id)(scope, receive, watched)
        finally:
            place.give_back()
            _note(scope, state, watched.status, time.perf_counter() - started, span)


class _Place:
    """A place among the requests under way: from when one is here whole to when its answer leaves. Who sends or reads slowly holds none."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._is_taken = False

    async def take(self) -> None:
        """Wait for a place. Raises Unavailable when none became free in time."""
        if self._is_taken:
            return
        if self._places.locked():
            try:
                async with asyncio.timeout(WAITS_SECONDS):
                    await self._places.acquire()
            except TimeoutError:
                raise Unavailable("More requests are under way than this process can answer in time.") from None
        else:
            await self._places.acquire()
        self._is_taken = True
        under_way.inc()

    def give_back(self) -> None:
        """Let the next one have it."""
        if self._is_taken:
            self._is_taken = False
            self._places.release()
            under_way.dec()


class _Watched:
    """A `send` that adds the headers of every answer, remembers its status, and gives the place back: what is left is the reader's time."""

    def __init__(self, send: Send, request_id: str, path: str, place: _Place) -> None:
        self._send, self._place = send, place
        self._is_docs = path.startswith("/docs")
        self._request_id = request_id.encode()
        self.status = 500
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.started = True
            self._place.give_back()
            headers = [*message.get("headers", []), (b"x-request-id", self._request_id), *SECURITY_HEADERS.items()]
            if not self._is_docs and NOTHING_RUNS[0] not in {name.lower() for name, _ in headers}:
                headers.append(NOTHING_RUNS)
            message["headers"] = headers
        await self._send(message)


def _tell_failure(error: BaseException, request_id: str) -> None:
    """Log where a failure arose: types and lines, never messages or values, which may hold clinical content."""
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)[-6:]]
    causes: list[str] = []
    cause = error.__cause__
    while cause is not None and len(causes) < MOST_CAUSES:
        causes.append(type(cause).__name__)
        cause = cause.__cause__
    log.error("failure", request_id=request_id, kind=type(error).__name__, causes=causes, frames=frames)


def _request_id(given: bytes | None) -> str:
    return given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else str(uuid4())


def _check(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Refuse what no route takes. Raises Refusal."""
    query = scope.get("query_string", b"")
    if len(scope.get("raw_path") or b"") + len(query) > LONGEST_TARGET:
        raise UriTooLong
    if query.count(b"&") >= MOST_PARAMETERS:
        raise Malformed(f"More than {MOST_PARAMETERS} query parameters.")
    if b"%00" in query or b"\x00" in scope["path"].encode("utf-8", "surrogatepass"):
        raise Malformed("The address holds a NUL.")
    try:
        query.decode("ascii")
        scope["path"].encode("utf-8")
    except UnicodeError:
        raise Malformed("The address is not valid UTF-8.") from None
    if sum(len(k) + len(v) for k, v in scope["headers"]) > LARGEST_HEADERS:
        raise HeadersTooLarge
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMedia
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > _largest(scope):
        raise TooLarge


def _largest(scope: Scope) -> int:
    """Return how long a body may be: least where nobody has said yet who they are."""
    path: str = scope["path"]
    return LARGEST_SYNC_BODY if path.startswith("/v1/sync/") else LARGEST_FORM if path.startswith("/oauth/") else LARGEST_BODY


def _limited(receive: Receive, limit: int, place: _Place) -> Receive:
    """Count the bytes that really arrive, for Content-Length is only a claim; once all are here, take a place."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise TooLarge
            if not message.get("more_body", False):
                await place.take()
        return message

    return counted


@cache
def _meters(method: str, route: str, status: int) -> tuple[Counter, Histogram, Histogram]:
    """Return the meters of a route and status: as many as there are routes, looked up once."""
    return requests_seen.labels(method, route, str(status)), seconds_taken.labels(method, route), statements_run.labels(method, route)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"} else "OTHER"


def _note(scope: Scope, state: dict[str, Any], status: int, seconds: float, span: Any) -> None:
    route = getattr(scope.get("route"), "path_format", None) or "unmatched"
    method = _method(scope)
    tracing.answered(span, method, route, status)
    seen, taken, run = _meters(method, route, status)
    seen.inc()
    taken.observe(seconds)
    if "statements" in state:
        run.observe(state["statements"])
    log.info(
        "request",
        request_id=state["request_id"],
        method=method,
        route=route,
        status=status,
        milliseconds=round(seconds * 1000, 1),
        client=state.get("client_id"),
        statements=state.get("statements"),
    )
