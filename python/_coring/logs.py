"""Standard streams, and the loggers that applications know from other servers."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from types import TracebackType
from typing import NoReturn, TextIO

_LEVELS = {
    "trace": 5,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}
_ACCESS = ("gunicorn.access", "uvicorn.access")


def set_up(level_name: str) -> None:
    """Makes print() appear at once, and gives the well-known loggers handlers and levels."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        except (AttributeError, OSError, ValueError):
            pass
    level = _LEVELS.get(level_name.lower(), logging.INFO)
    errors = logging.Formatter(
        "%(asctime)s [%(process)d] [%(levelname)s] %(message)s", "[%Y-%m-%d %H:%M:%S %z]"
    )
    _logger("gunicorn.error", level, sys.stderr, errors)
    _logger("gunicorn.access", logging.INFO, sys.stdout, logging.Formatter("%(message)s"))
    _logger("uvicorn", level, sys.stderr, logging.Formatter("%(levelname)s:     %(message)s"))
    logging.getLogger("uvicorn.error").setLevel(level)
    _logger("uvicorn.access", logging.INFO, sys.stdout, logging.Formatter("%(message)s"))


def configure(path: str) -> None:
    """Sets up loggers by a file: of JSON or YAML, else in the format of `fileConfig`."""
    import logging.config

    if path.endswith(".json"):
        import json

        with open(path, "rb") as file:
            logging.config.dictConfig(json.load(file))
    elif path.endswith((".yaml", ".yml")):
        yaml = importlib.import_module("yaml")
        with open(path, "rb") as file:
            logging.config.dictConfig(yaml.safe_load(file))
    else:
        known = {"__file__": path, "here": os.path.dirname(os.path.abspath(path))}
        logging.config.fileConfig(path, defaults=known, disable_existing_loggers=False)


def _logger(name: str, level: int, stream: TextIO | None, formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger(name)
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


def warn_of_access_filters() -> None:
    """Says once that coring itself writes the access log, if the application filters that."""
    for name in _ACCESS:
        logger = logging.getLogger(name)
        if logger.filters or len(logger.handlers) > 1 or any(h.filters for h in logger.handlers):
            write(
                f"coring: a filter or handler of the logger {name!r} has no effect, since coring "
                "writes the access log; leave paths out with --access-log-skip\n"
            )
            return


def write(text: str) -> None:
    """Writes to standard error in one piece."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        try:
            os.write(2, text.encode("utf-8", "backslashreplace"))
        except OSError:
            pass


def flush_and_exit(code: int) -> NoReturn:
    """Ends the process, whatever threads the application has started."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass
    os._exit(code)


def is_caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether `error` is of that kind, or was raised because of one."""
    waiting = [error]
    seen = set()
    while waiting:
        error = waiting.pop()
        if error is None or id(error) in seen:
            continue
        if isinstance(error, kind):
            return True
        seen.add(id(error))
        waiting += [error.__cause__, error.__context__]
        waiting += getattr(error, "exceptions", ())
    return False


def without_own_frames(error: BaseException) -> BaseException:
    """Removes the frames before the application's own from a traceback."""
    found: TracebackType | None = error.__traceback__
    while found is not None and _is_internal(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    return error.with_traceback(found)


def _is_internal(filename: str) -> bool:
    return filename.startswith(("coring:", "<frozen importlib")) or filename == importlib.__file__


def format_error(error: BaseException) -> str:
    """The traceback that its author can use."""
    error = without_own_frames(error)
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join(lines)


def _enabled(name: str, level: int) -> logging.Logger | None:
    """The logger, unless the application has set up logging without it."""
    logger = logging.getLogger(name)
    is_usable = not logger.disabled and logger.hasHandlers() and logger.isEnabledFor(level)
    return logger if is_usable else None


def exception(name: str, message: str, error: BaseException) -> None:
    """Logs an exception of the application with its traceback, in any case."""
    logger = _enabled(name, logging.ERROR)
    if logger is None:
        write(f"{message.rstrip()}\n{format_error(error)}")
        return
    error = without_own_frames(error)
    logger.error(message, exc_info=(type(error), error, error.__traceback__))


def error(name: str, message: str) -> None:
    """Logs an error, in any case."""
    logger = _enabled(name, logging.ERROR)
    if logger is None:
        write(message + "\n")
    else:
        logger.error(message)


def info(name: str, message: str) -> None:
    """Logs something that need not be seen."""
    logger = _enabled(name, logging.INFO)
    if logger is not None:
        logger.info(message)
