"""Server-sent events: coring run events.py, then curl -N http://127.0.0.1:8000/"""

import asyncio
import time


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    disconnected = asyncio.ensure_future(wait_for_disconnect(receive))
    while not disconnected.done():
        event = f"data: {time.strftime('%H:%M:%S')}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.wait([disconnected], timeout=1)
    await send({"type": "http.response.body", "body": b""})


async def wait_for_disconnect(receive):
    """Return when the client has gone or the server drains."""
    while (await receive())["type"] != "http.disconnect":
        pass
