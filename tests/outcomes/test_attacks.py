"""The attacks A1 to A7 and A10 to A13 on anonymised tables, through the HTTP API. Bounded here; at full size with `make attack`, which prints the figures."""

import json
import math
import random
import re
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import numpy as np
import pytest

from app.domain.outcome_tables import EPISODES_IN_A_LIFE, MICRO, advantage, dimensions, families
from app.noise import add_noise
from tests.outcomes.conftest import ATTACK, SHOWN_AFTER, periods, release, values_of

HIGHEST = 4_000_000
AREAS = dimensions()["area"].categories
PAIRS = [[], *[[d] for d in dimensions()], *[[a, b] for a in dimensions() for b in dimensions() if a < b]]


def told(record_property, text):
    record_property("tried", text)


def release_all(service, answers):
    """Let what was ordered be made and shown."""
    assert {a.status_code for a in answers} <= {200, 202}, Counter((a.status_code, a.text[:200]) for a in answers if a.status_code > 202)
    release(service)
    time.sleep(SHOWN_AFTER)


def finished(service, answers):
    """Let what was ordered be made and shown; return the ids."""
    release_all(service, answers)
    return [a.json()["id"] for a in answers]


def tables_of(population, ids):
    with (
        httpx.Client(base_url=population.partner.base_url, headers={"Authorization": f"Bearer {population.token}"}, timeout=30) as http,
        ThreadPoolExecutor(8) as pool,
    ):
        return list(pool.map(lambda i: http.get(f"/v1/outcomes/tables/{i}").json(), ids))


# A1


def test_a1_asking_a_thousand_times_in_every_spelling_gives_one_answer_and_costs_one(population, record_property):
    times = 1_000 if ATTACK else 60
    population.freeze([(150, {"area": "grief", "sex": "male"}), (90, {})])
    made = population.partner.post("/v1/clients", {"name": "second", "scopes": ["outcomes:read"]})
    second = population.partner.http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(made["client_id"], made["client_secret"]))
    assert second.status_code == 200
    tokens = [population.token, second.json()["access_token"]]
    first = [population.ask("recovery", ["area", "sex"], token=t) for t in tokens]
    finished(population.service, first)
    chance = random.Random(1)

    def spelt(n):
        question = population.question("recovery", chance.sample(["area", "sex"], 2))
        question["epsilon"] = chance.choice([0.5, 5e-1])
        members = chance.sample(list(question.items()), len(question))
        return json.dumps(dict(members), indent=chance.choice([None, 1, 7]), separators=chance.choice([(",", ":"), (", ", " :  ")])), tokens[n % 2]

    def ask(pair):
        body, token = pair
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return http.post("/v1/outcomes/tables", content=body, headers=headers)

    with httpx.Client(base_url=population.partner.base_url, timeout=30) as http, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, [spelt(n) for n in range(times)]))
    assert {a.status_code for a in answers} == {200}
    assert len({a.content for a in answers}) == 1
    assert population.spent() == 500_000
    refused = [population.ask("recovery", dims) for dims in (["AREA"], [" area"], ["problem_area"], ["area,sex"])]
    assert {a.status_code for a in refused} == {422}
    told(record_property, f"A1: {times} repeats by two consumers, distinct answers 1, population charged once")


# A2


def test_a2_a_person_added_or_erased_changes_no_answer_and_complements_do_not_subtract(population, record_property):
    population.freeze([(60, {"area": "grief"}), (60, {"area": "grief", "sex": "male"})], cap=HIGHEST)
    asked = [population.ask("counts", dims, epsilon=0.25) for dims in (["area"], ["area", "sex"], ["sex"])]
    ids = finished(population.service, asked)
    before = [population.partner.send("GET", f"/v1/outcomes/tables/{i}", token=population.token).content for i in ids]
    [someone] = population.ask_database("SELECT patient_id FROM outcome_fact WHERE partner_id = $1 LIMIT 1", population.id)
    population.ask_database("DELETE FROM outcome_fact WHERE partner_id = $1 AND patient_id = $2", population.id, someone["patient_id"])
    population.freeze([(1, {"area": "grief"})])
    assert [population.partner.send("GET", f"/v1/outcomes/tables/{i}", token=population.token).content for i in ids] == before
    rows = population.ask_database("SELECT question, noisy FROM outcome_release WHERE partner_id = $1", population.id)
    sums = [sum(cell[0] for cell in json.loads(r["noisy"])) for r in rows]
    assert len(set(sums)) > 1, "the same people, by other dimensions, add up differently: nothing is consistent that could be subtracted"
    told(record_property, f"A2: totals of the same 120 people over three tables: {sorted(sums)}")


# A3


def test_a3_padding_cells_with_made_up_patients_does_not_recover_a_count(service, populations, record_property):
    chance = random.Random(3)
    secrets, guesses, asked = [], [], []
    dims = (["area"], ["area", "sex"], ["area", "modality"], ["age_band", "area"])
    for one in populations(20 if ATTACK else 1):
        drawn = {period: (chance.randint(20, 60), chance.randint(0, 30)) for period in periods()}
        one.freeze_all({p: [(secret + padding, {"area": "grief"})] for p, (secret, padding) in drawn.items()})
        orders = [one.question("counts", d, period=p, epsilon=0.25) for p in drawn for d in dims]
        asked.append((one, drawn, one.ask_all(orders)))
    release_all(service, [a for _, _, answers in asked for a in answers])
    for one, drawn, answers in asked:
        tables = tables_of(one, [a.json()["id"] for a in answers])
        for period, pair in drawn.items():
            secrets.append(pair)
            guesses.append(statistics.mean(max(m["value"] or 0 for m in values_of(t, "courses").values()) for t in tables if t["period"] == period))
    right = sum(round(guess) - padding == secret for guess, (secret, padding) in zip(guesses, secrets, strict=True))
    share, by_chance = right / len(secrets), 1 / 5
    told(record_property, f"A3: exact counts recovered by padding: {share:.3f} of {len(secrets)} (chance within a rounding of 5: {by_chance})")
    assert share <= by_chance + 0.05 + 3 * math.sqrt(by_chance * (1 - by_chance) / len(secrets))


# A4


@pytest.mark.parametrize("epsilon", [0.25, 0.5, 1.0] if ATTACK else [0.5])
def test_a4_who_knows_all_but_one_patient_hardly_does_better_than_guessing(service, populations, record_property, epsilon):
    pairs = 2_000 if ATTACK else 48
    per_quarter = min(HIGHEST // int(epsilon * MICRO), len(PAIRS)) if ATTACK else 4
    asked = []
    for n, one in enumerate(populations(2 * math.ceil(pairs / (12 * per_quarter)))):
        present = n % 2 == 0
        facts = [(30, {"area": "grief"}), (int(present), {"area": "role_dispute"})]
        one.freeze_all(dict.fromkeys(periods(), facts), cap=HIGHEST)
        orders = [one.question("counts", dims, period=p, epsilon=epsilon) for p in periods() for dims in PAIRS[:per_quarter]]
        asked.append((one, present, one.ask_all(orders)))
    release_all(service, [a for _, _, answers in asked for a in answers])
    shown, raw = {True: [], False: []}, {True: [], False: []}
    for one, present, answers in asked:
        tables = tables_of(one, [a.json()["id"] for a in answers])
        shown[present] += [max((m["value"] or 0) for m in values_of(t, "courses").values()) for t in tables]
        raw[present] += _target_cells(one)
    best = {name: _advantage(found[True], found[False]) for name, found in (("shown", shown), ("raw", raw))}
    number, bound = len(raw[True]), advantage(epsilon)
    told(
        record_property,
        f"A4: epsilon {epsilon}, {number} pairs: advantage {best['raw']:.3f} on the noisy numbers, {best['shown']:.3f} on what is shown; bound {bound:.3f}",
    )
    assert max(best.values()) <= bound + 0.05 + (0 if ATTACK else 3 * math.sqrt(0.5 / number))


def _target_cells(population):
    """Return the noisy number of the cell that the target stands in, or would: of each release the cell that differs."""
    found = []
    for row in population.ask_database("SELECT question, noisy FROM outcome_release WHERE partner_id = $1 AND NOT standard", population.id):
        question, noisy = json.loads(row["question"]), json.loads(row["noisy"])
        dims = question["dimensions"]
        cells = [()]
        for d in dims:
            cells = [(*c, v) for c in cells for v in dimensions()[d].categories]
        target = {"area": "role_dispute", "protocol": "IPT-16", "age_band": "26_to_40", "sex": "female", "modality": "in_person"}
        target |= {"sessions_band": "8_to_12", "phase_reached": "follow_up"}
        base = 0 if "area" in dims else 30
        found.append(noisy[cells.index(tuple(target[d] for d in dims))][0] - base)
    return found


def _advantage(present, absent):
    """Return the most that any threshold tells: true positives less false positives."""
    return max(sum(v >= t for v in present) / len(present) - sum(v >= t for v in absent) / len(absent) for t in sorted({*present, *absent}))


# A5


@pytest.mark.parametrize("family", ["counts", "recovery", "change_phq9", "reliable_change"])
def test_a5_no_outcome_is_more_than_e_to_the_epsilon_likelier_on_a_neighbour(record_property, family):
    draws = 100_000 if ATTACK else 12_000
    fewest = 1_000 if ATTACK else 250
    known, epsilon = families()[family], 0.5
    one = {c.name: 40 for c in known.components}
    moved = {
        "counts": {"courses": 1},
        "recovery": {"cases": 1, "recovered": 1},
        "change_phq9": {"measured": 1, "change": 15},
        "reliable_change": {"paired": 1, "improved": 1},
    }
    other = {name: value + moved[family].get(name, 0) for name, value in one.items()}
    histograms = []
    for cell in (one, other):
        noisy = add_noise(known, int(epsilon * MICRO), [cell] * draws)
        histograms.append(Counter(tuple(_bin(known, name, n[name]) for name in moved[family]) for n in noisy))
    ratios = [abs(math.log(histograms[0][b] / histograms[1][b])) for b in histograms[0] if min(histograms[0][b], histograms[1][b]) > fewest]
    worst = max(ratios)
    told(record_property, f"A5: {family}: greatest |log ratio| {worst:.3f} at epsilon {epsilon} over {len(ratios)} outcomes")
    assert worst <= epsilon * 1.15 + (0 if ATTACK else 3 * math.sqrt(2 / fewest))
    assert worst > 0.05, "the test sees a difference at all"


def _bin(family, name, value):
    """Whole steps of half a scale, so that bins are filled; binning can only hide, never add, a difference."""
    group = next(g for g in family.groups(500_000) if name in g.components)
    return math.floor(value / max(1, group.sensitivity * MICRO / group.epsilon / 2))


# A6


def test_a6_all_tables_together_do_not_give_back_two_hundred_secret_bits(service, populations, record_property):
    chance = random.Random(6)
    rounds = 10 if ATTACK else 2
    dims = [d for d in dimensions() if d != "protocol"]
    accuracies, baselines = [], []
    for one in populations(rounds):
        people = [{d: chance.choice(dimensions()[d].categories) for d in dims} for _ in range(200)]
        bits = [chance.random() < 0.26 for _ in people]
        one.freeze([(1, {**p, "remitted": b}) for p, b in zip(people, bits, strict=True)], cap=HIGHEST)
        orders = [
            one.question("remission", pair, epsilon=0.25) for pair in [p for p in PAIRS if len(p) == 2 and "protocol" not in p][: HIGHEST // 250_000]
        ]
        finished(service, one.ask_all(orders))
        rows, sums = [], []
        for row in one.ask_database("SELECT question, noisy FROM outcome_release WHERE partner_id = $1 AND NOT standard", one.id):
            asked = json.loads(row["question"])["dimensions"]
            noisy = iter(json.loads(row["noisy"]))
            for a in dimensions()[asked[0]].categories:
                for b in dimensions()[asked[1]].categories:
                    rows.append([p[asked[0]] == a and p[asked[1]] == b for p in people])
                    sums.append(next(noisy)[1])
        solved, *_ = np.linalg.lstsq(np.array(rows, float), np.array(sums, float), rcond=None)
        threshold = sorted(solved)[-max(1, sum(bits))]  # the attacker even knows how many bits are set
        accuracies.append(statistics.mean(float((s >= threshold) == b) for s, b in zip(solved, bits, strict=True)))
        baselines.append(max(sum(bits), len(bits) - sum(bits)) / len(bits))
    found, baseline = statistics.mean(accuracies), statistics.mean(baselines)
    told(record_property, f"A6: {rounds} x 200 secret bits, budget 4.0: {found:.3f} right, majority {baseline:.3f}")
    assert found <= baseline + 0.05


# A7


def test_a7_no_number_from_one_to_ten_is_ever_shown(service, populations, record_property):
    codes = dimensions()["protocol"].categories[:16]
    shown, drawn, wrong = Counter(), Counter(), []
    for one in populations(8 if ATTACK else 1):
        one.freeze_all({p: [(n, {"protocol": code}) for n, code in enumerate(codes)] for p in periods()}, cap=HIGHEST)
        orders = [
            one.question("counts", dims, period=p)
            for p in periods()
            for dims in (["protocol"], ["protocol", "sex"], ["modality", "protocol"], ["age_band", "protocol"])
        ]
        for table in tables_of(one, finished(service, one.ask_all(orders))):
            for cell in table["cells"]:
                [measure] = cell["measures"]
                wrong += [measure] if measure["value"] is not None and 0 < measure["value"] < 11 else []
                where = {"sex": "female", "modality": "in_person", "age_band": "26_to_40"} | cell["categories"]
                if (
                    all(where[d] == v for d, v in (("sex", "female"), ("modality", "in_person"), ("age_band", "26_to_40")))
                    and where["protocol"] in codes
                ):
                    drawn[codes.index(where["protocol"])] += 1
                    shown[codes.index(where["protocol"])] += not measure["suppressed"]
    rates = {n: shown[n] / drawn[n] for n in sorted(drawn)}
    few = sum(shown[n] for n in range(6)) / sum(drawn[n] for n in range(6))
    told(record_property, f"A7: shown although the true number is 0..5: {few:.3f}; by true number {[f'{n}: {r:.2f}' for n, r in rates.items()]}")
    assert wrong == []
    assert few <= 0.05


# A10


@pytest.mark.skipif(not ATTACK, reason="a matter of make attack")
def test_a10_time_tells_neither_a_patient_nor_whether_a_table_was_there(service, populations, record_property):
    requests = 2_000
    one, other = populations(2)
    for population, extra in ((one, 0), (other, 1)):
        population.freeze_all({p: [(500, {}), (extra, {"area": "role_dispute"})] for p in periods()})
    ids = {p: finished(service, [p.ask("counts", ["area"])])[0] for p in (one, other)}
    reads = {one: [], other: []}
    for _ in range(requests):
        for p in random.sample([one, other], 2):
            begun = time.perf_counter()
            p.table(ids[p])
            reads[p].append(time.perf_counter() - begun)
    posts = {"data": {one: [], other: []}, "there": {True: [], False: []}}
    fresh = [(p, dims, period) for p in (one, other) for period in periods() for dims in (["sex"], ["area", "sex"], ["modality"])]
    random.shuffle(fresh)
    for p, dims, period in fresh:  # each is asked once, when it is new, and once more
        for again in (False, True):
            begun = time.perf_counter()
            p.ask("counts", dims, period=period, epsilon=0.25)
            taken = time.perf_counter() - begun
            posts["data"][p].append(taken)
            posts["there"][again].append(taken)
    p_reads, p_posts = _mann_whitney(*reads.values()), _mann_whitney(*posts["data"].values())
    area = _area(posts["there"][False], posts["there"][True])
    told(
        record_property,
        f"A10: one patient more: p {p_reads:.3f} on {requests} reads each, p {p_posts:.3f} on {len(fresh)} questions; new or there: area {area:.3f}",
    )
    assert min(p_reads, p_posts) > 0.01
    assert area <= 0.55 + 3 * math.sqrt(1 / 12 / len(fresh) * 2)


def _area(one, other):
    merged = sorted([(t, 1) for t in one] + [(t, 0) for t in other])
    ranks = sum(rank for rank, (_, kind) in enumerate(merged, start=1) if kind)
    area = (ranks - len(one) * (len(one) + 1) / 2) / (len(one) * len(other))
    return max(area, 1 - area)


def _mann_whitney(one, other):
    """Return the two-sided p of the rank test, by the normal approximation."""
    n, m = len(one), len(other)
    z = (_area(one, other) - 0.5) * math.sqrt(12 * n * m / (n + m + 1))
    return math.erfc(z / math.sqrt(2))


# A11


def test_a11_another_partners_data_cannot_be_asked_for_nor_told_apart_from_none(population, other_population):
    population.freeze([(100, {})])
    ids = finished(population.service, [population.ask()])
    for change in ({"partner_id": population.id}, {"population": population.id}, {"snapshot_id": str(uuid4())}, {"dataset": population.id}):
        answer = other_population.partner.send("POST", "/v1/outcomes/tables", other_population.question() | change, token=other_population.token)
        assert answer.status_code == 422
    same = {"token": other_population.token, "X_Request_Id": "same"}
    answers = [other_population.partner.send("GET", f"/v1/outcomes/tables/{i}", **same) for i in (ids[0], str(uuid4()))]
    assert {(a.status_code, a.content) for a in answers} == {(404, answers[1].content)}
    asked = other_population.ask()
    assert asked.json()["type"] == "/problems/period-open", "its own quarter is not frozen, whatever the other's is"


# A12 and A13


def test_a12_and_a13_released_numbers_are_whole_and_as_exact_as_they_say(service, populations, record_property):
    chance = random.Random(13)
    within = of = 0
    for one in populations(4 if ATTACK else 1):
        truths = {}
        for period in periods()[: 12 if ATTACK else 6]:
            facts = [
                (chance.randint(0, 150), {"area": a, "sex": s, "remitted": r, "change_phq9": chance.randint(-4, 14)})
                for a in AREAS
                for s in ("female", "male")
                for r in (True, False)
            ]
            one.freeze(facts, period=period, cap=HIGHEST)
            truths[period] = facts
        orders = [
            one.question(family, dims, period=p, epsilon=epsilon)
            for p in truths
            for family, epsilon in (("counts", 0.25), ("remission", 0.5), ("change_phq9", 0.5))
            for dims in (["area"], ["sex"], ["area", "sex"])
        ]
        for table in tables_of(one, finished(service, one.ask_all(orders))):
            for cell in table["cells"]:
                truth = _truth(table["family"], truths[table["period"]], cell["categories"])
                for m in cell["measures"]:
                    if m["value"] is not None and m["name"] in truth:
                        of += 1
                        within += abs(m["value"] - truth[m["name"]]) <= m["accuracy_95"] + 1e-9
        for row in one.ask_database("SELECT noisy FROM outcome_release WHERE partner_id = $1", one.id):
            assert re.fullmatch(r"[\[\]\s,\d-]+", row["noisy"]), "whole numbers only"
    told(record_property, f"A13: {within} of {of} figures ({within / of:.3f}) within their stated accuracy")
    assert of > 100
    assert within / of >= 0.93


def _truth(family, facts, categories):
    rows = [(n, f) for n, f in facts if all(f[d] == v for d, v in categories.items())]
    n = sum(k for k, _ in rows)
    if n == 0:
        return {"courses": 0, "paired": 0, "measured": 0}
    return {
        "courses": n,
        "paired": n,
        "measured": n,
        "remitted": sum(k for k, f in rows if f["remitted"]) / n,
        "mean_change": sum(k * f["change_phq9"] for k, f in rows) / n,
    }


def test_the_worst_case_of_a_life_is_what_docs_and_codebook_say():
    assert EPISODES_IN_A_LIFE == 3
    assert round(advantage(2.0), 2) == 0.76
    assert round(advantage(1.0), 2) == 0.46
    assert round(advantage(0.5), 2) == 0.24
