"""Plays a course through the API as a partner's backend and a clinician would, from referral to the last follow-up."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

from app.sandbox.course import Course, Visit
from app.sandbox.vendor import PlayedWrong, Vendor

WEEK = timedelta(weeks=1)


class Playing:
    """One course being played: the episode's address, and the ids of what was made under the course's own names."""

    def __init__(self, player: Vendor, course: Course, today: date) -> None:
        self.player = player
        self.course = course
        self.start = course.first_session_on(today)
        self.ids: dict[str, str] = {}
        self.episode = ""
        self.say = player.say

    async def whole(self) -> str:
        """Play from referral to the last follow-up (or the unplanned end); return the episode's id."""
        await self.referral()
        await self.inventory()
        await self.medication()
        visits = list(self.course.visits)
        early = visits[: self.course.middle_from - 1]
        for number, visit in enumerate(early, start=1):
            await self.session(number, visit)
        await self.focus()
        await self.enter("middle", self.when(self.course.middle_from - 1))
        for number, visit in enumerate(visits[self.course.middle_from - 1 :], start=self.course.middle_from):
            if self.course.ending_from and number == self.course.ending_from:
                await self.tell_the_end(number)
                await self.enter("termination", self.when(number - 1))
            await self.session(number, visit)
        await self.between_the_sessions()
        await (self.end_early() if self.course.early_ending else self.end())
        return self.ids["episode"]

    def when(self, session: int, hour: int = 9) -> datetime:
        """Return the time of a session: weekly from the start."""
        day = self.start + (session - 1) * WEEK * self.course.weeks_between
        return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)

    async def referral(self) -> None:
        """Register the patient, record consent, open the episode, and pass the gate of screening."""
        c, p = self.course, self.player
        referred = self.start - 2 * WEEK
        patient = await p.post("/v1/patients", {"external_ref": f"{c.code}-{uuid4().hex[:8]}", **c.patient})
        self.ids["patient"] = patient["id"]
        decided = {"purpose": "treatment", "given": True, "wording": "treatment-v1", "decided_at": f"{referred.isoformat()}T10:00:00Z"}
        await p.post(f"/v1/patients/{patient['id']}/consents", decided)
        onset = self.start - c.onset_weeks_before * WEEK
        body = {
            "patient_id": patient["id"],
            "protocol": c.protocol,
            "referred_on": referred.isoformat(),
            "age_at_referral": c.age,
            "illness_onset_date": onset.isoformat(),
            "illness_onset_precision": "month",
            "lead_clinician_id": p.clinician_id,
            "cover_clinician_id": p.cover_id,
            "contraindications": [],
            "risk_screened": True,
            **c.episode,
        }
        episode = await p.post("/v1/episodes", body)
        self.ids["episode"] = episode["id"]
        self.episode = f"/v1/episodes/{episode['id']}"
        self.say(f"[bold]{c.title}[/bold]\n{c.story}\nEpisode {episode['id']} on {episode['protocol_code']} v{episode['protocol_version']}.")
        await self.enter("initial", datetime(referred.year, referred.month, referred.day, 12, tzinfo=UTC))

    async def inventory(self) -> None:
        """Take the interpersonal inventory: people, events, the patient's own list of problems."""
        for name, fields in self.course.relationships.items():
            self.ids[name] = (await self.player.post(f"{self.episode}/relationships", self.dated(fields)))["id"]
        for name, fields in self.course.life_events.items():
            self.ids[name] = (await self.player.post(f"{self.episode}/life-events", self.dated(fields)))["id"]
        for fields in self.course.problems:
            await self.player.post(f"{self.episode}/problems", self.named(fields))
        for fields in self.course.goals:
            await self.player.post(f"{self.episode}/goals", fields)
        found = await self.player.get(f"{self.episode}/inventory")
        m = found["measures"]
        self.say(
            f"Inventory: {m['relationships']} people, {m['confidants']} confidants, closeness gap {m['mean_closeness_gap']}; next: {found['next_questions'][:1]}"
        )

    async def medication(self) -> None:
        """Record what the patient takes."""
        for fields in self.course.medications:
            await self.player.post(f"{self.episode}/medications", self.dated(fields))

    async def between_the_sessions(self) -> None:
        """Record what was tried, taken apart and agreed between the sessions."""
        c = self.course
        for path, rows in (("change-attempts", c.change_attempts), ("analyses", c.analyses), ("homework", c.homework)):
            for fields in rows:
                await self.player.post(f"{self.episode}/{path}", self.dated(fields))
        owed = (await self.player.get(f"{self.episode}/due"))["items"]
        self.say(f"Owed now: {', '.join(dict.fromkeys(i['code'] for i in owed)) or 'nothing'}.")

    def named(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the course's own names by ids."""
        names = {"relationship", "life_event"}
        out = {k: v for k, v in fields.items() if k not in names}
        return out | {f"{k}_id": self.ids[fields[k]] for k in names if k in fields}

    def dated(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Replace weeks before the first session by dates, and names by ids."""
        out = self.named(fields)
        days = {
            "death": "death_date",
            "happened": "happened_on",
            "started": "started_on",
            "tried": "tried_on",
            "agreed": "agreed_on",
            "took_place": "took_place_on",
        }
        for key, name in days.items():
            weeks = out.pop(f"{key}_weeks_before", None)
            if weeks is not None:
                out[name] = (self.start - weeks * WEEK).isoformat()
        return out

    async def session(self, number: int, visit: Visit) -> None:
        """Hold (or miss) one session, submit its questionnaires, and see to an alert that they raise."""
        moment = self.when(number)
        body = {
            "starts_at": moment.isoformat(),
            "status": visit.status,
            "attendance": {"held": "attended", "missed": "did_not_attend", "cancelled": "cancelled_by_patient"}[visit.status],
            "mode": visit.mode,
            "minutes": self.course.minutes if visit.status == "held" else None,
            "focus_areas": list(visit.areas),
            "techniques": [{"code": t, "intensity": 2} for t in visit.techniques],
            "strategies": list(visit.strategies),
            "mood": visit.mood,
            "therapist_activity": visit.activity,
            "patient_initiative": visit.initiative,
            "risk_asked": visit.phq9 is not None and visit.phq9[8] != 0,
            "affects": list(visit.affects),
            "summary": visit.summary or None,
        }
        session = await self.player.post(f"{self.episode}/sessions", body)
        answered = (moment - timedelta(hours=1)).isoformat()
        totals = []
        if visit.note:
            await self.player.put(f"{self.episode}/sessions/{session['id']}/note", {"text": visit.note, "sign": True}, as_clinician=True)
        for code, values in (("PHQ-9", visit.phq9), ("GAD-7", visit.gad7), ("RAND-36-SF", visit.social), ("IPIP-IPC", visit.profile)):
            if values is not None:
                totals.append(await self.answer(code, values, answered, session_id=session["id"]))
        label = f"Session {session['number']}" if session["number"] else f"Week {number}: {session['status']}"
        self.say(" - ".join(part for part in (label, "; ".join(totals), visit.summary) if part))

    async def answer(self, code: str, values: tuple[int | None, ...], at: str, **ties: str) -> str:
        """Submit answers; acknowledge and close the alert that they raise, as the clinician."""
        body = {"instrument": code, "answers": {str(n): v for n, v in enumerate(values, start=1)}, "answered_at": at, **ties}
        found = await self.player.post(f"{self.episode}/assessments", body)
        alert = found["risk_alert"]
        if alert is not None:
            path = f"/v1/risk-alerts/{alert['id']}"
            await self.player.post(f"{path}/acknowledgements", {}, as_clinician=True)
            reason = alert["triggers"][-1]["reason"]
            note = "Asked in the session; the patient's answer and the plan made together are in the notes."
            if reason == "risk_item_not_answered":
                note = "The item was left open; asked about it in the session, answer noted."
            await self.player.post(f"{path}/closure", {"closing_note": note}, as_clinician=True)
            self.say(f"  [red]Risk alert[/red] ({alert['level']}): {reason}, closed by the clinician with a note.")
        if found["total"] is not None:
            return f"{code} {found['total']} ({found['band']})"
        scales = found["scales"] or {}
        return (
            f"{code} {scales['social_functioning']:g} of 100"
            if "social_functioning" in scales
            else f"{code} {'profile' if scales else 'without a total'}"
        )

    async def focus(self) -> None:
        """Answer the indicators, run the classifier, decide as the clinician, and tell formulation and contract."""
        c, p = self.course, self.player
        await self.proposals()
        answers = {code: self.named({"value": a} if isinstance(a, str) else a) for code, a in c.indicators.items()}
        await p.put(f"{self.episode}/indicators", {"answers": answers})
        result = (await p.post(f"{self.episode}/classification", {}))["result"]
        shown = ", ".join(f"{a['area']} {a['score'] if a['score'] is not None else a['status']}" for a in result["areas"])
        self.say(f"Classification (ruleset {result['ruleset']}): {result['outcome']}; {shown}.")
        for area in result["areas"]:
            if area["area"] == result["suggested_primary"]:
                why = [f"{i['indicator']} {i['points']:+g}" for i in area["contributions"] if i["points"]]
                self.say(f"  because {', '.join(why)} (bounds {area['lower']} to {area['upper']}, coverage {area['coverage']})")
        decision = await p.put(
            f"{self.episode}/focus",
            {"patient_agreed": True, "decided_at": self.when(c.middle_from - 1, 11).isoformat(), **c.focus},
            as_clinician=True,
        )
        self.say(f"The clinician decides: {decision['primary_area']} (agrees with the suggestion: {decision['agrees_with_suggestion']}).")
        told = self.when(c.middle_from - 1).date().isoformat()
        areas = [c.focus["primary"], *([c.focus["secondary"]] if c.focus.get("secondary") else [])]
        await p.put(f"{self.episode}/formulation", {"text": c.formulation, "areas": areas, "told_on": told, "patient_agreed": True})
        last = self.when(c.sessions).date().isoformat()
        contract = {"sessions": c.sessions, "minutes": c.minutes, "starts_on": self.start.isoformat(), "ends_on": last, "patient_agreed": True}
        await p.put(f"{self.episode}/contract", {**contract, "frequency": c.frequency, "agreed_on": told})
        await self.work(decision["focus_areas"])

    async def proposals(self) -> None:
        """Look at what the inventory proposes; the clinician answers every indicator, proposed or not."""
        proposed = (await self.player.get(f"{self.episode}/indicator-proposals"))["items"]
        shown = [f"{i['indicator']} ({i['value']})" for i in proposed]
        self.say(f"The inventory proposes: {', '.join(shown) or 'nothing'}.")

    async def work(self, areas: list[dict[str, Any]]) -> None:
        """Record the sub-state and the first strategies of each focus area."""
        for area in areas:
            fields = self.named(self.course.focus_work.get(area["area"], {}))
            if fields:
                await self.player.patch(f"{self.episode}/focus-areas/{area['id']}", fields, f'"{area["version"]}.1"', as_clinician=True)

    async def enter(self, to: str, at: datetime) -> None:
        """Enter the next phase; a shut gate first says what it lacks, and the tasks that a record meets are recorded."""
        body = {"to": to, "occurred_at": at.isoformat()}
        answer = await self.player.send("POST", f"{self.episode}/phase/transitions", body, as_clinician=True)
        if answer.status_code == 409:
            unmet = [u["code"] for u in answer.json()["unmet"]]
            self.say(f"Gate to {to}: shut, unmet: {', '.join(unmet)}. The clinician records them.")
            for task in unmet:
                done = {"status": "done", "done_on": at.date().isoformat()}
                await self.player.put(f"{self.episode}/phase/tasks/{task}", done, as_clinician=True)
            answer = await self.player.send("POST", f"{self.episode}/phase/transitions", body, as_clinician=True)
        if not answer.is_success:
            raise PlayedWrong(answer.text)
        self.say(f"[green]Phase: {to}.[/green]")

    async def tell_the_end(self, number: int) -> None:
        """Begin the record of the ending: the date, and that it was told."""
        told = self.when(number - 1).date().isoformat()
        await self.player.put(
            f"{self.episode}/termination", {"end_date": self.when(self.course.sessions).date().isoformat(), "end_date_told_on": told}
        )

    async def end(self) -> None:
        """Complete the record of the ending, pass the last gate, and hold the follow-ups."""
        c, p = self.course, self.player
        last = self.when(len(c.visits))
        told = self.when(c.ending_from - 1).date().isoformat() if c.ending_from else None
        ending = {"end_date": last.date().isoformat(), "end_date_told_on": told, "final_assessment": "taken", **c.ending}
        found = await p.put(f"{self.episode}/termination", ending)
        self.say(
            f"Ending: {sum(found['tasks_met'].values())} tasks met; maintenance to consider because: {found['consider_maintenance_because'] or 'no reason'}."
        )
        await self.enter("follow_up", last + timedelta(hours=2))
        for months, values in c.follow_ups.items():
            booked = await p.post(f"{self.episode}/follow-ups", {"months": months})
            held = date.fromisoformat(booked["due_on"])
            await p.patch(f"{self.episode}/follow-ups/{booked['id']}", {"status": "held", "held_on": booked["due_on"]}, '"1.1"')
            total = await self.answer("PHQ-9", values, f"{held.isoformat()}T09:00:00Z", follow_up_id=booked["id"])
            self.say(f"Follow-up at {months} months: {total}.")
        if c.maintenance is not None:
            linked = await p.post(f"{self.episode}/maintenance", c.maintenance, as_clinician=True)
            self.say(f"Maintenance: episode {linked['id']} on {linked['protocol_code']}.")
        await self.conclude()

    async def end_early(self) -> None:
        """Record the unplanned ending with what was done about it."""
        last = self.when(len(self.course.visits))
        body = {"ended_on": (last + 2 * WEEK).date().isoformat(), **(self.course.early_ending or {})}
        found = await self.player.post(f"{self.episode}/early-ending", body, as_clinician=True)
        self.say(f"Ended early: {found['reason']}; last PHQ-9 available {found['last_total']}; done: {', '.join(found['tasks_done'])}.")
        await self.conclude()

    async def conclude(self) -> None:
        """Say what the course came to, by the rules of its outcome."""
        outcome = await self.player.get(f"{self.episode}/outcome")
        for verdict in outcome["verdicts"]:
            held = [k for k in ("recovery", "reliable_improvement", "reliable_deterioration", "no_reliable_change") if verdict[k]]
            self.say(f"Outcome by {verdict['rule']}: {', '.join(held) if verdict['assessable'] else verdict['reason']}.")
        for line in (await self.player.get(f"{self.episode}/trajectory"))["instruments"]:
            treated = [p for p in line["points"] if p["change"] and not p["follow_up"]]
            if treated:
                change = treated[-1]["change"]
                self.say(
                    f"{line['code']}: {line['baseline']} to {treated[-1]['total']}; reliable change: {change['reliable']}, response: {change['response']}, remission: {change['remission']}."
                )
        steps = (await self.player.get(f"{self.episode}/timeline"))["items"]
        self.say(f"Timeline: {len(steps)} entries from {steps[0]['at'][:10]} to {steps[-1]['at'][:10]}.")
