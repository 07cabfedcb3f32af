"""R7, R10, R21, R26: bad links between service and database, clocks that step, the same key at once, updates that cross."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
from sqlalchemy.engine import make_url

from tests.conftest import Clock, Service
from tests.soak.links import BadLink
from tests.soak.machine import Writer, finish
from tests.soak.test_kills import lost_and_doubled

WRITERS, PHASE_SECONDS, ENOUGH, CROSSING_SECONDS = 6, 12.0, 300, 60


def test_r7_bad_links_to_the_database(machine, figure):
    socket = make_url(machine.server.url()).query["host"]
    link = BadLink(f"{socket}/.s.PGSQL.5432")
    addresses = {}
    for name in ("database_url", "audit_database_url"):
        url = make_url(getattr(machine.settings, name))
        addresses[f"IPT_{name.upper()}"] = url.set(host="127.0.0.1", port=link.port, query={}).render_as_string(hide_password=False)
    api = machine.api(**addresses)
    partner = machine.partner(api)
    ends = threading.Event()
    writers = [Writer(partner, api.base_url, partner.add_episode(), ends) for _ in range(WRITERS)]
    for writer in writers:
        writer.start()

    def fault(**how):
        for name, value in how.items():
            setattr(link, name, value)
        time.sleep(PHASE_SECONDS)
        link.delay, link.cut_chance, link.swallow, link.one_way = 0.0, 0.0, False, False

    fault(delay=0.2)
    fault(cut_chance=0.01)
    fault(one_way=True)
    link.cut_all()
    fault(swallow=True)
    link.cut_all()
    for _ in range(40):
        link.reset_after = random.randint(500, 20_000)
        time.sleep(0.25)
    link.reset_after = None
    link.cut_all()
    time.sleep(3)
    finish(ends, writers, within=60)
    partner.http.close()
    lost, doubled = lost_and_doubled(machine, writers)
    statuses = sum((Counter(w.statuses) for w in writers), Counter())
    longest, unknown = max(w.longest for w in writers), sum(w.unknown for w in writers)
    figure(
        f"+200 ms, 1 % cut, half open, swallowing, resets in the middle: {sum(len(w.acknowledged) for w in writers)} writes, {lost} lost, "
        f"{doubled} doubled; the longest answer took {longest:.1f} s; {unknown} commits reported as unknown; statuses {dict(statuses)}"
    )
    link.close()
    assert sum(len(w.acknowledged) for w in writers) > ENOUGH
    assert (lost, doubled) == (0, 0)
    assert longest < 10
    assert unknown > 0
    assert statuses[500] == 0


def test_r10_clocks_that_step_by_an_hour_change_no_order_and_fail_nothing(machine, figure):
    clock = Clock()
    service = Service(machine.settings.model_copy(update={"requests_per_second": 100_000, "tokens_per_minute": 100_000, "log_level": "error"}), clock)
    service.start()
    statuses, written = Counter(), []
    machine.ask("UPDATE signing_key SET signs_from = signs_from - interval '1 day'")  # the service is older than its clock is wrong
    time.sleep(3)
    with service.partner() as partner:
        episode = partner.add_episode()
        for step in range(120):
            clock.offset = timedelta(hours=random.choice([-1, 0, 1]), seconds=random.randint(-20, 20))
            partner.token = partner.new_token(grant_type="client_credentials")["access_token"]
            years = timedelta(days=365 * random.choice([-10, 0, 10]))
            at = (datetime.now(UTC) + years).isoformat()
            answers = {"instrument": "PHQ-9", "answers": {str(n): 1 for n in range(1, 10)}, "answered_at": at}
            statuses[partner.send("POST", f"{episode.path}/assessments", answers, Idempotency_Key=str(step)).status_code] += 1
            made = partner.send("POST", f"{episode.path}/goals", {"text": str(step)})
            statuses[made.status_code] += 1
            written += [made.json()["id"]] if made.status_code == 201 else []
        clock.offset = timedelta(0)
        partner.token = partner.new_token(grant_type="client_credentials")["access_token"]
        told = partner.get("/v1/events?since=0&limit=1000")["events"]
    service.stop()
    in_order = [e["entity_id"] for e in told if e["type"] == "goal.created"]
    figure(f"120 steps of the clock, device clocks 10 years off: statuses {dict(statuses)}; {len(in_order)} goals told in the order of their writing")
    assert set(statuses) <= {201, 422}, "an answer of the future is refused"
    assert len(written) == 120
    assert in_order == written


def test_r21_the_same_key_a_hundred_times_at_once(machine, figure):
    api = machine.api()
    outcomes = Counter()
    with machine.partner(api) as partner:
        episode = partner.add_episode()
        for _ in range(10):
            key = str(uuid4())
            headers = {"Authorization": f"Bearer {partner.token}", "Idempotency-Key": key}

            def once(_, headers=headers):
                return httpx.post(f"{api.base_url}{episode.path}/goals", json={"text": "x"}, headers=headers, timeout=30)

            with ThreadPoolExecutor(50) as pool:
                answers = list(pool.map(once, range(100)))
            outcomes += Counter(a.status_code for a in answers)
            assert len({a.content for a in answers if a.status_code == 201}) == 1
            assert {a.status_code for a in answers} <= {201, 409, 503}
        effects = len(partner.get(f"{episode.path}/goals?limit=200")["items"])
    figure(f"10 keys, 100 requests each at once: {effects} effects, statuses {dict(outcomes)}")
    assert effects == 10


def test_r26_updates_that_cross_are_retried_inside(machine, figure):
    """Devices push batches over the same charts in opposite orders."""
    from tests.driver import Device, mutation  # noqa: PLC0415

    api = machine.api()
    partner = machine.partner(api)
    lead, cover = partner.add_clinician()["id"], partner.add_clinician()["id"]
    episodes = [partner.add_episode(lead_clinician_id=lead, cover_clinician_id=cover) for _ in range(4)]
    ends, statuses, pushed = time.monotonic() + CROSSING_SECONDS, Counter(), Counter()

    def push(number):
        device = Device(partner, lead)
        own = httpx.Client(base_url=api.base_url, timeout=30, headers={"Authorization": f"Bearer {device.token}"})
        chance = random.Random(number)
        while time.monotonic() < ends:
            batch = [mutation("goal", "create", episode_id=episode.id, text="x") for episode in episodes * 3]
            chance.shuffle(batch)
            answer = own.post("/v1/sync/push", json={"client_id": device.id, "mutations": batch}, headers={"Idempotency-Key": str(uuid4())})
            statuses[answer.status_code] += 1
            pushed["applied"] += sum(r["status"] == "applied" for r in answer.json()["results"]) if answer.status_code == 200 else 0
        own.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(push, range(8)))
    partner.http.close()
    there = sum(machine.ask("SELECT count(*) AS n FROM goal WHERE episode_id = $1", e.row["id"])[0]["n"] for e in episodes)
    figure(f"8 devices over 4 charts for {CROSSING_SECONDS} s: statuses {dict(statuses)}, {pushed['applied']} mutations applied, {there} there")
    assert set(statuses) == {200}
    assert there == pushed["applied"]
