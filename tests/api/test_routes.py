"""Every route at once: scopes declared and enforced, other partners' ids lost, conventions kept."""

import re
from uuid import uuid4

import pytest

from app.actions.door import OUTCOMES
from app.api.catalogue import PublicRoute
from app.api.problems import every_problem
from app.api.request import SCOPES, Route, scopes_of
from app.main import ROUTERS
from tests.driver import OWN_PROTOCOL, Device, mutation
from tests.outcomes.conftest import PERIOD, Population

ROUTES = [
    (m, route.path_format, route)
    for module in ROUTERS
    for route in module.router.routes
    for m in sorted(route.methods)
    if route.path_format.startswith("/v1")
]
CARE = [(m, p, r) for m, p, r in ROUTES if isinstance(r, Route)]
WITH_ID = [(m, p) for m, p, _ in CARE if "{" in p and "{collection}" not in p]
IDS = [f"{m} {p}" for m, p, _ in CARE]
BODIES = {
    "PATCH /v1/patients/{patient_id}": {"sex": "female"},
    "POST /v1/patients/{patient_id}/consents": {"purpose": "treatment", "given": True, "wording": "v1", "decided_at": "2026-01-01T00:00:00Z"},
    "POST /v1/clinicians": {"subject": f"idp|{uuid4()}"},
    "POST /v1/episodes": {
        "patient_id": str(uuid4()),
        "protocol": "IPT-12",
        "referred_on": "2026-01-01",
        "age_at_referral": 40,
        "lead_clinician_id": str(uuid4()),
        "cover_clinician_id": str(uuid4()),
    },
    "POST /v1/groups": {"protocol": "IPT-G-WHO", "lead_clinician_id": str(uuid4())},
    "PATCH /v1/clinicians/{clinician_id}": {"active": True},
    "PATCH /v1/episodes/{episode_id}": {"risk_screened": True},
    "POST /v1/episodes/{episode_id}/care-team": {"clinician_id": str(uuid4()), "role": "member"},
    "POST /v1/episodes/{episode_id}/relationships": {"label": "M.", "relation_type": "friend"},
    "PATCH /v1/episodes/{episode_id}/relationships/{relationship_id}": {"confiding": 1},
    "POST /v1/episodes/{episode_id}/life-events": {"type": "relocation"},
    "PATCH /v1/episodes/{episode_id}/life-events/{life_event_id}": {"wanted": True},
    "POST /v1/episodes/{episode_id}/problems": {"text": "x"},
    "PATCH /v1/episodes/{episode_id}/problems/{problem_id}": {"severity": 1},
    "POST /v1/episodes/{episode_id}/goals": {"text": "x"},
    "PATCH /v1/episodes/{episode_id}/goals/{goal_id}": {"attainment": 1},
    "PUT /v1/episodes/{episode_id}/indicators": {"answers": {}},
    "PUT /v1/episodes/{episode_id}/focus": {"primary": "grief", "patient_agreed": True},
    "PATCH /v1/episodes/{episode_id}/focus-areas/{focus_area_id}": {"patient_progress": 1},
    "PUT /v1/episodes/{episode_id}/formulation": {"text": "x", "areas": ["grief"]},
    "PUT /v1/episodes/{episode_id}/contract": {"sessions": 12, "starts_on": "2026-01-01", "ends_on": "2026-04-01"},
    "PUT /v1/episodes/{episode_id}/phase/tasks/{task}": {"status": "done"},
    "POST /v1/episodes/{episode_id}/phase/transitions": {"to": "initial"},
    "POST /v1/episodes/{episode_id}/sessions": {"starts_at": "2026-01-01T09:00:00Z"},
    "PATCH /v1/episodes/{episode_id}/sessions/{session_id}": {"mood": 1},
    "POST /v1/episodes/{episode_id}/assessments": {"instrument": "PHQ-9", "answers": {"9": 3}, "answered_at": "2026-01-01T09:00:00Z"},
    "PATCH /v1/episodes/{episode_id}/assessments/{assessment_id}": {"entered_in_error": True, "error_reason": "x"},
    "POST /v1/risk-alerts/{alert_id}/acknowledgements": {},
    "POST /v1/risk-alerts/{alert_id}/closure": {"closing_note": "x"},
    "PUT /v1/episodes/{episode_id}/termination": {"ending_as_loss": "x"},
    "POST /v1/episodes/{episode_id}/early-ending": {"reason": "moved", "ended_on": "2026-01-01"},
    "PATCH /v1/episodes/{episode_id}/early-ending": {"note": "x"},
    "POST /v1/episodes/{episode_id}/follow-ups": {"months": 3},
    "PATCH /v1/episodes/{episode_id}/follow-ups/{follow_up_id}": {"note": "x"},
    "POST /v1/episodes/{episode_id}/relationships/{relationship_id}/safety-lift": {"reason": "x"},
    "POST /v1/episodes/{episode_id}/indicator-proposals": {"indicator": "old_role_mourned", "text": "I miss it.", "start": 0, "end": 6},
    "POST /v1/episodes/{episode_id}/indicator-proposals/{proposal_id}/decision": {"decision": "refuse"},
    "POST /v1/episodes/{episode_id}/status-changes": {"command": "pause", "reason": "x"},
    "POST /v1/episodes/{episode_id}/maintenance": {"kind": "maintenance"},
    "POST /v1/episodes/{episode_id}/sessions/{session_id}/reschedule": {"starts_at": "2026-01-01T09:00:00Z", "by": "patient"},
    "PUT /v1/episodes/{episode_id}/sessions/{session_id}/note": {"text": "x"},
    "POST /v1/episodes/{episode_id}/sessions/{session_id}/note/addenda": {"text": "x"},
    "POST /v1/episodes/{episode_id}/addenda": {"subject": "session", "subject_id": str(uuid4()), "text": "x"},
    "POST /v1/episodes/{episode_id}/change-attempts": {"issue": "x"},
    "PATCH /v1/episodes/{episode_id}/change-attempts/{change_attempt_id}": {"result": "same"},
    "POST /v1/episodes/{episode_id}/analyses": {"kind": "rehearsal"},
    "PATCH /v1/episodes/{episode_id}/analyses/{analysis_id}": {"kind": "rehearsal"},
    "POST /v1/episodes/{episode_id}/medications": {"kind": "antidepressant"},
    "PATCH /v1/episodes/{episode_id}/medications/{medication_id}": {"dose": "x"},
    "POST /v1/episodes/{episode_id}/homework": {"task": "x"},
    "PATCH /v1/episodes/{episode_id}/homework/{homework_id}": {"status": "done"},
    "POST /v1/episodes/{episode_id}/assessment-requests": {"instrument": "PHQ-9", "due_at": "2026-01-01T09:00:00Z"},
    "PATCH /v1/episodes/{episode_id}/assessment-requests/{request_id}": {"message": "x"},
    "PUT /v1/episodes/{episode_id}/assessment-requests/{request_id}/draft": {"answers": {"1": 1}},
    "POST /v1/risk-alerts/{alert_id}/standing": {"until": "2026-01-01T09:00:00Z", "standing_note": "x"},
    "PATCH /v1/groups/{group_id}": {"status": "running"},
    "POST /v1/groups/{group_id}/members": {"episode_id": str(uuid4())},
    "PATCH /v1/groups/{group_id}/members/{group_member_id}": {"left_on": "2026-01-01"},
    "POST /v1/groups/{group_id}/sessions": {"starts_at": "2026-01-01T09:00:00Z", "participants": [{"episode_id": str(uuid4())}]},
    "PUT /v1/groups/{group_id}/sessions/{group_session_id}/process-note": {"text": "x"},
    "PATCH /v1/couples/{couple_id}": {"first_agreed_on": "2026-01-01"},
    "PATCH /v1/settings": {"classifier_on": True},
    "POST /v1/clinicians/{clinician_id}/transfer": {"to_clinician_id": str(uuid4())},
    "POST /v1/patients/{patient_id}/duplicates": {"patient_id": str(uuid4())},
    "POST /v1/sync/push": {"client_id": str(uuid4()), "mutations": []},
    "POST /v1/sync/conflicts/{conflict_id}/resolution": {"choice": "keep_server", "reason": "x"},
    "POST /v1/webhook-endpoints": {"url": "https://hooks.example.com/x", "event_types": ["*"]},
    "PATCH /v1/webhook-endpoints/{endpoint_id}": {"status": "paused"},
    "POST /v1/webhook-endpoints/{endpoint_id}/secret-rotation": {"overlap_seconds": 0},
    "POST /v1/webhook-endpoints/{endpoint_id}/resend": {"since": 0},
    "PUT /v1/patients/{patient_id}/protection": {"restricted_because": None, "legal_hold": False},
    "POST /v1/patients/{patient_id}/erasure": {"requested_by": "patient"},
    "POST /v1/break-glass": {"patient_id": str(uuid4()), "reason": "The patient's cover cannot be reached."},
    "POST /v1/break-glass/{break_glass_id}/review": {"finding": "justified", "reviewer": "idp|1"},
    "POST /v1/clients": {"name": "another", "scopes": ["patients:read"]},
    "POST /v1/clients/{client_name}/secrets": {"overlap_seconds": 0},
    "POST /v1/clients/{client_name}/keys": {"jwk": {"kty": "EC"}},
    "POST /v1/outcomes/tables": {"period": PERIOD, "family": "counts"},
    "POST /v1/outcomes/extracts": {
        "period_from": PERIOD,
        "period_to": PERIOD,
        "profile": "expert",
        "determination_id": "ED-1",
        "purpose": "research",
        "agreement_id": "DUA-7",
    },
}
BOTH_WAYS = {"import", "sync", "webhooks:write", "clients:write", "emergency:use", "emergency:review"}  # one scope for all that there is
BOTH_WAYS |= OUTCOMES
QUERIES = {
    "GET /v1/outcomes/extracts/{extract_id}/file": f"?ticket={'x' * 43}",
    "GET /v1/sync/watermelon": "?tables=session",
    "GET /v1/episodes/{episode_id}/inventory/changes": "?from=2026-01-01T00:00:00Z",
}
CLINICIANS = (
    "/sync/conflicts",
    "/focus",
    "/risk-alerts",
    "/safety-lift",
    "/decision",
    "/note",
    "/process-note",
    "/couples",
    "/status-changes",
)  # 403 for a bare client
BACKENDS = (
    "/webhook-endpoints",
    "/clinicians/",
    "/partner-protocols",
    "/duplicates",
    "/imports",
    "/couples",
    "/export",
    "/protection",
    "/erasure",
    "/break-glass",
    "/access-report",
    "/clients",
)  # 403 for a clinician's token


def test_every_route_declares_scopes_that_exist_or_is_open_on_purpose():
    assert len(CARE) > 50
    for method, path, route in ROUTES:
        if isinstance(route, PublicRoute):
            assert method == "GET"
            assert path.split("/")[2] in {"protocols", "instruments", "techniques", "problem-areas"}
            continue
        scopes = scopes_of(route)
        assert scopes, path
        assert scopes <= set(SCOPES)
        verb = "read" if method == "GET" else "write"
        assert all(s.endswith(f":{verb}") or s in BOTH_WAYS for s in scopes), f"{method} {path} declares {scopes}"


def test_a_route_without_a_scope_cannot_even_be_declared():
    async def endpoint():
        return None

    with pytest.raises(TypeError, match="declares no scope"):
        Route("/v1/open", endpoint)


def filled(path, ids):
    query = next((q for route, q in QUERIES.items() if route.endswith(path)), "")
    return re.sub(r"\{(\w+)\}", lambda m: ids.get(m.group(1), str(uuid4())), path) + query


@pytest.fixture(scope="module")
def theirs(service):
    """Another partner's rows of every kind, under the names that paths use."""
    with service.partner() as other:
        yield rows_of_every_kind(other)


def rows_of_every_kind(other):
    """One row of every kind of a partner, under the names that paths use."""
    episode = other.add_episode().into_middle()
    alert = episode.assess({**{str(n): 1 for n in range(1, 9)}, "9": 1})["risk_alert"]
    focus = other.get(f"{episode.path}/focus", token=episode.token)
    other.put(f"{episode.path}/termination", {"ending_as_loss": "x"})
    return {
        "patient_id": episode.patient_id,
        "clinician_id": episode.lead,
        "episode_id": episode.id,
        "relationship_id": episode.add_relationship()["id"],
        "life_event_id": episode.add_event()["id"],
        "problem_id": other.post(f"{episode.path}/problems", {"text": "x"})["id"],
        "goal_id": other.post(f"{episode.path}/goals", {"text": "x"})["id"],
        "focus_area_id": focus["focus_areas"][0]["id"],
        "session_id": episode.hold(days=20)["id"],
        "assessment_id": alert["triggers"][0]["assessment_id"],
        "alert_id": alert["id"],
        "follow_up_id": other.post(f"{episode.path}/follow-ups", {"months": 3})["id"],
        "member_id": other.get(f"{episode.path}/care-team")["items"][0]["id"],
        "task": "risk_assessed",
        **others_work(other, episode),
    }


def others_work(other, episode):
    """One row of each further kind, of the other partner."""
    path = episode.path
    session = episode.hold(days=15)
    note = f"{path}/sessions/{session['id']}/note"
    other.put(note, {"text": "x"}, token=episode.token)
    group = other.add_group()
    member, group_episode = other.add_group_member(group)
    held = {"starts_at": "2026-01-01T09:00:00Z", "participants": [{"episode_id": group_episode.id}]}
    couple = other.add_couple()
    proposal = other.post(f"{path}/indicator-proposals", {"indicator": "old_role_mourned", "text": "I miss it.", "start": 0, "end": 6})
    return {
        "proposal_id": proposal["id"],
        "classification_id": other.post(f"{path}/classification", {})["id"] if other.send("GET", f"{path}/indicators").is_success else str(uuid4()),
        "status_change_id": other.post(f"{path}/status-changes", {"command": "pause", "reason": "x"})["id"],
        "addendum_id": other.post(f"{path}/addenda", {"subject": "session", "subject_id": session["id"], "text": "x"})["id"],
        "change_attempt_id": other.post(f"{path}/change-attempts", {"issue": "x"})["id"],
        "analysis_id": other.post(f"{path}/analyses", {"kind": "rehearsal"})["id"],
        "medication_id": other.post(f"{path}/medications", {"kind": "antidepressant"})["id"],
        "homework_id": other.post(f"{path}/homework", {"task": "x"})["id"],
        "request_id": other.post(f"{path}/assessment-requests", {"instrument": "PHQ-9", "due_at": "2026-01-01T09:00:00Z"})["id"],
        "group_id": group["id"],
        "group_member_id": member["id"],
        "group_session_id": other.post(f"/v1/groups/{group['id']}/sessions", held)["id"],
        "couple_id": couple["id"],
        "partner_protocol_id": other.post("/v1/partner-protocols", {"definition": OWN_PROTOCOL})["id"],
        "import_id": other.post("/v1/imports", {"rows": [other.import_row()]})["id"],
        "duplicate_id": other.add_patient()["id"],
        "endpoint_id": other.post("/v1/webhook-endpoints", {"url": "https://hooks.example.com/x", "event_types": ["*"]})["id"],
        **others_devices(other, episode),
    }


def others_devices(other, episode):
    """A device of the other partner, and an edit of it that was kept."""
    first, second = Device(other, episode.lead), Device(other, episode.cover)
    row_id = episode.add_relationship()["id"]
    first.push(mutation("relationship", "update", row_id, 1, confiding=1))
    kept = second.push(mutation("relationship", "update", row_id, 1, confiding=2))[0]
    return {"device_id": first.id, "conflict_id": kept["conflict_id"], **others_trust(other, episode)}


def others_trust(other, episode):
    """An emergency access, and a client with a key, of the other partner."""
    token = other.clinician_token(other.add_clinician()["id"])
    opened = other.post("/v1/break-glass", {"patient_id": episode.patient_id, "reason": "On call, and nobody else can be reached."}, token=token)
    other.post("/v1/clients", {"name": "theirs", "scopes": ["patients:read"]})
    return {"break_glass_id": opened["id"], "client_name": "theirs", "kid": "none", **others_outcomes(other)}


def others_outcomes(other):
    """A table that was asked for, and an extract that was ordered, of the other partner."""
    there = Population(None, other, other.database_url).freeze([])
    token = there.new_token("outcomes:read outcomes:extract")
    ordered = other.post("/v1/outcomes/extracts", BODIES["POST /v1/outcomes/extracts"], token=token)
    return {"table_id": there.ask().json()["id"], "extract_id": ordered["id"]}


@pytest.fixture(scope="module")
def me(service):
    with service.partner() as partner:
        partner.episode = partner.add_episode()
        yield partner


def headers_for(method):
    return {"PUT": {"If_Match": '"1.1"'}, "PATCH": {"If_Match": '"1.1"'}, "DELETE": {"If_Match": '"1.1"'}}.get(method, {})


def tokens_for(me, path):
    """The tokens that reach a route: those of care, or those of outcomes, which open nothing else."""
    if "/outcomes/" not in path:
        return me.token, me.episode.token
    if path.endswith("/approvals"):
        return (me.clinician_token(me.episode.lead, scope="outcomes:approve"),)
    return (me.new_token(grant_type="client_credentials", scope="outcomes:read outcomes:extract")["access_token"],)


@pytest.mark.parametrize(("method", "path"), WITH_ID, ids=[f"{m} {p}" for m, p in WITH_ID])
def test_another_partners_id_and_an_unknown_id_are_the_same_404(me, theirs, method, path):
    body = BODIES.get(f"{method} {path}", {}) if method not in {"GET", "DELETE"} else None
    for token in tokens_for(me, path):
        foreign = me.send(method, filled(path, theirs), body, token=token, X_Request_Id="same", **headers_for(method))
        unknown = me.send(method, filled(path, {"task": "risk_assessed"}), body, token=token, X_Request_Id="same", **headers_for(method))
        assert (foreign.status_code, foreign.content) == (unknown.status_code, unknown.content)
        clinical_decision = any(part in path for part in CLINICIANS)
        backend_only = any(part in path for part in BACKENDS) and token == me.episode.token
        assert foreign.status_code == 404 or (foreign.status_code == 403 and (clinical_decision or backend_only)), foreign.text


NESTED = [(m, p) for m, p in WITH_ID if p.count("{") == 2 and "{task}" not in p]


@pytest.mark.parametrize(("method", "path"), NESTED, ids=[f"{m} {p}" for m, p in NESTED])
def test_another_partners_row_inside_my_own_episode_is_a_404(me, theirs, method, path):
    body = BODIES.get(f"{method} {path}", {}) if method not in {"GET", "DELETE"} else None
    token = me.episode.token if any(part in path for part in CLINICIANS) else me.token
    answer = me.send(method, filled(path, theirs | {"episode_id": me.episode.id}), body, token=token, **headers_for(method))
    assert answer.status_code == 404, answer.text


def test_another_partners_ids_in_bodies_are_plain_404s(me, theirs):
    path = me.episode.path
    tries = [
        (
            "POST",
            "/v1/episodes",
            {"patient_id": theirs["patient_id"], "protocol": "IPT-12", "referred_on": "2026-01-01", "lead_clinician_id": me.episode.lead},
            404,
        ),
        (
            "POST",
            "/v1/episodes",
            {"patient_id": me.episode.patient_id, "protocol": "IPT-12", "referred_on": "2026-01-01", "lead_clinician_id": theirs["clinician_id"]},
            404,
        ),
        ("POST", f"{path}/care-team", {"clinician_id": theirs["clinician_id"], "role": "member"}, 404),
        ("POST", f"{path}/life-events", {"type": "death", "relationship_id": theirs["relationship_id"]}, 404),
        ("POST", f"{path}/problems", {"text": "x", "relationship_ids": [theirs["relationship_id"]]}, 404),
        (
            "POST",
            f"{path}/assessments",
            {"instrument": "GAD-7", "answers": {"1": 1}, "answered_at": "2026-01-01T00:00:00Z", "session_id": theirs["session_id"]},
            404,
        ),
        (
            "POST",
            f"{path}/assessments",
            {"instrument": "GAD-7", "answers": {"1": 1}, "answered_at": "2026-01-01T00:00:00Z", "follow_up_id": theirs["follow_up_id"]},
            404,
        ),
    ]
    for method, where, body, status in tries:
        answer = me.send(method, where, body)
        assert answer.status_code == status, answer.text
    tries.append(("POST", f"{path}/sessions", {"starts_at": "2026-01-01T00:00:00Z", "joint_relationship_id": theirs["relationship_id"]}, 404))
    for method, where, body, status in tries:
        foreign = me.send(method, where, body, X_Request_Id="same")
        unknown = me.send(
            method, where, {k: str(uuid4()) if v in theirs.values() else v for k, v in body.items() if not isinstance(v, list)}, X_Request_Id="same"
        )
        assert (foreign.status_code, foreign.content) == (status, unknown.content) or "relationship_ids" in body
    for member in ("relationship_id", "life_event_id"):
        answers = {"old_role_mourned": {"value": "present", member: theirs[member]}}
        assert me.send("PUT", f"{path}/indicators", {"answers": answers}, If_None_Match="*").status_code == 404


def test_filters_by_another_partners_ids_find_nothing(me, theirs):
    assert me.get(f"/v1/episodes?patient_id={theirs['patient_id']}")["items"] == []
    assert me.get(f"/v1/episodes?clinician_id={theirs['clinician_id']}")["items"] == []
    assert me.get(f"/v1/risk-alerts?episode_id={theirs['episode_id']}")["items"] == []


@pytest.mark.parametrize(("method", "path", "route"), CARE, ids=IDS)
def test_a_token_without_the_scope_is_a_403_that_names_it(service, me, method, path, route):
    wanted = scopes_of(route)
    token = me.new_token(grant_type="client_credentials", scope=" ".join(sorted(set(SCOPES) - OUTCOMES - wanted)))["access_token"]
    answer = me.send(method, filled(path, {"episode_id": me.episode.id}), {} if method != "GET" else None, token=token, **headers_for(method))
    assert answer.status_code == 403
    assert answer.json()["type"] == "/problems/scope-missing"
    assert all(s in answer.headers["www-authenticate"] for s in wanted)


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p, _ in CARE if m in {"PUT", "PATCH", "DELETE"}])
def test_a_write_without_a_precondition_is_a_428_and_with_a_stale_one_a_412_or_404(me, method, path):
    where = filled(path, {"episode_id": me.episode.id, "patient_id": me.episode.patient_id, "task": "risk_assessed"})
    body = BODIES.get(f"{method} {path}", {}) if method != "DELETE" else None
    token = me.token if path == "/v1/settings" or any(p in path for p in ("/webhook-endpoints", "/protection")) else me.episode.token
    assert me.send(method, where, body, token=token).status_code == 428, path
    for etag in ('"99.1"', '"1.99"', 'W/"1.1"', "x", '"1"'):
        assert me.send(method, where, body, token=token, If_Match=etag).status_code in {404, 412, 403}, path


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p, _ in CARE if m in {"POST", "PUT", "PATCH"} and f"{m} {p}" in BODIES])
def test_an_unknown_member_is_a_422_with_a_pointer(me, method, path):
    where = filled(path, {"episode_id": me.episode.id, "patient_id": me.episode.patient_id})
    answer = me.send(method, where, BODIES[f"{method} {path}"] | {"surprise": 1}, token=tokens_for(me, path)[0], **headers_for(method))
    assert answer.status_code == 422, answer.text
    assert {"pointer": "/surprise", "detail": "Extra inputs are not permitted"} in answer.json()["errors"]


def test_every_problem_type_has_its_page(http):
    for name in every_problem():
        page = http.get(f"/problems/{name}")
        assert page.status_code == 200
        assert name in page.text
    assert http.get("/problems/none").status_code == 404
