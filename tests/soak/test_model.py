"""R18: ten thousand steps of four clients of two partners, each answer held against a model in memory."""

import asyncio
import os
import random
import time
from collections import Counter
from uuid import uuid4

from tests.driver import Device

STEPS = 10_000
TEXT = "expects_of_other"
PERSON = {"label": "aunt", "relation_type": "other_family"}


class Modelled:
    """What the relationships of one course are, as they should be."""

    def __init__(self, partner, episode, token):
        self.partner, self.episode, self.token = partner, episode, token
        self.rows, self.gone = {}, set()

    def send(self, method, path, body=None, **headers):
        return self.partner.send(method, f"{self.episode.path}{path}", body, token=self.token, **headers)


def uuid7():
    from uuid_utils.compat import uuid7 as made  # noqa: PLC0415

    return str(made())


def create(chance, me, _others):
    row_id, text = uuid7(), str(uuid4())
    key = str(uuid4())
    first = me.send("POST", "/relationships", {**PERSON, "id": row_id, TEXT: text}, Idempotency_Key=key)
    assert first.status_code == 201, first.text
    me.rows[row_id] = [text, 1]
    if chance.random() < 0.3:
        again = me.send("POST", "/relationships", {**PERSON, "id": row_id, TEXT: text}, Idempotency_Key=key)
        assert (again.status_code, again.content) == (201, first.content)
        assert me.send("POST", "/relationships", {**PERSON, "id": row_id, TEXT: text}).status_code == 200
        assert me.send("POST", "/relationships", {**PERSON, "id": row_id, TEXT: "another"}).status_code == 409
        assert me.send("POST", "/relationships", {**PERSON, "id": row_id, TEXT: "another"}, Idempotency_Key=key).status_code in {409, 422}


def read(chance, me, others):
    if not me.rows:
        return
    row_id = chance.choice(list(me.rows))
    answer = me.send("GET", f"/relationships/{row_id}")
    assert answer.status_code == 200
    assert [answer.json()[TEXT], answer.json()["version"]] == me.rows[row_id]
    assert me.send("GET", f"/relationships/{row_id}", If_None_Match=answer.headers["etag"]).status_code == 304
    for other in others:
        assert other.partner.send("GET", f"{me.episode.path}/relationships/{row_id}", token=other.token).status_code == 404


def change(chance, me, _others):
    if not me.rows:
        return
    row_id = chance.choice(list(me.rows))
    version, text = me.rows[row_id][1], str(uuid4())
    path = f"/relationships/{row_id}"
    assert me.send("PATCH", path, {TEXT: text}).status_code == 428
    assert me.send("PATCH", path, {TEXT: text}, If_Match=f'"{version + 1}.1"').status_code == 412
    answer = me.send("PATCH", path, {TEXT: text}, If_Match=f'"{version}.1"')
    assert (answer.status_code, answer.json()["version"]) == (200, version + 1)
    me.rows[row_id] = [text, version + 1]


def delete(chance, me, _others):
    if len(me.rows) < 5:
        return
    row_id = chance.choice(list(me.rows))
    assert me.send("DELETE", f"/relationships/{row_id}", If_Match=f'"{me.rows[row_id][1]}.1"').status_code == 204
    del me.rows[row_id]
    me.gone.add(row_id)
    assert me.send("GET", f"/relationships/{row_id}").status_code == 404


def enumerate_all(_chance, me, _others):
    found, cursor = {}, ""
    while True:
        page = me.send("GET", f"/relationships?limit=100{cursor}").json()
        found |= {r["id"]: [r[TEXT], r["version"]] for r in page["items"]}
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert found == me.rows


ACTS = ((create, 30), (read, 35), (change, 25), (delete, 12), (enumerate_all, 3))


def test_r18_ten_thousand_steps_are_what_the_model_says(machine, figure):
    seed = int(os.environ.get("IPT_SOAK_SEED", time.time_ns() % 2**32))
    chance, counted = random.Random(seed), Counter()
    api = machine.api()
    one = machine.partner(api)
    machine.partner_id, machine.client_id, machine.secret = asyncio.run(machine._registered())
    two = machine.partner(api)
    clients = []
    for partner in (one, two, one, two):
        episode = partner.add_episode()
        clients.append(Modelled(partner, episode, episode.token))
    for step in range(STEPS):
        if step % 2000 == 1999:
            for client in clients:
                client.token = client.partner.clinician_token(client.episode.lead)
        me = chance.choice(clients)
        act = chance.choices([a for a, _ in ACTS], [w for _, w in ACTS])[0]
        others = [c for c in clients if c.partner is not me.partner]
        act(chance, me, others)
        counted[act.__name__] += 1
    for client in clients:
        client.partner.token = client.partner.new_token(grant_type="client_credentials")["access_token"]
        held = Device(client.partner, client.episode.lead).pull(1000).of("relationship")
        assert {i: [r[TEXT], r["version"]] for i, r in held.items()} == client.rows
    for partner in (one, two):
        partner.http.close()
    figure(f"seed {seed}: {STEPS} steps {dict(counted)}, 0 divergences; every phone's copy is the model's")
