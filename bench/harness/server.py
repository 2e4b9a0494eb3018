"""A server process: it runs for a whole scenario, and its CPU time and memory are measured."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path
from string import Template
from subprocess import DEVNULL, STDOUT
from typing import Iterator, NamedTuple

from . import BENCH, Failed
from .contenders import APPLICATIONS, Contender
from .machine import open_files
from .scenarios import Scenario

START_SECONDS = 15
STOP_SECONDS = 5
LINE_BYTES_MIN = 60  # the shortest line of an access log
MEMORY = Path("/dev/shm")
CONNECTIONS_MAX = 12_000  # the most connections that a scenario opens, with some room


class Places(NamedTuple):
    """The folders that a run uses, and its cores."""

    binaries: Path  # coring, the floors and load
    peers: Path
    python: Path  # the interpreter of the virtual environment
    site: Path
    scratch: Path
    cores: tuple[int, int]  # the server's and the generator's


class Server:
    """An instance of a contender, on a port of its own."""

    def __init__(self, name: str, contender: Contender, scenario: Scenario, places: Places) -> None:
        self.name = name
        self.contender = contender
        self.port = free_port()
        self.log = places.scratch / f"{name}.log"
        # In memory if possible, so that the disk's speed does not matter.
        folder = MEMORY if MEMORY.is_dir() else places.scratch
        self._access_log = folder / f"coring-bench-{os.getpid()}-{name}.access.log"
        self._scenario = scenario
        self._places = places
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, response: str) -> None:
        """Starts it on its core and waits until it listens.

        `response` is the argument that gives a floor the bytes of its response.
        """
        workers = self._scenario.workers
        cores = ",".join(str(core) for core in self._places.cores[:workers])
        application = APPLICATIONS.get(self.contender.application)
        log = shlex.quote(str(self._access_log)) if self._scenario.logs else "off"
        command = self.contender.commands[self._scenario.task].format(
            bin=shlex.quote(str(self._places.binaries)),
            peers=shlex.quote(str(self._places.peers)),
            python=shlex.quote(str(self._places.python)),
            apps=shlex.quote(str(BENCH / "apps")),
            site=shlex.quote(str(self._places.site)),
            config=shlex.quote(str(self._configure())),
            module=application.module if application else "",
            interface=application.interface if application else "",
            port=self.port,
            workers=workers,
            response=response,
            log=f"--access-log={log}",
        )
        # In a session of its own, so that it is killed with all its children, and a terminal's
        # Ctrl-C does not reach it.
        words = ["setsid", "taskset", "-c", cores, *shlex.split(command)]
        with open(self.log, "wb") as out:
            self._process = subprocess.Popen(words, stdin=DEVNULL, stdout=out, stderr=STDOUT)
        self._wait_until_listening()

    def _configure(self) -> Path:
        """Writes its configuration with the fields filled in; creates a folder for its files."""
        if not self.contender.config:
            return Path("/dev/null")
        directory = self._places.scratch / self.name
        directory.mkdir(exist_ok=True)
        workers, logs = self._scenario.workers, self._scenario.logs
        template = Template((BENCH / "configs" / self.contender.config).read_text())
        text = template.substitute(
            directory=directory,
            port=self.port,
            site=self._places.site,
            line=self.contender.line,
            workers=workers,
            connections=CONNECTIONS_MAX,
            open_files=open_files(),
            # Buffered, as coring's access log is. Else nginx would write each line by itself.
            access_log=f"{self._access_log} combined buffer=64k flush=1s" if logs else "off",
            # With 0 workers lighttpd is one process that serves. 1 would only add a supervisor.
            lighttpd_workers=workers if workers > 1 else 0,
            # Else they would drop root, and could no longer read the site.
            user_line=self._user_line() if os.geteuid() == 0 else "",
        )
        file = self._places.scratch / f"{self.name}.conf"
        file.write_text(text)
        return file

    def _user_line(self) -> str:
        return {"nginx": "user root;", "h2o": "user: root"}.get(self.contender.program, "")

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.runs():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.02)
        raise Failed(f"does not listen; its output: {self.last_output()}")

    def runs(self) -> bool:
        """Whether the process is still running."""
        return self._process is not None and self._process.poll() is None

    def empty_access_log(self) -> None:
        """Truncates the access log, if the scenario has one. Servers open it with O_APPEND."""
        if self._scenario.logs:
            if not self._access_log.exists():
                raise Failed("writes no access log")
            os.truncate(self._access_log, 0)

    def check_access_log(self, requests: float) -> None:
        """Fails unless the access log has about a line for each request."""
        if self._scenario.logs:
            time.sleep(1.2)  # servers flush their buffers after at most 1 s
            written = self._access_log.stat().st_size
            if written < requests * LINE_BYTES_MIN:
                raise Failed(f"has logged {written} bytes for {requests:.0f} requests")

    def end(self) -> str:
        """How the process ended."""
        status = self._process.poll() if self._process else None
        return f"by signal {-status}" if status and status < 0 else f"with status {status}"

    def last_output(self) -> str:
        """The last lines that it has printed, joined to one."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " / ".join(line.strip() for line in lines[-3:] if line.strip()) or "nothing"

    def stop(self) -> None:
        """Terminates it, and kills it if it takes too long."""
        self._access_log.unlink(missing_ok=True)
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._signal(signal.SIGKILL)  # the processes of its group that are left
        self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid(), number)

    def cpu_ns(self) -> dict[int, int]:
        """User and system time of each process of the tree, including threads that have ended."""
        found = {}
        for pid in tree(self._pid()):
            with contextlib.suppress(OSError):  # the process has ended
                found[pid] = time.clock_gettime_ns(cpu_clock(pid))
        return found

    def cpu_ns_since(self, before: dict[int, int]) -> int:
        """User and system time that the process tree has used since `before`."""
        now = self.cpu_ns()
        if before.keys() - now.keys():
            raise Failed(f"lost a process under load; its output: {self.last_output()}")
        return sum(ns - before.get(pid, 0) for pid, ns in now.items())

    def pss_kib(self) -> int:
        """Memory of the process tree as PSS: a shared page is divided among its processes."""
        rollups = proc(tree(self._pid()), "smaps_rollup")
        return sum(int(words[words.index("Pss:") + 1]) for words in rollups if "Pss:" in words)

    def _pid(self) -> int:
        if self._process is None:
            raise Failed("was not started")
        return self._process.pid

    def counters(self) -> dict[str, int]:
        """The counters that coring's `--stats` has printed: by name, the sum over all workers."""
        lines = (line.split() for line in self.log.read_text(errors="replace").splitlines())
        return {
            words[0]: int(words[1])
            for words in lines
            if len(words) > 2 and words[1].isdigit() and words[2].startswith("[")
        }


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_clock(pid: int) -> int:
    """The ID of a process's CPU clock, as clock_getcpuclockid(3) computes it. It counts ns."""
    cpuclock_sched = 2
    return (~pid << 3) | cpuclock_sched


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    children = (int(child) for words in proc([pid], "task/*/children") for child in words)
    return [pid, *(found for child in children for found in tree(child))]


def proc(pids: list[int], pattern: str) -> Iterator[list[str]]:
    """The words of each file below /proc/PID that matches. Skips processes that have ended."""
    for file in (file for pid in pids for file in Path(f"/proc/{pid}").glob(pattern)):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield file.read_text().split()
