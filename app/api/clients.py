"""A partner's clients: the apps that ask for tokens."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Field

from app.actions.clients import add_key, create_client, list_clients, retire_key, rotate_client_secret, turn_off
from app.api.request import SCOPES, Call, Route, needs
from app.api.routing import Router
from app.api.shapes import Code, In, Moment, Out, Whole
from app.store.database import Row

router = Router(prefix="/v1/clients", route_class=Route, tags=["clients"])


def _known(scope: str) -> str:
    if scope not in SCOPES:
        message = "is no scope: scopes_supported of /.well-known/oauth-authorization-server lists them"
        raise ValueError(message)
    return scope


class ClientIn(In):
    """A new client."""

    name: Annotated[Code, Field(max_length=40, examples=["mobile-backend"], description="1 to 40 of a-z, 0-9 and -; it stands in the client id")]
    scopes: Annotated[list[Annotated[str, AfterValidator(_known)]], Field(min_length=1, max_length=len(SCOPES))] = Field(
        examples=[["patients:read", "episodes:read"]], description="No more than the token itself holds"
    )


class SecretOut(Out):
    """When a secret was made, and when it ends."""

    id: UUID
    created_at: Moment
    expires_at: Moment | None


class ClientOut(Out):
    """A client."""

    client_id: str
    name: str
    scopes: list[str]
    created_at: Moment
    disabled_at: Moment | None
    secrets: list[SecretOut]
    keys: list[str] = Field(description="The kids of its public keys")


class ClientWithSecret(ClientOut):
    """A client with a new secret, which is shown this once and kept as a digest only."""

    client_secret: str | None = Field(description="null in the repeat of an answer")


class ClientList(Out):
    """The partner's clients, by name."""

    items: list[ClientOut]


class SecretRotationIn(In):
    """How long the present secrets go on working."""

    overlap_seconds: Annotated[Whole, Field(ge=0, le=604_800)] = 86_400


class KeyIn(In):
    """A public key, P-256 or RSA of 2048 bits or more."""

    jwk: dict[str, Any] = Field(examples=[{"kty": "EC", "crv": "P-256", "x": "...", "y": "..."}])


@router.post("", status_code=201, response_model=ClientWithSecret)
async def add_partner_client(call: Annotated[Call, needs("clients:write")], client_in: ClientIn) -> Row:
    """Add a client. It is given no scope that the token does not hold."""
    found, secret = await create_client(call.visit, client_in.name, frozenset(client_in.scopes))
    call.shown_once = ("client_secret",)
    return {**found, "client_secret": secret}


@router.get("", response_model=ClientList)
async def list_partner_clients(call: Annotated[Call, needs("clients:write")]) -> Row:
    """List the clients: their scopes, how they authenticate, whether they are disabled."""
    return {"items": await list_clients(call.visit)}


@router.post("/{client_name}/secrets", status_code=201, response_model=ClientWithSecret)
async def add_client_secret(call: Annotated[Call, needs("clients:write")], client_name: str, rotation_in: SecretRotationIn) -> Row:
    """Give a client a new secret; the present ones end after the overlap."""
    found, secret = await rotate_client_secret(call.visit, client_name, timedelta(seconds=rotation_in.overlap_seconds))
    call.shown_once = ("client_secret",)
    return {**found, "client_secret": secret}


@router.post("/{client_name}/keys", status_code=201, response_model=ClientOut)
async def add_public_key(call: Annotated[Call, needs("clients:write")], client_name: str, key_in: KeyIn) -> Row:
    """Register a public key for private_key_jwt. Its kid is the RFC 7638 thumbprint."""
    return await add_key(call.visit, client_name, key_in.jwk)


@router.post("/{client_name}/keys/{kid}/retirement", response_model=ClientOut)
async def retire_public_key(call: Annotated[Call, needs("clients:write")], client_name: str, kid: str) -> Row:
    """Take a public key away: no assertion signed with it is accepted any more."""
    return await retire_key(call.visit, client_name, kid)


@router.post("/{client_name}/disablement", response_model=ClientOut)
async def disable_partner_client(call: Annotated[Call, needs("clients:write")], client_name: str) -> Row:
    """Disable a client for ever: every process refuses its tokens within five seconds."""
    return await turn_off(call.visit, client_name)
