"""Calls a WSGI application by PEP 3333."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from typing import Any, Callable, Dict, Iterable, List, Tuple

from _coring import logs
from _coring.files import FileWrapper, Spooled
from _coring.heads import ERROR_BODY, ERROR_HEAD, Head, make_head, remember
from _coring.link import (
    ABORT,
    BODY,
    BODY_BYTES_MAX,
    CREDIT_BYTES,
    END,
    ClientDisconnected,
    CoringEnded,
    as_last,
    pack_prefix,
)

Environ = Dict[str, Any]
Headers = List[Tuple[str, str]]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

_pair = "\0".join
_join = b"".join

_STATUS = re.compile(r"([0-9]{3})(?: ([\t\x20-\x7e\x80-\xff]*))?").fullmatch
# PEP 3333 lets a server refuse these. Applications send them that run on other servers, so they are
# left out instead.
_TOLERATED = b"connection keep-alive transfer-encoding"
_BODY_PART = pack_prefix(BODY, 0, 0, 0)
_BODY_END = pack_prefix(BODY, END, 0, 0)
_ABORT = pack_prefix(ABORT, 0, 0, 0)

# Heads by their statuses and headers. Most applications have few of them.
_heads: dict[Any, Head] = {}


def head_of(status: str, headers: Headers) -> Head:
    """The head of a response, validated."""
    if not isinstance(status, str):
        raise TypeError(f"the status must be str, not {type(status).__name__}")
    match = _STATUS(status)
    if match is None:
        raise ValueError(f"the status {status!r} is not three digits, a space and a reason")
    if not isinstance(headers, (list, tuple)):
        raise TypeError(f"the headers must be a list, not {type(headers).__name__}")
    for item in headers:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(f"a header must be a tuple of name and value, not {item!r}")
        if not (isinstance(item[0], str) and isinstance(item[1], str)):
            raise TypeError(f"a header's name and value must be str: {item!r}")
    fields = "".join(["\n" + _pair(item) for item in headers])
    try:
        encoded = fields.encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError(f"a header has a character beyond U+00FF: {error}") from None
    reason = (match[2] or "").encode("latin-1")
    head = make_head(int(match[1]), reason, encoded, len(headers), _TOLERATED)
    remember(_heads, (status, *map(tuple, headers)), head)
    return head


class Response:
    """The response to one request: start_response, write, and the way of its parts to coring."""

    # Values that most responses do not change.
    head: Head | None = None
    is_called = False
    # A part of it was sent; all of it was sent.
    is_begun = False
    is_ended = False
    is_gone = False
    is_excessive = False
    # Sent with the first part of the body.
    prefix = b""
    credit = CREDIT_BYTES
    left: int | None = None
    waker: int | None = None

    def __init__(self, link: Any, core: int, ident: bytes, is_head: bool) -> None:
        """`link` is a Link, or what stands for it where requests run in greenlets."""
        self.link = link
        self.core = core
        self.ident = ident
        self.is_head = is_head

    # What the application calls.

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if self.is_called or exc_info:
            self._start_again(exc_info)
            exc_info = None
        self.is_called = True
        try:
            # One lookup instead of validation.
            key = (status, *headers) if type(headers) is list else None
            self.head = _heads[key]
        except (KeyError, TypeError):
            self.head = head_of(status, headers)
        return self.write

    def _start_again(self, exc_info: Any) -> None:
        if not exc_info:
            raise AssertionError("start_response was called before, and exc_info is not given")
        try:
            if self.is_begun or self.is_ended:
                raise exc_info[1].with_traceback(exc_info[2])
        finally:
            exc_info = None

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError(f"write() takes bytes, not {type(data).__name__}")
        if data and not self.part(data):
            if self.is_gone:
                raise ClientDisconnected("the client has gone")
            if self.is_excessive:
                raise ValueError("write() goes beyond the Content-Length of the response")

    # What the result of the application is given to.

    def finish(self, body: bytes) -> None:
        """Sends the rest of the body, which is all there."""
        head = self.head
        if head is None:
            raise AssertionError("the application has not called start_response")
        size = len(body)
        if (
            self.is_begun
            or self.is_head
            or not head.has_body
            or size > BODY_BYTES_MAX
            or (head.length is not None and head.length != size)
            or type(body) is not bytes
        ):
            self.check(body)
            if self.is_head and head.length is None and size and not self.is_begun:
                self._state_length(head, size)
            if body:
                self.part(body)
            self.end()
            return
        self.is_ended = True
        self.link.send(self.core, _join((head.whole, self.ident, head.text, body)))

    def _state_length(self, head: Head, size: int) -> None:
        """A response to HEAD says how long the body of GET is, if that is known."""
        if not head.has_body:
            return
        fields = head.text + b"\nContent-Length:%d" % size
        self.head = Head(int.from_bytes(head.part[2:4], "little"), fields, size)

    def stream(self, blocks: Iterable[bytes]) -> None:
        """Sends each block before it asks for the next one."""
        try:
            for block in blocks:
                self.check(block)
                if block and not self.part(block):
                    break
            self.end()
        finally:
            close = getattr(blocks, "close", None)
            if close is not None:
                close()

    @staticmethod
    def check(block: object) -> None:
        if not isinstance(block, bytes):
            text = f"the application has returned {type(block).__name__} for a part of the body"
            raise TypeError(text + "; it must be bytes")

    def part(self, block: bytes) -> bool:
        """Sends a part of the body. `False`: no more of it is to be sent."""
        if self.is_begun and not self.is_ended:
            self.link.read_data(self.core)
        elif not self.is_ended:
            self._begin()
        if self.is_gone:
            return False
        if self.is_ended:
            # The head was all of it, or the body is as long as it may be.
            if self.left is not None:
                self._report_excess()
            return False
        if self.left is None:
            self._send(block, False)
            return True
        is_excessive = len(block) > self.left
        if is_excessive:
            block = block[: self.left]
        self.left -= len(block)
        # The client need not wait for what the application does after its last byte.
        self._send(block, self.left == 0)
        if is_excessive:
            self._report_excess()
        return not is_excessive

    def _report_excess(self) -> None:
        if not self.is_excessive:
            self.is_excessive = True
            logs.error("gunicorn.error", "the body is longer than its Content-Length; it was cut")

    def _begin(self) -> None:
        head = self.head
        if head is None:
            raise AssertionError("the application has not called start_response")
        self.is_begun = True
        if self.is_head or not head.has_body:
            self.is_ended = True
            self.link.send(self.core, head.whole + self.ident + head.text)
            return
        self.left = head.length
        self.prefix = head.part + self.ident + head.text
        if self.left == 0:
            self.is_ended = True
            self.link.send(self.core, head.whole + self.ident + head.text)
            return
        self.link.begin_stream(self.ident, self)

    def _send(self, block: bytes, is_last: bool) -> None:
        """Sends bytes of the body in as many messages as they need, and waits for credit."""
        link, core = self.link, self.core
        view = memoryview(block)
        while view:
            if self.credit <= 0:
                self._wait_for_credit()
                if self.is_gone:
                    return
            piece = view[: min(BODY_BYTES_MAX, self.credit)]
            view = view[len(piece) :]
            with link.lock:
                self.credit -= len(piece)
            is_end = is_last and not view
            prefix = self.prefix
            if prefix:
                self.prefix = b""
                if is_end:
                    prefix = as_last(prefix)
            else:
                prefix = (_BODY_END if is_end else _BODY_PART) + self.ident
            link.send(core, _join((prefix, piece)))
            if is_end:
                self.is_ended = True
        if not self.is_ended:
            link.flush(core)

    def _wait_for_credit(self) -> None:
        """Waits until coring grants more or the client goes."""
        wakeup, waker = os.pipe()
        try:
            with self.link.lock:
                self.waker = waker
            self.link.read_data(self.core)
            while self.credit <= 0 and not self.is_gone:
                if not self.link.wait_for_grant(self.core, wakeup):
                    self.is_gone = True
        finally:
            with self.link.lock:
                self.waker = None
            os.close(wakeup)
            os.close(waker)

    # What the link calls, with its lock held.

    def grant(self, size: int) -> None:
        self.credit += size
        if self.waker is not None:
            os.write(self.waker, b"\0")

    def disconnect(self) -> None:
        self.is_gone = True
        if self.waker is not None:
            os.write(self.waker, b"\0")

    # The end.

    def end(self) -> None:
        """The application has no more to send."""
        if self.is_ended:
            return
        if not self.is_begun:
            self._begin()
            if self.is_ended:
                return
            if self.left is None:
                self.is_ended = True
                self.link.send(self.core, as_last(self.prefix))
                return
            self.link.send(self.core, self.prefix)
        if self.is_gone:
            self.abort()
        elif self.left:
            text = f"the body is {self.left} bytes shorter than its Content-Length"
            logs.error("gunicorn.error", text + "; the connection is cut")
            self.abort()
        else:
            self.is_ended = True
            self.link.send(self.core, _BODY_END + self.ident)

    def abort(self) -> None:
        self.is_ended = True
        self.link.send(self.core, _ABORT + self.ident)

    def fail(self, error: BaseException, environ: Environ) -> None:
        """The application has raised `error`."""
        if self.link.is_forked and not isinstance(error, SystemExit):
            logs.write(logs.format_error(error))
        self.link.end_if_forked(error)
        if not (self.is_gone and logs.is_caused_by(error, ClientDisconnected)):
            # The target as it was received has no control characters.
            what = f"{environ.get('REQUEST_METHOD')} {environ.get('RAW_URI', '')}"
            logs.exception("gunicorn.error", f"Error handling request {what}", error)
        if self.is_ended:
            return
        if self.is_begun:
            self.abort()
            return
        self.is_begun = self.is_ended = True
        body = b"" if self.is_head else ERROR_BODY
        head = ERROR_HEAD
        self.link.send(self.core, _join((head.whole, self.ident, head.text, body)))


class Caller:
    """Calls the application for one request after the other."""

    def __init__(self, link: Any, app: Application, config: dict[str, Any], threads: int) -> None:
        self.link = link
        self.is_counted = config.get("max_requests", 0) > 0
        self.app = app
        # What every environ has, unless the request says otherwise.
        self.base: Environ = {
            "SERVER_SOFTWARE": "coring",
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "wsgi.url_scheme": "http",
            **config.get("base", {}),
            "wsgi.version": (1, 0),
            "wsgi.errors": sys.stderr or io.StringIO(),
            "wsgi.multithread": threads > 1,
            "wsgi.multiprocess": config.get("workers", 1) > 1,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            **config.get("environ", {}),
        }

    def call(self, core: int, ident: bytes, variables: Environ, body: Any) -> None:
        """Runs one request to its end. `body` is all of its body, or a file that holds it."""
        if self.is_counted:
            self.link.count_request()
        environ = {**self.base, **variables}
        response = Response(self.link, core, ident, environ["REQUEST_METHOD"] == "HEAD")
        stream: Any = None
        try:
            if isinstance(body, bytes):
                environ["wsgi.input"] = io.BytesIO(body)
            elif body is None:
                raise OSError(errno.EMFILE, "the body of a request cannot be received")
            else:
                length = int(environ["CONTENT_LENGTH"])
                stream = io.BufferedReader(Spooled(body, length), 64 << 10)
                environ["wsgi.input"] = stream
            self.respond(environ, response)
        except CoringEnded:
            # Nobody is left to answer, and it is no error of the application.
            raise
        except BaseException as error:
            response.fail(error, environ)
        finally:
            if response.is_begun:
                self.link.streams.pop(ident, None)
            if stream is not None:
                stream.close()

    def respond(self, environ: Environ, response: Any) -> None:
        """Calls the application, and sends what it returns."""
        result = self.app(environ, response.start_response)
        kind = type(result)
        if (kind is list or kind is tuple) and len(result) == 1:  # type: ignore[arg-type]
            response.finish(result[0])  # type: ignore[index]
        elif (kind is list or kind is tuple) and _is_short(result):  # type: ignore[arg-type]
            response.finish(_join(result))
        else:
            response.stream(result)


def _is_short(blocks: list[bytes]) -> bool:
    """Whether one message holds all the blocks. Others are sent one by one."""
    return all(type(block) is bytes for block in blocks) and (
        sum(map(len, blocks)) <= BODY_BYTES_MAX
    )
