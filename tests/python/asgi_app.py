"""The ASGI application of test_asgi: a handler for each case, by path."""

import asyncio
import contextvars
import gc
import json
import os
import sys
import threading
import time

HANDLERS = {}
SEEN = {}
EVENTS = []
LOOPS = {}
VARIABLE = contextvars.ContextVar("variable", default="unset")


def handler(function):
    HANDLERS["/" + function.__name__] = function
    return function


def start(status=200, headers=(), **more):
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


async def reply(send, value):
    await send(start(headers=[(b"content-type", b"application/json")]))
    await send(body(json.dumps(value).encode()))


@handler
async def hello(scope, receive, send):
    await send(start(headers=[(b"content-type", b"text/plain"), (b"content-length", b"5")]))
    await send(body(b"hello"))


def plain(value):
    """A value for JSON, with the types of what is in it."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return "bytes:" + value.decode("latin-1")
    return value


@handler
async def scope(scope, receive, send):
    scope["state"].pop("object", None)
    await reply(send, [type(scope).__name__, all(type(k) is str for k in scope), plain(scope)])


@handler
async def echo(scope, receive, send):
    events, data = [], b""
    while True:
        message = await receive()
        events.append([message["type"], len(message["body"]), message["more_body"]])
        SEEN["parts"] = len(events)
        data += message["body"]
        if not message["more_body"]:
            break
    SEEN["echo"] = events
    await send(start())
    await send(body(data))


@handler
async def slow_reader(scope, receive, send):
    size = 0
    more = True
    while more:
        message = await receive()
        size += len(message["body"])
        more = message["more_body"]
        SEEN["slow_reader"] = size
        await asyncio.sleep(0.01)
    await reply(send, size)


@handler
async def unread(scope, receive, send):
    await reply(send, "unread")


@handler
async def seen(scope, receive, send):
    await reply(send, SEEN)


@handler
async def stream(scope, receive, send):
    await send(start())
    await send(body(b"one", True))
    while "go" not in SEEN:
        await asyncio.sleep(0.005)
    await send(body(b"two"))


@handler
async def go(scope, receive, send):
    SEEN["go"] = 1
    await hello(scope, receive, send)


@handler
async def unstarted(scope, receive, send):
    """The head is not sent before the first part of the body."""
    await send(start())
    while "begin" not in SEEN:
        await asyncio.sleep(0.005)
    await send(body(b"", True))
    while "end" not in SEEN:
        await asyncio.sleep(0.005)
    await send(body())


@handler
async def flag(scope, receive, send):
    SEEN[scope["query_string"].decode()] = 1
    await hello(scope, receive, send)


@handler
async def big(scope, receive, send):
    size = int(scope["query_string"])
    await send(start())
    await send(body(b"b" * size))


@handler
async def chunks(scope, receive, send):
    SEEN["chunks"] = 0
    await send(start())
    for _ in range(int(scope["query_string"])):
        await send(body(b"c" * 10_000, True))
        SEEN["chunks"] += 1
    await send(body())


@handler
async def events(scope, receive, send):
    """An event stream that ends when the client has gone."""
    await send(start(headers=[(b"content-type", b"text/event-stream")]))
    await send(body(b"data: 1\n\n", True))
    await receive()
    message = await receive()
    SEEN["events"] = message["type"]
    try:
        await send(body(b"bye", True))
        SEEN["bye"] = "sent"
    except OSError as error:
        SEEN["bye"] = type(error).__name__
        raise


@handler
async def endless(scope, receive, send):
    await send(start())
    while True:
        await send(body(b"data\n\n", True))
        await asyncio.sleep(0.005)


class Wrapped(Exception):
    pass


@handler
async def endless_wrapped(scope, receive, send):
    """As Starlette does it."""
    try:
        await endless(scope, receive, send)
    except OSError:
        raise Wrapped() from None


@handler
async def wait_before_start(scope, receive, send):
    await receive()
    message = await receive()
    SEEN["before_start"] = message["type"]
    try:
        await send(start())
    except OSError as error:
        SEEN["before_start_error"] = isinstance(error, OSError)


@handler
async def after_end(scope, receive, send):
    await hello(scope, receive, send)
    await send(body(b"more"))
    await send(start())
    await send({"type": "no.such.message"})
    await receive()
    SEEN["after_end"] = [(await receive())["type"]]


@handler
async def receive_during_end(scope, receive, send):
    """A receive() that is pending when the response ends."""
    await receive()
    pending = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    await hello(scope, receive, send)
    SEEN["receive_during_end"] = (await asyncio.wait_for(pending, 2))["type"]


@handler
async def cancelled_receive(scope, receive, send):
    """As is_disconnected() of frameworks does it."""
    await receive()
    outcomes = []
    for _ in range(3):
        try:
            await asyncio.wait_for(receive(), 0.01)
            outcomes.append("received")
        except asyncio.TimeoutError:
            outcomes.append("nothing")
    await reply(send, outcomes)


@handler
async def invalid(scope, receive, send):
    """Sends what the query names, and says what send() has raised."""
    name = scope["query_string"].decode()
    before = {
        "body-first": body(b"x"),
        "unknown": {"type": "http.unknown"},
        "no-type": {},
        "no-status": {"type": "http.response.start"},
        "str-status": start("200"),
        "float-status": start(200.0),
        "low-status": start(100),
        "str-header": start(headers=[("a", "b")]),
        "triple": start(headers=[(b"a", b"b", b"c")]),
        "name": start(headers=[(b"a b", b"c")]),
        "value": start(headers=[(b"a", b"b\nc: d")]),
        "nul": start(headers=[(b"a", b"b\nc\0d")]),
        "length": start(headers=[(b"content-length", b"-1")]),
    }
    after = {
        "start-twice": start(),
        "str-body": body("x"),
        "int-body": body(1),
        "disconnect": {"type": "http.disconnect"},
        "too-long": body(b"x" * 10),
        "too-short": body(b"x"),
    }
    try:
        if name in after:
            length = [(b"content-length", b"5")] if name.startswith("too-") else []
            await send(start(headers=length))
            await send(after[name])
        else:
            await send(before[name])
    except Exception as error:
        SEEN[name] = type(error).__name__
        raise
    SEEN[name] = None


@handler
async def extra_keys(scope, receive, send):
    await send(dict(start(), surprise=1))
    await send(dict(body(b"fine"), surprise=[2]))


@handler
async def no_optional_keys(scope, receive, send):
    await send({"type": "http.response.start", "status": 201})
    await send({"type": "http.response.body"})


@handler
async def kinds(scope, receive, send):
    """Headers as lists, an iterator of them, and bodies that are like bytes."""
    await send({"type": "http.response.start", "status": 200, "headers": iter([[b"x-a", b"1"]])})
    await send(body(bytearray(b"byte"), True))
    await send(body(memoryview(b"s")))


@handler
async def headers(scope, receive, send):
    await send(
        start(
            headers=[
                (b"set-cookie", b"a=1"),
                (b"X-Upper", b"caf\xe9"),
                (b"set-cookie", b"b=2"),
                (b"transfer-encoding", b"gzip, chunked"),
                (b"x-hop", b"1"),
                (b"connection", b"close, X-Hop"),
                (b"last", b""),
            ]
        )
    )
    await send(body(b"ok"))


@handler
async def trailers(scope, receive, send):
    await send(start(trailers=True))
    await send(body(b"body"))
    await send(
        {"type": "http.response.trailers", "headers": [(b"x", b"y")], "more_trailers": False}
    )


@handler
async def bare(scope, receive, send):
    await send(start(int(scope["query_string"])))
    await send(body(b"not sent", True))
    await send(body(b"not sent"))


@handler
async def fail_early(scope, receive, send):
    raise RuntimeError("before the start")


@handler
async def fail_held(scope, receive, send):
    await send(start())
    raise RuntimeError("start was held")


@handler
async def fail_late(scope, receive, send):
    await send(start())
    await send(body(b"part", True))
    raise RuntimeError("after the start")


@handler
async def fail_after(scope, receive, send):
    await hello(scope, receive, send)
    raise RuntimeError("after the end")


@handler
async def no_response(scope, receive, send):
    pass


@handler
async def no_end(scope, receive, send):
    await send(start())
    await send(body(b"part", True))


@handler
async def exits(scope, receive, send):
    sys.exit(3)


@handler
async def cancels(scope, receive, send):
    raise asyncio.CancelledError


@handler
async def context(scope, receive, send):
    before = VARIABLE.get()
    VARIABLE.set(scope["query_string"].decode())
    await asyncio.sleep(0.01)
    await reply(send, [before, VARIABLE.get()])


@handler
async def loop(scope, receive, send):
    running = asyncio.get_event_loop()
    LOOPS["request"] = running
    await reply(
        send,
        [
            running is asyncio.get_running_loop(),
            len(set(map(id, LOOPS.values()))),
            type(running).__module__.partition(".")[0],
            threading.current_thread() is threading.main_thread(),
            asyncio.current_task() is not None,
        ],
    )


@handler
async def sleep(scope, receive, send):
    await asyncio.sleep(float(scope["query_string"]))
    await hello(scope, receive, send)


@handler
async def block(scope, receive, send):
    time.sleep(float(scope["query_string"]))
    await hello(scope, receive, send)


@handler
async def collected(scope, receive, send):
    """Nothing but the server refers to this task."""
    future = asyncio.get_running_loop().create_future()
    task = asyncio.current_task()
    task.add_done_callback(lambda _: SEEN.setdefault("collected", []).append(1))
    SEEN_FUTURES.append(future)
    del task
    await future
    await hello(scope, receive, send)


SEEN_FUTURES = []


@handler
async def collect(scope, receive, send):
    gc.collect()
    SEEN_FUTURES.pop().set_result(None)
    await hello(scope, receive, send)


@handler
async def state(scope, receive, send):
    scope["state"]["count"] = scope["state"].get("count", 0) + 1
    scope["state"]["shared"].append(1)
    await reply(send, [scope["state"]["count"], len(scope["state"]["shared"])])


@handler
async def mutate(scope, receive, send):
    left = scope["asgi"].get("left")
    scope["asgi"]["left"] = "over"
    await reply(send, left)


@handler
async def background(scope, receive, send):
    await hello(scope, receive, send)
    await asyncio.sleep(0.05)
    SEEN["background"] = True


@handler
async def fork(scope, receive, send):
    how = scope["query_string"].decode()
    child = os.fork()
    if child == 0:
        if how == "exit":
            sys.exit(7)
        if how == "raise":
            raise RuntimeError("in the child")
        if how == "await":
            await asyncio.sleep(0)
            os._exit(9)
    else:
        status = os.waitpid(child, 0)[1]
        how = str(os.WEXITSTATUS(status))
    await send(start())
    await send(body(how.encode()))


@handler
async def spawn(scope, receive, send):
    import math
    import multiprocessing

    context = multiprocessing.get_context(scope["query_string"].decode())
    with context.Pool(1) as pool:
        await reply(send, pool.apply(math.factorial, (5,)))


async def lifespan(scope, receive, send):
    LOOPS["lifespan"] = asyncio.get_running_loop()
    VARIABLE.set("set by lifespan")
    EVENTS.append((await receive())["type"])
    scope["state"]["shared"] = []
    scope["state"]["count"] = 0
    scope["state"]["object"] = object()
    await send({"type": "lifespan.startup.complete"})
    EVENTS.append((await receive())["type"])
    print("shutdown", SEEN.get("background"), flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    else:
        await HANDLERS.get(scope["path"], hello)(scope, receive, send)
