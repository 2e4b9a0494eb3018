"""The functions of a configuration file of gunicorn's that are called at points in the life of the
server and of its workers. The names and the arguments are gunicorn's (its server hooks)."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from typing import Any

from _coring import application, logs


class Configuration:
    """The settings, by their names: those of the file, and some that coring has from elsewhere."""

    def __init__(self, found: dict[str, Any], config: dict[str, Any]) -> None:
        self._found = found
        self._config = config

    def __getattr__(self, name: str) -> Any:
        for source in (self._config, self._found):
            if name in source:
                return source[name]
        raise AttributeError(f"coring passes no setting `{name}` to hooks")


class Worker:
    """A worker, as the functions get it."""

    def __init__(self, age: int, server: Server) -> None:
        self.age = age
        self.pid = 0
        self.ppid = server.pid
        self.cfg = server.cfg
        self.log = server.log


class Server:
    """coring, as the functions get it."""

    def __init__(self, cfg: Configuration, num_workers: int) -> None:
        # The process that workers are forked from: the functions for the server run there.
        self.pid = os.getpid()
        self.cfg = cfg
        self.log = logging.getLogger("gunicorn.error")
        self.num_workers = num_workers
        # The workers that run, by their process ids.
        self.WORKERS: dict[int, Worker] = {}


class Hooks:
    """The functions of one configuration file, if there is one."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Executes the file: it may have other effects than its functions.

        Raises `LoadError`.
        """
        self._found: dict[str, Any] = {}
        if config.get("config_file"):
            from _coring import settings

            try:
                self._found = settings.load(config["config_file"])
            except settings.ConfigError as error:
                raise application.LoadError(error.args[0], error.error) from None
        self._server = Server(Configuration(self._found, config), config.get("workers", 1))
        # The worker that this process is.
        self._worker: Worker | None = None

    def occur(self, occasion: str) -> None:
        """The process that workers are forked from is ready, at the `start` or for a `reload`."""
        if occasion == "start":
            self.hear(b"nworkers_changed %d None" % self._server.num_workers)
            self._call("on_starting", self._server)
            self._call("when_ready", self._server)
        elif occasion == "reload":
            self._call("on_reload", self._server)

    def hear(self, order: bytes) -> None:
        """Calls what coring names: `HOOK ARGUMENTS`."""
        name, *words = order.decode().split(" ")
        server = self._server
        if name == "child_exit":
            pid = int(words[0])
            # One that a process before this one has forked is not known.
            worker = server.WORKERS.pop(pid, None) or self._made(-1, pid)
            self._call(name, server, worker)
        elif name == "nworkers_changed":
            new, old = (int(word) if word.isdigit() else None for word in words)
            server.num_workers = new or server.num_workers
            self._call(name, server, new, old)
        else:
            self._call(name, server)

    def before_fork(self, number: int) -> Worker:
        """A worker with this number is about to be forked."""
        worker = self._made(number, 0)
        self._call("pre_fork", self._server, worker)
        return worker

    def after_fork(self, worker: Worker, pid: int) -> None:
        """The worker has been forked, and this is its process id."""
        worker.pid = pid
        self._server.WORKERS[pid] = worker

    def begin(self, worker: Worker) -> None:
        """This process is the worker."""
        worker.pid = os.getpid()
        self._worker = worker
        self._call("post_fork", self._server, worker)

    def loaded(self) -> None:
        """The worker has loaded the application."""
        self._call("post_worker_init", self._worker)

    def interrupted(self) -> None:
        """The worker was sent SIGINT or SIGQUIT."""
        self._call("worker_int", self._worker)

    def aborted(self) -> None:
        """The worker was sent SIGABRT."""
        self._call("worker_abort", self._worker)

    def end(self) -> None:
        """The worker is about to end."""
        self._call("worker_exit", self._server, self._worker)

    def has(self, *names: str) -> bool:
        """Whether the file has one of these functions."""
        return any(callable(self._found.get(name)) for name in names)

    def before_request(self, request: Any) -> None:
        """The application is about to be called. An error is the request's, as one of its own."""
        function = self._found.get("pre_request")
        if callable(function):
            function(self._worker, request)

    def after_request(self, request: Any, environ: Any, answer: Any) -> None:
        """The application is done with a request."""
        if self.has("post_request"):
            arguments = (self._worker, request, environ, answer)
            self._call("post_request", *arguments[: self._arguments_of_post_request])

    @functools.cached_property
    def _arguments_of_post_request(self) -> int:
        """How many arguments it takes: older files have it with two or three."""
        signature = inspect.signature(self._found["post_request"])
        for count in (4, 3):
            try:
                signature.bind(*range(count))
            except TypeError:
                continue
            return count
        return 2

    def _made(self, number: int, pid: int) -> Worker:
        worker = Worker(number + 1, self._server)
        worker.pid = pid
        return worker

    def _call(self, name: str, *arguments: Any) -> None:
        function = self._found.get(name)
        if not callable(function):
            return
        try:
            function(*arguments)
        except Exception as error:
            kind = type(error).__name__
            line = f"coring: {name} of the configuration failed: {kind}; coring goes on\n"
            logs.write(logs.format_error(error) + line)
