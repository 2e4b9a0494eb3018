"""The link to coring: messages, marks, bells and credits.

Requests arrive as `marshal` tuples, responses leave as plain bytes. The sockets are shared with
other processes, and so are their flags: nothing here makes a socket blocking or non-blocking. Every
call says MSG_DONTWAIT, and waits in poll(2).
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import select
import signal
import socket
import struct
import sys
import weakref
from marshal import loads
from threading import Lock
from time import monotonic
from types import ModuleType
from typing import Any, Callable, NoReturn, Protocol

from _coring import logs

DONTWAIT = socket.MSG_DONTWAIT
SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
RECEIVE_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC

# Kinds of messages from coring.
REQUEST, PART, GONE, GRANT, DRAIN, FENCE = range(6)
# Kinds of messages to coring.
HEAD, BODY, ABORT, EXPIRED, FENCED, WANT, BEGUN = range(1, 8)
END = 1

# Body bytes in one message.
BODY_BYTES_MAX = 64 << 10
# Bytes of a head.
HEAD_BYTES_MAX = 64 << 10
# Body bytes that may be sent before coring has granted more.
CREDIT_BYTES = 256 << 10
# Numbers of requests that are kept because their clients have gone.
GONE_MAX = 1024
# Room for one message from coring. The send buffer of its socket bounds a message to less.
MESSAGE_BYTES_MAX = 1 << 20
# The place in the page by which the main loop shows that it runs. Requests are marked beside it.
_BEAT = slice(8, 16)
# How old the last ring of a core has to be before it rings again for messages, in seconds.
RING_INTERVAL = 0.001


def _original(module: ModuleType, name: str) -> Any:
    """What a module had before gevent replaced it: nothing here may wait in the hub."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(module, name)
    return monkey.get_original(module.__name__, name)


new_socket = _original(socket, "socket")
new_poll = _original(select, "poll")


def call_in_children(method: Callable[[], None]) -> None:
    """Has a method called in each forked child, as long as its object lives."""
    # A hook stays for ever, and the process may make many such objects.
    reference = weakref.WeakMethod(method)

    def call() -> None:
        found = reference()
        if found is not None:
            found()

    os.register_at_fork(after_in_child=call)


ONE = (1).to_bytes(8, "little")
UNMARKED = bytes(8)

# kind, flags, status, size; the number of the request follows.
pack_prefix = struct.Struct("<BBHI").pack


def begun(ident: bytes, waited: float) -> bytes:
    """Says that the application is called for a request that has waited so long, in seconds."""
    micros = min(max(0, int(waited * 1e6)), 0xFFFFFFFF)
    return pack_prefix(BEGUN, 0, 0, micros) + ident


def as_last(message: bytes) -> bytes:
    """The message with the flag that it is the last one of its response."""
    return message[:1] + b"\1" + message[2:]


class ClientDisconnected(ConnectionError):
    """The client has gone, or does not want the rest of the response."""


class CoringEnded(ConnectionError):
    """coring has ended, but not this process, which has started it."""


class Stream(Protocol):
    """A response that is sent in parts."""

    def grant(self, size: int) -> None:
        """`size` more bytes may be sent."""

    def disconnect(self) -> None:
        """The client has gone."""


class Link:
    """The descriptors that a worker has in common with coring."""

    def __init__(self, config: dict[str, Any]) -> None:
        fds = [config["control"], config["shared"], config["page"]]
        for fd in [*fds, *config["data"], *config["bells"]]:
            os.set_inheritable(fd, False)
        self.control = new_socket(fileno=config["control"])
        self.shared = new_socket(fileno=config["shared"])
        self.data = [new_socket(fileno=fd) for fd in config["data"]]
        self.bells: list[int] = list(config["bells"])
        self.page = mmap.mmap(config["page"], 4096)
        os.close(config["page"])
        cores = len(self.data)
        # Whether the bell of a core has not announced messages yet, and when it rang last.
        self.unrung = [False] * cores
        self.last_ring = [0.0] * cores
        self.streams: dict[bytes, Stream] = {}
        # The numbers of requests whose clients have gone, and which are no streams (yet).
        self.gone: set[bytes] = set()
        # Held while a stream is told something. Any thread may read for any stream.
        self.lock = Lock()
        # How long a request may wait, if coring wants to know how long each has waited; else 0.
        self.tell_wait: float = config.get("tell_wait", 0.0)
        self.is_quitting = False
        self.is_loaded = False
        self._asks_for_replacement = False
        self.is_forked = False
        # How often the main loop is to show that it runs, in seconds; 0: coring does not look.
        self.beat_interval: float = config.get("beat_interval", 0.0)
        self._beats = 0
        # How many requests this worker has before there is another one; 0: any number.
        self.requests_max: int = config.get("max_requests", 0)
        if self.requests_max:
            jitter: int = config.get("max_requests_jitter", 0)
            # The module `random` may be in the same state in all workers.
            self.requests_max += int.from_bytes(os.urandom(8), "little") % (jitter + 1)
        self._next_request = itertools.count(1).__next__
        # Whether the process is not coring's: then it does not end with the link.
        self.is_embedded = False
        self._lost = [False] * cores
        self._poll = new_poll()
        self._poll.register(self.control, select.POLLIN)
        self._poll.register(self.shared, select.POLLIN)
        self._cores = {sock.fileno(): core for core, sock in enumerate(self.data)}
        for sock in self.data:
            self._poll.register(sock, select.POLLIN)
        call_in_children(self._leave_to_parent)

    def leave(self, code: int) -> NoReturn:
        """Ends the process, or what serves in it, since coring has ended or a descriptor has."""
        if not self.is_embedded or self.is_forked:
            os._exit(code)
        self.is_quitting = True
        raise CoringEnded

    def give_up(self) -> None:
        """Ends the process, or what serves in it, and coring: this cannot serve any more."""
        if not self.is_embedded or self.is_forked:
            os._exit(1)
        self.is_quitting = True
        # All that wait see the end of coring, and the user's process is told of it. coring has made
        # this pair of sockets.
        peer = self.control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid = struct.unpack("3i", peer)[0]
        if pid > 0 and self.is_supervised():
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Closes the descriptors."""
        for sock in [self.control, self.shared, *self.data]:
            sock.close()
        for fd in self.bells:
            os.close(fd)
        self.bells = []
        if not self.is_forked:
            # A child may still mark the end of the request that has forked it.
            self.page.close()

    # Processes that the application forks.

    def _leave_to_parent(self) -> None:
        """Closes the descriptors in a forked child: requests and responses are its parent's."""
        if self.is_forked:
            # This is a grandchild, and the child has closed them.
            return
        self.is_forked = True
        # Another thread of the parent may hold it.
        self.lock = Lock()
        cores = len(self.bells)
        self.close()
        self.bells = [-1] * cores

    def end_if_forked(self, error: BaseException | None = None) -> None:
        """Ends a forked child that has come back from the application."""
        if not self.is_forked:
            return
        code = error.code if isinstance(error, SystemExit) else error and 1
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        os._exit(code if isinstance(code, int) else int(code is not None))

    # The supervisor.

    def report(self, text: str) -> None:
        """Says something to the supervisor. If it has gone, so does this process."""
        try:
            self.control.send(text.encode(), SEND_FLAGS)
        except BlockingIOError:
            # It has not read what it was told before.
            pass
        except ConnectionError:
            self.leave(0)

    def report_loaded(self, text: str) -> None:
        """Says that requests may come."""
        self.report(f"loaded {text}")
        self.is_loaded = True
        if self._asks_for_replacement:
            self.ask_for_replacement()

    def ask_for_replacement(self) -> None:
        """Asks for another worker in the place of this one. coring will say when to end."""
        if not self.is_loaded:
            self._asks_for_replacement = True
        elif not self.is_quitting:
            self.report("replace")

    def count_request(self) -> None:
        """A request has begun. To be called if there is a number of requests that is enough."""
        if self._next_request() == self.requests_max:
            self.report("spent")

    def beat(self) -> None:
        """Shows that the main loop runs. To be called every `beat_interval` seconds."""
        self._beats += 1
        self.page[_BEAT] = self._beats.to_bytes(8, "little")

    def read_control(self) -> None:
        """Takes the supervisor's messages."""
        while True:
            try:
                message = self.control.recv(4096, DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionError:
                # coring has ended with messages that it had not read.
                message = b""
            except OSError as error:
                self.fail(error)
            if not message:
                self.leave(0)
            if message == b"quit":
                self.is_quitting = True

    def fail(self, error: OSError) -> NoReturn:
        """Ends the process: one of its descriptors is not what it was."""
        self.end_if_forked()
        text = f"coring: a worker's link does not work any more ({error}); "
        text += "does the application close descriptors that it has not opened?\n"
        logs.write(text)
        self.leave(1)

    def is_supervised(self, wait_ms: int = 0) -> bool:
        """Whether coring lives. Its end may be seen here some milliseconds late."""
        poll = new_poll()
        poll.register(self.control, 0)
        return not poll.poll(wait_ms)

    # Messages to coring.

    def ring(self, core: int) -> None:
        self.unrung[core] = False
        self.last_ring[core] = monotonic()
        try:
            os.write(self.bells[core], ONE)
        except OSError as error:
            self.fail(error)

    def flush(self, core: int) -> None:
        """Rings a core that has unrung messages."""
        if self.unrung[core]:
            self.ring(core)

    def ring_all(self) -> None:
        """Rings every core that has unrung messages. To be called before any wait."""
        for core, is_unrung in enumerate(self.unrung):
            if is_unrung:
                self.ring(core)

    def send(self, core: int, message: bytes) -> None:
        """Sends a message. The bell rings now if its last ring is old, else later."""
        try:
            self.data[core].send(message, SEND_FLAGS)
        except OSError as error:
            self._send_slowly(core, message, error)
        if monotonic() - self.last_ring[core] >= RING_INTERVAL:
            self.ring(core)
        else:
            self.unrung[core] = True

    def _send_slowly(self, core: int, message: bytes, error: OSError) -> None:
        sock = self.data[core]
        while True:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                self.lose_core(core)
                return
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                self.fail(error)
            self.ring(core)
            poll = new_poll()
            poll.register(sock, select.POLLOUT)
            poll.register(self.control, 0)
            if any(fd != sock.fileno() for fd, _ in poll.poll()):
                self.leave(0)
            try:
                sock.send(message, SEND_FLAGS)
                return
            except OSError as again:
                error = again

    def lose_core(self, core: int) -> None:
        """A core has closed its end. coring has ended, or only that core."""
        if not self._lost[core]:
            self._lost[core] = True
            try:
                self._poll.unregister(self.data[core])
            except KeyError:
                # Another thread has seen it at the same time.
                pass

    # Messages from coring, for threads.

    def wait(self) -> None:
        """Waits until there may be a request, and takes up whatever else there is."""
        self.ring_all()
        shared, control = self.shared.fileno(), self.control.fileno()
        for fd, _ in self._poll.poll():
            if fd == control:
                self.read_control()
            elif fd != shared:
                self.read_data(self._cores[fd])

    def read_data(self, core: int) -> None:
        """Takes what a core says of streams."""
        receive = self.data[core].recv
        while not self._lost[core]:
            try:
                message = receive(4096, DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionError:
                message = b""
            except OSError as error:
                self.fail(error)
            if not message:
                self.lose_core(core)
                return
            kind, *values = loads(message)
            if kind in (GONE, GRANT):
                self._tell_stream(kind, values)

    def _tell_stream(self, kind: int, values: list[Any]) -> None:
        with self.lock:
            stream = self.streams.get(values[0])
            if kind == GRANT:
                if stream is not None:
                    stream.grant(values[1])
            elif stream is not None:
                stream.disconnect()
            else:
                if len(self.gone) >= GONE_MAX:
                    self.gone.clear()
                self.gone.add(values[0])

    def begin_stream(self, ident: bytes, stream: Stream) -> None:
        """A response is about to be sent in parts: from now on it is told what concerns it."""
        with self.lock:
            self.streams[ident] = stream
            if ident in self.gone:
                self.gone.remove(ident)
                stream.disconnect()

    def wait_for_grant(self, core: int, wakeup: int) -> bool:
        """Waits until something is said of a stream on `core`, or `wakeup` is readable.

        `False`: nothing more will be said.
        """
        self.ring_all()
        poll = new_poll()
        poll.register(self.control, 0)
        poll.register(self.data[core], select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        if any(fd == self.control.fileno() for fd, _ in poll.poll()):
            self.leave(0)
        self.read_data(core)
        return not self._lost[core]

    def failed_to_receive(self, error: OSError) -> int:
        """Receiving from the shared end has failed. The size of the message is 0 if it was shut."""
        if not isinstance(error, ConnectionError):
            self.fail(error)
        return 0

    def end_of_shared(self) -> None:
        """The shared end was shut: by coring that ends, or by some process that inherited it.

        In that case nothing is left in it, and coring makes another one, for other workers.
        """
        self.end_if_forked()
        if not self.is_supervised(200):
            self.leave(0)
        if not self.is_quitting:
            self.report("shut")
        self.is_quitting = True
