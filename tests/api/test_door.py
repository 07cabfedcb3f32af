"""The partner's door over HTTP."""

import asyncio
import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from jose import jws

from app.actions.operators import register_client_key, rotate_signing_key, turn_client_off
from app.keys.tokens import new_signing_key
from app.launch import owner_of
from app.store.tables.door import security_event
from tests.driver import CLINICIAN, EXCHANGE

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def as_owner(service, job):
    async def done():
        owner = owner_of(service.settings)
        try:
            return await job(owner)
        finally:
            await owner.close()

    return asyncio.run(done())


def test_client_secret_basic_gets_a_token_of_ten_minutes(partner):
    answer = partner.ask_token(grant_type="client_credentials", scope="patients:read episodes:read")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 600, "episodes:read patients:read")
    header = json.loads(base64.urlsafe_b64decode(body["access_token"].split(".")[0] + "=="))
    assert (header["typ"], header["alg"]) == ("at+jwt", "ES256")
    assert header["kid"] in {k["kid"] for k in partner.http.get("/.well-known/jwks.json").json()["keys"]}


@pytest.fixture
def asserting(partner, service):
    key = new_signing_key(datetime.now(UTC))
    kid = as_owner(service, lambda db: register_client_key(db, partner.client_id, dict(key.public_jwk), datetime.now(UTC)))

    def ask(**claims):
        now = int(time.time())
        body = {
            "iss": partner.client_id,
            "sub": partner.client_id,
            "aud": service.settings.issuer,
            "jti": str(uuid4()),
            "iat": now,
            "exp": now + 60,
            **claims,
        }
        token = jws.sign(body, key.private_pem, headers={"kid": kid}, algorithm="ES256")
        form = {"grant_type": "client_credentials", "client_assertion_type": ASSERTION, "client_assertion": token}
        return lambda: partner.http.post("/oauth/token", data=form)

    return ask


def test_private_key_jwt_gets_a_token(asserting):
    assert asserting()().status_code == 200


@pytest.mark.parametrize("claims", [{"aud": "https://other.example"}, {"exp": int(time.time()) + 3600}, {"iss": "x"}, {"sub": "x"}])
def test_an_assertion_out_of_rule_is_refused(asserting, claims):
    assert asserting(**claims)().status_code == 401


def test_an_assertion_works_once_even_in_fifty_parallel_uses(asserting):
    use = asserting()
    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(lambda _: use().status_code, range(50)))
    assert sorted(statuses) == [200] + [401] * 49


def test_unknown_client_wrong_secret_and_disabled_client_look_alike(partner, service, http):
    known = http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(partner.client_id, "wrong"))
    unknown = http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(f"{partner.partner_id}.nobody", "wrong"))
    nowhere = http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(f"{uuid4()}.backend", "wrong"))
    odd = http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=("x", "y"))
    none = http.post("/oauth/token", data={"grant_type": "client_credentials"})
    as_owner(service, lambda db: turn_client_off(db, partner.client_id, datetime.now(UTC)))
    disabled = http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(partner.client_id, partner.secret))
    answers = [known, unknown, nowhere, odd, none, disabled]
    assert {a.status_code for a in answers} == {401}
    assert len({a.content for a in answers}) == 1
    assert {a.headers["www-authenticate"] for a in answers} == {'Basic realm="token"'}


def test_a_disabled_clients_token_is_refused_within_five_seconds(partner, service):
    partner.get("/v1/patients")
    as_owner(service, lambda db: turn_client_off(db, partner.client_id, datetime.now(UTC)))
    deadline = time.monotonic() + 5
    while partner.send("GET", "/v1/patients").status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert partner.send("GET", "/v1/patients").status_code == 401


def test_a_revoked_token_is_refused_and_its_sister_is_not(partner):
    sister = partner.new_token(grant_type="client_credentials")["access_token"]
    answer = partner.http.post("/oauth/revoke", data={"token": partner.token}, auth=(partner.client_id, partner.secret))
    assert answer.status_code == 200
    deadline = time.monotonic() + 5
    while partner.send("GET", "/v1/patients").status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert partner.send("GET", "/v1/patients", token=sister).status_code == 200
    assert partner.http.post("/oauth/revoke", data={"token": "junk"}, auth=(partner.client_id, partner.secret)).status_code == 200
    assert partner.http.post("/oauth/revoke", data={"token": "junk"}, auth=(partner.client_id, "wrong")).status_code == 401


def test_a_token_for_a_clinician_is_exchanged_and_never_wider_than_the_client(partner, service):
    clinician = partner.add_clinician()
    body = partner.new_token(grant_type=EXCHANGE, subject_token=clinician["id"], subject_token_type=CLINICIAN)
    scopes = set(body["scope"].split())
    assert "risk:write" in scopes
    assert not scopes & {"token:exchange", "clients:write", "outcomes:read", "import", "audit:read"}
    with service.partner(scopes=["patients:read", "patients:write", "token:exchange"]) as small:
        mine = small.add_clinician()
        assert small.new_token(grant_type=EXCHANGE, subject_token=mine["id"], subject_token_type=CLINICIAN)["scope"] == "patients:read patients:write"
        wide = small.ask_token(grant_type=EXCHANGE, subject_token=mine["id"], subject_token_type=CLINICIAN, scope="risk:write")
        assert (wide.status_code, wide.json()["error"]) == (400, "invalid_scope")
    with service.partner(scopes=["patients:read"]) as bare:
        refused = bare.ask_token(grant_type=EXCHANGE, subject_token=str(uuid4()), subject_token_type=CLINICIAN)
        assert refused.json()["error"] == "unauthorized_client"


def test_no_token_acts_for_another_partners_clinician_or_one_who_left(partner, other_partner):
    foreign = other_partner.add_clinician()
    gone = partner.add_clinician()
    partner.patch(f"/v1/clinicians/{gone['id']}", {"active": False}, '"1.1"')
    answers = [
        partner.ask_token(grant_type=EXCHANGE, subject_token=s, subject_token_type=CLINICIAN)
        for s in (foreign["id"], gone["id"], str(uuid4()), "x", "")
    ]
    assert {a.status_code for a in answers} == {400}
    assert len({a.content for a in answers}) == 1


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"scope": ""}, "unsupported_grant_type"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials", "scope": "patients:read root"}, "invalid_scope"),
        ({"grant_type": EXCHANGE, "subject_token": "x", "subject_token_type": "urn:other"}, "invalid_request"),
    ],
)
def test_a_grant_out_of_rule_is_an_oauth_error(partner, form, error):
    answer = partner.ask_token(**form)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"grant_type=client_credentials&grant_type=password", "application/x-www-form-urlencoded"),
        (b'{"grant_type": "client_credentials"}', "application/json"),
        (b"grant_type=%ff%fe", "application/x-www-form-urlencoded"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b"a=b&" * 3000, "application/x-www-form-urlencoded"),
        (b"x" * 20_000, "application/x-www-form-urlencoded"),
    ],
)
def test_a_form_that_cannot_be_read_is_a_400(partner, content, kind):
    answer = partner.http.post("/oauth/token", content=content, headers={"Content-Type": kind}, auth=(partner.client_id, partner.secret))
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "value",
    [
        "Basic",
        "Basic !!!",
        "Basic AAAA",
        "Basic " + base64.b64encode(b"a\x00b:c").decode(),
        "Basic " + base64.b64encode(b"\xff:c").decode(),
        "Digest x",
        "Bearer x",
    ],
)
def test_an_odd_authorization_at_the_token_endpoint_is_a_401(http, value):
    assert http.post("/oauth/token", data={"grant_type": "client_credentials"}, headers={"Authorization": value}).status_code == 401


def test_one_request_authenticates_in_one_way(partner):
    answer = partner.ask_token(grant_type="client_credentials", client_assertion="x", client_assertion_type=ASSERTION)
    assert answer.json()["error"] == "invalid_request"


def test_the_metadata_names_the_endpoints(http, service):
    found = http.get("/.well-known/oauth-authorization-server").json()
    assert found["issuer"] == service.settings.issuer
    assert found["token_endpoint"].endswith("/oauth/token")
    assert set(found["token_endpoint_auth_methods_supported"]) == {"client_secret_basic", "private_key_jwt"}
    assert EXCHANGE in found["grant_types_supported"]


def test_keys_rotate_with_overlap_and_no_valid_request_fails(own_service):
    service = own_service
    with service.partner() as partner:
        old = {k["kid"] for k in partner.http.get("/.well-known/jwks.json").json()["keys"]}
        new = as_owner(service, lambda db: rotate_signing_key(db, service.house.keys, timedelta(seconds=0), datetime.now(UTC)))
        published, signing, deadline = False, False, time.monotonic() + 20
        while not signing:
            assert time.monotonic() < deadline
            token = partner.new_token(grant_type="client_credentials")["access_token"]
            kid = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["kid"]
            shown = {k["kid"] for k in partner.http.get("/.well-known/jwks.json").json()["keys"]}
            published = published or new in shown
            assert kid in shown
            assert published or kid in old, "a key never signs before it is published"
            signing = kid == new
            assert partner.send("GET", "/v1/patients").status_code == 200
            assert partner.send("GET", "/v1/patients", token=token).status_code == 200
            time.sleep(0.2)
        service.clock.offset = timedelta(minutes=25)
        service.server.servers  # noqa: B018 - the same process goes on
        deadline = time.monotonic() + 5
        while old & {k["kid"] for k in partner.http.get("/.well-known/jwks.json").json()["keys"]}:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer x", "Basic x", "bearer a.b.c", "Bearer " + "x" * 6000, "Bearer é"])
def test_a_request_without_a_good_token_is_a_401_problem(http, value, on_database):
    request_id = f"knock-{uuid4().hex[:8]}"
    headers = {"X-Request-Id": request_id} | ({} if value is None else {"Authorization": value.encode()})
    answer = http.get("/v1/patients", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["type"] == "/problems/unauthenticated"

    async def job(database):
        async with database.transaction(None) as connection:
            return await connection.rows(sa.select(security_event).where(security_event.c.request_id == request_id))

    assert len(on_database(job, "ipt_owner")) == 1


def test_an_expired_token_is_refused_though_it_was_seen_before(own_service):
    with own_service.partner() as partner:
        assert partner.send("GET", "/v1/patients").status_code == 200
        own_service.clock.offset = timedelta(minutes=11)
        assert partner.send("GET", "/v1/patients").status_code == 401


def test_a_token_of_one_partner_never_names_another(partner, other_partner):
    claims = json.loads(base64.urlsafe_b64decode(partner.token.split(".")[1] + "=="))
    assert claims["partner"] == partner.partner_id != other_partner.partner_id
    assert UUID(claims["client_id"].split(".")[0]) == UUID(partner.partner_id)


def test_an_assertion_that_was_refused_a_scope_is_used_up(asserting, partner):
    use = asserting()
    form = {"grant_type": "client_credentials", "scope": "nope"}

    def with_scope(ask):
        assertion = ask.__closure__[0].cell_contents
        return partner.http.post("/oauth/token", data=assertion | form)

    assert with_scope(use).json()["error"] == "invalid_scope"
    assert use().status_code == 401


@pytest.mark.parametrize("header", [{"alg": []}, {"alg": {}}, {"alg": "ES256", "typ": []}, {"alg": "ES256", "kid": ["x"]}])
@pytest.mark.parametrize("claims", [{"sub": "x"}, {"sub": "x.\ud800"}, {"sub": "x.a\x00b"}])
def test_an_odd_assertion_is_a_401(http, partner, header, claims):
    def b64(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {k: v.replace("x", partner.partner_id, 1) for k, v in claims.items()}
    token = f"{b64(header)}.{b64(claims)}.AAAA"
    form = {"grant_type": "client_credentials", "client_assertion_type": ASSERTION, "client_assertion": token}
    assert http.post("/oauth/token", data=form).status_code == 401
    assert http.post("/oauth/revoke", data=form | {"token": "x"}).status_code == 401


def test_a_signed_assertion_with_an_odd_jti_is_a_401(asserting):
    for jti in ("a\x00", "\ud800", "é"):
        assert asserting(jti=jti)().status_code == 401


def test_a_client_id_has_one_spelling(partner, http):
    name = partner.client_id.partition(".")[2]
    for spelling in (
        partner.partner_id.upper(),
        "{" + partner.partner_id + "}",
        f"urn:uuid:{partner.partner_id}",
        partner.partner_id.replace("-", ""),
    ):
        answer = http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(f"{spelling}.{name}", partner.secret))
        assert answer.status_code == 401


def test_wrong_secrets_are_limited_by_address_and_lock_nobody_out(fresh_database, tmp_path):
    from tests.conftest import Clock, Service, settings_of  # noqa: PLC0415

    settings = settings_of(fresh_database, tmp_path).model_copy(update={"refusals_per_minute": 5})
    service = Service(settings, Clock()).start()
    try:
        with service.partner() as partner:
            form = {"grant_type": "client_credentials"}
            statuses = [partner.http.post("/oauth/token", data=form, auth=(partner.client_id, "wrong")).status_code for _ in range(8)]
            assert statuses == [401] * 5 + [429] * 3
            assert partner.send("GET", "/v1/patients", token="x.y.z").status_code == 401, "a flood of others turns nobody's 401 into something else"
            assert partner.ask_token(**form).status_code == 200
            assert partner.send("GET", "/v1/patients").status_code == 200
    finally:
        service.stop()
