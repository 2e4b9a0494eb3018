"""Calls `pre_request` and `post_request` of a configuration file before and after each request.

Workers whose file has neither of them do not import this module.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Iterable, Iterator
from urllib.parse import urlsplit

from _coring.hooks import Hooks
from _coring.wsgi import Caller, Environ, Headers, Response


class Request:
    """A request, as the functions get it. What they change in it, the application does not see."""

    def __init__(self, environ: Environ) -> None:
        self.method: str = environ["REQUEST_METHOD"]
        self.uri: str = environ["RAW_URI"]
        # Two slashes would begin the name of a host.
        begin = "." if self.uri.startswith("//") else ""
        parts = urlsplit(begin + self.uri)
        self.path = parts.path[len(begin) :]
        self.query = parts.query
        self.fragment = parts.fragment
        self.scheme: str = environ["wsgi.url_scheme"]
        self.version = tuple(map(int, environ["SERVER_PROTOCOL"][len("HTTP/") :].split(".")))
        self.remote_addr = (environ.get("REMOTE_ADDR", ""), int(environ.get("REMOTE_PORT", -1)))
        self.headers = list(_headers_of(environ))


def _headers_of(environ: Environ) -> Iterator[tuple[str, str]]:
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            yield name[len("HTTP_") :].replace("_", "-"), value
        elif name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            yield name.replace("_", "-"), value


class Answer:
    """The response of a WSGI application, as the functions get it.

    It stands between the application and the response that is sent.
    """

    status: str | None = None
    status_code: int | None = None

    def __init__(self, response: Response) -> None:
        self.headers: Headers = []
        # Bytes of the body.
        self.sent = 0
        self._response = response

    @property
    def headers_sent(self) -> bool:
        return self._response.is_begun or self._response.is_ended

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], None]:
        write = self._response.start_response(status, headers, exc_info)
        self.status, self.headers = status, list(headers)
        self.status_code = int(status[:3])

        def count(data: bytes) -> None:
            write(data)
            self._count(data)

        return count

    def finish(self, body: bytes) -> None:
        self._response.finish(body)
        self._count(body)

    def stream(self, blocks: Iterable[bytes]) -> None:
        self._response.stream(self._counted(blocks))

    def _counted(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        try:
            for block in blocks:
                yield block
                self._count(block)
        finally:
            close = getattr(blocks, "close", None)
            if close is not None:
                close()

    def _count(self, block: bytes) -> None:
        head = self._response.head
        if head is not None and head.has_body and not self._response.is_head:
            self.sent += len(block)


class AroundCaller(Caller):
    """Calls a WSGI application, and the functions around it."""

    def __init__(self, functions: Hooks, *args: Any) -> None:
        super().__init__(*args)
        self._functions = functions

    def respond(self, environ: Environ, response: Any) -> None:
        request, answer = Request(environ), Answer(response)
        try:
            self._functions.before_request(request)
            super().respond(environ, answer)
        finally:
            # A child that the application has forked leaves by an exception: the request is its
            # parent's.
            if not response.link.is_forked:
                # The response need not wait for the function.
                response.link.flush(response.core)
                self._functions.after_request(request, environ, answer)


def new_caller(functions: Hooks) -> Callable[..., Caller]:
    """What makes the caller of a WSGI application."""
    return functools.partial(AroundCaller, functions)


class AsgiAnswer:
    """The response of an ASGI application, as the functions get it."""

    status: int | None = None

    def __init__(self, send: Callable[..., Any], is_head: bool) -> None:
        self.headers: Headers = []
        self.sent = 0
        self._send = send
        self._is_head = is_head

    @property
    def status_code(self) -> int | None:
        return self.status

    @property
    def headers_sent(self) -> bool:
        return self.status is not None

    async def send(self, message: Any) -> None:
        await self._send(message)
        if message["type"] == "http.response.start":
            self.status = message["status"]
            pairs = message.get("headers", ())
            self.headers = [(_text(name), _text(value)) for name, value in pairs]
        elif message["type"] == "http.response.body" and not self._is_head:
            self.sent += len(message.get("body", b""))


def asgi(app: Callable[..., Any], functions: Hooks) -> Callable[..., Any]:
    """An ASGI application that calls the functions around another one."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        environ = _environ_of(scope)
        request = Request(environ)
        answer = AsgiAnswer(send, request.method == "HEAD")
        try:
            functions.before_request(request)
            await app(scope, receive, answer.send)
        finally:
            functions.after_request(request, environ, answer)

    return call


def _environ_of(scope: Any) -> Environ:
    """What WSGI's environ has of a request."""
    raw_path, query = _text(scope["raw_path"]), _text(scope["query_string"])
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "RAW_URI": f"{raw_path}?{query}" if query else raw_path,
        "PATH_INFO": scope["path"],
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.url_scheme": scope["scheme"],
    }
    if scope.get("client"):
        environ["REMOTE_ADDR"], port = scope["client"]
        environ["REMOTE_PORT"] = str(port)
    for name, value in scope["headers"]:
        key = _text(name).upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        others = f"{environ[key]}," if key in environ else ""
        environ[key] = others + _text(value)
    return environ


def _text(value: Any) -> str:
    return bytes(value).decode("latin-1")
