"""The startup and the shutdown of an ASGI application."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from _coring import logs
from _coring.cycle import Message, Waiting

if TYPE_CHECKING:
    from _coring.asgi import Server

LIFESPAN = {"version": "3.0", "spec_version": "2.0"}


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
