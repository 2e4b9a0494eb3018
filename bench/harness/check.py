"""Checks that a server responds correctly, before it is measured."""

from __future__ import annotations

import http.client
import socket
import time
from pathlib import Path

from . import Failed
from .scenarios import BODY, Scenario
from .server import Server

SECONDS = 10
PAUSE_SECONDS = 0.05


def request(scenario: Scenario) -> bytes:
    """The bytes of one request, as the scenario's generator sends it."""
    version = "1.0" if scenario.generator == "ab" else "1.1"
    fields = "Host: 127.0.0.1\r\n"
    if scenario.closing:
        fields += "Connection: close\r\n" if version == "1.1" else ""
    elif version == "1.0":
        fields += "Connection: Keep-Alive\r\n"
    return f"GET {scenario.path} HTTP/{version}\r\n{fields}\r\n".encode()


def expected(scenario: Scenario, site: Path) -> tuple[bytes, bytes]:
    """The body to send, and the body of the expected response."""
    if scenario.task == "echo":
        body = upload(scenario)
        return body, body
    return b"", (site / scenario.file).read_bytes() if scenario.task == "static" else BODY


def upload(scenario: Scenario) -> bytes:
    """The body of a request. It has no characters that Lua would have to escape in wrk's script."""
    return b"coring.." * (scenario.upload // 8)


def check(server: Server, scenario: Scenario, site: Path) -> bytes:
    """Fails unless the server responds correctly; returns the exact bytes of one response."""
    try:
        check_responses(server, scenario, site)
        return exact_response(server, scenario)
    except (OSError, http.client.HTTPException) as error:
        reason = f"{type(error).__name__}: {error}"
        raise Failed(f"gives no response ({reason}); its output: {server.last_output()}") from error


def check_responses(server: Server, scenario: Scenario, site: Path) -> None:
    """Checks status, body and type, the 404 for a missing page, and that connections are kept."""
    sent, wanted = expected(scenario, site)
    method = "POST" if sent else "GET"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    for _ in range(2):
        connection.request(method, scenario.path, body=sent or None)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200 or body != wanted:
            raise Failed(f"{method} {scenario.path}: status {response.status}, {excerpt(body)}")
        kind = response.getheader("Content-Type", "")
        if scenario.task == "hello" and not kind.startswith("text/html"):
            raise Failed(f"GET /: the type is {kind!r}, not text/html")
        # Some servers close after an upload. That is allowed: they pay for the new connection.
        may_close = scenario.closing or server.contender.closes or sent
        if connection.sock is None and not may_close:
            raise Failed(f"{method} {scenario.path}: closes a connection that it should keep")
    if scenario.task != "echo" and server.contender.kind not in ("floor", "added"):
        connection.request("GET", "/no-such-page")
        response = connection.getresponse()
        response.read()
        if response.status != 404:
            raise Failed(f"GET /no-such-page: status {response.status}, not 404")
    connection.close()


def exact_response(server: Server, scenario: Scenario) -> bytes:
    """The bytes of the response to one request of the generator.

    Also checks that each pipelined request gets such a response, and that a connection that should
    be closed is closed.
    """
    if scenario.task == "echo":
        return b""
    sent = request(scenario)
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        connection.settimeout(SECONDS)
        connection.sendall(sent)
        response = read_response(connection)
        if b"HTTP/1.0" in sent and b"keep-alive" not in response.lower():
            must_close(connection)  # ab waits for the close
            return response
        if scenario.pipelined > 1:
            connection.sendall(sent * scenario.pipelined)
            for _ in range(scenario.pipelined):
                if len(read_response(connection)) != len(response):
                    raise Failed("responds to pipelined requests differently than to single ones")
        if scenario.closing:
            must_close(connection)
    return response


def must_close(connection: socket.socket) -> None:
    """Fails unless the server closes the connection without sending more."""
    try:
        if connection.recv(1):
            raise Failed("sends more than the response")
    except socket.timeout as error:
        raise Failed("neither closes the connection nor sends `Keep-Alive`") from error


def read_response(connection: socket.socket) -> bytes:
    """Reads one response with a Content-Length, and not a byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += nonempty(connection.recv(1), head)
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    fields = {name.strip().lower(): value.strip() for name, _, value in lines}
    if b"content-length" not in fields:
        raise Failed(f"its response has no Content-Length: {head!r}")
    body = bytearray()
    length = int(fields[b"content-length"])
    while len(body) < length:
        body += nonempty(connection.recv(min(length - len(body), 1 << 20)), head)
    return head + bytes(body)


def nonempty(received: bytes, head: bytes) -> bytes:
    """Returns `received`. Fails if it is empty, because the server has closed the connection."""
    if not received:
        raise Failed(f"closes the connection within its response: {head!r}")
    return received


def calls(server: Server) -> int:
    """The calls that a Python application has counted. Waits until they have all begun."""
    before = -1
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        # No `Connection: close`, after which fastpysgi 0.6 serves no ASGI application any more.
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
        try:
            connection.request("GET", "/calls")
            now = int(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Failed(f"does not tell its calls: {error}") from error
        finally:
            connection.close()
        if now == before:
            return now
        before = now
        time.sleep(PAUSE_SECONDS)
    raise Failed(f"still begins calls {SECONDS} s after the load")


def check_calls(called: int, answered: float, connections: int) -> None:
    """Fails unless the application was called once for each response.

    A generator that stops by the clock does not count the responses that are in flight then, at
    most one on each connection.
    """
    if not 0 <= called - answered <= connections:
        raise Failed(f"has called the application {called} times for {answered:.0f} responses")


def excerpt(body: bytes) -> str:
    """A body, shortened for a message."""
    return f"a body of {len(body)} bytes that begins with {body[:40]!r}"
