"""Erasure: the key at once, the rows within seconds, everywhere; with a certificate, and never under a legal hold."""

import asyncio
import json
import os
import re
import subprocess
import threading
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from app.binaries import candidates
from app.store.protection import STAYS
from app.store.tables.every import SHARED_TABLES, metadata
from tests.driver import PATIENT, PHQ9, Device, mutation, now

PLANTED = [f"planted{n}x{uuid4().hex[:8]}" for n in range(11)]


def planted_course(partner):
    """A course with a planted word in every kind of text, an emergency access, phones, a couple, a group, kept answers."""
    words = iter(PLANTED)
    patient = partner.add_patient(external_ref=next(words))
    episode = partner.add_episode(patient=patient)
    partner.post(
        f"/v1/patients/{patient['id']}/consents",
        {"purpose": "treatment", "given": True, "wording": "v1", "decided_at": now(days=90), "note": next(words)},
    )
    person = episode.add_relationship(label=next(words), satisfying=next(words))
    episode.add_event(supports_lost=next(words))
    partner.post(f"{episode.path}/problems", {"text": next(words)})
    partner.send("POST", f"{episode.path}/goals", {"text": next(words)}, Idempotency_Key=str(uuid4()))
    session = episode.hold()
    partner.put(f"{episode.path}/sessions/{session['id']}/note", {"text": next(words)}, token=episode.token)
    episode.assess({**PHQ9, "9": 1})
    outsider = partner.clinician_token(partner.add_clinician()["id"])
    partner.post("/v1/break-glass", {"patient_id": patient["id"], "reason": f"On call tonight: {next(words)}"}, token=outsider)
    phone = Device(partner, patient["id"], kind=PATIENT)
    doctor, second = Device(partner, episode.lead), Device(partner, episode.cover)
    for device, word in ((doctor, next(words)), (second, next(words))):
        device.push(mutation("relationship", "update", person["id"], 1, label=word))
    partner.send("GET", f"/v1/patients?external_ref={PLANTED[0]}")
    partner.send("GET", "/v1/due")
    partner.get("/v1/exports/charts")
    return episode, phone, doctor


def test_one_erasure_that_fails_holds_up_no_other(partner, other_partner, upkept, monkeypatch):
    from app.actions import protection  # noqa: PLC0415

    patients = [partner.add_patient()["id"], partner.add_patient()["id"]]
    foreign = other_partner.add_patient()["id"]
    for one, whose in ((patients[0], partner), (patients[1], partner), (foreign, other_partner)):
        whose.post(f"/v1/patients/{one}/erasure", {"requested_by": "patient"})
    honest = protection.delete_rows_of

    async def failing(connection, patient_id, shared_ids):
        if str(patient_id) == patients[0]:
            raise RuntimeError("a row that cannot be deleted")
        return await honest(connection, patient_id, shared_ids)

    monkeypatch.setattr(protection, "delete_rows_of", failing)
    assert upkept("erase_rows") >= 2
    done = [partner.get(f"/v1/patients/{p}/erasure")["rows_erased_at"] is not None for p in patients]
    assert (done, other_partner.get(f"/v1/patients/{foreign}/erasure")["rows_erased_at"] is not None) == ([False, True], True)
    monkeypatch.undo()
    upkept("erase_rows")
    assert partner.get(f"/v1/patients/{patients[0]}/erasure")["rows_erased_at"] is not None


def test_no_kept_answer_list_or_history_shows_anything_before_the_worker_comes(partner):
    """Between the order and the worker's round, and with no worker at all."""
    group = partner.add_group()
    _, episode = partner.add_group_member(group)
    held = {"starts_at": now(days=1), "participants": [{"episode_id": episode.id}]}
    path = f"/v1/groups/{group['id']}/sessions"
    assert partner.send("POST", path, held, Idempotency_Key="group-1").status_code == 201
    person = episode.add_relationship()
    phones = [Device(partner, episode.lead), Device(partner, episode.cover)]
    for n, phone in enumerate(phones):
        phone.push(mutation("relationship", "update", person["id"], 1, label=f"L{n}"))
    assert partner.get("/v1/sync/conflicts")["items"]
    partner.post(f"/v1/patients/{episode.patient_id}/erasure", {"requested_by": "patient"})
    again = partner.send("POST", path, held, Idempotency_Key="group-1")
    assert again.status_code == 404, again.text
    assert partner.get("/v1/sync/conflicts")["items"] == []
    assert partner.get(f"/v1/groups/{group['id']}/members")["items"] == []
    for listed in ("/v1/episodes", "/v1/patients", "/v1/sessions", "/v1/due"):
        assert episode.patient_id not in partner.send("GET", listed).text


def test_the_feed_keeps_no_state_of_the_persons_phones_and_couples(partner, upkept, database_url):
    couple = partner.add_couple()
    episode = partner.get(f"/v1/episodes/{couple['first_episode_id']}")
    phone = Device(partner, episode["patient_id"], kind=PATIENT, device_label="Anna's phone")
    partner.post(f"/v1/patients/{episode['patient_id']}/erasure", {"requested_by": "patient"})
    upkept("erase_rows")

    async def left():
        engine = create_async_engine(database_url)
        async with engine.connect() as connection:
            query = sa.text("SELECT op, state FROM change WHERE entity_id = ANY(:ids) ORDER BY seq")
            rows = (await connection.execute(query, {"ids": [UUID(phone.id), UUID(couple["id"])]})).all()
        await engine.dispose()
        return rows

    rows = asyncio.run(left())
    assert [state for _, state in rows if state is not None] == []
    assert [op for op, _ in rows].count("delete") == 2


def rows_holding(database_url, partner_id, word):
    """Return the tables of which a row, in whatever column, holds a text."""

    async def done():
        engine = create_async_engine(database_url)
        found = []
        async with engine.connect() as connection:
            for table in metadata.tables.values():
                where = "" if table.name in SHARED_TABLES else f" WHERE partner_id = '{partner_id}'"
                rows = (await connection.execute(sa.text(f"SELECT t::text AS r FROM {table.name} t{where}"))).scalars().all()
                if any(word in r or word.encode().hex() in r for r in rows):
                    found.append(table.name)
        await engine.dispose()
        return found

    return asyncio.run(done())


def test_after_an_erasure_nothing_is_left_anywhere(partner, service, upkept, database_url, capfd):
    episode, _, doctor = planted_course(partner)
    patient = f"/v1/patients/{episode.patient_id}"
    doctor.pull()
    assert doctor.rows
    certificate = partner.post(f"{patient}/erasure", {"requested_by": "patient"})
    assert (certificate["rows_erased_at"], certificate["requested_by"]) == (None, "patient")
    for path in (patient, episode.path, f"{episode.path}/inventory", f"{episode.path}/timeline", f"{patient}/consents", f"{patient}/history"):
        assert partner.send("GET", path).status_code == 404, path
    assert partner.send("POST", f"{patient}/export", {}).status_code == 404
    assert partner.get(f"/v1/patients?external_ref={PLANTED[0]}")["items"] == []
    assert upkept("erase_rows") >= 1
    certificate = partner.get(f"{patient}/erasure")
    assert certificate["rows_erased_at"] is not None
    assert certificate["counts"]["relationship"] == 1
    assert certificate["counts"]["change"] > 5
    for word in PLANTED:
        assert rows_holding(database_url, partner.partner_id, word) == [], word
    doctor.pull()
    assert {k for k in doctor.rows if k[0] != "device"} == set()
    assert not [w for w in PLANTED if w in "".join(capfd.readouterr())]
    assert partner.get(f"{patient}/access-report")["items"], "who read it stays on record"


def test_the_rows_of_an_erased_patient_are_gone_from_every_table_but_those_that_say_why_they_stay(partner, upkept, database_url):
    episode, _, _ = planted_course(partner)
    other = partner.add_episode()
    other.add_relationship()
    couple, group = partner.add_couple(), partner.add_group()
    partner.add_group_member(group)
    ids = [episode.patient_id, *(partner.get(f"/v1/episodes/{couple[f'{side}_episode_id']}")["patient_id"] for side in ("first",))]
    for patient_id in ids:
        partner.post(f"/v1/patients/{patient_id}/erasure", {"requested_by": "partner"})
    upkept("erase_rows")

    async def left():
        engine = create_async_engine(database_url)
        found = {}
        async with engine.connect() as connection:
            for table in metadata.tables.values():
                if "patient_id" in table.c or table.name == "patient":
                    column = "id" if table.name == "patient" else "patient_id"
                    query = sa.text(f"SELECT count(*) FROM {table.name} WHERE {column} = ANY(:ids)")
                    found[table.name] = (await connection.execute(query, {"ids": [UUID(i) for i in ids]})).scalar()
            devices = (
                await connection.execute(sa.text("SELECT count(*) FROM device WHERE person_id = ANY(:ids)"), {"ids": [UUID(i) for i in ids]})
            ).scalar()
        await engine.dispose()
        return {n for n, count in found.items() if count}, devices

    tables, devices = asyncio.run(left())
    assert devices == 0
    assert tables <= set(STAYS) | {"webhook_delivery"}
    assert partner.send("GET", f"/v1/couples/{couple['id']}").status_code == 404
    assert partner.get(other.path)["id"] == other.id, "the next patient is untouched"


def test_the_order_itself_destroys_the_key_and_blanks_kept_answers(partner, database_url):
    """What a thief of the database and of the key file finds after the order, though no worker has come."""
    patient = partner.add_patient()
    path = f"/v1/patients/{patient['id']}/consents"
    body = {"purpose": "treatment", "given": True, "wording": "v1", "decided_at": now(), "note": "x"}
    partner.send("POST", path, body, Idempotency_Key="kept-1")
    partner.post(f"/v1/patients/{patient['id']}/erasure", {"requested_by": "patient"})

    async def left():
        engine = create_async_engine(database_url)
        async with engine.connect() as connection:
            one = {"p": UUID(patient["id"])}
            key = (await connection.execute(sa.text("SELECT wrapped, destroyed_at FROM patient_key WHERE patient_id = :p"), one)).one()
            answers = (await connection.execute(sa.text("SELECT answer FROM idempotency_key WHERE patient_id = :p"), one)).scalars().all()
        await engine.dispose()
        return key, answers

    (wrapped, destroyed_at), answers = asyncio.run(left())
    assert wrapped is None
    assert destroyed_at is not None
    assert set(answers) == {b""}


def test_a_legal_hold_keeps_a_record_and_says_so(partner):
    patient = partner.add_patient()
    path = f"/v1/patients/{patient['id']}"
    partner.put(f"{path}/protection", {"restricted_because": None, "legal_hold": True}, etag='"1.1"')
    answer = partner.send("POST", f"{path}/erasure", {"requested_by": "patient"})
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/under-legal-hold")
    partner.put(f"{path}/protection", {"restricted_because": None, "legal_hold": False}, etag='"2.1"')
    assert partner.send("POST", f"{path}/erasure", {"requested_by": "patient"}).status_code == 201


def test_an_erasure_takes_every_registration_of_the_person(partner, upkept):
    one, two = partner.add_patient(), partner.add_patient()
    partner.post(f"/v1/patients/{one['id']}/duplicates", {"patient_id": two["id"]})
    partner.post(f"/v1/patients/{two['id']}/erasure", {"requested_by": "guardian"})
    for patient in (one, two):
        assert partner.send("GET", f"/v1/patients/{patient['id']}").status_code == 404
        assert partner.get(f"/v1/patients/{patient['id']}/erasure")["requested_by"] == "guardian"


def test_a_repeated_erasure_returns_the_certificate_and_a_kept_answer_is_not_lost(partner):
    patient = partner.add_patient()
    path = f"/v1/patients/{patient['id']}/erasure"
    first = partner.send("POST", path, {"requested_by": "patient"}, Idempotency_Key="erase-1")
    again = partner.send("POST", path, {"requested_by": "patient"}, Idempotency_Key="erase-1")
    assert (first.status_code, again.status_code, first.content) == (201, 201, again.content)
    third = partner.send("POST", path, {"requested_by": "patient"})
    assert (third.status_code, third.json()["id"]) == (200, first.json()["id"])
    assert partner.send("POST", "/v1/patients", {"id": patient["id"]}).status_code == 409, "the id of an erased patient does not come back"


def test_an_erased_patients_tokens_die_and_none_is_made_again(partner, service):
    episode = partner.add_episode()
    token = partner.new_token(
        grant_type="urn:ietf:params:oauth:grant-type:token-exchange", subject_token=episode.patient_id, subject_token_type=PATIENT
    )
    partner.post(f"/v1/patients/{episode.patient_id}/erasure", {"requested_by": "patient"})
    refused = partner.ask_token(
        grant_type="urn:ietf:params:oauth:grant-type:token-exchange", subject_token=episode.patient_id, subject_token_type=PATIENT
    )
    assert refused.status_code == 400
    deadline = threading.Event()
    for _ in range(50):
        if partner.send("GET", "/v1/sync/pull", token=token["access_token"]).status_code == 401:
            break
        deadline.wait(0.1)
    else:
        pytest.fail("the token of an erased patient lives on")


def test_writers_that_race_an_erasure_leave_nothing_behind(partner, upkept, database_url):
    episode = partner.add_episode()
    stop = threading.Event()
    statuses = []

    def write():
        while not stop.is_set():
            statuses.append(partner.send("POST", f"{episode.path}/goals", {"text": "raced"}).status_code)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for t in threads:
        t.start()
    threading.Event().wait(0.4)
    partner.post(f"/v1/patients/{episode.patient_id}/erasure", {"requested_by": "patient"})
    threading.Event().wait(0.3)
    stop.set()
    for t in threads:
        t.join()
    assert {201, 404} <= set(statuses) <= {201, 404}
    upkept("erase_rows")

    async def left():
        engine = create_async_engine(database_url)
        async with engine.connect() as connection:
            goals = (await connection.execute(sa.text("SELECT count(*) FROM goal WHERE patient_id = :p"), {"p": UUID(episode.patient_id)})).scalar()
            newest = "SELECT DISTINCT ON (entity, entity_id) op, state FROM change WHERE patient_id = :p AND entity = 'goal' ORDER BY entity, entity_id, seq DESC"
            told = (await connection.execute(sa.text(newest), {"p": UUID(episode.patient_id)})).all()
        await engine.dispose()
        return goals, {op for op, _ in told}, [s for _, s in told if s is not None]

    assert asyncio.run(left()) == (0, {"delete"}, [])


def test_an_erasure_is_told_to_webhooks_and_needs_its_scope(partner, service):
    with service.partner(scopes={"patients:write", "patients:read"}) as narrow:
        patient = narrow.add_patient()
        assert narrow.send("POST", f"/v1/patients/{patient['id']}/erasure", {"requested_by": "patient"}).status_code == 403
    patient = partner.add_patient()
    start = partner.get("/v1/events?limit=1000")["next"]
    partner.post(f"/v1/patients/{patient['id']}/erasure", {"requested_by": "patient"})
    assert [e["type"] for e in partner.get(f"/v1/events?since={start}")["events"]] == ["erasure.created", "patient.deleted"]


def test_a_dump_of_the_database_holds_no_planted_text(partner, service, database_url):
    """What a thief of a backup sees: ids, codes, scores, dates, and nothing that was written or named."""
    planted_course(partner)
    program = next(c.folder / "pg_dump" for c in candidates(os.environ.get("IPT_POSTGRES", "auto")))
    url = make_url(database_url)
    dump = subprocess.run([str(program), "-h", url.query["host"], "-U", url.username, url.database], capture_output=True, text=True, check=False)
    assert dump.returncode == 0, dump.stderr
    assert re.search(rf"\b{partner.partner_id}\b", dump.stdout), "it is the right database"
    assert [w for w in PLANTED if w in dump.stdout or w.encode().hex() in dump.stdout or json.dumps(w)[1:-1] in dump.stdout] == []
