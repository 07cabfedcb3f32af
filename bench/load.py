"""The two load tools, and their figures: wrk over HTTP, pgbench on the database."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

CONNECTIONS = 16
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
NEEDED = {"wrk": "wrk", "pgbench": "postgresql-contrib"}


@dataclass(frozen=True, slots=True)
class Measured:
    """Operations a second; the latency's percentiles in milliseconds, where the tool knows them."""

    per_second: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    bad: int = 0
    statuses: dict[str, int] = field(default_factory=dict)


def check_tools() -> None:
    """Stop with a sentence when a load tool is missing."""
    missing = [package for tool, package in NEEDED.items() if shutil.which(tool) is None]
    if missing:
        raise SystemExit(f"The load tools are missing. On Debian: apt-get install {' '.join(missing)}")


def drive(
    address: str, requests: Sequence[tuple[str, str, str]], headers: dict[str, str], *, seconds: float, connections: int = CONNECTIONS
) -> Measured:
    """Drive an address with wrk: the requests (method, path, body) in turn, each with the headers. `$KEY` in a header is new each time.

    Raises RuntimeError when an answer was not a success.
    """
    with tempfile.TemporaryDirectory() as folder:
        script, spec = Path(folder, "drive.lua"), Path(folder, "requests.tsv")
        spec.write_text("\n".join("\t".join(r) for r in requests) + "\n")
        script.write_text(_script(spec, headers))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s", "-s", str(script), address]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.partition("FIGURES ")[2].splitlines()[0])
    measured = Measured(figures["requests"] / figures["seconds"], figures["p50"], figures["p99"], figures["bad"])
    if measured.bad:
        raise RuntimeError(f"{measured.bad} answers of {address} were no success: {done.stdout}")
    return measured


def _script(spec: Path, headers: dict[str, str]) -> str:
    lines = "\n".join(f'  ["{name}"] = "{value}",' for name, value in headers.items())
    seed = int.from_bytes(os.urandom(4))
    return f"""
local wanted, n = {{}}, {seed} % 1000
for line in io.lines("{spec}") do
  local method, path, body = line:match("([^\\t]*)\\t([^\\t]*)\\t(.*)")
  wanted[#wanted + 1] = {{method, path, body}}
end
local fixed = {{
{lines}
}}
request = function()
  n = n + 1
  local r = wanted[n % #wanted + 1]
  local own = {{}}
  for name, value in pairs(fixed) do own[name] = value:gsub("%$KEY", "{seed}-" .. n) end
  if r[3] == "" then return wrk.format(r[1], r[2], own) end
  return wrk.format(r[1], r[2], own, (r[3]:gsub("%$KEY", "{seed}-" .. n)))
end
done = function(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  print(string.format('FIGURES {{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "bad": %d}}', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, bad))
end
"""


def pgbench(url: str, script: str, *, seconds: float, clients: int = 8, run: int = 0) -> Measured:
    """Run a script of statements under pgbench, prepared. Raises RuntimeError when a transaction failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "script.sql")
        file.write_text(script)
        if os.geteuid() == 0:  # the socket of the embedded server is its account's own, and root may use it
            Path(folder).chmod(0o755)
        threads = min(2, clients)
        command = ["pgbench", "-n", "-M", "prepared", f"-c{clients}", f"-j{threads}", f"-T{seconds:.0f}", "-D", "n=0", "-D", f"run={run}"]
        done = subprocess.run([*command, "-f", str(file), url], capture_output=True, text=True, check=False)
    if done.returncode != 0 or "ERROR" in done.stderr:
        raise RuntimeError(done.stderr[-2000:])
    tps = float(re.search(r"tps = ([\d.]+) \(without", done.stdout).group(1))  # type: ignore[union-attr]
    latency = float(re.search(r"latency average = ([\d.]+) ms", done.stdout).group(1))  # type: ignore[union-attr]
    return Measured(tps, latency)
