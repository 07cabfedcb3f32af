"""schemathesis over the whole contract, for every actor: no fault of ours, no answer that the contract does not know.

Bounded here; `make attack` runs it with many more examples.
"""

import json
import os
import random
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from tests.trust.test_matrix import world

EXAMPLES = int(os.environ.get("IPT_ATTACK_EXAMPLES", "1"))
SHARE = int(os.environ.get("IPT_ATTACK_SHARE", "3"))  # one operation in so many
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
DOCUMENT = json.loads((Path(__file__).resolve().parents[2] / "openapi" / "openapi.json").read_text(encoding="utf-8"))
ENDLESS = {"/v1/sync/stream", "/v1/sync/rxdb/{collection}/stream", "/v1/sync/snapshot"}
ACTORS = ("backend", "lead", "patient", "analyst", "admin")


@pytest.fixture(scope="module")
def operations():
    found = [o.ok() for o in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()]
    return [o for o in found if o.path not in ENDLESS]


@pytest.mark.parametrize("actor", ACTORS)
@pytest.mark.filterwarnings("ignore")
def test_whatever_is_sent_the_answer_is_one_of_the_contract(service, operations, actor, record_property):
    partner, elsewhere, ids, token = world(service, actor)
    chance = random.Random(actor) if EXAMPLES == 1 else random.Random()  # the suite's part is the same in each run; make attack is not
    chosen = chance.sample(operations, len(operations) // SHARE)
    sent, failures = 0, []
    with partner, elsewhere, requests.Session() as session:
        for operation in chosen:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                try:
                    strategy = operation.as_strategy(generation_mode=mode)
                except Exception:  # noqa: BLE001, S112 - an operation that takes nothing has nothing to break
                    continue

                @seed(chance.randrange(1 << 32))
                @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
                @given(case=strategy)
                def attack(case):
                    nonlocal sent
                    sent += 1
                    for name in case.path_parameters or {}:
                        if chance.random() < 0.7 and name in ids:  # mostly rows that are there: further in there is more to break
                            case.path_parameters[name] = ids[name]
                    headers = {"Authorization": f"Bearer {token}"} if not case.path.startswith("/oauth") else {}
                    response = case.call(base_url=partner.base_url, session=session, headers=headers, timeout=20)
                    if response.content != b"Invalid HTTP request received.":  # no HTTP: the server's own answer
                        case.validate_response(response, checks=CHECKS)

                try:
                    attack()
                except Exception as error:  # noqa: BLE001 - whatever it was, it is told with the others at the end
                    if "Unsatisfiable" in type(error).__name__ or "SkipTest" in type(error).__name__:
                        continue
                    failures.append(f"{operation.method} {operation.path}: {error}"[:1500])
    record_property("tried", f"{sent} requests of schemathesis as {actor}")
    assert failures == []
    assert sent > len(chosen)
