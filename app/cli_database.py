"""Commands about the database as a whole: `ipt backup`, `ipt restore`, `ipt distribute`."""

import asyncio
import os
import subprocess
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
import typer
from rich.console import Console
from sqlalchemy.engine import make_url

from app.actions import privacy_caps
from app.actions.journal import ERASURES, RESTORES, Journal
from app.actions.operators import check_keys, list_partners, renew_signing_keys, wrapped_under
from app.actions.restoring import Journals, check_journals, complete_journals, newest_change, raise_epochs, read_journals, replay_erasures
from app.actions.visit import Visit
from app.binaries import program
from app.config import Settings
from app.domain.errors import CommandRefused
from app.domain.protection import RIGHTS
from app.keys.cipher import KeyRing
from app.keys.provider import read_keys
from app.launch import ROOT, as_it_logs_in, database_for, migrate, migrators, named, owner_of
from app.main import key_provider
from app.releasing import bring_back
from app.store.database import Connection, Database
from app.store.distributing import distribute as place
from app.store.installation import (
    NOTED_SINCE,
    begin_restoring,
    end_restoring,
    forget_installation,
    note_installation,
    others_connected,
    standing_of,
)
from app.upkeep import commit_visit, worker_visit

console = Console(highlight=False, soft_wrap=True)
BACKUP_ROLE = "ipt_backup"


class Doubtful(StrEnum):
    """What becomes of people of whom it is not clear whether they were erased after a backup."""

    erase = "erase"
    keep = "keep"


class BackupRefused(CommandRefused):
    """The backup cannot be taken, or brought back."""


def backup(file: Annotated[Path, typer.Argument(help="Where to write it; it must not exist yet")]) -> None:
    """Write a dump of the whole database: one consistent moment, for this machine's owner alone. Keys and journals are not in it: keep them apart."""
    settings = Settings()
    if file.exists():
        raise BackupRefused(f"{file} exists already.")
    if not file.absolute().parent.is_dir():
        raise BackupRefused(f"There is no folder {file.absolute().parent}.")
    with database_for(settings, attach=True, make=False) as ready:
        asyncio.run(_may_dump(ready))
        half = file.with_name(f"{file.name}.half")
        half.unlink(missing_ok=True)
        os.close(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            _run("pg_dump", ready, "--format=custom", f"--role={BACKUP_ROLE}", "--exclude-table-data=installation", f"--file={half}")
            half.rename(file)
        finally:
            half.unlink(missing_ok=True)
        revision, versions, partners = asyncio.run(_described(ready))
        console.print(f"{file}: {file.stat().st_size:,} bytes, schema {revision}, {partners} partners, of {named(ready)}")
    console.print(f"To read it, these versions of the key-encryption key are needed: {', '.join(map(str, versions)) or 'none'}.")
    console.print(f"Keep apart from it: {settings.keys_path}, and the journals beside {settings.journal_path}.")


def restore(
    file: Annotated[Path | None, typer.Argument(help="A backup of `ipt backup`; the database must be empty")] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="The database is there already (a base backup with its WAL, a copy): only reconcile")
    ] = False,
    journals: Annotated[list[Path] | None, typer.Option(help="A folder of another machine's journals; repeat it. This one's are always read")] = None,
    without_journals: Annotated[
        bool, typer.Option("--without-journals", help="The journals are lost: close every frozen quarter, and erase again by hand")
    ] = False,
    doubtful: Annotated[
        Doubtful | None, typer.Option(help="What to do with people of whom it is not clear whether they were erased: the command names them")
    ] = None,
) -> None:
    """Bring a backup back, and reconcile it before the service opens: a new epoch, erasures done again, what was released charged."""
    settings = Settings()
    if (file is None) != finish:
        raise BackupRefused("Name a backup, or say --finish for a database that is there already.")
    if file is not None and not file.exists():
        raise BackupRefused(f"{file} is not there.")
    ring = read_keys(key_provider(settings))
    folders = list(dict.fromkeys([*(journals or []), settings.journal_path.parent]))
    names = (settings.journal_path.name, settings.erasures_path.name, settings.restores_path.name)
    found = None if without_journals else read_journals(folders, *names, ring)
    for sentence in found.seen if found else ():
        console.print(sentence)
    with database_for(settings, attach=True, make=file is not None) as ready:
        console.print(f"Database: {named(ready)}")
        if file is not None:
            asyncio.run(_made_ready(ready))
            _run("pg_restore", ready, "--exit-on-error", "--single-transaction", str(file))
        asyncio.run(_closed(ready))
        migrate(ready)
        asyncio.run(_reconciled(ready, ring, found, doubtful))
        asyncio.run(_opened(ready))
    console.print("The database may be opened. What else was decided since the backup is undone: see docs/operations.md, Restore, 5.")


def distribute() -> None:
    """Distribute the tables by partner with Citus, beside each other on its nodes. Stop the service first; needs the extension, and a superuser."""
    with database_for(Settings(), attach=True, make=False) as ready:

        async def done() -> int:
            database = as_it_logs_in(ready)
            try:
                async with database.transaction(None) as connection:
                    await _check_alone(connection)
                    number = await place(connection)
                    await connection.commit()
                    return number
            finally:
                await database.close()

        number = asyncio.run(done())
    console.print(f"{number} tables placed." if number else "Everything is placed already.")


def _run(tool: str, ready: Settings, *arguments: str) -> None:
    """Run one of PostgreSQL's programs on the database; whatever it complains of is the sentence that is shown."""
    url = make_url(migrators(ready))
    password = url.password or url.query.get("password")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IPT_")} | (
        {"PGPASSWORD": str(password)} if password else {}
    )
    target = f"--dbname={named(ready)}"
    done = subprocess.run(  # noqa: S603 - PostgreSQL's own
        [program(tool, asyncio.run(_major(ready))), target, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BackupRefused(f"{tool} failed: {done.stderr.strip()[-600:]}")


async def _major(ready: Settings) -> int:
    database = as_it_logs_in(ready)
    try:
        async with database.transaction(None) as connection:
            return int(await connection.value(sa.text("SHOW server_version_num"))) // 10_000
    finally:
        await database.close()


async def _may_dump(ready: Settings) -> None:
    """Refuse a login that may not take dumps, before there is half a file. Raises BackupRefused."""
    database = as_it_logs_in(ready)
    try:
        async with database.transaction(None) as connection:
            may = sa.text("SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = :name").bindparams(name=BACKUP_ROLE)
            if not await connection.value(may):
                raise BackupRefused(
                    f"This login may not take dumps: it needs the role {BACKUP_ROLE}, which a superuser gives (docs/operations.md, Backup)."
                )
    finally:
        await database.close()


async def _described(ready: Settings) -> tuple[str | None, list[int], int]:
    database = owner_of(ready)
    try:
        return (await standing_of(database)).revision, sorted(await wrapped_under(database)), len(await list_partners(database))
    finally:
        await database.close()


async def _made_ready(ready: Settings) -> None:
    """Refuse a database that holds something, and make the roles that the dump speaks of. Raises BackupRefused."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - a fifth of the start of every command

    revision = ScriptDirectory(str(ROOT / "migrations")).get_revision("0001")
    assert revision is not None
    roles = revision.module
    database = as_it_logs_in(ready)
    try:
        async with database.transaction(None) as connection:
            tables = await connection.value(sa.text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
            if tables:
                raise BackupRefused("The database holds tables already: restore into an empty one.")
            await _check_alone(connection)
            for name, login in roles.ROLES.items():
                await connection.script(roles.create_role(name, f"{login} NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"))
            for name in roles.BYPASSING:
                await connection.script(roles.create_role(name, "NOLOGIN NOSUPERUSER BYPASSRLS", optional=True))
            there = await connection.rows(sa.text("SELECT rolname FROM pg_roles"))
            lacking = sorted(set(roles.BYPASSING) - {row["rolname"] for row in there})
            if lacking:
                raise BackupRefused(
                    f"The dump speaks of {' and '.join(lacking)}, which this login may not make. Let a superuser say: "
                    + " ".join(f"CREATE ROLE {name} NOLOGIN BYPASSRLS;" for name in lacking)
                )
            for role, name in (("CURRENT_USER", "current_user"), ("ipt_migrator", "'ipt_migrator'")):
                await connection.script(roles.owner_member(role, name))
            await connection.script("GRANT USAGE, CREATE ON SCHEMA public TO ipt_owner")
            await begin_restoring(connection)
            await connection.commit()
    finally:
        await database.close()


async def _closed(ready: Settings) -> None:
    """Let nobody open the database until it is reconciled. Raises BackupRefused while others are connected."""
    login, owner = as_it_logs_in(ready), owner_of(ready)
    try:
        async with login.transaction(None) as connection:
            await _check_alone(connection)
        if ((await standing_of(owner)).revision or "") >= NOTED_SINCE:
            async with owner.transaction(None) as connection:
                await forget_installation(connection)
                await connection.commit()
        else:
            async with login.transaction(None) as connection:
                await begin_restoring(connection)
                await connection.commit()
    finally:
        await login.close()
        await owner.close()


async def _opened(ready: Settings) -> None:
    """Note the database as the one that is served: the last step."""
    login, owner = as_it_logs_in(ready), owner_of(ready)
    try:
        async with owner.transaction(None) as connection:
            await note_installation(connection, datetime.now(UTC))
            await connection.commit()
        async with login.transaction(None) as connection:
            await end_restoring(connection)
            await connection.commit()
    finally:
        await login.close()
        await owner.close()


async def _check_alone(connection: Connection) -> None:
    number = await others_connected(connection)
    if number:
        raise BackupRefused(f"{number} other sessions are in this database: stop every API process and worker, and whatever else is connected.")


async def _reconciled(ready: Settings, ring: KeyRing, journals: Journals | None, doubtful: Doubtful | None) -> None:
    """Bring back what the database has forgotten, say what was done, and let it be opened. Without `journals`, close what they would have told."""
    now = datetime.now(UTC)
    owner = owner_of(ready)
    try:
        lacking = sorted(set(await wrapped_under(owner)) - ring.versions)
        if lacking:
            raise BackupRefused(f"Versions {', '.join(map(str, lacking))} of the key-encryption key are missing: without them it cannot be read.")
        await check_keys(owner, ring)
        partners = [row["partner_id"] for row in await list_partners(owner)]
        newest = await newest_change(owner.transaction, partners)
        console.print(f"The database ends at {newest.isoformat() if newest else 'nothing: it holds no change'}.")
        if journals is not None:
            await check_journals(owner.transaction, partners, journals)
        epoch = await raise_epochs(owner.transaction, partners, Journal(ready.restores_path, ring, RESTORES), journals, now)
        console.print(f"Epoch {epoch} for {len(partners)} partners: devices and followers start again.")
        if journals is None:
            closed = await privacy_caps.close_quarters(owner, now)
            console.print(f"{closed} quarters closed for further tables. Erase again whom the partners name: their certificates tell.")
        else:
            await _erased_again(owner, ring, now, journals, partners, doubtful)
            back = await bring_back(owner, journals.releases, now)
            console.print(f"{back} released tables brought back and charged.")
        await complete_journals(owner.transaction, partners, Journal(ready.journal_path, ring), Journal(ready.erasures_path, ring, ERASURES))
        await renew_signing_keys(owner, ring, now)
    finally:
        await owner.close()


async def _erased_again(owner: Database, ring: KeyRing, now: datetime, journals: Journals, partners: list[UUID], doubtful: Doubtful | None) -> None:
    """Erase again whom the journals name. Raises BackupRefused while nobody has decided on those of whom it is not clear."""
    visit_of = partial(_visit, ring, now)
    decided = doubtful is Doubtful.erase
    erased = await replay_erasures(owner.transaction, visit_of, commit_visit, journals.erasures, partners, also_doubtful=decided)
    console.print(f"{erased.again} people erased again.")
    for patient_id, why in erased.doubtful.items():
        console.print(f"{'Kept' if doubtful else 'Not clear'}: {patient_id}, {why}.")
    if erased.doubtful and doubtful is None:
        raise BackupRefused("Decide on those who are named above, and say --finish with --doubtful erase or --doubtful keep.")


def _visit(ring: KeyRing, now: datetime, connection: Connection, partner_id: UUID) -> Visit:
    return worker_visit(connection, ring, partner_id, now, use=RIGHTS)
