"""Runs an ASGI application: an event loop, and a task for each request."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections import deque
from marshal import loads
from time import monotonic
from typing import Any, Awaitable, Callable

from _coring import logs
from _coring.application import LoadError, as_asgi3
from _coring.cycle import Cycle, Waiting
from _coring.lifespan import Lifespan
from _coring.link import (
    DONTWAIT,
    DRAIN,
    EXPIRED,
    GONE,
    GRANT,
    MESSAGE_BYTES_MAX,
    PART,
    REQUEST,
    RING_INTERVAL,
    SEND_FLAGS,
    Link,
    pack_prefix,
)
from _coring.main import python_version

Application = Callable[..., Awaitable[None]]

HTTP = {"version": "3.0", "spec_version": "2.5"}

# Messages that are taken in one turn of the loop: others have their turn while many arrive.
MESSAGES_MAX = 128
# Where possible, a task runs at once as far as it can: many need no further turn of the loop.
EAGER: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}

_EXPIRED = pack_prefix(EXPIRED, 0, 0, 0)


class Core:
    """The socket of one of coring's cores."""

    def __init__(self, server: Server, index: int) -> None:
        self.server = server
        self.index = index
        self.sock = server.link.data[index]
        self.is_draining = False
        self.is_lost = False
        # Messages that the socket had no room for.
        self.queue: deque[bytes] = deque()
        self.room = Waiting(server.loop)
        self._unrung_since: float | None = None
        self._is_reading = False

    def send(self, message: bytes) -> None:
        """Sends a message now, and rings when all was read or at the end of the loop's turn."""
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
            if not self._is_reading:
                self.server.loop.call_soon(self.ring)
        elif monotonic() - self._unrung_since >= RING_INTERVAL:
            self.server.link.ring(self.index)
            self._unrung_since = monotonic()

    def ring(self) -> None:
        if self._unrung_since is not None:
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
                if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    self.server.link.fail(error)
                self.lose()
                return
            self.queue.popleft()
        self.server.loop.remove_writer(self.sock.fileno())
        self.server.link.ring(self.index)
        self.room.changed()

    def lose(self) -> None:
        """The core has closed its end: its clients have gone."""
        if self.is_lost:
            return
        self.is_lost = True
        self.server.loop.remove_reader(self.sock.fileno())
        self.server.loop.remove_writer(self.sock.fileno())
        self.queue.clear()
        self.room.changed()
        for cycle in list(self.server.cycles.values()):
            if cycle.core is self:
                cycle.disconnect()

    def read(self) -> bool:
        """Takes the messages that wait, or as many of them as one turn may. `True`: it has all."""
        self._is_reading = self._unrung_since is None
        has_all = self._read()
        if self._is_reading:
            self._is_reading = False
            self.ring()
        return has_all

    def _read(self) -> bool:
        receive, buffer = self.sock.recv_into, self.server.buffer
        for _ in range(MESSAGES_MAX):
            if self.is_lost:
                break
            try:
                size = receive(buffer, 0, DONTWAIT)
            except BlockingIOError:
                return True
            except ConnectionError:
                size = 0
            except OSError as error:
                self.server.link.fail(error)
            if not size:
                self.lose()
                break
            message = loads(buffer)
            if message[0] == REQUEST:
                self.server.begin(self, message)
            else:
                self._take(message)
        return self.is_lost

    def _take(self, message: Any) -> None:
        if message[0] == DRAIN:
            self.is_draining = True
            for cycle in list(self.server.cycles.values()):
                if cycle.core is self:
                    cycle.changed()
            return
        found = self.server.cycles.get(message[1])
        if found is None:
            return
        if message[0] == PART:
            found.take_part(message[2], message[3])
        elif message[0] == GRANT:
            found.credit += message[2]
            found.changed()
        elif message[0] == GONE:
            found.disconnect()


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
        cycle = self.cycles[ident] = Cycle(core, ident, scope, body)
        # The loop refers to its tasks weakly. Each of them has a copy of this callback's context.
        if EAGER:
            cycle.task = asyncio.Task(cycle.run(), loop=self.loop, **EAGER)
        else:
            cycle.task = self.loop.create_task(cycle.run())

    def forget(self, cycle: Cycle) -> None:
        self.cycles.pop(cycle.ident, None)
        if self.link.is_quitting and not self.cycles:
            self.changes.changed()

    async def run(self, interface: str) -> str | None:
        """Serves until coring asks for the end. Returns why the application has not started."""
        lifespan = Lifespan(self, self.config.get("lifespan", "auto"))
        failure = await lifespan.start()
        if failure is not None:
            return failure
        logs.warn_of_access_filters()
        os.register_at_fork(after_in_child=self._forked)
        for core in self.cores:
            self.loop.add_reader(core.sock.fileno(), core.read)
        self.loop.add_reader(self.link.control.fileno(), self._read_control)
        detail = f"{python_version()}, {_name_of(self.loop)}"
        self.link.report_loaded(f"{interface} asgi 1 {detail}")
        while not self.link.is_quitting:
            await self.changes.change()
        end = self.loop.time() + float(self.config.get("drain_timeout", 30.0))
        await self._finish(end)
        # Whatever arrives from now on is left to another worker.
        for core in self.cores:
            self.loop.remove_reader(core.sock.fileno())
        await lifespan.stop(max(1.0, end - self.loop.time()))
        return None

    def _read_control(self) -> None:
        # It ends the process if coring has ended: also while the last requests run.
        self.link.read_control()
        self.changes.changed()

    async def _finish(self, end: float) -> None:
        """Runs the requests to their ends, and those that are still in the sockets."""
        while self.loop.time() < end:
            has_all = all(core.read() for core in self.cores)
            if has_all and not self.cycles and not any(core.queue for core in self.cores):
                return
            await self.changes.change(min(0.1, end - self.loop.time()) if has_all else 0)

    def _forked(self) -> None:
        """In a forked child: it ends as soon as it comes back to the loop."""
        self.loop.call_soon(self.link.end_if_forked)


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """Makes the event loop, and has asyncio.get_event_loop() return it in this thread."""
    loop: asyncio.AbstractEventLoop
    try:
        if name == "asyncio":
            raise ImportError
        import uvloop

        loop = uvloop.new_event_loop()
    except ImportError as error:
        if name == "uvloop":
            raise LoadError(
                f"--loop uvloop needs the module `uvloop` ({error}); "
                f"try: {sys.executable} -m pip install uvloop"
            ) from None
        loop = asyncio.SelectorEventLoop()
    asyncio.set_event_loop(loop)
    return loop


def current_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of this thread, made here or while the application was imported."""
    if sys.version_info >= (3, 14):
        try:
            return asyncio.get_event_loop()
        except RuntimeError:
            return None
    # Asking for it in public would make one.
    local = getattr(asyncio.get_event_loop_policy(), "_local", None)
    loop: asyncio.AbstractEventLoop | None = getattr(local, "_loop", None)
    return None if loop is None or loop.is_closed() else loop


def run(
    link: Link, app: Any, interface: str, config: dict[str, Any], loop: asyncio.AbstractEventLoop
) -> str | None:
    """Serves until coring asks for the end. Returns why the application has not started."""
    if interface == "asgi2":
        app = as_asgi3(app)
    failure = loop.run_until_complete(Server(link, app, loop, config).run(interface))
    if failure is None:
        loop.run_until_complete(_clean_up(loop))
    return failure


def _name_of(loop: asyncio.AbstractEventLoop) -> str:
    name = type(loop).__module__.partition(".")[0]
    version = getattr(sys.modules.get(name), "__version__", "")
    return f"{name} {version}".rstrip()


async def _clean_up(loop: asyncio.AbstractEventLoop) -> None:
    """Ends what the application has left behind in the loop."""
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=2)
    await loop.shutdown_asyncgens()
    if sys.version_info >= (3, 9):
        await loop.shutdown_default_executor()
