"""What the service said to PostgreSQL, as PostgreSQL wrote it down: to be said again by a reference, word for word.

`heard` switches the server's log of statements on for the service's roles, lets one request happen, and returns each transaction with its
statements and parameters, in order. `pgbench_script` turns transactions into a script in which what must be new is new each time.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.stage import Stage, numbered

ROLES = ("ipt_service", "ipt_audit")
LINE = re.compile(r"^\d{4}-\d\d-\d\d \S+ \S+ \[(\d+)\] (LOG|DETAIL):  (.*)$", re.DOTALL)
SAID = re.compile(r"^(?:statement|execute [^:]*): (.*)$", re.DOTALL)
PARAMETER = re.compile(r"\$(\d+) = (NULL|'(?:[^']|'')*')")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SETTLES_SECONDS = 0.4
SEQ = 2  # the number of the feed, among the parameters of a change
KEY_HASH = re.compile(r"\\x[0-9a-f]{64}")


@dataclass(slots=True)
class Said:
    """One statement: its text, its parameters as text by number."""

    sql: str
    parameters: dict[int, str | None] = field(default_factory=dict)


@dataclass(slots=True)
class Transaction:
    """What one connection said from BEGIN to its end."""

    role: str
    statements: list[Said]


async def listening(stage: Stage) -> None:
    """Let the server write down every statement of new connections of the service."""
    await stage.sql(
        *(f"ALTER ROLE {role} SET {name} = '{value}'" for role in ROLES for name, value in _LOGGED.items()),
        "SELECT 1",
    )


async def not_listening(stage: Stage) -> None:
    """Let it write down nothing any more."""
    await stage.sql(*(f"ALTER ROLE {role} RESET {name}" for role in ROLES for name in _LOGGED), "SELECT 1")


_LOGGED = {"log_statement": "all", "log_error_verbosity": "default", "log_parameter_max_length": "-1"}


def heard(log: Path, act: Callable[[], Any], *, of: str) -> list[Transaction]:
    """Do something, and return the transactions in which a text (an id) occurred, in the order of their beginning."""
    time.sleep(SETTLES_SECONDS)
    start = log.stat().st_size
    act()
    time.sleep(SETTLES_SECONDS)
    with log.open(encoding="utf-8") as file:
        file.seek(start)
        found = transactions(file.read())
    return [t for t in found if any(of in s.sql or of in (p or "") for s in t.statements for p in s.parameters.values())]


def transactions(text: str) -> list[Transaction]:
    """Read a log: the statements of each connection, cut into transactions."""
    entries: list[list[str]] = []
    for line in text.splitlines():
        match = LINE.match(line)
        if match:
            entries.append(list(match.groups()))
        elif entries:
            entries[-1][2] += "\n" + line.removeprefix("\t")
    open_ones: dict[str, Transaction] = {}
    last: dict[str, Said] = {}
    done: list[Transaction] = []
    for pid, kind, message in entries:
        said = SAID.match(message)
        if kind == "LOG" and said:
            statement = Said(said.group(1).strip().rstrip(";"))
            last[pid] = statement
            if statement.sql.startswith("BEGIN"):
                open_ones[pid] = Transaction("", [statement])
                done.append(open_ones[pid])
            elif pid in open_ones:
                open_ones[pid].statements.append(statement)
                if statement.sql.startswith(("COMMIT", "ROLLBACK")):
                    del open_ones[pid]
        elif kind == "DETAIL" and pid in last:
            last[pid].parameters = {int(n): None if value == "NULL" else value[1:-1].replace("''", "'") for n, value in PARAMETER.findall(message)}
    return done


def pgbench_script(found: Sequence[Transaction], number: int, courses: int) -> str:
    """Write transactions, heard of the numbered course `number`, as a pgbench script over `courses` numbered ones.

    Ids that the service made are new each time, numbers of the change feed come from the clock as they did, locks are of random keys;
    everything else is said as it was.
    """
    names = _Names(number, found[0].statements[0].sql)
    lines = [f"\\set e random(1, {courses})", "\\set n :n + 1", "\\set u (:run * 64 + :client_id) * 1000000 + :n"]
    for transaction in found:
        told = [int(t.parameters[SEQ] or 0) for t in transaction.statements if _tells(t)]
        for said in transaction.statements:
            seq = f"((:seq)::bigint - {max(told) - int(said.parameters[SEQ] or 0)})" if _tells(said) else None
            end = " \\gset" if "UPDATE change_clock" in said.sql else ";"
            lines.append(_filled(said, names, seq) + end)
    return "\n".join(lines) + "\n"


def _tells(said: Said) -> bool:
    return said.sql.startswith("INSERT INTO change ")


class _Names:
    """Which id stands for what."""

    def __init__(self, number: int, begin: str) -> None:
        partner_id = UUID.search(begin)
        assert partner_id
        self.known = {numbered(kind, number): f"('{numbered(kind, 0)[:24]}' || lpad((:e)::text, 12, '0'))" for kind in (1, 2)}
        self.known[partner_id.group()] = f"'{partner_id.group()}'"

    def of(self, value: str) -> str | None:
        """Return the expression of an id; a new one for one that was not seen before."""
        if value not in self.known and UUID.fullmatch(value):
            self.known[value] = f"('0a0000{len(self.known):02x}-0000-7000-8000-' || lpad((:u)::text, 12, '0'))"
        return self.known.get(value)


def _filled(said: Said, names: _Names, seq: str | None) -> str:
    """Return a statement with its parameters in their places."""

    def one(match: re.Match[str]) -> str:
        number = int(match.group(1))
        value = said.parameters.get(number)
        if seq is not None and number == SEQ:
            return seq
        if value is None:
            return "NULL"
        if "advisory" in said.sql:
            return ":u"
        if KEY_HASH.fullmatch(value) and "idempotency_key" in said.sql:
            return "decode(md5((:u)::text || '" + value[-4:] + "') || md5('x' || (:u)::text), 'hex')" if number == 2 else "'" + value + "'"
        return names.of(value) or "'" + value.replace("'", "''") + "'"

    return re.sub(r"\$(\d+)", one, said.sql.replace("\n", " "))
