"""An ASGI application without a framework: a page at `/`, an echo at `/echo`, 404 elsewhere.

`/calls` has the number of calls of the page.
"""

import calls


async def respond(send, status, body):
    fields = [(b"content-type", b"text/html"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def read(receive):
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["path"] == "/":
        calls.add()
        await respond(send, 200, b"<b>hello world</b>")
    elif scope["path"] == "/echo":
        await respond(send, 200, await read(receive))
    elif scope["path"] == "/calls":
        await respond(send, 200, str(calls.made()).encode())
    else:
        await respond(send, 404, b"<h1>Not Found</h1>")
