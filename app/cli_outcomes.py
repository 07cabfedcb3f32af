"""Commands of anonymised outcomes: operators, caps, the network, the journal of releases, leaked extracts; and the synthetic cohort."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console

from app.actions import operators, privacy_caps
from app.actions.journal import Journal
from app.api.bearer import utc_now
from app.api.request import SCOPES
from app.config import Settings
from app.domain.outcome_tables import HIGHEST_CAP, MICRO
from app.keys.provider import read_keys
from app.launch import as_owner, database_for, migrate, owner_of
from app.main import key_provider
from app.releasing import freeze_partner, freeze_quarters, make_releases, reconcile
from app.sandbox.cohort_loading import LARGEST_COHORT, Cohort, load_cohort
from app.sandbox.partner import SETTING
from app.store.database import Database, clock
from app.store.installation import check_installation

console = Console(highlight=False, soft_wrap=True)
operator_app = typer.Typer(no_args_is_help=True, help="Operators: the people who run the service. Raising a privacy budget takes two.")
outcomes_app = typer.Typer(no_args_is_help=True, help="Anonymised outcomes.")
Secret = Annotated[str, typer.Option(envvar="IPT_OPERATOR_SECRET", prompt=True, hide_input=True, help="Your own secret")]
Operator = Annotated[str, typer.Option("--operator", help="Your own name")]


def _now() -> datetime:
    return clock(utc_now)


@operator_app.command("add")
def operator_add(name: str) -> None:
    """Become an operator: run it yourself, your secret is shown once. The first two are simply added; from then on two operators must approve."""
    secret, proposal = as_owner(lambda database, _: privacy_caps.add_operator(database, name, _now()))
    console.print(f"Operator {name}\nsecret    {secret}\n\nThe secret is not kept and cannot be shown again.")
    if proposal is not None:
        console.print(f"It works once two operators have approved: ipt operator approve {proposal} --operator <name>")


@operator_app.command("list")
def operator_list() -> None:
    """List the operators, and what waits for a second one."""
    people, waiting = as_owner(lambda database, _: privacy_caps.list_operators(database))
    for row in people:
        console.print(f"{row['name']}  {'disabled' if row['disabled_at'] else 'active'}")
    for row in waiting:
        shown = {k: v for k, v in row["proposal"].items() if k != "digest"}
        console.print(f"waiting: {row['id']}  {row['kind']}  {shown}  by {row['proposed_by']}, approved by {row['approved_by']}", markup=False)


@operator_app.command("disable")
def operator_disable(name: str, operator: Operator, secret: Secret) -> None:
    """Disable an operator."""
    as_owner(lambda database, _: privacy_caps.disable_operator(database, name, operator, secret, _now()))


@operator_app.command("approve")
def operator_approve(proposal: UUID, operator: Operator, secret: Secret) -> None:
    """Approve what another operator has proposed: it takes effect now."""
    ring = read_keys(key_provider(Settings()))
    found = as_owner(lambda database, _: privacy_caps.approve(database, ring, proposal, operator, secret, _now()))
    console.print(found)


@outcomes_app.command("cap")
def outcomes_cap(
    population: Annotated[str, typer.Argument(help="The data set: a partner's id, network-live, or network-sandbox")],
    quarter: Annotated[str, typer.Argument(help="Such as 2026Q3")],
    scope: Annotated[str, typer.Argument(help="population, follow_up, or consumer:<client name>")],
    epsilon: Annotated[float, typer.Argument(min=0, max=HIGHEST_CAP / MICRO, help="The new cap")],
    operator: Operator,
    secret: Secret,
) -> None:
    """Propose another cap for one privacy budget. Another operator must approve it."""
    _tell_proposed(as_owner(lambda database, _: privacy_caps.propose_cap(database, population, quarter, scope, epsilon, operator, secret, _now())))


@outcomes_app.command("join")
def outcomes_join(
    partner: UUID,
    patients: Annotated[int, typer.Argument(min=1, help="Patients a year, as the contract declares")],
    operator: Operator,
    secret: Secret,
) -> None:
    """Propose that a partner joins the network of its kind. The declared size decides whether there are enough, never a count."""
    _tell_proposed(as_owner(lambda database, _: privacy_caps.propose_membership(database, partner, patients, operator, secret, _now())))


@outcomes_app.command("leave")
def outcomes_leave(partner: UUID, operator: Operator, secret: Secret) -> None:
    """Propose that a partner leaves the network. What was released stays."""
    _tell_proposed(as_owner(lambda database, _: privacy_caps.propose_membership(database, partner, None, operator, secret, _now())))


def _tell_proposed(proposal: UUID) -> None:
    console.print(f"Proposed as {proposal}. Another operator approves it: ipt operator approve {proposal} --operator <name>")


@outcomes_app.command("budgets")
def outcomes_budgets(population: Annotated[str, typer.Argument(help="A partner's id, or network-live, or network-sandbox")]) -> None:
    """Show what is spent of each budget, and whether it is what its spendings add up to."""
    rows = as_owner(lambda database, _: privacy_caps.show_budgets(database, population))
    if not rows:
        console.print("There is no budget yet: budgets open when a quarter is frozen.")
    for row in rows:
        check = "" if row["noted"] == row["spent"] else f"  DOES NOT ADD UP: {row['noted'] / MICRO:g} is noted"
        console.print(f"{row['quarter']}  {row['scope']:24}  {row['spent'] / MICRO:g} of {row['cap'] / MICRO:g}{check}")


@outcomes_app.command("freeze")
def outcomes_freeze(
    partner: Annotated[UUID | None, typer.Option(help="This partner at once, also within its first 14 days: its import is done")] = None,
) -> None:
    """Freeze every quarter whose time has come and make the tables that wait, now: the worker does the same by itself."""
    settings = Settings()
    with database_for(settings, attach=True, make=False) as ready:
        quarters, tables = asyncio.run(freeze_now(ready, partner))
    console.print(f"{quarters} quarters frozen, {tables} tables made.")


async def freeze_now(ready: Settings, partner_id: UUID | None) -> tuple[int, int]:
    """Freeze what is due (of one partner at once, when it is named), and make every table that waits; return how many of each."""
    ring = read_keys(key_provider(ready))
    database = _worker(ready)
    journal = Journal(ready.journal_path, ring)
    try:
        await check_installation(database)
        await reconcile(database, journal, _now())
        quarters = await (freeze_quarters(database, ring, _now()) if partner_id is None else freeze_partner(database, ring, partner_id, _now()))
        tables = 0
        while made := await make_releases(database, journal, _now()):
            tables += made
    finally:
        await database.close()
    return quarters, tables


@outcomes_app.command("reconcile")
def outcomes_reconcile(
    journal: Annotated[Path | None, typer.Option(help="Another journal than this machine's")] = None,
    close: Annotated[bool, typer.Option("--close", help="No journal is left: close every frozen quarter, so that nothing is drawn twice")] = False,
) -> None:
    """After a restore, before the service opens: bring back what had been released and charge it; or close the quarters."""
    settings = Settings()
    with database_for(settings, attach=True, make=False) as ready:

        async def done() -> tuple[int, int]:
            database = _worker(ready)
            try:
                back = await reconcile(database, Journal(journal or ready.journal_path, read_keys(key_provider(ready))), _now())
            finally:
                await database.close()
            owner = owner_of(ready)
            try:
                return back, await privacy_caps.close_quarters(owner, _now()) if close else 0
            finally:
                await owner.close()

        back, closed = asyncio.run(done())
    console.print(f"{back} releases brought back, {closed} budgets closed.")


def _worker(ready: Settings) -> Database:
    return Database(ready.worker_database_url or ready.database_url or "", "ipt_worker", pool_size=3, pooler=ready.pooler, statement_seconds=None)


@outcomes_app.command("trace")
def outcomes_trace(file: Path) -> None:
    """Name the order that a leaked extract (CSV, NDJSON or Parquet) comes from, by its made-up records."""
    ring = read_keys(key_provider(Settings()))
    found = as_owner(lambda database, _: privacy_caps.trace(database, ring, file))
    for row in found:
        console.print(f"extract {row['id']}  client {row['client_id']}  agreement {row['agreement_id']}  {row['hits']} of {row['of']} marks")
    if not found:
        console.print("No mark of an extract was found: it may be a small part of one, or have lost its pseudonyms.")
        raise typer.Exit(1)


def cohort_for(ready: Settings, partner_id: UUID, patients: int, seed: int) -> Cohort:
    """Return what is to be loaded into a partner of this database."""
    url = ready.migration_database_url or ready.database_url or ""
    return Cohort(url, key_provider(ready), partner_id, patients, seed, _now().date())


def cohort(
    patients: Annotated[int, typer.Option(min=1, max=LARGEST_COHORT, help="How many made-up people, one course each")] = 1_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same people")] = 1,
    partner: Annotated[UUID | None, typer.Option(help="A sandbox partner; default: a new one")] = None,
) -> None:
    """Load a synthetic cohort: whole courses whose rates follow published figures (app/sandbox/cohort.py cites them)."""
    settings = Settings()
    with database_for(settings, attach=True) as ready:
        if ready is not settings:  # the embedded one
            migrate(ready)

        async def done() -> tuple[UUID, tuple[str, str] | None]:
            owner = owner_of(ready)
            made = None
            try:
                partner_id = partner
                if partner_id is None:
                    partner_id = await operators.register_partner(owner, f"Cohort {seed}", "sandbox", SETTING, _now())
                    made = await operators.register_client(owner, partner_id, "analyst", sorted(SCOPES), _now())
            finally:
                await owner.close()
            await load_cohort(cohort_for(ready, partner_id, patients, seed), console, _now())
            await freeze_now(ready, partner_id)
            return partner_id, made

        partner_id, made = asyncio.run(done())
    console.print(f"{patients} made-up courses are in partner {partner_id}.")
    if partner is not None:
        console.print("(Quarters of it that were frozen before do not count them.)")
    if made is not None:
        console.print(f"client_id      {made[0]}\nclient_secret  {made[1]}")
    console.print("Their quarters are frozen, and the standard pack of each is released: GET /v1/outcomes/tables")
