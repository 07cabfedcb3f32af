"""Soaks: faults at length. `make soak` runs them, each under ten minutes, and prints what was measured; the ordinary suite passes them over."""

import os

import pytest

from tests.soak.machine import Machine

collect_ignore_glob = [] if os.environ.get("IPT_SOAK") else ["test_*.py"]


@pytest.fixture
def machine(tmp_path):
    """A machine of the test's own: durable PostgreSQL, and processes of the service that can be killed."""
    made = Machine(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def figure(record_property, request):
    """Note a figure for the summary of `make soak`."""

    def note(text):
        record_property("figure", f"{request.node.name}: {text}")

    return note
