"""Views that do what disturbs some servers. The path selects what."""

import faulthandler
import logging.config
import multiprocessing
import os
import queue
import subprocess
import sys
import threading

faulthandler.enable()
# As many applications do; it disables the loggers of others.
logging.config.dictConfig(
    {
        "version": 1,
        "disable_existing_loggers": True,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "root": {"handlers": ["console"], "level": "INFO"},
    }
)


def square(number):
    return number * number


def view(action):
    if action in ("spawn", "forkserver", "fork"):
        with multiprocessing.get_context(action).Pool(2) as pool:
            return str(pool.map(square, [1, 2, 3]))
    if action == "subprocess":
        command = [sys.executable, "-c", "import os; print(os.read(0, 9).decode())"]
        return subprocess.run(command, input=b"piped", stdout=subprocess.PIPE).stdout.decode()
    if action == "child":
        pid = os.fork()
        # The child returns as if it were to answer the request, too.
        return str(os.waitpid(pid, 0)[1]) if pid else "the child"
    if action == "timer":
        results = queue.Queue()
        threading.Timer(0.1, results.put, ["the timer"]).start()
        return results.get(timeout=10)
    if action == "input":
        return repr(sys.stdin and sys.stdin.read())
    if action == "output":
        print("printed \u2603")
        logging.getLogger("views").info("logged \u2603")
    if action == "exit":
        sys.exit(1)
    if action == "end":
        os._exit(7)
    if action == "closed":
        os.close(1)
        os.close(2)
    return "done"


def app(environ, start_response):
    body = view(environ["PATH_INFO"][1:]).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    body = view(scope["path"][1:]).encode()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})
