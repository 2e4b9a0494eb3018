"""A WSGI application that misuses the link to coring. The path selects how."""

import gc
import os
import socket
import struct
import time

from _coring.link import BODY, FENCED, HEAD, SEND_FLAGS, Link

LINK = next(each for each in gc.get_objects() if isinstance(each, Link))


def message(kind, flags=0, status=0, size=0, ident=bytes(8), payload=b""):
    return struct.pack("<BBHI", kind, flags, status, size) + ident + payload


def own_ident():
    """The number of the request that runs; there is one."""
    return next(LINK.page[at : at + 8] for at in range(0, 4096, 16) if any(LINK.page[at : at + 8]))


def duplicates():
    """Descriptors of the first core's socket and bell that a forked child keeps."""
    return socket.socket(fileno=os.dup(LINK.data[0].fileno())), os.dup(LINK.bells[0])


def flood(content, processes, seconds, rings=True):
    """Have child processes send a message as fast as they can, and ring if they are to."""
    sock, bell = duplicates()
    for _ in range(processes):
        if os.fork() == 0:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                try:
                    for _ in range(64):
                        sock.send(content, SEND_FLAGS)
                    os.write(bell, b"\1" + bytes(7))
                except BlockingIOError:
                    if rings:
                        os.write(bell, b"\1" + bytes(7))
                except OSError:
                    break
            os._exit(0)
    sock.close()
    os.close(bell)


def send_all(messages):
    for each in messages:
        LINK.send(0, each)


def app(environ, start_response):
    action, _, argument = environ["PATH_INFO"][1:].partition("/")
    body = [str(os.getpid()).encode()]
    sock = LINK.data[0]
    if action == "flood":
        flood(message(BODY, payload=b"x" * int(argument)), 3, 4)
    elif action == "fill":
        flood(message(BODY), 3, 1, rings=False)
    elif action == "garbage":
        flood(b"garbage", 3, 20)
    elif action == "swallow":
        # In the place of a worker: what it takes is never answered.
        shared = socket.socket(fileno=os.dup(LINK.shared.fileno()))
        if os.fork() == 0:
            end = time.monotonic() + float(argument)
            while time.monotonic() < end:
                try:
                    shared.recv(1 << 20, socket.MSG_DONTWAIT)
                except OSError:
                    pass
            os._exit(0)
        shared.close()
    elif action == "few":
        send_all([b"garbage"] * int(argument))
    elif action == "empty":
        send_all([b""] * int(argument))
    elif action == "shut":
        sock.shutdown(int(argument))
        LINK.ring(0)
    elif action == "die":
        os.kill(os.getpid(), 9)
    elif action == "descriptors":
        pipes = [fd for _ in range(int(argument)) for fd in os.pipe()]
        for fd in pipes:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]
            sock.sendmsg([message(FENCED)], rights, SEND_FLAGS)
            os.close(fd)
        LINK.ring(0)
    elif action == "twice":
        head = message(HEAD, 1, 200, 0, own_ident(), b"first")
        send_all([head, head.replace(b"first", b"other")])
    elif action == "more":
        ident = own_ident()
        head = b"\nContent-Length:5"
        send_all(
            [
                message(HEAD, 0, 200, len(head), ident, head + b"first"),
                message(BODY, 1, 0, 0, ident, b" and more"),
            ]
        )
    elif action == "credit":
        ident = own_ident()
        parts = [message(BODY, 0, 0, 0, ident, b"x" * 65536)] * int(argument)
        send_all([message(HEAD, 0, 200, 0, ident), *parts, message(BODY, 1, 0, 0, ident, b"end")])
    elif action == "pid":
        time.sleep(float(argument or 0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return body
