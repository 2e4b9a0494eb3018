"""A client that takes exactly what HTTP allows, and no byte more."""

import contextlib
import socket

# Longer than a request may wait in coring, in seconds.
PATIENCE = 45


class Fault(Exception):
    """Something is not as it must be."""


class CutOff(Exception):
    """The connection ended within a response."""


class Connection:
    """A connection, for one request at a time."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def close(self):
        self.socket.close()

    def send(self, data):
        """Send a request. A response may arrive, and the connection end, before that is done."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def more(self, has_begun=True):
        try:
            data = self.socket.recv(1 << 18)
        except socket.timeout:
            raise Fault("hangs") from None
        except ConnectionResetError:
            raise CutOff from None
        if not data:
            if has_begun:
                raise CutOff
            raise Fault("has no response")
        self.rest += data

    def until(self, mark, has_begun=True):
        while mark not in self.rest:
            self.more(has_begun or bool(self.rest))
        found, _, self.rest = self.rest.partition(mark)
        return found

    def exactly(self, length):
        while len(self.rest) < length:
            self.more()
        found, self.rest = self.rest[:length], self.rest[length:]
        return found

    def response(self):
        """The status, the fields and the body of the next response."""
        line, *lines = self.until(b"\r\n\r\n", has_begun=False).decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        if version != "HTTP/1.1":
            raise Fault(f"begins with {line!r}")
        pairs = [line.partition(":") for line in lines]
        fields = {name.lower(): value.strip() for name, _, value in pairs}
        if fields.get("transfer-encoding") == "chunked":
            parts = []
            while True:
                part = self.exactly(int(self.until(b"\r\n"), 16))
                self.until(b"\r\n")
                if not part:
                    break
                parts.append(part)
            body = b"".join(parts)
        else:
            body = self.exactly(int(fields["content-length"]))
        if self.rest:
            raise Fault(f"has bytes behind its response: {self.rest[:40]!r}")
        return int(status), fields, body
