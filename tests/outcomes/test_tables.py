"""Anonymised tables over HTTP: asking, paying, reading; and what is refused without a word about the data."""

import csv
import io
import time
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from app.actions import outcome_tables
from app.actions.outcome_tables import is_ready
from app.domain.outcome_tables import dimensions, families
from app.domain.quarters import quarter_of
from tests.outcomes.conftest import PERIOD, SHOWN_AFTER, periods, release, values_of

ANSWERED_NOT_BEFORE = 0.25


def test_a_table_is_ordered_made_and_then_the_same_for_ever(population):
    population.freeze([(120, {"area": "grief"}), (200, {"area": "role_transition"})])
    asked = population.ask()
    assert asked.status_code == 202
    assert asked.json()["status"] == "ordered"
    assert asked.json()["cells"] is None
    assert asked.headers["location"] == f"/v1/outcomes/tables/{asked.json()['id']}"
    release(population.service)
    time.sleep(SHOWN_AFTER)
    first = population.partner.send("GET", asked.headers["location"], token=population.token)
    table = first.json()
    assert table["status"] == "ready"
    assert {c["categories"]["area"] for c in table["cells"]} == set(dimensions()["area"].categories), "every cell, the empty ones too"
    counts = values_of(table, "courses")
    assert abs(counts[("grief",)]["value"] - 120) <= 40
    assert counts[("interpersonal_deficits",)] == {"name": "courses", "unit": "persons", "value": None, "suppressed": True, "accuracy_95": None}
    assert counts[("grief",)]["accuracy_95"] == 9
    again = population.ask()
    assert again.status_code == 200
    assert again.content == first.content
    assert release(population.service) == 0
    assert population.spent() == 500_000
    assert population.spent("consumer|backend") == 500_000


def test_a_consumer_sees_a_table_not_before_its_time_whoever_made_it():
    asked = datetime.now(UTC)
    made = {"released_at": asked - timedelta(days=1), "standard": False, "asked_at": asked}
    assert not is_ready(made, asked + outcome_tables.SHOWN_AFTER - timedelta(milliseconds=1))
    assert is_ready(made, asked + outcome_tables.SHOWN_AFTER)
    assert not is_ready(made | {"released_at": None}, asked + timedelta(days=1))
    assert not is_ready(made | {"asked_at": None}, asked + timedelta(days=1))
    assert is_ready(made | {"asked_at": None, "standard": True}, asked)


def test_what_can_be_asked_and_what_is_left_is_told(population):
    population.freeze([(50, {})])
    offer = population.partner.get("/v1/outcomes/tables", token=population.token)
    assert {f["code"] for f in offer["families"]} == set(families())
    assert offer["dimensions"]["area"] == list(dimensions()["area"].categories)
    assert offer["epsilons"] == [0.25, 0.5, 1.0]
    mine = [p for p in offer["periods"] if p["dataset"] == "partner"]
    assert [p["period"] for p in mine] == periods()[::-1]
    assert mine[0]["state"] == "askable"
    assert mine[0]["micro_epsilon_left"] == {"population": 2_000_000, "follow_up": 1_000_000}
    assert {p["state"] for p in mine[1:]} == {"not_frozen_yet"}
    population.ask()
    [only] = [
        p for p in population.partner.get(f"/v1/outcomes/tables?period={PERIOD}", token=population.token)["periods"] if p["dataset"] == "partner"
    ]
    assert only["period"] == PERIOD
    offer = population.partner.get("/v1/outcomes/tables", token=population.token)
    assert next(p for p in offer["periods"] if p["dataset"] == "partner")["micro_epsilon_left"]["population"] == 1_500_000
    assert offer["consumer"][0] == {"period": PERIOD, "micro_epsilon_left": 500_000}
    assert [t["status"] for t in offer["tables"]] == ["ordered"]


def test_every_family_answers_with_its_measures_as_json_as_csv_and_as_a_picture(population):
    differing = {"recovered_within": "8_to_12", "below_caseness": True, "recovered_nhs": True, "improved_nhs": True, "recovered_phq9": True}
    for kind in ("end", "follow_up_3", "follow_up_6"):
        population.freeze([(200, differing | {"improved_phq9": True, "remitted": True}), (60, {"deteriorated_nhs": True})], kind=kind, cap=4_000_000)
    asked = {family: population.ask(family, ["sex"], epsilon=0.25).json() for family in families()}
    release(population.service)
    time.sleep(SHOWN_AFTER)
    for family, order in asked.items():
        look_at(population, families()[family], population.table(order["id"]))


def look_at(population, family, table):
    assert {m["unit"] for m in table["cells"][0]["measures"]} <= {"persons", "share", "points"}
    if family.shows == "mean":
        assert abs(values_of(table)["female", "mean_change"]["value"] - (5 if "phq9" in family.code else 4)) <= 4
    assert sum(not m["suppressed"] for m in table["cells"][0]["measures"]) >= 1, family.code
    path = f"/v1/outcomes/tables/{table['id']}"
    as_csv = population.partner.send("GET", f"{path}?format=csv", token=population.token)
    rows = list(csv.DictReader(io.StringIO(as_csv.text)))
    assert as_csv.headers["content-type"].startswith("text/csv")
    assert len(rows) == sum(len(c["measures"]) for c in table["cells"])
    assert {r["suppressed"] for r in rows} <= {"true", "false"}
    assert all(r["value"] == "" for r in rows if r["suppressed"] == "true")
    picture = population.partner.send("GET", f"{path}/chart.svg", token=population.token)
    assert picture.headers["content-type"].startswith("image/svg+xml")
    text = " ".join(ET.fromstring(picture.text).itertext())  # noqa: S314 - our own picture
    assert "Noise was added to every number" in text
    assert "not shown (few people)" in text
    assert population.partner.send("GET", f"{path}/chart.svg", token=population.token).content == picture.content


def test_two_dimensions_give_every_combination_and_their_order_does_not_matter(population):
    population.freeze([(100, {})])
    table = population.answer("recovery", ["sex", "area"])
    assert len(table["cells"]) == 5 * 5
    assert table["dimensions"] == ["area", "sex"]
    assert population.ask("recovery", ["area", "sex"]).json()["id"] == table["id"]
    assert population.partner.send("GET", f"/v1/outcomes/tables/{table['id']}/chart.svg", token=population.token).is_success


REFUSED = [
    ({"family": "salaries"}, 422, "question-unknown", "/family"),
    ({"dimensions": ["clinician"]}, 422, "question-unknown", "/dimensions/0"),
    ({"dimensions": ["Area"]}, 422, "question-unknown", "/dimensions/0"),
    ({"dimensions": ["area", "sex", "age_band"]}, 422, "question-unknown", "/dimensions"),
    ({"dimensions": ["area", "area"]}, 422, "question-unknown", "/dimensions"),
    ({"epsilon": 0.3}, 422, "question-unknown", "/epsilon"),
    ({"epsilon": 8}, 422, "question-unknown", "/epsilon"),
    ({"period": "2026-3"}, 422, "period-unknown", "/period"),
    ({"period": "2026Q5"}, 422, "period-unknown", "/period"),
    ({"period": "2099Q1"}, 409, "period-open", None),
    ({"period": "2001Q1"}, 409, "period-open", None),
    ({"dataset": "all"}, 422, "invalid", "/dataset"),
    ({"clinician_id": "0b1f1b0a-7a1f-4c55-9f3e-1f0e5d2a9c11"}, 422, "invalid", "/clinician_id"),
    ({"filter": "area=grief"}, 422, "invalid", "/filter"),
]


@pytest.mark.parametrize(("change", "status", "problem", "pointer"), REFUSED, ids=[str(c[0]) for c in REFUSED])
def test_a_question_outside_of_the_grammar_is_a_problem_that_says_nothing_of_the_data(population, other_population, change, status, problem, pointer):
    population.freeze([(100, {})])
    answers = [
        one.partner.send("POST", "/v1/outcomes/tables", one.question() | change, token=one.token, X_Request_Id="same")
        for one in (population, other_population)  # the other has nobody
    ]
    with_people, without = answers
    assert with_people.status_code == status, with_people.text
    assert with_people.json()["type"] == f"/problems/{problem}"
    assert (pointer in {e["pointer"] for e in with_people.json()["errors"]}) if pointer else True
    assert with_people.content == without.content
    assert all(a.elapsed.total_seconds() >= ANSWERED_NOT_BEFORE for a in answers)
    assert population.spent() == 0


def test_the_running_quarter_and_one_within_its_grace_are_open(population):
    running = str(quarter_of(datetime.now(UTC)))
    population.freeze([(100, {})], period=running)
    assert population.ask(period=running).json()["type"] == "/problems/period-open"


def test_a_budget_that_is_spent_refuses_and_what_was_released_stays_open(population):
    population.freeze([(100, {})])
    assert population.ask("counts", ["area"], epsilon=1.0).status_code == 202
    mine = population.ask("counts", ["sex"], epsilon=0.25)
    assert mine.status_code == 409
    assert mine.json()["type"] == "/problems/privacy-budget-spent"
    assert "own budget" in mine.json()["detail"]
    assert population.spent() == population.spent("consumer|backend") == 1_000_000
    assert population.ask("counts", ["area"], epsilon=1.0).status_code in {200, 202}


def test_the_population_is_charged_once_however_many_ask_and_never_above_its_cap(population):
    population.freeze([(100, {})])
    tokens = []
    for n in range(4):
        made = population.partner.post("/v1/clients", {"name": f"analyst-{n}", "scopes": ["outcomes:read"]})
        answer = population.partner.http.post(
            "/oauth/token", data={"grant_type": "client_credentials"}, auth=(made["client_id"], made["client_secret"])
        )
        tokens.append(answer.json()["access_token"])
    same = [population.ask("counts", ["area"], epsilon=1.0, token=t).json()["id"] for t in tokens[:2]]
    assert same[0] == same[1]
    assert population.spent() == 1_000_000
    assert population.ask("recovery", ["area"], epsilon=1.0, token=tokens[2]).status_code == 202
    refused = population.ask("recovery", ["sex"], epsilon=0.25, token=tokens[3])
    assert refused.status_code == 409
    assert "data set" in refused.json()["detail"]
    assert population.spent() == 2_000_000
    assert population.spent("consumer|analyst-3") is None, "who was refused has paid nothing"


def test_follow_up_has_a_budget_of_its_own(population):
    population.freeze([(100, {})])
    assert population.ask("follow_up_3_months", ["area"], epsilon=1.0).status_code == 202
    assert population.spent("follow_up") == 1_000_000
    assert population.spent() == 0


def test_a_table_belongs_to_who_asked_and_another_partner_finds_nothing(population, other_population):
    population.freeze([(100, {})])
    table = population.answer()
    path = f"/v1/outcomes/tables/{table['id']}"
    made = population.partner.post("/v1/clients", {"name": "second", "scopes": ["outcomes:read"]})
    second = population.partner.http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(made["client_id"], made["client_secret"]))
    for token, who in ((second.json()["access_token"], population), (other_population.token, other_population)):
        for suffix in ("", "/chart.svg", "?format=csv"):
            foreign = who.partner.send("GET", path + suffix, token=token, X_Request_Id="same")
            unknown = who.partner.send("GET", f"/v1/outcomes/tables/{uuid4()}{suffix}", token=token, X_Request_Id="same")
            assert foreign.status_code == 404
            assert foreign.content == unknown.content


def test_a_table_that_is_being_made_has_no_picture_yet(population):
    population.freeze([(100, {})])
    table_id = population.ask().json()["id"]
    for suffix in ("/chart.svg", "?format=csv"):
        answer = population.partner.send("GET", f"/v1/outcomes/tables/{table_id}{suffix}", token=population.token)
        assert answer.status_code == 409
        assert answer.json()["type"] == "/problems/table-not-ready"


def test_the_codebook_and_the_calendar_say_what_every_word_and_every_date_means(population):
    book = population.partner.get("/v1/outcomes/codebook", token=population.token)
    assert book["schema_version"] == book["schema_versions"][-1]["version"]
    assert all(d["definition"] and d["source"] for d in [*book["dimensions"], *book["families"]])
    assert book["caps_micro_epsilon"]["partner.population"] == 2_000_000
    assert book["advantage_at"]["1.0"] == 0.462
    assert all(c["definition"] for c in book["extract_columns"])
    calendar = population.partner.get("/v1/outcomes/calendar", token=population.token)["quarters"]
    assert [q["period"] for q in calendar if q["due"]] == periods()
    assert any(not q["due"] for q in calendar)


def test_a_token_of_care_opens_no_table_and_a_token_of_outcomes_no_patient(population):
    assert population.partner.send("GET", "/v1/outcomes/tables").status_code == 403
    assert population.partner.send("GET", "/v1/patients", token=population.token).status_code == 403
    assert population.partner.send("GET", "/v1/outcomes/extracts", token=population.token).status_code == 403
