"""The OpenAPI document: what FastAPI derives from the routes, plus the conventions that all of them share."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.problems import MEDIA_TYPE, every_problem, status_of
from app.api.shapes import Problem

DESCRIPTION = """The backend that therapy platforms put under Interpersonal Psychotherapy (IPT): interpersonal inventory,
problem-area classification, session phases and termination, over HTTP.

The service supports decisions; the clinician makes them. Errors are problems (RFC 9457) of type `/problems/{name}`.
Writes to stored resources need `If-Match` with the ETag last seen. POST, PUT and PATCH take an `Idempotency-Key`: the
first answer is kept for 72 hours, so a lost reply can be asked for again; a DELETE that is repeated answers 404."""

_HEADERS = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        "description": "Repeat the request with the same key after a lost reply: the first answer comes again",
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "The ETag last seen. 428 without it, 412 when the resource has changed since",
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "GET: answer 304 when the ETag still fits. First PUT of a resource: `*`",
    },
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "maxLength": 64},
        "description": "Your id for this request; it comes back in the answer and in problems",
    },
}
_OF_METHOD = {
    "get": ("IfNoneMatch", "RequestId"),
    "post": ("IdempotencyKey", "RequestId"),
    "put": ("IfMatch", "IfNoneMatch", "IdempotencyKey", "RequestId"),
    "patch": ("IfMatch", "IdempotencyKey", "RequestId"),
    "delete": ("IfMatch", "RequestId"),
}
_ETAG = {"schema": {"type": "string"}, "description": "Version and revision of the resource, for If-Match and If-None-Match"}
_LOCATION = {"schema": {"type": "string"}, "description": "Where the new resource can be read"}
_REPLAYED = {"schema": {"type": "string"}, "description": "`true` when this is the answer kept under the Idempotency-Key"}
_AT_THE_GATE = (400, 405, 413, 414, 415, 429, 431, 500, 503)  # what every request passes, whatever the route
_ALWAYS = (*_AT_THE_GATE, 401, 403, 404, 422)
_STATUSES_OF_METHOD = {
    "get": (),
    "post": (409,),
    "put": (409, 412, 428),
    "patch": (409, 412, 428),
    "delete": (409, 412, 428),
}
_CATALOGUE = {"catalogue"}


def document_of(app: FastAPI) -> dict[str, Any]:
    """Return the whole document. Built once; the file openapi/openapi.json is a copy that a test compares."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, webhooks=app.webhooks.routes, servers=[{"url": "/"}]
        )
        components = found["components"]
        components["parameters"] = _HEADERS
        components["responses"] = {f"Problem{status}": _problem_answer(status) for status in (*_ALWAYS, 409, 410, 412, 426, 428)}
        components["schemas"]["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        components["schemas"].pop("HTTPValidationError", None)
        components["schemas"].pop("ValidationError", None)
        for path, item in found["paths"].items():
            for method, operation in item.items():
                _complete(path, method, operation)
        for item in found["webhooks"].values():
            for operation in item.values():
                operation["responses"].pop("422", None)
        app.openapi_schema = found
    return app.openapi_schema


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """Add the shared headers and problems to an operation of the API."""
    if operation["responses"].get("422", {}).get("description") == "Validation Error":
        del operation["responses"]["422"]
    if not path.startswith("/v1/"):
        for status in _AT_THE_GATE:
            operation["responses"].setdefault(str(status), {"$ref": f"#/components/responses/Problem{status}"})
        return
    open_to_all = bool(_CATALOGUE & set(operation.get("tags", [])))
    names = ("IfNoneMatch", "RequestId") if open_to_all else _OF_METHOD[method]
    operation.setdefault("parameters", []).extend({"$ref": f"#/components/parameters/{n}"} for n in names)
    _declare_successes(method, operation)
    statuses = (*_AT_THE_GATE, 404, 422) if open_to_all else (*_ALWAYS, *_STATUSES_OF_METHOD[method], *_statuses_of_feed(path))
    for status in sorted(statuses):
        operation["responses"].setdefault(str(status), {"$ref": f"#/components/responses/Problem{status}"})
    if method == "get":
        operation["responses"]["304"] = {"description": "The ETag still fits"}


def _statuses_of_feed(path: str) -> tuple[int, ...]:
    """Return what the routes that follow the feed may answer besides: a cursor that is gone, a client that is too old."""
    return (410, 426) if path.startswith("/v1/sync/") else (410,) if path == "/v1/events" or path.endswith("/resend") else ()


def _declare_successes(method: str, operation: dict[str, Any]) -> None:
    """Say that a repeated create answers 200 and a first PUT 201, and which headers come along."""
    answers = operation["responses"]
    made = answers.get("201") or answers.get("200")
    if made is None:
        return
    if method == "post":
        answers.setdefault("200", {**made, "description": "It was there already, with the same content"})
    if method == "put":
        answers.setdefault("201", {**made, "description": "Made by this first PUT"})
    for status in ("200", "201"):
        if status in answers:
            location = {"Location": _LOCATION} if (method, status) == ("post", "201") else {}
            replayed = {} if method == "get" else {"Idempotent-Replayed": _REPLAYED}
            answers[status] = {**answers[status], "headers": {"ETag": _ETAG, **location, **replayed}}


def _problem_answer(status: int) -> dict[str, Any]:
    """Describe the problems of one status, by name."""
    kinds = {name: kind for name, kind in every_problem().items() if status_of(kind()) == status}
    lines = [f"`/problems/{name}`: {(kind.__doc__ or '').strip().splitlines()[0]}" for name, kind in sorted(kinds.items())]
    return {"description": "\n\n".join(lines) or "A problem", "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
