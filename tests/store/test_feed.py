"""The feed: every action's change, gap-free, stamped last; a reader who polls misses nothing."""

import ast
import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from app.api.bearer import utc_now
from app.api.request import Route
from app.main import ROUTERS
from app.store.database import Database
from app.store.feed import Change, Journal, stamp
from app.store.tables.every import metadata
from app.store.tables.record import audit_event, change, change_clock
from tests.driver import Device, day, mutation

APP = Path(__file__).resolve().parents[2] / "app"


def changes_of(on_database, partner):
    async def job(database: Database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            return await connection.rows(sa.select(change).where(change.c.partner_id == connection.partner_id).order_by(change.c.seq))

    return on_database(job)


def test_every_write_of_a_course_is_told_in_order_without_a_gap(partner, on_database):
    episode = partner.add_episode()
    episode.consent()
    person = episode.add_relationship()
    partner.patch(f"{episode.path}/relationships/{person['id']}", {"confiding": 2}, '"1.1"')
    partner.send("DELETE", f"{episode.path}/relationships/{person['id']}", If_Match='"2.1"')
    found = changes_of(on_database, partner)
    assert [c["seq"] for c in found] == list(range(1, len(found) + 1))
    assert [c["at"] for c in found] == sorted(c["at"] for c in found)
    told = [(c["entity"], c["op"], c["version"]) for c in found if c["entity"] == "relationship"]
    assert told == [("relationship", "create", 1), ("relationship", "update", 2), ("relationship", "delete", 3)]
    assert {c["entity"] for c in found} == {"clinician", "patient", "episode", "care_team", "consent", "relationship"}
    assert all(c["state"] for c in found if c["patient_id"])


def test_a_refused_write_leaves_no_change_and_no_gap(partner, on_database):
    episode = partner.add_episode()
    before = len(changes_of(on_database, partner))
    assert partner.send("POST", f"{episode.path}/relationships", {"label": "Anna Maria Lopez", "relation_type": "friend"}).status_code == 422
    assert partner.send("PUT", f"{episode.path}/focus", {"primary": "grief", "patient_agreed": True}, If_None_Match="*").status_code == 403
    episode.consent()
    found = changes_of(on_database, partner)
    assert [c["seq"] for c in found] == list(range(1, before + 2))


def test_sixteen_writers_leave_no_gap_and_a_polling_reader_misses_nothing(partner, on_database):
    own = UUID(partner.partner_id)

    async def job(database: Database):
        writing = True
        seen: list[int] = []

        async def write():
            for _ in range(25):
                journal = Journal([Change("probe", uuid4(), 1, "create")])
                async with database.transaction(own) as connection:
                    await stamp(connection, journal, utc_now(), actor="test", client_id="test")
                    await connection.commit()

        async def read():
            while writing:
                await poll()
                await asyncio.sleep(0.002)
            await poll()

        async def poll():
            last = seen[-1] if seen else 0
            async with database.transaction(own) as connection:
                query = sa.select(change.c.seq).where(change.c.partner_id == own, change.c.seq > last).order_by(change.c.seq)
                seen.extend(r["seq"] for r in await connection.rows(query))

        reader = asyncio.create_task(read())
        await asyncio.gather(*(write() for _ in range(16)))
        writing = False
        await reader
        return seen

    def with_pool(job):
        return on_database(job)

    seen = with_pool(job)
    assert seen == list(range(1, 401))


def test_every_row_stands_in_the_feed_in_the_version_that_it_has(service, partner, database_url):
    """Whatever any test has written in this database by now: a write that did not tell the feed would show here."""
    episode = partner.add_episode().into_middle()
    episode.assess({str(n): 1 for n in range(1, 10)})
    partner.put(f"{episode.path}/termination", {"ending_as_loss": "x"})
    device = Device(partner, episode.lead)
    device.push(mutation("goal", "create", episode_id=episode.id, text="x", term="short"))
    partner.post("/v1/webhook-endpoints", {"url": "https://hooks.example.com/x", "event_types": ["*"]})
    partner.add_couple()
    partner.add_group_member(partner.add_group())
    tables = [t for t in metadata.tables.values() if "version" in t.c and t.name not in {"partner_setting", "change"}]

    async def untold():
        engine = create_async_engine(database_url)
        found, rows = {}, 0
        async with engine.connect() as connection:
            for table in tables:
                erased = " WHERE t.patient_id NOT IN (SELECT patient_id FROM erasure)" if "patient_id" in table.c else ""  # the worker comes later
                told = "c.partner_id = t.partner_id AND c.entity = :entity AND c.entity_id = t.id AND c.audience IS NULL"
                query = f"SELECT count(*) FILTER (WHERE t.version IS DISTINCT FROM (SELECT max(version) FROM change c WHERE {told})), count(*) FROM {table.name} t{erased}"
                wrong, number = (await connection.execute(sa.text(query), {"entity": table.name})).one()
                rows += number
                if wrong:
                    found[table.name] = wrong
        await engine.dispose()
        return found, rows

    found, rows = asyncio.run(untold())
    assert found == {}
    assert rows > 30


def test_every_resource_that_can_be_changed_has_a_history():
    routes = {(m, r.path_format) for module in ROUTERS for r in module.router.routes if isinstance(r, Route) for m in r.methods}
    histories = {p for m, p in routes if p.endswith("/history")}
    elsewhere = {  # told by the history of what they belong to
        "/v1/episodes/{episode_id}/phase/tasks/{task}": "/v1/episodes/{episode_id}/phase/tasks/history",
        "/v1/episodes/{episode_id}/assessment-requests/{request_id}/draft": "/v1/episodes/{episode_id}/assessment-requests/{request_id}/history",
        "/v1/patients/{patient_id}/protection": "/v1/patients/{patient_id}/history",
    }
    changed = {p for m, p in routes if m in {"PUT", "PATCH"}}
    assert {p for p in changed if elsewhere.get(p, f"{p}/history") not in histories} == set()


def test_the_journal_can_be_cut_back_to_a_savepoint():
    journal = Journal()
    journal.tell(Change("a", uuid4(), 1, "create"))
    mark = journal.mark()
    journal.tell(Change("b", uuid4(), 1, "create"))
    journal.truncate(mark)
    assert [c.entity for c in journal.changes] == ["a"]


def test_rows_are_written_by_the_one_module_that_tells_the_feed():
    """A write that does not go through actions/records.py would not be in the feed."""
    allowed = {"actions/records.py", "actions/people.py"}  # people: the patient's key, which is no resource
    writers = {"insert_row", "update_row", "delete_row"}
    found = set()
    for path in (APP / "actions").glob("*.py"):
        names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
        if names & writers:
            found.add(f"actions/{path.name}")
    assert found == allowed
    for path in [*(APP / "api").glob("*.py"), *(APP / "actions").glob("*.py")]:
        text = path.read_text()
        assert not [w for w in ("sa.insert", "sa.update", "sa.delete") if w in text], path


def test_every_access_is_audited_reads_and_refusals_included(partner, other_partner, on_database):
    episode = partner.add_episode()
    partner.get(f"{episode.path}/inventory", X_Request_Id="read-1")
    partner.send("GET", f"/v1/episodes/{uuid4()}", X_Request_Id="lost-1")
    partner.send("POST", "/v1/patients", {"nonsense": 1}, X_Request_Id="bad-1")
    partner.send("PATCH", f"/v1/patients/{episode.patient_id}", {"sex": "female"}, If_Match='"9.1"', X_Request_Id="stale-1")
    partner.send("PATCH", f"/v1/patients/{episode.patient_id}", {"sex": "female"}, If_Match='"1.1"', X_Request_Id="write-1")

    async def job(database: Database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            return await connection.rows(sa.select(audit_event).where(audit_event.c.partner_id == connection.partner_id))

    rows = {r["request_id"]: r for r in on_database(job)}
    assert (rows["read-1"]["action"], rows["read-1"]["outcome"], str(rows["read-1"]["episode_id"])) == ("read", 200, episode.id)
    assert str(rows["read-1"]["patient_id"]) == episode.patient_id
    assert (rows["lost-1"]["outcome"], rows["lost-1"]["reason"]) == (404, "NotFound")
    assert rows["bad-1"]["outcome"] == 422
    assert (rows["stale-1"]["outcome"], rows["stale-1"]["reason"]) == (412, "VersionStale")
    assert rows["write-1"]["resources"] == [f"patient/{episode.patient_id}"]
    assert {str(r["partner_id"]) for r in rows.values()} == {partner.partner_id}


def test_the_clock_of_a_partner_runs_forward_only(partner, on_database):
    partner.add_patient()

    async def job(database: Database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            return await connection.first(sa.select(change_clock).where(change_clock.c.partner_id == connection.partner_id))

    clock = on_database(job)
    assert (clock["epoch"], clock["min_seq"]) == (1, 0)
    assert clock["seq"] == 1
    assert day() <= clock["at"].date().isoformat()
