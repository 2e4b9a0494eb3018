"""Runs a WSGI application with gevent: a greenlet for each request, all of them in one hub."""

from __future__ import annotations

import io
import sys
import threading
import warnings
from collections import deque
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from _coring import BEFORE, cores, logs
from _coring.application import LoadError
from _coring.link import (
    CREDIT_BYTES,
    EXPIRED,
    GONE,
    GRANT,
    MESSAGE_BYTES_MAX,
    PART,
    WANT,
    ClientDisconnected,
    CoringEnded,
    Link,
    begun,
    call_in_children,
    pack_prefix,
)
from _coring.wsgi import Application, Caller, Response

if TYPE_CHECKING:
    from _coring.link import Stream

# Unless the configuration says otherwise.
CONNECTIONS = 1000
# The room for a request's body is given back in pieces of this many bytes.
_WANT_BYTES = CREDIT_BYTES // 4
_READ_BYTES = 64 << 10
_EXPIRED = pack_prefix(EXPIRED, 0, 0, 0)
# What an instrumentation that starts Python may import; the names that gevent cannot replace where
# other modules have taken them by then.
_EARLY = ("socket", "ssl", "threading")
# libev's, and so gevent's.
_READ, _WRITE = 1, 2


def patch() -> None:
    """Has the standard library wait in gevent's hub. To be called before any other import."""
    try:
        monkey = import_module("gevent.monkey")
    except ImportError as error:
        raise LoadError(
            f"-k gevent needs the module `gevent` ({error}); "
            f"try: {sys.executable} -m pip install gevent"
        ) from None
    if monkey.is_module_patched("socket"):
        logs.write(
            "coring: gevent has patched the standard library before coring could; it stays so\n"
        )
        return
    early = [name for name in _EARLY if name in BEFORE]
    threads = [thread.name for thread in threading.enumerate()[1:]]
    with warnings.catch_warnings():
        # They say less.
        warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)
        monkey.patch_all()
    # Of itself, an early import of `threading` does no harm.
    if early not in ([], ["threading"]) or threads:
        running = f", and has threads ({', '.join(threads)})" if threads else ""
        logs.write(
            f"coring: something has imported {', '.join(early) or 'modules'}{running} before "
            "gevent could patch the standard library, and may block all requests; if that is "
            "ddtrace-run, set DD_GEVENT_PATCH_ALL=true\n"
        )


class Core(cores.Core):
    """The socket of one of coring's cores."""

    def __init__(self, server: Server, index: int) -> None:
        super().__init__(server, index, server.buffer, server.loop.run_callback)
        self.server = server
        fd = self.sock.fileno()
        self.reader = server.loop.io(fd, _READ)
        self.writer = server.loop.io(fd, _WRITE)
        # Greenlets wait for it while the socket is full.
        self.room = server.new_event()

    def await_room(self) -> None:
        self.room.clear()
        self.writer.start(self.flush)

    def has_room(self) -> None:
        self.writer.stop()
        self.room.set()

    def lost(self) -> None:
        self.reader.stop()
        for exchange in list(self.server.exchanges.values()):
            if exchange.core == self.index:
                exchange.disconnect()

    def begin(self, message: Any) -> None:
        self.server.begin(message)

    def take(self, message: Any) -> None:
        # A drain is of no concern.
        exchange = self.server.exchanges.get(message[1]) if len(message) > 1 else None
        if exchange is None:
            return
        if message[0] == PART:
            exchange.take_part(message[2], message[3])
        elif message[0] == GRANT:
            exchange.grant(message[2])
        elif message[0] == GONE:
            exchange.disconnect()


class Exchange(Response):
    """One request and its response."""

    # Set when coring says something of it. Most requests need none.
    _event: Any = None
    # Whether more of the request's body is to come.
    has_more = False
    # Bytes of it that were read, and which coring does not know of.
    _consumed = 0

    def __init__(self, server: Server, message: Any) -> None:
        _, core, ident, environ, body, deadline = message
        super().__init__(server, core, ident, environ["REQUEST_METHOD"] == "HEAD")
        self.environ = environ
        self.deadline = deadline
        self.parts: deque[bytes] = deque()
        self.input: Any = None
        if body is None:
            self.has_more = True
            self.input = io.BufferedReader(Upload(self), _READ_BYTES)
        else:
            self.input = io.BytesIO(body)

    def run(self) -> None:
        """The greenlet of the request."""
        server: Server = self.link
        now = monotonic()
        if now > self.deadline:
            server.send(self.core, _EXPIRED + self.ident)
            server.end(self)
            return
        tell_wait = server.link.tell_wait
        if tell_wait:
            server.send(self.core, begun(self.ident, tell_wait - (self.deadline - now)))
        caller = server.caller
        environ = {**caller.base, **self.environ}
        environ["wsgi.input"] = self.input
        try:
            caller.respond(environ, self)
        except CoringEnded:
            pass
        except BaseException as error:
            self.fail(error, environ)
        finally:
            server.end(self)

    # What coring says of it.

    def wait(self) -> None:
        """Lets others run until coring has said something of this request."""
        if self._event is None:
            self._event = self.link.new_event()
        self._event.clear()
        self._event.wait()

    def _changed(self) -> None:
        if self._event is not None:
            self._event.set()

    def _wait_for_credit(self) -> None:
        while self.credit <= 0 and not self.is_gone:
            self.wait()

    def grant(self, size: int) -> None:
        self.credit += size
        self._changed()

    def disconnect(self) -> None:
        self.is_gone = True
        self._changed()

    def take_part(self, data: bytes, has_more: bool) -> None:
        if data:
            self.parts.append(data)
        self.has_more = has_more
        self._changed()

    def consume(self, size: int) -> None:
        """The application has read part of the body: there is room for more."""
        self._consumed += size
        if self._consumed >= _WANT_BYTES and self.has_more:
            self.link.send(self.core, pack_prefix(WANT, 0, 0, self._consumed) + self.ident)
            self._consumed = 0


class Upload(io.RawIOBase):
    """The body of a request, as it arrives."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        exchange = self._exchange
        while not exchange.parts:
            if not exchange.has_more:
                return 0
            if exchange.is_gone:
                raise ClientDisconnected("the client has gone before the end of its request")
            exchange.wait()
        part = exchange.parts.popleft()
        size = min(len(buffer), len(part))
        buffer[:size] = part[:size]
        if size < len(part):
            exchange.parts.appendleft(part[size:])
        exchange.consume(size)
        return size


class Server:
    """The hub's side of a worker. For responses it stands for the link."""

    def __init__(
        self,
        link: Link,
        app: Application,
        config: dict[str, Any],
        new_caller: Callable[..., Caller] = Caller,
    ) -> None:
        gevent = import_module("gevent")
        self.new_greenlet = self._greenlet_class(gevent.Greenlet)
        self.current = gevent.getcurrent
        self.new_event = import_module("gevent.event").Event
        self.link = link
        self.lock = link.lock
        self.data = link.data
        self.hub = gevent.get_hub()
        self.loop = self.hub.loop
        self.connections = int(config.get("worker_connections") or CONNECTIONS)
        self.caller = new_caller(self, app, config, self.connections)
        self.buffer = bytearray(MESSAGE_BYTES_MAX)
        self.exchanges: dict[bytes, Exchange] = {}
        # Those that wait until fewer run.
        self.inbox: deque[Exchange] = deque()
        self.running = 0
        self.changes = self.new_event()
        self.cores = [Core(self, index) for index in range(len(link.data))]
        self._control = self.loop.io(link.control.fileno(), _READ)
        self._beat = self.loop.timer(link.beat_interval, repeat=link.beat_interval)
        # In a forked child, the greenlet that has forked.
        self._forking: Any = None

    def report_loaded(self) -> None:
        """Says that requests may come."""
        from _coring.main import python_version

        detail = f"{python_version()}, gevent {import_module('gevent').__version__}"
        self.link.report_loaded(f"wsgi gevent {self.connections} {detail}")

    def run(self, limit: float) -> None:
        """Serves until coring asks for the end, and then for at most `limit` seconds."""
        call_in_children(self._forked)
        for core in self.cores:
            core.reader.start(core.read)
        self._control.start(self._read_control)
        if self.link.beat_interval:
            self._beat.start(self.link.beat)
        while not self.link.is_quitting:
            self._wait_for_changes(None)
        self._finish(monotonic() + limit)
        for core in self.cores:
            # What rings at the end of this turn may find the bells closed.
            core.ring()
        self._stop_watching()

    def _read_control(self) -> None:
        # It ends the process if coring has ended: also while the last requests run.
        try:
            self.link.read_control()
        except CoringEnded:
            self._control.stop()
        self.changes.set()

    def _finish(self, end: float) -> None:
        """Runs the requests to their ends, and those that are still in the sockets."""
        while monotonic() < end:
            has_all = all(core.read() for core in self.cores)
            if has_all and not self.exchanges and not any(core.queue for core in self.cores):
                return
            self._wait_for_changes(min(0.1, end - monotonic()) if has_all else 0.001)

    def _wait_for_changes(self, limit: float | None) -> None:
        """Lets others run. It does not return in a forked child, which only runs the greenlet that
        has forked it."""
        self.changes.clear()
        self.changes.wait(limit)
        while self.link.is_forked:
            self.changes.wait()
            self.changes.clear()

    # Requests.

    def begin(self, message: Any) -> None:
        """Has a request run in this turn of the hub, or when fewer run."""
        if self.link.requests_max:
            self.link.count_request()
        exchange = self.exchanges[message[2]] = Exchange(self, message)
        if self.running >= self.connections:
            self.inbox.append(exchange)
            return
        self.running += 1
        self.new_greenlet(exchange.run).start()

    def end(self, exchange: Exchange) -> None:
        """The greenlet of a request is about to end."""
        self.exchanges.pop(exchange.ident, None)
        self.running -= 1
        if self.inbox:
            self.running += 1
            self.new_greenlet(self.inbox.popleft().run).start()
        elif self.link.is_quitting and not self.exchanges:
            self.changes.set()

    # What a response needs of a link.

    def send(self, index: int, message: bytes) -> None:
        """Sends a message. A greenlet waits while there is no room for further ones."""
        core = self.cores[index]
        core.send(message)
        while core.queue and self.current() is not self.hub:
            core.room.wait()

    def flush(self, index: int) -> None:
        self.cores[index].ring()

    def ring(self, index: int) -> None:
        self.link.ring(index)

    def fail(self, error: OSError) -> NoReturn:
        self.link.fail(error)

    def read_data(self, index: int) -> None:
        """The hub reads."""

    def begin_stream(self, ident: bytes, stream: Stream) -> None:
        """All requests are told what concerns them."""

    # Processes that the application forks.

    @property
    def is_forked(self) -> bool:
        return self.link.is_forked

    def end_if_forked(self, error: BaseException | None = None) -> None:
        self.link.end_if_forked(error)

    def _greenlet_class(self, base: Any) -> Any:
        """The class of the greenlets that requests run in."""
        server = self

        class Greenlet(base):  # type: ignore[misc]
            """In a forked child only the one that has forked goes on. The others are copies: they
            stay where they are, since their requests and what they work with are the parent's."""

            def switch(self, *args: Any) -> Any:
                if server.link.is_forked and self is not server._forking:
                    return None
                return super().switch(*args)

            def throw(self, *args: Any) -> Any:
                if server.link.is_forked and self is not server._forking:
                    return None
                return super().throw(*args)

        return Greenlet

    def _forked(self) -> None:
        self._forking = self.current()
        self._stop_watching()
        for core in self.cores:
            core.leave_to_parent()

    def _stop_watching(self) -> None:
        for core in self.cores:
            core.reader.stop()
            core.writer.stop()
        self._control.stop()
        self._beat.stop()


def run(
    link: Link, app: Application, config: dict[str, Any], new_caller: Callable[..., Caller]
) -> None:
    """Serves until coring asks for the end."""
    # This process may be a fork of one that has a hub.
    import_module("gevent").reinit()
    server = Server(link, app, config, new_caller)
    logs.warn_of_access_filters()
    server.report_loaded()
    server.run(float(config.get("drain_timeout", 30.0)))
