"""Traces, behind a switch (IPT_TRACES): spans of requests and of their statements, sent by OpenTelemetry.

A span says which route or kind of statement, how it ended and how long it took. It holds no id of a person, no body, no parameter, no query.
While the switch is off nothing of OpenTelemetry is imported.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

SERVICE = "ipt-backend"
_state: dict[str, Any] = {}
_SILENT = {"record_exception": False, "set_status_on_exception": False}  # PostgreSQL's messages name the values of rows
_NOTHING: AbstractContextManager[Any] = nullcontext()


def start(endpoint: str) -> None:
    """Send traces to a collector's OTLP address (`http://host:4318`) from now on."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - only behind the switch
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)))
    _state.update(provider=provider, tracer=provider.get_tracer(SERVICE))


def stop() -> None:
    """Send what is waiting, and stop."""
    provider = _state.pop("provider", None)
    _state.pop("tracer", None)
    if provider is not None:
        provider.shutdown()


def request(headers: Mapping[bytes, bytes], method: str) -> AbstractContextManager[Any]:
    """Span a request; a `traceparent` of the caller's is taken up."""
    return _request(headers, method) if _state else _NOTHING


def statement(text: str) -> AbstractContextManager[Any]:
    """Span a statement, by its first word."""
    return _statement(text) if _state else _NOTHING


@contextmanager
def _request(headers: Mapping[bytes, bytes], method: str) -> Iterator[Any]:
    from opentelemetry.trace import SpanKind  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    carried = {"traceparent": headers.get(b"traceparent", b"").decode("latin-1")}
    context = TraceContextTextMapPropagator().extract(carried)
    with _state["tracer"].start_as_current_span(method, context=context, kind=SpanKind.SERVER, **_SILENT) as span:
        yield span


@contextmanager
def _statement(text: str) -> Iterator[Any]:
    from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415

    word = text.split(None, 1)[0].rstrip(";").upper()
    attributes = {"db.system.name": "postgresql", "db.operation.name": word}
    with _state["tracer"].start_as_current_span(word, kind=SpanKind.CLIENT, attributes=attributes, **_SILENT) as span:
        try:
            yield span
        except BaseException:
            span.set_status(StatusCode.ERROR)
            raise


def answered(span: Any, method: str, route: str, status: int) -> None:
    """Note how a request ended."""
    if span is None:
        return
    span.update_name(f"{method} {route}")
    span.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
    if status >= 500:  # noqa: PLR2004
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        span.set_status(StatusCode.ERROR)
