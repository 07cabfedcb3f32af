"""The pictures and the letter: well formed, told in words, without colour, whatever the labels are."""

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.render.circles import Person, circles, initials, told
from app.render.letter import Section, as_html, shortened
from app.render.pdf import as_pdf
from app.render.svg import WIDTH
from app.render.trajectory import trajectory

SVG = "{http://www.w3.org/2000/svg}"
LABELS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), min_size=1, max_size=60)
RING = st.none() | st.integers(1, 4)
PEOPLE = st.lists(
    st.builds(
        Person,
        mark=LABELS.map(initials),
        words=LABELS,
        status=st.sampled_from(["current", "past", "estranged", "deceased"]),
        conflict=st.none() | st.integers(0, 3),
        rings=st.fixed_dictionaries({"now": RING, "before_onset": RING, "wished": RING}),
        angle=st.none() | st.integers(0, 359),
        radius_percent=st.none() | st.integers(0, 100),
    ),
    max_size=30,
)


def parsed(svg):
    root = ET.fromstring(svg)  # noqa: S314 - our own picture
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title").text
    assert root.find(f"{SVG}desc").text
    return root


def grey_only(svg):
    colours = set(re.findall(r"#[0-9a-fA-F]{3,6}", re.sub(r">[^<]*<", "><", svg)))
    return all(len(set(c[1:])) == 1 for c in colours)


@given(PEOPLE, st.sampled_from(["now", "before_onset", "wished"]))
def test_circles_hold_whoever_is_in_the_inventory(people, time_point):
    svg = circles(people, time_point)
    root = parsed(svg)
    assert grey_only(svg)
    height = float(root.get("viewBox").split()[3])
    for mark in root.iter(f"{SVG}text"):
        assert 0 <= float(mark.get("x")) <= WIDTH
        assert 0 < float(mark.get("y")) <= height
        assert float(mark.get("font-size")) >= 8
    marks = len(list(root.iter(f"{SVG}circle"))) + len(list(root.iter(f"{SVG}rect"))) - 6  # five rings and the paper
    assert marks == sum(1 for p in people if p.rings[time_point] is not None)
    description = root.find(f"{SVG}desc").text
    assert all(told(p, time_point) in description for p in people)


def test_two_people_who_look_alike_do_not_hide_each_other():
    twin = Person("F", "friend", "current", 0, {"now": 2, "before_onset": None, "wished": None})
    spots = {(c.get("cx"), c.get("cy")) for c in parsed(circles([twin, twin], "now")).iter(f"{SVG}circle") if float(c.get("r")) <= 13}
    assert len(spots) == 2


def test_marks_of_one_ring_do_not_stand_on_each_other():
    people = [Person(str(n), str(n), "current", 0, {"now": 1 + n % 4, "before_onset": None, "wished": None}) for n in range(24)]
    spots = [(float(c.get("cx")), float(c.get("cy")), float(c.get("r"))) for c in parsed(circles(people, "now")).iter(f"{SVG}circle")][5:]
    for n, (x, y, r) in enumerate(spots):
        assert all((x - a) ** 2 + (y - b) ** 2 >= (r + q - 1.5) ** 2 for a, b, q in spots[n + 1 :])


@pytest.mark.parametrize(
    ("label", "mark"), [("husband", "H"), ("M.", "M"), ("father-in-law", "FIL"), ("<svg onload=x>", "O"), ("王", "王"), ("...", "?")]
)
def test_initials(label, mark):
    assert initials(label) == mark


def line(**fields):
    start = {
        "code": "PHQ-9", "respondent": "patient", "component": "symptoms", "lower_is_better": True, "range": [0, 27], "caseness_from": 10,
        "points": [{"answered_at": f"2026-01-{d:02}T09:00:00Z", "session_number": n, "follow_up_id": None, "score": s, "scales": None, "change": None} for n, (d, s) in enumerate([(1, 20), (8, 15), (15, 4)], 1)],
    }  # fmt: skip
    return start | fields


def test_the_trajectory_tells_all_three_components_also_those_that_are_missing():
    found = {"instruments": [line()], "phases": [{"phase": "middle", "from": "2026-01-08T09:00:00Z"}], "medications": []}
    root = parsed(trajectory(found))
    words = " ".join(t.text for t in root.iter(f"{SVG}text"))
    assert "Symptoms: PHQ-9" in words
    assert "Social functioning: not measured" in words
    assert "Personality: not measured" in words
    assert "caseness 10" in words
    assert "from 20 to 4" in root.find(f"{SVG}desc").text
    assert grey_only(trajectory(found))


@given(st.lists(st.none() | st.integers(0, 27), max_size=40), st.booleans())
def test_a_trajectory_of_any_length_stays_in_its_picture(scores, followed):
    points = [
        {
            "answered_at": f"20{20 + n // 12}-{n % 12 + 1:02}-01T09:00:00Z",
            "session_number": n,
            "follow_up_id": "x" if followed and n > 20 else None,
            "score": s,
            "scales": None,
            "change": None,
        }
        for n, s in enumerate(scores)
    ]
    medications = [{"kind": "antidepressant", "started_on": None, "stopped_on": None}]
    root = parsed(trajectory({"instruments": [line(points=points)], "phases": [], "medications": medications}))
    for dot in root.iter(f"{SVG}circle"):
        assert 0 < float(dot.get("cx")) < WIDTH


def test_a_profile_is_drawn_first_and_last():
    scales = [{"warm_agreeable": 2.0, "cold_hearted": 4.0}, {"warm_agreeable": 4.5, "cold_hearted": 1.0}]
    points = [
        {"answered_at": f"2026-01-0{n}", "session_number": n, "follow_up_id": None, "score": None, "scales": s, "change": None}
        for n, s in enumerate(scales, 1)
    ]
    item = line(code="IPIP-IPC", component="personality", range=None, caseness_from=None, points=points)
    root = parsed(trajectory({"instruments": [item], "phases": [], "medications": []}))
    assert "warm agreeable 2 to 4.5" in root.find(f"{SVG}desc").text
    assert len(list(root.iter(f"{SVG}circle"))) == 4


def test_a_letter_has_a_size_and_says_what_it_left_out():
    sections = shortened([Section("a", ("x" * 5_000, "short")), *(Section("b", ("y" * 3_000,)) for _ in range(40))])
    assert sum(len(p) for s in sections for p in s.paragraphs) < 65_000
    assert sections[0].paragraphs[0].endswith("the record)")
    assert sections[0].paragraphs[1] == "short"
    assert all(s.paragraphs for s in sections)


@given(LABELS, st.lists(LABELS, max_size=4))
def test_the_letter_escapes_what_people_write(heading, paragraphs):
    page = as_html("Summary", "2026-01-01", [Section(heading, tuple(paragraphs), (("a", "b"), (heading, "x")))])
    body = page.partition("<body>")[2]
    assert not re.search(r"<(?!/?(h1|h2|p|table|tr|th|td|body|html)\b)", body)


@pytest.mark.parametrize("words", ["plain", "ñ Ж ع ש ก न", "漢字 🙂", "x" * 3000, "\u202eevil"])
def test_the_letter_becomes_a_pdf_whatever_the_script(words):
    sections = [Section(words[:60], (words,) * 3, (("a", "b", "c"), (words[:200], words, words[:9])))] * 3
    content = as_pdf("Summary", "Made on 2026-01-01.", sections)
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
