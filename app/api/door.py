"""The partner's door: tokens (RFC 6749, 7523, 8693, 9068), their revocation (7009), keys (7517), metadata (8414)."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from fastapi import Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from app.actions.door import (
    KEPT_AFTER_EXPIRY,
    Client,
    ClientRefused,
    GrantRefused,
    assertion_client,
    authenticate_by_assertion,
    authenticate_by_secret,
    bind_device,
    check_bound,
    granted,
    granted_for_person,
    partner_of,
)
from app.actions.visit import Visit
from app.api.bearer import PROOFS_KEPT
from app.api.request import SCOPES, House
from app.api.routing import Router
from app.api.shapes import Out
from app.keys.jws import TokenRefused
from app.keys.tokens import ACCESS_TOKEN_SECONDS, Caller, is_thumbprint, mint, new_caller, read_access_token, read_proof
from app.store.audit import Access, Knock, insert_access
from app.store.database import Connection, clock
from app.store.door import revoke, use_proof
from app.store.feed import stamp

router = Router(tags=["door"])

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name of RFC 8693
PEOPLE = {f"urn:ipt:params:oauth:token-type:{kind}": kind for kind in ("clinician", "patient")}
DEVICE = "urn:ipt:params:oauth:token-type:device"
LARGEST_FORM = 16_384
MOST_MEMBERS = 20


class TokenOut(Out):
    """An access token (RFC 9068) of ten minutes."""

    access_token: str
    token_type: str = Field(examples=["Bearer"], description="DPoP when the token is bound to a key")
    expires_in: int
    scope: str
    issued_token_type: str | None = Field(None, description="Set for an exchanged token")


class OAuthError(Out):
    """An OAuth error (RFC 6749, section 5.2)."""

    error: str
    error_description: str


class Jwks(Out):
    """The public keys that sign access tokens (RFC 7517). Keys rotate with overlap; kid is the RFC 7638 thumbprint."""

    keys: list[dict[str, str]]


def _form(*names: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    schema = {"type": "object", "properties": {n: {"type": "string"} for n in names}, "required": list(required)}
    return {"requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}}


_REFUSALS: dict[int | str, dict[str, Any]] = {400: {"model": OAuthError}, 401: {"model": OAuthError}}


@dataclass(frozen=True, slots=True)
class _Proof:
    """What a client shows: its id with a secret, or an assertion."""

    client_id: str
    secret: str | None
    assertion: str | None


@router.post(
    "/oauth/token",
    response_model=TokenOut,
    response_model_exclude_none=True,
    responses=_REFUSALS,
    openapi_extra=_form(
        *["grant_type", "scope", "client_assertion_type", "client_assertion", "subject_token", "subject_token_type", "requested_token_type"],
        *["actor_token", "actor_token_type", "device_label", "dpop_jkt"],
        required=("grant_type",),
    ),
)
async def issue_token(request: Request) -> Any:
    """Issue an access token to a partner's client, or exchange for one that acts for a clinician or a patient.

    `grant_type=client_credentials` with HTTP Basic (`client_secret_basic`) or a signed assertion (`private_key_jwt`:
    aud = issuer, at most 60 s, jti used once). `grant_type=urn:ietf:params:oauth:grant-type:token-exchange` with
    `subject_token` = the clinician's id and `subject_token_type=urn:ipt:params:oauth:token-type:clinician` (or `patient`).
    For a phone, `actor_token` = the id that the app made when it was installed and
    `actor_token_type=urn:ipt:params:oauth:token-type:device` bind the token to that device, with `device_label` as its name in
    /v1/devices. A `DPoP` proof (RFC 9449), or `dpop_jkt` with the thumbprint of a key that your app has shown you, binds the token to
    that key; a live partner's personal tokens, and those for extracts, must be bound. There are no refresh tokens: your backend, which knows who is logged in, exchanges again. `invalid_grant` with
    `device_revoked` says that the device must delete its data.
    """
    house: House = request.app.state.house
    claimed = None
    try:
        form = await _read_form(request)
        proof = _proof_of(request, form)
        claimed = proof.client_id
        partner_id, name = partner_of(claimed)
        house.door.check_fresh()
        async with house.database.transaction(partner_id) as connection:
            client = await _authenticated(connection, proof, name, house)
            house.token_rates.take(client.client_id)
            refusal = caller = None
            visit = Visit(connection, _bare(client, house), clock(house.now), house.keys)
            try:
                caller = await _granted(visit, client, form, await _key_shown(request, visit, form, house))
            except GrantRefused as refused:
                refusal = refused
            await insert_access(connection, house.keys, _access(request, client, caller, house, refusal))
            await stamp(connection, visit.journal, visit.now, actor=visit.actor, client_id=client.client_id)
            await connection.commit()
    except ClientRefused:
        return await _refused(request, house, claimed)
    except GrantRefused as refused:
        return _error(400, refused.code, str(refused))
    if caller is None:
        return _error(400, refusal.code if refusal else "invalid_request", str(refusal))
    token = mint(house.door.signing_key(), house.door.issuer, caller, caller.expires_at - ACCESS_TOKEN_SECONDS)
    kind = {"issued_token_type": ACCESS_TOKEN} if caller.person else {}
    token_type = "Bearer" if caller.thumbprint is None else "DPoP"
    body = {"access_token": token, "token_type": token_type, "expires_in": ACCESS_TOKEN_SECONDS, "scope": " ".join(sorted(caller.scopes)), **kind}
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


@router.post(
    "/oauth/revoke",
    responses={**_REFUSALS, 200: {"description": "The token is revoked, or was none"}},
    openapi_extra=_form("token", required=("token",)),
)
async def revoke_token(request: Request) -> Response:
    """Revoke an access token of this client (RFC 7009): every process refuses it within five seconds."""
    house: House = request.app.state.house
    claimed = None
    try:
        form = await _read_form(request)
        proof = _proof_of(request, form)
        claimed = proof.client_id
        partner_id, name = partner_of(claimed)
        house.door.check_fresh()
        async with house.database.transaction(partner_id) as connection:
            client = await _authenticated(connection, proof, name, house)
            house.token_rates.take(client.client_id)
            caller = _own_token(form.get("token", ""), client, house)
            if caller is not None:
                gone = datetime.fromtimestamp(caller.expires_at, UTC) + KEPT_AFTER_EXPIRY
                await revoke(connection, "token", caller.token_id, clock(house.now), gone)
            await insert_access(connection, house.keys, _access(request, client, caller, house, None))
            await connection.commit()
    except ClientRefused:
        return await _refused(request, house, claimed)
    except GrantRefused as refused:
        return _error(400, refused.code, str(refused))
    return Response(status_code=200, headers={"Cache-Control": "no-store"})


def _own_token(token: str, client: Client, house: House) -> Caller | None:
    """Return what a live token of this very client says, or None."""
    try:
        keys = {k["kid"]: k for k in house.door.published()}
        caller = read_access_token(token, keys, house.door.issuer, int(house.now().timestamp()))
    except (TokenRefused, UnicodeError):
        return None
    return caller if caller.client_id == client.client_id else None


@router.get("/.well-known/jwks.json", response_model=Jwks)
async def read_keys(request: Request) -> Any:
    """Read the public keys of the issuer."""
    house: House = request.app.state.house
    return JSONResponse({"keys": house.door.published()}, headers={"Cache-Control": "public, max-age=300"})


@router.get("/.well-known/oauth-authorization-server")
async def read_metadata(request: Request) -> dict[str, Any]:
    """Read the metadata of the authorization server (RFC 8414)."""
    house: House = request.app.state.house
    issuer = house.door.issuer
    return {
        "issuer": issuer,
        "token_endpoint": f"{issuer}/oauth/token",
        "revocation_endpoint": f"{issuer}/oauth/revoke",
        "jwks_uri": f"{issuer}/.well-known/jwks.json",
        "grant_types_supported": ["client_credentials", EXCHANGE],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["ES256", "RS256"],
        "dpop_signing_alg_values_supported": ["ES256"],
        "response_types_supported": [],
        "scopes_supported": sorted(SCOPES),
    }


async def _read_form(request: Request) -> dict[str, str]:
    """Parse the form. Raises GrantRefused for what is no form, or names a member twice."""
    body = await request.body()
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    code = "invalid_request"
    if media != "application/x-www-form-urlencoded" or len(body) > LARGEST_FORM:
        raise GrantRefused(code, "Send application/x-www-form-urlencoded of at most 16 KiB.")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=MOST_MEMBERS, errors="strict")
    except (ValueError, UnicodeError):
        raise GrantRefused(code, "The form cannot be read.") from None
    if len({k for k, _ in pairs}) != len(pairs):
        raise GrantRefused(code, "A parameter stands twice.")
    return dict(pairs)


def _proof_of(request: Request, form: Mapping[str, str]) -> _Proof:
    """Return what the client shows. Raises ClientRefused, GrantRefused when it shows two things."""
    scheme, _, packed = request.headers.get("authorization", "").partition(" ")
    assertion = form.get("client_assertion")
    if assertion is not None and scheme:
        code = "invalid_request"
        raise GrantRefused(code, "Authenticate in one way only.")
    if assertion is not None:
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise ClientRefused
        return _Proof(assertion_client(assertion), None, assertion)
    if scheme.lower() != "basic":
        raise ClientRefused
    try:
        user, colon, secret = base64.b64decode(packed.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        raise ClientRefused from None
    if not colon:
        raise ClientRefused
    return _Proof(unquote_plus(user), unquote_plus(secret), None)


async def _authenticated(connection: Connection, proof: _Proof, name: str, house: House) -> Client:
    if proof.assertion is not None:
        return await authenticate_by_assertion(connection, name, proof.assertion, house.door.issuer, house.now())
    return await authenticate_by_secret(connection, name, proof.secret or "", house.now())


async def _granted(visit: Visit, client: Client, form: Mapping[str, str], thumbprint: str | None) -> Caller:
    now = int(visit.now.timestamp())
    match form.get("grant_type"):
        case "client_credentials":
            scopes = granted(form.get("scope"), client.scopes)
            check_bound(client, thumbprint, scopes, personal=False)
            return new_caller(client.partner_id, client.client_id, scopes, now, thumbprint=thumbprint)
        case grant if grant == EXCHANGE:
            return await _exchanged(visit, client, form, now, thumbprint)
    code = "unsupported_grant_type"
    raise GrantRefused(code, "Use client_credentials or token exchange.")


async def _key_shown(request: Request, visit: Visit, form: Mapping[str, str], house: House) -> str | None:
    """Return the thumbprint that the token is to be bound to: of the proof, which is used up, or as the client vouches for it. Raises GrantRefused."""
    code = "invalid_dpop_proof"
    proofs, vouched = request.headers.getlist("dpop"), form.get("dpop_jkt")
    if vouched is not None and not is_thumbprint(vouched):
        raise GrantRefused(code, "dpop_jkt is the RFC 7638 thumbprint of the key.")
    if not proofs:
        return vouched
    try:
        proof = read_proof(proofs[0] if len(proofs) == 1 else "", "POST", f"{house.door.issuer}/oauth/token", int(visit.now.timestamp()))
    except (TokenRefused, UnicodeError):
        raise GrantRefused(code, "The DPoP proof is not acceptable.") from None
    if vouched not in {None, proof.thumbprint} or not await use_proof(visit.connection, proof.thumbprint, proof.jti, visit.now + PROOFS_KEPT):
        raise GrantRefused(code, "The DPoP proof was used before, or is of another key than dpop_jkt.")
    return proof.thumbprint


async def _exchanged(visit: Visit, client: Client, form: Mapping[str, str], now: int, thumbprint: str | None) -> Caller:
    code = "invalid_request"
    kind = PEOPLE.get(form.get("subject_token_type", ""))
    if kind is None or form.get("requested_token_type", ACCESS_TOKEN) != ACCESS_TOKEN:
        raise GrantRefused(code, f"subject_token_type must be {' or '.join(PEOPLE)}.")
    if form.get("actor_token_type", DEVICE) != DEVICE or ("actor_token" in form) != ("actor_token_type" in form):
        raise GrantRefused(code, f"A device is named by actor_token and actor_token_type={DEVICE} together.")
    person_id, scopes = await granted_for_person(visit.connection, client, kind, form.get("subject_token"), form.get("scope"))
    check_bound(client, thumbprint, scopes, personal=True)
    device_id = None
    if "actor_token" in form:
        device_id = await bind_device(visit, kind, person_id, form["actor_token"], form.get("device_label"))
    return new_caller(client.partner_id, client.client_id, scopes, now, thumbprint=thumbprint, **{f"{kind}_id": person_id, "device_id": device_id})


def _bare(client: Client, house: House) -> Caller:
    """Return the client as a caller, for what its own request for a token writes."""
    return new_caller(client.partner_id, client.client_id, client.scopes, int(house.now().timestamp()))


async def _refused(request: Request, house: House, claimed: str | None) -> Response:
    """Answer 401, the same for every reason, after noting it in the security log."""
    state = request.scope["state"]
    house.knock_rates.take(request.client.host if request.client else "")
    shown = "".join(c for c in (claimed or "")[:100] if c.isascii() and c.isprintable()) or None
    await house.trail.write(Knock(house.now(), "client_refused", "invalid_client", shown, request.url.path, state["request_id"]))
    return _error(401, "invalid_client", "The client cannot be authenticated.", {"WWW-Authenticate": 'Basic realm="token"'})


def _error(status: int, code: str, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": code, "error_description": sentence}, status, {"Cache-Control": "no-store", **(headers or {})})


def _access(request: Request, client: Client, caller: Caller | None, house: House, refusal: GrantRefused | None) -> Access:
    return Access(
        partner_id=client.partner_id,
        at=clock(house.now),
        client_id=client.client_id,
        person=caller.person if caller else None,
        action="execute",
        route=f"POST {request.url.path}",
        outcome=200 if refusal is None else 400,
        reason=refusal.code if refusal else None,
        request_id=request.scope["state"]["request_id"],
        patient_id=None,
        episode_id=None,
        device_id=caller.device_id if caller else None,
        resources=[f"token/{caller.token_id}"] if caller else [],
    )
