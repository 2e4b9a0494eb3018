"""Runs an ASGI application: an event loop, a task for each request, and the lifespan protocol."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from marshal import loads
from time import monotonic
from typing import Any, Awaitable, Callable, Dict

from _coring import logs
from _coring.application import LoadError, as_asgi3
from _coring.link import (
    ABORT,
    BODY,
    BODY_BYTES_MAX,
    CREDIT_BYTES,
    DONTWAIT,
    DRAIN,
    END,
    EXPIRED,
    GONE,
    GRANT,
    MESSAGE_BYTES_MAX,
    PART,
    REQUEST,
    RING_INTERVAL,
    SEND_FLAGS,
    WANT,
    ClientDisconnected,
    Head,
    Link,
    make_head,
    pack_prefix,
)
from _coring.main import python_version

Message = Dict[str, Any]
Application = Callable[..., Awaitable[None]]

HTTP = {"version": "3.0", "spec_version": "2.5"}
LIFESPAN = {"version": "3.0", "spec_version": "2.0"}

_pair = b"\0".join
_lines = b"\n".join
_join = b"".join

# Every field of the connection is coring's, so those of the application are left out.
_TOLERATED = (
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer trailers"
    b" transfer-encoding upgrade"
)
_ERROR = b"Internal Server Error"
_ERROR_FIELDS = b"\nContent-Type\0text/plain\nContent-Length\0%d" % len(_ERROR)
_ERROR_HEAD = make_head(500, _ERROR, _ERROR_FIELDS, 2, b"")
_BODY_PART = pack_prefix(BODY, 0, 0, 0)
_BODY_END = pack_prefix(BODY, END, 0, 0)
_ABORT = pack_prefix(ABORT, 0, 0, 0)
_EXPIRED = pack_prefix(EXPIRED, 0, 0, 0)
# The room for a request's body is given back in pieces of this many bytes.
_WANT_BYTES = CREDIT_BYTES // 4

_heads: dict[tuple[int, bytes], Head] = {}
_HEADS_MAX = 512
_CACHED_BYTES_MAX = 2048


def head_of(message: Message) -> Head:
    """The head of `http.response.start`, validated."""
    status = message["status"]
    headers = message.get("headers", ())
    if not hasattr(headers, "__len__"):
        headers = list(headers)
    try:
        fields = _lines([b"", *map(_pair, headers)])
        head = _heads[status, fields]
        if head.count == len(headers):
            return head
    except KeyError:
        pass
    except TypeError as error:
        raise TypeError(f"headers must be pairs of bytes: {error}") from None
    if not isinstance(status, int):
        raise TypeError(f"status must be int, not {type(status).__name__}")
    head = make_head(status, b"", fields, len(headers), _TOLERATED)
    if len(fields) <= _CACHED_BYTES_MAX:
        if len(_heads) >= _HEADS_MAX:
            _heads.clear()
        _heads[status, fields] = head
    return head


class Waiting:
    """Something that coroutines wait for, each of them until it is said that it has changed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._futures: list[asyncio.Future[None]] = []

    async def change(self) -> None:
        future = self._loop.create_future()
        self._futures.append(future)
        try:
            await future
        finally:
            self._futures.remove(future)

    def changed(self) -> None:
        for future in self._futures:
            if not future.done():
                future.set_result(None)


class Core:
    """The socket of one of coring's cores."""

    def __init__(self, server: Server, index: int) -> None:
        self.server = server
        self.index = index
        self.sock = server.link.data[index]
        self.is_draining = False
        self.is_lost = False
        # Messages that the socket had no room for.
        self.queue: list[bytes] = []
        self.room = Waiting(server.loop)
        self._unrung_since: float | None = None

    def send(self, message: bytes) -> None:
        """Sends a message now, and rings at the end of the loop's turn."""
        if self.queue:
            self.queue.append(message)
            return
        try:
            self.sock.send(message, SEND_FLAGS)
        except OSError as error:
            self._not_sent(message, error)
            return
        if self._unrung_since is None:
            self._unrung_since = monotonic()
            self.server.loop.call_soon(self.ring)
        elif monotonic() - self._unrung_since >= RING_INTERVAL:
            self.server.link.ring(self.index)
            self._unrung_since = monotonic()

    def ring(self) -> None:
        self._unrung_since = None
        self.server.link.ring(self.index)

    def _not_sent(self, message: bytes, error: OSError) -> None:
        if error.errno in (errno.EAGAIN, errno.ENOBUFS):
            self.queue.append(message)
            self.server.link.ring(self.index)
            self.server.loop.add_writer(self.sock.fileno(), self._flush)
        elif error.errno in (errno.EPIPE, errno.ECONNRESET):
            self.lose()
        else:
            self.server.link.fail(error)

    def _flush(self) -> None:
        while self.queue:
            try:
                self.sock.send(self.queue[0], SEND_FLAGS)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                    self.server.link.ring(self.index)
                    return
                self.queue.clear()
                self.lose()
                break
            del self.queue[0]
        self.server.loop.remove_writer(self.sock.fileno())
        self.server.link.ring(self.index)
        self.room.changed()

    def lose(self) -> None:
        """The core has closed its end: its clients have gone."""
        if self.is_lost:
            return
        self.is_lost = True
        self.server.loop.remove_reader(self.sock.fileno())
        for cycle in list(self.server.cycles.values()):
            if cycle.core is self:
                cycle.disconnect()

    def read(self) -> None:
        """Takes all messages that wait."""
        receive, buffer = self.sock.recv_into, self.server.buffer
        while not self.is_lost:
            try:
                size = receive(buffer, 0, DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionError:
                size = 0
            except OSError as error:
                self.server.link.fail(error)
            if not size:
                self.lose()
                return
            message = loads(buffer)
            if message[0] == REQUEST:
                self.server.begin(self, message)
            else:
                self._take(message)

    def _take(self, message: Any) -> None:
        if message[0] == DRAIN:
            self.is_draining = True
            for cycle in list(self.server.cycles.values()):
                if cycle.core is self:
                    cycle.waiting.changed()
            return
        cycle = self.server.cycles.get(message[1])
        if cycle is None:
            return
        if message[0] == PART:
            cycle.take_part(message[2], message[3])
        elif message[0] == GRANT:
            cycle.credit += message[2]
            cycle.waiting.changed()
        elif message[0] == GONE:
            cycle.disconnect()


class Cycle:
    """One request and its response."""

    # Values that most requests do not change.
    head: Head | None = None
    left: int | None = None
    credit = CREDIT_BYTES
    has_more = False
    is_begun = False
    is_ended = False
    is_gone = False
    # Whether the application was told that the client goes.
    is_told = False
    consumed = 0
    task: asyncio.Task[None] | None = None

    def __init__(self, core: Core, ident: bytes, scope: Message, body: bytes | None) -> None:
        self.core = core
        self.ident = ident
        self.scope = scope
        # The body as far as it is here and not yet received by the application.
        self.body = body
        if body is None:
            self.has_more = True
        self.waiting = Waiting(core.server.loop)

    async def run(self) -> None:
        server = self.core.server
        try:
            await server.app(self.scope, self.receive, self.send)
        except BaseException as error:
            self._fail(error)
        else:
            if not self.is_ended:
                self._end_incomplete()
        finally:
            self.task = None
            server.forget(self)

    # What the application calls.

    async def receive(self) -> Message:
        while True:
            if self.is_gone or self.is_ended:
                self.is_told = True
                return {"type": "http.disconnect"}
            body = self.body
            if body is not None:
                self.body = None
                if self.has_more:
                    self._consume(len(body))
                return {"type": "http.request", "body": body, "more_body": self.has_more}
            # A request whose body still arrives is finished first.
            if self.core.is_draining and not self.has_more:
                self.is_told = True
                return {"type": "http.disconnect"}
            await self.waiting.change()

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self.is_ended:
            return
        if self.is_gone:
            self.is_told = True
            raise ClientDisconnected("the client has gone")
        head = self.head
        if head is None:
            if kind != "http.response.start":
                raise RuntimeError(f"expected 'http.response.start', but {kind!r} was sent")
            self.head = head_of(message)
            return
        if kind != "http.response.body":
            raise RuntimeError(f"expected 'http.response.body', but {kind!r} was sent")
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = _as_bytes(body)
        size = len(body)
        if (
            self.is_begun
            or message.get("more_body", False)
            or size > BODY_BYTES_MAX
            or not head.has_body
            or (head.length is not None and head.length != size)
            or self.scope["method"] == "HEAD"
            or self.core.queue
        ):
            await self._send_part(body, bool(message.get("more_body", False)))
            return
        self.is_begun = True
        self.core.send(_join((head.whole, self.ident, head.text, body)))
        self.end()

    # The body of the response.

    async def _send_part(self, body: bytes, has_more: bool) -> None:
        head = self.head
        assert head is not None
        prefix = b""
        is_bodiless = not head.has_body or self.scope["method"] == "HEAD"
        if not self.is_begun:
            self.left = None if is_bodiless else head.length
        if self.left is not None:
            if len(body) > self.left:
                raise RuntimeError("the body is longer than its Content-Length")
            if not has_more and len(body) < self.left:
                raise RuntimeError("the body is shorter than its Content-Length")
            self.left -= len(body)
        if not self.is_begun:
            self.is_begun = True
            prefix = (head.whole if is_bodiless else head.part) + self.ident + head.text
        if is_bodiless:
            self.core.send(prefix)
            self.end()
            return
        view = memoryview(body)
        while True:
            while self.credit <= 0 and view:
                await self.waiting.change()
                if self.is_gone:
                    self.is_told = True
                    raise ClientDisconnected("the client has gone")
            piece = view[: max(0, min(BODY_BYTES_MAX, self.credit))]
            view = view[len(piece) :]
            self.credit -= len(piece)
            is_last = not has_more and not view
            if not prefix:
                prefix = (_BODY_END if is_last else _BODY_PART) + self.ident
            elif is_last:
                prefix = head.whole + prefix[len(head.whole) :]
            if piece or prefix[0] != BODY or is_last:
                self.core.send(_join((prefix, piece)))
            prefix = b""
            if is_last:
                self.end()
            while self.core.queue:
                await self.core.room.change()
            if not view:
                return

    def end(self) -> None:
        """The response has been sent in full."""
        self.is_ended = True
        self.waiting.changed()

    def _end_incomplete(self) -> None:
        if not self.is_told:
            what = "completing" if self.is_begun else "starting"
            logs.error("uvicorn.error", f"ASGI callable returned without {what} response.")
        self._cut()

    def _fail(self, error: BaseException) -> None:
        self.core.server.link.end_if_forked(error)
        if not (self.is_gone and logs.is_caused_by(error, ClientDisconnected)):
            if not (self.is_told and isinstance(error, asyncio.CancelledError)):
                logs.exception("uvicorn.error", "Exception in ASGI application", error)
        if not self.is_ended:
            self._cut()

    def _cut(self) -> None:
        """Ends a response that the application has not ended."""
        if self.is_begun or self.is_gone:
            self.core.send(_ABORT + self.ident)
        else:
            body = b"" if self.scope["method"] == "HEAD" else _ERROR
            self.core.send(_join((_ERROR_HEAD.whole, self.ident, _ERROR_HEAD.text, body)))
        self.end()

    # What coring says.

    def take_part(self, data: bytes, has_more: bool) -> None:
        self.body = data if self.body is None else self.body + data
        self.has_more = has_more
        self.waiting.changed()

    def _consume(self, size: int) -> None:
        """The application has taken part of the body: there is room for more."""
        self.consumed += size
        if self.consumed >= _WANT_BYTES:
            self.core.send(pack_prefix(WANT, 0, 0, self.consumed) + self.ident)
            self.consumed = 0

    def disconnect(self) -> None:
        self.is_gone = True
        self.waiting.changed()


def _as_bytes(body: Any) -> bytes:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise TypeError(f"body must be bytes, not {type(body).__name__}")


class Lifespan:
    """The application's startup and shutdown."""

    def __init__(self, server: Server, mode: str) -> None:
        self._server = server
        self._mode = mode
        self._step = ""
        self._changes = Waiting(server.loop)
        self._is_stopping = False
        self._task: asyncio.Task[None] | None = None
        self._received = 0
        self._failure = ""
        self._error: BaseException | None = None

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": dict(LIFESPAN), "state": self._server.state}
        try:
            await self._server.app(scope, self._receive, self._send)
        except BaseException as error:
            self._server.link.end_if_forked(error)
            self._error = error
        finally:
            self._changes.changed()

    async def _receive(self) -> Message:
        self._received += 1
        if self._received == 1:
            return {"type": "lifespan.startup"}
        while not self._is_stopping or self._received > 2:
            await self._changes.change()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        expected = "lifespan.shutdown" if self._is_stopping else "lifespan.startup"
        if kind not in (expected + ".complete", expected + ".failed") or self._step == expected:
            raise RuntimeError(f"{kind!r} was sent out of turn")
        self._step = expected
        if kind.endswith(".failed"):
            self._failure = str(message.get("message", "")) or "no reason was given"
        self._changes.changed()

    async def start(self) -> bool:
        """Waits until the application has started. `False`: it has not."""
        if self._mode == "off":
            return True
        self._task = self._server.loop.create_task(self._run())
        while not self._step and not self._task.done():
            await self._changes.change()
        if self._failure:
            logs.write(f"{self._failure.rstrip()}\ncoring: the application has not started\n")
            return False
        if self._step or (self._mode != "on" and not isinstance(self._error, SystemExit)):
            if self._error is not None:
                # Applications without this protocol raise an exception at its scope.
                self._task = None
            return True
        if self._error is not None:
            logs.write(logs.format_error(self._error))
        logs.write("coring: the application has not started: it does not take lifespan events\n")
        return False

    async def stop(self, limit: float) -> None:
        """Waits until the application has shut down."""
        if self._task is None or self._task.done() or not self._step:
            return
        self._is_stopping = True
        self._step = ""
        self._changes.changed()
        end = self._server.loop.time() + limit
        while not self._step and not self._task.done():
            left = end - self._server.loop.time()
            try:
                await asyncio.wait_for(self._changes.change(), max(left, 0.01))
            except asyncio.TimeoutError:
                logs.write("coring: the application's shutdown was cut, since it took too long\n")
                return
        if self._error is not None:
            logs.exception("uvicorn.error", "Exception in 'lifespan' protocol", self._error)
        elif self._failure:
            logs.error("uvicorn.error", f"{self._failure}\nApplication shutdown failed.")


class Server:
    """The event loop's side of a worker."""

    def __init__(
        self, link: Link, app: Application, loop: asyncio.AbstractEventLoop, config: dict[str, Any]
    ) -> None:
        self.link = link
        self.app = app
        self.loop = loop
        self.config = config
        self.state: dict[str, Any] = {}
        self.cycles: dict[bytes, Cycle] = {}
        self.buffer = bytearray(MESSAGE_BYTES_MAX)
        self.changes = Waiting(loop)
        self.cores = [Core(self, index) for index in range(len(link.data))]

    def begin(self, core: Core, message: Any) -> None:
        _, _, ident, scope, body, deadline = message
        if monotonic() > deadline:
            core.send(_EXPIRED + ident)
            return
        scope["asgi"] = HTTP.copy()
        scope["state"] = self.state.copy()
        cycle = Cycle(core, ident, scope, body)
        self.cycles[ident] = cycle
        # The loop holds its tasks by weak references.
        cycle.task = self.loop.create_task(cycle.run())

    def forget(self, cycle: Cycle) -> None:
        self.cycles.pop(cycle.ident, None)
        if self.link.is_quitting and not self.cycles:
            self.changes.changed()

    async def run(self, interface: str, loop_name: str) -> bool:
        lifespan = Lifespan(self, self.config.get("lifespan", "auto"))
        if not await lifespan.start():
            return False
        logs.warn_of_access_filters()
        os.register_at_fork(after_in_child=self._forked)
        for core in self.cores:
            self.loop.add_reader(core.sock.fileno(), core.read)
        self.loop.add_reader(self.link.control.fileno(), self._read_control)
        self.link.report(f"loaded {interface} asgi 1 {python_version()}, {loop_name}")
        while not self.link.is_quitting:
            await self.changes.change()
        end = self.loop.time() + float(self.config.get("drain_timeout", 30.0))
        await self._finish(end)
        await lifespan.stop(max(1.0, end - self.loop.time()))
        return True

    def _read_control(self) -> None:
        self.link.read_control()
        if self.link.is_quitting:
            self.loop.remove_reader(self.link.control.fileno())
            self.changes.changed()

    async def _finish(self, end: float) -> None:
        """Runs the requests to their ends, and those that are still in the sockets."""
        while self.loop.time() < end:
            for core in self.cores:
                core.read()
            if not self.cycles and not any(core.queue for core in self.cores):
                return
            try:
                await asyncio.wait_for(self.changes.change(), min(0.1, end - self.loop.time()))
            except asyncio.TimeoutError:
                pass

    def _forked(self) -> None:
        """In a forked child: it ends as soon as it comes back to the loop."""
        self.loop.call_soon(self.link.end_if_forked)


def new_loop(name: str) -> tuple[asyncio.AbstractEventLoop, str]:
    """A loop, and what it is."""
    if name in ("auto", "uvloop"):
        try:
            import uvloop

            return uvloop.new_event_loop(), f"uvloop {uvloop.__version__}"
        except ImportError as error:
            if name == "uvloop":
                raise LoadError(
                    f"--loop uvloop needs the module `uvloop` ({error}); "
                    f"try: {sys.executable} -m pip install uvloop"
                ) from None
    return asyncio.SelectorEventLoop(), "asyncio"


def run(link: Link, app: Any, interface: str, config: dict[str, Any]) -> bool:
    """Serves until coring asks for the end. `False`: the application has not started."""
    if interface == "asgi2":
        app = as_asgi3(app)
    loop, name = new_loop(config.get("loop", "auto"))
    asyncio.set_event_loop(loop)
    started = loop.run_until_complete(Server(link, app, loop, config).run(interface, name))
    if started:
        loop.run_until_complete(_clean_up(loop))
    return started


async def _clean_up(loop: asyncio.AbstractEventLoop) -> None:
    """Ends what the application has left behind in the loop."""
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await loop.shutdown_asyncgens()
    if sys.version_info >= (3, 9):
        await loop.shutdown_default_executor()
