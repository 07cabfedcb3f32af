"""The synthetic cohort: its rates are the published ones, it is the same every time, and the service reads it as any other course."""

import asyncio
import statistics
from datetime import UTC, datetime
from uuid import UUID

import pytest
from rich.console import Console

from app.domain.instruments import instrument
from app.keys.provider import KeyFile
from app.sandbox.cohort import synthetic_course
from app.sandbox.cohort_loading import Cohort, SandboxOnly, load_cohort

TODAY = datetime.now(UTC).date()


@pytest.fixture(scope="module")
def many():
    return [synthetic_course(7, n, TODAY) for n in range(6_000)]


def reliable(course):
    phq9, gad7 = (course.totals[0][n] - course.totals[-1][n] for n in (0, 1))
    better, worse = phq9 >= 6 or gad7 >= 4, phq9 <= -6 or gad7 <= -4
    return 1 if better and not worse else -1 if worse and not better else 0


def test_rates_follow_the_published_figures(many):
    finished = [c for c in many if len(c.days) >= 2 and c.age >= 18]
    cases = [c for c in finished if c.totals[0][0] >= 10 or c.totals[0][1] >= 8]
    recovered = sum(c.totals[-1][0] < 10 and c.totals[-1][1] < 8 for c in cases) / len(cases)
    changes = [reliable(c) for c in finished]
    assert recovered == pytest.approx(0.502, abs=0.025)
    assert changes.count(1) / len(changes) == pytest.approx(0.674, abs=0.025)
    assert changes.count(-1) / len(changes) == pytest.approx(0.066, abs=0.015)
    assert sum(c.dropped_out for c in many) / len(many) == pytest.approx(0.209, abs=0.02)
    assert statistics.mean(c.totals[0][0] for c in many) == pytest.approx(15.9, abs=0.4)
    assert statistics.mean(c.totals[-1][0] for c in finished) == pytest.approx(9.4, abs=0.6)
    assert statistics.mean(c.totals[0][1] for c in many) == pytest.approx(14.5, abs=0.4)
    assert statistics.mean(len(c.days) for c in many) > 9
    assert sum(c.sex == "female" for c in many) / len(many) == pytest.approx(0.597, abs=0.02)
    assert sum(c.area == "role_transition" for c in many) > sum(c.area == "role_dispute" for c in many) > sum(c.area == "grief" for c in many)


def test_a_course_is_the_same_whichever_others_are_made_and_lies_in_the_past(many):
    again = synthetic_course(7, 4_321, TODAY)
    assert (again.days, again.totals, again.area, again.follow_ups) == tuple(
        getattr(many[4_321], n) for n in ("days", "totals", "area", "follow_ups")
    )
    assert synthetic_course(8, 4_321, TODAY).totals != again.totals
    for course in many[:500]:
        assert course.ended_on < TODAY
        assert all(0 <= p <= 24 and 0 <= g <= 21 for p, g in course.totals)
        assert all(day < TODAY for _, day, _ in course.follow_ups)
        assert course.phase == "follow_up" or course.dropped_out


def loaded(service, partner, patients, seed=3):
    cohort = Cohort(service.settings.migration_database_url, KeyFile(service.settings.keys_path), UUID(partner.partner_id), patients, seed, TODAY)
    asyncio.run(load_cohort(cohort, Console(quiet=True), datetime.now(UTC)))


def test_the_service_reads_a_loaded_course_as_any_other(own_service):
    with own_service.partner() as partner:  # a database of its own: loaded rows are in no feed
        loaded(own_service, partner, 40)
        look_at(partner)


def look_at(partner):
    rows, cursor = [], ""
    while True:
        page = partner.get(f"/v1/episodes?limit=50{cursor}")
        rows += page["items"]
        if not page["next"]:
            break
        cursor = f"&cursor={page['next']}"
    assert len(rows) == 40
    expected = [
        (len(c.days), c.totals[0][0], c.totals[-1][0] if len(c.days) > 1 else None, c.area if c.phase != "initial" else None)
        for c in (synthetic_course(3, n, TODAY) for n in range(40))
    ]
    found = []
    for row in rows:
        path = f"/v1/episodes/{row['id']}"
        outcome = partner.get(f"{path}/outcome")
        lines = {i["code"]: i for i in partner.get(f"{path}/trajectory")["instruments"]}
        focus = partner.send("GET", f"{path}/focus")
        assert focus.status_code in {200, 404}
        area = focus.json()["primary_area"] if focus.is_success else None
        found.append([outcome["attendance"]["attended"], lines["PHQ-9"]["baseline"], lines["PHQ-9"]["end_of_treatment"], area])
    assert sorted(found, key=repr) == sorted(
        ([a, None if b is None else float(b), None if c is None else float(c), d] for a, b, c, d in expected), key=repr
    )
    path = f"/v1/episodes/{rows[0]['id']}"
    for view in (
        "phase",
        "inventory",
        "sessions",
        "summary",
        "timeline",
        "due",
        "summary.html",
        "trajectory.svg",
        "inventory/circles.svg",
        "relationships",
    ):
        assert partner.send("GET", f"{path}/{view}").is_success, view
    assert partner.get("/v1/risk-alerts")["items"] == []
    assert {r["label"] for r in partner.get(f"{path}/relationships")["items"]} <= {"partner", "mother", "brother", "old friend"}


def test_a_live_partner_takes_no_made_up_people(service, partner):
    import asyncpg  # noqa: PLC0415
    from sqlalchemy.engine import make_url  # noqa: PLC0415

    async def live():
        url = make_url(service.settings.migration_database_url)
        connection = await asyncpg.connect(host=url.query["host"], user=url.username, database=url.database)
        await connection.execute("UPDATE partner SET kind = 'live' WHERE partner_id = $1", UUID(partner.partner_id))
        await connection.close()

    asyncio.run(live())
    with pytest.raises(SandboxOnly):
        loaded(service, partner, 1)


def test_the_forms_add_up_to_their_totals_and_raise_no_alert():
    import json  # noqa: PLC0415

    from app.sandbox.cohort_rows import _forms  # noqa: PLC0415

    for code, top in (("PHQ-9", 24), ("GAD-7", 21)):
        for total in range(top + 1):
            for answers, band, case in _forms(code, total, adult=True)[:3]:
                values = {int(k): v for k, v in json.loads(answers).items()}
                assert sum(values.values()) == total
                assert all(0 <= v <= 3 for v in values.values())
                assert code != "PHQ-9" or values[9] == 0
                assert case == (total >= instrument(code).caseness)
                assert band is not None
