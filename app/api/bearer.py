"""Who calls: bearer tokens verified in memory, against keys and revocations that every process polls."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog
from starlette.requests import Request

from app.actions.door import newest_signing, signing_pairs
from app.api.problems import DeviceRevoked, ProofRefused, Unauthenticated, Unavailable
from app.keys.cipher import KeyRing
from app.keys.jws import TokenRefused
from app.keys.tokens import PROOF_SECONDS, Caller, SigningKey, read_access_token, read_proof
from app.store.database import Database, DatabaseAway, Unsafe
from app.store.door import commit_soon, revoked, signing_keys, use_proof
from app.store.installation import UNRECONCILED, is_reconciled

POLL_SECONDS = 1.5
OLDEST_COPY_SECONDS = 5.0
MOST_CACHED = 4096
PROOFS_KEPT = timedelta(seconds=3 * PROOF_SECONDS)  # a proof is good from 60 s before its moment to 60 s after it

log = structlog.get_logger("ipt.door")


class Door:
    """The issuer's keys and the revocations, as this process knows them; and the tokens it has verified."""

    def __init__(self, database: Database, login: Database, keys: KeyRing, issuer: str, now: Callable[[], datetime]) -> None:
        self.issuer = issuer
        self._database = database
        self.login = login
        self._ring = keys
        self._now = now
        self._signing: list[SigningKey] = []
        self._revoked: set[tuple[str, str]] = set()
        self._read_at = float("-inf")
        self._seen: OrderedDict[bytes, Caller] = OrderedDict()
        self._poller: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read once and keep reading. Raises KeyMissing when the key file does not open the signing keys, and what `refresh` raises."""
        with suppress(DatabaseAway):
            await self.refresh()
        self._poller = asyncio.create_task(self._poll(), name="door")

    async def stop(self) -> None:
        """Stop reading."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def refresh(self) -> None:
        """Read keys and revocations now. Raises Unsafe when the database is not the one that it was."""
        now = self._now()
        async with self.login.transaction(None) as connection:
            if not await is_reconciled(connection):
                self._read_at = float("-inf")  # a backup was brought back under this process: from now on nothing of it is shown
                raise Unsafe(UNRECONCILED)
            rows = await signing_keys(connection, now)
            self._revoked = {(r["kind"], r["value"]) for r in await revoked(connection, now)}
        self._signing = signing_pairs(rows, self._ring)
        self._read_at = time.monotonic()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.refresh()
            except DatabaseAway:
                log.warning("door_copy_not_refreshed")
            except Exception as error:  # noqa: BLE001 - the poller must live; a stale copy refuses by itself
                log.warning("door_copy_failed", error=type(error).__name__)

    @property
    def is_fresh(self) -> bool:
        """Tell whether our copy of keys and revocations is young enough to trust."""
        return time.monotonic() - self._read_at <= OLDEST_COPY_SECONDS

    def check_fresh(self) -> None:
        """Raise Unavailable when our copy is too old to trust, or the database was brought back from a backup under this process."""
        if not self.is_fresh:
            raise Unavailable("The copy of revocations is too old to trust.")

    def published(self) -> list[dict[str, str]]:
        """Return the public keys to show at the JWKS address."""
        return [dict(k.public_jwk) for k in self._signing]

    def signing_key(self) -> SigningKey:
        """Return the key that signs now: the newest whose time has come. Raises Unavailable when there is none."""
        key = newest_signing(self._signing, self._now())
        if key is not None:
            return key
        raise Unavailable("There is no signing key yet; run `ipt key rotate`.")

    def caller_of(self, request: Request) -> Caller:
        """Return the caller that a request's token names. Raises Unauthenticated, or Unavailable when our copy is too old.

        A token that is bound to a key (RFC 9449) needs `check_proof` beside.
        """
        self.check_fresh()
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in {"bearer", "dpop"} or not token:
            raise Unauthenticated("Send Authorization: Bearer with an access token.")
        caller = self._verified(token)
        self.check_revoked(caller)
        if (scheme.lower() == "dpop") != (caller.thumbprint is not None):
            raise ProofRefused("A token that is bound to a key goes with Authorization: DPoP and a proof; any other with Bearer.")
        return caller

    def check_revoked(self, caller: Caller) -> None:
        """Raise Unauthenticated when the token, its client, its person or its device was revoked; Unavailable when our copy is too old."""
        self.check_fresh()
        own = f"{caller.partner_id}|"  # ids are the partner's own: another partner may have the same
        if ("device", f"{own}{caller.device_id}") in self._revoked:
            raise DeviceRevoked
        named = {
            ("client", caller.client_id),
            ("token", caller.token_id),
            ("clinician", f"{own}{caller.clinician_id}"),
            ("patient", f"{own}{caller.patient_id}"),
        }
        if named & self._revoked:
            raise Unauthenticated("The token is not acceptable.")

    async def check_proof(self, request: Request, caller: Caller) -> None:
        """Use up the proof of a token that is bound to a key: fresh, of that key, and each once, by whichever process. Raises ProofRefused."""
        if caller.thumbprint is None:
            return
        token = request.headers.get("authorization", "").partition(" ")[2]
        proofs = request.headers.getlist("dpop")
        address = self.issuer + request.scope["raw_path"].decode("ascii").partition("?")[0]
        try:
            proof = read_proof(proofs[0] if len(proofs) == 1 else "", request.method, address, int(self._now().timestamp()), token)
        except (TokenRefused, UnicodeError):
            raise ProofRefused from None
        if proof.thumbprint != caller.thumbprint:
            raise ProofRefused
        async with self._database.transaction(caller.partner_id) as connection:
            await commit_soon(connection)  # a proof lives for two minutes, and nothing else is written here
            if not await use_proof(connection, proof.thumbprint, proof.jti, self._now() + PROOFS_KEPT):
                raise ProofRefused
            await connection.commit()

    def _verified(self, token: str) -> Caller:
        now = int(self._now().timestamp())
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._seen.get(digest)
        if known is not None and now < known.expires_at:
            return known
        try:
            caller = read_access_token(token, {k.kid: k.public_jwk for k in self._signing}, self.issuer, now)
        except (TokenRefused, UnicodeError):
            raise Unauthenticated("The token is not acceptable.") from None
        self._seen[digest] = caller
        if len(self._seen) > MOST_CACHED:
            self._seen.popitem(last=False)
        return caller


def utc_now() -> datetime:
    """Return the present moment."""
    return datetime.now(UTC)
