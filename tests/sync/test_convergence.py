"""Any number of devices, any operations, any order of arrival: all replicas end equal to the server, and nothing is lost."""

import random
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from app.store.database import Database
from app.store.tables.record import change
from tests.driver import Device, mutation

SEEDS = range(8)
DEVICES = 5
ROUNDS = 6
TEXTS = ("help", "nothing", "a call", "an apology")


class Replica(Device):
    """A device that goes wrong in every way: it queues, sends twice, in pieces, again from an older day, with a clock off by years."""

    def __init__(self, chance, *arguments):
        super().__init__(*arguments)
        self.chance, self.queue, self.sent, self.results = chance, [], [], {}

    def edit(self, episode_id):
        people = list(self.of("relationship"))
        what = self.chance.random()
        if what < 0.3 or not people:
            fields = {"episode_id": episode_id, "label": self.chance.choice(["aunt", "M.", "Bob Jones Smith"]), "relation_type": "friend"}
            made = mutation("relationship", "create", **fields)
        else:
            row_id = self.chance.choice(people)
            base = self.rows["relationship", row_id]["version"]
            if what < 0.85:
                fields = self.chance.sample(
                    [
                        ("confiding", self.chance.randrange(5)),
                        ("conflict_level", self.chance.randrange(4)),
                        ("expects_of_other", self.chance.choice(TEXTS)),
                    ],
                    self.chance.randrange(1, 4),
                )
                made = mutation("relationship", "update", row_id, base, **dict(fields))
            else:
                made = mutation("relationship", "delete", row_id, base)
        made["occurred_at"] = self.chance.choice(["1990-01-01T00:00:00Z", "2026-11-25T00:00:00Z", "2099-12-31T23:59:59Z"])
        self.queue.append(made)

    def send(self):
        """Send the queue: perhaps only its beginning, perhaps with old ones again, perhaps shuffled or doubled, perhaps with the reply lost."""
        batch = list(self.queue)
        how = self.chance.random()
        if how < 0.2 and batch:
            batch = batch[: self.chance.randrange(1, len(batch) + 1)]
        elif how < 0.4:
            batch += self.chance.sample(self.sent, min(3, len(self.sent)))
        elif how < 0.5:
            self.chance.shuffle(batch)
        elif how < 0.6:
            batch += batch
        if not batch:
            return
        results = self.push(*batch[:100])
        self.sent += [m for m in batch if m not in self.sent]
        if self.chance.random() < 0.25:
            return  # the reply was lost: everything stays in the queue
        for result in results:
            self.results.setdefault(result["mutation_id"], result)
        done = {r["mutation_id"] for r in results}
        self.queue = [m for m in self.queue if m["mutation_id"] not in done]


@pytest.mark.parametrize("seed", SEEDS)
def test_all_replicas_come_to_the_servers_state_and_every_mutation_is_applied_once_kept_or_refused(partner, on_database, seed):
    chance = random.Random(seed)
    episode = partner.add_episode()
    people = [chance.choice([episode.lead, episode.cover]) for _ in range(DEVICES)]
    replicas = [Replica(chance, partner, person) for person in people]
    for _ in range(ROUNDS):
        for replica in replicas:
            for _ in range(chance.randrange(4)):
                replica.edit(episode.id)
            if chance.random() < 0.7:
                replica.send()
            if chance.random() < 0.7:
                replica.pull(chance.choice([1, 3, 200]))
    for replica in replicas:
        while replica.queue:
            replica.send()
    for replica in replicas:
        replica.pull()
    there = Device(partner, episode.lead).pull()
    assert all(replica.rows == there.rows for replica in replicas)
    listed = partner.get(f"{episode.path}/relationships?limit=200")["items"]
    assert {r["id"]: r["version"] for r in listed} == {i: r["version"] for i, r in there.of("relationship").items()}
    for row in listed:
        assert {k: row[k] for k in ("label", "confiding", "conflict_level", "expects_of_other")} == {
            k: there.of("relationship")[row["id"]].get(k) for k in ("label", "confiding", "conflict_level", "expects_of_other")
        }
    check_nothing_lost_or_doubled(partner, on_database, replicas, episode)


def check_nothing_lost_or_doubled(partner, on_database, replicas, episode):
    async def job(database: Database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            wanted = (change.c.partner_id == connection.partner_id, change.c.mutation_id.is_not(None))
            return await connection.rows(sa.select(change.c.mutation_id, change.c.entity, change.c.seq).where(*wanted))

    written = [str(r["mutation_id"]) for r in on_database(job)]
    assert len(written) == len(set(written))  # each mutation wrote once: the row, or the conflict
    kept = {c["mutation_id"]: c for c in partner.get("/v1/sync/conflicts?limit=200", token=episode.token)["items"]}
    for replica in replicas:
        for sent in replica.sent:
            result = replica.push(sent)[0]  # asked once more, it says what became of it
            match result["status"]:
                case "duplicate":
                    assert sent["mutation_id"] in written or sent["op"] in {"update", "delete"}
                case "conflict":
                    assert kept[sent["mutation_id"]]["fields"] == {k: v for k, v in sent["fields"].items() if sent["op"] == "update"}
                case "rejected":
                    assert result["problem"]["detail"]
                case other:
                    raise AssertionError(other)


def test_one_mutation_id_is_one_mutation_whichever_way_it_comes(partner):
    episode = partner.add_episode()
    device = Device(partner, episode.lead).pull()
    one = mutation("goal", "create", episode_id=episode.id, text="x", term="short", mutation_id=str(uuid4()))
    assert [device.push(one)[0]["status"] for _ in range(3)] == ["applied", "duplicate", "duplicate"]
    assert len(device.pull().of("goal")) == 1
