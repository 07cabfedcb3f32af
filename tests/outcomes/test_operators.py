"""Operators: people of their own, and a privacy cap that takes two of them."""

import asyncio
import re
import subprocess
import sys
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from app.actions import privacy_caps
from app.cli import app as cli
from app.domain.errors import Invalid, NotFound
from app.domain.outcome_tables import NETWORKS
from app.keys.provider import read_key_ring
from app.launch import owner_of
from app.releasing import freeze_partner
from tests.outcomes.conftest import PERIOD, Population, as_worker, later, periods, release
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
    run.secrets = {name: run("add_operator", name, later())[0] for name in ("ann", "bob")}
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
    [event] = [e for e in desk.population.partner.get("/v1/audit-events")["items"] if e["route"] == "operator change_cap"]
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


def test_a_third_operator_needs_the_other_two_and_holds_the_secret_alone(desk):
    with pytest.raises(privacy_caps.OperatorNameTaken):
        desk("add_operator", "ann", later())
    desk.secrets["eve"], proposal = desk("add_operator", "eve", later())
    with pytest.raises(privacy_caps.OperatorUnknown):
        propose(desk, by="eve")
    with pytest.raises(privacy_caps.OperatorUnknown):
        desk("approve", desk.ring, proposal, "eve", desk.secrets["eve"], later())
    told = desk("approve", desk.ring, proposal, "ann", desk.secrets["ann"], later())
    assert "Another operator" in told
    with pytest.raises(privacy_caps.OwnProposal):
        desk("approve", desk.ring, proposal, "ann", desk.secrets["ann"], later())
    assert [p["name"] for p in desk("list_operators")[0]] == ["ann", "bob"]
    told += desk("approve", desk.ring, proposal, "bob", desk.secrets["bob"], later())
    assert desk.secrets["eve"] not in told
    open_proposal = propose(desk, by="eve")
    desk("disable_operator", "eve", "ann", desk.secrets["ann"], later())
    with pytest.raises(privacy_caps.OperatorUnknown):
        desk("approve", desk.ring, open_proposal, "bob", desk.secrets["bob"], later())
    with pytest.raises(privacy_caps.OperatorUnknown):
        propose(desk, by="eve")


def test_who_joins_or_leaves_a_network_takes_two_and_stands_in_the_partners_trail(desk):
    def member():
        return desk.population.ask_database("SELECT declared_patients FROM outcome_member WHERE partner_id = $1", desk.population.id)

    for patients, expected in ((500, [{"declared_patients": 500}]), (None, [])):
        proposal = desk("propose_membership", UUID(desk.population.id), patients, "ann", desk.secrets["ann"], later())
        before = member()
        with pytest.raises(privacy_caps.OwnProposal):
            desk("approve", desk.ring, proposal, "ann", desk.secrets["ann"], later())
        assert member() == before
        desk("approve", desk.ring, proposal, "bob", desk.secrets["bob"], later())
        assert member() == expected
    events = [e for e in desk.population.partner.get("/v1/audit-events")["items"] if e["route"] == "operator change_membership"]
    assert [e["resources"] for e in events] == [["outcome_member/500"], ["outcome_member/None"]]
    with pytest.raises(NotFound):
        desk("propose_membership", uuid4(), 10, "ann", desk.secrets["ann"], later())


def test_a_networks_changed_cap_stands_in_the_trail_of_each_member(desk):
    one = desk.population
    one.ask_database("INSERT INTO outcome_member (partner_id, declared_patients, joined_at) VALUES ($1, 10, now())", one.id)
    network = NETWORKS["sandbox"]
    one.ask_database("INSERT INTO outcome_budget (partner_id, quarter, scope, cap, spent) VALUES ($1, $2, 'population', 1000000, 0)", network, PERIOD)
    proposal = propose(desk, 1.5, population="network-sandbox")
    desk("approve", desk.ring, proposal, "bob", desk.secrets["bob"], later())
    [event] = [e for e in one.partner.get("/v1/audit-events")["items"] if e["route"] == "operator change_cap"]
    assert event["resources"] == [f"outcome_budget/{PERIOD}/population/1500000"]


def test_closing_leaves_no_order_to_be_drawn_and_no_quarter_to_be_opened(desk, own_service):
    one = desk.population
    asked = one.ask()
    assert asked.status_code == 202
    assert desk("close_quarters", later()) >= 2
    assert release(own_service) == 0
    assert one.partner.send("GET", f"/v1/outcomes/tables/{asked.json()['id']}", token=one.token).status_code == 404
    assert one.ask("recovery", ["area"], epsilon=0.25).status_code == 409
    assert one.ask("counts", ["area"], period=periods()[0]).json()["type"] == "/problems/network-too-small"
    ring = desk.ring
    assert as_worker(own_service, lambda database: freeze_partner(database, ring, UUID(one.id), later())) == 0


def test_the_command_line_does_the_same(desk, own_service):
    def ipt(*arguments, **more):
        return CliRunner().invoke(cli, arguments, env=environment(own_service.settings, **more))

    proposed = ipt("outcomes", "cap", desk.population.id, PERIOD, "population", "3.5", "--operator", "ann", IPT_OPERATOR_SECRET=desk.secrets["ann"])
    assert proposed.exit_code == 0, proposed.output
    proposal = re.search(r"Proposed as ([0-9a-f-]{36})", proposed.output).group(1)
    assert proposal in ipt("operator", "list").output
    alone = ipt("operator", "approve", proposal, "--operator", "ann", IPT_OPERATOR_SECRET=desk.secrets["ann"])
    assert isinstance(alone.exception, privacy_caps.OwnProposal)
    assert ipt("operator", "approve", proposal, "--operator", "bob", IPT_OPERATOR_SECRET=desk.secrets["bob"]).exit_code == 0
    shown = ipt("outcomes", "budgets", desk.population.id).output
    assert "0 of 3.5" in shown
    assert "ADD UP" not in shown
    ann = {"IPT_OPERATOR_SECRET": desk.secrets["ann"]}
    assert "Proposed" in ipt("outcomes", "join", desk.population.id, "500", "--operator", "ann", **ann).output
    assert "Proposed" in ipt("outcomes", "leave", desk.population.id, "--operator", "ann", **ann).output
    assert isinstance(ipt("outcomes", "leave", desk.population.id, "--operator", "bob", **ann).exception, privacy_caps.OperatorUnknown)
    assert "It works once" in ipt("operator", "add", "eve").output
    assert "quarters frozen" in ipt("outcomes", "freeze").output
    assert "budgets closed" in ipt("outcomes", "reconcile", "--close").output
    assert cap(desk) == 0
    made = ipt("cohort", "--patients", "12", "--seed", "4")
    assert "12 made-up courses" in made.output, made.output


def test_the_installed_command_says_what_is_wrong_in_one_sentence(desk, own_service):
    command = [sys.executable, "-m", "app.cli", "operator", "disable", "bob", "--operator", "ann"]
    found = subprocess.run(
        command, cwd=ROOT, env=environment(own_service.settings, IPT_OPERATOR_SECRET="wrong"), capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 1
    assert found.stderr.strip() == "There is no such operator, or the secret is not theirs"
