"""Traces behind their switch: a collector gets spans of requests and statements, and nothing about anybody in them."""

import http.server
import threading

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app import tracing
from tests.conftest import Clock, Service, settings_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def collector():
    """A receiver of OTLP over HTTP, as a collector is one."""
    got = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_and_its_statements_are_spans_of_the_callers_trace_and_hold_nobodys_name(collector, fresh_database, tmp_path):
    address, got = collector
    service = Service(settings_of(fresh_database, tmp_path, traces=address), Clock()).start()
    with service.partner() as partner:
        episode = partner.add_episode()
        partner.send("GET", f"{episode.path}/phase", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
        partner.send("GET", "/v1/patients?external_ref=a-name")
    service.stop()
    spans = [s for export in got for r in export.resource_spans for scope in r.scope_spans for s in scope.spans]
    mine = [s for s in spans if s.trace_id.hex() == TRACE]
    route = next(s for s in mine if s.name == "GET /v1/episodes/{episode_id}/phase")
    statements = [s for s in mine if s.parent_span_id == route.span_id]
    assert {s.name for s in statements} >= {"SELECT"}
    text = "".join(str(s) for s in spans)
    for secret in (episode.id, episode.patient_id, partner.partner_id, "a-name", partner.token):
        assert secret not in text
    assert not tracing._state, "stopped with the service"


def test_while_it_is_off_nothing_is_imported_and_nothing_is_said():
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    code = "import sys; from app.main import create_app; from app.config import Settings; create_app(Settings()); print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
