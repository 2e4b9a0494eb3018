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
    """The one call of the application by which it hears of its startup and its shutdown."""

    def __init__(self, server: Server, mode: str) -> None:
        self._server = server
        self._mode = mode
        self._changes = Waiting(server.loop)
        self._task: asyncio.Task[None] | None = None
        # The event under way, and whether the application has answered to it.
        self._event = "lifespan.startup"
        self._is_answered = False
        self._received = 0
        self._failure = ""
        self._error: BaseException | None = None

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": LIFESPAN.copy(), "state": self._server.state}
        try:
            await self._server.app(scope, self._receive, self._send)
        except BaseException as error:
            self._server.link.end_if_forked(error)
            if self._is_answered or self._event == "lifespan.shutdown":
                logs.exception("uvicorn.error", "Exception in 'lifespan' protocol\n", error)
            self._error = error
        finally:
            self._changes.changed()

    async def _receive(self) -> Message:
        self._received += 1
        if self._received == 1:
            return {"type": "lifespan.startup"}
        while self._received > 2 or self._event != "lifespan.shutdown":
            await self._changes.change()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._is_answered or kind not in (f"{self._event}.complete", f"{self._event}.failed"):
            raise RuntimeError(f"{kind!r} was sent, though nothing like it is expected now")
        self._is_answered = True
        if kind.endswith(".failed"):
            self._failure = str(message.get("message", "")).rstrip() or "it gave no reason"
        self._changes.changed()

    async def start(self) -> str | None:
        """Waits until the application has started. Returns why it has not."""
        if self._mode == "off":
            return None
        self._task = self._server.loop.create_task(self._run())
        while not self._is_answered and not self._task.done():
            await self._changes.change()
        if self._is_answered:
            if self._failure:
                return f"{self._failure}\ncoring: the application's startup has failed\n"
            return None
        # Many applications raise an exception, since they know no scope of this type.
        if self._mode != "on" and not isinstance(self._error, SystemExit):
            text = f"the application takes no lifespan events ({self._outcome()})"
            logs.info("uvicorn.error", text)
            return None
        trace = logs.format_error(self._error) if self._error is not None else ""
        return f"{trace}coring: the application has not started ({self._outcome()})\n"

    def _outcome(self) -> str:
        if self._error is None:
            return "its call for the lifespan scope has returned"
        return f"{type(self._error).__name__}: {self._error}"

    async def stop(self, limit: float) -> None:
        """Waits until the application has shut down, at most `limit` seconds."""
        if self._task is None or self._task.done():
            return
        self._event = "lifespan.shutdown"
        self._is_answered = False
        self._changes.changed()
        end = self._server.loop.time() + limit
        while not self._is_answered and not self._task.done():
            left = end - self._server.loop.time()
            if left <= 0:
                logs.write("coring: the application's shutdown was cut, since it took too long\n")
                return
            await self._changes.change(left)
        if self._failure:
            logs.error("uvicorn.error", f"{self._failure}\nthe application's shutdown has failed")
