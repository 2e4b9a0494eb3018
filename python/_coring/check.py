"""Loads the application as a worker does, says whether that works, and ends."""

from __future__ import annotations

import os
from typing import Any

from _coring import application, logs, main


def run(config: dict[str, Any]) -> None:
    """Writes the interface of the application, and the class of its workers, to a pipe."""
    try:
        main.prepare(config)
        _, interface, worker_class = main.load(config)
    except application.LoadError as error:
        logs.write(str(error))
        logs.flush_and_exit(1)
    os.write(config["pipe"], f"{interface} {worker_class}".encode())
    logs.flush_and_exit(0)
