"""A WSGI application for the tests of `coring run`. The path selects what it does."""

import hashlib
import os
import time
from wsgiref.validate import validator

LEDGER = os.environ.get("LEDGER")


def note(line):
    """Append a line to the ledger, in one write, so that a kill cannot split it."""
    if LEDGER:
        with open(LEDGER, "ab", buffering=0) as file:
            file.write(f"{line} {os.getpid()}\n".encode())


def respond(environ, start_response):
    action, _, argument = environ["PATH_INFO"][1:].partition("/")
    headers = [("Content-Type", "text/plain")]
    if action == "digest":
        digest, length = hashlib.sha256(), 0
        while True:
            part = environ["wsgi.input"].read(65536)
            if not part:
                break
            digest.update(part)
            length += len(part)
        body = [f"{length} {digest.hexdigest()}".encode()]
    elif action == "sleep":
        time.sleep(float(argument))
        body = [b"slept"]
    elif action == "parts":
        body = (b"x" * 65536 for _ in range(int(argument)))
    elif action == "fail":
        raise ValueError("the view fails")
    elif action == "pid":
        body = [str(os.getpid()).encode()]
    elif action == "ledger":
        note(f"begin {argument}")
        body = [argument.encode()]
        note(f"end {argument}")
    elif action == "header":
        headers.append(("X-Echo", environ.get("HTTP_X_ECHO", "none")))
        body = [environ["PATH_INFO"].encode("latin-1")]
    elif action == "kill":
        os.kill(os.getpid(), 9)
    else:
        body = [b"hello"]
    start_response("200 OK", headers)
    return body


app = validator(respond)
