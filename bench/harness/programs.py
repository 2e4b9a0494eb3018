"""Runs other programs and takes what they print.

It refuses to know which.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Mapping, Sequence


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    says: str = "",
    seconds: float | None = None,
) -> tuple[bool, str]:
    """Whether it ended well, and all it printed; `says` is its input."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            input=says,
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
    """What a failed program said at last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
