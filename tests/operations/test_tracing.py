"""Traces behind their switch: a collector gets spans of requests and statements, and nothing about anybody in them."""

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app import tracing
from tests.conftest import Clock, Service, run_sql, settings_of
from tests.receiver import Receiver

TELLS_ALL = """CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE unique_violation USING MESSAGE = NEW.episode_id, DETAIL = NEW.partner_id; END $$"""
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def collector():
    running = Receiver(read=bytes)
    yield running
    running.shutdown()
    running.server_close()


def test_a_request_and_its_statements_are_spans_of_the_callers_trace_and_hold_nobodys_name(collector, fresh_database, tmp_path):
    service = Service(settings_of(fresh_database, tmp_path, traces=f"http://{collector.host}"), Clock()).start()
    with service.partner() as partner:
        episode = partner.add_episode()
        partner.send("GET", f"{episode.path}/phase", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
        partner.send("GET", "/v1/patients?external_ref=a-name", X_Request_Id=episode.patient_id)
        run_sql(fresh_database, TELLS_ALL, "CREATE TRIGGER tells BEFORE INSERT ON goal FOR EACH ROW EXECUTE FUNCTION tells()")
        assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}).status_code == 409
    service.stop()
    exports = [ExportTraceServiceRequest.FromString(body) for _, body in collector.got]
    spans = [s for export in exports for r in export.resource_spans for scope in r.scope_spans for s in scope.spans]
    mine = [s for s in spans if s.trace_id.hex() == TRACE]
    route = next(s for s in mine if s.name == "GET /v1/episodes/{episode_id}/phase")
    statements = [s for s in mine if s.parent_span_id == route.span_id]
    assert {s.name for s in statements} >= {"SELECT"}
    assert any(s.status.code == s.status.STATUS_CODE_ERROR for s in spans), "the statement that the database refused"
    text = "".join(str(s) for s in spans)
    for secret in (episode.id, episode.patient_id, partner.partner_id, "a-name", partner.token):
        assert secret not in text
    assert not tracing._state, "stopped with the service"


def test_while_it_is_off_nothing_is_imported_and_nothing_is_said():
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    code = "import sys; from app.main import create_app; from app.config import Settings; create_app(Settings()); print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
