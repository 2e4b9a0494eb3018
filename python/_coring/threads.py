"""The loops of the classes `sync` and `gthread`: each thread runs one request at a time."""

from __future__ import annotations

import array
import os
import select
import socket
import threading
from marshal import loads
from time import monotonic
from typing import Any, Callable

from _coring import logs
from _coring.link import (
    EXPIRED,
    FENCED,
    MESSAGE_BYTES_MAX,
    RECEIVE_FLAGS,
    REQUEST,
    UNMARKED,
    CoringEnded,
    Link,
    begun,
    pack_prefix,
)
from _coring.wsgi import Application, Caller

MARK_BYTES = 16
_ANCILLARY_BYTES = socket.CMSG_SPACE(4)
_EXPIRED = pack_prefix(EXPIRED, 0, 0, 0)
_FENCED = pack_prefix(FENCED, 0, 0, 0)
# How often the supervisor is heard while there is always a request, in seconds.
_CONTROL_INTERVAL = 0.01


class Turns:
    """Decides which thread receives: at most one of a process does.

    A thread that has received a request gives its turn to an idle thread. Waking a thread costs
    more than a short call of an application, so while calls are short the turn is only offered: a
    thread that is done takes it back, and the main thread gives it to an idle one when a call turns
    out to be long.
    """

    # Calls are short if they take less than this on average, in seconds.
    SHORT = 0.0003
    # One long call counts as this much, in seconds: its effect is over after a few short ones.
    LONG = 0.004
    # How often the main thread looks for an offer while there are requests, in seconds, and how
    # many times it finds none before it waits to be woken.
    LOOK = 0.001
    LOOKS = 10

    def __init__(self, link: Link) -> None:
        self._link = link
        # One item while the turn is offered: since when. Appending and popping are atomic.
        self._offers: list[float] = []
        # The locks of the idle threads, each of them held.
        self._idle: list[Any] = []
        # One item for each thread that runs.
        self._running: list[threading.Thread] = []
        self._mean = 0.0
        self._is_asleep = False
        self._wakeup, self._waker = os.pipe()

    def pass_on(self, now: float) -> None:
        """The receiving thread is about to call the application."""
        if self._mean < self.SHORT:
            self._offers.append(now)
            if self._is_asleep and self._idle:
                self._wake()
        else:
            self._give(now)

    def take(self, lock: Any, elapsed: float) -> None:
        """A thread is done with a call that took so long, and waits for its turn."""
        self._mean += (min(elapsed, self.LONG) - self._mean) / 8
        while not self._link.is_quitting:
            try:
                self._offers.pop()
                return
            except IndexError:
                pass
            # The thread that receives does not know of messages sent since it looked.
            self._link.ring_all()
            self._idle.append(lock)
            if self._offers or self._link.is_quitting:
                try:
                    self._idle.remove(lock)
                    continue
                except ValueError:
                    # It has just been given the turn.
                    pass
            lock.acquire()
            return

    def _give(self, now: float) -> None:
        """Gives the turn to an idle thread, or offers it if there is none."""
        while True:
            try:
                self._idle.pop().release()
                return
            except IndexError:
                self._offers.append(now)
            if not self._idle:
                return
            try:
                self._offers.pop()
            except IndexError:
                return

    def _wake(self) -> None:
        self._is_asleep = False
        os.write(self._waker, b"\0")

    def end(self) -> None:
        """A thread ends. So do all that are idle, and at last the main thread."""
        self._end_idle()
        self._running.pop()
        self._wake()

    def _end_idle(self) -> None:
        """Has the idle threads see that they are to end."""
        while self._idle:
            try:
                self._idle.pop().release()
            except IndexError:
                break

    def run(self, threads: list[threading.Thread]) -> None:
        """The main thread: it gives away what was offered for long, and sees coring end."""
        self._running = list(threads)
        for thread in threads:
            thread.start()
        poll = select.poll()
        poll.register(self._link.control, 0)
        poll.register(self._wakeup, select.POLLIN)
        interval = self._link.beat_interval
        asleep_ms = interval * 1000 if interval else None
        looks = 0
        while self._running:
            if interval:
                self._link.beat()
            for fd, _ in poll.poll(asleep_ms if self._is_asleep else self.LOOK * 1000):
                if fd == self._wakeup:
                    os.read(fd, 4096)
                    looks = 0
                    continue
                try:
                    self._link.leave(0)
                except CoringEnded:
                    # The threads need the link until the last of them has ended.
                    poll.unregister(fd)
                    self._end_idle()
            looks = 0 if self._look() else looks + 1
            if looks == self.LOOKS:
                looks = 0
                self._is_asleep = True
                if self._offers and self._idle:
                    self._is_asleep = False
        for thread in threads:
            thread.join()
        os.close(self._wakeup)
        os.close(self._waker)

    def _look(self) -> bool:
        """Whether an idle thread could take the turn. It is given the turn if that is due."""
        try:
            offered = self._offers[0]
        except IndexError:
            return False
        if not self._idle:
            return False
        if monotonic() - offered >= self.LOOK:
            try:
                self._give(self._offers.pop())
            except IndexError:
                pass
        return True


def serve(link: Link, caller: Caller, index: int, turns: Turns | None, lock: Any = None) -> None:
    """Receives requests and runs the application until the worker is to end."""
    page, mark = link.page, slice(index * MARK_BYTES, index * MARK_BYTES + 8)
    buffer = bytearray(MESSAGE_BYTES_MAX)
    buffers = [buffer]
    receive = link.shared.recvmsg_into
    tell_wait = link.tell_wait
    heard = monotonic()
    while not link.is_quitting:
        try:
            size, ancillary, _, _ = receive(buffers, _ANCILLARY_BYTES, RECEIVE_FLAGS)
        except BlockingIOError:
            link.wait()
            continue
        except OSError as error:
            size = link.failed_to_receive(error)
        if not size:
            link.end_of_shared()
            break
        # What the buffer holds behind the message is not looked at.
        message = loads(buffer)
        if message[0] != REQUEST:
            answer_fence(link, message)
            continue
        _, core, ident, variables, body, deadline = message
        # The mark comes before the look at the clock: coring relies on it.
        page[mark] = ident
        now = monotonic()
        if now - heard > _CONTROL_INTERVAL:
            heard = now
            link.read_control()
        if turns is not None:
            turns.pass_on(now)
        if body is None:
            body = received_descriptor(ancillary)
        if now <= deadline:
            if tell_wait:
                link.send(core, begun(ident, tell_wait - (deadline - now)))
            caller.call(core, ident, variables, body)
        else:
            expire(link, core, ident, body)
        page[mark] = UNMARKED
        if turns is not None:
            turns.take(lock, monotonic() - now)
    link.ring_all()


def answer_fence(link: Link, message: Any) -> None:
    """Says to a core that all before its fence was received."""
    _, core, nonce = message
    link.send(core, _FENCED + nonce)
    link.ring(core)


def expire(link: Link, core: int, ident: bytes, body: bytes | int | None) -> None:
    """The request has waited for too long."""
    link.send(core, _EXPIRED + ident)
    if isinstance(body, int):
        os.close(body)


def allocate_held_lock() -> Any:
    lock = threading.Lock()
    lock.acquire()
    return lock


def received_descriptor(ancillary: Any) -> int | None:
    """The descriptor that came with a message; none if the process may not have more."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds[0] if fds else None


def run(
    link: Link,
    app: Application,
    config: dict[str, Any],
    threads: int,
    new_caller: Callable[..., Caller] = Caller,
) -> None:
    """Serves until coring asks for the end."""
    caller = new_caller(link, app, config, threads)
    if threads == 1:
        serve(link, caller, 0, None)
        return
    turns = Turns(link)

    def main(index: int) -> None:
        lock = allocate_held_lock()
        try:
            if index > 0:
                turns.take(lock, 0.0)
            serve(link, caller, index, turns, lock)
        except CoringEnded:
            pass
        except BaseException as error:
            # Without this thread requests could be left unanswered: another process is better.
            logs.write(logs.format_error(error))
            link.give_up()
        turns.end()

    names = [f"coring-{index}" for index in range(threads)]
    turns.run([threading.Thread(target=main, args=(i,), name=n) for i, n in enumerate(names)])
