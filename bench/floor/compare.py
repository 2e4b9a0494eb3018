#!/usr/bin/env python3
"""Compares HTTP servers by CPU time per request, in pairs within one run.

All contenders stay up during the whole run. Each round measures every one of them once, in
shuffled order, and what is reported is the median of the ratios taken within the rounds: a
machine's noise hits both sides of a ratio, an absolute figure takes all of it. bench/README.md
says how to read the report.

Exit status: 0 the run counts; 1 a contender failed or answered with errors; 2 something the run
needs is missing; 3 the run is refused (too noisy, or the floor is too slow to prove anything).
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from subprocess import DEVNULL, STDOUT
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

REPOSITORY = Path(__file__).resolve().parents[2]
SERVER_CORE = "0"
CLIENT_CORE = "1"
BODY = b"<b>hello world</b>"
EXIT_FAILED, EXIT_MISSING, EXIT_REFUSED = 1, 2, 3

AA_RANGE = (0.98, 1.02)
FLOOR_TO_NGINX_MAX = 0.9
BOOTSTRAP_SAMPLES = 2000


class Scenario(NamedTuple):
    connections: int
    pipelined: int
    target: float  # coring ÷ floor-ring, at most


SCENARIOS = {
    "keepalive": Scenario(64, 1, 1.05),
    "keepalive512": Scenario(512, 1, 1.05),
    "pipelined": Scenario(64, 16, 1.25),
}

# The {fields} are filled in. The order is that of starting: the floors answer with coring's bytes.
CONTENDERS = {
    "coring": "{bin}/coring --bind 127.0.0.1:{port} --cores 1",
    "coring-epoll": "{bin}/coring --bind 127.0.0.1:{port} --cores 1 --engine epoll",
    "floor-ring": "{bin}/floor-ring --bind 127.0.0.1:{port} {answer}",
    "floor-ring-2": "{bin}/floor-ring --bind 127.0.0.1:{port} {answer}",
    "floor-epoll": "{bin}/floor-epoll --bind 127.0.0.1:{port} {answer}",
    "nginx": "nginx -e stderr -c {nginx_conf}",
}

PAIRS = [
    ("coring", "floor-ring"),
    ("coring-epoll", "floor-epoll"),
    ("coring-epoll", "coring"),
    ("floor-ring", "floor-ring-2"),
    ("coring", "nginx"),
    ("floor-ring", "nginx"),
    ("coring", "floor-epoll"),
    ("floor-epoll", "floor-ring"),
]

NGINX_CONF = """
daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    default_type text/html;
    keepalive_requests 1000000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 '{body}'; }}
    }}
}}
"""

WRK_LUA = """
local pipelined = {pipelined}
if pipelined > 1 then
    local batch
    init = function() batch = string.rep(wrk.format(), pipelined) end
    request = function() return batch end
end
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration,
        e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50),
        latency:percentile(99), latency:percentile(99.9)))
end
"""


class Sample(NamedTuple):
    """One contender's share of one round."""

    requests: int
    errors: int
    cpu_us_per_request: float
    requests_per_second: float
    p50_us: Optional[int]  # None where wrk's own figure is wrong
    p99_us: Optional[int]
    p999_us: Optional[int]


class Ratio(NamedTuple):
    median: float
    low: float
    high: float


Samples = Dict[str, List[Sample]]
Ratios = Dict[Tuple[str, str], Ratio]


class Failed(Exception):
    """A contender that does not do what is asked of it."""


class Contender:
    """A server that runs from its start to the end of the comparison."""

    def __init__(self, name: str, command: str) -> None:
        self.name = name
        self.command = command
        self.port = free_port()
        self.process: Optional[subprocess.Popen] = None

    def start(self, directory: Path, binaries: Path, answer: str) -> None:
        conf = directory / f"{self.name}.conf"
        if "{nginx_conf}" in self.command:
            body = BODY.decode()
            conf.write_text(NGINX_CONF.format(directory=directory, port=self.port, body=body))
        values = {"port": self.port, "answer": answer, "nginx_conf": conf}
        words = self.command.format(bin=shlex.quote(str(binaries)), **values)
        command = ["taskset", "-c", SERVER_CORE, *shlex.split(words)]
        log = directory / f"{self.name}.log"
        with open(log, "wb") as out:
            self.process = subprocess.Popen(command, stdin=DEVNULL, stdout=out, stderr=STDOUT)
        self.wait_until_listening(log)

    def wait_until_listening(self, log: Path) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.02)
        raise Failed(f"{self.name} does not listen; it says:\n{log.read_text(errors='replace')}")

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def answer(self) -> bytes:
        """The exact bytes of the answer to one request, checked."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.settimeout(5)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while not received.endswith(b"\r\n\r\n" + BODY):
                piece = connection.recv(65536)
                if not piece:
                    break
                received += piece
        if not received.startswith(b"HTTP/1.1 200 ") or not received.endswith(BODY):
            raise Failed(f"{self.name} gives a wrong answer: {received!r}")
        return received

    def cpu_ns(self) -> int:
        """User and system time of all threads of the process tree."""
        return sum(int(words[0]) for words in proc(tree(self.process.pid), "task/*/schedstat"))

    def pss_kib(self) -> int:
        """Memory of the process tree, a shared page divided among those who share it."""
        rollups = proc(tree(self.process.pid), "smaps_rollup")
        return sum(int(words[words.index("Pss:") + 1]) for words in rollups)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tree(pid: int) -> List[int]:
    """A process and all that descend from it."""
    children = (int(child) for words in proc([pid], "task/*/children") for child in words)
    return [pid, *(found for child in children for found in tree(child))]


def proc(pids: List[int], pattern: str) -> Iterator[List[str]]:
    """The words of each file below /proc/PID that matches and has not gone meanwhile."""
    for file in (file for pid in pids for file in Path(f"/proc/{pid}").glob(pattern)):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield file.read_text().split()


def measure(contender: Contender, scenario: Scenario, seconds: int, script: Path) -> Sample:
    command = ["taskset", "-c", CLIENT_CORE, "wrk", "-t1", f"-c{scenario.connections}"]
    command += [f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{contender.port}/"]
    before = contender.cpu_ns()
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    cpu_ns = contender.cpu_ns() - before
    figures = [line.split()[1:] for line in output.splitlines() if line.startswith("RESULT ")]
    if len(figures) != 1 or contender.process.poll() is not None:
        raise Failed(f"{contender.name}: the run with wrk failed:\n{output}")
    requests, duration_us, errors, *percentiles = (int(figure) for figure in figures[0])
    if requests == 0:
        raise Failed(f"{contender.name} answered nothing")
    if scenario.pipelined > 1:  # wrk times a batch, then corrects it as if it were one request
        percentiles = [None] * 3
    rate = requests * 1e6 / duration_us
    return Sample(requests, errors, cpu_ns / 1e3 / requests, rate, *percentiles)


def paired_ratio(above: List[Sample], below: List[Sample]) -> Ratio:
    """The median of the ratios within rounds and its 95 % interval by bootstrap."""
    ratios = [a.cpu_us_per_request / b.cpu_us_per_request for a, b in zip(above, below)]
    draw = random.Random(1)
    medians = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(BOOTSTRAP_SAMPLES)
    )
    low, high = (medians[int(BOOTSTRAP_SAMPLES * share)] for share in (0.025, 0.975))
    return Ratio(statistics.median(ratios), low, high)


def show_progress(done: int, rounds: int, started: float) -> None:
    """A bar on a terminal, else a line every ten rounds."""
    left = int((time.monotonic() - started) / done * (rounds - done))
    text = f"round {done}/{rounds}, {left // 60} min {left % 60:02} s left"
    if sys.stderr.isatty():
        bar = ("#" * (30 * done // rounds)).ljust(30, ".")
        end = "\n" if done == rounds else ""
        print(f"\r[{bar}] {text} ", end=end, file=sys.stderr, flush=True)
    elif done % 10 == 0 or done == rounds:
        print(text, file=sys.stderr, flush=True)


def run_rounds(
    contenders: List[Contender], scenario: Scenario, rounds: int, seconds: int, directory: Path
) -> Samples:
    script = directory / "wrk.lua"
    script.write_text(WRK_LUA.format(pipelined=scenario.pipelined))
    samples: Samples = {contender.name: [] for contender in contenders}
    order = list(contenders)
    started = time.monotonic()
    for index in range(rounds + 1):
        random.shuffle(order)
        for contender in order:
            sample = measure(contender, scenario, seconds, script)
            if index > 0:  # the first round warms up
                samples[contender.name].append(sample)
        show_progress(index + 1, rounds + 1, started)
    return samples


def start_all(contenders: List[Contender], binaries: Path, directory: Path) -> Dict[str, bytes]:
    """Starts and checks all; the floors answer with coring's bytes when it takes part."""
    answers: Dict[str, bytes] = {}
    answer = ""
    for contender in contenders:
        contender.start(directory, binaries, answer)
        answers[contender.name] = contender.answer()
        if contender.name == "coring":
            file = directory / "answer"
            file.write_bytes(answers["coring"])
            answer = f"--answer-file {shlex.quote(str(file))}"
    for name, got in answers.items():
        if name.startswith("floor-") and len(got) != len(answers.get("coring", got)):
            raise Failed(f"{name} answers {len(got)} bytes, coring {len(answers['coring'])}")
    return answers


def print_table(samples: Samples, pss: Dict[str, int]) -> None:
    print(f"\n{'':14}  CPU µs/request   requests/s   p50 µs   p99 µs  p99.9 µs  PSS MiB  errors")
    for name, rounds in samples.items():
        _, errors, cpu, rate, *percentiles = zip(*rounds)
        medians = ["-" if None in p else f"{statistics.median(p):.0f}" for p in percentiles]
        speed = f"{statistics.median(cpu):14.3f}  {statistics.median(rate):11.0f}"
        times = "  {:>7}  {:>7}  {:>8}".format(*medians)
        print(f"{name:14}  {speed}{times}  {pss[name] / 1024:7.1f}  {sum(errors):6}")


def print_ratios(ratios: Ratios, target: float) -> None:
    print("\nCPU per request, median of the paired ratios [95 % interval]")
    for (above, below), ratio in ratios.items():
        notes = ["not separable"] if ratio.low <= 1.0 <= ratio.high else []
        if (above, below) == ("floor-ring", "floor-ring-2"):
            notes = ["A/A: the noise"]
        if (above, below) == ("coring", "floor-ring"):
            met = ratio.median <= target and ratio.low < target
            notes.append(f"target ≤ {target}: {'met' if met else 'MISSED'}")
        interval = f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
        print(f"{above + ' ÷ ' + below:28} {interval}  {', '.join(notes)}".rstrip())


def verdict(ratios: Ratios, errors: Dict[str, int]) -> Tuple[str, int]:
    noise = ratios.get(("floor-ring", "floor-ring-2"))
    fair = ratios.get(("floor-ring", "nginx"))
    if noise and not AA_RANGE[0] <= noise.median <= AA_RANGE[1]:
        return f"REFUSED: A/A is {noise.median:.3f}, outside {AA_RANGE}", EXIT_REFUSED
    if fair and fair.median > FLOOR_TO_NGINX_MAX:
        text = f"REFUSED: floor ÷ nginx is {fair.median:.3f}, above {FLOOR_TO_NGINX_MAX}"
        return text, EXIT_REFUSED
    if any(errors.values()):
        who = ", ".join(f"{name} {count}" for name, count in errors.items() if count)
        return f"FAILED: wrk saw errors: {who}", EXIT_FAILED
    if noise and fair:
        return "the run counts", 0
    return "no claim: the run lacks floor-ring, floor-ring-2 or nginx", 0


def need(programs: Dict[str, str]) -> None:
    """Sees to it that the programs are there: installs their packages as root, else ends."""
    packages = [package for name, package in programs.items() if not shutil.which(name)]
    if packages and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {' '.join(packages)}", file=sys.stderr)
        apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y"]
        for words in (["update"], ["install", "--no-install-recommends", *packages]):
            subprocess.run([*apt, *words], check=False, stdout=sys.stderr)
    missing = ", ".join(name for name in programs if not shutil.which(name))
    if missing:
        give_up(f"{missing}. Install it, or run as root where there is apt-get.")


def check_machine() -> None:
    if not {int(SERVER_CORE), int(CLIENT_CORE)} <= os.sched_getaffinity(0):
        give_up("cores 0 and 1: one for the servers, one for wrk.")
    if not Path("/proc/self/schedstat").exists():
        give_up("/proc/PID/schedstat (CONFIG_SCHED_INFO).")


def give_up(what: str) -> None:
    print(f"MISSING: {what}", file=sys.stderr)
    sys.exit(EXIT_MISSING)


def build() -> Path:
    """Builds the release binaries and returns the directory they are in."""
    command = ["cargo", "build", "--release", "--workspace"]
    if subprocess.run(command, cwd=REPOSITORY, check=False).returncode != 0:
        raise Failed(f"{' '.join(command)} failed")
    metadata = ["cargo", "metadata", "--format-version=1", "--no-deps"]
    output = subprocess.run(metadata, cwd=REPOSITORY, check=True, capture_output=True).stdout
    return Path(json.loads(output)["target_directory"], "release")


def report(options: argparse.Namespace, samples: Samples, ratios: Ratios, text: str) -> str:
    """Every figure, as JSON."""
    figures = {
        "scenario": options.scenario,
        "seconds": options.seconds,
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "samples": {name: [s._asdict() for s in rounds] for name, rounds in samples.items()},
        "ratios": {f"{a} / {b}": ratio._asdict() for (a, b), ratio in ratios.items()},
        "verdict": text,
    }
    return json.dumps(figures, indent=1) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--scenario", choices=list(SCENARIOS), default="keepalive")
    parser.add_argument("--rounds", type=int, default=40, help="a claim needs 40 (default)")
    parser.add_argument("--seconds", type=int, default=1, help="of each measurement")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    text = "NAME=COMMAND: add a server, or replace a known one; see CONTENDERS for the {fields}"
    parser.add_argument("--contender", action="append", default=[], help=text)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="leave out all others")
    parser.add_argument("--bin-dir", type=Path, help="take binaries from there and build nothing")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    if any("=" not in added for added in options.contender):
        parser.error("--contender takes NAME=COMMAND")
    commands = dict(CONTENDERS, **dict(added.split("=", 1) for added in options.contender))
    chosen = options.only or list(commands)
    if not set(chosen) <= set(commands):
        parser.error(f"--only takes names of: {', '.join(commands)}")
    options.commands = {name: commands[name] for name in commands if name in chosen}
    return options


def compare(options: argparse.Namespace, directory: Path) -> int:
    scenario = SCENARIOS[options.scenario]
    built = any("{bin}" in command for command in options.commands.values())
    binaries = options.bin_dir or (build() if built else REPOSITORY)
    contenders = [Contender(name, command) for name, command in options.commands.items()]
    with contextlib.ExitStack() as stack:
        for contender in contenders:
            stack.callback(contender.stop)
        answers = start_all(contenders, binaries.resolve(), directory)
        sizes = ", ".join(f"{name} {len(answer)}" for name, answer in answers.items())
        print(f"{options.scenario}: bytes answered: {sizes}", flush=True)
        samples = run_rounds(contenders, scenario, options.rounds, options.seconds, directory)
        pss = {contender.name: contender.pss_kib() for contender in contenders}
    added = [(name, "floor-ring") for name in samples if name not in CONTENDERS]
    pairs = [pair for pair in PAIRS + added if samples.keys() >= set(pair)]
    ratios = {(a, b): paired_ratio(samples[a], samples[b]) for a, b in pairs}
    text, status = verdict(ratios, {n: sum(s.errors for s in r) for n, r in samples.items()})
    print_table(samples, pss)
    print_ratios(ratios, scenario.target)
    print(f"\nverdict: {text}")
    if options.json:
        options.json.write_text(report(options, samples, ratios, text))
    return status


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_FAILED))  # so that servers are ended
    os.environ["PATH"] += os.pathsep + "/usr/sbin"  # where nginx is, for all users
    check_machine()
    programs = {"taskset": "util-linux", "wrk": "wrk"}
    need(dict(programs, nginx="nginx") if "nginx" in options.commands else programs)
    with tempfile.TemporaryDirectory(prefix="coring-bench-") as directory:
        try:
            return compare(options, Path(directory))
        except Failed as failure:
            print(f"FAILED: {failure}", file=sys.stderr)
            return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
