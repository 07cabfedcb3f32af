"""Two API processes and two workers on one database, under load: to partners, phones and receivers they are one service."""

import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx

from tests.soak.history import History
from tests.soak.machine import ROOT

CLIENTS, ROWS, WRITES, ROUNDS = 6, 3, 15, 6
LOADS_SLOWLY = """
import sys, time
if "--multiprocessing-fork" in sys.orig_argv:
    time.sleep(11)
"""


def both(apis, send):
    """Send the same through each process at once; return the answers."""
    start = threading.Barrier(len(apis))

    def one(api):
        with httpx.Client(base_url=api.base_url, timeout=20) as http:
            start.wait()
            return send(http)

    with ThreadPoolExecutor(len(apis)) as pool:
        return list(pool.map(one, apis))


def every_event(http, partner):
    """Return the whole feed, page by page."""
    found, since, more = [], 0, True
    while more:
        page = http.get(f"/v1/events?since={since}&limit=200", headers={"Authorization": f"Bearer {partner.token}"}).json()
        found += page["events"]
        since, more = page["next"], page["has_more"]
    return found


def test_two_api_processes_and_two_workers_are_one_service(machine, receiver):
    hosts = {"IPT_WEBHOOK_ALLOWED_HOSTS": receiver.host, "IPT_PROCESSES": "1"}
    with ThreadPoolExecutor(2) as pool:
        apis = list(pool.map(lambda _: machine.api(**hosts), range(2)))
    workers = [machine.worker(**hosts) for _ in range(2)]
    try:
        with machine.partner(apis[0]) as partner:
            partner.post("/v1/webhook-endpoints", {"url": f"http://{receiver.host}/", "event_types": ["goal.*"]})
            episode = partner.add_episode()
            check_one_effect_for_a_key_at_both(apis, partner, episode)
            check_one_writer_of_a_version(apis, partner, episode)
            written = check_no_lost_update_and_no_stale_read(apis, partner, episode)
            check_one_feed(apis, partner, written)
            check_each_event_is_delivered_once(apis[0], partner, receiver, episode)
            check_a_revocation_reaches_both(apis, partner)
            check_whichever_answers_counts_for_all(machine, partner)
        assert [w.poll() for w in workers] == [None, None]
    finally:
        for worker in workers:
            worker.terminate()
        assert [w.wait(30) for w in workers] == [0, 0]


def check_one_effect_for_a_key_at_both(apis, partner, episode):
    """The same key at both at once: one goal; who is second hears the same answer, or that the first is still under way."""
    for _ in range(ROUNDS):
        before = len(partner.get(f"{episode.path}/goals?limit=100")["items"])
        key = str(uuid4())
        headers = {"Authorization": f"Bearer {partner.token}", "Idempotency-Key": key}
        answers = both(apis, lambda http, h=headers: http.post(f"{episode.path}/goals", json={"text": "once"}, headers=h))
        assert {a.status_code for a in answers} <= {201, 409}, [a.text for a in answers]
        made = {a.json()["id"] for a in answers if a.status_code == 201}
        assert len(made) == 1
        assert len(partner.get(f"{episode.path}/goals?limit=100")["items"]) == before + 1


def check_one_writer_of_a_version(apis, partner, episode):
    """A change of the same version through both at once: one is made, the other is told that it came second."""
    row = partner.post(f"{episode.path}/goals", {"text": "0"})
    for version in range(1, ROUNDS + 1):
        headers = {"Authorization": f"Bearer {partner.token}", "If-Match": f'"{version}.1"'}
        answers = both(apis, lambda http, h=headers: http.patch(f"{episode.path}/goals/{row['id']}", json={"text": str(uuid4())}, headers=h))
        assert sorted(a.status_code for a in answers) == [200, 412]


def check_no_lost_update_and_no_stale_read(apis, partner, episode):
    """Clients that change a few rows, each request through either process: what they saw must be possible for one copy."""
    history = History()
    rows = [partner.post(f"{episode.path}/goals", {"text": "0"})["id"] for _ in range(ROWS)]

    def client(number):
        https = [httpx.Client(base_url=a.base_url, timeout=20, headers={"Authorization": f"Bearer {partner.token}"}) for a in apis]
        for turn in range(WRITES):
            path = f"{episode.path}/goals/{rows[(number + turn) % ROWS]}"
            row = path.rpartition("/")[2]
            started = time.monotonic()
            seen = https[turn % 2].get(path)
            history.note(row, "read", seen.json()["version"], started, time.monotonic())
            started = time.monotonic()
            answer = https[(turn + 1) % 2].patch(path, json={"text": f"{number} {turn}"}, headers={"If-Match": seen.headers["etag"]})
            assert answer.status_code in {200, 412}, answer.text
            if answer.status_code == 200:
                history.note(row, "write", answer.json()["version"], started, time.monotonic())
        for http in https:
            http.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    final = {row: partner.get(f"{episode.path}/goals/{row}")["version"] for row in rows}
    assert history.faults(final) == []
    assert sum(final.values()) > ROWS + WRITES
    return final


def check_one_feed(apis, partner, written):
    """Each change stands once in the feed, numbered without a gap between the changes of a row, and both processes show the same."""

    one, two = both(apis, lambda http: every_event(http, partner))
    assert one == two
    assert len({e["seq"] for e in one}) == len(one)
    of_rows = Counter(e["entity_id"] for e in one)
    assert {row: of_rows[row] for row in written} == written


def check_each_event_is_delivered_once(api, partner, receiver, episode):
    """Two workers, and no event twice: nobody was killed."""
    with httpx.Client(base_url=api.base_url, timeout=20) as http:
        wanted = len([e for e in every_event(http, partner) if e["type"].startswith("goal.")])
    deadline = time.monotonic() + 60
    while len(receiver.got) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    ids = Counter(headers["webhook-id"] for headers, _ in receiver.got)
    assert len(ids) == wanted
    assert set(ids.values()) == {1}
    assert len(partner.get(f"{episode.path}/goals?limit=100")["items"]) == ROUNDS + 1 + ROWS


def check_whichever_answers_counts_for_all(machine, partner):
    """Two processes behind one port: each scrape sees what both have answered, and one number of what is under way.

    They take longer to load than a supervisor waits for by default, as on a busy machine.
    """
    slow = machine.home / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(LOADS_SLOWLY)
    api = machine.api(within=90, IPT_PROCESSES="2", PYTHONPATH=f"{slow}:{ROOT}")
    try:
        for _ in range(12):
            assert httpx.get(f"{api.base_url}/v1/instruments/PHQ-9", headers={"Authorization": f"Bearer {partner.token}"}).status_code == 200
        scrapes = [httpx.get(f"{api.base_url}/metrics").text for _ in range(8)]
        assert {re.search(r'ipt_requests_total\{.*instruments.*"200"\} (\S+)', text).group(1) for text in scrapes} == {"12.0"}
        assert all("\nipt_requests_under_way 0.0\n" in text for text in scrapes), "one number for both"
    finally:
        assert api.stop() in {0, -15}


def check_a_revocation_reaches_both(apis, partner):
    """A token that was given back at one is refused by the other within the five seconds that are promised."""
    token = partner.new_token(grant_type="client_credentials")["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert [a.status_code for a in both(apis, lambda http: http.get("/v1/patients", headers=headers))] == [200, 200]
    partner.http.post("/oauth/revoke", data={"token": token}, auth=(partner.client_id, partner.secret))
    time.sleep(5)
    assert [a.status_code for a in both(apis, lambda http: http.get("/v1/patients", headers=headers))] == [401, 401]
