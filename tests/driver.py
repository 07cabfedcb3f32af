"""A partner's backend, and its clinician, as tests drive them; and makers of what a test needs first."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx

from app.api.caseload import ProtocolIn

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
CLINICIAN = "urn:ipt:params:oauth:token-type:clinician"
PATIENT = "urn:ipt:params:oauth:token-type:patient"
DEVICE = "urn:ipt:params:oauth:token-type:device"
PHQ9 = {str(n): 1 for n in range(1, 9)} | {"9": 0}
GAD7 = {str(n): 1 for n in range(1, 8)}


OWN_PROTOCOL = {
    **ProtocolIn.model_fields["definition"].examples[0],
    "extra_tasks": [{"code": "leaflet_given", "phase": "initial", "title": "Leaflet given", "source": "Acme", "gate": True}],
}


def answers_by_number(values):
    """Number a full row of answers from 1."""
    return dict(enumerate(values, start=1))


def now(**back):
    return (datetime.now(UTC) - timedelta(**back)).isoformat()


def day(**back):
    return (datetime.now(UTC) - timedelta(**back)).date().isoformat()


class Partner:
    def __init__(self, base_url, partner_id, client_id, secret):
        self.http = httpx.Client(base_url=base_url, timeout=20)
        self.base_url, self.partner_id, self.client_id, self.secret = base_url, partner_id, client_id, secret
        self.token = self.new_token(grant_type="client_credentials")["access_token"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.close()

    def ask_token(self, **form):
        return self.http.post("/oauth/token", data=form, auth=(self.client_id, self.secret))

    def new_token(self, **form):
        answer = self.ask_token(**form)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def clinician_token(self, clinician_id, **more):
        return self.new_token(grant_type=EXCHANGE, subject_token=clinician_id, subject_token_type=CLINICIAN, **more)["access_token"]

    def device_token(self, person_id, device_id, *, kind=CLINICIAN, **more):
        return self.new_token(
            grant_type=EXCHANGE, subject_token=person_id, subject_token_type=kind, actor_token=device_id, actor_token_type=DEVICE, **more
        )["access_token"]

    def send(self, method, path, body=None, *, token=None, **headers):
        extra = {"Authorization": f"Bearer {token or self.token}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return self.http.request(method, path, json=body, headers=extra)

    def get(self, path, **options):
        return self.good("GET", path, **options)

    def post(self, path, body, **options):
        return self.good("POST", path, body, **options)

    def put(self, path, body, *, etag=None, **options):
        options |= {"If_Match": etag} if etag else {"If_None_Match": "*"}
        return self.good("PUT", path, body, **options)

    def patch(self, path, body, etag, **options):
        return self.good("PATCH", path, body, If_Match=etag, **options)

    def good(self, method, path, body=None, **options):
        answer = self.send(method, path, body, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    # makers

    def add_patient(self, **fields):
        return self.post("/v1/patients", {"birth_year": 1980, **fields})

    def add_clinician(self):
        return self.post("/v1/clinicians", {"subject": f"idp|{uuid4()}"})

    def add_episode(self, *, patient=None, protocol="IPT-12", **fields):
        lead, cover = self.add_clinician(), self.add_clinician()
        patient = patient or self.add_patient()
        body = {
            "patient_id": patient["id"],
            "protocol": protocol,
            "referred_on": day(days=100),
            "age_at_referral": 40,
            "illness_onset_date": day(days=200),
            "lead_clinician_id": lead["id"],
            "cover_clinician_id": cover["id"],
            "contraindications": [],
            "risk_screened": True,
        }
        made = self.post("/v1/episodes", body | fields)
        return Episode(self, made, lead["id"], cover["id"])

    def add_group(self, **fields):
        lead = self.add_clinician()
        return self.post("/v1/groups", {"protocol": "IPT-G-WHO", "lead_clinician_id": lead["id"], **fields})

    def add_group_member(self, group, **fields):
        episode = self.add_episode(protocol=group["protocol_code"], **fields)
        return self.post(f"/v1/groups/{group['id']}/members", {"episode_id": episode.id}), episode

    def add_couple(self):
        sides = {}
        for side, word in (("first", "wife"), ("second", "husband")):
            episode = self.add_episode(protocol="IPT-CM")
            person = episode.add_relationship(label=word, closeness_now=1 if side == "first" else 3, conflict_level=2)
            sides[side] = {"episode_id": episode.id, "relationship_id": person["id"]}
        return self.post("/v1/couples", sides)

    def import_row(self, **fields):
        """Return one chart to import: a course in its middle phase."""
        lead = self.add_clinician()
        return {
            "patient": {"birth_year": 1970},
            "consents": [{"purpose": "treatment", "given": True, "wording": "v1", "decided_at": now(days=90)}],
            "episode": {
                "protocol": "IPT-12",
                "referred_on": day(days=100),
                "age_at_referral": 50,
                "lead_clinician_id": lead["id"],
                "placed": {"phase": "middle", "status": "active", "since": now(days=30)},
            },
            "relationships": [{"label": "sister", "relation_type": "sibling"}],
            "sessions": [{"starts_at": now(days=60), "status": "held", "minutes": 50}],
            "assessments": [{"instrument": "PHQ-9", "answers": PHQ9, "answered_at": now(days=60)}],
            **fields,
        }


class Device:
    """A phone with a copy of its own: what it pulls, what it has not sent yet. It speaks the native routes."""

    def __init__(self, partner, person_id, *, kind=CLINICIAN, device_id=None, **more):
        self.partner, self.person_id, self.kind, self.more = partner, person_id, kind, more
        self.id = device_id or str(uuid4())
        self.token = partner.device_token(person_id, self.id, kind=kind, **more)
        self.rows, self.cursor = {}, 0

    def get(self, path, **options):
        return self.partner.get(path, token=self.token, **options)

    def pull(self, limit=200):
        until = ""
        while True:
            page = self.get(f"/v1/sync/pull?since={self.cursor}&limit={limit}{until}")
            for change in page["changes"]:
                self.take(change)
            self.cursor = page["next"]
            if not page["has_more"]:
                return self
            until = f"&until={page['until']}"

    def take(self, change):
        key = change["entity"], change["id"]
        if change["op"] != "upsert":
            self.rows.pop(key, None)
        elif self.rows.get(key, {"version": 0})["version"] <= change["version"]:
            self.rows[key] = change["data"]

    def of(self, entity):
        return {row_id: row for (kind, row_id), row in self.rows.items() if kind == entity}

    def push(self, *mutations, **more):
        body = {"client_id": self.id, "mutations": list(mutations), **more}
        return self.partner.post("/v1/sync/push", body, token=self.token)["results"]


def mutation(entity, op, row_id=None, base=None, mutation_id=None, **fields):
    made = {"mutation_id": mutation_id or str(uuid4()), "entity": entity, "id": row_id or str(uuid4()), "op": op, "fields": fields}
    return made if base is None else made | {"base_version": base}


class Episode:
    def __init__(self, partner, row, lead, cover):
        self.partner, self.row, self.lead, self.cover = partner, row, lead, cover
        self.id, self.patient_id = row["id"], row["patient_id"]
        self.path = f"/v1/episodes/{self.id}"
        self.token = partner.clinician_token(lead)

    def consent(self):
        body = {"purpose": "treatment", "given": True, "wording": "v1", "decided_at": now(days=100)}
        return self.partner.post(f"/v1/patients/{self.patient_id}/consents", body)

    def add_relationship(self, **fields):
        return self.partner.post(f"{self.path}/relationships", {"label": "husband", "relation_type": "spouse_partner", **fields})

    def add_event(self, **fields):
        return self.partner.post(f"{self.path}/life-events", {"type": "retirement", **fields})

    def hold(self, days=50, **fields):
        body = {"starts_at": now(days=days), "status": "held", "minutes": 60, "attendance": "attended", **fields}
        return self.partner.post(f"{self.path}/sessions", body)

    def assess(self, answers=None, instrument="PHQ-9", days=50, **fields):
        answers = answers or (PHQ9 if instrument == "PHQ-9" else GAD7)
        return self.partner.post(f"{self.path}/assessments", {"instrument": instrument, "answers": answers, "answered_at": now(days=days), **fields})

    def indicators(self, **answers):
        return self.partner.put(f"{self.path}/indicators", {"answers": {k: {"value": v} if isinstance(v, str) else v for k, v in answers.items()}})

    def focus(self, **fields):
        return self.partner.put(f"{self.path}/focus", {"primary": "role_transition", "patient_agreed": True, **fields}, token=self.token)

    def enter(self, to, *, token=None, **fields):
        return self.partner.send("POST", f"{self.path}/phase/transitions", {"to": to, **fields}, token=token)

    def phase(self):
        return self.partner.get(f"{self.path}/phase")

    def into_initial(self):
        self.consent()
        assert self.enter("initial").status_code == 201
        return self

    def ready_for_middle(self):
        self.into_initial()
        for _ in range(3):
            self.add_relationship()
        for days in (60, 55, 50):
            self.hold(days=days)
        self.assess(days=60)
        self.assess(instrument="GAD-7", days=60)
        for task in ("diagnosis_named", "risk_assessed"):
            self.partner.put(f"{self.path}/phase/tasks/{task}", {"status": "done"}, token=self.token)
        self.focus()
        self.partner.put(f"{self.path}/formulation", {"text": "Because.", "areas": ["role_transition"], "told_on": day(days=50)})
        self.partner.put(f"{self.path}/contract", {"sessions": 12, "starts_on": day(days=90), "ends_on": day(days=6), "patient_agreed": True})
        return self

    def into_middle(self):
        self.ready_for_middle()
        answer = self.enter("middle")
        assert answer.status_code == 201, answer.text
        return self
