"""Statements compiled once: nothing of one request stays in them, lists keep their text the same, and an index answers each."""

import asyncio
import re
from datetime import UTC, date, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from rich.console import Console
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import make_url

from app.keys.provider import KeyFile
from app.sandbox.cohort_loading import Cohort, load_cohort
from app.sandbox.cohort_rows import COLUMNS
from app.store import feed, idempotency, people, rows, sync, work
from app.store.statements import EACH, Compiled, any_of, given, prepared
from app.store.tables.people import episode, patient
from app.store.tables.work import session
from tests.conftest import run_sql

HOT = {
    "a chart": lambda: people._chart(of_clinician=False, lock=False),
    "a chart of a clinician's": lambda: people._chart(of_clinician=True, lock=True),
    "a patient": lambda: people._patient(of_clinician=True, lock=False),
    "a course": lambda: work._course(of_clinician=True),
    "what gates look at": lambda: work._gate_facts,
    "scores": lambda: work._scores,
    "what a session needs": lambda: work._session_facts,
    "an open alert": lambda: work._open_alert,
    "a kept answer": lambda: idempotency._kept,
    "a page of a pull": lambda: sync._page(whole_patient=False),
    "a patient's own page": lambda: sync._page(whole_patient=True),
    "a caseload": lambda: sync._caseload,
    "mutations known": lambda: sync._known,
    "charts of a batch": lambda: people._charts_of(of_clinician=True),
    "locks of a batch": lambda: people._locking(of_clinician=True, of_patient=False),
    "the clock": lambda: feed._drawn,
    "a row by its id": lambda: rows._finding(session, ("id",), (), lock=False),
    "rows of a course": lambda: rows._listing(session, (), ("episode_id",), (), ()),
}
FILLED = set(COLUMNS) | {"decision", "same_person", "whose", "caseload"}  # what a cohort fills, also by its aliases
AT_THIS_SIZE = {"a caseload": {"patient"}}  # who is hidden is looked for at once among few patients, one by one among many (`make bench-large`)
COURSES, TODAY = 2_000, date(2026, 11, 1)


def test_only_what_is_given_changes_from_run_to_run():
    found = prepared(lambda: sa.select(patient.c.id).where(patient.c.partner_id == EACH.partner_id, patient.c.id == given("patient_id", sa.Uuid())))
    one, two, partner = uuid4(), uuid4(), uuid4()
    assert found.compiled is found.compiled
    assert found.compiled.arguments({"partner_id": partner, "patient_id": one}) == [partner, one]
    assert found.compiled.arguments({"partner_id": partner, "patient_id": two}) == [partner, two]
    with pytest.raises(KeyError):
        found.compiled.arguments({"partner_id": partner})


def test_a_list_is_one_argument_however_long():
    found = Compiled(sa.select(episode.c.id).where(episode.c.id == any_of("ids", episode.c.id), episode.c.status.in_(("active", "paused"))))
    ids = [uuid4() for _ in range(1000)]
    assert [a for a in found.arguments({"ids": ids}) if isinstance(a, list)] == [ids]
    assert found.text.count("$") == 3


def test_json_is_written_once_and_read_back_as_it_was(on_database, partner):
    async def job(database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            wanted = {"a": [1, None, "ü", {"b": True}]}
            return wanted, await connection.value(sa.select(sa.cast(sa.literal(wanted, JSONB), JSONB)))

    wanted, back = on_database(job)
    assert back == wanted


def test_an_index_answers_every_hot_statement(own_service, fresh_database):
    """With some thousand patients of one partner no hot statement reads them all: each looks up what it is asked for, and no more.

    As the service's own role: what row security lets near an index is less than what its owner sees. Other scans than by index are priced out, for tables
    of this size are still read whole at times; an index that is asked for the partner alone is one, too.
    """
    with own_service.partner() as partner:
        cohort = Cohort(
            own_service.settings.migration_database_url, KeyFile(own_service.settings.keys_path), UUID(partner.partner_id), COURSES, 1, TODAY
        )
    asyncio.run(load_cohort(cohort, Console(quiet=True), datetime.now(UTC)))
    run_sql(fresh_database, "ANALYZE")
    plans = asyncio.run(plans_of({name: made().compiled.text for name, made in HOT.items()}, own_service, cohort.partner_id))
    wrong = {name: (found, plan) for name, plan in plans.items() if (found := read_whole(plan) & FILLED - AT_THIS_SIZE.get(name, set()))}
    assert not wrong, "\n\n".join(f"{name} reads all of {tables}:\n{plan}" for name, (tables, plan) in wrong.items())


async def plans_of(texts, service, partner_id):
    url = make_url(service.settings.database_url)
    connection = await asyncpg.connect(host=url.query["host"], user=url.username, database=url.database)
    plans = {}
    try:
        await connection.execute(
            f"SET ROLE ipt_service; BEGIN; SET LOCAL app.partner_id = '{partner_id}'; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off"
        )
        for number, (name, text) in enumerate(texts.items()):
            values = ", ".join("NULL" for _ in set(re.findall(r"\$\d+", text)))
            await connection.execute(f"PREPARE hot{number} AS {text}")
            plans[name] = "\n".join(r[0] for r in await connection.fetch(f"EXPLAIN EXECUTE hot{number}({values})"))
    finally:
        await connection.close()
    return plans


def read_whole(plan):
    """Return the tables that a plan reads whole, or by an index that is asked for the partner alone."""
    found = set(re.findall(r"Seq Scan on (\S+)", plan))
    nodes = re.split(r"\n(?= *->)", plan)
    heap = None
    for node in nodes:
        heap = (re.search(r"Bitmap Heap Scan on (\S+)", node) or [None, heap])[1]
        scan = re.search(r"Index(?: Only)? Scan (?:Backward )?using \S+ on (\S+)", node)
        table = scan[1] if scan else heap if "Bitmap Index Scan" in node else None
        condition = re.search(r"Index Cond: ([^\n]*)", node)
        if table and (condition is None or " AND " not in condition[1]):
            found.add(table)
    return found
