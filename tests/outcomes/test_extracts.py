"""Extracts: two people approve, k of eleven, no join between two of them, one link for one fetch; A8 and A14; checked by other people's tools."""

import csv
import hashlib
import io
import json
import random
import re
import statistics
import subprocess
import zipfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from app import releasing
from app.domain.anonymity import COLUMNS, LADDERS, LEVELS, PROFILES
from app.domain.outcome_tables import dimensions
from app.keys.provider import read_key_ring
from app.releasing import clear_old_extracts, make_extracts
from app.store.facts import records
from tests.conftest import newest_partners_only
from tests.driver import CLINICIAN, EXCHANGE
from tests.outcomes.conftest import ATTACK, PERIOD, as_worker, later, periods

ANALYST = Path(__file__).resolve().parents[2] / ".venv-analyst" / "bin" / "python"
READ_EXTRACT = Path(__file__).resolve().parents[2] / "docs" / "read_extract.py"
DECADES = ("18_to_29", "30_to_39", "40_to_49", "50_to_59", "60_to_69", "70_to_79")
BANDS = ("mild", "moderate", "moderately_severe", "severe")


YEAR = next([f"{y}Q{n}" for n in range(1, 5)] for y in sorted({p[:4] for p in periods()}, reverse=True) if {f"{y}Q1", f"{y}Q4"} <= set(periods()))


def order(**more):
    return {
        "period_from": YEAR[0],
        "period_to": YEAR[-1],
        "purpose": "research",
        "agreement_id": "DUA-7",
        "formats": ["parquet", "ndjson", "csv"],
    } | more


def people(number, seed=1, *, odd=0):
    """Facts of many different people, and of some whom nobody resembles."""
    chance = random.Random(seed)
    groups = Counter()
    for _ in range(number):
        groups[
            chance.choices(DECADES, (25, 25, 20, 15, 10, 5))[0],
            chance.choices(("female", "male"), (60, 40))[0],
            chance.choices(("IPT-16", "IPT-12", "DIT"), (60, 30, 10))[0],
            chance.choices(("in_person", "remote"), (60, 40))[0],
            chance.choices(dimensions()["sessions_band"].categories, (15, 20, 45, 20))[0],
            chance.choices(dimensions()["area"].categories, (22, 32, 36, 6, 4))[0],
            chance.choices(("improved_phq9", "none", "deteriorated_phq9"), (60, 32, 8))[0],
            chance.random() < 0.35,
            chance.choice(BANDS),
        ] += 1
    names = ("age_decade", "sex", "protocol", "modality", "sessions_band", "area")
    facts = [
        (
            n,
            dict(zip(names, key[:6], strict=True)) | ({key[6]: True} if key[6] != "none" else {}) | {"remitted": key[7], "severity_at_start": key[8]},
        )
        for key, n in groups.items()
    ]
    oddities = [
        (1, {"age_decade": "90_and_over", "sex": "intersex", "protocol": "MIT-G", "modality": "mixed", "sessions_band": "1_to_3", "area": AREA})
        for AREA in ["interpersonal_deficits"] * odd
    ]
    return facts + oddities


class Desk:
    """A client that orders extracts, and the partner's people who approve them."""

    def __init__(self, population):
        self.population, self.partner = population, population.partner
        self.token = population.new_token("outcomes:extract")
        made = self.partner.post("/v1/clients", {"name": "board", "scopes": ["outcomes:approve", "token:exchange"]})
        self.board = (made["client_id"], made["client_secret"])

    def freeze(self, facts):
        """Put facts into the second quarter of a whole year that is frozen."""
        self.population.freeze_all({quarter: facts if quarter == YEAR[1] else [] for quarter in YEAR})

    def approver(self):
        form = {
            "grant_type": EXCHANGE,
            "subject_token_type": CLINICIAN,
            "scope": "outcomes:approve",
            "subject_token": self.partner.add_clinician()["id"],
        }
        return self.partner.http.post("/oauth/token", data=form, auth=self.board).json()["access_token"]

    def order(self, **more):
        return self.partner.send("POST", "/v1/outcomes/extracts", order(**more), token=self.token)

    def approve(self, extract_id, token=None):
        return self.partner.send("POST", f"/v1/outcomes/extracts/{extract_id}/approvals", {}, token=token or self.approver())

    def read(self, extract_id):
        return self.partner.get(f"/v1/outcomes/extracts/{extract_id}", token=self.token)

    def make(self):
        service = self.population.service
        ring = read_key_ring(service.settings.keys_path)
        return as_worker(service, lambda database: make_extracts(database, ring, later()))

    def made(self, **more):
        extract_id = self.order(**more).json()["id"]
        for _ in range(2):
            assert self.approve(extract_id).status_code == 201
        self.make()
        return self.read(extract_id)

    def link(self, extract_id):
        return self.partner.send("POST", f"/v1/outcomes/extracts/{extract_id}/links", {}, token=self.token)

    def fetch(self, extract_id):
        answer = self.partner.send("GET", self.link(extract_id).json()["url"], token=self.token)
        assert answer.status_code == 200, answer.text
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def rows(self, extract_id):
        return [json.loads(line) for line in self.fetch(extract_id)["outcomes.ndjson"].splitlines()]


@pytest.fixture
def desk(population):
    return Desk(population)


def test_an_extract_is_made_when_two_different_people_have_approved_it(desk):
    desk.freeze(people(1_500))
    ordered = desk.order()
    assert ordered.status_code == 201, ordered.text
    extract_id = ordered.json()["id"]
    assert ordered.json()["status"] == "awaiting_approval"
    assert desk.make() == 0
    first = desk.approver()
    waiting = desk.partner.get("/v1/outcomes/extracts/awaiting-approval", token=first)["items"]
    assert [x["id"] for x in waiting] == [extract_id]
    assert desk.approve(extract_id, first).json()["status"] == "awaiting_approval"
    assert desk.approve(extract_id, first).json()["type"] == "/problems/approved-already"
    assert desk.make() == 0
    own = desk.partner.clinician_token(desk.partner.add_clinician()["id"], scope="outcomes:approve")
    assert desk.approve(extract_id, own).json()["type"] == "/problems/own-order", "whoever ordered mints no approvers"
    bare = desk.population.new_token("outcomes:approve")
    assert desk.approve(extract_id, bare).status_code == 403, "a client is nobody who could approve"
    assert desk.approve(extract_id).json()["status"] == "ordered"
    assert desk.make() == 1
    found = desk.read(extract_id)
    assert found["status"] == "ready"
    assert len({a["clinician_id"] for a in found["approvals"]}) == 2
    manifest = found["manifest"]
    assert manifest["k"] >= 11
    assert manifest["l"] >= 2
    assert manifest["largest_risk"] <= 1 / 11
    assert manifest["suppressed_share"] <= 0.10
    assert manifest["agreement_id"] == "DUA-7"
    files = desk.fetch(extract_id)
    assert set(files) == {"outcomes.parquet", "outcomes.ndjson", "outcomes.csv", "manifest.json"}
    told = json.loads(files["manifest.json"])
    assert {f["name"]: f["sha256"] for f in told["files"]} == {n: hashlib.sha256(d).hexdigest() for n, d in files.items() if n != "manifest.json"}
    rows = [json.loads(line) for line in files["outcomes.ndjson"].splitlines()]
    assert list(rows[0]) == list(COLUMNS)
    assert len(rows) == manifest["records"]
    assert [r["extract_pid"] for r in rows] == sorted(r["extract_pid"] for r in rows)
    assert {r["period"] for r in rows} == {YEAR[0][:4]}, "safe harbor: no date finer than the year"
    assert len(list(csv.DictReader(io.StringIO(files["outcomes.csv"].decode())))) == len(rows)
    plain = (files["outcomes.ndjson"] + files["outcomes.csv"]).decode()
    assert not re.search(r"\d{4}-\d\d-\d\d|T\d\d:\d\d|clinician", plain)


def test_a_link_opens_the_file_once_and_only_for_the_client_that_ordered(desk):
    desk.freeze(people(1_200))
    extract_id = desk.made()["id"]
    url = desk.link(extract_id).json()["url"]
    other = desk.partner.post("/v1/clients", {"name": "other", "scopes": ["outcomes:extract"]})
    theirs = desk.partner.http.post(
        "/oauth/token", data={"grant_type": "client_credentials"}, auth=(other["client_id"], other["client_secret"])
    ).json()["access_token"]
    assert desk.partner.send("GET", url, token=theirs).status_code == 404
    assert desk.partner.http.get(url).status_code == 401, "the link alone opens nothing"
    assert desk.partner.send("GET", url[:-1] + ("A" if url[-1] != "A" else "B"), token=desk.token).json()["type"] == "/problems/link-used"
    first = desk.partner.send("GET", url, token=desk.token)
    assert first.status_code == 200
    assert first.headers["cache-control"] == "no-store"
    assert desk.partner.send("GET", url, token=desk.token).json()["type"] == "/problems/link-used"
    key = {"Idempotency_Key": str(uuid4())}
    replayed = [desk.partner.send("POST", f"/v1/outcomes/extracts/{extract_id}/links", {}, token=desk.token, **key).json()["url"] for _ in range(2)]
    assert replayed[0]
    assert replayed[1] is None, "a link is shown once"


def test_a_day_later_or_cancelled_the_file_is_gone(desk, monkeypatch):
    newest_partners_only(monkeypatch, "app.releasing", 1)
    service = desk.population.service
    desk.freeze(people(1_200))
    kept, cancelled = desk.made()["id"], desk.made()["id"]
    done = desk.partner.send("POST", f"/v1/outcomes/extracts/{cancelled}/cancellation", {}, token=desk.token)
    assert done.json()["status"] == "cancelled"
    assert desk.link(cancelled).json()["type"] == "/problems/extract-gone"
    waiting = desk.order().json()["id"]
    desk.partner.post(f"/v1/outcomes/extracts/{waiting}/cancellation", {}, token=desk.token)
    assert desk.approve(waiting).json()["type"] == "/problems/extract-not-waiting"
    assert as_worker(service, lambda database: clear_old_extracts(database, later(hours=23))) == 1
    assert desk.read(kept)["status"] == "ready"
    url = desk.link(kept).json()["url"]
    assert as_worker(service, lambda database: clear_old_extracts(database, later(hours=25))) == 1
    assert desk.read(kept)["status"] == "expired"
    assert desk.partner.send("GET", url, token=desk.token).json()["type"] == "/problems/extract-gone"
    assert desk.population.ask_database("SELECT 1 FROM outcome_file WHERE partner_id = $1", desk.population.id) == []
    statuses = Counter(x["status"] for x in desk.partner.get("/v1/outcomes/extracts", token=desk.token)["items"])
    assert statuses == {"expired": 1, "cancelled": 2}
    assert len(desk.partner.get("/v1/outcomes/extracts?status=cancelled&limit=1", token=desk.token)["items"]) == 1


REFUSED = [
    ({"period_from": "2026Q7"}, 422, "period-unknown"),
    ({"period_from": YEAR[1]}, 422, "invalid"),
    ({"period_to": YEAR[2]}, 422, "invalid"),
    ({"period_from": YEAR[3], "period_to": YEAR[0]}, 422, "invalid"),
    ({"period_to": "2099Q4"}, 409, "period-open"),
    ({"period_from": "2001Q1"}, 409, "period-open"),
    ({"profile": "expert", "determination_id": "ED-1", "period_to": PERIOD}, 409, "period-open"),
    ({"profile": "expert"}, 422, "invalid"),
    ({"profile": "none"}, 422, "invalid"),
    ({"formats": ["xlsx"]}, 422, "invalid"),
    ({"formats": []}, 422, "invalid"),
    ({"purpose": "curiosity"}, 422, "invalid"),
    ({"agreement_id": ""}, 422, "invalid"),
    ({"agreement_id": None}, 422, "invalid"),
]


@pytest.mark.parametrize(("change", "status", "problem"), REFUSED, ids=[str(c[0]) for c in REFUSED])
def test_an_order_that_cannot_be_is_refused_before_anything_is_looked_at(desk, change, status, problem):
    desk.freeze([(1, {})])
    answer = desk.order(**change)
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == f"/problems/{problem}"


def test_too_few_people_end_the_order_with_a_problem_that_gives_no_number(desk):
    for number in (0, 8):
        if number:
            desk.freeze(people(number))
        else:
            desk.freeze([])
        found = desk.made()
        assert found["status"] == "failed"
        assert found["failure"] == "KUnreachable"
        assert found["manifest"] is None
        assert desk.link(found["id"]).json()["type"] == "/problems/extract-gone"
    assert desk.partner.http.get("/problems/k-unreachable").status_code == 200


def test_a8_linking_a_registry_with_an_extract_singles_nobody_out_and_two_extracts_share_no_pseudonym(desk, record_property):
    facts = people(5_000 if ATTACK else 1_500, seed=8)
    desk.freeze(facts)
    for profile, more in (("safe_harbor", {}), ("expert", {"determination_id": "ED-1"})):
        first, second = desk.made(profile=profile, **more), desk.made(profile=profile, **more)
        known = first["manifest"]["known_columns"]
        rows = desk.rows(first["id"])
        classes = Counter(tuple(r[c] for c in known) for r in rows)
        assert min(classes.values()) >= 11
        levels = {c: LEVELS[c].index(name) for c, name in first["manifest"]["levels"].items()}
        registry = [f for n, f in facts for _ in range(n)][:2_000]
        alike = Counter(tuple(v for n, v in r.items() if n not in {"extract_pid", "remission"}) for r in rows)
        assert profile == "safe_harbor" or min(alike.values()) >= 11, "to an expert's attacker, who knows all but the remission"
        guesses, singled = [], 0
        for person in registry:
            true = {"age": person["age_decade"], "period": YEAR[1], "outcome_band": _band(person)} | person
            found = classes.get(tuple(LADDERS[c][levels[c]](true[c]) for c in known), 0)
            singled += found == 1
            guesses.append(1 / found if found else 0)
        assert singled == 0
        assert max(guesses) <= 1 / 11
        assert statistics.mean(guesses) <= 0.05
        shared = {r["extract_pid"] for r in rows} & {r["extract_pid"] for r in desk.rows(second["id"])}
        assert shared == set()
        record_property(
            "tried",
            f"A8: {profile}: k {first['manifest']['k']}, l {first['manifest']['l']}, left out {first['manifest']['suppressed_share']:.2f};"
            f" {len(registry)} people linked: singled out 0, right by chance {statistics.mean(guesses):.3f}, greatest risk {max(guesses):.3f}; pseudonyms shared by two extracts 0",
        )


def _band(person):
    return (
        "reliable_improvement"
        if person.get("improved_phq9")
        else "reliable_deterioration"
        if person.get("deteriorated_phq9")
        else "no_reliable_change"
    )


def test_a14_people_whom_nobody_resembles_are_in_no_extract(desk, record_property):
    desk.freeze(people(1_500, seed=14, odd=20 if ATTACK else 8))
    seen = 0
    for profile, more in (("safe_harbor", {}), ("expert", {"determination_id": "ED-1"})):
        rows = desk.rows(desk.made(profile=profile, **more)["id"])
        classes = Counter(tuple(r[c] for c in PROFILES[profile].known) for r in rows)
        assert min(classes.values()) >= 11
        seen += sum(r["sex"] == "intersex" or r["protocol"] == "MIT-G" or r["modality"] == "mixed" for r in rows)
    record_property("tried", f"A14: people with a combination of their own seen in an extract: {seen}")
    assert seen == 0


def test_one_person_is_one_record_however_many_courses(desk):
    desk.freeze(people(1_200))
    desk.population.ask_database(
        "INSERT INTO outcome_fact SELECT (jsonb_populate_record(f, jsonb_build_object('quarter', $2::text, 'episode_id', gen_random_uuid()))).*"
        " FROM outcome_fact f WHERE partner_id = $1 AND quarter = $3",
        desk.population.id,
        YEAR[0],
        YEAR[1],
    )
    found = desk.made()
    assert found["status"] == "ready", found
    manifest = found["manifest"]
    assert manifest["records"] - manifest["made_up_records"] <= 1_200
    assert manifest["periods"] == YEAR


def test_registrations_that_are_one_person_give_one_record(desk):
    desk.freeze(people(1_200))
    ids = [
        r["patient_id"]
        for r in desk.population.ask_database("SELECT patient_id FROM outcome_fact WHERE partner_id = $1 ORDER BY patient_id", desk.population.id)
    ]
    for one, other in zip(ids[:100:2], ids[1:100:2], strict=True):
        desk.population.ask_database("UPDATE patient SET merged_into = $3 WHERE partner_id = $1 AND id = $2", desk.population.id, other, one)
    moved = "UPDATE outcome_fact SET quarter = $2 WHERE partner_id = $1 AND patient_id = ANY($3)"
    desk.population.ask_database(moved, desk.population.id, YEAR[0], ids[1:100:2])
    service = desk.population.service

    async def job(database):
        async with database.transaction(UUID(desk.population.id)) as connection:
            return await records(connection, YEAR)

    found = as_worker(service, job)
    assert len(found) == 1_200
    assert len({r["person_id"] for r in found}) == 1_150


def test_an_extract_that_is_cancelled_while_it_is_made_is_not_kept(desk, monkeypatch):
    desk.freeze(people(1_200))
    extract_id = desk.order().json()["id"]
    for _ in range(2):
        desk.approve(extract_id)
    whole = releasing.make_extract

    def slow(*arguments):
        desk.partner.post(f"/v1/outcomes/extracts/{extract_id}/cancellation", {}, token=desk.token)
        return whole(*arguments)

    monkeypatch.setattr(releasing, "make_extract", slow)
    assert desk.make() == 0
    assert desk.read(extract_id)["status"] == "cancelled"
    assert desk.population.ask_database("SELECT 1 FROM outcome_file WHERE extract_id = $1", extract_id) == []
    assert desk.population.ask_database("SELECT 1 FROM outcome_job WHERE id = $1", extract_id) == []


def test_a_leaked_copy_names_its_order(desk, tmp_path):
    import asyncio  # noqa: PLC0415

    from app.actions.privacy_caps import trace  # noqa: PLC0415
    from app.launch import owner_of  # noqa: PLC0415

    desk.freeze(people(1_200))
    found = desk.made()
    files = desk.fetch(found["id"])
    service = desk.population.service
    ring = read_key_ring(service.settings.keys_path)

    def traced(path):
        async def done():
            owner = owner_of(service.settings)
            try:
                return await trace(owner, ring, path)
            finally:
                await owner.close()

        return asyncio.run(done())

    for name in ("outcomes.csv", "outcomes.ndjson", "outcomes.parquet"):
        (tmp_path / name).write_bytes(files[name])
        [hit] = traced(tmp_path / name)
        assert (str(hit["id"]), hit["agreement_id"]) == (found["id"], "DUA-7")
        assert hit["hits"] == hit["of"] == found["manifest"]["made_up_records"]


@pytest.mark.skipif(not ANALYST.exists(), reason="the analyst's environment is not set up: make test does it")
def test_other_peoples_tools_read_an_extract_and_find_the_same_k(desk, tmp_path):
    desk.freeze(people(2_000, seed=5))
    found = desk.made()
    for name, data in desk.fetch(found["id"]).items():
        (tmp_path / name).write_bytes(data)
    read = subprocess.run([ANALYST, "-W", "error", READ_EXTRACT, tmp_path], capture_output=True, text=True, timeout=120, check=False)
    assert read.returncode == 0, read.stderr
    assert "DuckDB" in read.stdout
    assert "Polars" in read.stdout
    check = """
import json, sys, pandas as pd
from pycanon import anonymity
data = pd.read_csv(sys.argv[1], dtype=str, keep_default_na=False).reset_index(drop=True)
known, secret = json.loads(sys.argv[2]), json.loads(sys.argv[3])
print(json.dumps([int(anonymity.k_anonymity(data, known)), min(int(anonymity.l_diversity(data, known, [s])) for s in secret)]))
"""
    manifest = found["manifest"]
    arguments = [str(tmp_path / "outcomes.csv"), json.dumps(manifest["known_columns"]), json.dumps(manifest["secret_columns"])]
    checked = subprocess.run([ANALYST, "-c", check, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 0, checked.stderr
    k, l = json.loads(checked.stdout)  # noqa: E741
    assert k >= manifest["k"] >= 11
    assert l >= manifest["l"] >= 2


def test_what_is_not_text_of_ours_cannot_become_a_formula():
    from app.render.files import cell  # noqa: PLC0415

    assert [cell(v) for v in ("=1+1", "+1", "-1", "@x", "\tx", "\rx")] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "'\rx"]
    assert [cell(v) for v in (None, True, -1.5, "grief")] == ["", "true", "-1.5", "grief"]


def test_time_between_order_and_file_is_kept(desk):
    desk.freeze(people(1_200))
    found = desk.made()
    ordered, ready, ends = (datetime.fromisoformat(found[n]) for n in ("ordered_at", "ready_at", "expires_at"))
    assert ordered <= ready <= datetime.now(UTC)
    assert ends - ready == timedelta(hours=24)
