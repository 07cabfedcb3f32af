"""The embedded PostgreSQL used when IPT_DATABASE_URL is not set.

One server per data folder, a direct child of the launcher: it listens on a private unix socket only, keeps its
durability on, and goes when its parent goes, however that ends. Nothing that exists is ever chmod-ed or chown-ed.
"""

import atexit
import ctypes
import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from app.binaries import OWN_ROOM, Account, Binaries, EmbeddedPostgresError, fitting_binaries, majors_in, reachable_folder, run_as

DATABASE = "ipt"
SUPERUSER = "ipt_admin"
ROOM_NOTE = "database-folder"
LONGEST_SOCKET_PATH = 100  # the kernel's limit is 107 bytes, the file name included
ACCOUNTS = ("postgres", "nobody")  # who runs the server when root starts it; the first that exists
START_WITHIN_SECONDS = 30.0
STOP_WITHIN_SECONDS = 20.0
LOCK_WAIT_SECONDS = 10.0


class EmbeddedPostgres:
    """A running server. `url(role)` gives addresses; `stop()` ends it and waits for its end."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path, data: Path, lock: int, major: int) -> None:
        self.process = process
        self.socket = socket
        self.data = data
        self.major = major
        self._lock = lock

    def url(self, role: str = SUPERUSER, database: str = DATABASE) -> str:
        """Return the SQLAlchemy address of `database` for a login of this private socket."""
        return address(self.socket, role, database)

    def stop(self) -> None:
        """Shut down fast (sessions are ended, nothing committed is lost) and wait. Calling it twice is harmless."""
        atexit.unregister(self.stop)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def start(home: Path, *, prefer: str = "auto", account: str | None = None, durable: bool = True) -> EmbeddedPostgres:
    """Start the server of this home folder and return it once it answers. Call it from the main thread.

    Raises EmbeddedPostgresError with a sentence for the person at the keyboard.
    """
    home = _made(home)
    person = _account(account)
    room = _room(home, person)
    found = fitting_binaries(room, prefer)
    binaries = Binaries(reachable_folder(found.folder, person), found.major)
    lock = _locked(room)
    try:
        data = room / f"pgdata-{binaries.major}"
        if not (data / "PG_VERSION").exists():
            _initialise(binaries, data, person)
        socket = _socket_folder(room, person)
        _remove_dead_locks(data / "postmaster.pid", socket / ".s.PGSQL.5432.lock")
        process = _spawn(binaries, data, socket, person, lock, durable=durable)
        server = EmbeddedPostgres(process, socket, data, lock, binaries.major)
        atexit.register(server.stop)
        _wait_until_ready(server, binaries, person)
    except BaseException:
        os.close(lock)
        raise
    _create_database(server, binaries, person)
    return server


def attach(home: Path, *, account: str | None = None) -> str | None:
    """Return the superuser's address of the server that another process runs on this home, or None."""
    home = home.absolute().resolve()
    person = _account(account)
    room = home if person is None else _noted_room(home)
    if room is None:
        return None
    try:
        holder = (room / "server.lock").read_text(encoding="utf-8")
    except OSError:
        return None
    if not _alive(holder):
        return None
    return address(_socket_folder(room, person))


def is_made(home: Path) -> bool:
    """Tell whether this home has a database, of whichever release of PostgreSQL."""
    return any(majors_in(room) for room in (home, _noted_room(home)) if room is not None)


def address(socket: Path, role: str = SUPERUSER, database: str = DATABASE) -> str:
    """Return the SQLAlchemy address of a database behind a private socket."""
    return f"postgresql+asyncpg://{role}@/{quote(database)}?host={quote(str(socket), safe='')}"


def _made(home: Path) -> Path:
    home = home.absolute()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home.resolve()


def _account(wanted: str | None) -> Account | None:
    """Choose the unprivileged account; None unless root is asking (postgres refuses to run as root)."""
    if os.geteuid() != 0:
        return None
    for name in (wanted,) if wanted else ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    message = f"PostgreSQL does not run as root, and no account {wanted or ' or '.join(ACCOUNTS)} exists: name one in IPT_EMBEDDED_ACCOUNT."
    raise EmbeddedPostgresError(message)


def _room(home: Path, person: Account | None) -> Path:
    """Return the folder of data and lock: the home, or as root a room under /var/lib/ipt that the home's note names.

    Root's home folders are closed to the account that runs the server, and opening them is not ours to do.
    """
    if person is None:
        return home
    if not OWN_ROOM.exists():
        OWN_ROOM.mkdir(mode=0o755, parents=True)
        OWN_ROOM.chmod(0o755)
    room = _noted_room(home)
    if room is None or not room.is_dir():
        room = Path(tempfile.mkdtemp(prefix="home-", dir=OWN_ROOM))
        os.chown(room, person.uid, person.gid)
        (room / "home").write_text(f"{home}\n", encoding="utf-8")
        note = home / ROOM_NOTE
        half = home / f"{ROOM_NOTE}.{os.getpid()}"
        half.write_text(f"{room}\n", encoding="utf-8")
        half.rename(note)
    return room


def _noted_room(home: Path) -> Path | None:
    """Return the room that this home's note names: a home that was deleted and made anew starts with an empty room."""
    try:
        room = Path((home / ROOM_NOTE).read_text(encoding="utf-8").strip())
    except OSError:
        return None
    return room if room.parent == OWN_ROOM else None


def _locked(room: Path) -> int:
    """Take the data folder's lock. The server inherits it, so it is held for as long as either lives."""
    lock = os.open(room / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(lock, 100, 0).decode() or "unknown"
            if _alive(holder) or time.monotonic() > deadline:
                os.close(lock)
                message = f"The database in {room} is in use already, by process {holder}. Stop it, or name another folder in IPT_HOME."
                raise EmbeddedPostgresError(message) from None
            time.sleep(0.05)  # the launcher is gone and its server is shutting down
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _alive(holder: str) -> bool:
    """Tell whether a process lives; a zombie does not."""
    if not holder.isdigit():
        return False
    try:
        os.kill(int(holder), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(int(holder))


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def _remove_dead_locks(*files: Path) -> None:
    """Remove lock files whose process is a zombie: PostgreSQL itself takes a zombie for a running server."""
    for file in files:
        if file.exists():
            first = file.read_text(encoding="utf-8").partition("\n")[0].strip()
            if first.isdigit() and _is_zombie(int(first)):
                file.unlink()


def _initialise(binaries: Binaries, data: Path, person: Account | None) -> None:
    """Make the cluster beside its place and rename it, so that a killed launcher leaves no half of one."""
    half = data.with_name(f"{data.name}.new")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(mode=0o700)
    if person is not None:
        os.chown(half, person.uid, person.gid)
    command: list[str | Path] = [
        binaries.folder / "initdb",
        "-D",
        half,
        "-A",
        "trust",
        "-U",
        SUPERUSER,
        "--encoding=UTF8",
        "--locale=C",
        "--no-instructions",
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=False, **run_as(person))  # noqa: S603
    if made.returncode != 0:
        raise EmbeddedPostgresError(f"initdb failed: {made.stderr.strip() or made.stdout.strip()}")
    half.rename(data)


def _socket_folder(room: Path, person: Account | None) -> Path:
    """Return a private folder for the socket: in the room, or under the temporary folder when the path is too long."""
    socket = room / "socket"
    if len(os.fsencode(str(socket / ".s.PGSQL.5432"))) > LONGEST_SOCKET_PATH:
        name = hashlib.sha256(str(room).encode()).hexdigest()[:16]
        socket = Path(tempfile.gettempdir()) / f"ipt-{os.geteuid()}-{name}"
    if not socket.exists():
        socket.mkdir(mode=0o700)
        if person is not None:
            os.chown(socket, person.uid, person.gid)
    found = socket.lstat()
    if found.st_uid != (person.uid if person else os.geteuid()) or found.st_mode & 0o077 or socket.is_symlink():
        raise EmbeddedPostgresError(f"{socket} is not a private folder of the account that runs the server: remove it.")
    return socket


def _spawn(binaries: Binaries, data: Path, socket: Path, person: Account | None, lock: int, *, durable: bool) -> subprocess.Popen[bytes]:
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(socket).replace('"', '""').join('""'),
        "unix_socket_permissions": "0700",
        "fsync": "on" if durable else "off",
        "synchronous_commit": "on" if durable else "off",
        "full_page_writes": "on" if durable else "off",
        "max_connections": "200",
        "logging_collector": "off",
        "log_min_messages": "warning",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
    }
    command: list[str | Path] = [binaries.folder / "postgres", "-D", data]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    with (data.parent / "postgres.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            pass_fds=(lock,),
            preexec_fn=_die_with_parent(os.getpid()),  # noqa: PLW1509 - one thread so far; see start()
            **run_as(person),
        )


def _die_with_parent(parent: int):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a closure for preexec_fn
    """Ask Linux to shut the server down fast when its parent dies, even of SIGKILL. Runs after the change of user."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    set_parent_death_signal = 1

    def ask() -> None:
        prctl(set_parent_death_signal, int(signal.SIGINT))
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _wait_until_ready(server: EmbeddedPostgres, binaries: Binaries, person: Account | None) -> None:
    deadline = time.monotonic() + START_WITHIN_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            tail = (server.data.parent / "postgres.log").read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
            raise EmbeddedPostgresError(f"PostgreSQL did not start: {' | '.join(tail)}")
        if _query(server, binaries, person, "SELECT 1", "postgres") == "1":
            return
        time.sleep(0.03)
    server.stop()
    raise EmbeddedPostgresError(f"PostgreSQL did not answer within {START_WITHIN_SECONDS:.0f} s; see {server.data.parent / 'postgres.log'}")


def _create_database(server: EmbeddedPostgres, binaries: Binaries, person: Account | None) -> None:
    if _query(server, binaries, person, "SELECT 1 FROM pg_database WHERE datname = 'ipt'", "postgres") != "1":
        _query(server, binaries, person, f"CREATE DATABASE {DATABASE}", "postgres")


def _query(server: EmbeddedPostgres, binaries: Binaries, person: Account | None, sql: str, database: str) -> str | None:
    """Run one statement by the server's own psql; None when it fails."""
    command: list[str | Path] = [binaries.folder / "psql", "-h", server.socket, "-U", SUPERUSER, "-d", database, "-Atqc", sql]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **run_as(person))  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else None
