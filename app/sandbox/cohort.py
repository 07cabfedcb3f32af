"""A synthetic cohort: made-up courses of treatment whose rates follow published figures. Nobody in it is, or is made from, a person.

`synthetic_course(seed, n, today)` is the n-th course of a seed, the same on every machine, whichever others are made.

Figures with their sources. Those marked (programme) are of NHS Talking Therapies as a whole, not of IPT alone: rates by therapy could not be
cited. Those marked (own) are our assumption.

- Drop-out 20.9 %: Linardon et al. 2019, Psychother Res 29:870, IPT for depression, 95 % CI 17.2 to 25.2.
- PHQ-9 from 15.9 to 9.4, GAD-7 from 14.5 to 8.5 (programme): Saunders et al. 2025, Lancet Psychiatry 12:650, as reported; standard deviations
  5.4 and 4.4: a UK cohort of talking therapies (WYLOW; Ali et al. 2017, Behav Res Ther 94:1).
- Recovery 50.2 % (programme): NHS Digital 2022, annual report 2021-22. Reliable improvement 67.4 % (programme): NHS Digital 2019.
- Reliable deterioration 6.6 % (programme): Gyani et al. 2013, Behav Res Ther 51:597.
- Sessions: IPT above 9 on average (NHS Digital, therapy-based outcomes 2021-22); spread as Pybis et al. 2017, BMC Psychiatry 17:215.
- Focus: transition 41, dispute 34.5, grief 23 % (late-life depression, n = 127: Miller et al., J Psychother Pract Res, PMC3330480); deficits 7 % (own).
- Relapse of the recovered: a third in 18 months (Shea et al. 1992, Arch Gen Psychiatry 49:782); by three and six months 12 and 20 % (own).
- Women 59.7 % (the same UK cohort); 16 to 24 years 20 % (Saunders et al. 2025); 65 and over 5 % (NHS Digital 2021, as reported).
- Protocols, modality, consent to analytics (75 %), attendance at follow-up (60 and 50 %): own.
- Item 9 of the PHQ-9 is always 0: the cohort raises no alerts of risk. Totals therefore end at 24.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TypeVar

DROP_OUT = 0.209
PHQ9, GAD7 = (15.9, 5.4, 24), (14.5, 4.4, 21)
WORSE, SAME = 0.088, 0.17  # shares of latent courses; with the noise of measurement they give the published rates (tests/sandbox)
AREAS = (("role_transition", 0.385), ("role_dispute", 0.32), ("grief", 0.225), ("interpersonal_deficits", 0.07))
ADULT_PROTOCOLS = (("IPT-16", 16, 0.45), ("IPT-12", 12, 0.25), ("IPC", 6, 0.08), ("DIT", 16, 0.10), ("IPT-B", 8, 0.07), ("IPT-G-WHO", 9, 0.05))
TEEN_PROTOCOL = ("IPT-A", 12)
MODES = (("in_person", 0.5), ("video", 0.35), ("mixed", 0.15))
CONSENTS = 0.75
FOLLOW_UPS = ((3, 0.60, 0.12), (6, 0.50, 0.20))  # months, share held, share of the recovered who relapsed
QUARTERS_BACK = 12
WEEK = timedelta(weeks=1)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SyntheticCourse:
    """One made-up course. `totals`: PHQ-9 and GAD-7 of each session; `follow_ups`: months, day, PHQ-9."""

    number: int
    chance: random.Random
    age: int
    sex: str
    area: str
    protocol: str
    contracted: int
    modes: Sequence[str]
    days: Sequence[date]
    totals: Sequence[tuple[int, int]]
    dropped_out: bool
    phase: str
    consents: bool
    follow_ups: Sequence[tuple[int, date, int]]

    @property
    def ended_on(self) -> date:
        """Return the day of the last session."""
        return self.days[-1]


def synthetic_course(seed: int, number: int, today: date) -> SyntheticCourse:
    """Return the course of a number; it ended within the twelve quarters before `today`."""
    chance = random.Random(f"ipt cohort|{seed}|{number}")  # noqa: S311 - made-up people: repeatable on purpose
    age = _age(chance)
    protocol, contracted = TEEN_PROTOCOL if age < 18 else _pick(chance, [((p, n), share) for p, n, share in ADULT_PROTOCOLS])
    dropped_out = chance.random() < DROP_OUT
    held = _sessions(chance, contracted, dropped_out=dropped_out)
    first, last = _severity(chance)
    mode = _pick(chance, MODES)
    ended_on = today - timedelta(days=1 + chance.randrange(QUARTERS_BACK * 91))
    days = [ended_on - WEEK * (held - 1 - n) for n in range(held)]
    totals = _path(chance, first, last if not dropped_out else _part_of_the_way(chance, first, last), held)
    return SyntheticCourse(
        number=number,
        chance=chance,
        age=age,
        sex="female" if chance.random() < 0.597 else "male" if chance.random() < 0.98 else "other",
        area=_pick(chance, AREAS),
        protocol=protocol,
        contracted=contracted,
        modes=[mode if mode != "mixed" else chance.choice(("in_person", "video", "phone")) for _ in days],
        days=days,
        totals=totals,
        dropped_out=dropped_out,
        phase=("initial" if held <= 3 else "middle" if held < contracted - 3 else "termination") if dropped_out else "follow_up",
        consents=chance.random() < CONSENTS,
        follow_ups=[] if dropped_out else _follow_ups(chance, ended_on, totals[-1][0], today),
    )


def _pick(chance: random.Random, shares: Sequence[tuple[T, float]]) -> T:
    """Pick by shares."""
    return chance.choices([value for value, _ in shares], [share for _, share in shares])[0]


def _age(chance: random.Random) -> int:
    drawn = chance.random()
    if drawn < 0.03:
        return chance.randint(13, 17)
    if drawn < 0.20:
        return chance.randint(18, 25)
    return chance.randint(65, 88) if drawn > 0.95 else chance.randint(26, 64)


def _sessions(chance: random.Random, contracted: int, *, dropped_out: bool) -> int:
    if dropped_out:
        return min(contracted - 1, 1 + int(chance.expovariate(1 / 3.2)))
    return max(2, contracted - int(chance.expovariate(1 / 1.6)))


def _severity(chance: random.Random) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first and the last PHQ-9 and GAD-7 of a course that is completed."""
    common = chance.gauss(0, 1)
    first = tuple(_cut(mean + sd * (0.77 * common + 0.64 * chance.gauss(0, 1)), top) for mean, sd, top in (PHQ9, GAD7))
    drawn = chance.random()
    if drawn < WORSE:
        last = tuple(value + chance.uniform(4.5, 9) for value in first)
    elif drawn < WORSE + SAME:
        last = tuple(value * chance.uniform(0.82, 1.05) for value in first)
    else:
        left = chance.betavariate(1.9, 3.9)
        last = tuple(value * (0.08 + 0.85 * left) + chance.gauss(0, 1.1) for value in first)
    return (first[0], first[1]), (_cut(last[0], PHQ9[2]), _cut(last[1], GAD7[2]))


def _cut(value: float, top: int) -> int:
    return max(0, min(top, round(value)))


def _part_of_the_way(chance: random.Random, first: tuple[int, int], last: tuple[int, int]) -> tuple[int, int]:
    """Return the last scores of somebody who left: part of the change."""
    share = chance.uniform(0.1, 0.9)
    return (round(first[0] + share * (last[0] - first[0])), round(first[1] + share * (last[1] - first[1])))


def _path(chance: random.Random, first: tuple[int, int], last: tuple[int, int], held: int) -> list[tuple[int, int]]:
    """Return the scores of every session: the change comes early, and wavers."""
    found = []
    for n in range(held):
        share = 1.0 if held == 1 else 1 - (1 - n / (held - 1)) ** 1.6
        waver = 0.0 if n in {0, held - 1} else chance.gauss(0, 1.3)
        found.append(
            (_cut(first[0] + share * (last[0] - first[0]) + waver, PHQ9[2]), _cut(first[1] + share * (last[1] - first[1]) + waver * 0.8, GAD7[2]))
        )
    return found if held > 1 else [first]


def _follow_ups(chance: random.Random, ended_on: date, last: int, today: date) -> list[tuple[int, date, int]]:
    found = []
    for months, held, relapsed in FOLLOW_UPS:
        day = ended_on + timedelta(days=30 * months + chance.randrange(14))
        back = last < 10 and chance.random() < relapsed
        total = _cut(chance.uniform(11, 18) if back else last + chance.gauss(-0.3, 2), PHQ9[2])
        if day < today and chance.random() < held:
            found.append((months, day, total))
    return found
