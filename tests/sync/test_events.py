"""Events: every write, by cursor, and nothing of its content."""

import json

from tests.driver import Device, mutation


def events(partner, **query):
    found, since = [], 0
    while True:
        page = partner.get(f"/v1/events?since={since}&limit=7" + "".join(f"&{k}={v}" for k, v in query.items()))
        found += page["events"]
        since = page["next"]
        if not page["has_more"]:
            return found


def test_events_replay_every_write_in_order_with_ids_and_nothing_else(partner):
    episode = partner.add_episode()
    person = episode.add_relationship(label="aunt", expects_of_other="a secret wish")
    partner.patch(f"{episode.path}/relationships/{person['id']}", {"confiding": 2}, '"1.1"')
    partner.send("DELETE", f"{episode.path}/relationships/{person['id']}", If_Match='"2.1"')
    found = events(partner)
    assert [e["seq"] for e in found] == sorted({e["seq"] for e in found})
    mine = [(e["type"], e["version"]) for e in found if e["entity_id"] == person["id"]]
    assert mine == [("relationship.created", 1), ("relationship.updated", 2), ("relationship.deleted", 3)]
    assert "aunt" not in json.dumps(found)
    assert "secret wish" not in json.dumps(found)
    assert set(found[-1]) == {
        "id", "type", "seq", "at", "entity", "entity_id", "version", "patient_id", "episode_id", "actor", "mutation_id",
    }  # fmt: skip
    assert {e["type"] for e in events(partner, types="relationship.*")} == {f"relationship.{v}" for v in ("created", "updated", "deleted")}
    assert {e["type"] for e in events(partner, types="relationship.created,episode.created")} == {"relationship.created", "episode.created"}
    other = partner.add_episode()
    assert {e["episode_id"] for e in events(partner, episode_id=other.id)} == {other.id}
    assert {e["patient_id"] for e in events(partner, patient_id=other.patient_id)} == {other.patient_id}
    unknown = partner.send("GET", "/v1/events?types=surprise.created")
    assert (unknown.status_code, unknown.json()["type"]) == (422, "/problems/event-type-unknown")


def test_events_are_the_partners_own_and_tell_of_devices_mutations(partner, other_partner):
    episode = partner.add_episode()
    device = Device(partner, episode.lead)
    sent = mutation("goal", "create", episode_id=episode.id, text="x", term="short")
    device.push(sent)
    assert [e["mutation_id"] for e in events(partner, types="goal.created")] == [sent["mutation_id"]]
    assert events(other_partner) == []
    assert partner.send("GET", "/v1/events", token=device.token).status_code == 403
    assert not [e for e in events(partner) if e["type"].split(".")[1] not in {"created", "updated", "deleted"}]
