"""Soaks: faults at length. `make soak` runs them, each under ten minutes, and prints what was measured; the ordinary suite passes them over."""

import os

import pytest

collect_ignore_glob = [] if os.environ.get("IPT_SOAK") else ["test_*.py"]


@pytest.fixture
def figure(record_property, request):
    """Note a figure for the summary of `make soak`."""

    def note(text):
        record_property("figure", f"{request.node.name}: {text}")

    return note
