"""The worker as a process of its own that is killed: on a database of the test's own, where hundreds of other partners cost it no time."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from app.outbound.guarded import WITHIN_SECONDS
from app.store.webhooks import LEASE
from tests.driver import PHQ9, Device, mutation

# a dead worker's claims are let go after five seconds, not after thirty, for which this test would wait
WORKER = "import datetime, app.store.webhooks as w; w.LEASE = datetime.timedelta(seconds=5); from app.cli import main; main()"


@pytest.fixture
def service(own_service):
    return own_service


def test_the_worker_process_killed_again_and_again_delivers_everything_and_an_alert_within_a_minute(partner, hook, receiver, service):
    hook(["goal.created", "risk_alert.*"])
    episode = partner.add_episode()
    device = Device(partner, episode.lead)
    env = {**os.environ, **{f"IPT_{k.upper()}": str(v) for k, v in service.settings.model_dump(exclude_none=True).items()}}
    env |= {"IPT_WEBHOOK_ALLOWED_HOSTS": receiver.host}
    goals, goes_on = set(), threading.Event()

    def started():
        return subprocess.Popen([sys.executable, "-c", WORKER, "worker"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def told():
        return {json.loads(body)["data"]["entity_id"] for _, body in list(receiver.got)}

    for _ in range(3):
        batch = [mutation("goal", "create", episode_id=episode.id, text="x", term="short") for _ in range(60)]
        device.push(*batch)
        goals |= {m["id"] for m in batch}
        enough = len(receiver.got) + 10
        goes_on.clear()
        receiver.behave = lambda _, enough=enough: (len(receiver.got) < enough or goes_on.wait(30)) and 200
        process = started()
        wait_until(lambda enough=enough: len(receiver.got) >= enough)
        process.kill()  # in the middle of them: some are noted, some are told and not noted, some wait for the receiver, some for the worker
        process.wait()
        goes_on.set()
    process, raised = started(), time.monotonic()
    alert = episode.assess({**PHQ9, "9": 2}, days=0)["risk_alert"]["id"]
    wait_until(lambda: alert in told())
    assert time.monotonic() - raised < 60
    wait_until(lambda: goals <= told())
    process.terminate()
    assert process.wait(20) == 0


def test_a_claim_outlives_an_attempt_and_leaves_time_for_another_within_a_minute():
    assert 2 * WITHIN_SECONDS <= LEASE.total_seconds() <= 60 - WITHIN_SECONDS


def wait_until(it_is_so, within=90):
    """Wait until something is so; fail when it is not in time."""
    deadline = time.monotonic() + within
    while not it_is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
