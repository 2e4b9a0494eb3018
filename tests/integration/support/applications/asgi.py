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
    body = b"hello"
    if action == "digest":
        digest, length, more = hashlib.sha256(), 0, True
        while more:
            message = await receive()
            part = message.get("body", b"")
            digest.update(part)
            length += len(part)
            more = message.get("more_body", False)
        body = f"{length} {digest.hexdigest()}".encode()
    elif action == "sleep":
        await asyncio.sleep(float(argument))
    elif action == "events":
        await events(receive, send)
        return
    elif action == "state":
        body = scope["state"]["started"].encode()
    elif action == "fail":
        raise ValueError("the view fails")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


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
