"""The access matrix: what each actor meets at each route, with its own resource and with a foreign one.

`matrix.csv` is the matrix; a route without a row, or an actor who meets something else than it says, fails. After a deliberate change,
IPT_WRITE_MATRIX=1 writes it anew, and the difference is read line by line.

open: the door lets the actor through (whatever the rules then say); 403, 404: refused. Operators have no token at all.
"""

import csv
import os
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from app.actions.door import FOR_CLINICIANS, FOR_PATIENTS, OUTCOMES
from app.api.request import SCOPES, scopes_of
from tests.api.test_routes import BODIES, CARE, filled, rows_of_every_kind
from tests.driver import EXCHANGE, PATIENT, Device

MATRIX = Path(__file__).with_name("matrix.csv")
ACTORS = (
    "backend",  # the partner's backend, with every scope but those of outcomes
    "lead",  # the lead clinician of the chart
    "outsider",  # a clinician of the same partner, outside of the care team
    "patient",  # the patient, with their own phone
    "other_patient",  # another patient of the partner
    "analyst",  # a token of outcomes
    "approver",  # a clinician of the partner with a token for approving extracts
    "admin",  # manages clients, reads the audit trail, carries out rights; no care
    "stranger",  # another partner's backend, with this partner's ids
    "strange_clinician",  # another partner's clinician, with this partner's ids
)
ADMIN = sorted(
    {"clients:write", "audit:read", "settings:read", "settings:write", "rights:write", "emergency:review", "webhooks:write", "events:read"}
)
ENDS = ("/erasure", "/disablement", "/early-ending", "/duplicates", "/transfer", "/retirement", "/wiped", "/revocation")
ETAG = {"If_Match": '"99.1"'}


def in_order(route):
    """Reads first, then writes, then what ends something; emergency access, which opens a chart to an outsider, at last."""
    method, path, _ = route
    return (path.endswith("/break-glass"), any(path.endswith(e) for e in ENDS), method == "DELETE", method != "GET", path, method)


ROUTES = sorted(CARE, key=in_order)


def world(service, actor):
    """A partner with a row of every kind, and the token by which an actor comes."""
    partner = service.partner()
    ids = rows_of_every_kind(partner)
    elsewhere = service.partner()

    def personal(who, kind, **more):
        return who.new_token(grant_type=EXCHANGE, subject_token=kind[1], subject_token_type=kind[0], **more)["access_token"]

    clinician = "urn:ipt:params:oauth:token-type:clinician"
    tokens = {
        "backend": lambda: partner.token,
        "lead": lambda: Device(partner, ids["clinician_id"]).token,
        "outsider": lambda: Device(partner, partner.add_clinician()["id"]).token,
        "patient": lambda: Device(partner, ids["patient_id"], kind=PATIENT).token,
        "other_patient": lambda: Device(partner, partner.add_patient()["id"], kind=PATIENT).token,
        "analyst": lambda: partner.new_token(grant_type="client_credentials", scope=" ".join(OUTCOMES))["access_token"],
        "approver": lambda: approver(partner, partner.add_clinician()["id"]),
        "admin": lambda: partner.new_token(grant_type="client_credentials", scope=" ".join(ADMIN))["access_token"],
        "stranger": lambda: elsewhere.token,
        "strange_clinician": lambda: personal(elsewhere, (clinician, elsewhere.add_clinician()["id"])),
    }
    return partner, elsewhere, ids, tokens[actor]()


def approver(partner, clinician_id):
    """A clinician's token for approving, by an app of its own: none approves what it has ordered itself."""
    board = partner.post("/v1/clients", {"name": "board", "scopes": ["outcomes:approve", "token:exchange"]})
    form = {"grant_type": EXCHANGE, "subject_token_type": "urn:ipt:params:oauth:token-type:clinician", "subject_token": clinician_id}
    answer = partner.http.post("/oauth/token", data=form | {"scope": "outcomes:approve"}, auth=(board["client_id"], board["client_secret"]))
    return answer.json()["access_token"]


def met(partner, token, method, path, ids):
    body = BODIES.get(f"{method} {path}", {}) if method not in {"GET", "DELETE"} else None
    if path == "/v1/break-glass" and body:
        body = {**body, "patient_id": ids["patient_id"]}
    headers = ETAG if method in {"PUT", "PATCH", "DELETE"} else {"Idempotency_Key": str(uuid4())} if method == "POST" else {}
    if path == "/v1/sync/stream":  # it goes on for a minute: its first line is enough
        with partner.http.stream(method, path, headers={"Authorization": f"Bearer {token}"}) as answer:
            return str(answer.status_code) if answer.status_code in {403, 404} else "open"
    answer = partner.send(method, filled(path, ids), body, token=token, **headers)
    assert answer.status_code < 500, f"{method} {path}: {answer.text}"
    assert answer.status_code not in {401, 428, 429}, f"{method} {path}: {answer.text}"
    return str(answer.status_code) if answer.status_code in {403, 404} else "open"


def read_matrix():
    with MATRIX.open(encoding="utf-8", newline="") as file:
        return {row["route"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("actor", ACTORS)
def test_each_actor_meets_what_the_matrix_says(service, actor):
    partner, elsewhere, ids, token = world(service, actor)
    with partner, elsewhere:
        found = {f"{m} {p}": met(partner, token, m, p, ids) for m, p, _ in ROUTES}
    if os.environ.get("IPT_WRITE_MATRIX"):
        write(actor, found)
        return
    expected = {route: row[actor] for route, row in read_matrix().items()}
    assert found == expected


def write(actor, found):
    rows = read_matrix() if MATRIX.exists() else {}
    with MATRIX.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, ["route", "scopes", *ACTORS])
        out.writeheader()
        for method, path, route in sorted(CARE, key=lambda r: (r[1], r[0])):
            name = f"{method} {path}"
            row = rows.get(name, {"route": name}) | {"scopes": " ".join(sorted(scopes_of(route))), actor: found[name]}
            out.writerow({k: row.get(k, "") for k in ("route", "scopes", *ACTORS)})


def test_the_matrix_has_every_route_and_no_other_and_its_scopes_are_theirs():
    rows = read_matrix()
    assert set(rows) == {f"{m} {p}" for m, p, _ in CARE}
    assert {n: r["scopes"] for n, r in rows.items()} == {f"{m} {p}": " ".join(sorted(scopes_of(r))) for m, p, r in CARE}


def test_the_matrix_keeps_the_rules_of_the_house():
    """What no edit of the matrix may loosen."""
    with_id = {n: r for n, r in read_matrix().items() if "{" in n and "{collection}" not in n}
    assert all(r["stranger"] in {"403", "404"} and r["strange_clinician"] in {"403", "404"} for r in with_id.values()), (
        "another partner's id opens nothing"
    )
    assert all(r["analyst"] == "403" for n, r in read_matrix().items() if "/outcomes" not in n), "analysts have no other route"
    charts = {n: r for n, r in with_id.items() if "{episode_id}" in n or "{patient_id}" in n or "{alert_id}" in n or "{conflict_id}" in n}
    assert all(r["outsider"] in {"403", "404"} for r in charts.values()), "a clinician sees the own caseload"
    assert all(r["other_patient"] in {"403", "404"} for r in charts.values()), "a patient sees the own chart"
    notes = {n: r for n, r in with_id.items() if "/note" in n}
    assert notes
    assert all(r["patient"] == "403" and r["admin"] == "403" for r in notes.values()), "psychotherapy notes are the clinicians'"
    opened_to_patients = {n for n, r in read_matrix().items() if r["patient"] == "open"}
    assert not [n for n in opened_to_patients if not any(w in n for w in ("assessment", "homework", "sync", "devices", "instruments"))]


def test_every_scope_is_some_actors_and_personal_scopes_are_a_partners():
    held = set(FOR_CLINICIANS) | set(FOR_PATIENTS) | OUTCOMES | set(ADMIN) | {"patients:read", "import", "exports:read", "token:exchange"}
    assert set(SCOPES) == held
    assert not FOR_PATIENTS & {"notes:read", "notes:write", "rights:write", "clients:write"}


def test_a_partner_that_takes_anothers_ids_revokes_nobody_elses_tokens(service):
    """Ids are the partner's own, and so are revocations: the same id at another partner is another person."""
    with service.partner() as one, service.partner() as other:
        clinician, patient = one.add_clinician()["id"], one.add_patient()["id"]
        tokens = [
            one.clinician_token(clinician),
            one.new_token(grant_type=EXCHANGE, subject_token=patient, subject_token_type=PATIENT)["access_token"],
        ]
        other.post("/v1/clinicians", {"id": clinician, "subject": "x"})
        other.patch(f"/v1/clinicians/{clinician}", {"active": False}, '"1.1"')
        other.post("/v1/patients", {"id": patient})
        other.post(f"/v1/patients/{patient}/erasure", {"requested_by": "patient"})
        threading.Event().wait(2.0)  # the copy of revocations is read every 1.5 s
        assert one.send("GET", "/v1/patients", token=tokens[0]).status_code == 200
        assert one.send("GET", "/v1/sync/pull", token=tokens[1]).status_code == 200


def test_a_clinician_who_leaves_is_refused_within_five_seconds(service):
    with service.partner() as partner:
        clinician = partner.add_clinician()["id"]
        token = partner.clinician_token(clinician)
        assert partner.send("GET", "/v1/patients", token=token).status_code == 200
        partner.patch(f"/v1/clinicians/{clinician}", {"active": False}, '"1.1"')
        for _ in range(50):
            if partner.send("GET", "/v1/patients", token=token).status_code == 401:
                break
            threading.Event().wait(0.1)
        else:
            pytest.fail("the token of a clinician who left lives on after five seconds")
