"""Time the pure rules against their aim of 100 us each: `make bench-rules`. The best of nine rounds, so that other work counts little."""

import itertools
import timeit

from app.domain.instruments import instrument
from app.domain.phase import unmet_conditions
from app.domain.problem_area import Answer, classify, ruleset
from app.domain.scoring import score
from tests.domain.test_phase import FULL, STANDARD

AIM_US = 100.0
CALLS, ROUNDS = 2000, 9
CODES = [i.code for area in ruleset().areas for i in (area.gate, *area.indicators)]


def answers(*values):
    return {code: Answer(value) for code, value in zip(CODES, itertools.cycle(values), strict=False)}


def work():
    known, unknown, mixed = answers("present"), answers("unknown"), answers("present", "absent", "unknown", "possible")
    cited = {code: Answer(answer.value, "a relationship", "a life event") for code, answer in mixed.items()}
    phq9, circumplex = instrument("PHQ-9"), instrument("IPIP-IPC")
    yield "classification, every indicator present", lambda: classify(known)
    yield "classification, nothing known", lambda: classify(unknown)
    yield "classification, answers mixed", lambda: classify(mixed)
    yield "classification, mixed, each cites evidence", lambda: classify(cited)
    yield "score of the PHQ-9", lambda: score(phq9, dict.fromkeys(range(1, 10), 1))
    yield "score of the IPIP-IPC, 32 items", lambda: score(circumplex, dict.fromkeys(range(1, 33), 3))
    yield "phase decision, into the middle", lambda: unmet_conditions("middle", FULL, STANDARD)


def main():
    print(f"{'work':42}{'us':>8}{'of the aim':>12}  met")
    for name, call in work():
        call()
        taken = min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6
        print(f"{name:42}{taken:8.1f}{taken / AIM_US:12.2f}  {'yes' if taken <= AIM_US else 'no'}")


if __name__ == "__main__":
    main()
