"""The WSGI application of test_wsgi: a view for each case.

`/v/NAME` runs it within wsgiref.validate.
"""

import json
import os
import sys
import tempfile
import threading
import time
from wsgiref.validate import validator

VIEWS = {}
CLOSED = []
CALLS = {}


def view(function):
    VIEWS[function.__name__] = function
    return function


class Blocks:
    """An iterable that counts how often it is closed."""

    def __init__(self, name, blocks, error=None):
        self.name, self.blocks, self.error = name, iter(blocks), error

    def __iter__(self):
        return self

    def __next__(self):
        block = next(self.blocks, None)
        if block is None:
            if self.error:
                raise self.error
            raise StopIteration
        return block() if callable(block) else block

    def close(self):
        CLOSED.append(self.name)


def text(start_response, body, status="200 OK", headers=()):
    body = body if isinstance(body, bytes) else body.encode()
    fields = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *headers]
    start_response(status, fields)
    return [body]


def reply(start_response, value):
    return text(start_response, json.dumps(value))


@view
def hello(environ, start_response):
    return text(start_response, "hello")


@view
def environ(environ, start_response):
    values = {key: repr(value) for key, value in environ.items()}
    kinds = {key: type(value).__name__ for key, value in environ.items()}
    return reply(start_response, [type(environ).__name__, values, kinds])


@view
def mutate(environ, start_response):
    seen = sorted(key for key in environ if key.startswith("test."))
    environ["test.left"] = 1
    environ.pop("wsgi.version")
    return reply(start_response, seen)


@view
def read(environ, start_response):
    stream = environ["wsgi.input"]
    sizes = json.loads(environ["QUERY_STRING"].replace("%22", '"'))
    return reply(start_response, [stream.read(size).decode("latin-1") for size in sizes])


@view
def readline(environ, start_response):
    stream = environ["wsgi.input"]
    return reply(start_response, [stream.readline().decode("latin-1") for _ in range(5)])


@view
def readline_size(environ, start_response):
    stream = environ["wsgi.input"]
    return reply(start_response, [stream.readline(2).decode("latin-1") for _ in range(6)])


@view
def readlines(environ, start_response):
    return reply(start_response, [x.decode("latin-1") for x in environ["wsgi.input"].readlines()])


@view
def readlines_hint(environ, start_response):
    stream = environ["wsgi.input"]
    first = [x.decode("latin-1") for x in stream.readlines(1)]
    return reply(start_response, [first, [x.decode("latin-1") for x in stream.readlines()]])


@view
def iterate_input(environ, start_response):
    return reply(start_response, [x.decode("latin-1") for x in environ["wsgi.input"]])


@view
def read_all(environ, start_response):
    """Not allowed by the validator, which wants a size."""
    stream = environ["wsgi.input"]
    first = stream.read()
    rest = [stream.read(), stream.read(1), stream.readline()]
    return reply(start_response, [len(first), sum(first), [x.decode() for x in rest]])


@view
def errors(environ, start_response):
    stream = environ["wsgi.errors"]
    stream.write("written to errors\n")
    stream.writelines(["one \u00e9\n", "two\n"])
    stream.flush()
    return text(start_response, "ok")


@view
def write(environ, start_response):
    put = start_response("200 OK", [("Content-Type", "text/plain")])
    put(b"first ")
    put(b"second ")
    return [b"third"]


@view
def write_length(environ, start_response):
    put = start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    put(b"abc")
    try:
        put(b"def")
    except ValueError as error:
        CALLS["write_length"] = str(error)
    return []


@view
def write_text(environ, start_response):
    put = start_response("200 OK", [("Content-Type", "text/plain")])
    put("text")
    return []


@view
def twice(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"no"]


@view
def twice_after_failure(environ, start_response):
    try:
        start_response("200 OK", [("Bad Name", "x")])
    except ValueError:
        pass
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"no"]


@view
def exc_info_before(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Old", "1")])
    try:
        raise KeyError("trouble")
    except KeyError:
        start_response("503 Trouble", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"sorry"]


@view
def exc_info_after(environ, start_response):
    put = start_response("200 OK", [("Content-Type", "text/plain")])
    put(b"sent")
    try:
        raise KeyError("late trouble")
    except KeyError:
        start_response("503 Trouble", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"never"]


@view
def held_heads(environ, start_response):
    """Headers are held until the first block that is not empty, and may be replaced before."""

    def blocks():
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b""
        try:
            raise KeyError("trouble")
        except KeyError:
            start_response("500 Replaced", [("Content-Type", "text/plain")], sys.exc_info())
        yield b"body"

    return blocks()


@view
def lazy_start(environ, start_response):
    def blocks():
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"a"
        yield b"b"

    return blocks()


@view
def no_start(environ, start_response):
    return [b"body"]


@view
def no_start_iterator(environ, start_response):
    return iter([b"body"])


@view
def empty(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return []


@view
def empty_iterator(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return iter([b"", b""])


@view
def zero_length(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return Blocks("zero_length", [b"", b""])


def custom(environ, start_response):
    """Status and headers of the request's query, as JSON."""
    from urllib.parse import unquote

    status, headers = json.loads(unquote(environ["QUERY_STRING"]))
    start_response(status, [tuple(item) for item in headers])
    return [b"custom"]


view(custom)


def misuse(environ, start_response):
    name = environ["QUERY_STRING"]
    good = [("Content-Type", "text/plain")]
    if name == "bytes-header":
        start_response("200 OK", [(b"Content-Type", b"text/plain")])
    elif name == "bytes-status":
        start_response(b"200 OK", good)
    elif name == "generator-headers":
        start_response("200 OK", (item for item in good))
    elif name == "dict-headers":
        start_response("200 OK", {"Content-Type": "text/plain"})
    elif name == "triple":
        start_response("200 OK", [("a", "b", "c")])
    elif name == "int-value":
        start_response("200 OK", [("Content-Length", 5)])
    elif name == "str-body":
        start_response("200 OK", good)
        return ["text"]
    elif name == "str-blocks":
        start_response("200 OK", good)
        return iter(["text"])
    elif name == "bytes-result":
        start_response("200 OK", good)
        return b"text"
    elif name == "none-result":
        start_response("200 OK", good)
        return None
    elif name == "bytearray-body":
        start_response("200 OK", good)
        return [bytearray(b"text")]
    elif name == "exit":
        sys.exit(3)
    elif name == "keyboard":
        raise KeyboardInterrupt
    return [b"body"]


view(misuse)


@view
def raise_early(environ, start_response):
    raise RuntimeError("before the start")


@view
def raise_late(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Blocks("raise_late", [b"part"], RuntimeError("after the start"))


@view
def raise_unsent(environ, start_response):
    """The head was held, so the client gets a proper 500."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Blocks("raise_unsent", [b""], RuntimeError("nothing was sent"))


@view
def raise_in_close(environ, start_response):
    class Failing(Blocks):
        def close(self):
            CLOSED.append(self.name)
            raise RuntimeError("in close")

    start_response("200 OK", [("Content-Type", "text/plain")])
    return Failing("raise_in_close", [b"all of it"])


@view
def close_once(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Blocks("close_once", [b"a", b"b"])


@view
def stepwise(environ, start_response):
    """Goes on when the file that the query names exists."""
    path = environ["QUERY_STRING"]

    def blocks():
        yield b"one"
        while not os.path.exists(path):
            time.sleep(0.005)
        yield b"two"

    start_response("200 OK", [("Content-Type", "text/plain")])
    return Blocks("stepwise", blocks())


@view
def step_write(environ, start_response):
    path = environ["QUERY_STRING"]
    put = start_response("200 OK", [("Content-Type", "text/plain")])
    put(b"one")
    while not os.path.exists(path):
        time.sleep(0.005)
    return [b"two"]


@view
def long_list(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [b"x" * 50_000, b"y" * 50_000, b"", b"z"]


@view
def short_list(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"a", b"", b"b"]


@view
def big(environ, start_response):
    size = int(environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [bytes(range(256)) * (size // 256)]


@view
def endless(environ, start_response):
    CALLS["endless"] = 0

    def blocks():
        while True:
            CALLS["endless"] += 1
            yield b"e" * 10_000

    start_response("200 OK", [("Content-Type", "text/plain")])
    return Blocks("endless", blocks())


@view
def endless_later(environ, start_response):
    time.sleep(0.2)
    return endless(environ, start_response)


@view
def endless_write(environ, start_response):
    put = start_response("200 OK", [("Content-Type", "text/plain")])
    CALLS["endless_write"] = "writing"
    try:
        while True:
            put(b"w" * 10_000)
    except OSError as error:
        CALLS["endless_write"] = type(error).__name__
        raise


@view
def calls(environ, start_response):
    return reply(start_response, [CALLS, CLOSED])


def stated(length, blocks, name):
    def run(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain"), ("content-length", str(length))])
        return Blocks(name, blocks)

    VIEWS[name] = run


stated(5, [b"abc", b"defgh", b"ij"], "too_long")
stated(5, [b"abcde"], "exact")
stated(5, [b"abc", b"de", b""], "exact_blocks")
stated(5, [b"abc"], "too_short")
stated(5, [], "nothing_sent")


@view
def too_long_list(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"abcdef"]


@view
def too_short_list(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "30")])
    return [b"abc"]


@view
def after_length(environ, start_response):
    """What stands behind the last yield is run too."""

    def blocks():
        yield b"abc"
        CALLS["after_length"] = True

    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return blocks()


@view
def no_content(environ, start_response):
    start_response("204 No Content", [])
    return []


@view
def bare(environ, start_response):
    """A response without a body, for which the application returns one."""
    status = {"204": "204 No Content", "304": "304 Not Modified"}[environ["QUERY_STRING"]]
    start_response(status, [])
    return Blocks("bare", [b"body"])


@view
def head_generator(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "7")])
    return Blocks("head_generator", [b"content"])


@view
def head_list(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"content"]


@view
def file(environ, start_response):
    source = tempfile.TemporaryFile()
    source.write(b"0123456789" * 20_000)
    source.seek(5)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](source, 4096)


@view
def file_length(environ, start_response):
    source = tempfile.TemporaryFile()
    source.write(b"0123456789")
    source.seek(0)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return environ["wsgi.file_wrapper"](source)


@view
def file_object(environ, start_response):
    """An object that has only read() and close()."""

    class Source:
        parts = [b"a", b"b"]
        reads = 0

        def read(self, size):
            Source.reads += 1
            return self.parts.pop(0) if self.parts else b""

        def close(self):
            CLOSED.append("file_object")

    wrapper = environ["wsgi.file_wrapper"](Source(), 1024)
    CALLS["reads_before_return"] = Source.reads
    start_response("200 OK", [("Content-Type", "text/plain")])
    return wrapper


@view
def file_no_close(environ, start_response):
    class Source:
        parts = [b"a"]

        def read(self, size):
            return self.parts.pop() if self.parts else b""

    wrapper = environ["wsgi.file_wrapper"](Source())
    CALLS["file_no_close"] = hasattr(wrapper, "close")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return wrapper


class ClassApplication:
    """The iterable class of PEP 3333."""

    def __init__(self, environ, start_response):
        self.start = start_response

    def __iter__(self):
        self.start("200 OK", [("Content-Type", "text/plain")])
        yield b"class"


VIEWS["class_application"] = ClassApplication
LATE = {}


@view
def keep_start(environ, start_response):
    LATE["start"], LATE["write"] = start_response, start_response("200 OK", [("A", "b")])
    return [b"kept"]


@view
def use_late(environ, start_response):
    """What an earlier request was given has no effect on this one."""
    outcomes = []
    LATE["write"](b"late")
    try:
        LATE["start"]("500 Late", [])
    except AssertionError:
        outcomes.append("refused")
    return reply(start_response, outcomes)


@view
def threads(environ, start_response):
    """Waits until as many requests run as the query says."""
    count = int(environ["QUERY_STRING"])
    BARRIERS.setdefault(count, threading.Barrier(count)).wait(45)
    return text(start_response, threading.current_thread().name)


BARRIERS = {}


@view
def sleep(environ, start_response):
    time.sleep(float(environ["QUERY_STRING"]))
    return text(start_response, "slept")


@view
def hog(environ, start_response):
    """Sleeps in C without releasing the interpreter lock."""
    import ctypes

    ctypes.PyDLL(None).usleep(int(float(environ["QUERY_STRING"]) * 1e6))
    return text(start_response, "hogged")


@view
def pid(environ, start_response):
    return text(start_response, str(os.getpid()))


@view
def fork(environ, start_response):
    """The child returns into the server, which it must not serve."""
    how = environ["QUERY_STRING"]
    child = os.fork()
    if child == 0:
        if how == "exit":
            sys.exit(7)
        if how == "raise":
            raise RuntimeError("in the child")
        if how == "write":
            start_response("200 OK", [("Content-Type", "text/plain")])(b"child")
        return text(start_response, "child")
    status = os.waitpid(child, 0)[1]
    return text(start_response, str(os.WEXITSTATUS(status)))


@view
def grandchild(environ, start_response):
    """A grandchild uses pipes that the child between has made."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        os.waitpid(child, 0)
        body = os.read(reader, 100)
        os.close(reader)
        return text(start_response, body)
    # They get the numbers of the descriptors that were closed in the child.
    pipes = [os.pipe() for _ in range(8)]
    if os.fork() == 0:
        for end, other in pipes:
            os.write(other, b"x")
            os.write(writer, os.read(end, 1))
        os._exit(0)
    os.wait()
    os._exit(0)


@view
def shut(environ, start_response):
    """Does to the descriptors of this process what careless libraries do."""
    import socket

    how, fds = environ["QUERY_STRING"].split("=")
    for fd in map(int, fds.split(",")):
        if how == "close":
            os.close(fd)
            continue
        sock = socket.socket(fileno=os.dup(fd))
        if how == "shutdown":
            sock.shutdown(socket.SHUT_RDWR)
        elif how == "timeout":
            sock.settimeout(1)
        else:
            sock.setblocking(how == "blocking")
        sock.close()
    return text(start_response, "done")


@view
def spawn(environ, start_response):
    import math
    import multiprocessing

    context = multiprocessing.get_context(environ["QUERY_STRING"])
    with context.Pool(1) as pool:
        return text(start_response, str(pool.apply(math.factorial, (5,))))


@view
def terminate(environ, start_response):
    """Ends a forked child at once by a signal, with the default action."""
    import signal

    child = os.fork()
    if child == 0:
        time.sleep(10)
        os._exit(1)
    os.kill(child, signal.SIGTERM)
    status = os.waitpid(child, 0)[1]
    return text(start_response, str(os.WTERMSIG(status)))


@view
def descriptors(environ, start_response):
    """The descriptors that a program inherits which the application starts."""
    import subprocess

    code = "import os; print(sorted(int(f) for f in os.listdir('/proc/self/fd')))"
    command = [sys.executable, "-S", "-c", code]
    return text(start_response, subprocess.check_output(command, close_fds=False))


@view
def chatty(environ, start_response):
    print("printed by a view")
    return text(start_response, "ok")


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/v/"):
        return validator(VIEWS[path[3:]])(environ, start_response)
    return VIEWS.get(path[1:], hello)(environ, start_response)
