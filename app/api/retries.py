"""Idempotency-Key: the first answer is kept with its effect, and a repeat gets it again."""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response

from app.actions.visit import Visit, open_chart, open_patient
from app.api.problems import KeyHeld, KeyReused, Malformed
from app.store.database import Row
from app.store.idempotency import KeptAnswer, find_kept, hash_of, hold, keep

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
EPISODES = "ipt-episodes"  # kept beside the headers, never sent: whose charts an answer about several patients shows
KEPT_HEADERS = ("content-type", "etag", "location", "content-security-policy", "cache-control")


@dataclass(frozen=True, slots=True)
class Retry:
    """A request that carries a key: the hash of its scope, and the bytes that its hash is made of."""

    key_hash: bytes
    content: bytes


def read_retry(request: Request, body: bytes, visit: Visit) -> Retry | None:
    """Return the request's key, or None. Scope: client, person, method, concrete path. Raises Malformed.

    The scopes of the token are part of the request: a narrower token is shown no wider answer.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if _KEY.fullmatch(key) is None:
        raise Malformed("An Idempotency-Key has 1 to 255 visible ASCII characters.")
    caller = visit.caller
    return Retry(
        hash_of(caller.client_id, caller.person or "", request.method, request.url.path, key),
        " ".join(sorted(caller.scopes)).encode() + b"\n" + request.url.query.encode() + b"\n" + body,
    )


async def kept_answer(visit: Visit, retry: Retry) -> Response | None:
    """Take the key, and return the answer kept under it, if any. Raises KeyHeld, KeyReused."""
    if not await hold(visit.connection, retry.key_hash):
        raise KeyHeld
    row = await find_kept(visit.connection, retry.key_hash, visit.now)
    if row is None:
        return None
    if row["patient_id"] is not None and row["wrapped"] is None:
        raise KeyReused("The answer kept under this key was erased with its patient.")
    if not hmac.compare_digest(row["request_hash"], _request_hash(visit, retry, _key_owner(visit, row))):
        raise KeyReused
    if row["patient_id"] is not None:
        await open_patient(visit, row["patient_id"])  # a replay shows nothing outside the caseload of today, nor what is restricted since
    for episode_id in filter(None, row["headers"].get(EPISODES, "").split(",")):
        await open_chart(visit, UUID(episode_id))
    visit.trace.resources.append(f"kept_answer/{retry.key_hash.hex()[:16]}")
    headers = {k: v for k, v in row["headers"].items() if k != EPISODES} | {"idempotent-replayed": "true"}
    return Response(_opened(visit, row, retry), row["status"], headers=headers)


async def keep_answer(visit: Visit, retry: Retry, response: Response, *, without: Sequence[str] = ()) -> None:
    """Keep a 2xx answer in the transaction of its effect, sealed under the patient's key when there is a patient.

    `without`: members that are shown once (secrets); null is kept in their place.
    """
    patient_id = visit.trace.patient_id
    key = visit.patient_keys.get(patient_id) if patient_id else None
    body = bytes(response.body)
    if without:
        body = orjson.dumps(orjson.loads(body) | dict.fromkeys(without))
    place = f"idempotency|{retry.key_hash.hex()}"
    sealed = key.seal({"body": body.decode()}, place) if key else visit.keys.seal(body, place)
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    charts = visit.trace.many or ([visit.trace.episode_id] if visit.trace.episode_id else [])
    if charts:
        headers[EPISODES] = ",".join(map(str, charts))
    owner = patient_id if key else None
    kept = KeptAnswer(retry.key_hash, _request_hash(visit, retry, owner), owner, response.status_code, headers, sealed)
    await keep(visit.connection, kept, visit.now)


def _key_owner(visit: Visit, row: Row) -> UUID | None:
    if row["patient_id"] is not None:
        visit.key_of({"id": row["patient_id"], "patient_id": row["patient_id"], "key_version": row["key_version"], "wrapped": row["wrapped"]})
    return row["patient_id"]  # type: ignore[no-any-return]


def _request_hash(visit: Visit, retry: Retry, patient_id: UUID | None) -> bytes:
    """Hash the request under a key: a plain hash of a nine-item questionnaire could be guessed."""
    if patient_id is not None:
        return visit.patient_keys[patient_id].digest(retry.content)
    return hmac.digest(visit.keys.derived("request hash"), retry.content, hashlib.sha256)


def _opened(visit: Visit, row: Row, retry: Retry) -> bytes:
    place = f"idempotency|{retry.key_hash.hex()}"
    if row["patient_id"] is None:
        return visit.keys.open(row["answer"], place)
    return str(visit.patient_keys[row["patient_id"]].open(row["answer"], place)["body"]).encode()
