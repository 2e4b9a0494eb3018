"""Puts a typical load on an instrumented coring, which records the profile for the release build:
train.py PATH_OF_CORING

It measures nothing, and checks only the status and the length of responses.
"""

import random
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

CONNECTIONS = 64
START_SECONDS = 30
STOP_SECONDS = 60
FILES = {"1k.bin": 1 << 10, "64k.bin": 64 << 10, "1m.bin": 1 << 20}

BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    "Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    "Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\n"
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n"
)


class Server:
    """A server that runs inside a `with` statement. It writes its profile when it exits."""

    def __init__(self, coring: str, *words: str) -> None:
        self._command = [coring, *words, "--bind", "127.0.0.1:0", "--cores", "1", "--pin", "never"]
        self.address = ("127.0.0.1", 0)

    def __enter__(self) -> "Server":
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        output = []
        for line in self._process.stderr:
            output.append(line)
            if line.split()[:1] == ["on"]:
                port = line.strip().strip("/").rpartition(":")[2]
                self.address = ("127.0.0.1", int(port))
            if line.split()[:1] == ["cores"]:
                return self
        sys.exit("".join(output).strip())

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.communicate(timeout=STOP_SECONDS)
        finally:
            self._process.kill()
        if self._process.returncode != 0:
            sys.exit(f"coring ended with status {self._process.returncode}")


def request(path: str, fields: str = "", method: str = "GET", body: bytes = b"") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: www.example.com\r\n{fields}{length}\r\n"
    return head.encode() + body


def connect(server: Server) -> socket.socket:
    stream = socket.create_connection(server.address, START_SECONDS)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def response_bytes(server: Server, message: bytes, status: int) -> int:
    """The length of the response to `message`: that of two responses, minus that of the second."""
    with connect(server) as stream:
        stream.sendall(message + request("/", "Connection: close\r\n"))
        both = read_all(stream)
    with connect(server) as stream:
        stream.sendall(request("/", "Connection: close\r\n"))
        last = read_all(stream)
    if not both.startswith(f"HTTP/1.1 {status} ".encode()):
        sys.exit(f"the response to {message[:60]!r} is {both[:60]!r}, not {status}")
    return len(both) - len(last)


def read_all(stream: socket.socket) -> bytes:
    return b"".join(iter(lambda: stream.recv(1 << 16), b""))


def read(stream: socket.socket, wanted: int) -> None:
    while wanted > 0:
        got = len(stream.recv(min(wanted, 1 << 20)))
        if got == 0:
            sys.exit("coring closed a connection in the middle of a response")
        wanted -= got


def keep_alive(server: Server, message: bytes, times: int, *, status: int = 200, at_once=1) -> None:
    """Sends `at_once` pipelined requests `times` times on each of CONNECTIONS connections."""
    length = response_bytes(server, message, status) * at_once
    streams = [connect(server) for _ in range(CONNECTIONS)]
    for _ in range(times):
        for stream in streams:
            stream.sendall(message * at_once)
        for stream in streams:
            read(stream, length)
    for stream in streams:
        stream.close()


def close(server: Server, times: int) -> None:
    """Opens a connection for each request."""
    message = request("/", "Connection: close\r\n")
    for _ in range(times):
        streams = [connect(server) for _ in range(CONNECTIONS)]
        for stream in streams:
            stream.sendall(message)
        for stream in streams:
            read_all(stream)
            stream.close()


def train(coring: str, engine: str, site: Path) -> None:
    log = site.parent / "access.log"
    shared = ("--engine", engine)
    with Server(coring, *shared) as server:
        keep_alive(server, request("/"), 400)
        keep_alive(server, request("/", BROWSER), 200)
        keep_alive(server, request("/"), 200, at_once=16)
        keep_alive(server, request("/missing"), 20, status=404)
        close(server, 150)
    with Server(coring, "serve", str(site), *shared, "--access-log", str(log)) as server:
        keep_alive(server, request("/1k.bin", BROWSER), 300)
        keep_alive(server, request("/64k.bin"), 50)
        keep_alive(server, request("/1m.bin"), 5)
        keep_alive(server, request("/1m.bin", "Range: bytes=0-99\r\n"), 20, status=206)
        keep_alive(server, request("/1k.bin", "If-None-Match: *\r\n"), 50, status=304)
        keep_alive(server, request("/missing"), 20, status=404)
    with Server(coring, "echo", *shared) as server:
        keep_alive(server, request("/", method="POST", body=bytes(200)), 100)
        keep_alive(server, request("/", method="POST", body=bytes(100_000)), 5)


def main(coring: str) -> None:
    with tempfile.TemporaryDirectory(prefix="coring-train-") as scratch:
        site = Path(scratch) / "site"
        site.mkdir()
        (site / "index.html").write_text("<b>hello world</b>")
        for name, size in FILES.items():
            (site / name).write_bytes(random.Random(size).randbytes(size))
        for engine in ("uring", "epoll"):
            train(coring, engine, site)


if __name__ == "__main__":
    main(*sys.argv[1:])
