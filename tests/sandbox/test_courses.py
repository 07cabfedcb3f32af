"""The courses of the sandbox, played over HTTP: they are the acceptance tests of a whole course."""

import asyncio
from datetime import UTC, datetime

import httpx
import pytest

from app.sandbox.courses.every import COURSES
from app.sandbox.player import Playing
from app.sandbox.vendor import Vendor


@pytest.fixture
def play(service):
    def played(code):
        with service.partner() as partner:

            async def whole():
                async with httpx.AsyncClient(base_url=partner.base_url, timeout=30) as http:
                    said = []
                    player = Vendor(http, partner.client_id, partner.secret, said.append)
                    await player.arrive()
                    episode = await Playing(player, COURSES[code], datetime.now(UTC).date()).whole()
                    path = f"/v1/episodes/{episode}"
                    views = "", "/focus", "/classification", "/trajectory", "/timeline", "/phase", "/inventory"
                    return {view: await player.get(f"{path}{view}") for view in views}, said, await player.get("/v1/risk-alerts", episode_id=episode)

            return asyncio.run(whole())

    return played


@pytest.mark.parametrize(
    ("code", "area", "status", "sessions"),
    [
        ("wife-wants-autonomy", "role_dispute", "completed", 15),
        ("protracted-grief", "grief", "completed", 12),
        ("retirement", "role_transition", "completed", 6),
        ("cannot-form-relationships", "interpersonal_deficits", "ended_early", 6),
    ],
)
def test_a_whole_course_runs_from_referral_to_its_end(play, code, area, status, sessions):
    views, said, alerts = play(code)
    assert views[""]["status"] == status
    assert views["/classification"]["result"]["suggested_primary"] == area
    assert views["/focus"]["primary_area"] == area
    assert views["/focus"]["agrees_with_suggestion"] is True
    assert views["/phase"]["sessions_held"] == sessions
    times = [entry["at"] for entry in views["/timeline"]["items"]]
    assert times == sorted(times)
    assert said
    assert all(alert["status"] == "closed" for alert in alerts["items"])


def test_the_dispute_ends_in_reliable_improvement_response_and_remission(play):
    views, said, _ = play("wife-wants-autonomy")
    line = next(i for i in views["/trajectory"]["instruments"] if i["code"] == "PHQ-9")
    last = [p for p in line["points"] if p["follow_up"] is None][-1]
    assert (line["baseline"], last["total"]) == (15, 3)
    assert last["change"] == {"points": 12, "reliable": "improvement", "response": True, "remission": True, "on_track": True, "index": 4.52}
    follow_ups = [p["follow_up"] for p in line["points"] if p["follow_up"]]
    assert [f["relapse"] for f in follow_ups] == [False, False]
    assert views["/trajectory"]["therapist_activity_slope"] < 0
    assert any("Gate to middle: shut, unmet: diagnosis_named, risk_assessed" in line for line in said)


def test_the_grief_course_meets_an_unanswered_risk_item_with_an_alert_of_unknown_risk(play):
    views, _, alerts = play("protracted-grief")
    reasons = [t["reason"] for a in alerts["items"] for t in a["triggers"]]
    assert sorted(reasons) == ["risk_item_not_answered", "risk_item_positive"]
    unknown = [p for i in views["/trajectory"]["instruments"] for p in i["points"] if i["code"] == "PHQ-9" and p["total"] is None]
    assert len(unknown) == 1


def test_the_unplanned_ending_keeps_the_last_total_and_the_phase_that_was_reached(play):
    views, said, alerts = play("cannot-form-relationships")
    assert views[""]["phase"] == "middle"
    assert [a["level"] for a in alerts["items"]].count("urgent") == 1
    assert any("last PHQ-9 available 13" in line for line in said)
