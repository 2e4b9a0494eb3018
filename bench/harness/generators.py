"""What loads a server, and what each generator says of it.

It refuses to know what a server costs and how rounds are made.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import NamedTuple

from . import BENCH, Failed
from .check import upload
from .scenarios import KIB, Scenario
from .server import Places, Server

# From this size on wrk's count of requests is too coarse: those under way at its end count for
# nothing. Its bytes, divided by an answer's, are counted as they come.
COUNT_BYTES_FROM = 64 * KIB

WRK_LUA = """
local pipelined, closing, upload = {pipelined}, {closing}, "{upload}"
if closing then wrk.headers["Connection"] = "close" end
if #upload > 0 then wrk.method, wrk.body = "POST", upload end
if pipelined > 1 then
    local batch
    init = function() batch = string.rep(wrk.format(), pipelined) end
    request = function() return batch end
end
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format("RESULT %d %d %d %d\\n", summary.requests, summary.bytes,
        summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
    for _, p in ipairs({{50, 75, 90, 99, 99.9}}) do
        io.write(string.format("LATENCY %g %d\\n", p, latency:percentile(p)))
    end
    io.write(string.format("LATENCY 100 %d\\n", latency.max))
end
"""


class Load(NamedTuple):
    """What a generator saw."""

    requests: float
    errors: int
    rate: float  # requests per second
    latency_us: dict[str, float]  # by percentile; 100 is the longest


class Generator:
    """The generator of a scenario."""

    def __init__(self, scenario: Scenario, places: Places, seconds: int) -> None:
        self.seconds = seconds
        self.rate = 0.0  # open loop: requests per second
        self._scenario = scenario
        self._places = places
        self._script = places.scratch / "wrk.lua"
        text = WRK_LUA.format(
            pipelined=scenario.pipelined,
            closing=str(scenario.closing).lower(),
            upload=upload(scenario).decode(),
        )
        self._script.write_text(text)

    def run(self, server: Server, answer_bytes: int) -> Load:
        """Loads the server once, as the scenario says."""
        kinds = {"wrk": self.wrk, "ab": self._ab, "load": self._open_loop}
        load = kinds[self._scenario.generator](server, answer_bytes)
        if not server.runs():
            raise Failed(f"ended under load; it says: {server.last_words()}")
        if load.requests <= 0:
            raise Failed("answered nothing")
        return load

    def wrk(self, server: Server, answer_bytes: int = 0) -> Load:
        """A closed loop: as many requests as connections are under way."""
        scenario = self._scenario
        threads = scenario.workers
        command = ["wrk", f"-t{threads}", f"-c{scenario.connections}", f"-d{self.seconds}s"]
        command += ["--timeout", "30s", "-s", str(self._script), self._url(server)]
        output = self._output(command)
        figures = [line.split()[1:] for line in output.splitlines() if line.startswith("RESULT ")]
        if len(figures) != 1:
            raise Failed(f"wrk failed: {output}")
        count, received, duration_us, errors = (int(figure) for figure in figures[0])
        requests = received / answer_bytes if answer_bytes >= COUNT_BYTES_FROM else float(count)
        latency = {} if scenario.pipelined > 1 else {
            # wrk times a batch, then corrects it as if it were one request: no figure is better.
            percentile: float(us) for percentile, us in re.findall(r"LATENCY (\S+) (\d+)", output)
        }
        return Load(requests, errors, requests * 1e6 / duration_us, latency)

    def _ab(self, server: Server, _answer_bytes: int) -> Load:
        words = self._scenario.ab.format(seconds=self.seconds).split()
        output = self._output(["ab", "-q", *words, self._url(server)])

        def figure(pattern: str) -> float:
            found = re.search(pattern, output, re.MULTILINE)
            return float(found.group(1)) if found else 0.0

        requests = figure(r"^Complete requests:\s+(\d+)")
        seconds = figure(r"^Time taken for tests:\s+([\d.]+)")
        if not requests or not seconds:
            raise Failed(f"ab failed: {output.strip()}")
        errors = figure(r"^Failed requests:\s+(\d+)") + figure(r"^Non-2xx responses:\s+(\d+)")
        table = re.findall(r"^\s+(\d+)%\s+(\d+)", output, re.MULTILINE)
        latency = {percentile: float(ms) * 1000 for percentile, ms in table}
        return Load(requests, int(errors), requests / seconds, latency)

    def _open_loop(self, server: Server, _answer_bytes: int) -> Load:
        command = [str(self._places.binaries / "load"), "--target", self._url(server)]
        command += ["--connections", str(self._scenario.connections)]
        command += ["--rate", str(int(self.rate)), "--seconds", str(self.seconds)]
        output = self._output(command)
        try:
            figures = json.loads(output)
            answered = figures["sent"] - figures["errors"]
            keys = {"50": "p50_us", "99": "p99_us", "99.9": "p999_us", "100": "max_us"}
            latency = {percentile: float(figures[key]) for percentile, key in keys.items()}
            return Load(answered, figures["errors"], answered / self.seconds, latency)
        except (ValueError, KeyError) as error:
            raise Failed(f"load failed: {output.strip()}") from error

    def _url(self, server: Server) -> str:
        return f"http://127.0.0.1:{server.port}{self._scenario.path}"

    def _output(self, command: list[str]) -> str:
        """What a generator prints; it runs on its core, beside a server of two on both."""
        cores = self._places.cores[1:] if self._scenario.workers == 1 else self._places.cores
        pinned = ["taskset", "-c", ",".join(map(str, cores)), *command]
        limit = self.seconds + 60
        try:
            done = subprocess.run(
                pinned, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                timeout=limit,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{command[0]} did not end within {limit} s") from error
        return done.stdout


class IdleConnections:
    """Connections that say nothing after a request each, held by a process of their own."""

    def __init__(self, server: Server, scenario: Scenario) -> None:
        words = [sys.executable, "-m", "harness.idle", str(server.port), str(scenario.idle)]
        self._process = subprocess.Popen(
            words, cwd=BENCH, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )
        self._wanted = scenario.idle
        said = self._process.stdout.readline().split()
        if said != ["held", str(scenario.idle)]:
            self.stop()
            raise Failed(f"does not hold {scenario.idle} connections: {' '.join(said) or 'none'}")

    def lost(self) -> int:
        """How many the server has closed; ends them all."""
        left, _ = self._process.communicate("end\n", timeout=60)
        return self._wanted - int(left)

    def stop(self) -> None:
        """Ends it whatever it does."""
        self._process.kill()
        self._process.wait()

