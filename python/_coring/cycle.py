"""One request of an ASGI application and its response."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Dict, Sequence

from _coring import logs
from _coring.heads import ERROR_BODY, ERROR_HEAD, Head, make_head, remember
from _coring.link import (
    ABORT,
    BODY,
    BODY_BYTES_MAX,
    CREDIT_BYTES,
    END,
    WANT,
    ClientDisconnected,
    as_last,
    pack_prefix,
)

if TYPE_CHECKING:
    from _coring.asgi import Core

Message = Dict[str, Any]

_pair = b"\0".join
_lines = b"\n".join
_join = b"".join

# Every field of the connection is coring's, so those of the application are left out.
_TOLERATED = (
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer trailers"
    b" transfer-encoding upgrade"
)
_BODY_PART = pack_prefix(BODY, 0, 0, 0)
_BODY_END = pack_prefix(BODY, END, 0, 0)
_ABORT = pack_prefix(ABORT, 0, 0, 0)
# The room for a request's body is given back in pieces of this many bytes.
_WANT_BYTES = CREDIT_BYTES // 4

# Heads by their statuses and headers. Most applications have few of them.
_heads: dict[Any, Head] = {}


def head_of(message: Message) -> Head:
    """The head of `http.response.start`, validated."""
    status = message["status"]
    if not isinstance(status, int):
        raise TypeError(f"status must be int, not {type(status).__name__}")
    headers = message.get("headers", ())
    try:
        key = (status, *headers) if type(headers) is list else None
        return _heads[key]
    except (KeyError, TypeError):
        pass
    # A pair may be a list as well.
    headers = tuple(map(tuple, headers))
    try:
        fields = _lines([b"", *map(_pair, headers)])
    except TypeError as error:
        raise TypeError(f"headers must be pairs of bytes: {error}") from None
    head = make_head(status, b"", fields, len(headers), _TOLERATED)
    remember(_heads, (status, *headers), head)
    return head


class Waiting:
    """Something that coroutines wait for, each of them until it is told of a change."""

    # A list as soon as there is a future.
    _futures: Sequence[asyncio.Future[None]] = ()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def change(self, limit: float | None = None) -> None:
        """Waits for a change of any kind, at most `limit` seconds."""
        future = self._loop.create_future()
        self._futures = [*self._futures, future]
        timer = None if limit is None else self._loop.call_later(limit, _wake, future)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            self._futures = [other for other in self._futures if other is not future]

    def changed(self) -> None:
        """Wakes all that wait."""
        for future in self._futures:
            _wake(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Cycle(Waiting):
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
        self._loop = core.server.loop
        self.core = core
        self.ident = ident
        self.scope = scope
        # The body as far as it is here and not yet received by the application.
        self.body = body
        self.is_head = scope["method"] == "HEAD"
        if body is None:
            self.has_more = True

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
            await self.change()

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
            or self.is_head
            or self.core.queue
        ):
            await self._send_part(head, body, bool(message.get("more_body", False)))
            return
        self.is_begun = True
        self.core.send(_join((head.whole, self.ident, head.text, body)))
        self.end()

    # The body of the response.

    def _begin_part(self, head: Head, size: int, has_more: bool) -> bytes:
        """Accounts for `size` bytes. The result is what a message with the head begins with."""
        has_body = head.has_body and not self.is_head
        if not self.is_begun:
            self.left = head.length if has_body else None
        if self.left is not None:
            if size > self.left:
                raise RuntimeError("the body is longer than its Content-Length")
            if size < self.left and not has_more:
                raise RuntimeError("the body is shorter than its Content-Length")
            self.left -= size
        if self.is_begun:
            return b""
        self.is_begun = True
        if has_body:
            return head.part + self.ident + head.text
        self.core.send(head.whole + self.ident + head.text)
        self.end()
        return b""

    async def _send_part(self, head: Head, body: bytes, has_more: bool) -> None:
        """Sends a part of the body in as many messages as it needs, and waits for credit."""
        prefix = self._begin_part(head, len(body), has_more)
        if self.is_ended or not (body or prefix or not has_more):
            return
        view = memoryview(body)
        while True:
            while self.credit <= 0 and view:
                await self._change_unless_gone(self)
            piece = view[: max(0, min(BODY_BYTES_MAX, self.credit))]
            view = view[len(piece) :]
            self.credit -= len(piece)
            is_last = not has_more and not view
            if not prefix:
                prefix = (_BODY_END if is_last else _BODY_PART) + self.ident
            elif is_last:
                prefix = as_last(prefix)
            self.core.send(_join((prefix, piece)))
            prefix = b""
            if is_last:
                self.end()
            while self.core.queue:
                await self._change_unless_gone(self.core.room)
            if not view:
                return

    async def _change_unless_gone(self, waiting: Waiting) -> None:
        await waiting.change()
        if self.is_gone and not self.is_ended:
            self.is_told = True
            raise ClientDisconnected("the client has gone")

    def end(self) -> None:
        """The response has been sent in full."""
        self.is_ended = True
        if self._futures:
            self.changed()

    def _end_incomplete(self) -> None:
        if not (self.is_told or self.is_gone):
            what = "completing" if self.is_begun else "starting"
            logs.error("uvicorn.error", f"ASGI callable returned without {what} response.")
        self._cut()

    def _fail(self, error: BaseException) -> None:
        link = self.core.server.link
        if link.is_forked and not isinstance(error, SystemExit):
            logs.write(logs.format_error(error))
        link.end_if_forked(error)
        is_expected = self.is_gone and logs.is_caused_by(error, ClientDisconnected)
        if isinstance(error, asyncio.CancelledError):
            # The application ends itself, or is ended because time is over.
            is_expected = self.is_told or link.is_quitting
        if not is_expected:
            logs.exception("uvicorn.error", "Exception in ASGI application", error)
        if not self.is_ended:
            self._cut()

    def _cut(self) -> None:
        """Ends a response that the application has not ended."""
        if self.is_begun or self.is_gone:
            self.core.send(_ABORT + self.ident)
        else:
            body = b"" if self.is_head else ERROR_BODY
            self.core.send(_join((ERROR_HEAD.whole, self.ident, ERROR_HEAD.text, body)))
        self.end()

    # What coring says.

    def take_part(self, data: bytes, has_more: bool) -> None:
        self.body = data if self.body is None else self.body + data
        self.has_more = has_more
        self.changed()

    def _consume(self, size: int) -> None:
        """The application has taken part of the body: there is room for more."""
        self.consumed += size
        if self.consumed >= _WANT_BYTES:
            self.core.send(pack_prefix(WANT, 0, 0, self.consumed) + self.ident)
            self.consumed = 0

    def disconnect(self) -> None:
        self.is_gone = True
        self.changed()


def _as_bytes(body: Any) -> bytes:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise TypeError(f"body must be bytes, not {type(body).__name__}")
