"""A partner manages its clients, and nobody hands out or takes over more than they hold."""

import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from app.keys.jws import b64
from app.keys.tokens import new_signing_key


def token_of(partner, name, secret, **form):
    return partner.http.post("/oauth/token", data={"grant_type": "client_credentials", **form}, auth=(f"{partner.partner_id}.{name}", secret))


def test_a_client_is_made_with_a_secret_that_is_shown_once(partner):
    body = {"name": "mobile", "scopes": ["patients:read", "sync"]}
    first = partner.send("POST", "/v1/clients", body, Idempotency_Key="c-1")
    again = partner.send("POST", "/v1/clients", body, Idempotency_Key="c-1")
    assert (first.status_code, again.status_code) == (201, 201)
    secret = first.json()["client_secret"]
    assert again.json()["client_secret"] is None
    assert token_of(partner, "mobile", secret).json()["scope"] == "patients:read sync"
    listed = {c["name"]: c for c in partner.get("/v1/clients")["items"]}
    assert listed["mobile"]["client_id"] == f"{partner.partner_id}.mobile"
    assert "client_secret" not in listed["mobile"]
    assert secret not in partner.send("GET", "/v1/clients").text
    assert partner.send("POST", "/v1/clients", body).status_code == 409


def test_secrets_rotate_with_an_overlap_and_without_one(partner):
    old = partner.post("/v1/clients", {"name": "rotated", "scopes": ["patients:read"]})["client_secret"]
    new = partner.post("/v1/clients/rotated/secrets", {"overlap_seconds": 3600})["client_secret"]
    assert [token_of(partner, "rotated", s).status_code for s in (old, new)] == [200, 200]
    newest = partner.post("/v1/clients/rotated/secrets", {"overlap_seconds": 0})["client_secret"]
    assert [token_of(partner, "rotated", s).status_code for s in (old, new, newest)] == [401, 401, 200]


def test_keys_are_registered_and_retired(partner):
    public = dict(new_signing_key(None).public_jwk)
    partner.post("/v1/clients", {"name": "keyed", "scopes": ["patients:read"]})
    made = partner.post("/v1/clients/keyed/keys", {"jwk": {k: public[k] for k in ("kty", "crv", "x", "y")}})
    assert made["keys"] == [public["kid"]]
    for bad in ({"kty": "EC"}, public | {"d": "x"}, {"kty": "oct", "k": "x"}):
        answer = partner.send("POST", "/v1/clients/keyed/keys", {"jwk": bad})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/jwk")
    weak = rsa.generate_private_key(65537, 1024).public_key().public_numbers()  # noqa: S505 - it is to be refused
    answer = partner.send("POST", "/v1/clients/keyed/keys", {"jwk": {"kty": "RSA", "n": b64(weak.n.to_bytes(128)), "e": "AQAB"}})
    assert answer.status_code == 422
    assert partner.post(f"/v1/clients/keyed/keys/{public['kid']}/retirement", {})["keys"] == []
    assert partner.send("POST", f"/v1/clients/keyed/keys/{public['kid']}/retirement", {}).status_code == 404


def test_a_disabled_client_is_refused_within_five_seconds_at_every_process(partner):
    secret = partner.post("/v1/clients", {"name": "lost", "scopes": ["patients:read"]})["client_secret"]
    token = token_of(partner, "lost", secret).json()["access_token"]
    assert partner.send("GET", "/v1/patients", token=token).status_code == 200
    partner.post("/v1/clients/lost/disablement", {})
    assert token_of(partner, "lost", secret).status_code == 401
    for _ in range(50):
        if partner.send("GET", "/v1/patients", token=token).status_code == 401:
            break
        threading.Event().wait(0.1)
    else:
        pytest.fail("a disabled client's token lives on after five seconds")
    for path, body in (("secrets", {}), ("keys", {"jwk": {}})):
        assert partner.send("POST", f"/v1/clients/lost/{path}", body).status_code == 404
    own = partner.client_id.partition(".")[2]
    assert partner.send("POST", f"/v1/clients/{own}/disablement", {}).json()["type"] == "/problems/own-client"


def test_nobody_hands_out_or_takes_over_more_than_they_hold(partner):
    made = partner.post("/v1/clients", {"name": "manager", "scopes": ["clients:write", "patients:read", "outcomes:read"]})
    manager = token_of(partner, "manager", made["client_secret"]).json()["access_token"]

    def tried(path, body):
        answer = partner.send("POST", path, body, token=manager)
        return answer.status_code, answer.json().get("type")

    wide = (403, "/problems/scopes-too-wide")
    assert tried("/v1/clients", {"name": "wider", "scopes": ["notes:read"]}) == wide
    own = partner.client_id.partition(".")[2]
    assert tried(f"/v1/clients/{own}/secrets", {}) == wide, "a new secret for a broader client would be that client"
    assert tried(f"/v1/clients/{own}/keys", {"jwk": {}}) == wide
    assert tried("/v1/clients", {"name": "same", "scopes": ["patients:read", "outcomes:read"]})[0] == 201
    narrow = token_of(partner, "manager", made["client_secret"], scope="clients:write").json()["access_token"]
    answer = partner.send("POST", "/v1/clients", {"name": "narrow", "scopes": ["patients:read"]}, token=narrow)
    assert answer.status_code == 403, "the token counts, not what its client might have asked for"
    assert tried(f"/v1/clients/{own}/disablement", {})[0] == 200, "switching off is the safe direction"


@pytest.mark.parametrize(
    "body", [{"name": "A", "scopes": ["sync"]}, {"name": "a", "scopes": []}, {"name": "a", "scopes": ["all"]}, {"name": "a.b", "scopes": ["sync"]}]
)
def test_a_client_out_of_rule_is_a_422(partner, body):
    assert partner.send("POST", "/v1/clients", body).status_code == 422


def test_a_clinicians_token_manages_nothing(partner):
    token = partner.clinician_token(partner.add_clinician()["id"])
    assert partner.send("GET", "/v1/clients", token=token).status_code == 403


def test_scopes_of_outcomes_go_into_a_token_of_their_own(partner):
    assert "outcomes" not in partner.new_token(grant_type="client_credentials")["scope"]
    mixed = partner.ask_token(grant_type="client_credentials", scope="outcomes:read patients:read")
    assert (mixed.status_code, mixed.json()["error"]) == (400, "invalid_scope")
    analyst = partner.new_token(grant_type="client_credentials", scope="outcomes:read")["access_token"]
    assert partner.send("GET", "/v1/patients", token=analyst).status_code == 403


def test_the_same_name_at_another_partner_is_another_client(partner, other_partner):
    for one in (partner, other_partner):
        one.post("/v1/clients", {"name": "twin", "scopes": ["sync"]})
    partner.post("/v1/clients/twin/disablement", {})
    assert {c["name"]: c["disabled_at"] for c in other_partner.get("/v1/clients")["items"]}["twin"] is None


def test_keys_are_bounded_in_size_number_and_spelling(partner):
    partner.post("/v1/clients", {"name": "keyed", "scopes": ["patients:read"]})

    def add(jwk):
        return partner.send("POST", "/v1/clients/keyed/keys", {"jwk": jwk})

    public = {k: v for k, v in new_signing_key(None).public_jwk.items() if k in {"kty", "crv", "x", "y"}}
    for spelled in (f"*{public['x']}", f"{public['x']}!\n", f"{public['x']}=", public["x"][:-1]):
        assert add(public | {"x": spelled}).status_code == 422, "one key has one spelling, and one kid"
    assert add({"kty": "RSA", "n": b64(b"\xff" * 513), "e": "AQAB"}).status_code == 422
    assert add({"kty": "RSA", "n": "x" * 700_000, "e": "AQAB"}).status_code == 422
    assert add({"kty": "RSA", "n": b64(b"\xff" * 256), "e": b64(b"\x00\x01\x00\x01")}).status_code == 422
    statuses = [add({k: v for k, v in new_signing_key(None).public_jwk.items() if k in public}).status_code for _ in range(11)]
    assert statuses == [201] * 10 + [409]


def test_live_secrets_are_bounded_and_the_workers_name_is_taken(partner):
    partner.post("/v1/clients", {"name": "rotated", "scopes": ["patients:read"]})
    statuses = [partner.send("POST", "/v1/clients/rotated/secrets", {"overlap_seconds": 604_800}).status_code for _ in range(6)]
    assert statuses == [201] * 4 + [409] * 2
    assert partner.send("POST", "/v1/clients/rotated/secrets", {"overlap_seconds": 0}).status_code == 201, "a leak is always answered"
    assert partner.send("POST", "/v1/clients", {"name": "worker", "scopes": ["sync"]}).status_code == 422
    made = partner.send("POST", "/v1/clients", {"name": "shown", "scopes": ["sync"]})
    assert made.headers["cache-control"] == "no-store"


def test_a_narrower_token_is_shown_no_wider_kept_answer(partner):
    episode = partner.add_episode()
    session = episode.hold()
    partner.put(f"{episode.path}/sessions/{session['id']}/note", {"text": "planted-note"}, token=episode.token)
    path = f"/v1/patients/{episode.patient_id}/export"
    assert "planted-note" in partner.send("POST", path, {}, Idempotency_Key="k").text
    narrow = partner.new_token(grant_type="client_credentials", scope="rights:write")["access_token"]
    again = partner.send("POST", path, {}, token=narrow, Idempotency_Key="k")
    assert again.status_code == 422
    assert "planted-note" not in again.text
