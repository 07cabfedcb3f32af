"""Whether an answer's time tells what its body does not. Needs a quiet machine and thousands of requests: `make attack` only."""

import os
import random
import time
from uuid import uuid4

import pytest

pytestmark = pytest.mark.skipif(not os.environ.get("IPT_ATTACK"), reason="a matter of make attack")
REQUESTS = 2_000
BOUND = 0.55


def separation(one, other):
    """Return the area under the curve of telling two samples apart by their size: 0.5 is guessing."""
    merged = sorted([(t, 1) for t in one] + [(t, 0) for t in other])
    ranks = sum(rank for rank, (_, kind) in enumerate(merged, start=1) if kind)
    area = (ranks - len(one) * (len(one) + 1) / 2) / (len(one) * len(other))
    return max(area, 1 - area)


def timed(send):
    begun = time.perf_counter()
    send()
    return time.perf_counter() - begun


def test_the_time_of_a_foreign_ids_404_is_that_of_an_unknown_ids(partner, other_partner, record_property):
    theirs = other_partner.add_episode()
    samples = {"foreign": [], "unknown": []}
    for _ in range(REQUESTS):
        for kind in random.sample(list(samples), 2):
            path = theirs.path if kind == "foreign" else f"/v1/episodes/{uuid4()}"
            samples[kind].append(timed(lambda path=path: partner.send("GET", path)))
    found = separation(samples["foreign"], samples["unknown"])
    record_property("tried", f"time of a foreign id against an unknown one: area {found:.3f} (0.5 is guessing, bound {BOUND})")
    assert found <= BOUND


def test_the_time_of_an_unknown_clients_401_is_that_of_a_wrong_secret(partner, record_property):
    unknown = f"{uuid4()}.backend"
    samples = {"unknown": [], "wrong": []}

    def ask(client_id):
        answer = partner.http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(client_id, "wrong"))
        assert answer.status_code in {401, 429}

    for _ in range(REQUESTS // 2):
        for kind in random.sample(list(samples), 2):
            samples[kind].append(timed(lambda kind=kind: ask(unknown if kind == "unknown" else partner.client_id)))
    found = separation(samples["unknown"], samples["wrong"])
    record_property("tried", f"time of an unknown client against a wrong secret: area {found:.3f} (bound {BOUND})")
    assert found <= BOUND
