"""A WSGI application for the tests of `coring run`. The path selects what it does."""

import ctypes
import gc
import hashlib
import os
import socket
import time
from wsgiref.validate import validator

LEDGER = os.environ.get("LEDGER")


def note(line):
    """Append a line to the ledger, in one write, so that a kill cannot split it."""
    if LEDGER:
        with open(LEDGER, "ab", buffering=0) as file:
            file.write(f"{line} {os.getpid()}\n".encode())


def digest(source):
    """The length and the digest of a request's body."""
    digest, length = hashlib.sha256(), 0
    while True:
        part = source.read(65536)
        if not part:
            return f"{length} {digest.hexdigest()}"
        digest.update(part)
        length += len(part)


class Work:
    """A response whose every line names its request. The ledger has its progress."""

    def __init__(self, name, digest, blocks):
        self.name, self.digest, self.blocks = name, digest, blocks

    def __iter__(self):
        line = f"{self.name}\n"
        if self.blocks:
            yield f"{self.digest}\n".encode()
            for _ in range(self.blocks):
                yield line.encode() * 1000
            note(f"end {self.name}")
            yield line.encode()
        else:
            note(f"end {self.name}")
            yield f"{self.digest}\n{line}".encode()

    def close(self):
        note(f"close {self.name}")


def parts(count):
    for number in range(count):
        if number % 16 == 0:
            note(f"part {number}")
        yield b"x" * 65536


def shut_shared_end():
    """Do what a program could that shuts descriptors it does not know."""
    from _coring.link import Link

    link = next(found for found in gc.get_objects() if isinstance(found, Link))
    link.shared.shutdown(socket.SHUT_RDWR)


def respond(environ, start_response):
    action, _, argument = environ["PATH_INFO"][1:].partition("/")
    headers = [("Content-Type", "text/plain")]
    if action == "digest":
        body = [digest(environ["wsgi.input"]).encode()]
    elif action == "task":
        name, _, blocks = argument.partition("/")
        note(f"begin {name}")
        body = Work(name, digest(environ["wsgi.input"]), int(blocks))
        if environ["QUERY_STRING"] == "slow":
            time.sleep(0.02)
    elif action == "sleep":
        note(f"sleep {argument}")
        time.sleep(float(argument))
        body = [b"slept"]
    elif action == "wait":
        # Until the test makes the file of that name, beside the ledger.
        note(f"wait {argument}")
        while not os.path.exists(os.path.join(os.path.dirname(LEDGER), argument)):
            time.sleep(0.02)
        body = [b"waited"]
    elif action == "parts":
        body = parts(int(argument))
    elif action == "fail":
        raise ValueError("the view fails")
    elif action == "hold":
        # Unlike a function of CDLL, this one keeps the interpreter's lock.
        ctypes.PyDLL(None).sleep(int(argument))
        body = [b"slept"]
    elif action == "shut":
        shut_shared_end()
        body = [b"shut"]
    elif action == "pid":
        time.sleep(float(argument))
        body = [str(os.getpid()).encode()]
    elif action == "ledger":
        note(f"begin {argument}")
        body = [argument.encode()]
        note(f"end {argument}")
    elif action == "origin":
        body = [f"{environ['wsgi.url_scheme']} {environ['REMOTE_ADDR']}".encode()]
    elif action == "header":
        headers.append(("X-Echo", environ.get("HTTP_X_ECHO", "none")))
        body = [environ["PATH_INFO"].encode("latin-1")]
    elif action == "hop":
        headers += [("X-Hop", "1"), ("Connection", "x-hop"), ("X-End", "2")]
        body = [b"hello"]
    else:
        body = [b"hello"]
    start_response("200 OK", headers)
    return body


app = validator(respond)
