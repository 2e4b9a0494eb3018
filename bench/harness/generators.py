"""Load generators: how they are run, and how their output is read."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Callable, NamedTuple

from . import Failed
from .check import upload
from .programs import last_line, run
from .scenarios import KIB, MIB, Scenario
from .server import Places, Server

# From this size on requests are counted by bytes: the received bytes divided by the length of a
# response. wrk's own count is too coarse, because it leaves out the responses in flight at its end.
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
    """The measurements of a generator."""

    requests: float
    errors: int
    rate: float  # requests per second
    latency_us: dict[str, float]  # by percentile; 100 is the longest
    beside_mib: float = 0.0  # MiB downloaded meanwhile


class Generator:
    """The generator of a scenario."""

    def __init__(self, scenario: Scenario, places: Places, seconds: int) -> None:
        self.seconds = seconds
        self.rate = 0.0  # open loop: requests per second
        self._beside = False
        self._connections = scenario.connections
        self._scenario = scenario
        self._places = places
        self._script = places.scratch / "wrk.lua"
        text = WRK_LUA.format(
            pipelined=scenario.pipelined,
            closing=str(scenario.closing).lower(),
            upload=upload(scenario).decode(),
        )
        self._script.write_text(text)

    def run(
        self, server: Server, answer_bytes: int, *, beside: bool = False, connections: int = 0
    ) -> Load:
        """Loads the server once as the scenario says; `beside` adds a download meanwhile.

        wrk opens the scenario's number of connections unless another is given.
        """
        kinds: dict[str, Callable[[Server, int], Load]] = {
            "wrk": self.wrk,
            "ab": self._ab,
            "load": self._open_loop,
        }
        self._beside = beside
        self._connections = connections or self._scenario.connections
        load = kinds[self._scenario.generator](server, answer_bytes)
        if not server.runs():
            raise Failed(f"exited under load {server.end()}; its output: {server.last_output()}")
        if load.requests <= 0:
            raise Failed("has answered no request")
        return load

    def wrk(self, server: Server, answer_bytes: int = 0) -> Load:
        """Runs wrk, a closed loop: each connection sends a request when it has a response."""
        scenario = self._scenario
        command = ["wrk", f"-t{scenario.threads}", f"-c{self._connections}"]
        command += [f"-d{self.seconds}s", "--timeout", "30s", "-s", str(self._script)]
        command.append(url(server, scenario))
        output = self._output(command)
        figures = [line.split()[1:] for line in output.splitlines() if line.startswith("RESULT ")]
        if len(figures) != 1:
            raise Failed(f"wrk failed: {last_line(output)}")
        count, received, duration_us, errors = (int(figure) for figure in figures[0])
        requests = received / answer_bytes if answer_bytes >= COUNT_BYTES_FROM else float(count)
        latency: dict[str, float] = {}
        # wrk measures the latency of a pipelined batch, but corrects it as if it were one request.
        # Such a figure would be wrong, so there is none.
        if scenario.pipelined == 1 and count > 0:
            found = re.findall(r"LATENCY (\S+) (\d+)", output)
            latency = {percentile: float(us) for percentile, us in found}
        return Load(requests, errors, requests * 1e6 / duration_us, latency)

    def _ab(self, server: Server, _answer_bytes: int) -> Load:
        scenario = self._scenario
        words = scenario.ab.format(seconds=self.seconds).split()
        output = self._output(["ab", "-q", *words, url(server, scenario)])

        def figure(pattern: str) -> float:
            found = re.search(pattern, output, re.MULTILINE)
            return float(found.group(1)) if found else 0.0

        requests = figure(r"^Complete requests:\s+(\d+)")
        seconds = figure(r"^Time taken for tests:\s+([\d.]+)")
        if not requests or not seconds:
            raise Failed(f"ab failed: {last_line(output)}")
        errors = figure(r"^Failed requests:\s+(\d+)") + figure(r"^Non-2xx responses:\s+(\d+)")
        table = re.findall(r"^\s+(\d+)%\s+(\d+)", output, re.MULTILINE)
        latency = {percentile: float(ms) * 1000 for percentile, ms in table}
        return Load(requests, int(errors), requests / seconds, latency)

    def _open_loop(self, server: Server, _answer_bytes: int) -> Load:
        scenario = self._scenario
        command = [str(self._places.binaries / "load"), "--target", url(server, scenario)]
        command += ["--connections", str(scenario.connections)]
        command += ["--rate", str(int(self.rate)), "--seconds", str(self.seconds)]
        if self._beside:
            drop_from_memory(self._places.site / scenario.cold)
            command += ["--beside", f"http://127.0.0.1:{server.port}/{scenario.cold}"]
        output = self._output(command)
        try:
            # The result is the last line. The first error may be printed before it.
            figures = json.loads(last_line(output))
            keys = {"50": "p50_us", "90": "p90_us", "99": "p99_us", "99.9": "p999_us"}
            keys["100"] = "max_us"
            latency = {percentile: float(figures[key]) for percentile, key in keys.items()}
            rate = figures["answered"] / self.seconds
            mib = figures["beside_bytes"] / MIB
            return Load(figures["answered"], figures["errors"], rate, latency, mib)
        except (ValueError, KeyError) as error:
            raise Failed(f"load failed: {last_line(output)}") from error

    def _output(self, command: list[str]) -> str:
        """The output of a generator. It runs on its core, with several threads on both cores."""
        cores = self._places.cores[1:] if self._scenario.threads == 1 else self._places.cores
        pinned = ["taskset", "-c", ",".join(map(str, cores)), *command]
        _, output = run(pinned, seconds=self.seconds + 60)
        return output


class IdleConnections:
    """Connections that are idle after one request each, held by a process of their own."""

    def __init__(self, server: Server, scenario: Scenario, places: Places) -> None:
        words = ["setsid", str(places.binaries / "load"), "--target", url(server, scenario)]
        words += ["--idle", str(scenario.idle)]
        self._wanted = scenario.idle
        self._process = subprocess.Popen(words, stdin=PIPE, stdout=PIPE, stderr=STDOUT, text=True)
        line = self._process.stdout.readline().strip() if self._process.stdout else ""
        if line != f"ready {scenario.idle}":
            self.stop()
            raise Failed(f"does not hold {scenario.idle} connections: {line}")

    def check(self) -> None:
        """Fails unless `load` still holds them."""
        if self._process.poll() is not None:
            raise Failed("lost its idle connections: load exited too early")

    def lost(self) -> int:
        """Closes all of them; returns how many the server had closed before."""
        output, _ = self._process.communicate(timeout=60)
        found = re.search(r"^held (\d+)$", output, re.MULTILINE)
        if not found:
            raise Failed(f"lost its idle connections: load: {output.strip()}")
        return self._wanted - int(found.group(1))

    def stop(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.wait()


def drop_from_memory(file: Path) -> None:
    """Drops a file from the page cache, so that the next reader waits for the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def url(server: Server, scenario: Scenario) -> str:
    """The requested URL."""
    return f"http://127.0.0.1:{server.port}{scenario.path}"
