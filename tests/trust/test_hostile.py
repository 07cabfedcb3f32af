"""Hostile input: bombs, slow clients, evil strings, injections. Each gets its own refusal, costs little, and changes nothing."""

import concurrent.futures
import gc
import gzip
import importlib
import json
import pkgutil
import re
import socket
import threading
import time
import zlib
from pathlib import Path

import httpx
import psutil
import pytest
import uvicorn

import app
from app import patience
from app.patience import PatientProtocol

DOCUMENT = json.loads((Path(__file__).resolve().parents[2] / "openapi" / "openapi.json").read_text(encoding="utf-8"))
MEGABYTE = 1_048_576


def post(partner, content, path="/v1/patients", **headers):
    extra = {"Authorization": f"Bearer {partner.token}", "Content-Type": "application/json"} | headers
    return partner.http.post(path, content=content, headers=extra)


BOMBS = {
    "deep list": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "unclosed": b"[" * 500_000,
    "many members": b"{" + b",".join(b'"k%d":0' % n for n in range(90_000)) + b"}",
    "million zeros": b"[" + b"0," * 400_000 + b"0]",
    "endless number": b'{"birth_year":' + b"1" * 900_000 + b"}",
    "endless fraction": b'{"birth_year":1.' + b"0" * 900_000 + b"1}",
    "endless exponent": b'{"birth_year":1e' + b"9" * 900_000 + b"}",
    "same key": b"{" + b",".join(b'"sex":"male"' for _ in range(50_000)) + b"}",
    "quotes": b'["' + b'\\"' * 450_000,
    "escapes": b'{"external_ref":"' + b"\\u0041" * 150_000 + b'"}',
    "combining": ('{"external_ref":"e' + "\u0301" * 100_000 + '"}').encode(),
    "nul": b'{"external_ref":"a\\u0000b"}',
    "surrogate": b'{"external_ref":"\\udc00"}',
    "overlong": b'{"external_ref":"\xc0\xaf"}',
    "utf-16": '{"sex":"male"}'.encode("utf-16"),
    "utf-7 bom": b"\x2b\x2f\x76\x38-{}",
    "NaN": b'{"birth_year":NaN}',
    "-0": b'{"birth_year":-0.0}',
    "int64": b'{"birth_year":9223372036854775808}',
    "int32": b'{"birth_year":2147483648}',
    "proto": b'{"__proto__":{"sex":"male"}}',
    "class": b'{"__class__":"x","constructor":{}}',
    "bidi": '{"external_ref":"\u202eabc"}'.encode(),
    "zero width": '{"external_ref":"a\u200bb\ufeff"}'.encode(),
    "trailing": b'{"sex":"male"} x',
    "brackets": b"[" * 40 + b" " * 900_000,
    "empty lists": b"[" + b"[]" * 400_000 + b"]",
    "two documents": b"{}{}",
    "comment": b'{"sex":"male"/* x */}',
    "single quotes": b"{'sex':'male'}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_json_bomb_is_a_problem_and_costs_little(partner, name, record_property):
    before = time.process_time()
    answer = post(partner, BOMBS[name])
    assert 400 <= answer.status_code < 500, (name, answer.status_code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 20_000, "a fault is told, not echoed"
    assert time.process_time() - before < 5, "seconds of it would stop every other request"
    assert partner.get("/v1/patients")["items"] == []
    record_property("tried", "1 JSON bomb")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip"])
def test_a_compressed_body_is_refused_before_it_is_inflated(partner, encoding):
    bomb = gzip.compress(b" " * 50 * MEGABYTE) if encoding != "deflate" else zlib.compress(b" " * 50 * MEGABYTE)
    before = psutil.Process().memory_info().rss
    answer = post(partner, bomb, **{"Content-Encoding": encoding})
    assert answer.status_code == 415
    assert psutil.Process().memory_info().rss - before < 30 * MEGABYTE


def raw(service, payload, *, wait=5.0):
    """Send bytes as they are; return what came back before the connection was closed or the time was over."""
    with socket.create_connection(("127.0.0.1", service.settings.port), timeout=wait) as connection:
        connection.sendall(payload)
        got = b""
        try:
            while chunk := connection.recv(65_536):
                got += chunk
                if b"\r\n\r\n" in got and b"HTTP/1.1 " in got[:9] and len(got) > 100:
                    break
        except TimeoutError:
            pass
    return got


@pytest.mark.parametrize(
    "payload",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/patients HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"POST /v1/patients HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\nx",
        b"POST /v1/patients HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"POST /v1/patients HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/patients HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET /v1/patients HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /v1/patients\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/patients HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n",
        b"GET /v1/patients HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /v1/patients HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"TRACE /v1/patients HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/patients?x=\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_malformed_http_is_refused_and_never_a_fault_of_ours(service, http, payload):
    got = raw(service, payload, wait=3.0)
    assert b" 500 " not in got[:20], got[:200]
    assert b" 200 " not in got[:20], got[:200]
    assert http.get("/health/live").status_code == 200


@pytest.fixture
def patient_server(service, monkeypatch):
    """A server with the protocol that the service runs with, and little patience."""
    monkeypatch.setattr(patience, "HEADER_SECONDS", 1.0)
    monkeypatch.setattr(patience, "BODY_SECONDS", 1.5)
    monkeypatch.setattr(patience, "READING_SECONDS", 1.5)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = uvicorn.Config(
        service.app, port=port, http=PatientProtocol, lifespan="off", log_level="critical", access_log=False, timeout_keep_alive=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    yield server
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def patient_port(patient_server):
    return patient_server.config.port


def dawdle(port, first, drip, *, for_seconds=8.0):
    """Send `first`, then `drip` again and again; return how long the connection lasted."""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.sendall(first)
        try:
            while time.monotonic() - begun < for_seconds:
                threading.Event().wait(0.2)
                slow.sendall(drip)
                slow.settimeout(0.05)
                try:
                    if slow.recv(4096) == b"":
                        break
                except TimeoutError:
                    continue
        except OSError:
            pass
    return time.monotonic() - begun


SLOW = {
    "nothing": (b"", b""),
    "headers": (b"GET /health/live HTTP/1.1\r\nHost: x\r\n", b"x: y\r\n"),
    "body": (b"POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 99\r\n\r\n", b"X"),
    "blank lines": (b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n"),
}


def test_slow_clients_are_closed_and_others_are_served(patient_port, http):
    """Two hundred connections that drip headers, a body, or nothing that means anything: closed in time, while an honest client is answered."""
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        running = [pool.submit(dawdle, patient_port, *list(SLOW.values())[n % len(SLOW)]) for n in range(200)]
        for _ in range(10):
            assert http.get(f"http://127.0.0.1:{patient_port}/health/live").status_code == 200
        lasted = [r.result() for r in running]
    assert max(lasted) < 7, "each was closed long before it gave up itself"


@pytest.mark.parametrize("drip", [b"a: b\r\n" * 2_000, b"a" * 16_000], ids=["many headers", "one endless line"])
@pytest.mark.parametrize("first", [b"GET /health/live HTTP/1.1\r\nHost: x\r\n", b"GET /"], ids=["in the headers", "in the address"])
def test_headers_without_end_are_refused_early(patient_port, http, first, drip):
    before, sent = psutil.Process().memory_info().rss, 0
    with socket.create_connection(("127.0.0.1", patient_port), timeout=5) as connection:
        try:
            connection.sendall(first)
            while sent < 40 * MEGABYTE:
                connection.sendall(drip)
                sent += len(drip)
        except OSError:
            pass
    assert sent < 8 * MEGABYTE, "closed after what the buffers hold"
    assert psutil.Process().memory_info().rss - before < 30 * MEGABYTE
    assert http.get(f"http://127.0.0.1:{patient_port}/health/live").status_code == 200


def test_who_does_not_read_the_answer_is_let_go(patient_server):
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.connect(("127.0.0.1", patient_server.config.port))
        greedy.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 60)
        begun = time.monotonic()
        seen = False
        while time.monotonic() - begun < 60:
            seen = seen or bool(patient_server.server_state.connections)
            if seen and not patient_server.server_state.connections:
                break
            threading.Event().wait(0.1)
        assert seen
        assert not patient_server.server_state.connections, "it was cut, though nothing was read"


def test_large_bodies_and_pipelined_requests_pass_all_the_same(patient_port):
    """Only routes without the database: this server has a loop of its own."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = httpx.post(f"http://127.0.0.1:{patient_port}/oauth/token", content=b"a" * 60_000, headers=form)
    assert answer.json()["error_description"].startswith("Send application/x-www-form-urlencoded of at most"), "the body came whole"
    assert httpx.post(f"http://127.0.0.1:{patient_port}/oauth/token", content=b"a" * 900_000, headers=form).status_code == 413, (
        "nobody has said who they are"
    )
    with socket.create_connection(("127.0.0.1", patient_port), timeout=5) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Filler: " + b"x" * 500 + b"\r\n\r\n")
        for _ in range(20):
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 40)
        got = b""
        while got.count(b"HTTP/1.1 200") < 801:
            chunk = connection.recv(65_536)
            assert chunk, got[-200:]
            got += chunk


def test_a_body_of_two_gigabytes_is_refused_after_the_first_megabyte(service, partner):
    head = f"POST /v1/patients HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {partner.token}\r\nContent-Type: application/json\r\n"
    assert b" 413 " in raw(service, f"{head}Content-Length: 2147483648\r\n\r\n".encode())[:20]
    gc.collect()
    before = psutil.Process().memory_info().rss
    sent = 0
    with socket.create_connection(("127.0.0.1", service.settings.port), timeout=5) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            while sent < 64 * MEGABYTE:
                connection.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
                sent += 65_536
        except OSError:
            pass  # closed, or no more is taken from us
    assert psutil.Process().memory_info().rss - before < 50 * MEGABYTE


# Evil strings

EVIL = [
    "a" * 200_000,
    "a" * 200_000 + "!",
    "-" * 100_000,
    "1" * 100_000 + ".",
    "aA1-" * 50_000,
    " " * 100_000 + "x",
    "\n" * 100_000,
    ('"' + "\\" * 3) * 50_000,
    '"' + '\\"' * 100_000,
    "%" * 100_000,
    "2026-01-01T00:00:00" * 10_000,
    "eyJ" * 60_000 + "." + "e" * 10,
]


def every_pattern():
    """Return every regular expression of the service: compiled ones of every module, and those of the contract."""
    found = {}
    for info in pkgutil.walk_packages(app.__path__, "app."):
        if info.name == "app.cli":
            continue
        for name, value in vars(importlib.import_module(info.name)).items():
            if isinstance(value, re.Pattern):
                found[f"{info.name}.{name}"] = value
    for pattern in set(re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(DOCUMENT))):
        found[f"contract {pattern}"] = re.compile(json.loads(pattern))
    return found


def test_no_regular_expression_can_be_made_to_run_away():
    patterns = every_pattern()
    assert len(patterns) > 12
    for name, pattern in patterns.items():
        for evil in EVIL:
            text = evil.encode() if isinstance(pattern.pattern, bytes) else evil
            begun = time.process_time()
            pattern.fullmatch(text)
            pattern.search(text[:20_000])
            assert time.process_time() - begun < 2, f"{name} against {evil[:20]!r}: what is linear takes milliseconds"


# Injections

INJECTIONS = [
    "' OR '1'='1",
    "'; DROP TABLE patient; --",
    "1; SELECT pg_sleep(10)",
    "\\'; --",
    "$1",
    "%s%s%s%n",
    "{{7*7}}",
    "${jndi:ldap://127.0.0.1/x}",
    "<script>alert(1)</script>",
    '=HYPERLINK("http://x")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "../../../../etc/passwd",
    "x\r\nSet-Cookie: a=b",
    "|| ping -c 10 127.0.0.1",
    "`id`",
    "app.partner_id",
    "\u2028\u2029",
]


def test_injections_have_no_effect_in_texts_filters_paths_and_headers(partner, other_partner, capfd):
    other_partner.add_patient(external_ref="theirs")
    episode = partner.add_episode()
    for evil in INJECTIONS:
        made = partner.send("POST", f"{episode.path}/goals", {"text": evil})
        if made.status_code == 201:
            assert partner.get(f"{episode.path}/goals/{made.json()['id']}")["text"] == evil, "kept as it was written"
        else:
            assert made.status_code == 422, evil
        listed = partner.http.get("/v1/patients", params={"external_ref": evil}, headers={"Authorization": f"Bearer {partner.token}"})
        assert listed.status_code in {200, 400, 422}
        assert listed.status_code != 200 or listed.json()["items"] == []
        for path in ("/v1/episodes/{}", "/v1/protocols/{}", "/v1/clients/{}/disablement"):
            method = "POST" if "clients" in path else "GET"
            url = path.format(re.sub(r"[\r\n]", "%0d%0a", evil).replace("/", "%2f").replace("?", "%3f").replace("#", "%23"))
            answer = partner.http.request(method, url, headers={"Authorization": f"Bearer {partner.token}"})
            assert answer.status_code in {400, 404, 422}, (url, answer.status_code)
            assert "set-cookie" not in answer.headers
        if evil.isascii() and evil.isprintable():
            answer = partner.send("GET", "/v1/patients", X_Request_Id=evil, Idempotency_Key=evil, If_None_Match=evil)
            assert answer.status_code == 200
            assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answer.headers["x-request-id"])
    assert [p["external_ref"] for p in other_partner.get("/v1/patients")["items"]] == ["theirs"]
    assert partner.get(f"{episode.path}/goals?limit=100")["items"]
    for line in capfd.readouterr().out.splitlines():
        assert not [e for e in INJECTIONS if e in line and len(e) > 4 and e != "app.partner_id"], "no input comes into the logs"


def test_emoji_right_to_left_and_twins_round_trip_exactly(partner):
    episode = partner.add_episode()
    for text in ("👨‍👩‍👧‍👦 family", "שלום עולם", "مرحبا", "Ångström", "ﬁ ligature", "ẛ̣".encode().decode(), "日本語\tテキスト\n二"):
        answer = partner.send("POST", f"{episode.path}/goals", {"text": text})
        if answer.status_code == 201:
            assert partner.get(f"{episode.path}/goals/{answer.json()['id']}")["text"] == text
        else:
            assert answer.status_code == 422


def test_numbers_and_dates_at_their_edges_are_exact_or_refused(partner):
    episode = partner.add_episode()
    for number in (0, -0.0, 1, 10, 11, -1, 2**31, 2**53 + 1, 2**63, -(2**63), 1e308, 0.1, 5e-324):
        answer = partner.send("POST", f"{episode.path}/problems", {"text": "x", "severity": number})
        assert answer.status_code == 201 if number in {0, 1, 10} and isinstance(number, int) else answer.status_code == 422, number
    for moment, status in (
        ("2024-02-29T12:00:00Z", 201),
        ("2025-02-29T12:00:00Z", 422),
        ("2016-12-31T23:59:60Z", 422),
        ("2026-03-29T02:30:00+01:00", 201),
        ("2026-01-01T00:00:00+24:00", 422),
        ("2026-01-01T00:00:00-00:00", 201),
        ("0000-01-01T00:00:00Z", 422),
        ("2026-01-01T24:00:00Z", 422),
    ):
        answer = partner.send("POST", f"{episode.path}/sessions", {"starts_at": moment})
        assert answer.status_code == status, (moment, answer.text)
