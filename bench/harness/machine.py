"""Describes what the figures were measured on: processor, cores, kernel, commit, versions."""

from __future__ import annotations

import os
import platform
import re
import resource
from pathlib import Path
from typing import Mapping

from . import REPOSITORY, Missing
from .contenders import Contender
from .install import PEERS
from .programs import run

OPEN_FILES_MIN, OPEN_FILES_MAX = 2_048, 65_536


def pick_cores() -> tuple[int, int]:
    """A core for the servers and one for the generator; not two threads of one core if possible."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise Missing("a second core. One is for the servers, one for the generator.")
    others = [core for core in allowed[1:] if core not in siblings(allowed[0])]
    return allowed[0], (others or allowed[1:])[0]


def siblings(core: int) -> set[int]:
    """The logical cores that share a physical core with `core`, itself included."""
    file = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    text = file.read_text("utf-8").strip() if file.exists() else str(core)
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def prepare() -> None:
    """Checks that the kernel lists child processes, and raises the limit of open files."""
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        raise Missing("/proc/PID/task/TID/children. It needs a kernel with CONFIG_PROC_CHILDREN.")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else hard
    if allowed < OPEN_FILES_MIN:
        raise Missing(f"open files: {OPEN_FILES_MIN} are needed, {hard} allowed (ulimit -Hn).")
    soft = min(allowed, OPEN_FILES_MAX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_files() -> int:
    """The number of files that a process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def describe(cores: tuple[int, int]) -> dict[str, str]:
    """The machine, as the page shows it."""
    shared = "threads of one core" if cores[1] in siblings(cores[0]) else "not siblings"
    return {
        "processor": processor(),
        "cores": f"{os.cpu_count()}; servers on {cores[0]}, generator on {cores[1]} ({shared})",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "system": system(),
        "python": platform.python_version(),
        "coring": commit(),
    }


def processor() -> str:
    """The processor's model, and whether it is virtual."""
    text = Path("/proc/cpuinfo").read_text("utf-8")
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    virtual = ", virtual" if re.search(r"^flags\s*:.*\bhypervisor\b", text, re.MULTILINE) else ""
    return (model.group(1) if model else platform.machine()) + virtual


def system() -> str:
    """The distribution's name."""
    file = Path("/etc/os-release")
    text = file.read_text("utf-8") if file.exists() else ""
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', text, re.MULTILINE)
    return name.group(1) if name else "unknown"


def commit() -> str:
    """The commit that was built, and whether the work tree had changes."""
    command = ["git", "describe", "--always", "--dirty=, with changes", "--exclude=*"]
    succeeded, text = run(command, cwd=REPOSITORY)
    return text.strip() if succeeded else "unknown"


def versions(contenders: Mapping[str, Contender], python: Path) -> dict[str, str]:
    """The versions of the generators and of each contender."""
    found = {"wrk": first_version(run(["wrk", "-v"])[1])}
    found["ab"] = first_version(run(["ab", "-V"])[1])
    if any(one.application for one in contenders.values()):
        found["Python"] = first_version(run([str(python), "-V"])[1])
    found |= {name: version(name, one, python) for name, one in contenders.items()}
    return {name: text for name, text in found.items() if text}


def version(name: str, contender: Contender, python: Path) -> str:
    """A contender's version: its own output, its crate's in Cargo.lock, or those of its wheels."""
    if contender.program:
        flag = "--version" if contender.program == "h2o" else "-v"
        return first_version(run([contender.program, flag])[1])
    lock = PEERS / "Cargo.lock"
    if contender.crate and lock.exists():
        pattern = rf'name = "{name}"\nversion = "(.+)"\nsource'
        return ", ".join(re.findall(pattern, lock.read_text("utf-8")))
    if contender.wheels:
        code = "import sys; from importlib.metadata import version\n"
        code += "print(', '.join(f'{name} {version(name)}' for name in sys.argv[1:]))"
        return run([str(python), "-c", code, *contender.wheels])[1].strip()
    return ""


def first_version(text: str) -> str:
    """The first version number in `text`."""
    found = re.search(r"\d+\.\d+(\.\d+)*", text)
    return found.group(0) if found else ""
