"""Runs one scenario: starts all contenders, measures them in turn, stops them."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import sys
import time
from pathlib import Path
from typing import Mapping, NamedTuple

from . import Failed
from .check import calls, check, check_calls
from .contenders import Contender
from .generators import Generator, IdleConnections, Load, drop_from_memory
from .machine import open_files
from .ratios import TWIN, Sample, Samples
from .scenarios import ALONE, BODY, COLD_BYTES, FILES, MIB, Scenario
from .server import Places, Server

OTHER_FILES = 1000  # descriptors that a server needs besides its idle connections

# The kinds of contenders without which a scenario is useless. If one fails, the scenario fails.
VITAL = ("coring", "floor")


class Outcome(NamedTuple):
    """The measurements of a scenario."""

    samples: Samples
    answer_bytes: dict[str, int]  # the length of a response
    failed: dict[str, str]  # contenders that failed and were left out, each with the reason
    counters: dict[str, dict[str, int]]  # coring's own counters
    idle_bytes: dict[str, float]  # memory for each idle connection
    beside_mib: dict[str, list[float]]  # MiB downloaded meanwhile, for each sample
    rate: float  # open loop: requests per second that were due


class Progress:
    """Shows the progress of a run: a bar on a terminal, else a line for each 5 %."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._printed = 0
        self._started = time.monotonic()

    def step(self, label: str, count: int = 1) -> None:
        """Counts measurements that were made, or that will not be made."""
        self._done = min(self._done + count, self._total)
        passed = time.monotonic() - self._started
        left = int(passed / max(self._done, 1) * (self._total - self._done))
        text = f"{left // 60} min {left % 60:02} s left"
        if sys.stderr.isatty():
            hashes = ("#" * (30 * self._done // self._total)).ljust(30, ".")
            print(f"\r[{hashes}] {text}  {label}\x1b[K", end="", file=sys.stderr, flush=True)
        elif 20 * self._done // self._total > self._printed:
            self._printed = 20 * self._done // self._total
            print(f"{5 * self._printed} %, {text}, {label}", file=sys.stderr, flush=True)

    @staticmethod
    def clear() -> None:
        """Removes the bar, so that a line can be printed."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def make_site(site: Path) -> None:
    """Creates the folder that the static scenarios serve. Its index.html is the page of `hello`."""
    site.mkdir()
    (site / "index.html").write_bytes(BODY)
    for name, size in FILES.items():
        (site / name).write_bytes(random.Random(size).randbytes(size))


def make_cold(file: Path) -> None:
    """Creates a file on a disk, and checks that it can be dropped from the page cache."""
    with open(file, "xb") as out:
        block = random.Random(COLD_BYTES).randbytes(MIB)
        for _ in range(COLD_BYTES // MIB):
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    drop_from_memory(file)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        # RWF_NOWAIT reads from the page cache only, and fails with EAGAIN otherwise.
        os.preadv(descriptor, [bytearray(1)], COLD_BYTES // 2, os.RWF_NOWAIT)
    except BlockingIOError:
        return
    except OSError as error:
        raise Failed(f"cannot check whether {file} is in the page cache: {error}") from error
    finally:
        os.close(descriptor)
    raise Failed(f"{file} stays in the page cache: set TMPDIR to a folder on a disk")


class Round:
    """The servers of one scenario. All of them run for its whole length."""

    def __init__(self, scenario: Scenario, places: Places, seconds: int) -> None:
        self._scenario = scenario
        self._places = places
        self._generator = Generator(scenario, places, seconds)
        self._servers: list[Server] = []
        self._idle: dict[str, IdleConnections] = {}
        self._answer_bytes: dict[str, int] = {}
        self._failed: dict[str, str] = {}
        self._idle_bytes: dict[str, float] = {}
        self._beside_mib: dict[str, list[float]] = {}
        self._counters: dict[str, dict[str, int]] = {}

    def run(
        self, contenders: Mapping[str, Contender], rounds: int, warm_up: int, progress: Progress
    ) -> Outcome:
        """Starts and checks all contenders, measures them in turn, stops all."""
        needed, allowed = self._scenario.idle + OTHER_FILES, open_files()
        if needed > allowed:
            raise Failed(f"needs {needed} open files, {allowed} are allowed (ulimit -Hn)")
        with contextlib.ExitStack() as stack:
            if self._scenario.cold:
                file = self._places.site / self._scenario.cold
                stack.callback(file.unlink, missing_ok=True)
                make_cold(file)
            self._start_all(contenders, stack)
            if self._scenario.load:
                self._saturate()
            samples: Samples = {server.name: [] for server in self._servers}
            for index in range(warm_up + rounds):
                order = list(self._servers)
                random.shuffle(order)
                progress.step("", len(contenders) - len(order))  # contenders that were left out
                for server in order:
                    progress.step(server.name)
                    self._measure(server, samples, keep=index >= warm_up)
            self._count_lost(samples)
        for server in self._servers:
            if server.contender.kind == "coring":
                self._counters[server.name] = server.counters()
        return Outcome(
            {name: found for name, found in samples.items() if found},
            self._answer_bytes,
            self._failed,
            self._counters,
            self._idle_bytes,
            self._beside_mib,
            self._generator.rate,
        )

    def _start_all(self, contenders: Mapping[str, Contender], stack: contextlib.ExitStack) -> None:
        response = ""
        for name, contender in contenders.items():
            server = Server(name, contender, self._scenario, self._places)
            stack.callback(server.stop)
            try:
                server.start(response if contender.kind == "floor" else "")
                exact = check(server, self._scenario, self._places.site)
                if self._scenario.idle and not name.endswith(ALONE):
                    self._hold_idle(server, stack)
            except Failed as failure:
                self._leave_out(server, failure)
                continue
            self._servers.append(server)
            self._answer_bytes[name] = len(exact)
            if self._scenario.cold:
                self._answer_bytes[name + ALONE] = len(exact)
            if name == "coring":
                file = self._places.scratch / "response"
                file.write_bytes(exact)
                response = f"--response-file {shlex.quote(str(file))}"
            if contender.kind == "floor" and response:
                self._check_length(name)

    def _check_length(self, name: str) -> None:
        """Fails unless the floor's response is as long as coring's."""
        ours, theirs = self._answer_bytes["coring"], self._answer_bytes[name]
        if ours != theirs:
            raise Failed(f"{name} responds with {theirs} bytes, coring with {ours}")

    def _hold_idle(self, server: Server, stack: contextlib.ExitStack) -> None:
        before = server.pss_kib()
        held = IdleConnections(server, self._scenario, self._places)
        stack.callback(held.stop)
        self._idle[server.name] = held
        grown = (server.pss_kib() - before) * 1024
        self._idle_bytes[server.name] = grown / self._scenario.idle

    def _leave_out(self, server: Server, failure: Failed) -> None:
        if server.contender.kind in VITAL:
            raise Failed(f"{server.name} {failure}") from failure
        server.stop()
        self._failed[server.name] = str(failure)
        Progress.clear()
        print(f"LEFT OUT: {server.name} {failure}", file=sys.stderr)

    def _saturate(self) -> None:
        """Sets the rate of the open loop, by saturating each contender."""
        rates = [self._generator.wrk(server).rate for server in self._servers]
        self._generator.rate = min(rates) * self._scenario.load

    def _measure(self, server: Server, samples: Samples, *, keep: bool) -> None:
        try:
            server.empty_access_log()
            if server.name in self._idle:
                self._idle[server.name].check()
            taken = self._samples(server)
        except Failed as failure:
            self._servers.remove(server)
            for name in (server.name, server.name + ALONE):
                samples.pop(name, None)
            self._leave_out(server, failure)
            return
        for name, one in taken.items() if keep else ():
            samples.setdefault(name, []).append(one)

    def _samples(self, server: Server) -> dict[str, Sample]:
        """Takes one sample; with a download meanwhile, one beside it and one without it."""
        if not self._scenario.cold:
            return {server.name: self._sample(server)}
        names = random.sample((server.name, server.name + ALONE), 2)
        return {name: self._sample(server, beside=name == server.name) for name in names}

    def _sample(self, server: Server, *, beside: bool = False) -> Sample:
        """Loads the server once, and measures its CPU time and memory."""
        load, cpu_us = self._load(server, beside=beside)
        pss_kib = server.pss_kib()
        if beside:
            self._beside_mib.setdefault(server.name, []).append(load.beside_mib)
        sample = Sample(load.requests, load.errors, cpu_us, load.rate, load.latency_us, pss_kib, {})
        for connections in self._scenario.fewer:
            load, _ = self._load(server, connections=connections)
            sample.fewer_us[str(connections)] = load.latency_us["50"]
            sample = sample._replace(errors=sample.errors + load.errors)
        return sample

    def _load(
        self, server: Server, *, beside: bool = False, connections: int = 0
    ) -> tuple[Load, float]:
        """Loads the server once. Also returns its CPU time per request in µs.

        Fails unless a Python application counts as many calls as the generator counts responses.
        """
        counts = server.contender.application and self._scenario.task == "hello"
        called = calls(server) if counts else 0
        before = server.cpu_ns()
        answer_bytes = self._answer_bytes[server.name]
        load = self._generator.run(server, answer_bytes, beside=beside, connections=connections)
        server.check_access_log(load.requests)
        cpu_us = server.cpu_ns_since(before) / 1e3 / load.requests
        if counts:
            most = connections or self._scenario.connections
            check_calls(calls(server) - called, load.requests, most)
        return load, cpu_us

    def _count_lost(self, samples: Samples) -> None:
        """Adds the idle connections that a server has closed to the errors of its last round."""
        for name in set(self._idle) & set(samples):
            lost = self._idle[name].lost()
            last = samples[name][-1]
            samples[name][-1] = last._replace(errors=last.errors + lost)


def with_twin(contenders: Mapping[str, Contender], twin: str) -> dict[str, Contender]:
    """The contenders, and a second instance of `twin`, which shows the noise."""
    if twin not in contenders:
        return dict(contenders)
    return {**contenders, twin + TWIN: contenders[twin]}


def with_alone(contenders: Mapping[str, Contender]) -> dict[str, Contender]:
    """The contenders, each followed by an instance of it without idle connections."""
    return {each: one for name, one in contenders.items() for each in (name, name + ALONE)}
