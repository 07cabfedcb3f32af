"""How a request flows: token, scope, rate, confined transaction, route, change feed, COMMIT, and only then the answer.

The flow is the route class, not a dependency: the finished answer is at hand when the transaction ends, so it can be
kept under an Idempotency-Key, and nobody can move the COMMIT behind the answer by dropping an argument.
"""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Annotated, Any
from uuid import UUID

from fastapi import Request, params
from fastapi.routing import APIRoute
from fastapi.security import OAuth2, SecurityScopes
from starlette.responses import Response

from app.actions.journal import Journal
from app.actions.records import Made
from app.actions.visit import Precondition, Trace, Visit
from app.api.bearer import Door
from app.api.bodies import StrictRequest, check_body
from app.api.pages import Pager, pager
from app.api.problems import NotForPatients, PreconditionRequired, ScopeMissing, TooManyRequests, Unauthenticated, as_refusal, status_of
from app.api.rates import Rates
from app.api.retries import Retry, keep_answer, kept_answer, read_retry
from app.domain.errors import Invalid
from app.domain.protection import CARE
from app.keys.cipher import KeyRing
from app.keys.tokens import Caller
from app.store.audit import Access, AuditTrail, Knock, insert_access
from app.store.database import Database, Row, TryAgain, clock
from app.store.feed import stamp

SCHEMA_REVISION = 1  # part of every ETag: raise it when the shape of a stored resource changes
ATTEMPTS = 3
ACTIONS = {"GET": "read", "POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete"}
LEDGERED = ("/v1/sync/push", "/v1/sync/rxdb/", "/v1/sync/watermelon")  # what devices send is told apart by the ledger, not by a key
ANSWERED_NOT_BEFORE = {"POST /v1/outcomes/tables": 0.25}  # seconds: whether a table was there, or what refused it, does not show in the time
WRITES = {"PUT", "PATCH", "DELETE"}
_ETAG = re.compile(r'"(\d{1,9})\.(\d{1,4})(?:-[0-9a-f]{12})?"')

SCOPES = {
    f"{noun}:{verb}": f"{verb} {noun}"
    for noun in (
        "patients",
        "episodes",
        "inventory",
        "classification",
        "sessions",
        "assessments",
        "termination",
        "risk",
        "consents",
        "groups",
        "notes",
    )
    for verb in ("read", "write")
} | {
    "import": "load an existing caseload",
    "sync": "synchronise devices, list and revoke them",
    "events:read": "follow the change feed",
    "webhooks:write": "manage webhook endpoints",
    "outcomes:read": "read anonymised tables",
    "outcomes:extract": "order extracts of de-identified records",
    "outcomes:approve": "approve extracts, as a person",
    "audit:read": "read the audit trail",
    "clients:write": "manage clients",
    "token:exchange": "obtain tokens that act for a clinician",
    "inventory:names": "see the labels of people in the picture of circles",
    "settings:read": "read the partner's settings and own protocols",
    "settings:write": "change the partner's settings, register own protocols",
    "exports:read": "take out the whole caseload",
    "rights:write": "carry out a person's rights: export, restriction, legal hold, erasure",
    "emergency:use": "open a chart outside of the caseload in an emergency",
    "emergency:review": "list and review emergency accesses",
}

oauth2 = OAuth2(
    scheme_name="partner",
    description="Client credentials of a partner app, or a token exchanged for a clinician (RFC 8693).",
    flows={"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": SCOPES}},
    auto_error=False,
)


@dataclass(frozen=True, slots=True)
class House:
    """What the assembly hands to the routes."""

    database: Database
    trail: AuditTrail
    keys: KeyRing
    door: Door
    erasures: Journal
    rates: Rates
    sync_rates: Rates
    token_rates: Rates
    knock_rates: Rates
    allowed_hosts: tuple[str, ...]
    stopping: asyncio.Event
    now: Callable[[], datetime]


@dataclass(slots=True)
class Call:
    """A request as its route sees it: the visit, and what the answer needs beside its body."""

    visit: Visit
    house: House
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    status: int | None = None
    with_more: bool = False
    of_this_moment: bool = False
    shown_once: tuple[str, ...] = ()
    """Members of the answer that are never kept: the answer to a repeat holds null in their place."""

    def stored(self, row: Row, *, with_more: bool = False) -> Row:
        """Give the answer the ETag of a stored row, and return the row.

        `with_more`: the answer shows more than the row; the ETag then ends in a hash of the body, which If-None-Match
        looks at and If-Match does not.
        """
        self.headers["ETag"] = f'"{row["version"]}.{SCHEMA_REVISION}"'
        self.with_more = with_more
        return row

    def made(self, made: Made, path: str | None = None) -> Row:
        """Answer 201 with Location for what was made, 200 for what was there."""
        self.status = 201 if made.new else 200
        if path is not None and made.new:
            self.headers["Location"] = path.format(id=made.row["id"])
        return self.stored(made.row)

    def pager(self, limit: int, cursor: str | None, query: Mapping[str, Any] | None = None, kinds: Sequence[type] = (UUID,)) -> Pager:
        """Return the page that is asked for."""
        return pager(self.house.keys.derived("cursor"), self.visit.caller.partner_id, self.path, query or {}, limit, cursor, kinds)

    def saw(self, rows: Sequence[Row], kind: str) -> None:
        """Note the rows of a list for the audit row."""
        self.visit.trace.resources += [f"{kind}/{r['id']}" for r in rows]
        self.visit.trace.patients |= {r["id"] if kind == "patient" else r["patient_id"] for r in rows if kind == "patient" or r.get("patient_id")}


@cache
def _dependency(*, patients: bool, use: str) -> Callable[..., Coroutine[Any, Any, Call]]:
    """Return the dependency of routes that patients' own tokens may use or not, and that open charts for a use."""

    async def the_call(request: Request, scopes: SecurityScopes, _token: Annotated[Any, params.Security(oauth2)]) -> Call:
        """Return the call that the route class has opened; the scopes were checked there."""
        del scopes
        call: Call = request.state.call
        return call

    _DECLARED[the_call] = (patients, use)
    return the_call


_DECLARED: dict[Callable[..., Any], tuple[bool, str]] = {}


def needs(*scopes: str, patients: bool = False, use: str = CARE) -> Any:
    """Declare the scopes that a route needs, in its signature. Patients' own tokens are refused unless it says `patients=True`.

    `use`: what charts are opened for (domain/protection.py); a restriction, or a consent withdrawn, refuses some uses.
    """
    return params.Security(dependency=_dependency(patients=patients, use=use), scopes=scopes, scope="function")


class Route(APIRoute):
    """A route for partners' apps. It cannot be declared without scopes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler in the flow of a request."""
        wanted = scopes_of(self)
        if wanted is None:
            message = f"{self.path} declares no scope"
            raise TypeError(message)
        inner = super().get_route_handler()
        known = frozenset(field.alias for field in self.dependant.query_params)
        patients, use = declared(self)
        flow = _Flow(inner, self.path_format, wanted, known, takes_body=self.body_field is not None, for_patients=patients, use=use)
        return flow.answer


def scopes_of(route: APIRoute) -> frozenset[str] | None:
    """Return the scopes that a route declares; None when it declares none."""
    for dependency in route.dependant.dependencies:
        if dependency.call in _DECLARED and dependency.own_oauth_scopes:
            return frozenset(dependency.own_oauth_scopes)
    return None


def declared(route: APIRoute) -> tuple[bool, str]:
    """Tell whether a route takes patients' own tokens, and what it opens charts for."""
    return next((_DECLARED[d.call] for d in route.dependant.dependencies if d.call in _DECLARED), (False, CARE))


@dataclass(frozen=True, slots=True)
class _Flow:
    inner: Callable[[Request], Coroutine[Any, Any, Response]]
    path: str
    scopes: frozenset[str]
    parameters: frozenset[str]
    takes_body: bool
    for_patients: bool
    use: str

    async def answer(self, request: Request) -> Response:
        house: House = request.app.state.house
        not_before = asyncio.get_running_loop().time() + ANSWERED_NOT_BEFORE.get(f"{request.method} {self.path}", 0.0)
        strict = StrictRequest(request.scope, request.receive)
        caller, rates = await self._let_in(strict, house)
        try:
            response = await self._answered(strict, house, caller)
        finally:
            await asyncio.sleep(max(0.0, not_before - asyncio.get_running_loop().time()))
        response.headers.update(rates)
        return response

    async def _answered(self, request: StrictRequest, house: House, caller: Caller) -> Response:
        state = request.scope["state"]
        state["client_id"] = caller.client_id
        now = clock(house.now)
        visit: Visit | None = None
        try:
            self._check_caller(caller)
            _check_parameters(request, self.parameters)
            body = await check_body(request, takes_one=self.takes_body)
            precondition = precondition_of(request)
            for attempt in range(1, ATTEMPTS + 1):
                fresh = Precondition(precondition.version, precondition.must_be_new, precondition.any_version)
                try:
                    async with house.database.transaction(caller.partner_id) as connection:
                        visit = Visit(connection, caller, now, house.keys, precondition=fresh, use=self.use)
                        response = await self._within(request, body, visit, house)
                    break
                except TryAgain:
                    if attempt == ATTEMPTS:
                        raise
        except Exception as error:
            refusal = as_refusal(error)
            if status_of(refusal) != 503:  # noqa: PLR2004 - with the database away there is nowhere to write it
                await house.trail.write(self._access(request, caller, visit, now, status_of(refusal), type(refusal).__name__))
            raise
        state["statements"] = visit.connection.statements if visit else 0
        if visit is not None and not visit.journal.has_written:
            await house.trail.write(*(self._access(request, caller, visit, now, response.status_code, None, t) for t in visit.trace.parts()))
        return response

    async def _let_in(self, request: StrictRequest, house: House) -> tuple[Caller, dict[str, str]]:
        """Return who calls, and what is left of their rate. Raises Unauthenticated, TooManyRequests.

        The rate comes before the proof, which writes. Whoever floods the door, or their rate, fills no log: the first of a run is told.
        """
        request_id = request.scope["state"]["request_id"]
        try:
            caller = house.door.caller_of(request)
            rates = house.sync_rates.take(f"{caller.client_id}|{caller.device_id}") if self.of_devices else house.rates.take(caller.client_id)
            if caller.thumbprint is not None:
                await request.body()  # and with it a place: the proof is written down
                await house.door.check_proof(request, caller)
        except Unauthenticated as refused:
            with suppress(TooManyRequests):
                house.knock_rates.take(request.client.host if request.client else "")
                await house.trail.write(Knock(house.now(), "token_refused", str(refused), None, self.path, request_id))
            raise
        except TooManyRequests as refused:
            if not refused.repeated:
                await house.trail.write(self._access(request, caller, None, clock(house.now), status_of(refused), type(refused).__name__))
            raise
        return caller, rates

    @property
    def of_devices(self) -> bool:
        """Tell whether this is a route that devices synchronise by: each has a rate of its own."""
        return self.path.startswith("/v1/sync/")

    def _check_caller(self, caller: Caller) -> None:
        """Raise ScopeMissing, or NotForPatients, when the token does not open this route."""
        missing = self.scopes - caller.scopes
        if missing:
            raise ScopeMissing(" ".join(sorted(missing)))
        if caller.patient_id is not None and not self.for_patients:
            raise NotForPatients

    async def _within(self, request: StrictRequest, body: bytes, visit: Visit, house: House) -> Response:
        """Answer inside the transaction and end it: audit row, kept answer, stamp, COMMIT."""
        retry: Retry | None = None
        if request.method != "GET" and not self.path.startswith(LEDGERED):
            retry = read_retry(request, body, visit)
            kept = await kept_answer(visit, retry) if retry else None
            if kept is not None:
                return kept
        call = Call(visit, house, request.url.path)
        request.state.call = call
        response = await self.inner(request)
        self._finish(request, call, response)
        if visit.journal.has_written or (retry and response.status_code < 300):  # noqa: PLR2004
            await self._write_down(request, call, retry, response)
        return response

    async def _write_down(self, request: Request, call: Call, retry: Retry | None, response: Response) -> None:
        visit = call.visit
        if visit.journal.has_written:
            if request.method in WRITES and not visit.precondition.checked:
                message = f"{self.path} changed something without checking its precondition"
                raise RuntimeError(message)
            of = [self._access(request, visit.caller, visit, visit.now, response.status_code, None, trace) for trace in visit.trace.parts()]
            await insert_access(visit.connection, visit.keys, *of)
        if retry and response.status_code < 300:  # noqa: PLR2004
            await keep_answer(visit, retry, response, without=call.shown_once)
        await stamp(visit.connection, visit.journal, visit.now, actor=visit.actor, client_id=visit.caller.client_id)
        await visit.connection.commit()

    def _finish(self, request: Request, call: Call, response: Response) -> None:
        """Put the call's headers on the answer; a GET whose ETag the caller knows becomes a 304."""
        if call.status is not None:
            response.status_code = call.status
        response.headers.update(call.headers)
        if call.shown_once:
            response.headers["Cache-Control"] = "no-store"
        if call.of_this_moment and request.method == "GET":
            response.headers["Cache-Control"] = "no-store"
            return
        digest = hmac.digest(call.house.keys.derived("etag"), bytes(response.body), hashlib.sha256).hex()
        if call.with_more:
            response.headers["ETag"] = f'{response.headers["etag"][:-1]}-{digest[:12]}"'
        if request.method != "GET":
            return
        if "etag" not in response.headers:
            response.headers["ETag"] = f'"{digest[:32]}"'
        response.headers["Cache-Control"] = "private, no-cache"
        if _matches(request.headers.get("if-none-match"), response.headers["etag"]):
            response.status_code = 304
            response.body = b""
            for name in ("content-length", "content-type"):
                del response.headers[name]

    def _access(
        self, request: Request, caller: Caller, visit: Visit | None, now: datetime, outcome: int, reason: str | None, trace: Trace | None = None
    ) -> Access:
        trace = trace or (visit.trace if visit else None)
        return Access(
            partner_id=caller.partner_id,
            at=now,
            client_id=caller.client_id,
            person=caller.person,
            action=ACTIONS[request.method],
            route=f"{request.method} {self.path}",
            outcome=outcome,
            reason=reason,
            request_id=request.scope["state"]["request_id"],
            patient_id=trace.patient_id if trace else None,
            episode_id=trace.episode_id if trace else None,
            device_id=caller.device_id,
            break_glass_id=trace.break_glass_id if trace else None,
            also_of=trace.patients if trace else (),
            resources=(trace.resources if trace else []) or [f"{name}/{value[:40]}" for name, value in request.path_params.items()],
        )


def _check_parameters(request: Request, known: frozenset[str]) -> None:
    """Refuse a query parameter that the route does not know, or that stands twice: a mistyped filter would show too much."""
    names = [name for name, _ in request.query_params.multi_items()]
    wrong = [n for n in dict.fromkeys(names) if n not in known or names.count(n) > 1]
    if wrong:
        refusal = Invalid("A query parameter is unknown here, or stands twice.")
        refusal.validation = [{"parameter": n[:60], "detail": "is not known, or stands twice"} for n in wrong]  # type: ignore[attr-defined]
        raise refusal


def precondition_of(request: Request) -> Precondition:
    """Read If-Match, or If-None-Match: * of a first PUT. Raises PreconditionRequired when a write carries neither."""
    if request.method not in WRITES:
        return Precondition(any_version=True)
    match, none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if match is None and request.method == "PUT" and none_match is not None and none_match.strip() == "*":
        return Precondition(must_be_new=True)
    if match is None or match.strip() == "*":
        raise PreconditionRequired
    found = _ETAG.fullmatch(match.strip())
    current = found is not None and int(found.group(2)) == SCHEMA_REVISION
    return Precondition(version=int(found.group(1)) if found and current else -1)


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or etag in (part.strip().removeprefix("W/") for part in header.split(","))
