"""A plugin of pytest by which uvicorn's tests of the lifespan protocol test that of coring.

What coring does with the outcome (its messages, the end of the process) is not part of it: the
messages that these tests look for are written here.
"""

import asyncio
import logging
import sys
import types
from pathlib import Path

import uvicorn.lifespan.off
import uvicorn.lifespan.on

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
from _coring import application, lifespan, logs


def leave_out(*_):
    """A message of coring's own."""


lifespan.logs = types.SimpleNamespace(
    exception=leave_out,
    error=leave_out,
    info=leave_out,
    write=leave_out,
    format_error=logs.format_error,
)
LOGGER = logging.getLogger("uvicorn.error")


class Adapted:
    """`LifespanOn` of uvicorn, done by coring."""

    def __init__(self, config):
        # The tests read what is logged, which the configuration keeps from them.
        logging.getLogger("uvicorn").propagate = True
        app = config.app
        if application.interface_of(app) == "asgi2":
            app = application.as_asgi3(app)
        link = types.SimpleNamespace(end_if_forked=lambda _: None)
        loop = asyncio.get_running_loop()
        self._server = types.SimpleNamespace(app=app, loop=loop, state={}, link=link)
        self._lifespan = lifespan.Lifespan(self._server, config.lifespan)
        self.startup_failed = self.shutdown_failed = self.should_exit = False

    @property
    def state(self):
        return self._server.state

    @property
    def error_occurred(self):
        return self._lifespan._error is not None

    def _log(self, event):
        if self._lifespan._failure:
            LOGGER.error(self._lifespan._failure)
            LOGGER.error("Application %s failed. Exiting.", event)
        return bool(self._lifespan._failure)

    async def startup(self):
        self.should_exit = await self._lifespan.start() is not None
        self.startup_failed = self._log("startup")
        # The application has a turn after its message.
        await asyncio.sleep(0.01)

    async def shutdown(self):
        if self.startup_failed:
            return
        await self._lifespan.stop(10)
        self.shutdown_failed = self._log("shutdown")
        self.should_exit = self.should_exit or self.shutdown_failed
        await asyncio.sleep(0.01)


uvicorn.lifespan.on.LifespanOn = Adapted
uvicorn.lifespan.off.LifespanOff = Adapted
