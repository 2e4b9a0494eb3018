"""The sockets to coring's cores, for workers that run many requests at a time in a loop."""

from __future__ import annotations

import errno
from collections import deque
from marshal import loads
from time import monotonic
from typing import Any, Callable

from _coring.link import DONTWAIT, REQUEST, RING_INTERVAL, SEND_FLAGS

# Messages that are taken in one turn of the loop: others have their turn while many arrive.
MESSAGES_MAX = 128


class Core:
    """The socket of one of coring's cores. What depends on the loop is left to its subclasses."""

    def __init__(
        self, link: Any, index: int, buffer: bytearray, soon: Callable[..., object]
    ) -> None:
        """Of a core by its number. `soon` calls something at the end of the loop's turn.

        `link` is a Link, or what stands for it where requests run in greenlets.
        """
        self.link = link
        self.index = index
        self.sock = link.data[index]
        self.is_lost = False
        # Messages that the socket had no room for.
        self.queue: deque[bytes] = deque()
        self._soon = soon
        self._buffer = buffer
        self._unrung_since: float | None = None
        self._is_reading = False

    # For subclasses.

    def await_room(self) -> None:
        """Has `flush` called when the socket has room."""
        raise NotImplementedError

    def has_room(self) -> None:
        """Ends that. Whatever waited for it goes on."""
        raise NotImplementedError

    def lost(self) -> None:
        """There is nothing more to read, and the clients of all requests have gone."""
        raise NotImplementedError

    def begin(self, message: Any) -> None:
        """A request has come."""
        raise NotImplementedError

    def take(self, message: Any) -> None:
        """Another message has come."""
        raise NotImplementedError

    # Messages to coring.

    def send(self, message: bytes) -> None:
        """Sends a message now, and rings when all was read or at the end of the loop's turn."""
        if self.queue:
            self.queue.append(message)
            return
        try:
            self.sock.send(message, SEND_FLAGS)
        except OSError as error:
            self._not_sent(message, error)
            return
        if self._unrung_since is None:
            self._unrung_since = monotonic()
            if not self._is_reading:
                self._soon(self.ring)
        elif monotonic() - self._unrung_since >= RING_INTERVAL:
            self.link.ring(self.index)
            self._unrung_since = monotonic()

    def ring(self) -> None:
        if self._unrung_since is not None:
            self._unrung_since = None
            self.link.ring(self.index)

    def leave_to_parent(self) -> None:
        """In a forked child: messages are the parent's to send and to announce."""
        self._unrung_since = None
        self.queue.clear()

    def _not_sent(self, message: bytes, error: OSError) -> None:
        if error.errno in (errno.EAGAIN, errno.ENOBUFS):
            self.queue.append(message)
            self.link.ring(self.index)
            self.await_room()
        elif error.errno in (errno.EPIPE, errno.ECONNRESET):
            self._lose()
        else:
            self.link.fail(error)

    def flush(self) -> None:
        """Sends what waits, as far as there is room."""
        while self.queue:
            try:
                self.sock.send(self.queue[0], SEND_FLAGS)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                    self.link.ring(self.index)
                    return
                if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    self.link.fail(error)
                self._lose()
                return
            self.queue.popleft()
        self.link.ring(self.index)
        self.has_room()

    def _lose(self) -> None:
        """The core has closed its end: its clients have gone."""
        if self.is_lost:
            return
        self.is_lost = True
        self.queue.clear()
        self.has_room()
        self.lost()

    # Messages from coring.

    def read(self) -> bool:
        """Takes the messages that wait, or as many of them as one turn may. `True`: it has all."""
        self._is_reading = self._unrung_since is None
        has_all = self._read()
        if self._is_reading:
            self._is_reading = False
            self.ring()
        return has_all

    def _read(self) -> bool:
        receive, buffer = self.sock.recv_into, self._buffer
        for _ in range(MESSAGES_MAX):
            if self.is_lost:
                break
            try:
                size = receive(buffer, 0, DONTWAIT)
            except BlockingIOError:
                return True
            except ConnectionError:
                size = 0
            except OSError as error:
                self.link.fail(error)
            if not size:
                self._lose()
                break
            # What the buffer holds behind the message is not looked at.
            message = loads(buffer)
            if message[0] == REQUEST:
                self.begin(message)
            else:
                self.take(message)
        return self.is_lost
