"""The application of `murder`, as WSGI and as ASGI: it keeps a ledger, and ends badly if asked."""

import asyncio
import ctypes
import gc
import hashlib
import itertools
import os
import socket
import struct
import time

from _coring.link import FENCED, SEND_FLAGS, Link

# Each line is one write, so that a kill cannot split it.
LEDGER = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
# Which code this is: each reload has another number.
generation = 0

# How long a forked child sleeps and a worker is silent, in seconds.
CHILD_SLEEP = 5
SILENCE = 1
# How long a worker misuses its link unless coring ends it before, in seconds.
MISUSE = 2
# Lines in one part of a response.
BLOCK_LINES = 1000


def note(word, name):
    os.write(LEDGER, f"{word} {name} {os.getpid()}\n".encode())


def link():
    return next(each for each in gc.get_objects() if isinstance(each, Link))


def send_until_killed(messages):
    """Send messages to the first core as fast as it takes them."""
    own, end = link(), time.monotonic() + MISUSE
    while time.monotonic() < end:
        try:
            for message, ancillary in messages:
                own.data[0].sendmsg([message], ancillary, SEND_FLAGS)
        except OSError:
            time.sleep(0.001)
        own.ring(0)


# The faults. One that ends the process does not return.


def leave_process(_):
    os._exit(7)


def crash(_):
    ctypes.string_at(0)


def loop_in_c(_):
    """Loop without end, and never give up the lock of the interpreter."""
    sum(itertools.repeat(0))


def flood_garbage(_):
    send_until_killed([(b"garbage", [])] * 64)
    os._exit(8)


def flood_descriptors(_):
    """Send descriptors, which no message has."""
    reader, writer = os.pipe()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("2i", reader, writer))]
    message = struct.pack("<BBHI", FENCED, 0, 0, 0) + bytes(8)
    own = link()
    for _ in range(200):
        try:
            own.data[0].sendmsg([message], rights, SEND_FLAGS)
        except OSError:
            break
    own.ring(0)
    os.close(reader)
    os.close(writer)


def shut_socket(_):
    link().data[0].shutdown(socket.SHUT_RDWR)
    time.sleep(MISUSE)
    os._exit(9)


def fork_sleeper(name):
    """Leave a child behind that has what it inherited from the worker."""
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).sleep(CHILD_SLEEP)
        os._exit(0)
    os.write(LEDGER, f"child {name} {child}\n".encode())


FATAL = {"exit": leave_process, "crash": crash, "loop": loop_in_c}
# The worker dies of them, and what it sends meanwhile reaches nobody.
MISUSES = {"garbage": flood_garbage, "shut": shut_socket}
HARMLESS = {"descriptors": flood_descriptors, "fork": fork_sleeper}


def commit(action, name):
    """Do what the path of a request asks for, other than `task`."""
    if action in MISUSES:
        note("misuse", name)
    elif action in FATAL or action == "half":
        note("fatal", name)
    act = {**FATAL, **MISUSES, **HARMLESS}.get(action)
    if act:
        act(name)


def fall_silent():
    """The worker has sent half of a message."""
    try:
        link().data[0].send(b"\1\0\0\0\1", SEND_FLAGS)
    except OSError:
        pass


def split(path):
    action, name, *rest = [*path[1:].split("/"), "0"]
    return action, name, int(rest[0])


def describe(digest, length):
    return f"{length} {digest.hexdigest()} {generation}\n".encode()


class Response:
    """A response in parts, whose every line names its request."""

    def __init__(self, first, name, blocks):
        self.first, self.name, self.blocks = first, name, blocks

    def __iter__(self):
        line = f"{self.name}\n".encode()
        if self.blocks:
            yield self.first
            for _ in range(self.blocks):
                yield line * BLOCK_LINES
            note("end", self.name)
            yield line
        else:
            note("end", self.name)
            yield self.first + line

    def close(self):
        note("close", self.name)


def half_a_response():
    yield b"half"
    fall_silent()
    time.sleep(SILENCE)
    os._exit(10)


def wsgi(environ, start_response):
    action, name, blocks = split(environ["PATH_INFO"])
    note("begin", name)
    digest, length = hashlib.sha256(), 0
    while True:
        part = environ["wsgi.input"].read(65536)
        if not part:
            break
        digest.update(part)
        length += len(part)
    if environ["QUERY_STRING"] == "slow":
        time.sleep(0.02)
    commit(action, name)
    if action == "half":
        start_response("200 OK", [("Content-Length", "100")])
        return half_a_response()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Response(describe(digest, length), name, blocks)


async def asgi(scope, receive, send):
    assert scope["type"] == "http", "no lifespan"
    action, name, blocks = split(scope["path"])
    note("begin", name)
    digest, length, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        digest.update(message["body"])
        length += len(message["body"])
        more = message["more_body"]
    if scope["query_string"] == b"slow":
        await asyncio.sleep(0.02)
    commit(action, name)
    if action == "half":
        headers = [(b"content-length", b"100")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        fall_silent()
        await asyncio.sleep(SILENCE)
        os._exit(10)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    parts = Response(describe(digest, length), name, blocks)
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
    parts.close()
