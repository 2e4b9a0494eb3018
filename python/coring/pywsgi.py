"""A server that is started from code, with the signature of `gevent.pywsgi`.

    from coring.pywsgi import WSGIServer

    WSGIServer(("127.0.0.1", 8000), app).serve_forever()

The program `coring` speaks HTTP, in a process of its own. This process is its one worker: in
greenlets if gevent has patched the standard library, else in threads. Signals are this process's,
and coring ends with it.
"""

from __future__ import annotations

import array
import importlib
import marshal
import os
import select
import socket
import subprocess
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Callable

from . import find_program

Listener = Any

_FDS_MAX = 64
# As long as `stop` lets it take.
_DRAIN = "1h"
# What would give coring other settings than those of this module.
_FOREIGN = ("GUNICORN_", "UVICORN_", "CORING_", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "PORT")
_KEPT = "CORING_ENGINE"
_SEQPACKET = socket.SOCK_SEQPACKET


class WSGIServer:
    """Serves a WSGI application.

    `listener` is `(host, port)`, `"host:port"`, the path of a Unix socket after `unix:`, or a bound
    socket: that is closed, and coring listens at its address. `spawn` is the number of requests at
    a time, or a pool that has a size. `log` is None, or "default" for standard error. `environ` has
    further variables for each request.
    """

    def __init__(  # noqa: PLR0913
        self,
        listener: Listener,
        application: Callable[..., Any] | None = None,
        backlog: int | None = None,
        spawn: Any = "default",
        log: Any = "default",
        error_log: Any = "default",
        handler_class: Any = None,
        environ: dict[str, Any] | None = None,
        **ssl_args: Any,
    ) -> None:
        if handler_class is not None:
            raise TypeError("handler_class is not supported: coring itself speaks HTTP")
        if ssl_args:
            names = ", ".join(sorted(ssl_args))
            raise TypeError(f"{names} not supported: put a proxy that speaks TLS in front")
        if log not in (None, "default"):
            raise TypeError('log must be None or "default": coring itself writes the access log')
        if error_log not in (None, "default"):
            raise TypeError(
                'error_log must be None or "default": errors go to the logger "gunicorn.error"'
            )
        self.application = application
        self.environ = dict(environ or {})
        self.backlog = backlog
        self._width = _width(spawn)
        self._log = log
        self._bind, self.address = _address(listener)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def started(self) -> bool:
        """Whether it accepts connections."""
        return self._process is not None

    @property
    def server_host(self) -> str | None:
        """The address that it listens at, unless that is a Unix socket."""
        return self.address[0] if isinstance(self.address, tuple) else None

    @property
    def server_port(self) -> int | None:
        """The port that it listens at, unless that is a Unix socket."""
        return self.address[1] if isinstance(self.address, tuple) else None

    def start(self) -> None:
        """Starts coring, and returns when it listens."""
        if self._process is not None:
            raise AssertionError("the server has been started already")
        with _Probe(self.address) as probe:
            if probe is not None:
                self.address = probe.getsockname()[:2]
            self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        """The process of coring, which listens."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, _SEQPACKET)
        try:
            process = subprocess.Popen(
                self._command("gevent" if _is_patched() else "gthread"),
                stdin=theirs,
                # Opening /dev/stderr fails if that is a socket, as under systemd.
                stdout=2 if self._log == "default" else None,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
            theirs.close()
            try:
                self._attach(ours)
                message = _receive(ours)[0]
            except OSError:
                message = b""
            except BaseException:
                process.kill()
                process.wait()
                raise
            if message != b"listening":
                process.kill()
                raise RuntimeError(f"coring has not started (status {process.wait()})")
        finally:
            ours.close()
            theirs.close()
        return process

    def _command(self, worker_class: str) -> list[str]:
        bind = self._bind
        if isinstance(self.address, tuple):
            host = self.address[0]
            bind = f"[{host}]:{self.address[1]}" if ":" in host else f"{host}:{self.address[1]}"
        command = [find_program(), "run", f"--attach={os.getpid()}", f"--bind={bind}"]
        command += [
            f"--python={sys.executable}",
            "--timeout=0",
            "--workers=1",
            "--cores=1",
            f"--drain-timeout={_DRAIN}",
            "-k",
            worker_class,
        ]
        if worker_class == "gevent":
            command.append(f"--worker-connections={self._width or 1 << 20}")
        elif self._width is not None:
            command.append(f"--threads={min(self._width, 256)}")
        if self._log == "default":
            command.append("--access-log=-")
        command.append("application")
        return command

    def _attach(self, control: socket.socket) -> None:
        """Becomes coring's worker."""
        message, fds = _receive(control)
        if message != b"bundle":
            raise ConnectionError("coring has ended")
        with open(fds[0], "rb") as file:
            file.seek(0)
            bundle = marshal.load(file)
        _import(bundle["modules"])
        control.send(b"ready")
        order, fds = _receive(control)
        while order == b"more":
            order, further = _receive(control)
            fds += further
        control.send(b"forked %d" % os.getpid())
        embedded = importlib.import_module("_coring.embedded")
        config = dict(bundle["config"], environ=self.environ)
        embedded.start(self.application, config, fds)

    def stop(self, timeout: float | None = 1) -> None:
        """Ends it: requests that run have this long to end, in seconds."""
        process = self._process
        if process is None:
            return
        self._process = None
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Ends it at once."""
        self.stop(0)

    def serve_forever(self, stop_timeout: float | None = 1) -> None:
        """Serves until another thread or greenlet, or an exception such as KeyboardInterrupt, stops
        it."""
        if self._process is None:
            self.start()
        process = self._process
        if process is None:
            # It has been stopped meanwhile.
            return
        try:
            status = _status(process)
            if self._process is process and status != 0:
                raise RuntimeError(f"coring has ended (status {status})")
        finally:
            self.stop(stop_timeout)


def _status(process: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a process.

    A signal right before a wait does not interrupt it, and Python runs the handler only after the
    wait: so each wait is short.
    """
    if _is_patched():
        while True:
            try:
                return process.wait(1)
            except subprocess.TimeoutExpired:
                pass
    if hasattr(os, "pidfd_open"):
        try:
            fd = os.pidfd_open(process.pid)
        except OSError:
            return process.wait()
        try:
            polling = select.poll()
            polling.register(fd, select.POLLIN)
            while not polling.poll(1000):
                pass
        finally:
            os.close(fd)
    return process.wait()


def _is_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


def _width(spawn: Any) -> int | None:
    if spawn == "default":
        return None
    size = getattr(spawn, "size", spawn)
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    raise TypeError('spawn must be "default", a number, or a pool that has a size')


def _address(listener: Listener) -> tuple[str, Any]:
    """How coring is told of the address, and what it is in Python."""
    if hasattr(listener, "getsockname"):
        address = listener.getsockname()
        listener.close()
        listener = f"unix:{address}" if isinstance(address, str) else address[:2]
    if isinstance(listener, str):
        if listener.startswith("unix:"):
            path = os.path.abspath(listener[len("unix:") :])
            return f"unix:{path}", path
        host, _, port = listener.rpartition(":")
        listener = (host.strip("[]"), port)
    host, port = listener
    return "", (host or "0.0.0.0", int(port))


class _Probe:
    """A socket that is bound to an address until coring listens there: so an address in use is an
    OSError here, and a port is found that stays free."""

    def __init__(self, address: Any) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def __enter__(self) -> socket.socket | None:
        if not isinstance(self._address, tuple):
            return None
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(self._address)
        return self._socket

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name == _KEPT or not name.startswith(_FOREIGN)
    }


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """A message of coring, and its descriptors."""
    fds = array.array("i")
    room = socket.CMSG_SPACE(_FDS_MAX * fds.itemsize)
    message, ancillary, _, _ = control.recvmsg(4096, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return message, list(fds)


_lock = threading.Lock()


def _import(sources: dict[str, str]) -> None:
    """Has `_coring` imported from memory."""
    with _lock:
        if not any(isinstance(finder, _Importer) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Importer(sources))


class _Importer:
    """Finds and loads the modules of `_coring` by their sources."""

    def __init__(self, sources: dict[str, str]) -> None:
        self._sources = sources

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in self._sources:
            return None
        origin = "coring:" + name.replace(".", "/") + ".py"
        spec = ModuleSpec(name, self, origin=origin, is_package=name == "_coring")  # type: ignore[arg-type]
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        source = self._sources[module.__name__]
        spec = module.__spec__
        assert spec is not None and spec.origin is not None
        exec(compile(source, spec.origin, "exec"), module.__dict__)

    def get_source(self, name: str) -> str:
        """The lines that tracebacks show."""
        return self._sources[name]
