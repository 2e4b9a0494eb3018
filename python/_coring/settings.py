"""Executes a configuration file as gunicorn does, and reports its settings to coring.

A process runs `run` before coring binds an address. Processes that need the functions of the file
execute it again, by `load`.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from _coring import logs

# Names that are no settings, but stand in many files, and what was meant.
MISTAKEN = {
    "logfile": "errorlog",
    "log_file": "errorlog",
    "error_log": "errorlog",
    "processes": "workers",
    "threaded": "threads",
}


class ConfigError(Exception):
    """The file could not be executed: one line that says why, below a traceback if there is one."""

    def __init__(self, line: str, error: BaseException | None = None) -> None:
        super().__init__(line)
        self.error = error

    def __str__(self) -> str:
        trace = logs.format_error(self.error) if self.error is not None else ""
        return f"{trace}coring: {self.args[0]}\n"


def load(location: str) -> dict[str, Any]:
    """The global names of a configuration: of `PATH`, `file:PATH` or `python:MODULE`."""
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)
    kind, _, place = location.partition(":")
    try:
        if kind == "python":
            return vars(importlib.import_module(place))
        return _executed(place if kind == "file" else location)
    except ConfigError:
        raise
    except BaseException as error:
        reason = str(error).strip().split("\n")[0]
        reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise ConfigError(f"the configuration {location} failed: {reason}", error) from None


def _executed(path: str) -> dict[str, Any]:
    if not os.path.isfile(path):
        raise ConfigError(f"there is no configuration file {path}; correct -c")
    loader = importlib.machinery.SourceFileLoader("__config__", path)
    spec = importlib.util.spec_from_file_location("__config__", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["__config__"] = module
    loader.exec_module(module)
    return vars(module)


def run(config: dict[str, Any]) -> None:
    """Writes the settings of a file to a pipe: each is a name, a kind, a count and its values.

    Each of these parts ends with a NUL.
    """
    logs.set_up("info")
    sys.argv = ["coring"]
    try:
        found = load(config["location"])
    except ConfigError as error:
        logs.write(str(error))
        logs.flush_and_exit(1)
    parts: list[str] = []
    for name in config["names"]:
        if name in found:
            parts += _record(name, found[name])
    for name, meant in _unknown(found, config["names"]):
        parts += [name, "unknown", "1", meant]
    parts += ["", "bool", "1", str(_is_patched()).lower()]
    data = "".join(part.replace("\0", "\N{REPLACEMENT CHARACTER}") + "\0" for part in parts)
    with open(config["pipe"], "wb") as pipe:
        pipe.write(data.encode("utf-8", "surrogateescape"))
    logs.flush_and_exit(0)


def _record(name: str, value: Any) -> list[str]:
    """A setting with a value in one of the forms that coring reads."""
    if value is None:
        return [name, "none", "0"]
    if isinstance(value, bool):
        return [name, "bool", "1", str(value).lower()]
    if isinstance(value, (int, float, str)):
        return [name, "text", "1", str(value)]
    if isinstance(value, (list, tuple)) and all(isinstance(v, (int, str)) for v in value):
        return [name, "list", str(len(value)), *map(str, value)]
    if value and isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
        return [name, "list", str(len(value)), *(f"{k}={v}" for k, v in value.items())]
    if isinstance(value, type):
        return [name, "text", "1", f"{value.__module__}.{value.__qualname__}"]
    if callable(value):
        return [name, "function", "0"]
    return [name, "other", "1", repr(value)]


def _unknown(found: dict[str, Any], names: list[str]) -> list[tuple[str, str]]:
    """Names that are no settings and that the file does not use itself; and what may be meant."""
    used = _names_read(found.get("__file__"))
    unknown = []
    for name, value in found.items():
        is_setting = name in names or name.startswith("_")
        if is_setting or name in used or isinstance(value, ModuleType) or callable(value):
            continue
        near = difflib.get_close_matches(name, names, 1, 0.85)
        unknown.append((name, MISTAKEN.get(name) or (near[0] if near else "")))
    return unknown


def _names_read(path: Any) -> set[str]:
    """The names that the code of a file reads."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, TypeError, ValueError):
        return set()
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return {node.id for node in nodes if isinstance(node.ctx, ast.Load)}


def _is_patched() -> bool:
    """Whether the file has let gevent replace the modules that block."""
    monkey = sys.modules.get("gevent.monkey")
    return bool(monkey and monkey.is_module_patched("socket"))
