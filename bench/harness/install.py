"""Installs what a run needs: programs from Debian, wheels from PyPI, builds by cargo.

There are no other sources. The functions return what could not be installed, with the reason.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping

from . import BENCH, REPOSITORY, Missing
from .contenders import Contender
from .programs import last_line, run

# The programs that a run needs besides its contenders, each with its Debian package.
TOOLS = {"taskset": "util-linux", "setsid": "util-linux", "wrk": "wrk", "ab": "apache2-utils"}
PEERS = BENCH / "peers"
PINS = BENCH / "requirements.txt"
PLOTS = ("matplotlib",)

# The Python that its servers are measured on, if pyenv has it. Else it is that of bench/run.
PYTHON = (3, 13)
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))

# Debian runs this before it starts a service after an install. Status 101 means not to start it.
SERVICE_POLICY = Path("/usr/sbin/policy-rc.d")


def say(text: str) -> None:
    """Prints a line before a step that takes long."""
    print(f"bench/run: {text}", file=sys.stderr, flush=True)


def fault(command: list[str], **others: Any) -> str:
    """Runs a command. Returns the reason if it failed, else nothing."""
    succeeded, output = run(command, **others)
    return "" if succeeded else reason(output)


def reason(output: str) -> str:
    """The line of a failed command's output that most likely gives the reason."""
    if "require a different python version" in output or "Requires-Python" in output:
        return "needs another version of Python"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(E:|ERROR|error)", line)]
    return errors[0] if errors else last_line(output)


def install_programs(programs: Mapping[str, str]) -> dict[str, str]:
    """Installs missing programs. Returns those that failed, each with the reason."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin:/sbin"  # the folders that Debian has servers in
    wanted = {name: package for name, package in programs.items() if not shutil.which(name)}
    failed = install_packages(list(wanted.values()))
    return {
        name: failed.get(package, f"Debian's package {package} does not contain it")
        for name, package in wanted.items()
        if not shutil.which(name)
    }


def install_packages(packages: list[str]) -> dict[str, str]:
    """Installs Debian packages. Returns those that failed, each with the reason."""
    if not packages:
        return {}
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    by_hand = f"install it: apt-get install {' '.join(packages)}"
    if not shutil.which("apt-get"):
        return dict.fromkeys(packages, f"no apt-get on this machine; {by_hand}")
    if root and fault([*root, "true"]):
        return dict.fromkeys(packages, f"neither root nor sudo without a password; {by_hand}")
    say(f"installing {' '.join(packages)}")
    failed = {}
    with no_services(root):
        run([*root, "apt-get", "-q", "update"])
        for package in packages:
            apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "install"]
            why = fault([*root, *apt, "--no-install-recommends", package])
            if why:
                failed[package] = why
    return failed


@contextmanager
def no_services(root: list[str]) -> Iterator[None]:
    """Keeps packages from starting their services, for example nginx on port 80."""
    if SERVICE_POLICY.exists():
        yield
        return
    run([*root, "tee", str(SERVICE_POLICY)], stdin="#!/bin/sh\nexit 101\n")
    run([*root, "chmod", "755", str(SERVICE_POLICY)])
    try:
        yield
    finally:
        run([*root, "rm", "-f", str(SERVICE_POLICY)])


def target_directory() -> Path:
    """Cargo's target directory."""
    if not shutil.which("cargo"):
        raise Missing("cargo. Install Rust with rustup.")
    command = ["cargo", "metadata", "--format-version=1", "--no-deps"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Missing(f"cargo metadata: {reason(done.stderr)}")
    return Path(json.loads(done.stdout)["target_directory"])


def build_coring() -> Path:
    """Builds coring, the floors and `load`. Returns the folder of the binaries."""
    directory = target_directory()
    say("building coring and the floors")
    command = ["cargo", "build", "--release", "--workspace", "--locked"]
    if subprocess.run(command, cwd=REPOSITORY, check=False).returncode != 0:
        raise Missing(f"coring. Its build failed: {' '.join(command)}")
    return directory / "release"


def get_by_profile(program: Path, *, build: bool) -> dict[str, str]:
    """Builds coring with a profile, as it is released. Returns the reason if that fails."""
    why = ""
    if build:
        say(f"building {program.name}")
        why = fault([str(REPOSITORY / "deploy" / "build"), str(program)])
    elif not program.exists():
        why = f"{program} does not exist"
    return {program.name: why} if why else {}


def build_peers(crates: list[str], directory: Path) -> dict[str, str]:
    """Builds each crate by itself, so that a failure affects no other. Returns the failed ones."""
    failed = {}
    for crate in crates:
        if not (PEERS / "Cargo.lock").exists():
            failed[crate] = "bench/peers does not exist"
            continue
        say(f"building {crate}")
        command = ["cargo", "build", "--release", "--locked", "--bin", crate]
        env = {**os.environ, "CARGO_TARGET_DIR": str(directory)}
        why = fault(command, cwd=PEERS, env=env)
        if why:
            failed[crate] = f"not built: {why}"
    return failed


def interpreter() -> tuple[str, tuple[int, int]]:
    """The program of the Python that its servers are measured on, and its version."""
    for program in PYENV.glob(f"versions/{PYTHON[0]}.{PYTHON[1]}.*/bin/python"):
        if not fault([str(program), "-c", "import ssl, venv"]):
            return str(program), PYTHON
    return sys.executable, sys.version_info[:2]


class Environment:
    """The virtual environment of the Python peers and of the plots."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fault: str | None = None  # None until `install` has tried to create it
        self.python = directory / "bin" / "python"

    def install(self, wheels: tuple[str, ...], *, download: bool = True) -> str:
        """Installs wheels at the pinned versions. Returns the reason if that fails.

        Without `download` it only checks whether they are installed.
        """
        if self._fault is None:
            self._fault = self._create()
        if self._fault:
            return f"no virtual environment: {self._fault}"
        pip = [str(self.python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        pip += [] if download else ["--no-index"]
        why = fault([*pip, "--constraint", str(PINS), *wheels])
        return why if download or not why else f"{' '.join(wheels)}: not installed"

    def _create(self) -> str:
        program, (major, minor) = interpreter()
        code = f"import pip, sys; sys.exit(sys.version_info[:2] != ({major}, {minor}))"
        if not fault([str(self.python), "-c", code]):
            return ""
        say(f"creating {self._directory} with {program}")
        command = [program, "-m", "venv", "--clear", str(self._directory)]
        why = fault(command)
        if why and not install_packages(["python3-venv"]):
            why = fault(command)
        return why


def get_contenders(
    contenders: Mapping[str, Contender], target: Path, environment: Environment, *, quick: bool
) -> dict[str, str]:
    """Installs and builds the contenders. Returns those that failed, each with the reason.

    With `quick` no other server in Python is installed, only what coring's applications need, and
    no program is built that takes long.
    """
    slow = [name for name, one in contenders.items() if one.slow_build and quick]
    missing = dict.fromkeys(slow, "--quick does not build it, because that takes minutes")
    contenders = {name: one for name, one in contenders.items() if name not in slow}
    programs = {one.program: one.program for one in contenders.values() if one.program}
    no_program = install_programs(programs)
    crates = list(dict.fromkeys(one.crate for one in contenders.values() if one.crate))
    no_build = build_peers(crates, target)
    no_wheels: dict[tuple[str, ...], str] = {}
    for name, one in contenders.items():
        if one.wheels and one.wheels not in no_wheels:
            download = one.kind == "coring" or not quick
            if download:
                say(f"{name}: {' '.join(one.wheels)} from PyPI")
            failed = environment.install(one.wheels, download=download)
            if failed and download and one.packages and not install_packages(list(one.packages)):
                failed = environment.install(one.wheels)
            no_wheels[one.wheels] = failed
        why = no_program.get(one.program) or no_build.get(one.crate) or no_wheels.get(one.wheels)
        if why:
            missing[name] = why
    return missing
