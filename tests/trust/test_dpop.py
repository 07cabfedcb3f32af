"""Proofs of possession (RFC 9449): a stolen token is of no use without the key of the phone it was made for."""

import asyncio
import concurrent.futures
import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from app.actions.operators import register_client, register_partner
from app.api.request import SCOPES
from app.launch import owner_of
from tests.conftest import CRISIS_TEXT, Clock, Service
from tests.driver import CLINICIAN, EXCHANGE, PATIENT, Partner
from tests.trust.conftest import PhoneKey


@pytest.fixture(scope="module")
def live(service):
    """A live partner, whose personal tokens must be bound."""

    async def made():
        owner = owner_of(service.settings)
        setting = {"risk_responder": "duty@example.org", "secondary_responder": None, "crisis_text": CRISIS_TEXT, "classifier_on": True}
        partner_id = await register_partner(owner, "Live", "live", setting, datetime.now(UTC))
        client_id, secret = await register_client(owner, partner_id, "backend", sorted(SCOPES), datetime.now(UTC))
        await owner.close()
        return partner_id, client_id, secret

    partner_id, client_id, secret = asyncio.run(made())
    with Partner(service.base_url, str(partner_id), client_id, secret) as partner:
        yield partner


@pytest.fixture
def bound(live, phone_key):
    """A clinician's token that is bound to a phone's key, by the phone's own proof."""
    clinician = live.add_clinician()["id"]
    form = {"grant_type": EXCHANGE, "subject_token": clinician, "subject_token_type": CLINICIAN}
    proof = phone_key.proof("POST", f"{live.base_url}/oauth/token")
    answer = live.http.post("/oauth/token", data=form, auth=(live.client_id, live.secret), headers={"DPoP": proof})
    assert answer.status_code == 200, answer.text
    assert answer.json()["token_type"] == "DPoP"
    return answer.json()["access_token"]


def get(partner, path, token, proof, scheme="DPoP"):
    headers = {"Authorization": f"{scheme} {token}"} | ({"DPoP": proof} if proof else {})
    return partner.http.get(path, headers=headers)


def test_a_bound_token_works_with_a_fresh_proof_of_its_key(live, bound, phone_key):
    address = f"{live.base_url}/v1/episodes"
    assert get(live, "/v1/episodes?limit=5", bound, phone_key.proof("GET", address, bound)).status_code == 200


def test_a_live_partners_personal_tokens_must_be_bound_and_a_sandboxs_may(live, partner, phone_key):
    for kind, person in ((CLINICIAN, live.add_clinician()["id"]), (PATIENT, live.add_patient()["id"])):
        form = {"grant_type": EXCHANGE, "subject_token": person, "subject_token_type": kind}
        refused = live.ask_token(**form)
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_dpop_proof")
        assert live.ask_token(**form, dpop_jkt=phone_key.thumbprint).json()["token_type"] == "DPoP"
    assert live.ask_token(grant_type="client_credentials", scope="outcomes:extract").json()["error"] == "invalid_dpop_proof"
    assert live.ask_token(grant_type="client_credentials").json()["token_type"] == "Bearer"
    assert partner.clinician_token(partner.add_clinician()["id"])


@pytest.mark.parametrize(
    "wrong",
    [
        "none",
        "bearer",
        "other key",
        "other method",
        "other path",
        "other token",
        "old",
        "early",
        "no ath",
        "no jti",
        "typ",
        "private",
        "two",
        "query ok",
    ],
)
def test_a_proof_out_of_rule_is_refused(live, bound, phone_key, wrong):
    address = f"{live.base_url}/v1/episodes"
    now = int(time.time())
    proofs = {
        "none": None,
        "bearer": phone_key.proof("GET", address, bound),
        "other key": PhoneKey().proof("GET", address, bound),
        "other method": phone_key.proof("POST", address, bound),
        "other path": phone_key.proof("GET", f"{live.base_url}/v1/patients", bound),
        "other token": phone_key.proof("GET", address, live.token),
        "old": phone_key.proof("GET", address, bound, iat=now - 75),
        "early": phone_key.proof("GET", address, bound, iat=now + 75),
        "no ath": phone_key.proof("GET", address),
        "no jti": phone_key.proof("GET", address, bound, jti=None),
        "typ": phone_key.proof("GET", address, bound, header={"typ": "JWT"}),
        "private": phone_key.proof("GET", address, bound, header={"jwk": phone_key.jwk | {"d": phone_key.jwk["x"]}}),
        "query ok": phone_key.proof("GET", f"{address}?limit=1", bound),
    }
    if wrong == "two":
        headers = [("Authorization", f"DPoP {bound}"), *(("DPoP", phone_key.proof("GET", address, bound)) for _ in range(2))]
        answer = live.http.get("/v1/episodes", headers=headers)
    else:
        answer = get(live, "/v1/episodes", bound, proofs[wrong], "Bearer" if wrong == "bearer" else "DPoP")
    if wrong == "query ok":
        assert answer.status_code == 200, "query and fragment of htu are set aside"
        return
    assert answer.status_code == 401, answer.text
    assert answer.json()["type"] == "/problems/proof-refused"
    assert "invalid_dpop_proof" in answer.headers["www-authenticate"]


def test_an_unbound_token_is_no_dpop_token(partner, phone_key):
    proof = phone_key.proof("GET", f"{partner.base_url}/v1/episodes", partner.token)
    assert get(partner, "/v1/episodes", partner.token, proof).status_code == 401


def test_a_proof_works_once_in_fifty_parallel_uses_at_two_processes(live, bound, phone_key, service):
    """Two servers with one database, as two processes: between them a proof is used up once."""
    second = Service(service.settings.model_copy(update={"public_url": service.settings.issuer}), Clock()).start()
    try:
        proof = phone_key.proof("GET", f"{live.base_url}/v1/episodes", bound)
        with Partner(second.base_url, live.partner_id, live.client_id, live.secret) as other, concurrent.futures.ThreadPoolExecutor(16) as pool:
            doors = [live, other]
            statuses = list(pool.map(lambda n: get(doors[n % 2], "/v1/episodes", bound, proof).status_code, range(50)))
    finally:
        second.stop()
    assert sorted(statuses) == [200] + [401] * 49


def test_a_proof_at_the_token_endpoint_is_used_up_and_must_be_the_vouched_key(live, phone_key):
    clinician = live.add_clinician()["id"]
    form = {"grant_type": EXCHANGE, "subject_token": clinician, "subject_token_type": CLINICIAN}
    proof = phone_key.proof("POST", f"{live.base_url}/oauth/token")

    def ask(**more):
        return live.http.post("/oauth/token", data=form | more, auth=(live.client_id, live.secret), headers={"DPoP": proof})

    assert ask(dpop_jkt=PhoneKey().thumbprint).json()["error"] == "invalid_dpop_proof"
    assert ask().status_code == 200
    assert ask().json()["error"] == "invalid_dpop_proof"
    assert live.ask_token(**form, dpop_jkt="short").json()["error"] == "invalid_dpop_proof"


def test_a_bound_phone_synchronises_and_a_thief_of_its_token_does_not(live, phone_key):
    clinician = live.add_clinician()["id"]
    form = {"actor_token": str(uuid4()), "actor_token_type": "urn:ipt:params:oauth:token-type:device", "dpop_jkt": phone_key.thumbprint}
    token = live.new_token(grant_type=EXCHANGE, subject_token=clinician, subject_token_type=CLINICIAN, **form)["access_token"]
    address = f"{live.base_url}/v1/sync/pull"
    assert get(live, "/v1/sync/pull?since=0", token, phone_key.proof("GET", address, token)).status_code == 200
    assert get(live, "/v1/sync/pull?since=0", token, PhoneKey().proof("GET", address, token)).status_code == 401
    assert get(live, "/v1/sync/pull?since=0", token, None, "Bearer").status_code == 401


def test_used_proofs_are_cleared_after_their_time(live, bound, phone_key, on_database):
    from datetime import timedelta  # noqa: PLC0415

    from app.upkeep import clear_expired  # noqa: PLC0415

    proof = phone_key.proof("GET", f"{live.base_url}/v1/episodes", bound)
    assert get(live, "/v1/episodes", bound, proof).status_code == 200
    on_database(lambda database: clear_expired(database, datetime.now(UTC) + timedelta(minutes=2)), "ipt_worker")
    assert get(live, "/v1/episodes", bound, proof).status_code == 401, "it is held for longer than it could be used"
    assert on_database(lambda database: clear_expired(database, datetime.now(UTC) + timedelta(minutes=4)), "ipt_worker") >= 1
