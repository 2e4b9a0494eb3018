"""A plugin of pytest by which uvicorn's tests of forwarded fields test coring.

The middleware that they test becomes a client: it sends the fields to a coring that trusts the same
proxies, and gives what the application sees there to the application of the test. As an
application, this module responds with that.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys

PEER = "127.0.0.1"
_servers = {}


async def app(scope, receive, send):
    assert scope["type"] == "http", "no lifespan"
    body = json.dumps({"scheme": scope["scheme"], "client": scope["client"]}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def port_of_server(trusted):
    """The port of the coring that trusts these proxies."""
    if trusted not in _servers:
        command = [os.environ["FOREIGN_CORING"], "run", f"{__file__}:app", "--port", "0"]
        command += ["--python", sys.executable, "--forwarded-allow-ips", trusted]
        command += ["--proxy-compat", "uvicorn", "--no-access-log"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, universal_newlines=True)
        for line in process.stderr:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found:
                _servers[trusted] = process, int(found.group(1))
                break
        else:
            raise AssertionError("coring has not started")
    return _servers[trusted][1]


def ask(port, headers):
    """The client and the scheme that an application sees. `None` stands for the peer."""
    with socket.create_connection((PEER, port)) as sock:
        fields = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        sock.sendall(b"GET / HTTP/1.1\r\n" + fields + b"Connection: close\r\n\r\n")
        head, _, body = b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")
        assert b" 200 " in head, head
        seen = json.loads(body)
        is_peer = seen["client"] == list(sock.getsockname())
    return None if is_peer else tuple(seen["client"]), seen["scheme"]


class ThroughCoring:
    """`ProxyHeadersMiddleware` of uvicorn, done by coring."""

    def __init__(self, inner, trusted_hosts="127.0.0.1"):
        self._inner = inner
        hosts = trusted_hosts if isinstance(trusted_hosts, str) else ",".join(trusted_hosts)
        self._trusted = hosts

    async def __call__(self, scope, receive, send):
        headers = [pair for pair in scope["headers"] if pair[0] != b"host"]
        headers.append((b"host", b"testserver"))
        client, scheme = ask(port_of_server(self._trusted), headers)
        scope = dict(scope, client=client or scope["client"], scheme=scheme)
        await self._inner(scope, receive, send)


def prepare():
    """Put the client in the place of the middleware. Only the tests need the modules for that."""
    import httpx
    import pytest
    import uvicorn.middleware.proxy_headers as module

    # Their name for it.
    sys.modules["httpx2"] = httpx
    module.ProxyHeadersMiddleware = ThroughCoring

    class Plugin:
        @pytest.fixture
        def anyio_backend(self):
            return "asyncio"

        def pytest_collection_modifyitems(self, items):
            for item in items:
                if "websocket" in item.name:
                    item.add_marker(pytest.mark.skip(reason="WebSockets are not supported yet"))
                elif "test_forwarded_hosts" in item.name:
                    reason = "they look for names that no peer has in the list alone"
                    item.add_marker(pytest.mark.skip(reason=reason))

        def pytest_sessionfinish(self):
            for process, _ in _servers.values():
                process.send_signal(signal.SIGTERM)
                process.wait()

    return Plugin()


def pytest_configure(config):
    config.pluginmanager.register(prepare(), "through-coring")
