"""Virtual environments with packages from PyPI, made when they are needed and kept in target."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"))


def environment(requirements):
    """The interpreter of the environment that has what a file of this directory requires."""
    wanted = (HERE / requirements).read_text()
    directory = TARGET / "tmp" / Path(requirements).stem
    python, made = directory / "bin/python", directory / "requirements.txt"
    if not made.exists() or made.read_text() != wanted:
        print(f"installing {requirements} into {directory}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(HERE / requirements)], check=True)
        made.write_text(wanted)
    return python


def absolute(path):
    """The same path for a process with another working directory."""
    return Path(path).absolute()


def find_coring():
    """The newest program in target."""
    programs = [TARGET / profile / "coring" for profile in ("release", "debug")]
    programs = [path for path in programs if path.exists()]
    return max(programs, key=lambda path: path.stat().st_mtime, default=None)
