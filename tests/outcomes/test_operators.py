"""Operators: people of their own, and a privacy cap that takes two of them."""

import asyncio
import re
import subprocess
import sys
from uuid import uuid4

import pytest

from app.actions import privacy_caps
from app.domain.errors import Invalid, NotFound
from app.keys.provider import read_key_ring
from app.launch import owner_of
from tests.outcomes.conftest import PERIOD, Population, later
from tests.outcomes.test_ledger import ROOT, environment


@pytest.fixture
def desk(own_service, fresh_database):
    """The operators' desk of a service of the test's own, with two operators and one population."""
    ring = read_key_ring(own_service.settings.keys_path)

    def run(name, *arguments):
        async def done():
            owner = owner_of(own_service.settings)
            try:
                return await getattr(privacy_caps, name)(owner, *arguments)
            finally:
                await owner.close()

        return asyncio.run(done())

    run.ring = ring
    run.secrets = {name: run("add_operator", name, None, None, later()) for name in ("ann", "bob")}
    with own_service.partner() as partner:
        run.population = Population(own_service, partner, fresh_database).freeze([(50, {})])
        yield run


def propose(desk, epsilon=3.0, by="ann", scope="population", population=None):
    return desk("propose_cap", population or desk.population.id, PERIOD, scope, epsilon, by, desk.secrets[by], later())


def cap(desk, scope="population"):
    [row] = desk.population.ask_database(
        "SELECT cap FROM outcome_budget WHERE partner_id = $1 AND quarter = $2 AND scope = $3", desk.population.id, PERIOD, scope
    )
    return row["cap"]


def test_a_cap_changes_when_a_second_operator_approves_and_not_before(desk):
    proposal = propose(desk)
    assert cap(desk) == 2_000_000
    with pytest.raises(privacy_caps.OwnProposal):
        desk("approve", desk.ring, proposal, "ann", desk.secrets["ann"], later())
    with pytest.raises(privacy_caps.OperatorUnknown):
        desk("approve", desk.ring, proposal, "bob", desk.secrets["ann"], later())
    assert cap(desk) == 2_000_000
    assert "3" in desk("approve", desk.ring, proposal, "bob", desk.secrets["bob"], later())
    assert cap(desk) == 3_000_000
    with pytest.raises(NotFound):
        desk("approve", desk.ring, proposal, "bob", desk.secrets["bob"], later())
    [event] = [e for e in desk.population.partner.get("/v1/audit-events")["items"] if e["route"] == "operator change_privacy_cap"]
    assert event["reason"] == "proposed by ann, approved by bob"
    assert event["resources"] == [f"outcome_budget/{PERIOD}/population/3000000"]


def test_a_consumers_cap_can_be_raised_and_a_cap_below_what_is_spent_cannot_be(desk):
    proposal = propose(desk, 2.0, scope="consumer:backend")
    desk("approve", desk.ring, proposal, "bob", desk.secrets["bob"], later())
    assert cap(desk, "consumer|backend") == 2_000_000
    assert desk.population.ask("counts", ["area"], epsilon=1.0).status_code == 202
    assert desk.population.ask("recovery", ["area"], epsilon=1.0).status_code == 202
    lower = propose(desk, 0.5)
    with pytest.raises(privacy_caps.CapRefused):
        desk("approve", desk.ring, lower, "bob", desk.secrets["bob"], later())
    unknown = propose(desk, population=str(uuid4()))
    with pytest.raises(privacy_caps.CapRefused):
        desk("approve", desk.ring, unknown, "bob", desk.secrets["bob"], later())


@pytest.mark.parametrize(
    ("epsilon", "scope", "population"), [(4.1, "population", None), (-1, "population", None), (1, "everything", None), (1, "population", "nobody")]
)
def test_a_proposal_outside_of_its_bounds_is_refused(desk, epsilon, scope, population):
    with pytest.raises(Invalid):
        propose(desk, epsilon, scope=scope, population=population)


def test_a_third_operator_needs_two_and_one_alone_can_make_no_second_self(desk):
    with pytest.raises(privacy_caps.OperatorUnknown):
        desk("add_operator", "eve", None, None, later())
    with pytest.raises(privacy_caps.OperatorNameTaken):
        desk("add_operator", "ann", None, None, later())
    proposal = desk("add_operator", "eve", "ann", desk.secrets["ann"], later())
    people, waiting = desk("list_operators")
    assert [p["name"] for p in people] == ["ann", "bob"]
    assert [w["id"] for w in waiting] == [proposal]
    with pytest.raises(privacy_caps.OwnProposal):
        desk("approve", desk.ring, proposal, "ann", desk.secrets["ann"], later())
    told = desk("approve", desk.ring, proposal, "bob", desk.secrets["bob"], later())
    desk.secrets["eve"] = re.search(r"secret +(\S+)", told).group(1)
    desk("approve", desk.ring, propose(desk), "eve", desk.secrets["eve"], later())
    desk("disable_operator", "eve", "ann", desk.secrets["ann"], later())
    with pytest.raises(privacy_caps.OperatorUnknown):
        propose(desk, by="eve")


def test_the_command_line_does_the_same(desk, own_service):
    def ipt(*arguments, **more):
        command = [sys.executable, "-m", "app.cli", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment(own_service.settings, **more), capture_output=True, text=True, timeout=60, check=False
        )

    proposed = ipt("outcomes", "cap", desk.population.id, PERIOD, "population", "3.5", "--operator", "ann", IPT_OPERATOR_SECRET=desk.secrets["ann"])
    assert proposed.returncode == 0, proposed.stderr
    proposal = re.search(r"[0-9a-f-]{36}", proposed.stdout).group(0)
    alone = ipt("operator", "approve", proposal, "--operator", "ann", IPT_OPERATOR_SECRET=desk.secrets["ann"])
    assert alone.returncode == 1
    assert "Another operator" in alone.stderr
    assert "Traceback" not in alone.stderr
    assert ipt("operator", "approve", proposal, "--operator", "bob", IPT_OPERATOR_SECRET=desk.secrets["bob"]).returncode == 0
    shown = ipt("outcomes", "budgets", desk.population.id)
    assert "0 of 3.5" in shown.stdout
    assert "ADD UP" not in shown.stdout
    assert "budgets closed" in ipt("outcomes", "reconcile", "--close").stdout
    assert cap(desk) == 0
