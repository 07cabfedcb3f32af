"""The audit trail: sealed so that tampering shows, readable by its partner alone, complete about who read what."""

import asyncio
import json
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from app.cli_trust import verify
from app.domain.audit import EVENT_MEMBERS, canonical, event_of, hash_of_seal, leaf_of, root_of, seal_claims
from app.keys.tokens import new_signing_key, sign_seal
from tests.command import ipt
from tests.conftest import run_sql
from tests.driver import PHQ9, Device, mutation

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checked(partner):
    """Check the partner's whole trail over HTTP."""

    def run(known=None, **how):
        with httpx.Client(base_url=partner.base_url, timeout=20, headers={"Authorization": f"Bearer {partner.token}"}) as http:
            return verify(http, partner.partner_id, known, **how)

    return run


@pytest.fixture
def sealed(partner, upkept):
    """A partner with three seals over a course."""
    episode = partner.add_episode()
    upkept("seal_trails")
    episode.add_relationship()
    partner.get(f"{episode.path}/inventory")
    upkept("seal_trails")
    partner.send("GET", "/v1/episodes/01a00000-0000-7000-8000-000000000000")
    upkept("seal_trails")
    return episode


def on(database_url, query):
    async def done():
        engine = create_async_engine(database_url)
        async with engine.connect() as connection:
            rows = (await connection.execute(sa.text(query))).mappings().all()
        await engine.dispose()
        return [dict(r) for r in rows]

    return asyncio.run(done())


def test_the_tree_is_that_of_rfc_6962():
    leaves = [leaf_of({"n": n}) for n in range(7)]
    assert root_of([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert root_of(leaves[:1]) == leaves[0]

    def by_the_book(part):  # the recursive definition, with the largest power of two below n
        if len(part) == 1:
            return part[0]
        k = 1
        while k * 2 < len(part):
            k *= 2
        import hashlib  # noqa: PLC0415

        return hashlib.sha256(b"\x01" + by_the_book(part[:k]) + by_the_book(part[k:])).digest()

    for n in range(1, 40):
        some = [leaf_of({"n": i}) for i in range(n)]
        assert root_of(some) == by_the_book(some), n
    assert canonical({"b": "ü", "a": [1, None]}) == '{"a":[1,null],"b":"ü"}'.encode()


def test_a_partner_verifies_its_trail_alone(partner, sealed, checked):
    found = checked()
    assert found.fault is None
    assert found.seals == 3
    assert found.events >= 8
    listed = partner.get("/v1/audit-events?limit=1000")["items"]
    assert {e["seal"] for e in listed if e["seal"]} == {1, 2, 3}


COPIED = (  # an event made up by a superuser out of one that was there
    "INSERT INTO audit_event (partner_id, id, at, client_id, person, action, route, outcome, reason, request_id, patient_id, episode_id, resources,"
    " sealed_by, device_id, break_glass_id, mac, patients) SELECT partner_id, gen_random_uuid(), at, client_id, {person}, action, route, outcome, reason,"
    " request_id, patient_id, episode_id, resources, {sealed}, device_id, break_glass_id, mac, patients FROM audit_event WHERE partner_id = '{{p}}'"
)
TAMPERINGS = {
    "changed outcome": "UPDATE audit_event SET outcome = outcome + 1 WHERE id = '{id}'",
    "changed person": "UPDATE audit_event SET person = 'clinician:x' WHERE id = '{id}'",
    "changed resources": "UPDATE audit_event SET resources = '[]' WHERE id = '{id}'",
    "changed time": "UPDATE audit_event SET at = at + interval '1 second' WHERE id = '{id}'",
    "deleted": "DELETE FROM audit_event WHERE id = '{id}'",
    "moved to another seal": "UPDATE audit_event SET sealed_by = 3 - sealed_by WHERE id = '{id}'",
    "taken out of its seal": "UPDATE audit_event SET sealed_by = NULL WHERE id = '{id}'",
    "changed route": "UPDATE audit_event SET route = 'GET /x' WHERE id = '{id}'",
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_what_a_superuser_changes_under_a_seal_is_found(partner, sealed, checked, database_url, name):
    rows = on(database_url, f"SELECT id, sealed_by FROM audit_event WHERE partner_id = '{partner.partner_id}' AND sealed_by IN (1, 2)")
    victim = random.choice(rows)
    run_sql(database_url, TAMPERINGS[name].format(id=victim["id"]))
    fault = checked().fault
    assert fault is not None
    assert fault.number <= victim["sealed_by"]
    if name.startswith("changed"):
        shown = {e["id"]: e["forged"] for e in partner.get("/v1/audit-events?limit=1000")["items"]}
        assert shown[str(victim["id"])] is True, "the row itself says so, too"


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("DELETE FROM audit_seal WHERE partner_id = '{p}' AND number = 2", 2),
        ("UPDATE audit_seal SET root = sha256('x') WHERE partner_id = '{p}' AND number = 2", None),
        ("UPDATE audit_seal SET count = count + 1 WHERE partner_id = '{p}' AND number = 1", None),
        ("UPDATE audit_seal SET signature = reverse(signature) WHERE partner_id = '{p}' AND number = 1", 1),
        ("UPDATE audit_seal SET number = number + 10 WHERE partner_id = '{p}' AND number = 3", 3),
        (
            COPIED.format(person="person", sealed="sealed_by") + " AND sealed_by = 1 LIMIT 1",
            1,
        ),
    ],
)
def test_seals_that_were_cut_swapped_or_filled_up_are_found(partner, sealed, checked, database_url, statement, number):
    run_sql(database_url, statement.format(p=partner.partner_id))
    found = checked()
    if number is None:  # the stored columns are shown beside the signature, which says what was sealed
        assert found.fault is None or found.fault.number <= 2
    else:
        assert found.fault is not None
        assert found.fault.number == number


def test_a_trail_cut_short_is_found_by_who_kept_the_newest_seal(partner, sealed, checked, database_url):
    kept = checked().newest
    run_sql(
        database_url,
        f"DELETE FROM audit_event WHERE partner_id = '{partner.partner_id}' AND sealed_by = 3",
        f"DELETE FROM audit_seal WHERE partner_id = '{partner.partner_id}' AND number = 3",
    )
    assert checked().fault is None, "without a witness a cut tail looks like a shorter trail"
    fault = checked(kept).fault
    assert (fault.number, "cut short" in fault.what) == (3, True)


def test_a_row_that_the_service_did_not_write_is_never_sealed(partner, sealed, checked, upkept, database_url):
    run_sql(
        database_url,
        COPIED.format(person="'clinician:00000000-0000-7000-8000-000000000000'", sealed="NULL").format(p=partner.partner_id) + " LIMIT 1",
    )
    upkept("seal_trails")
    (forged,) = partner.get("/v1/audit-events?limit=1000&person=clinician:00000000-0000-7000-8000-000000000000")["items"]
    assert (forged["forged"], forged["seal"]) == (True, None)


def test_what_stands_outside_of_every_seal_is_found(partner, sealed, checked, database_url, monkeypatch):
    monkeypatch.setattr("app.cli_trust.SEALED_WITHIN", timedelta(0))
    where = f"WHERE partner_id = '{partner.partner_id}'"
    for seal, words in (("999999", "under no seal"), ("-1", "was not written by the service")):
        run_sql(
            database_url, f"UPDATE audit_event SET sealed_by = {seal} WHERE id = (SELECT id FROM audit_event {where} AND sealed_by IS NULL LIMIT 1)"
        )
        fault = checked().fault
        assert fault is not None
        assert words in fault.what
        run_sql(database_url, f"UPDATE audit_event SET sealed_by = NULL {where} AND sealed_by = {seal}")


def test_a_key_that_a_superuser_puts_in_signs_no_seal(partner, sealed, checked, database_url):
    """The strongest forger without the key file: a key pair of its own in the table, and the newest seal made anew with it."""
    own = new_signing_key(datetime.now(UTC))
    run_sql(
        database_url,
        "INSERT INTO signing_key (kid, public_jwk, private_sealed, created_at, signs_from, published_until) VALUES"
        f" ('{own.kid}', '{json.dumps(dict(own.public_jwk))}', '\\x000103', now(), now(), now() - interval '1 day')",
        f"UPDATE audit_event SET person = 'clinician:x' WHERE partner_id = '{partner.partner_id}' AND sealed_by = 3",
    )
    rows = on(database_url, f"SELECT * FROM audit_event WHERE partner_id = '{partner.partner_id}' AND sealed_by = 3 ORDER BY id::text")
    (before,) = on(database_url, f"SELECT * FROM audit_seal WHERE partner_id = '{partner.partner_id}' AND number = 2")
    claims = seal_claims(partner.partner_id, 3, [leaf_of(event_of(r)) for r in rows], hash_of_seal(before["signature"]), datetime.now(UTC))
    run_sql(
        database_url,
        f"UPDATE audit_seal SET root = '\\x{claims['root']}', kid = '{own.kid}', signature = '{sign_seal(own, claims)}'"
        f" WHERE partner_id = '{partner.partner_id}' AND number = 3",
    )
    assert own.kid not in {k["kid"] for k in partner.get("/v1/audit/keys")["keys"]}
    fault = checked().fault
    assert (fault.number, fault.what) == (3, "its signature does not hold")


def test_a_check_goes_on_from_the_seal_that_was_kept(partner, sealed, checked, upkept):
    kept = checked().newest
    partner.add_patient()
    upkept("seal_trails")
    found = checked(kept, going_on=True)
    assert (found.fault, found.seals) == (None, 4)
    assert found.events < checked().events


def test_the_patients_of_a_list_stand_in_the_sealed_event_itself(partner):
    patients = {partner.add_patient()["id"] for _ in range(3)}
    partner.send("GET", "/v1/patients", X_Request_Id="list-1")
    (event,) = partner.get("/v1/audit-events?request_id=list-1")["items"]
    assert set(event["patients"]) | {event["patient_id"]} >= patients


def test_one_entry_that_cannot_be_written_takes_no_other_with_it(partner, service):
    """Group commit: thirty accesses at once, more pointers than one statement takes, one access unfit."""
    from app.store.audit import Access  # noqa: PLC0415

    def access(outcome):
        at = datetime.now(UTC)
        own = UUID(partner.partner_id)
        return Access(own, at, "x", None, "read", "GET /x", outcome, None, "r", None, None, [], also_of=[uuid4() for _ in range(200)])

    async def storm():
        entries = [service.house.trail.write(access(200)) for _ in range(30)] + [service.house.trail.write(access(2**40))]
        return await asyncio.gather(*entries, return_exceptions=True)

    loop = service.server.servers[0].get_loop()
    results = asyncio.run_coroutine_threadsafe(storm(), loop).result(20)
    assert [type(r).__name__ for r in results if r is not None] == ["DatabaseAway"]


def test_a_thousand_random_changes_of_hashed_members_all_change_the_root():
    chance = random.Random(5)
    events = [{name: f"{name}-{n}" for name in EVENT_MEMBERS} for n in range(20)]
    root = root_of([leaf_of(e) for e in events])
    for _ in range(1000):
        changed = [dict(e) for e in events]
        match chance.randrange(4):
            case 0:
                changed[chance.randrange(20)][chance.choice(EVENT_MEMBERS)] += "x"
            case 1:
                del changed[chance.randrange(20)]
            case 2:
                changed.insert(chance.randrange(21), dict(chance.choice(events)))
            case _:
                a, b = chance.sample(range(20), 2)
                changed[a], changed[b] = changed[b], changed[a]
        assert root_of([leaf_of(e) for e in changed]) != root


def test_two_sealers_at_once_make_one_chain(partner, checked, upkept):
    import threading  # noqa: PLC0415

    for _ in range(3):
        partner.add_patient()
        threads = [threading.Thread(target=upkept, args=("seal_trails",)) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert checked().fault is None


def test_seals_outlive_the_keys_that_signed_them(own_service):
    from app.actions.operators import rotate_signing_key  # noqa: PLC0415
    from app.keys.provider import read_key_ring  # noqa: PLC0415
    from app.launch import owner_of  # noqa: PLC0415
    from app.store.database import clock  # noqa: PLC0415
    from app.upkeep import seal_trails  # noqa: PLC0415

    ring = read_key_ring(own_service.settings.keys_path)

    def seal():
        async def done():
            owner = owner_of(own_service.settings)
            await seal_trails(owner, ring, clock(own_service.clock))
            await owner.close()

        asyncio.run(done())

    async def rotate():
        owner = owner_of(own_service.settings)
        await rotate_signing_key(owner, ring, timedelta(0), own_service.clock())
        await owner.close()

    with own_service.partner() as partner:
        partner.add_patient()
        seal()
        asyncio.run(rotate())
        own_service.clock.offset = timedelta(days=2)
        own_service.house.door._read_at = float("-inf")
        asyncio.run_coroutine_threadsafe(own_service.house.door.refresh(), own_service.server.servers[0].get_loop()).result(5)
        partner.token = partner.new_token(grant_type="client_credentials")["access_token"]
        partner.add_patient()
        seal()
        published = {k["kid"] for k in partner.http.get("/.well-known/jwks.json").json()["keys"]}
        seals = partner.get("/v1/audit/seals")["items"]
        assert seals[0]["kid"] not in published
        with httpx.Client(base_url=partner.base_url, headers={"Authorization": f"Bearer {partner.token}"}) as http:
            found = verify(http, partner.partner_id, None)
        assert (found.fault, found.seals) == (None, 2)


def test_the_report_names_everyone_who_read_of_a_patient(partner):
    """What a client knows it has read, by single reads, lists and phones, all stands in the report."""
    episode = partner.add_episode()
    episode.assess({**PHQ9, "9": 1})
    reader = partner.clinician_token(episode.cover)
    lists = ["/v1/patients", "/v1/episodes", "/v1/due", "/v1/sessions", "/v1/risk-alerts"]
    for path in [episode.path, f"{episode.path}/inventory", *lists]:
        partner.get(path, token=reader)
    phone = Device(partner, episode.lead).pull()
    phone.push(mutation("goal", "create", episode_id=episode.id, text="x", term="short"))
    events = partner.get(f"/v1/audit-events?patient_id={episode.patient_id}&limit=1000")["items"]
    seen = {(e["route"], e["person"]) for e in events}
    for path in ["/v1/patients", "/v1/episodes", "/v1/due", "/v1/risk-alerts"]:
        assert (f"GET {path}", f"clinician:{episode.cover}") in seen, path
    assert ("GET /v1/sync/pull", f"clinician:{episode.lead}") in seen
    assert ("POST /v1/sync/push", f"clinician:{episode.lead}") in seen
    report = partner.get(f"/v1/patients/{episode.patient_id}/access-report")["items"]
    assert {r["person"] for r in report} >= {None, f"clinician:{episode.cover}", f"clinician:{episode.lead}"}
    assert sum(r["times"] for r in report) >= len(events)


def test_events_are_found_by_their_filters_and_are_the_partners_own(partner, other_partner):
    patient = partner.add_patient()
    partner.send("GET", f"/v1/patients/{patient['id']}", X_Request_Id="look-1")
    (event,) = partner.get("/v1/audit-events?request_id=look-1")["items"]
    assert (event["route"], event["outcome"], event["patient_id"]) == ("GET /v1/patients/{patient_id}", 200, patient["id"])
    assert other_partner.get("/v1/audit-events?request_id=look-1")["items"] == []
    assert partner.get("/v1/audit-events?at_to=2020-01-01T00:00:00Z")["items"] == []
    first = partner.get("/v1/audit-events?limit=1")
    assert partner.get(f"/v1/audit-events?limit=1&cursor={first['next']}")["items"] != first["items"]
    assert partner.send("GET", "/v1/audit-events?seal=0").status_code == 422
    for shape in (patient["id"], "clinician:x", "x"):
        assert partner.send("GET", f"/v1/audit-events?person={shape}").status_code == 422, "a shape that fits nobody is no answer of 'nobody'"
    by_name = partner.get(f"/v1/audit-events?client_id={partner.client_id.partition('.')[2]}&limit=1000")["items"]
    assert by_name == partner.get(f"/v1/audit-events?client_id={partner.client_id}&limit=1000")["items"][: len(by_name)]
    assert by_name
    token = partner.clinician_token(partner.add_clinician()["id"])
    assert partner.send("GET", "/v1/audit-events", token=token).status_code == 403
    assert other_partner.send("GET", f"/v1/patients/{patient['id']}/access-report").status_code == 404


def test_events_come_as_fhir_audit_events(partner):
    episode = partner.add_episode()
    partner.get(f"{episode.path}/inventory", token=episode.token)
    partner.send("GET", f"{episode.path}/goals/01a00000-0000-7000-8000-000000000000", token=episode.token)
    answer = partner.send("GET", f"/v1/audit-events?patient_id={episode.patient_id}&format=fhir")
    assert answer.headers["content-type"] == "application/fhir+json"
    bundle = answer.json()
    assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "collection")
    resources = [e["resource"] for e in bundle["entry"]]
    for r in resources:
        assert r["resourceType"] == "AuditEvent"
        assert r["action"] in "CRUDE"
        assert r["outcome"] in {"0", "4", "8"}
        assert sum(a["requestor"] for a in r["agent"]) == 1
        assert {"type", "recorded", "agent", "source"} <= set(r), "what R4 makes mandatory"
    read = next(r for r in resources if r["action"] == "R" and r["outcome"] == "0")
    assert read["entity"][0]["what"]["reference"] == f"Patient/{episode.patient_id}"
    assert read["entity"][0]["role"]["code"] == "1"


def test_no_event_holds_anything_written(partner):
    episode = partner.add_episode()
    episode.add_relationship(label="Zarathustra")
    partner.send("POST", f"{episode.path}/goals", {"text": "Zarathustra", "x": "Zarathustra"})
    partner.send("GET", "/v1/patients?external_ref=Zarathustra")
    assert "Zarathustra" not in partner.send("GET", "/v1/audit-events?limit=1000").text


def test_the_command_and_the_fifty_lines_of_the_docs_verify_the_same_trail(partner, sealed, database_url, tmp_path):
    kept = tmp_path / "seal.json"
    environment = {"PATH": "/usr/bin:/bin", "IPT_CLIENT_ID": partner.client_id, "IPT_CLIENT_SECRET": partner.secret, "PYTHONPATH": str(ROOT)}
    command = ("audit", "verify", "--url", partner.base_url, "--kept", str(kept))
    script = [sys.executable, str(ROOT / "docs" / "verify_audit.py"), partner.base_url, partner.client_id, partner.secret]

    def run(arguments):
        return subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    good = ipt(*command, env=environment)
    assert good.returncode == 0, good.stderr
    assert "3 seals over" in good.stdout
    assert json.loads(kept.read_text())["number"] == 3
    assert run(script).stdout.startswith("3 seals over")
    run_sql(database_url, f"UPDATE audit_event SET person = 'clinician:x' WHERE partner_id = '{partner.partner_id}' AND sealed_by = 2")
    assert ipt(*command, env=environment).returncode == 1
    assert "Seal 2: an event under it was changed." in ipt(*command, env=environment).stderr
    assert run(script).returncode == 1
