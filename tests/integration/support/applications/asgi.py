"""An ASGI application for the tests of `coring run`. The path selects what it does."""

import asyncio
import hashlib
import os


def note(line):
    """Append a line to the ledger."""
    with open(os.environ["LEDGER"], "ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(scope["state"], receive, send)
        return
    action, _, argument = scope["path"][1:].partition("/")
    headers, body = [], b"hello"
    if action == "digest":
        body = (await digest(receive)).encode()
    elif action == "task":
        name, _, blocks = argument.partition("/")
        await work(name, int(blocks), scope["query_string"] == b"slow", receive, send)
        return
    elif action == "parts":
        await parts(int(argument), send)
        return
    elif action == "sleep":
        note(f"sleep {argument} {os.getpid()}")
        await asyncio.sleep(float(argument))
    elif action == "events":
        await events(receive, send)
        return
    elif action == "pid":
        # So long that another request at the same time goes to another worker.
        await asyncio.sleep(0.1)
        body = str(os.getpid()).encode()
    elif action == "origin":
        origin = f"{scope['scheme']} {scope['client'] and scope['client'][0]}"
        note(origin)
        body = origin.encode()
    elif action == "state":
        body = scope["state"]["started"].encode()
    elif action == "fail":
        raise ValueError("the view fails")
    elif action == "hop":
        headers = [(b"x-hop", b"1"), (b"connection", b"x-hop"), (b"x-end", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def digest(receive):
    """The length and the digest of a request's body."""
    digest, length, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()
        part = message.get("body", b"")
        digest.update(part)
        length += len(part)
        more = message.get("more_body", False)
    return f"{length} {digest.hexdigest()}"


async def work(name, blocks, is_slow, receive, send):
    """Send a response whose every line names its request. The ledger has its progress."""
    note(f"begin {name} {os.getpid()}")
    first, line = f"{await digest(receive)}\n".encode(), f"{name}\n".encode()
    if is_slow:
        await asyncio.sleep(0.02)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for block in [first, *[line * 1000] * blocks]:
        await send({"type": "http.response.body", "body": block, "more_body": True})
    note(f"end {name} {os.getpid()}")
    await send({"type": "http.response.body", "body": line})
    note(f"close {name} {os.getpid()}")


async def parts(count, send):
    """Send parts of 64 KiB. The ledger has every sixteenth."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(count):
        if number % 16 == 0:
            note(f"part {number}")
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    await send({"type": "http.response.body"})


async def lifespan(state, receive, send):
    """Note the start and the end of the application."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            state["started"] = "yes"
            await send({"type": "lifespan.startup.complete"})
        else:
            note("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return


async def events(receive, send):
    """Send an event, then wait until the client is gone or the server drains."""
    await receive()
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
    message = await receive()
    note(message["type"])
    await send({"type": "http.response.body", "body": b""})
