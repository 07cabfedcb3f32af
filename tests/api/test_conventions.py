"""The conventions of the API: retries, versions, cursors, limits, text, problems."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from uuid_utils.compat import uuid7

from app.store.tables.door import idempotency_key
from tests.driver import PHQ9, now


@pytest.fixture
def episode(partner):
    return partner.add_episode()


# Idempotency


def test_a_repeated_post_gets_the_first_answers_bytes_and_has_one_effect(partner, episode):
    key, body = str(uuid4()), {"label": "M.", "relation_type": "friend"}
    first = partner.send("POST", f"{episode.path}/relationships", body, Idempotency_Key=key)
    again = partner.send("POST", f"{episode.path}/relationships", body, Idempotency_Key=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert again.headers["idempotent-replayed"] == "true"
    assert (first.headers["etag"], first.headers["location"]) == (again.headers["etag"], again.headers["location"])
    assert len(partner.get(f"{episode.path}/relationships")["items"]) == 1


def test_the_same_key_with_another_body_is_a_422_and_another_path_is_another_key(partner, episode):
    key = str(uuid4())
    partner.post(f"{episode.path}/goals", {"text": "a"}, Idempotency_Key=key)
    other = partner.send("POST", f"{episode.path}/goals", {"text": "b"}, Idempotency_Key=key)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/key-reused")
    assert partner.send("POST", f"{episode.path}/problems", {"text": "b"}, Idempotency_Key=key).status_code == 201


def test_a_hundred_parallel_posts_with_one_key_have_one_effect(partner, episode):
    key = str(uuid4())

    def send(_):
        answer = partner.send("POST", f"{episode.path}/goals", {"text": "once"}, Idempotency_Key=key)
        return answer.status_code, answer.content if answer.status_code == 201 else answer.headers["retry-after"]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(send, range(100)))
    assert {s for s, _ in answers} <= {201, 409}
    assert len({c for s, c in answers if s == 201}) == 1
    assert len(partner.get(f"{episode.path}/goals")["items"]) == 1


def test_a_key_is_the_partners_the_clients_and_the_persons_own(partner, other_partner, episode):
    key, body = str(uuid4()), {"external_ref": "r"}
    mine = partner.post("/v1/patients", body, Idempotency_Key=key)
    theirs = other_partner.post("/v1/patients", body, Idempotency_Key=key)
    assert mine["id"] != theirs["id"]
    as_client = partner.post(f"{episode.path}/goals", {"text": "g"}, Idempotency_Key=key)
    as_person = partner.post(f"{episode.path}/goals", {"text": "g"}, Idempotency_Key=key, token=episode.token)
    assert as_client["id"] != as_person["id"]


def test_a_refused_request_keeps_no_key(partner, episode):
    key = str(uuid4())
    assert partner.send("POST", f"{episode.path}/goals", {"text": ""}, Idempotency_Key=key).status_code == 422
    assert partner.send("POST", f"{episode.path}/goals", {"text": "good"}, Idempotency_Key=key).status_code == 201


def test_a_patch_with_a_key_is_replayed_before_its_precondition_is_looked_at(partner, episode):
    key = str(uuid4())
    first = partner.send("PATCH", episode.path, {"lifetime_episodes": 2}, If_Match='"1.1"', Idempotency_Key=key)
    again = partner.send("PATCH", episode.path, {"lifetime_episodes": 2}, If_Match='"1.1"', Idempotency_Key=key)
    assert first.content == again.content
    assert again.json()["version"] == 2


def test_a_kept_answer_is_shown_inside_the_caseload_only(partner, episode):
    cover, key = partner.clinician_token(episode.cover), str(uuid4())
    assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}, token=cover, Idempotency_Key=key).status_code == 201
    member = next(m for m in partner.get(f"{episode.path}/care-team")["items"] if m["role"] == "cover")
    partner.send("DELETE", f"{episode.path}/care-team/{member['id']}", If_Match='"1.1"')
    assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}, token=cover, Idempotency_Key=key).status_code == 404


def test_a_kept_clinical_answer_is_sealed(partner, episode, on_database):
    partner.post(f"{episode.path}/goals", {"text": "planted-plaintext"}, Idempotency_Key="sealed-one")

    async def job(database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            return await connection.rows(sa.select(idempotency_key))

    rows = on_database(job)
    assert rows
    assert all(b"planted" not in r["answer"] for r in rows)
    assert any(str(r["patient_id"]) == episode.patient_id for r in rows)


@pytest.mark.parametrize("key", ["x" * 256, "with space"])
def test_a_key_out_of_shape_is_a_400(partner, episode, key):
    assert partner.send("POST", f"{episode.path}/goals", {"text": "x"}, Idempotency_Key=key).status_code == 400


# Versions


def test_versions_move_etags_and_a_stale_one_changes_nothing(partner, episode):
    first = partner.send("GET", episode.path)
    assert first.headers["etag"] == '"1.1"'
    assert partner.send("GET", episode.path, If_None_Match=first.headers["etag"]).status_code == 304
    changed = partner.send("PATCH", episode.path, {"lifetime_episodes": 2}, If_Match=first.headers["etag"])
    assert changed.headers["etag"] == '"2.1"'
    stale = partner.send("PATCH", episode.path, {"lifetime_episodes": 3}, If_Match=first.headers["etag"])
    assert (stale.status_code, stale.json()["type"]) == (412, "/problems/version-stale")
    assert partner.get(episode.path)["lifetime_episodes"] == 2
    assert partner.send("GET", episode.path, If_None_Match=first.headers["etag"]).status_code == 200


def test_of_many_writers_with_one_etag_one_wins(partner, episode):
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda n: partner.send("PATCH", episode.path, {"lifetime_episodes": n + 1}, If_Match='"1.1"').status_code, range(8)))
    assert sorted(statuses) == [200] + [412] * 7


def test_a_first_put_says_that_nothing_is_there_and_a_second_what_it_saw(partner, episode):
    path, body = f"{episode.path}/formulation", {"text": "x", "areas": ["grief"]}
    assert partner.send("PUT", path, body).status_code == 428
    assert partner.send("PUT", path, body, If_Match='"1.1"').status_code == 412
    first = partner.send("PUT", path, body, If_None_Match="*")
    assert (first.status_code, first.headers["etag"]) == (201, '"1.1"')
    assert partner.send("PUT", path, body, If_None_Match="*").status_code == 412
    assert partner.send("PUT", path, body, If_Match='"1.1"').headers["etag"] == '"2.1"'


def test_eight_first_puts_make_one(partner, episode):
    path, body = f"{episode.path}/formulation", {"text": "x", "areas": ["grief"]}
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: partner.send("PUT", path, body, If_None_Match="*").status_code, range(8)))
    assert sorted(statuses) == [201] + [412] * 7


def test_computed_reads_have_an_etag_of_their_body(partner, episode):
    for view in ("phase", "inventory", "timeline", "trajectory"):
        first = partner.send("GET", f"{episode.path}/{view}")
        assert partner.send("GET", f"{episode.path}/{view}", If_None_Match=first.headers["etag"]).status_code == 304
    before = partner.send("GET", f"{episode.path}/inventory").headers["etag"]
    episode.add_relationship()
    assert partner.send("GET", f"{episode.path}/inventory", If_None_Match=before).status_code == 200


# Ids made by clients


def test_a_create_with_a_known_id_and_the_same_content_returns_the_row_and_with_other_content_is_a_409(partner, episode):
    made = str(uuid7())
    creates = [
        ("/v1/patients", {"birth_year": 1970}, {"birth_year": 1971}),
        (f"{episode.path}/relationships", {"label": "M.", "relation_type": "friend"}, {"label": "N.", "relation_type": "friend"}),
        (
            f"{episode.path}/sessions",
            {"starts_at": now(days=3), "status": "held", "minutes": 50},
            {"starts_at": now(days=2), "status": "held", "minutes": 50},
        ),
        (
            f"{episode.path}/assessments",
            {"instrument": "PHQ-9", "answers": PHQ9, "answered_at": now(days=3)},
            {"instrument": "GAD-7", "answers": {"1": 1}, "answered_at": now(days=3)},
        ),
    ]
    for path, same, other in creates:
        first = partner.send("POST", path, {"id": made, **same})
        again = partner.send("POST", path, {"id": made, **same})
        assert (first.status_code, again.status_code) == (201, 200), again.text
        assert again.json()["id"] == made
        clash = partner.send("POST", path, {"id": made, **other})
        assert (clash.status_code, clash.json()["type"]) == (409, "/problems/id-taken"), path


def test_a_deleted_id_does_not_come_back(partner, episode):
    made, body = str(uuid7()), {"label": "M.", "relation_type": "friend"}
    partner.post(f"{episode.path}/relationships", {"id": made, **body})
    partner.send("DELETE", f"{episode.path}/relationships/{made}", If_Match='"1.1"')
    assert partner.send("POST", f"{episode.path}/relationships", {"id": made, **body}).json()["type"] == "/problems/id-taken"


def test_an_episode_repeated_with_another_protocol_or_team_is_a_409(partner):
    made, patient, lead, cover = str(uuid7()), partner.add_patient()["id"], partner.add_clinician()["id"], partner.add_clinician()["id"]
    body = {
        "id": made,
        "patient_id": patient,
        "protocol": "IPT-16",
        "referred_on": "2026-01-01",
        "lead_clinician_id": lead,
        "cover_clinician_id": cover,
    }
    assert partner.send("POST", "/v1/episodes", body).status_code == 201
    assert partner.send("POST", "/v1/episodes", body).status_code == 200
    for other in ({"protocol": "IPT-12"}, {"lead_clinician_id": partner.add_clinician()["id"]}):
        assert partner.send("POST", "/v1/episodes", body | other).status_code == 409


def test_another_partners_id_can_be_used_without_a_sign_of_it(partner, other_partner):
    made = str(uuid7())
    assert partner.send("POST", "/v1/patients", {"id": made}).status_code == 201
    assert other_partner.send("POST", "/v1/patients", {"id": made}).status_code == 201


def test_an_external_ref_is_unique_per_partner_and_found_by_it(partner, other_partner):
    mine = partner.add_patient(external_ref="emr-1")
    other_partner.add_patient(external_ref="emr-1")
    taken = partner.send("POST", "/v1/patients", {"external_ref": "emr-1"})
    assert (taken.status_code, taken.json()["type"]) == (409, "/problems/reference-taken")
    found = partner.get("/v1/patients?external_ref=emr-1")["items"]
    assert [p["id"] for p in found] == [mine["id"]]
    second = partner.add_patient(external_ref="emr-2")
    assert partner.send("PATCH", f"/v1/patients/{second['id']}", {"external_ref": "emr-1"}, If_Match='"1.1"').status_code == 409


# Lists


def test_pages_hold_every_row_once_also_when_rows_are_added_meanwhile(partner):
    made = [partner.add_patient()["id"] for _ in range(7)]
    seen, cursor = [], None
    while True:
        page = partner.get(f"/v1/patients?limit=3{f'&cursor={cursor}' if cursor else ''}")
        seen += [p["id"] for p in page["items"]]
        partner.add_patient()
        cursor = page["next"]
        if cursor is None or len(seen) > 20:
            break
    assert seen[:7] == made
    assert len(seen) == len(set(seen))


def test_a_cursor_is_bound_to_its_partner_its_list_and_its_filters(partner, other_partner, episode):
    for _ in range(3):
        partner.add_patient()
        other_partner.add_patient()
    cursor = partner.get("/v1/patients?limit=1")["next"]
    for answer in (
        other_partner.send("GET", f"/v1/patients?limit=1&cursor={cursor}"),
        partner.send("GET", f"/v1/clinicians?limit=1&cursor={cursor}"),
        partner.send("GET", f"/v1/patients?limit=1&external_ref=x&cursor={cursor}"),
        partner.send("GET", f"/v1/patients?cursor={cursor[:-2]}AA"),
        partner.send("GET", "/v1/patients?cursor=x"),
        partner.send("GET", f"/v1/patients?limit=1&cursor={cursor}%3D%3D"),
        partner.send("GET", f"/v1/patients?limit=1&cursor={cursor}!!"),
        partner.send("GET", "/v1/patients?cursor=" + "é"),
    ):
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed")


def test_alerts_come_in_the_order_of_their_opening_over_pages(partner):
    for answers in ({"9": 1}, {"9": 3}, {"9": 2}):
        partner.add_episode().assess({**PHQ9, **answers}, days=0)
    levels, cursor = [], ""
    for _ in range(3):
        page = partner.get(f"/v1/risk-alerts?limit=1{cursor}")
        levels += [a["level"] for a in page["items"]]
        cursor = f"&cursor={page['next']}"
    assert levels == ["review", "urgent", "urgent"]


# Limits and input


def raw(partner, content, path="/v1/patients", method="POST", **headers):
    extra = {"Authorization": f"Bearer {partner.token}", "Content-Type": "application/json"} | headers
    return partner.http.request(method, path, content=content, headers=extra)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"nonsense", 400),
        (b'{"birth_year": NaN}', 400),
        (b'{"birth_year": Infinity}', 400),
        (b'{"birth_year": 1e999}', 422),
        (b'{"birth_year": ' + b"9" * 5000 + b"}", 400),
        (b'{"birth_year": 18446744073709551616}', 422),
        (b'{"birth_year": 1980.0}', 422),
        (b'{"birth_year": "1980"}', 422),
        (b'{"birth_year": true}', 422),
        (b'{"birth_year": 1980, "birth_year": 1981}', 400),
        (b"[" * 5000 + b"]" * 5000, 400),
        (b"[" + b"0," * 20_001 + b"0]", 400),
        (b'{"a":' * 40 + b"1" + b"}" * 40, 400),
        (b'{"external_ref": "\\u0000"}', 422),
        (b'{"external_ref": "\\ud800"}', 400),
        (b'{"external_ref": "\xff"}', 400),
        (b'{"external_ref": "e\xcc\x81"}', 422),
        (b'{"external_ref": "' + b"x" * 129 + b'"}', 422),
        (b'{"external_ref": ""}', 422),
        (b'{"time_zone": "Mars/Base"}', 422),
        (b'{"time_zone": "../../etc/passwd"}', 422),
        (b'{"locale": "english"}', 422),
        (b'{"id": "00000000-0000-0000-0000-000000000000"}', 422),
        (b'{"id": 7}', 422),
        (b"[]", 422),
        (b'"x"', 422),
        (b"null", 422),
        (b"\xef\xbb\xbf{}", 400),
        (b" " * 1_048_577, 413),
    ],
)
def test_a_body_that_breaks_a_rule_is_a_problem_and_changes_nothing(partner, content, status):
    answer = raw(partner, content)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert partner.get("/v1/patients")["items"] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("referred_on", v)
        for v in ("2026-02-30", "0000-01-01", "1899-12-31", "2101-01-01", "10000-01-01", "infinity", "2026-01-01T00:00:00Z", 20260101, True, None)
    ]
    + [("age_at_referral", v) for v in (4, 121, -1, 40.0, "40")]
    + [("contraindications", v) for v in (["sadness"], "none", ["psychosis"] * 21)]
    + [("protocol", "IPT-99"), ("format", "telepathy"), ("patient_id", "x")],
)
def test_an_episode_out_of_rule_is_a_422_that_says_where(partner, field, value):
    lead = partner.add_clinician()
    body = {
        "patient_id": partner.add_patient()["id"],
        "protocol": "IPT-12",
        "referred_on": "2026-01-01",
        "lead_clinician_id": lead["id"],
        field: value,
    }
    answer = partner.send("POST", "/v1/episodes", body)
    assert answer.status_code == 422, answer.text
    assert any(e["pointer"].startswith(f"/{field}") for e in answer.json()["errors"])


@pytest.mark.parametrize(
    "at",
    [
        "2026-01-01T09:00:00",
        "yesterday",
        1767258000,
        "2026-01-01",
        "2026-13-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
        "2026-01-01T25:00:00Z",
        None,
    ],
)
def test_a_moment_without_zone_or_sense_is_a_422(partner, episode, at):
    answer = partner.send("POST", f"{episode.path}/sessions", {"starts_at": at, "status": "held", "minutes": 50})
    assert answer.status_code == 422, answer.text


def test_a_body_where_none_is_taken_is_read_all_the_same(partner, episode):
    path = f"{episode.path}/classification"
    assert raw(partner, b"{{{", path).status_code == 400
    assert raw(partner, b'{"a": 1}', path).status_code == 400
    assert raw(partner, b"{}", path).json()["type"] == "/problems/indicators-missing"


def test_a_body_of_quotes_is_refused_at_once(partner):
    body = b"[" * 33 + b'"' + b'\\"' * 300_000
    started = time.process_time()
    assert raw(partner, body).status_code == 400
    assert time.process_time() - started < 5  # it took hours while the check was quadratic


def test_lines_are_one_line(partner):
    for wrong in ("a\nb", "a\tb", " a", "a\u0085b", " "):
        assert partner.send("POST", "/v1/patients", {"external_ref": wrong}).status_code == 422
    for zone in ("localtime", "right/Europe/Madrid", "Factory"):
        assert partner.send("POST", "/v1/patients", {"time_zone": zone}).status_code == 422


def test_every_bound_of_the_shapes_is_a_bound_of_the_database(partner, episode):
    for low, high in ((1, 200),):
        for value in (low, high):
            etag = partner.send("GET", episode.path).headers["etag"]
            assert partner.send("PATCH", episode.path, {"lifetime_episodes": value}, If_Match=etag).status_code == 200
    for minutes in (1, 600):
        body = {"sessions": 12, "minutes": minutes, "starts_on": "2026-01-01", "ends_on": "2100-12-31"}
        seen = partner.send("GET", f"{episode.path}/contract")
        options = {"If_Match": seen.headers["etag"]} if seen.is_success else {"If_None_Match": "*"}
        assert partner.send("PUT", f"{episode.path}/contract", body, **options).status_code in {200, 201}
    assert partner.send("POST", f"{episode.path}/follow-ups", {"months": 12}).status_code == 422


def test_text_round_trips_as_given(partner, episode):
    text = "Ärger 🙂 \u200fשלום\u200e e\u0332 \n\t 👨‍👩‍👧 日本"
    made = partner.post(f"{episode.path}/goals", {"text": text})
    assert partner.get(f"{episode.path}/goals/{made['id']}")["text"] == text


def test_bodies_need_a_json_media_type_and_no_encoding(partner):
    assert raw(partner, b"{}", **{"Content-Type": "text/plain"}).status_code == 415
    assert raw(partner, b"{}", **{"Content-Type": "application/x-www-form-urlencoded"}).status_code == 415
    assert raw(partner, b"{}", **{"Content-Encoding": "gzip"}).status_code == 415
    assert raw(partner, b"{}", **{"Content-Type": "application/json; charset=utf-8"}).status_code == 201


def test_addresses_and_headers_have_their_limits(partner):
    assert partner.send("GET", "/v1/patients?external_ref=" + "x" * 9000).status_code == 414
    assert partner.send("GET", "/v1/patients?" + "&".join(f"a{n}=1" for n in range(101))).status_code == 400
    assert partner.send("GET", "/v1/patients?external_ref=%00").status_code == 400
    assert partner.send("GET", "/v1/patients/%00").status_code == 400
    assert partner.send("GET", "/v1/patients/%ff").status_code in {400, 422}
    assert partner.send("GET", "/v1/patients", X_Filler="x" * 17_000).status_code == 431


def test_a_chunked_body_is_counted_as_it_arrives(partner):
    def endless():
        for _ in range(64):
            yield b" " * 32_768

    headers = {"Authorization": f"Bearer {partner.token}", "Content-Type": "application/json"}
    try:
        answer = partner.http.post("/v1/patients", content=endless(), headers=headers)
    except httpx.TransportError:
        return  # the server may close while we are still sending
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=201", 422),
        ("limit=x", 422),
        ("limit=-1", 422),
        ("limit=" + "9" * 400, 422),
        ("status=weird", 422),
        ("surprise=1", 422),
        ("limit=1&limit=2", 422),
        ("patient_id=x", 422),
        ("referred_from=1-1-1", 422),
    ],
)
def test_a_query_out_of_rule_is_a_422_that_names_the_parameter(partner, query, status):
    answer = partner.send("GET", f"/v1/episodes?{query}")
    assert answer.status_code == status
    assert answer.json()["errors"][0]["parameter"] == query.partition("=")[0]


def test_an_unknown_route_and_method_are_problems(partner):
    assert partner.send("GET", "/v1/nonsense").json()["type"] == "/problems/not-found"
    wrong = partner.send("DELETE", "/v1/patients")
    assert (wrong.status_code, wrong.json()["type"]) == (405, "/problems/method-not-allowed")
    assert "POST" in wrong.headers["allow"] or "GET" in wrong.headers["allow"]


def test_request_ids_come_back_and_odd_ones_are_replaced(partner):
    answer = partner.send("GET", f"/v1/patients/{uuid4()}", X_Request_Id="abc-1")
    assert answer.headers["x-request-id"] == "abc-1" == answer.json()["instance"]
    odd = partner.send("GET", "/v1/patients", X_Request_Id="a b\tc")
    assert UUID(odd.headers["x-request-id"])


def test_rates_are_told_and_held(fresh_database, tmp_path):
    from tests.conftest import Clock, Service, settings_of  # noqa: PLC0415

    settings = settings_of(fresh_database, tmp_path).model_copy(update={"requests_per_second": 10, "processes": 2})
    service = Service(settings, Clock()).start()
    try:
        with service.partner() as partner, service.partner() as other:
            answers = [partner.send("GET", "/v1/patients") for _ in range(9)]
            assert answers[0].headers["ratelimit-policy"] == '"default";q=5;w=1'
            assert answers[0].headers["ratelimit"].startswith('"default";r=4')
            refused = next(a for a in answers if a.status_code == 429)
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["type"] == "/problems/too-many-requests"
            assert other.send("GET", "/v1/patients").status_code == 200
            time.sleep(1.1)
            assert partner.send("GET", "/v1/patients").status_code == 200
    finally:
        service.stop()


def test_logs_and_metrics_hold_no_ids_no_content_and_no_tokens(partner, episode, http, capfd):
    from app.main import configure_logs  # noqa: PLC0415

    configure_logs("info")
    partner.post(f"{episode.path}/goals", {"text": "planted-plaintext"})
    partner.send("GET", f"{episode.path}/goals?limit=abc")
    time.sleep(0.1)
    configure_logs("error")
    out = capfd.readouterr().out
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert any(line.get("route") == "/v1/episodes/{episode_id}/goals" and line["status"] == 201 for line in lines)
    metrics = http.get("/metrics").text
    for text in (out, metrics):
        for planted in ("planted-plaintext", episode.id, episode.patient_id, partner.token, partner.secret):
            assert planted not in text
    assert 'ipt_requests_total{method="POST",route="/v1/episodes/{episode_id}/goals",status="201"}' in metrics
    assert partner.partner_id not in metrics


def test_docs_work_without_internet(http):
    page = http.get("/docs").text
    assert "https://" not in page
    for asset in ("/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css", "/openapi.json"):
        assert asset in page
        assert http.get(asset).status_code == 200


def test_answers_carry_security_headers(http):
    headers = http.get("/health/live").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "server" not in headers or headers["server"] == "uvicorn"


def test_the_catalogue_is_open_and_cacheable(http):
    first = http.get("/v1/protocols")
    assert {p["code"] for p in first.json()["items"]} >= {"IPT-16", "IPT-12", "IPC"}
    assert "max-age" in first.headers["cache-control"]
    assert http.get("/v1/protocols", headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    assert http.get("/v1/protocols/IPT-99").status_code == 404
    assert len(http.get("/v1/instruments/PHQ-9").json()["items"]) == 9
    assert http.get("/v1/problem-areas").json()["ruleset"] == "1.0"
    assert all(t["definition"] for t in http.get("/v1/techniques").json()["items"])
