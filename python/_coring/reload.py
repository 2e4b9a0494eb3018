"""What a worker does otherwise under `--reload`."""

from __future__ import annotations

import os
from importlib.machinery import SourceFileLoader
from typing import Any, Mapping

_STANDARD = os.path.dirname(os.__file__) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def ignore_caches() -> None:
    """Has Python compile the application's modules each time.

    A module's cache is taken for current by the second of the source's last change and its size.
    After two saves of equal size within a second the code of the first one would run.
    """
    known = SourceFileLoader.path_stats

    def path_stats(self: SourceFileLoader, path: str) -> Mapping[str, Any]:
        if path.startswith(_STANDARD) or any(part in path for part in _INSTALLED):
            return known(self, path)
        raise OSError("no cache is used")

    SourceFileLoader.path_stats = path_stats  # type: ignore[method-assign]
