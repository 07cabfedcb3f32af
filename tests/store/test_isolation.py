"""Either layer alone isolates: row security without the WHERE, and the WHERE without row security."""

import asyncio
import sys
from uuid import UUID

import pytest
import sqlalchemy as sa

from app.domain.outcome_tables import NETWORKS
from app.store.database import Database
from app.store.rows import find_row, page, rows_of
from app.store.statements import Prepared
from app.store.tables.every import SHARED_TABLES, metadata
from app.store.tables.outcomes import NETWORK_TABLES
from app.store.tables.people import patient
from tests.conftest import run_sql

OWN = sorted(t.name for t in metadata.tables.values() if t.name not in SHARED_TABLES)


@pytest.fixture
def two(partner, other_partner):
    partner.add_episode(patient=partner.add_patient(external_ref="same")).consent()
    other_partner.add_episode(patient=other_partner.add_patient(external_ref="same")).consent()
    return partner, other_partner


def test_row_security_alone_shows_one_partners_rows(two, on_database):
    mine, other = (UUID(p.partner_id) for p in two)

    async def job(database: Database):
        found = {}
        async with database.transaction(mine) as connection:
            for name in OWN:
                rows = await connection.rows(sa.text(f"SELECT DISTINCT partner_id FROM {name}"))
                found[name] = {r["partner_id"] for r in rows}
        return found

    found = on_database(job, "ipt_owner")
    open_to_all = set(NETWORKS.values())  # no partner's rows: what a network has released, and what it cost
    assert all(ids <= {mine} | (open_to_all if name in NETWORK_TABLES else set()) for name, ids in found.items())
    assert found["patient"] == {mine}
    assert other not in set().union(*found.values())


def test_a_write_cannot_put_a_row_into_another_partner(two, on_database):
    mine, other = (UUID(p.partner_id) for p in two)

    async def job(database: Database):
        async with database.transaction(mine) as connection:
            await connection.run(sa.text(f"UPDATE patient SET partner_id = '{other}'"))

    with pytest.raises(Exception, match="row-level security"):
        on_database(job)


def test_the_where_alone_shows_one_partners_rows(fresh_database, tmp_path):
    """Row security is switched off in a database of the test's own: the statements name the partner themselves."""
    from app.launch import owner_of  # noqa: PLC0415
    from tests.conftest import Clock, Service, settings_of  # noqa: PLC0415

    run_sql(fresh_database, *(f"ALTER TABLE {n} DISABLE ROW LEVEL SECURITY" for n in OWN))
    service = Service(settings_of(fresh_database, tmp_path), Clock()).start()
    try:
        with service.partner() as one, service.partner() as two:
            mine, theirs = one.add_episode(), two.add_episode()
            mine.consent()
            for path in (
                f"/v1/patients/{theirs.patient_id}",
                theirs.path,
                f"{theirs.path}/phase",
                f"{theirs.path}/inventory",
                f"{theirs.path}/timeline",
            ):
                assert one.send("GET", path).status_code == 404
            assert [e["id"] for e in one.get("/v1/episodes")["items"]] == [mine.id]
            assert [p["id"] for p in one.get("/v1/patients")["items"]] == [mine.patient_id]
            assert one.get("/v1/risk-alerts")["items"] == []
    finally:
        service.stop()

    async def rows():
        database = owner_of(service.settings)
        async with database.transaction(UUID(one.partner_id)) as connection:
            found = [
                await rows_of(connection, patient),
                await page(connection, sa.select(patient).where(patient.c.partner_id == connection.partner_id), [patient.c.id], None, 10),
            ]
            missing = await find_row(connection, patient, id=UUID(theirs.patient_id))
        await database.close()
        return found, missing

    found, missing = asyncio.run(rows())
    assert missing is None
    assert all({str(r["partner_id"]) for r in part} == {one.partner_id} for part in found)


def test_the_audit_login_can_insert_for_every_partner_and_read_nothing(two, on_database):
    async def job(database: Database):
        async with database.transaction(UUID(two[0].partner_id)) as connection:
            await connection.rows(sa.text("SELECT * FROM audit_event"))

    with pytest.raises(Exception, match="permission denied"):
        on_database(job, "ipt_audit")


def test_a_pool_under_a_storm_with_cancellations_never_shows_foreign_rows(two, on_database):
    ids = [UUID(p.partner_id) for p in two]

    async def job(database: Database):
        seen = []

        async def read(n):
            partner_id = ids[n % 2]
            async with database.transaction(partner_id) as connection:
                seen.extend(r["partner_id"] == partner_id for r in await connection.rows(sa.text("SELECT partner_id FROM patient")))

        tasks = [asyncio.create_task(read(n)) for n in range(400)]
        for n, task in enumerate(tasks):
            if n % 7 == 0:
                await asyncio.sleep(0.001)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return seen

    seen = on_database(job)
    assert len(seen) > 100
    assert all(seen)


# Either layer alone, over HTTP, on every route


def forget_statements():
    """Let every statement be written anew: they are kept once compiled, and a mutant's must neither be missed nor stay."""
    for name, module in list(sys.modules.items()):
        if name.startswith("app.store"):
            for found in vars(module).values():
                if hasattr(found, "cache_clear"):
                    found.cache_clear()
                if isinstance(found, Prepared):
                    found._compiled = None


@pytest.fixture
def statements_anew():
    forget_statements()
    yield
    forget_statements()


@pytest.mark.parametrize("off", ["row security", "the WHERE"])
def test_either_layer_alone_keeps_another_partners_ids_closed_on_every_route(fresh_database, tmp_path, monkeypatch, statements_anew, off):
    """A mutant of the service without one of its two layers: the other alone must turn every foreign id into a 404."""
    from tests.api.test_routes import BODIES, WITH_ID, filled, rows_of_every_kind  # noqa: PLC0415
    from tests.conftest import Clock, Service, settings_of  # noqa: PLC0415

    if off == "row security":
        run_sql(fresh_database, *(f"ALTER TABLE {n} DISABLE ROW LEVEL SECURITY" for n in OWN))
    service = Service(settings_of(fresh_database, tmp_path), Clock()).start()
    try:
        with service.partner() as other, service.partner() as me:
            theirs = rows_of_every_kind(other)
            mine = me.add_episode()
            if off == "the WHERE":
                weakened = 0
                for name, module in list(sys.modules.items()):
                    if name.startswith("app.") and hasattr(module, "own"):
                        monkeypatch.setattr(module, "own", lambda _connection, _table: sa.true())
                        weakened += 1
                assert weakened > 8
            opened = []
            for method, path in WITH_ID:
                body = BODIES.get(f"{method} {path}", {}) if method not in {"GET", "DELETE"} else None
                headers = {"If_Match": '"1.1"'} if method in {"PUT", "PATCH", "DELETE"} else {}
                for token in (me.token, mine.token):
                    answer = me.send(method, filled(path, theirs), body, token=token, **headers)
                    if answer.status_code not in {403, 404}:
                        opened.append((method, path, answer.status_code, answer.text[:200]))
            assert opened == []
            assert [p["id"] for p in me.get("/v1/patients")["items"]] == [mine.patient_id]
            assert theirs["patient_id"] not in me.send("GET", "/v1/audit-events?limit=1000").text.replace(f"patient_id/{theirs['patient_id']}", "")
    finally:
        service.stop()
