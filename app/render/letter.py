"""The summary of a course as a letter: plain sections, then HTML or PDF of the same. Nothing is left to an app to interpret."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Row = Mapping[str, Any]
STYLE = (
    "body{font:16px/1.5 system-ui,'Noto Sans',sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:1.6rem;border-bottom:1px solid #999}table{border-collapse:collapse;width:100%}"
    "th,td{text-align:left;padding:.2rem .6rem .2rem 0;vertical-align:top}th{font-weight:600}p{margin:.4rem 0;white-space:pre-line}"
    "@media print{body{margin:0;font-size:11pt}h2{break-after:avoid}tr{break-inside:avoid}}"
)
NOT_RECORDED = "Not recorded."
LONGEST_PARAGRAPH, LONGEST_LETTER = 3_000, 60_000  # characters: longer ones are read in the record
SHORTENED = " [...] (shortened; the whole text stands in the record)"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with paragraphs, and a table where the content is one (its first row is the head)."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()


def sections_of(found: Row) -> list[Section]:
    """Return the letter's sections from a summary in plain values."""
    return [
        _course(found),
        Section("Formulation", (found["formulation"]["text"] if found["formulation"] else NOT_RECORDED,)),
        _focus(found),
        _scores(found),
        _outcome(found),
        _medication(found),
        _alerts(found),
        *_ending(found),
        _follow_ups(found),
        Section("Please note", (str(found["statement"]), "Made from the record; the clinician answers for it. Check each fact before it is sent.")),
    ]


def _course(found: Row) -> Section:
    episode, contract = found["episode"], found["contract"]
    agreed = f"{contract['sessions']} sessions, {contract['frequency']}, until {contract['ends_on']}" if contract else NOT_RECORDED
    held = found["outcome"]["attendance"]["attended"]
    rows = [
        ("Reference", str(episode["external_ref"] or episode["id"])),
        ("Treatment", f"{found['protocol']['name']} ({found['protocol']['code']}, version {found['protocol']['version']})"),
        ("Referred on", str(episode["referred_on"])),
        ("Onset of the illness", _onset(episode)),
        ("Diagnoses", ", ".join(f"{d['system']} {d['code']}" for d in episode["diagnoses"]) or "none recorded"),
        ("Agreed", agreed),
        ("Sessions attended", str(held)),
        ("Status", _words(episode["status"])),
        ("Ended on", str(episode["ended_at"])[:10] if episode["ended_at"] else "has not ended"),
    ]
    return Section("Course of treatment", (), (("", ""), *rows))


def _onset(episode: Row) -> str:
    """Return the onset no more exactly than it is known."""
    day, shown = episode["illness_onset_date"], {"month": 7, "year": 4}.get(episode["illness_onset_precision"], 10)
    return str(day)[:shown] if day else "not recorded"


def _focus(found: Row) -> Section:
    areas = [_words(a["area"]) + (f" ({_words(a['sub_state'])})" if a.get("sub_state") else "") for a in found["focus_areas"]]
    goals = [
        f"Goal ({g['term']} term): {g['text']}" + (f" - attained {g['attainment']} of 10" if g["attainment"] is not None else "")
        for g in found["goals"]
    ]
    return Section("Focus of the work", ("; ".join(areas) or NOT_RECORDED, *goals))


def _scores(found: Row) -> Section:
    head = ("Instrument", "At the start", "At the end", "Latest")
    rows = [
        (_line_name(s), _figure(s["baseline"]), _figure(s["end_of_treatment"]), _figure(s["latest"]))
        for s in found["scores"]
        if s["latest"] is not None
    ]
    return Section("Scores", () if rows else (NOT_RECORDED,), (head, *rows) if rows else ())


def _line_name(line: Row) -> str:
    return str(line["code"]) + ("" if line["respondent"] == "patient" else f" ({line['respondent']})")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _outcome(found: Row) -> Section:
    paragraphs = []
    for verdict in found["outcome"]["verdicts"]:
        name = "Both questionnaires (NHS Talking Therapies rule)" if verdict["rule"] == "nhs_talking_therapies" else "PHQ-9 alone"
        if not verdict["assessable"]:
            paragraphs.append(f"{name}: not assessable. {verdict['reason']}")
            continue
        told = [_words(k) for k in ("recovery", "reliable_improvement", "reliable_deterioration", "no_reliable_change") if verdict[k]]
        paragraphs.append(f"{name}: {', '.join(told) or 'none of recovery and reliable change'}.")
    return Section("Outcome", tuple(paragraphs))


def _medication(found: Row) -> Section:
    rows = [f"{m.get('name') or _words(m['kind'])} {m.get('dose') or ''}, {_span(m)}".replace(" ,", ",") for m in found["medications"]]
    return Section("Medication", tuple(rows) or (NOT_RECORDED,))


def _span(row: Row) -> str:
    return f"from {row['started_on'] or 'an unknown day'}" + (f" to {row['stopped_on']}" if row["stopped_on"] else ", ongoing")


def _alerts(found: Row) -> Section:
    shown = [a for a in found["risk_alerts"] if a["kind"] != "safeguarding"]  # a letter opened at home must not betray a safety mark
    rows = [f"{_words(a['kind'])}, {a['level']}, opened {str(a['opened_at'])[:10]}: {a['status']}" for a in shown]
    left_out = "Matters of safety in relationships are never part of this letter."
    return Section("Risk alerts", (*rows, left_out) if rows else ("None is listed. That is not evidence of safety.", left_out))


def _ending(found: Row) -> Iterable[Section]:
    early, ending = found["early_ending"], found["termination"]
    if early and "ended_early" in {found["episode"]["status"], found["episode"]["ended_as"]}:
        last = "" if early["last_total"] is None else f" Last PHQ-9 available: {early['last_total']}."
        yield Section("Ending", (f"Ended early on {early['ended_on']}: {_words(early['reason'])}.{last}",))
    if not ending:
        return
    gains = [f"Gain: {g['gain']} (credited to {_words(g['credited_to'])})" for g in ending.get("gains") or ()]
    remaining = [f"Remains: {p}" for p in ending.get("remaining_problems") or ()]
    loss = [ending["ending_as_loss"]] if ending.get("ending_as_loss") else []
    yield Section("The ending", (*loss, *gains, *remaining) or (NOT_RECORDED,))
    signs = [
        f"{s['sign']} - first step: {s['first_step']}" + (f" - contact: {s['contact']}" if s.get("contact") else "")
        for s in ending.get("warning_signs") or ()
    ]
    plan = ending.get("contingency_plan")
    told = [f"If it comes back: {plan['who']}; {plan['where']}; {plan['when']}"] if plan else []
    yield Section("Early warning signs and plan", (*signs, *told) or (NOT_RECORDED,))
    reasons = ", ".join(_words(r) for r in ending["consider_maintenance_because"]) or "no reason on record"
    caution = [ending["maintenance_caution"]] if ending["maintenance_caution"] else []
    decided = _words(ending["maintenance_decision"] or "not decided")
    yield Section("Maintenance", (f"Decision: {decided}. Reasons to consider it: {reasons}.", *caution))


def _follow_ups(found: Row) -> Section:
    rows = [f"{f['months']} months: {f['status']}, due {f['due_on']}" for f in found["follow_ups"]]
    return Section("Follow-up", tuple(rows) or ("None booked.",))


def _words(code: object) -> str:
    return str(code).replace("_", " ")


def shortened(sections: Sequence[Section]) -> list[Section]:
    """Return sections of a size that a letter can have: long paragraphs, and all after the first sixty thousand characters, are cut and say so."""
    found, left = [], LONGEST_LETTER
    for section in sections:
        paragraphs = []
        for words in section.paragraphs:
            room = min(LONGEST_PARAGRAPH, left)
            paragraphs.append(words if len(words) <= room else words[:room] + SHORTENED)
            left -= min(len(words), room)
        found.append(
            Section(section.heading, tuple(p for p in paragraphs if p != SHORTENED) or ((SHORTENED.strip(),) if paragraphs else ()), section.table)
        )
    return found


def as_html(title: str, made_on: str, sections: Sequence[Section]) -> str:
    """Return the letter as one HTML document that needs nothing else: legible on a phone, and in print."""
    body = "".join(_html(s) for s in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1><p>{escape(made_on)}</p>{body}</body></html>\n"
    )


def _html(section: Section) -> str:
    paragraphs = "".join(f"<p>{escape(p)}</p>" for p in section.paragraphs)
    if not section.table:
        return f"<h2>{escape(section.heading)}</h2>{paragraphs}"
    head, *rows = section.table
    shown = "".join(f'<th scope="col">{escape(c)}</th>' for c in head) if any(head) else ""
    first = "".join(f'<tr><th scope="row">{escape(r[0])}</th>{"".join(f"<td>{escape(c)}</td>" for c in r[1:])}</tr>' for r in rows)
    return f"<h2>{escape(section.heading)}</h2>{paragraphs}<table>{f'<tr>{shown}</tr>' if shown else ''}{first}</table>"
