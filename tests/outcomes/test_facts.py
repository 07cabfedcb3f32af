"""Facts: made from real courses, by the same rules as a course's own outcome; one for each person; frozen, and never made anew."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from app import upkeep
from app.actions.freezing import freeze_quarter
from app.actions.journal import ERASURES, Journal
from app.domain.outcome_tables import families
from app.domain.quarters import Quarter, frozen_by, quarter_of
from app.keys.provider import read_key_ring
from app.releasing import freeze_partner, freeze_quarters
from app.store.facts import exact_counts, records
from tests.conftest import newest_partners_only
from tests.driver import answers_by_number
from tests.outcomes.conftest import as_worker, connected, later

QUARTER = frozen_by(datetime.now(UTC))[-1]
MIDDLE = QUARTER.begins + timedelta(days=45)


def phq9(total):
    return answers_by_number([min(3, max(0, total - 3 * n)) for n in range(8)] + [0])


def gad7(total):
    return answers_by_number([min(3, max(0, total - 3 * n)) for n in range(7)])


class Course:
    """A course that was held before our time: it is imported, and ended in the quarter of our choice."""

    def __init__(self, partner, *, first=(18, 15), last=(6, 5), consent=True, ended=MIDDLE, sessions=6, age=40, early=False):
        start = ended - timedelta(weeks=sessions)
        when = [start + timedelta(weeks=n) for n in range(sessions)]
        scores = [first, *[((first[0] + last[0]) // 2, (first[1] + last[1]) // 2)] * (sessions - 2), last] if sessions > 1 else [first]
        consents = [{"purpose": "treatment", "given": True, "wording": "v1", "decided_at": start.isoformat()}]
        if consent is not None:
            consents.append({"purpose": "research_analytics", "given": consent, "wording": "v1", "decided_at": start.isoformat()})
        placed = {"phase": "middle" if early else "follow_up", "status": "ended_early" if early else "completed", "ended_at": ended.isoformat()}
        row = {
            "patient": {"birth_year": 1970, "sex": "female"},
            "consents": consents,
            "episode": {
                "protocol": "IPT-12",
                "referred_on": (start - timedelta(days=10)).date().isoformat(),
                "age_at_referral": age,
                "lead_clinician_id": partner.add_clinician()["id"],
                "placed": placed | {"since": start.isoformat()},
            },
            "sessions": [{"starts_at": w.isoformat(), "status": "held", "minutes": 50, "attendance": "attended", "mode": "video"} for w in when],
            "assessments": [
                {"instrument": code, "answers": answers, "answered_at": (w - timedelta(minutes=30)).isoformat()}
                for w, (p, g) in zip(when, scores, strict=True)
                for code, answers in (("PHQ-9", phq9(p)), ("GAD-7", gad7(g)))
            ],
        }
        made = partner.post("/v1/imports", {"rows": [row]})
        [report] = made["report"]
        assert report["ok"], report
        self.partner, self.episode_id, self.patient_id = partner, report["episode_id"], report["patient_id"]

    def outcome(self):
        return self.partner.get(f"/v1/episodes/{self.episode_id}/outcome")


@pytest.fixture
def freeze(service, partner):
    """Freeze the partner's quarters at once: its import is done."""
    ring = read_key_ring(service.settings.keys_path)

    def frozen(**more):
        return as_worker(service, lambda database: freeze_partner(database, ring, UUID(partner.partner_id), later(**more)))

    return frozen


@pytest.fixture
def facts(database_url):
    def of(partner, kind="end"):
        async def done():
            connection = await connected(database_url)
            try:
                rows = await connection.fetch("SELECT * FROM outcome_fact WHERE partner_id = $1 AND kind = $2", UUID(partner.partner_id), kind)
                return {str(r["patient_id"]): dict(r) for r in rows}
            finally:
                await connection.close()

        return asyncio.run(done())

    return of


def test_a_fact_says_what_the_courses_own_outcome_says(partner, freeze, facts):
    courses = [
        Course(partner),
        Course(partner, first=(16, 12), last=(14, 11)),
        Course(partner, first=(12, 9), last=(19, 14)),
        Course(partner, first=(8, 5), last=(4, 3)),
        Course(partner, first=(20, 9), last=(8, 14)),
        Course(partner, age=15),
        Course(partner, early=True, last=(17, 14)),
        Course(partner, sessions=1),
    ]
    freeze()
    found = facts(partner)
    assert set(found) == {c.patient_id for c in courses}
    for course in courses:
        fact, outcome = found[course.patient_id], course.outcome()
        for name, rule in (("nhs", "nhs_talking_therapies"), ("phq9", "phq9_only")):
            said = next(v for v in outcome["verdicts"] if v["rule"] == rule)
            assert fact[f"paired_{name}"] == said["assessable"]
            for column, member in (
                ("case", "case_at_start"),
                ("recovered", "recovery"),
                ("improved", "reliable_improvement"),
                ("deteriorated", "reliable_deterioration"),
            ):
                assert fact[f"{column}_{name}"] == (said["assessable"] and bool(said[member])), (course, column)
        scored = {i["code"]: i for i in outcome["instruments"]}
        assert fact["change_phq9"] == (scored["PHQ-9"]["points"] if "PHQ-9" in scored else None)
        assert fact["change_gad7"] == (scored["GAD-7"]["points"] if "GAD-7" in scored else None)
        assert fact["quarter"] == str(QUARTER)
        assert fact["modality"] == "remote"
        assert fact["area"] == "not_recorded"
    assert [found[courses[n].patient_id]["ended_in"] for n in (0, 6)] == ["completed", "middle"]
    assert found[courses[0].patient_id]["recovered_within"] == "4_to_7"
    assert found[courses[7].patient_id]["sessions_band"] == "1_to_3"
    assert found[courses[5].patient_id]["age_band"] == "under_18"


def test_only_who_gave_consent_and_did_not_withdraw_it_is_counted(partner, freeze, facts):
    given = Course(partner)
    for consent in (False, None):
        Course(partner, consent=consent)
    withdrawn = Course(partner)
    partner.post(
        f"/v1/patients/{withdrawn.patient_id}/consents",
        {"purpose": "research_analytics", "given": False, "wording": "v1", "decided_at": datetime.now(UTC).isoformat()},
    )
    restricted = Course(partner)
    row = partner.send("GET", f"/v1/patients/{restricted.patient_id}")
    partner.put(
        f"/v1/patients/{restricted.patient_id}/protection", {"restricted_because": "objection_pending", "legal_hold": False}, etag=row.headers["etag"]
    )
    erased = Course(partner)
    partner.post(f"/v1/patients/{erased.patient_id}/erasure", {"requested_by": "patient"})
    freeze()
    assert set(facts(partner)) == {given.patient_id}


def test_one_person_gives_one_fact_a_quarter_and_three_in_a_life(partner, freeze, facts, database_url):
    def same(*courses):
        for one in courses[1:]:
            partner.post(f"/v1/patients/{courses[0].patient_id}/duplicates", {"patient_id": one.patient_id})

    first = Course(partner, ended=MIDDLE - timedelta(days=20), last=(15, 12))
    same(first, Course(partner, ended=MIDDLE), Course(partner, ended=MIDDLE + timedelta(days=5)))
    same(*[Course(partner, ended=MIDDLE - timedelta(days=91 * back)) for back in range(1, 6)])
    freeze()
    found = facts(partner)
    assert len(found) == 1 + 3
    assert str(found[first.patient_id]["episode_id"]) == first.episode_id, "the first that ended"

    async def counted():
        connection = await connected(database_url)
        try:
            return await connection.fetch(
                "SELECT quarter FROM outcome_fact WHERE partner_id = $1 AND patient_id <> $2", UUID(partner.partner_id), UUID(first.patient_id)
            )
        finally:
            await connection.close()

    assert len(asyncio.run(counted())) == 3


def test_a_frozen_quarter_is_never_made_anew_and_what_comes_late_goes_into_the_next(partner, freeze, facts, service, on_database):
    before = Course(partner)
    assert freeze() == 12
    assert freeze() == 0
    late = Course(partner)
    freeze()
    assert set(facts(partner)) == {before.patient_id}
    following = QUARTER.later(1)
    ahead = following.freezes - datetime.now(UTC) + timedelta(hours=1)
    assert freeze(seconds=ahead.total_seconds()) >= 1
    found = facts(partner)
    assert found[before.patient_id]["quarter"] == str(QUARTER)
    assert found[late.patient_id]["quarter"] == str(following)


def test_a_new_partner_has_fourteen_days_for_its_import_before_the_worker_freezes(partner, facts, service, monkeypatch):
    newest_partners_only(monkeypatch, "app.releasing", 1)
    ring = read_key_ring(service.settings.keys_path)
    course = Course(partner)
    as_worker(service, lambda database: freeze_quarters(database, ring, later(days=13)))
    assert facts(partner) == {}
    as_worker(service, lambda database: freeze_quarters(database, ring, later(days=15)))
    assert facts(partner)[course.patient_id]["quarter"] == str(QUARTER)


def test_a_person_with_several_registrations_is_bound_by_three_in_all_and_a_split_loses_nobody(
    partner, freeze, facts, service, upkept_once, database_url
):
    old = [Course(partner, ended=MIDDLE - timedelta(days=91 * back)) for back in (1, 2, 3)]
    for one in old[1:]:
        partner.post(f"/v1/patients/{old[0].patient_id}/duplicates", {"patient_id": one.patient_id})
    freeze()
    head, again = Course(partner), Course(partner)
    partner.post(f"/v1/patients/{head.patient_id}/duplicates", {"patient_id": again.patient_id})
    assert len(facts(partner)) == 3
    freeze(seconds=(QUARTER.later(1).freezes - datetime.now(UTC)).total_seconds() + 60)
    found = facts(partner)
    assert len(found) == 4, "one of the two who are one, beside the three of the other"
    assert {str(f["episode_id"]) for f in found.values()} <= {c.episode_id for c in (*old, head, again)}
    of = next(c for c in (head, again) if c.patient_id in found)
    assert str(found[of.patient_id]["episode_id"]) == of.episode_id, "a fact carries the registration that the course is of"
    for one in (head, again):
        partner.post(f"/v1/patients/{one.patient_id}/erasure", {"requested_by": "patient"})
    upkept_once("erase_rows")
    assert of.patient_id not in facts(partner)


def test_two_workers_freeze_a_quarter_once(partner, facts, service):
    Course(partner)

    async def job(database):
        async def one():
            async with database.transaction(UUID(partner.partner_id)) as connection:
                number = await freeze_quarter(connection, QUARTER, later())
                await connection.commit()
                return number

        return await asyncio.gather(*[one() for _ in range(3)])

    assert sorted(as_worker(service, job), key=str) == [1, None, None]
    assert len(facts(partner)) == 1


def test_who_withdraws_is_erased_or_restricted_after_the_freeze_is_not_counted_any_more(partner, freeze, service, facts, upkept_once):
    courses = [Course(partner) for _ in range(4)]
    freeze()

    def counted():
        async def job(database):
            async with database.transaction(UUID(partner.partner_id)) as connection:
                found = await exact_counts(connection, str(QUARTER), families()["counts"], [])
                return found.get((), {"courses": 0})["courses"], len(await records(connection, [str(QUARTER)]))

        return as_worker(service, job)

    assert counted() == (4, 4)
    partner.post(
        f"/v1/patients/{courses[0].patient_id}/consents",
        {"purpose": "research_analytics", "given": False, "wording": "v1", "decided_at": datetime.now(UTC).isoformat()},
    )
    assert counted() == (3, 3)
    row = partner.send("GET", f"/v1/patients/{courses[1].patient_id}")
    partner.put(
        f"/v1/patients/{courses[1].patient_id}/protection", {"restricted_because": "objection_pending", "legal_hold": False}, etag=row.headers["etag"]
    )
    assert counted() == (2, 2)
    partner.post(f"/v1/patients/{courses[2].patient_id}/erasure", {"requested_by": "patient"})
    assert counted() == (1, 1)
    upkept_once("erase_rows")
    assert courses[2].patient_id not in facts(partner), "the fact goes with the person"
    assert len(facts(partner)) == 3


def test_two_registrations_that_are_found_to_be_one_person_count_once_and_withdraw_together(partner, freeze, service):
    courses = [Course(partner) for _ in range(3)]
    freeze()

    def counted():
        async def job(database):
            async with database.transaction(UUID(partner.partner_id)) as connection:
                found = await exact_counts(connection, str(QUARTER), families()["counts"], [])
                return found.get((), {"courses": 0})["courses"]

        return as_worker(service, job)

    assert counted() == 3
    partner.post(f"/v1/patients/{courses[0].patient_id}/duplicates", {"patient_id": courses[1].patient_id})
    assert counted() == 2
    withdrawal = {"purpose": "research_analytics", "given": False, "wording": "v1", "decided_at": datetime.now(UTC).isoformat()}
    partner.post(f"/v1/patients/{courses[0].patient_id}/consents", withdrawal)
    assert counted() == 1


@pytest.fixture
def upkept_once(service, monkeypatch, tmp_path):
    newest_partners_only(monkeypatch, "app.upkeep")
    ring = read_key_ring(service.settings.keys_path)
    journal = Journal(tmp_path / "erasures.jsonl", ring, ERASURES)
    return lambda name: as_worker(service, lambda database: getattr(upkeep, name)(database, ring, later(), journal))


def test_the_service_itself_cannot_read_a_fact(partner, on_database):
    async def job(database):
        async with database.transaction(UUID(partner.partner_id)) as connection:
            await connection.rows(sa.text("SELECT count(*) FROM outcome_fact"))

    with pytest.raises(Exception, match="permission denied"):
        on_database(job)


@pytest.mark.parametrize(
    ("day", "quarter"),
    [("2026-01-01", "2026Q1"), ("2026-03-31", "2026Q1"), ("2026-04-01", "2026Q2"), ("2026-12-31", "2026Q4"), ("2024-02-29", "2024Q1")],
)
def test_quarters_are_calendar_quarters_in_utc(day, quarter):
    assert str(quarter_of(datetime.fromisoformat(f"{day}T12:00:00+00:00"))) == quarter


def test_a_quarter_can_be_asked_about_from_fourteen_days_after_its_end_and_for_three_years():
    end = Quarter(2026, 1).ends
    assert Quarter(2026, 1) not in frozen_by(end + timedelta(days=13, hours=23))
    found = frozen_by(end + timedelta(days=14))
    assert found[-1] == Quarter(2026, 1)
    assert len(found) == 12
    assert found[0] == Quarter(2023, 2)
