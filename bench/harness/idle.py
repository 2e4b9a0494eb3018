"""Holds idle connections: `python -m harness.idle PORT COUNT`, a process of its own.

Each asks once and reads its answer. It prints `held COUNT`, waits for a line, prints how many the
server has kept open, and ends. It refuses to know who the server is.
"""

from __future__ import annotations

import select
import socket
import sys

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def hold(port: int, count: int) -> list[socket.socket]:
    """Opens them, one after the other."""
    held = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), 10)
        connection.sendall(REQUEST)
        answer = b""
        while b"hello world" not in answer:
            piece = connection.recv(4096)
            if not piece:
                raise OSError(f"closed after {answer!r}")
            answer += piece
        held.append(connection)
    return held


def main() -> int:
    """Says what it cannot do on the line where its caller reads."""
    port, count = (int(word) for word in sys.argv[1:])
    try:
        held = hold(port, count)
    except OSError as error:
        print(error, flush=True)
        return 1
    print("held", count, flush=True)
    sys.stdin.readline()
    poll = select.poll()
    for connection in held:
        poll.register(connection, select.POLLIN | select.POLLRDHUP)
    print(count - len(poll.poll(0)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
