"""Problems (RFC 9457): the only place that knows status codes. A class is a type, its docstring the title."""

import re
from collections.abc import Iterable
from html import escape
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response

from app.actions.journal import JournalAway
from app.actions.visit import VersionStale, VersionUnmatched
from app.domain.errors import Conflict, Forbidden, Invalid, NotFound, Refusal, escaped, title_of
from app.domain.sync import CursorAhead, CursorExpired, CursorMalformed, SchemaTooOld
from app.keys.cipher import KeyMissing
from app.store.database import DatabaseAway, OutcomeUnknown, OutOfRange, TryAgain, UniqueTaken

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "2"


class Malformed(Refusal):
    """The request cannot be read."""


class Unauthenticated(Refusal):
    """The request carries no valid access token."""


class DeviceRevoked(Unauthenticated):
    """This device was revoked: it must delete every copy of the data that it holds, and its tokens."""


class ProofRefused(Unauthenticated):
    """The token is bound to a key, and the proof (RFC 9449) does not show that the caller holds it, or was used before.

    Send `Authorization: DPoP <token>` and, with each request anew, a `DPoP` header: ES256, typ `dpop+jwt`, your public key as `jwk`; `htm` the
    method, `htu` the address (the issuer's, without query), `iat` within 60 s of our clock, a `jti` never used before, `ath` the SHA-256 of the token.
    """


class NotForPatients(Forbidden):
    """This route is not for a patient's token."""


class PersonNeeded(Forbidden):
    """Synchronisation needs a token that acts for a person: exchange one."""


class DeviceNeeded(Forbidden):
    """Sending changes needs a token that is bound to a device: exchange one with the device as actor."""


class ScopeMissing(Forbidden):
    """The token lacks a scope that this route needs."""


class MethodNotAllowed(Refusal):
    """This route does not know the method."""


class TooLarge(Refusal):
    """The body is larger than this route takes."""


class UriTooLong(Refusal):
    """The address is longer than 8 KiB."""


class HeadersTooLarge(Refusal):
    """The headers are larger than 16 KiB."""


class UnsupportedMedia(Refusal):
    """The body must be plain JSON, without a content encoding."""


class PreconditionRequired(Refusal):
    """A precondition is needed: If-Match with the ETag last seen, or If-None-Match: * for a first PUT."""


class TooManyRequests(Refusal):
    """The client has used up its rate."""

    repeated = False
    """Not the first one since the client was last let in: the trail has the first."""


class KeyReused(Refusal):
    """This Idempotency-Key was used for another request."""


class KeyHeld(Conflict):
    """A request with this Idempotency-Key is in progress."""


class Unavailable(Refusal):
    """The service cannot answer now; nothing was changed. Try again."""


class OutcomeNotKnown(Refusal):
    """The connection to the database broke during the commit: repeat the request with the same Idempotency-Key."""


class Failure(Refusal):
    """The service failed. The fault is ours; nothing was changed."""


STATUSES: tuple[tuple[type[Refusal], int], ...] = (
    (VersionStale, 412),
    (VersionUnmatched, 412),
    (CursorMalformed, 400),
    (CursorAhead, 400),
    (CursorExpired, 410),
    (SchemaTooOld, 426),
    (Malformed, 400),
    (Unauthenticated, 401),
    (MethodNotAllowed, 405),
    (TooLarge, 413),
    (UriTooLong, 414),
    (HeadersTooLarge, 431),
    (UnsupportedMedia, 415),
    (PreconditionRequired, 428),
    (TooManyRequests, 429),
    (KeyReused, 422),
    (Unavailable, 503),
    (OutcomeNotKnown, 503),
    (Failure, 500),
    (NotFound, 404),
    (Forbidden, 403),
    (Conflict, 409),
    (Invalid, 422),
)


def status_of(refusal: Refusal) -> int:
    """Return the status code of a refusal."""
    return next((status for kind, status in STATUSES if isinstance(refusal, kind)), 500)


def name_of(kind: type[BaseException]) -> str:
    """Return the problem's name: the class name in kebab case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


FORESEEN: tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[Refusal], tuple[str, ...]], ...] = (
    (OutcomeUnknown, OutcomeNotKnown, ()),
    ((DatabaseAway, TryAgain), Unavailable, ()),
    (JournalAway, Unavailable, ("The journal of erasures cannot be written. Nothing was erased.",)),
    (OutOfRange, Invalid, ("A value is outside of what the database keeps.",)),
    (UniqueTaken, Conflict, ("A unique reference was taken by another request at the same moment.",)),
    (ClientDisconnect, Malformed, ("The client hung up.",)),
    (KeyMissing, Failure, ("The key to this data cannot be used.",)),
)


def as_refusal(error: Exception) -> Refusal:
    """Turn any error into the refusal that is shown for it. What is not foreseen is a failure of ours."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        found = {404: NotFound, 405: MethodNotAllowed, 413: TooLarge}.get(error.status_code, Malformed)()
        found.headers = dict(error.headers or {})  # type: ignore[attr-defined]
        return found
    for kinds, shown, words in FORESEEN:
        if isinstance(error, kinds):
            return shown(*words)
    return Failure()


def _invalid(error: RequestValidationError) -> Refusal:
    found = Invalid("The input breaks the rules named in errors.")
    found.validation = [_fault(e) for e in error.errors()[:50]]  # type: ignore[attr-defined]
    return found


def _fault(error: dict[str, Any]) -> dict[str, str]:
    where, *path = error["loc"]
    if error["type"] == "json_invalid":
        return {"pointer": "", "detail": "is not JSON"}
    message = str(error["msg"]).removeprefix("Value error, ")
    if where == "body":
        return {"pointer": "".join(f"/{escaped(p)}" for p in path), "detail": message}
    return {"parameter": str(path[0]) if path else str(where), "detail": message}


def render(refusal: Refusal, request_id: str) -> Response:
    """Return the answer for a refusal."""
    status = status_of(refusal)
    kind = type(refusal)
    body: dict[str, Any] = {
        "type": f"/problems/{name_of(kind)}",
        "title": title_of(kind),
        "status": status,
        "detail": str(refusal),
        "instance": request_id,
    }
    faults = getattr(refusal, "validation", None) or [f._asdict() for f in refusal.faults]
    if faults:
        body["errors"] = faults
    if refusal.unmet:
        body["unmet"] = [u._asdict() for u in refusal.unmet]
    return Response(orjson.dumps(body), status, headers=_headers(refusal, status), media_type=MEDIA_TYPE)


def _headers(refusal: Refusal, status: int) -> dict[str, str]:
    if isinstance(refusal, ProofRefused):
        return {"WWW-Authenticate": 'DPoP error="invalid_dpop_proof", algs="ES256"'}
    if status == 401:  # noqa: PLR2004
        return {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    if isinstance(refusal, ScopeMissing):
        return {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{refusal}"'}
    if status == 503 or isinstance(refusal, KeyHeld):  # noqa: PLR2004
        return {"Retry-After": RETRY_AFTER_SECONDS}
    return getattr(refusal, "headers", {})


def every_problem() -> dict[str, type[Refusal]]:
    """Return every problem type by its name."""

    def below(kind: type[Refusal]) -> Iterable[type[Refusal]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    return {name_of(kind): kind for kind in below(Refusal) if kind is not Refusal}


def add_problems(app: FastAPI) -> None:
    """Render every error as a problem, and serve a page for each type."""

    async def shown(request: Request, error: Exception) -> Response:
        return render(as_refusal(error), request.state.request_id)

    for kind in (
        Refusal,
        RequestValidationError,
        HTTPException,
        DatabaseAway,
        OutcomeUnknown,
        JournalAway,
        OutOfRange,
        TryAgain,
        UniqueTaken,
        OutOfRange,
        KeyMissing,
        ClientDisconnect,
        Exception,
    ):
        app.add_exception_handler(kind, shown)

    @app.get("/problems/{name}", include_in_schema=False)
    async def problem_page(name: str) -> HTMLResponse:
        kind = every_problem().get(name)
        if kind is None:
            raise NotFound
        status = status_of(kind())
        paragraphs = "".join(f"<p>{escape(part)}</p>" for part in (kind.__doc__ or "").split("\n\n"))
        return HTMLResponse(f"<!doctype html><html lang=en><title>{name}</title><h1>{name}</h1><p>Status {status}</p>{paragraphs}</html>")
