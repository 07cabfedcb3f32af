"""Devices: a token bound to one person and one phone; listed, revoked within seconds, and told to forget."""

import threading
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from app.keys.tokens import claimed_client
from app.store.database import Database
from app.store.tables.record import audit_event
from tests.driver import CLINICIAN, DEVICE, EXCHANGE, PATIENT, Device, mutation


def ask(partner, person_id, **form):
    return partner.ask_token(grant_type=EXCHANGE, subject_token=person_id, subject_token_type=CLINICIAN, **form)


def test_a_device_registers_with_its_first_token_and_is_listed(partner):
    episode = partner.add_episode()
    device = Device(partner, episode.lead, device_label="Pixel 9")
    listed = partner.get("/v1/devices")["items"]
    assert [(d["id"], d["person_kind"], d["person_id"], d["label"], d["revoked_at"]) for d in listed] == [
        (device.id, "clinician", episode.lead, "Pixel 9", None)
    ]
    assert listed[0]["client_id"] == partner.client_id
    before = listed[0]["last_token_at"]
    partner.device_token(episode.lead, device.id)
    again = partner.get(f"/v1/devices/{device.id}")
    assert again["last_token_at"] >= before
    assert (again["version"], again["wipe"]) == (1, {"needed": False, "patient_ids": [episode.patient_id]})
    assert [v["op"] for v in partner.get(f"/v1/devices/{device.id}/history")["items"]] == ["create"]


def test_a_person_sees_and_revokes_their_own_devices_only(partner, other_partner):
    episode = partner.add_episode()
    mine, theirs = Device(partner, episode.lead), Device(partner, episode.cover)
    assert {d["id"] for d in mine.get("/v1/devices")["items"]} == {mine.id}
    assert {d["id"] for d in partner.get(f"/v1/devices?person_id={episode.cover}")["items"]} == {theirs.id}
    unknown = str(uuid4())
    for token in (mine.token, other_partner.token):
        where = other_partner if token == other_partner.token else partner
        for method, path in (("GET", ""), ("POST", "/revocation"), ("POST", "/wiped"), ("GET", "/history")):
            foreign = where.send(method, f"/v1/devices/{theirs.id}{path}", token=token, X_Request_Id="same")
            lost = where.send(method, f"/v1/devices/{unknown}{path}", token=token, X_Request_Id="same")
            assert (foreign.status_code, foreign.content) == (404, lost.content)
    patient = Device(partner, episode.patient_id, kind=PATIENT)
    assert partner.post(f"/v1/devices/{patient.id}/revocation", {}, token=patient.token)["revoked_by"] == f"patient:{episode.patient_id}"


def test_a_device_stays_with_its_person_client_and_partner(partner, other_partner):
    episode = partner.add_episode()
    device = Device(partner, episode.lead)
    taken = ask(partner, episode.cover, actor_token=device.id, actor_token_type=DEVICE)
    assert (taken.status_code, taken.json()["error"]) == (400, "invalid_request")
    as_patient = partner.ask_token(
        grant_type=EXCHANGE, subject_token=episode.patient_id, subject_token_type=PATIENT, actor_token=device.id, actor_token_type=DEVICE
    )
    assert as_patient.status_code == 400
    elsewhere = Device(other_partner, other_partner.add_clinician()["id"], device_id=device.id)  # ids are the partner's own
    other_partner.post(f"/v1/devices/{device.id}/revocation", {})
    threading.Event().wait(2)
    assert other_partner.send("GET", "/v1/sync/pull", token=elsewhere.token).status_code == 401
    assert partner.send("GET", "/v1/sync/pull", token=device.token).status_code == 200


@pytest.mark.parametrize(
    "form",
    [
        {"actor_token": "x", "actor_token_type": DEVICE},
        {"actor_token": str(UUID(int=1)), "actor_token_type": DEVICE},
        {"actor_token": str(uuid4())},
        {"actor_token_type": DEVICE},
        {"actor_token": str(uuid4()), "actor_token_type": CLINICIAN},
        {"actor_token": str(uuid4()), "actor_token_type": DEVICE, "device_label": "x" * 61},
        {"actor_token": str(uuid4()), "actor_token_type": DEVICE, "device_label": "a\nb"},
    ],
)
def test_a_device_that_is_named_badly_gets_no_token_and_is_not_registered(partner, form):
    lead = partner.add_clinician()["id"]
    assert ask(partner, lead, **form).status_code == 400
    assert partner.get("/v1/devices")["items"] == []


def test_a_patients_token_is_for_a_patient_of_the_partner_and_no_wider_than_a_patient_needs(partner, other_partner):
    episode = partner.add_episode()
    answer = partner.new_token(grant_type=EXCHANGE, subject_token=episode.patient_id, subject_token_type=PATIENT)
    assert set(answer["scope"].split()) == {"assessments:read", "assessments:write", "sessions:read", "sessions:write", "sync"}
    for subject in (other_partner.add_patient()["id"], str(uuid4()), episode.lead):
        refused = partner.ask_token(grant_type=EXCHANGE, subject_token=subject, subject_token_type=PATIENT)
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")
    wide = partner.ask_token(grant_type=EXCHANGE, subject_token=episode.patient_id, subject_token_type=PATIENT, scope="inventory:read")
    assert wide.json()["error"] == "invalid_scope"


def test_a_revoked_device_is_refused_within_seconds_told_to_wipe_and_gets_no_new_token(partner):
    episode = partner.add_episode()
    device = Device(partner, episode.lead).pull()
    still = Device(partner, episode.lead)
    gone = partner.add_episode(lead_clinician_id=episode.lead)
    device.pull()
    partner.post(f"/v1/clinicians/{episode.lead}/transfer", {"to_clinician_id": partner.add_clinician()["id"], "episode_ids": [gone.id]})
    revoked = partner.post(f"/v1/devices/{device.id}/revocation", {})
    assert revoked["wipe"] == {"needed": True, "patient_ids": sorted([episode.patient_id, gone.patient_id])}
    assert partner.post(f"/v1/devices/{device.id}/revocation", {})["version"] == revoked["version"]
    threading.Event().wait(2)  # revocations are read every 1.5 s; five are promised
    for method, path, body in (("GET", "/v1/sync/pull", None), ("POST", "/v1/sync/push", {"client_id": device.id, "mutations": []})):
        answer = partner.send(method, path, body, token=device.token)
        assert (answer.status_code, answer.json()["type"]) == (401, "/problems/device-revoked")
    assert partner.send("GET", "/v1/sync/pull", token=still.token).status_code == 200
    refused = ask(partner, episode.lead, actor_token=device.id, actor_token_type=DEVICE)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert refused.json()["error_description"].startswith("device_revoked")
    early = partner.send("POST", f"/v1/devices/{still.id}/wiped", {})
    assert early.json()["type"] == "/problems/device-not-revoked"
    wiped = partner.post(f"/v1/devices/{device.id}/wiped", {})
    assert wiped["wipe"]["needed"] is False
    assert wiped["wiped_at"]


def test_the_token_says_who_acts_through_what_and_so_does_the_audit_trail(partner, on_database):
    from app.api.bearer import read_access_token  # noqa: PLC0415

    episode = partner.add_episode()
    device = Device(partner, episode.lead)
    keys = {k["kid"]: k for k in partner.http.get("/.well-known/jwks.json").json()["keys"]}
    issuer = partner.http.get("/.well-known/oauth-authorization-server").json()["issuer"]
    import time  # noqa: PLC0415

    caller = read_access_token(device.token, keys, issuer, int(time.time()))
    assert (str(caller.device_id), str(caller.clinician_id), caller.client_id) == (device.id, episode.lead, partner.client_id)
    assert caller.expires_at - time.time() <= 600
    assert claimed_client(device.token) == f"clinician:{episode.lead}"
    device.push(mutation("goal", "create", episode_id=episode.id, text="x", term="short"))

    async def job(database: Database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            wanted = (audit_event.c.partner_id == connection.partner_id, audit_event.c.route == "POST /v1/sync/push")
            return await connection.rows(sa.select(audit_event).where(*wanted))

    rows = on_database(job)
    assert [(str(r["device_id"]), r["person"], r["client_id"], str(r["patient_id"])) for r in rows] == [
        (device.id, f"clinician:{episode.lead}", partner.client_id, episode.patient_id)
    ]


def test_a_patients_token_opens_no_route_that_is_not_meant_for_patients(partner):
    from app.api.request import Route, declared  # noqa: PLC0415
    from app.main import ROUTERS  # noqa: PLC0415

    episode = partner.add_episode()
    token = partner.device_token(episode.patient_id, str(uuid4()), kind=PATIENT)
    routes = [(m, r) for module in ROUTERS for r in module.router.routes if isinstance(r, Route) for m in r.methods]
    opened = {f"{m} {r.path_format}" for m, r in routes if declared(r)[0]}
    assert opened == {
        "POST /v1/episodes/{episode_id}/assessments",
        "GET /v1/episodes/{episode_id}/assessments",
        "GET /v1/episodes/{episode_id}/assessments/{assessment_id}",
        "GET /v1/episodes/{episode_id}/assessment-requests",
        "GET /v1/episodes/{episode_id}/assessment-requests/{request_id}",
        "PUT /v1/episodes/{episode_id}/assessment-requests/{request_id}/draft",
        "GET /v1/episodes/{episode_id}/homework",
        "GET /v1/episodes/{episode_id}/homework/{homework_id}",
        "PATCH /v1/episodes/{episode_id}/homework/{homework_id}",
        "GET /v1/devices",
        "GET /v1/devices/{device_id}",
        "POST /v1/devices/{device_id}/revocation",
        "GET /v1/sync/pull",
        "POST /v1/sync/push",
        "GET /v1/sync/snapshot",
        "GET /v1/sync/digest",
        "GET /v1/sync/stream",
        "GET /v1/sync/rxdb/{collection}/pull",
        "POST /v1/sync/rxdb/{collection}/push",
        "GET /v1/sync/rxdb/{collection}/stream",
        "GET /v1/sync/watermelon",
        "POST /v1/sync/watermelon",
    }
    for method, route in routes:
        if not declared(route)[0]:
            path = route.path_format.replace("{episode_id}", episode.id).replace("{patient_id}", episode.patient_id)
            path = path if "{" not in path else path.split("{")[0] + str(uuid4()) + path.split("}")[-1] if path.count("{") == 1 else None
            if path is not None:
                assert partner.send(method, path, {} if method != "GET" else None, token=token).status_code == 403, path
