"""A plugin of pytest by which gunicorn's tests of its access log test coring.

The logger that they test becomes a client: it sends the request to a coring whose application, this
module, responds as the test wants it, and reads the atoms in coring's access log.
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

# The names of atoms that the tests look at, each in quotes in a line of the log.
ATOMS = ("r", "m", "U", "q", "H", "b", "B", "u", "{accept}i", "{content-type}o")
LINE_SECONDS = 30
LEFT_OUT = {"test_setup": "about the handlers of gunicorn's logger, which coring has not"}


def app(environ, start_response):
    wanted = json.loads(environ["HTTP_X_RESPONSE"])
    start_response(wanted["status"], [tuple(pair) for pair in wanted["headers"]])
    return [b"x" * wanted["sent"]]


class Server:
    """A coring that logs the atoms."""

    def __init__(self):
        self._log = tempfile.NamedTemporaryFile()
        line = " ".join(f'"%({name})s"' for name in ATOMS)
        command = [os.environ["FOREIGN_CORING"], "run", f"{__file__}:app", "--port", "0"]
        command += ["--python", sys.executable, f"--access-log={self._log.name}"]
        command += ["--access-logformat", line]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, universal_newlines=True)
        for line in self._process.stderr:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found:
                self._port = int(found.group(1))
                break
        else:
            raise AssertionError("coring has not started")

    def atoms(self, method, target, headers, response):
        """The atoms of a request that gets this response."""
        self._log.seek(0, os.SEEK_END)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LINE_SECONDS)
        connection.request(method, target, headers={**headers, "X-Response": json.dumps(response)})
        connection.getresponse().read()
        connection.close()
        end = time.monotonic() + LINE_SECONDS
        line = ""
        while not line.endswith("\n"):
            assert time.monotonic() < end, "nothing was logged"
            line += self._log.readline().decode()
            time.sleep(0.01)
        atoms = dict(zip(ATOMS, re.findall(r'"((?:[^"\\]|\\.)*)"', line)))
        return dict(atoms, B=int(atoms["B"]))

    def stop(self):
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


def prepare():
    """Put the client in the place of the logger. Only the tests need the modules for that."""
    import pytest
    from gunicorn import glogging

    server = Server()

    class Logger:
        """`Logger` of gunicorn, as far as its atoms are concerned."""

        def __init__(self, cfg):
            pass

        def atoms(self, resp, req, environ, request_time):
            headers = dict(req.headers)
            for name, value in environ.items():
                if name.startswith("HTTP_"):
                    headers[name[len("HTTP_") :].replace("_", "-")] = value
            response = {"status": resp.status, "headers": resp.headers, "sent": resp.sent}
            return server.atoms(environ["REQUEST_METHOD"], environ["RAW_URI"], headers, response)

    glogging.Logger = Logger

    class Plugin:
        def pytest_collection_modifyitems(self, items):
            for item in items:
                for part, reason in LEFT_OUT.items():
                    if part in item.name:
                        item.add_marker(pytest.mark.skip(reason=reason))

        def pytest_sessionfinish(self):
            server.stop()

    return Plugin()


def pytest_configure(config):
    config.pluginmanager.register(prepare(), "through-coring")
