"""A vendor as the sandbox plays one: a partner's backend and one of its clinicians, over HTTP and over nothing else."""

import base64
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import httpx

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
CLINICIAN = "urn:ipt:params:oauth:token-type:clinician"
Say = Callable[[str], None]


class PlayedWrong(Exception):
    """The service did not answer as the course expects; the message holds the problem."""


class Vendor:
    """A partner's backend with one clinician. `say` hears what the service decided and why."""

    def __init__(self, http: httpx.AsyncClient, client_id: str, client_secret: str, say: Say = lambda _: None) -> None:
        self.http = http
        self.say = say
        self._basic = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
        self._backend = ""
        self._clinician = ""
        self.clinician_id = ""
        self.cover_id = ""

    async def arrive(self) -> None:
        """Get a token, register the lead and the cover (or find them), and a token that acts for the lead."""
        self._backend = await self._token(grant_type="client_credentials")
        self.clinician_id = await self._clinician_of("idp|lead")
        self.cover_id = await self._clinician_of("idp|cover")
        self._clinician = await self._token(grant_type=EXCHANGE, subject_token=self.clinician_id, subject_token_type=CLINICIAN)

    async def _token(self, **form: str) -> str:
        answer = await self.http.post("/oauth/token", data=form, headers={"Authorization": f"Basic {self._basic}"})
        if answer.status_code != 200:
            raise PlayedWrong(answer.text)
        return str(answer.json()["access_token"])

    async def _clinician_of(self, subject: str) -> str:
        found = (await self.get("/v1/clinicians", subject=subject))["items"]
        return str(found[0]["id"] if found else (await self.post("/v1/clinicians", {"subject": subject}))["id"])

    async def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, as_clinician: bool = False, **headers: str
    ) -> httpx.Response:
        """Send one request with a token (renewed once when it has expired), an Idempotency-Key where it is a write."""
        for attempt in (1, 2):
            token = self._clinician if as_clinician else self._backend
            extra = {"Authorization": f"Bearer {token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
            if method == "POST":
                extra.setdefault("Idempotency-Key", str(uuid4()))
            answer = await self.http.request(method, path, json=body, headers=extra)
            if answer.status_code != 401 or attempt == 2:
                return answer
            await self.arrive()
        raise AssertionError

    async def expect(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, as_clinician: bool = False, **headers: str) -> Any:
        """Send and return the JSON of a 2xx answer. Raises PlayedWrong with the problem otherwise."""
        answer = await self.send(method, path, body, as_clinician=as_clinician, **headers)
        if not answer.is_success:
            raise PlayedWrong(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    async def get(self, path: str, **query: str) -> Any:
        """Read."""
        return await self.expect("GET", str(httpx.URL(path, params=query)) if query else path)

    async def post(self, path: str, body: Mapping[str, Any], *, as_clinician: bool = False) -> Any:
        """Create."""
        return await self.expect("POST", path, body, as_clinician=as_clinician)

    async def put(self, path: str, body: Mapping[str, Any], *, as_clinician: bool = False) -> Any:
        """Put a singleton: the first time with If-None-Match, later with the ETag last seen."""
        first = await self.send("PUT", path, body, as_clinician=as_clinician, If_None_Match="*")
        if first.status_code != 412:
            if not first.is_success:
                raise PlayedWrong(f"PUT {path}: {first.status_code} {first.text}")
            return first.json()
        seen = await self.send("GET", path, as_clinician=as_clinician)
        return await self.expect("PUT", path, body, as_clinician=as_clinician, If_Match=seen.headers["etag"])

    async def patch(self, path: str, body: Mapping[str, Any], etag: str, *, as_clinician: bool = False) -> Any:
        """Change a resource."""
        return await self.expect("PATCH", path, body, as_clinician=as_clinician, If_Match=etag)
