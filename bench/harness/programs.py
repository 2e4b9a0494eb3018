"""Runs other programs and captures their output."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Mapping, Sequence


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    seconds: float | None = None,
) -> tuple[bool, str]:
    """Returns whether the exit status was 0, and the output of both streams.

    `stdin` is written to its standard input. After `seconds` it is killed, which is a failure.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=seconds,
        )
    except OSError as error:
        return False, f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return False, f"{command[0]} did not end within {seconds:.0f} s"
    return done.returncode == 0, done.stdout


def last_line(output: str) -> str:
    """The last line that a failed program has printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
