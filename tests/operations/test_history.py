"""The checker of histories itself: it lets pass what can be true, and finds what cannot."""

import pytest

from tests.soak.history import History


def told(*seen):
    history = History()
    for kind, version, *rest in seen:
        history.note("row", kind, version, *rest)
    return history


@pytest.mark.parametrize(
    ("seen", "final"),
    [
        ((("write", 2, 0, 1), ("write", 3, 1, 2), ("read", 3, 2, 3)), 3),
        ((("write", 2, 0, 2), ("read", 1, 1, 3)), 2),  # the read began before the write was acknowledged
        ((("write", 2, 0, 1), ("write", None, 1, 2), ("write", 4, 2, 3)), 4),  # the lost answer made version 3
        ((("write", None, 0, 1),), 1),  # or made none
    ],
)
def test_what_can_be_true_passes(seen, final):
    assert told(*seen).faults({"row": final}) == []


@pytest.mark.parametrize(
    ("seen", "final", "fault"),
    [
        ((("write", 2, 0, 1), ("write", 2, 0, 1)), 2, "has 2 writers"),
        ((("write", 2, 0, 1), ("write", 4, 1, 2)), 4, "without a writer"),
        ((("write", 2, 0, 1), ("read", 1, 2, 3)), 2, "was read after 2"),
        ((("write", 2, 0, 1), ("write", 3, 1, 2)), 2, "ends with version 2"),
        ((("write", 2, 0, 1, "new"), ("read", 2, 2, 3, "old")), 2, "with 2 contents"),
    ],
)
def test_what_cannot_be_true_is_found(seen, final, fault):
    assert any(fault in f for f in told(*seen).faults({"row": final}))
