"""Whether a server answers right, before it is measured.

It refuses to know how fast: a wrong answer at any speed is no result.
"""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from . import Failed
from .scenarios import BODY, Scenario
from .server import Server

SECONDS = 10


def request(scenario: Scenario) -> bytes:
    """The bytes of one request as the scenario's generator writes it."""
    version = "1.0" if scenario.generator == "ab" else "1.1"
    fields = "Host: 127.0.0.1\r\n"
    if scenario.closing:
        fields += "Connection: close\r\n" if version == "1.1" else ""
    elif version == "1.0":
        fields += "Connection: Keep-Alive\r\n"
    return f"GET {scenario.path} HTTP/{version}\r\n{fields}\r\n".encode()


def expected(scenario: Scenario, site: Path) -> tuple[bytes, bytes]:
    """The body to send and the one that has to come back."""
    if scenario.task == "echo":
        body = upload(scenario)
        return body, body
    return b"", (site / scenario.file).read_bytes() if scenario.task == "static" else BODY


def upload(scenario: Scenario) -> bytes:
    """The body of a request: letters, for they stand in a script of wrk's too."""
    return b"coring.." * (scenario.upload // 8)


def check(server: Server, scenario: Scenario, site: Path) -> bytes:
    """Fails unless it answers right; gives the exact bytes of one answer."""
    try:
        check_answers(server, scenario, site)
        return exact_answer(server, scenario)
    except (OSError, http.client.HTTPException) as error:
        reason = f"{type(error).__name__}: {error}"
        raise Failed(f"gives no answer ({reason}); it says: {server.last_words()}") from error


def check_answers(server: Server, scenario: Scenario, site: Path) -> None:
    """Status, body and type; a missing page; that a connection is kept."""
    sent, wanted = expected(scenario, site)
    method = "POST" if sent else "GET"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    for _ in range(2):
        connection.request(method, scenario.path, body=sent or None)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200 or body != wanted:
            raise Failed(f"{method} {scenario.path}: status {answer.status}, {excerpt(body)}")
        kind = answer.getheader("Content-Type", "")
        if scenario.task == "hello" and not kind.startswith("text/html"):
            raise Failed(f"GET /: the type is {kind!r}, not text/html")
        # Some close after an upload: that is theirs to pay for.
        if connection.sock is None and not scenario.closing and not sent:
            raise Failed(f"{method} {scenario.path}: it closes connections that should be kept")
    if scenario.task != "echo" and server.contender.kind not in ("floor", "added"):
        connection.request("GET", "/no-such-page")
        answer = connection.getresponse()
        answer.read()
        if answer.status != 404:
            raise Failed(f"GET /no-such-page: status {answer.status}, not 404")
    connection.close()


def exact_answer(server: Server, scenario: Scenario) -> bytes:
    """The bytes that answer what the generator asks; of pipelined requests each is answered."""
    if scenario.task == "echo":
        return b""
    asked = request(scenario)
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        connection.settimeout(SECONDS)
        connection.sendall(asked)
        answer = read_answer(connection)
        if b"HTTP/1.0" in asked and b"keep-alive" not in answer.lower():
            must_close(connection)  # ab waits for it
            return answer
        if scenario.pipelined > 1:
            connection.sendall(asked * scenario.pipelined)
            for _ in range(scenario.pipelined):
                if len(read_answer(connection)) != len(answer):
                    raise Failed("answers pipelined requests otherwise than single ones")
        if scenario.closing:
            must_close(connection)
    return answer


def must_close(connection: socket.socket) -> None:
    """Nothing follows the answer but the end."""
    try:
        if connection.recv(1):
            raise Failed("sends more than the answer")
    except socket.timeout as error:
        raise Failed("neither closes a connection nor says that it keeps it") from error


def read_answer(connection: socket.socket) -> bytes:
    """One answer of known length, and no byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += must(connection.recv(1), head)
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    fields = {name.strip().lower(): value.strip() for name, _, value in lines}
    if b"content-length" not in fields:
        raise Failed(f"its answer has no length: {head!r}")
    body = bytearray()
    length = int(fields[b"content-length"])
    while len(body) < length:
        body += must(connection.recv(min(length - len(body), 1 << 20)), head)
    return head + bytes(body)


def must(piece: bytes, head: bytes) -> bytes:
    """Something was received."""
    if not piece:
        raise Failed(f"closes in the middle of its answer: {head!r}")
    return piece


def excerpt(body: bytes) -> str:
    """A body for a message."""
    return f"a body of {len(body)} bytes that begins with {body[:40]!r}"
