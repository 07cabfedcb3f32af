"""Webhooks: signed, delivered at least once, alerts first, whatever receivers and workers do."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
import standardwebhooks

from app.domain.webhooks import GIVE_UP_AFTER, STEPS, URGENT_STEPS, wait_before
from app.keys.provider import read_key_ring
from app.store.database import Database, clock
from app.store.tables.webhooks import webhook_delivery
from app.store.webhooks import claim, give_up_overdue, move_back, new_delivery, settle
from app.worker import Deliveries
from tests.conftest import newest_partners_only
from tests.driver import PHQ9, Device, mutation
from tests.sync.test_events import events


def deliveries_of(partner, endpoint, **query):
    return partner.get(f"/v1/webhook-endpoints/{endpoint['id']}/deliveries?limit=200" + "".join(f"&{k}={v}" for k, v in query.items()))["items"]


def test_a_delivery_is_thin_signed_by_the_standard_and_told_once(partner, hook, receiver, worker):
    endpoint = hook()
    episode = partner.add_episode()
    episode.add_relationship(label="aunt")
    worker(3)
    verifier = standardwebhooks.Webhook(endpoint["secret"])
    bodies = [verifier.verify(body, headers) for headers, body in receiver.got]
    told = [e for e in events(partner) if e["entity"] != "webhook_endpoint"]
    assert {b["data"]["seq"] for b in bodies} >= {e["seq"] for e in told}
    assert {(b["id"], b["type"]) for b in bodies} >= {(e["id"], e["type"]) for e in told}
    assert [h["webhook-id"] for h, _ in receiver.got] == [b["id"] for b in bodies]
    assert set(bodies[-1]) == {"id", "type", "timestamp", "data"}
    assert set(bodies[-1]["data"]) == {"seq", "entity", "entity_id", "version", "patient_id", "episode_id"}
    assert "aunt" not in str(receiver.got)
    assert len({b["id"] for b in bodies}) == len(bodies)
    number = len(receiver.got)
    worker(2)
    assert len(receiver.got) == number
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verifier.verify(receiver.got[0][1] + b" ", receiver.got[0][0])


def test_only_the_wanted_types_are_told(partner, hook, receiver, worker):
    hook(["relationship.created", "session.*"])
    episode = partner.add_episode()
    episode.add_relationship()
    episode.hold()
    worker(2)
    assert sorted(receiver.types()) == ["relationship.created", "session.created"]


def test_a_rotated_secret_signs_beside_the_old_one_until_the_overlap_is_over(partner, hook, receiver, worker):
    endpoint = hook()
    key = str(uuid4())
    rotated = partner.post(f"/v1/webhook-endpoints/{endpoint['id']}/secret-rotation", {"overlap_seconds": 3600}, Idempotency_Key=key)
    assert rotated["secret"] != endpoint["secret"]
    again = partner.post(f"/v1/webhook-endpoints/{endpoint['id']}/secret-rotation", {"overlap_seconds": 3600}, Idempotency_Key=key)
    assert again["secret"] is None
    partner.add_patient()
    worker()
    headers, body = receiver.got[-1]
    assert len(headers["webhook-signature"].split()) == 2
    for secret in (endpoint["secret"], rotated["secret"]):
        standardwebhooks.Webhook(secret).verify(body, headers)
    receiver.got.clear()
    partner.add_patient()
    worker(later=timedelta(hours=2))
    headers, body = receiver.got[-1]
    assert len(headers["webhook-signature"].split()) == 1


def test_secrets_stand_nowhere_in_clear(partner, hook, on_database):
    key = str(uuid4())
    endpoint = hook()
    again = partner.post("/v1/webhook-endpoints", {"url": endpoint["url"], "event_types": ["*"]}, Idempotency_Key=key)
    repeat = partner.post("/v1/webhook-endpoints", {"url": endpoint["url"], "event_types": ["*"]}, Idempotency_Key=key)
    assert (repeat["id"], repeat["secret"]) == (again["id"], None)
    assert again["secret"].startswith("whsec_")
    path = f"/v1/webhook-endpoints/{endpoint['id']}"
    for where in (path, "/v1/webhook-endpoints", f"{path}/history"):
        assert "secret" not in json.dumps(partner.get(where)).replace("webhook_secret", "")

    async def job(database: Database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            return [r["whole"] for r in await connection.rows(sa.text("SELECT s::text AS whole FROM webhook_secret s"))]

    assert endpoint["secret"].removeprefix("whsec_") not in str(on_database(job))


def test_a_receiver_that_was_down_slow_or_lying_gets_everything_once_it_is_back(partner, hook, receiver, worker):
    endpoint = hook(["goal.created"])
    episode = partner.add_episode()
    goals = [partner.post(f"{episode.path}/goals", {"text": f"x{n}"})["id"] for n in range(25)]
    troubles = iter([500, 302, None, 404, 307, 503])
    receiver.behave = lambda _: next(troubles, 500)
    later = timedelta(0)
    for _ in range(8):
        worker(later=later)
        later += timedelta(hours=2)
    assert receiver.got == []
    shown = partner.get(f"/v1/webhook-endpoints/{endpoint['id']}")
    assert shown["failing_since"]
    assert shown["waiting"] == 25
    log = [entry for d in deliveries_of(partner, endpoint) for entry in d["log"]]
    assert {entry["status"] for entry in log} >= {500, 302, 404, None}
    receiver.behave = lambda _: 200
    worker(6, later=later + timedelta(hours=9))
    assert sorted(json.loads(b)["data"]["entity_id"] for _, b in receiver.got) == sorted(goals)
    shown = partner.get(f"/v1/webhook-endpoints/{endpoint['id']}")
    assert (shown["failing_since"], shown["waiting"], shown["given_up"]) == (None, 0, 0)


def test_a_slow_receiver_is_left_after_the_deadline(partner, hook, receiver, worker):
    endpoint = hook(["patient.created"])
    partner.add_patient()
    receiver.behave = lambda _: time.sleep(3) or 200
    started = time.monotonic()
    worker(within=0.5)
    assert time.monotonic() - started < 2.5
    assert deliveries_of(partner, endpoint)[0]["last_error"]


def test_after_72_hours_a_delivery_is_a_dead_letter_that_can_be_sent_again(partner, hook, receiver, worker):
    endpoint = hook(["patient.created"])
    start = partner.get("/v1/events?limit=1000")["next"]
    partner.add_patient()
    receiver.behave = lambda _: 500
    worker()
    worker(later=timedelta(hours=71, minutes=59))
    assert [d["status"] for d in deliveries_of(partner, endpoint)] == ["pending"]
    worker(later=timedelta(hours=72, minutes=1))
    assert [d["status"] for d in deliveries_of(partner, endpoint)] == ["dead"]
    assert partner.get(f"/v1/webhook-endpoints/{endpoint['id']}")["given_up"] == 1
    assert deliveries_of(partner, endpoint, status="dead")[0]["attempts"] == 3
    receiver.behave = lambda _: 200
    worker()
    assert receiver.got == []
    partner.post(f"/v1/webhook-endpoints/{endpoint['id']}/resend", {"since": start})
    worker()
    assert receiver.types() == ["patient.created"]
    partner.post(f"/v1/webhook-endpoints/{endpoint['id']}/resend", {"since": start})
    worker()
    assert [h["webhook-id"] for h, _ in receiver.got] == [receiver.got[0][0]["webhook-id"]] * 2


def test_an_endpoint_is_switched_off_after_long_failure_with_notice_and_told_the_rest_when_it_is_enabled(partner, hook, receiver, worker):
    endpoint = hook(["patient.created"])
    other = hook(["webhook_endpoint.updated"], url=receiver.address + "?other")
    partner.add_patient()
    receiver.behave = lambda body: 500 if body["type"] == "patient.created" else 200
    worker()
    partner.add_patient()
    worker(later=timedelta(hours=121))
    assert partner.get(f"/v1/webhook-endpoints/{endpoint['id']}")["status"] == "enabled"  # one that is hardly asked is not switched off
    for hours in range(122, 140):
        partner.add_patient()
        worker(later=timedelta(hours=hours))
    shown = partner.get(f"/v1/webhook-endpoints/{endpoint['id']}")
    assert (shown["status"], shown["disabled_because"]) == ("disabled", "failing")
    worker(2)
    notices = [json.loads(b) for _, b in receiver.got]
    assert [n["data"]["entity_id"] for n in notices] == [endpoint["id"]]
    assert [e["actor"] for e in events(partner, types="webhook_endpoint.updated")][-1].endswith(".worker")
    partner.add_patient()
    receiver.behave = lambda _: 200
    worker(2)
    assert "patient.created" not in receiver.types()
    refused = partner.send("POST", f"/v1/webhook-endpoints/{endpoint['id']}/ping", {})
    assert refused.json()["type"] == "/problems/endpoint-off"
    partner.patch(f"/v1/webhook-endpoints/{endpoint['id']}", {"status": "enabled"}, f'"{shown["version"]}.1"')
    worker(3, later=timedelta(hours=200))
    assert receiver.types().count("patient.created") >= 2
    assert partner.get(f"/v1/webhook-endpoints/{other['id']}")["status"] == "enabled"


def test_an_endpoint_that_says_it_is_gone_is_switched_off_at_once(partner, hook, receiver, worker):
    endpoint = hook(["patient.created"])
    partner.add_patient()
    receiver.behave = lambda _: 410
    worker()
    shown = partner.get(f"/v1/webhook-endpoints/{endpoint['id']}")
    assert (shown["status"], shown["disabled_because"]) == ("disabled", "gone")


def test_a_paused_endpoint_is_told_afterwards_what_was_written_meanwhile(partner, hook, receiver, worker):
    endpoint = hook(["patient.created"])
    partner.patch(f"/v1/webhook-endpoints/{endpoint['id']}", {"status": "paused"}, '"1.1"')
    partner.add_patient()
    worker(2)
    assert receiver.got == []
    partner.patch(f"/v1/webhook-endpoints/{endpoint['id']}", {"status": "enabled"}, '"2.1"')
    worker(2)
    assert receiver.types() == ["patient.created"]


def test_a_ping_is_delivered_and_logged(partner, hook, receiver, worker):
    endpoint = hook(["session.created"])
    sent = partner.post(f"/v1/webhook-endpoints/{endpoint['id']}/ping", {})
    worker()
    headers, body = receiver.got[0]
    assert standardwebhooks.Webhook(endpoint["secret"]).verify(body, headers)["type"] == "ping"
    assert [(d["id"], d["status"], d["last_status"]) for d in deliveries_of(partner, endpoint)] == [(sent["delivery_id"], "delivered", 200)]


def test_a_risk_alert_is_told_first_whatever_the_backlog_and_however_slow_the_receiver(partner, hook, receiver, worker, on_database):
    hook(["*"])
    episode = partner.add_episode()
    device = Device(partner, episode.lead)
    for _ in range(15):
        device.push(*[mutation("goal", "create", episode_id=episode.id, text="x", term="short") for _ in range(100)])
    receiver.behave = lambda body: 200 if body["type"].startswith("risk_alert") else 503
    worker(3)
    raised = time.monotonic()
    alert = episode.assess({**PHQ9, "9": 2}, days=0)["risk_alert"]
    worker(1)
    assert [json.loads(b)["data"]["entity_id"] for _, b in receiver.got] == [alert["id"]]
    assert time.monotonic() - raised < 60

    async def job(database: Database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            return await connection.value(
                sa.select(sa.func.count()).where(webhook_delivery.c.partner_id == connection.partner_id, webhook_delivery.c.status == "pending")
            )

    assert 900 <= on_database(job) <= 1000  # the rest waits in the feed


def test_retries_are_spread_and_end_at_72_hours_and_alerts_are_tried_every_half_minute():
    waits = [wait_before(n, urgent=False, waited=timedelta(0), jitter=1).total_seconds() for n in range(1, 30)]
    assert waits[: len(STEPS)] == [s.total_seconds() for s in STEPS]
    assert waits == sorted(waits)
    assert wait_before(3, urgent=False, waited=timedelta(0), jitter=0) == STEPS[2] / 2
    assert max(URGENT_STEPS) <= timedelta(seconds=30)
    assert wait_before(50, urgent=True, waited=timedelta(minutes=59), jitter=1) <= timedelta(seconds=30)
    assert wait_before(50, urgent=True, waited=timedelta(hours=2), jitter=1) == timedelta(minutes=5)
    assert timedelta(hours=72) == GIVE_UP_AFTER


def test_two_workers_share_the_deliveries_and_none_is_told_twice(partner, hook, receiver, service, on_database, monkeypatch):
    newest_partners_only(monkeypatch, "app.worker")
    hook(["goal.created"])
    episode = partner.add_episode()
    device = Device(partner, episode.lead)
    device.push(*[mutation("goal", "create", episode_id=episode.id, text="x", term="short") for _ in range(100)])
    ring = read_key_ring(service.settings.keys_path)
    receiver.behave = lambda _: time.sleep(0.05) or 200  # one worker looks for what is due while another's posts are under way

    async def job(database: Database):
        async def rounds(of: Deliveries):
            for _ in range(20):
                await of.take(clock(lambda: datetime.now(UTC)))
                await of.settled()
            await of.close()

        await asyncio.gather(*(rounds(Deliveries(database, ring, [receiver.host])) for _ in range(3)))

    on_database(job, "ipt_worker")
    assert len(receiver.got) == 100
    assert len({h["webhook-id"] for h, _ in receiver.got}) == 100


def test_deliveries_that_a_dead_worker_had_claimed_are_taken_over(partner, hook, receiver, worker, on_database):
    hook(["patient.created"])
    partner.add_patient()
    own = UUID(partner.partner_id)
    worker(allowed=())  # this one may not call the receiver: the attempt fails, and is due again

    async def claimed(database: Database):
        async with database.transaction(own) as connection:
            until = datetime.now(UTC) + timedelta(seconds=60)
            await connection.run(
                sa.update(webhook_delivery).where(webhook_delivery.c.partner_id == own).values(claimed_until=until, next_attempt_at=until)
            )
            await connection.commit()

    on_database(claimed)
    worker()
    assert receiver.got == []
    worker(later=timedelta(seconds=61))
    assert receiver.types() == ["patient.created"]


def test_another_partners_endpoint_is_not_found(partner, other_partner, hook):
    endpoint = hook()
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"status": "paused"}),
        ("DELETE", "", None),
        ("POST", "/ping", {}),
        ("POST", "/resend", {"since": 0}),
        ("POST", "/secret-rotation", {}),
        ("GET", "/deliveries", None),
        ("GET", "/history", None),
    ):
        answer = other_partner.send(method, f"/v1/webhook-endpoints/{endpoint['id']}{path}", body, If_Match='"1.1"')
        assert answer.status_code == 404, path
    assert other_partner.get("/v1/webhook-endpoints")["items"] == []
    assert partner.send("DELETE", f"/v1/webhook-endpoints/{endpoint['id']}", If_Match='"1.1"').status_code == 204
    assert partner.get("/v1/webhook-endpoints")["items"] == []


def test_done_deliveries_are_cleared_after_30_days(partner, hook, receiver, worker, on_database):
    from app.worker import clear_expired  # noqa: PLC0415

    endpoint = hook(["patient.created"])
    partner.add_patient()
    worker()
    on_database(lambda database: clear_expired(database, datetime.now(UTC) + timedelta(days=29)), "ipt_worker")
    assert len(deliveries_of(partner, endpoint)) == 1
    on_database(lambda database: clear_expired(database, datetime.now(UTC) + timedelta(days=31)), "ipt_worker")
    assert deliveries_of(partner, endpoint) == []


def test_no_more_is_claimed_than_there_is_room_for(partner, hook, on_database):
    endpoint = UUID(hook(["goal.created"])["id"])
    own = UUID(partner.partner_id)

    async def job(database: Database):
        moment = clock(lambda: datetime.now(UTC))
        async with database.transaction(own) as connection:
            for n in range(40):
                row = new_delivery(connection, endpoint, moment, moment + GIVE_UP_AFTER, urgent=False)
                await connection.run(sa.insert(webhook_delivery).values(row | {"type": "goal.created", "seq": n + 10_000}))
            first = await claim(connection, endpoint, moment, urgent=False, most_at_once=8, room=3)
            second = await claim(connection, endpoint, moment, urgent=False, most_at_once=8, room=20)
            third = await claim(connection, endpoint, moment, urgent=False, most_at_once=8, room=20)
            return [len(c) for c in (first, second, third)]

    assert on_database(job, "ipt_worker") == [3, 5, 0]


def test_an_endpoint_that_breaks_the_round_holds_up_no_other(partner, hook, receiver, worker, on_database):
    broken, healthy = hook(["goal.created"]), hook(["goal.created"], url=receiver.address + "?healthy")
    own = UUID(partner.partner_id)
    unknown = hook(["goal.created"], url=receiver.address + "?unknown")

    async def job(database: Database):
        async with database.transaction(own) as connection:
            await connection.run(sa.text("UPDATE webhook_secret SET secret = 'x' WHERE endpoint_id = :id").bindparams(id=UUID(broken["id"])))
            await connection.run(
                sa.text('UPDATE webhook_endpoint SET event_types = \'["gone.created", "goal.created"]\' WHERE id = :id').bindparams(
                    id=UUID(unknown["id"])
                )
            )
            await connection.commit()

    on_database(job, "ipt_owner")
    episode = partner.add_episode()
    partner.post(f"{episode.path}/goals", {"text": "x"})
    worker(2)
    assert len(receiver.got) == 2
    assert healthy["id"]


def test_a_new_alert_is_told_before_old_ones_that_are_told_again(partner, hook, receiver, worker, monkeypatch):
    endpoint = hook(["risk_alert.*"])
    episodes = [partner.add_episode() for _ in range(5)]
    start = partner.get("/v1/events?limit=1000")["next"]
    for episode in episodes[:4]:
        episode.assess({**PHQ9, "9": 1}, days=0)
    worker(2)
    partner.post(f"/v1/webhook-endpoints/{endpoint['id']}/resend", {"since": start})
    partner.post(f"/v1/webhook-endpoints/{endpoint['id']}/ping", {})
    newest = episodes[4].assess({**PHQ9, "9": 2}, days=0)["risk_alert"]["id"]
    receiver.got.clear()
    monkeypatch.setattr("app.worker.URGENT_OF_A_PARTNER", 1)  # one at a time, so that the order of arrival is the order of claims
    worker(5)
    told = [json.loads(body) for _, body in receiver.got]
    alerts = [b["data"]["entity_id"] for b in told if b["type"].startswith("risk_alert")]
    assert alerts[0] == newest
    assert len(alerts) == 5
    assert [b["type"] for b in told].count("ping") == 1


def test_one_event_that_a_receiver_refuses_keeps_its_own_schedule_and_slows_no_other(partner, hook, receiver, worker):
    endpoint = hook(["goal.created", "patient.created"])
    episode = partner.add_episode()
    receiver.behave = lambda body: 422 if body["type"] == "patient.created" else 200
    partner.add_patient()
    for second in range(20):
        partner.post(f"{episode.path}/goals", {"text": "x"})
        worker(later=timedelta(seconds=second))
    refused = next(d for d in deliveries_of(partner, endpoint, status="pending") if d["type"] == "patient.created")
    assert refused["attempts"] <= 3
    assert receiver.types().count("goal.created") == 20


def test_a_long_pause_takes_nothing_of_the_72_hours(partner, hook, receiver, worker):
    endpoint = hook(["patient.created"])
    receiver.behave = lambda _: 503
    partner.add_patient()
    worker()
    partner.patch(f"/v1/webhook-endpoints/{endpoint['id']}", {"status": "paused"}, '"1.1"')
    worker(later=timedelta(hours=60))
    partner.patch(f"/v1/webhook-endpoints/{endpoint['id']}", {"status": "enabled"}, '"2.1"')
    for hours in (61, 65, 70):
        worker(later=timedelta(hours=hours))
    assert [d["status"] for d in deliveries_of(partner, endpoint)] == ["pending"]
    receiver.behave = lambda _: 200
    worker(later=timedelta(hours=71))
    assert receiver.types() == ["patient.created"]


def test_an_attempt_that_is_overtaken_by_a_resend_settles_nothing(partner, hook, on_database):
    endpoint = UUID(hook(["patient.created"])["id"])
    own = UUID(partner.partner_id)

    async def job(database: Database):
        moment = clock(lambda: datetime.now(UTC))
        async with database.transaction(own) as connection:
            row = new_delivery(connection, endpoint, moment, moment + GIVE_UP_AFTER, urgent=False)
            await connection.run(sa.insert(webhook_delivery).values(row | {"type": "patient.created", "seq": 10_000}))
            (old,) = await claim(connection, endpoint, moment, urgent=False, most_at_once=8, room=8)
            await move_back(connection, endpoint, 0, moment, moment + GIVE_UP_AFTER)
            (new,) = await claim(connection, endpoint, moment, urgent=False, most_at_once=8, room=8)
            entry = {"at": "x", "status": 200, "error": None, "milliseconds": 1}
            late = await settle(connection, old, {"status": "delivered"}, entry)
            return late, await settle(connection, new, {"last_status": 500}, entry)

    assert on_database(job, "ipt_owner") == (False, True)


def test_what_was_tried_and_had_its_time_becomes_a_dead_letter_though_no_attempt_ends(partner, hook, on_database, worker, receiver):
    endpoint = hook(["patient.created"])
    receiver.behave = lambda _: 500
    partner.add_patient()
    worker()
    own = UUID(partner.partner_id)

    async def job(database: Database):
        async with database.transaction(own) as connection:
            early = await give_up_overdue(connection, datetime.now(UTC) + timedelta(hours=71))
            late = await give_up_overdue(connection, datetime.now(UTC) + timedelta(hours=73))
            await connection.commit()
            return early, late

    assert on_database(job, "ipt_worker") == (0, 1)
    assert [d["status"] for d in deliveries_of(partner, endpoint)] == ["dead"]
