"""Runs an ASGI application: an event loop, and a task for each request."""

from __future__ import annotations

import asyncio
import os
import sys
from time import monotonic
from typing import Any, Awaitable, Callable

from _coring import cores, logs
from _coring.application import LoadError
from _coring.cycle import Cycle, Waiting
from _coring.lifespan import Lifespan
from _coring.link import (
    DRAIN,
    EXPIRED,
    GONE,
    GRANT,
    MESSAGE_BYTES_MAX,
    PART,
    Link,
    begun,
    pack_prefix,
)
from _coring.main import python_version

Application = Callable[..., Awaitable[None]]

HTTP = {"version": "3.0", "spec_version": "2.5"}

# Where possible, a task runs at once as far as it can: many need no further turn of the loop.
EAGER: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}

_EXPIRED = pack_prefix(EXPIRED, 0, 0, 0)


class Core(cores.Core):
    """The socket of one of coring's cores."""

    def __init__(self, server: Server, index: int) -> None:
        super().__init__(server.link, index, server.buffer, server.loop.call_soon)
        self.server = server
        self.is_draining = False
        self.room = Waiting(server.loop)

    def await_room(self) -> None:
        self.server.loop.add_writer(self.sock.fileno(), self.flush)

    def has_room(self) -> None:
        self.server.loop.remove_writer(self.sock.fileno())
        self.room.changed()

    def lost(self) -> None:
        self.server.loop.remove_reader(self.sock.fileno())
        for cycle in list(self.server.cycles.values()):
            if cycle.core is self:
                cycle.disconnect()

    def begin(self, message: Any) -> None:
        self.server.begin(self, message)

    def take(self, message: Any) -> None:
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
        now = monotonic()
        if now > deadline:
            core.send(_EXPIRED + ident)
            return
        if self.link.requests_max:
            self.link.count_request()
        tell_wait = self.link.tell_wait
        if tell_wait:
            core.send(begun(ident, tell_wait - (deadline - now)))
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
        if self.link.beat_interval:
            self._beat()
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

    def _beat(self) -> None:
        self.link.beat()
        self.loop.call_later(self.link.beat_interval, self._beat)

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
