"""coring in code: `coring.pywsgi.WSGIServer`, with the program in target."""

import signal
import socket
import time
import unittest
from pathlib import Path

import test_in_code
from test_in_code import setUpModule  # noqa: F401

BEGIN = """
import http.client
import os
import signal
import socket
import sys
import threading
import time

import coring
from coring.pywsgi import WSGIServer

held = []
release = threading.Event()

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/sleep":
        time.sleep(0.5)
    elif environ["PATH_INFO"] == "/hold":
        held.append(1)
        release.wait()
    body = environ["wsgi.input"].read()
    return [f"{os.getpid()} {len(body)} {environ.get('site', '')}".encode()]

def get(server, path="/", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=45)
    connection.request("POST" if body else "GET", path, body)
    text = connection.getresponse().read().decode()
    connection.close()
    return text
"""


class Case(test_in_code.Case):
    begin = BEGIN

    def await_end(self, pid):
        end = time.monotonic() + 45
        while Path(f"/proc/{pid}").exists():
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z":
                return
            self.assertLess(time.monotonic(), end, "coring has outlived its process")
            time.sleep(0.02)


class Threads(Case):
    def test_this_process_is_the_worker(self):
        self.run_script(
            """
            server = WSGIServer(("127.0.0.1", 0), app, log=None, environ={"site": "here"})
            assert not server.started
            for _ in range(2):
                server.start()
                assert server.started
                assert server.address == ("127.0.0.1", server.server_port)
                assert get(server) == f"{os.getpid()} 0 here", get(server)
                assert get(server, body=b"x" * 300_000) == f"{os.getpid()} 300000 here"
                server.stop()
                assert not server.started
                try:
                    get(server)
                except ConnectionRefusedError:
                    pass
                else:
                    raise AssertionError("it still listens")
            """
        )

    def test_it_serves_until_it_is_stopped(self):
        self.run_script(
            """
            server = WSGIServer("127.0.0.1:0", app, log=None)
            def stop():
                while not server.started:
                    time.sleep(0.01)
                assert get(server)
                server.stop()
            threading.Thread(target=stop).start()
            server.serve_forever()
            """
        )

    def test_it_may_be_stopped_as_soon_as_it_is_started(self):
        self.run_script(
            """
            class Server(WSGIServer):
                def start(self):
                    super().start()
                    # Another thread may do so.
                    self.stop()
            Server(("127.0.0.1", 0), app, log=None).serve_forever()
            """
        )

    def test_signals_for_workers_change_nothing(self):
        errors = self.directory / "errors"
        with errors.open("w") as stderr:
            process = self.start(
                """
                server = WSGIServer(("127.0.0.1", 0), app, log=None)
                server.start()
                for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU):
                    server._process.send_signal(number)
                line = "because the process that has started coring is the one worker"
                end = time.monotonic() + 45
                while open("errors").read().count(line) < 3:
                    assert time.monotonic() < end
                    time.sleep(0.02)
                assert get(server)
                server.stop(timeout=45)
                """,
                stderr=stderr,
            )
        process.communicate(timeout=90)
        self.assertEqual(process.returncode, 0, errors.read_text())
        self.assertNotIn("could not start", errors.read_text())

    def test_coring_ends_when_its_worker_has_ended(self):
        self.run_script(
            """
            server = WSGIServer(("127.0.0.1", 0), app, log=None)
            server.start()
            assert get(server)
            import gc
            from _coring.link import Link
            [link] = [one for one in gc.get_objects() if type(one) is Link]
            link.control.shutdown(socket.SHUT_RDWR)
            try:
                server.serve_forever()
            except RuntimeError as error:
                assert str(error) == "coring has ended (status 1)", error
            else:
                raise AssertionError("coring has ended well")
            """
        )
        self.assertIn("the worker that coring is attached to has ended", self.errors)

    def test_requests_that_run_may_end_in_time(self):
        self.run_script(
            """
            server = WSGIServer(("127.0.0.1", 0), app, log=None)
            server.start()
            texts = []
            def ask():
                texts.append(get(server, "/hold"))
            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            end = time.monotonic() + 45
            while len(held) < 4:
                assert time.monotonic() < end, held
                time.sleep(0.01)
            # They end while it is stopped.
            threading.Timer(0.5, release.set).start()
            server.stop(timeout=45)
            for thread in threads:
                thread.join()
            assert texts == [f"{os.getpid()} 0 "] * 4, texts
            """
        )

    def test_an_interrupt_ends_it(self):
        process = self.start(
            """
            # A shell may have started these tests with the signal ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            server = WSGIServer(("127.0.0.1", 0), app, log=None)
            server.start()
            print(server._process.pid, flush=True)
            server.serve_forever()
            """
        )
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        self.assertIn("KeyboardInterrupt", process.communicate(timeout=60)[1])
        self.await_end(pid)

    def test_coring_ends_with_this_process(self):
        process = self.start(
            """
            server = WSGIServer(("127.0.0.1", 0), app, log=None)
            threading.Thread(target=server.start).start()
            while not server.started:
                time.sleep(0.01)
            time.sleep(0.1)
            assert get(server)
            print(server._process.pid, flush=True)
            server.serve_forever()
            """
        )
        pid = int(process.stdout.readline())
        process.kill()
        process.communicate()
        self.await_end(pid)

    def test_the_end_of_this_process_is_no_error_of_coring(self):
        process = self.start(
            """
            server = WSGIServer(("127.0.0.1", 0), app, log=None)
            server.start()
            assert get(server)
            print(server._process.pid, flush=True)
            server.serve_forever()
            """
        )
        process.stdout.readline()
        process.terminate()
        # The errors end with coring, which has the same standard error.
        errors = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, -signal.SIGTERM, errors)
        line = "coring: the program that started coring has ended; coring ends, too\n"
        self.assertEqual(errors, line)

    def test_the_end_of_coring_is_an_error(self):
        self.run_script(
            """
            server = WSGIServer(("127.0.0.1", 0), app, log=None)
            server.start()
            os.kill(server._process.pid, 9)
            try:
                server.serve_forever()
            except RuntimeError as error:
                assert "coring has ended (status -9)" in str(error), error
            else:
                raise AssertionError("no error")
            time.sleep(0.2)
            server.start()
            assert get(server)
            """
        )

    def test_requests_that_run_when_coring_ends_leave_this_process_alone(self):
        self.run_script(
            """
            def work(environ, start_response):
                start_response("200 OK", [("Content-Type", "text/plain")])
                if environ["PATH_INFO"] == "/whole":
                    time.sleep(0.01)
                    return [b"whole"]
                return (b"x" * 100_000 for _ in range(100))

            def ask(path):
                try:
                    while True:
                        get(server, path)
                except (OSError, http.client.HTTPException):
                    pass

            for _ in range(6):
                server = WSGIServer(("127.0.0.1", 0), work, log=None)
                server.start()
                paths = ["/whole", "/parts"] * 4
                clients = [threading.Thread(target=ask, args=(path,)) for path in paths]
                for client in clients:
                    client.start()
                time.sleep(0.2)
                os.kill(server._process.pid, signal.SIGKILL)
                try:
                    server.serve_forever()
                except RuntimeError:
                    pass
                for client in clients:
                    client.join()
            end = time.monotonic() + 45
            while any(thread.name.startswith("coring") for thread in threading.enumerate()):
                assert time.monotonic() < end, threading.enumerate()
                time.sleep(0.01)
            """
        )
        self.assertEqual(self.errors, "")

    def test_a_thread_that_fails_ends_coring_alone(self):
        self.run_script(
            """
            def fail(*arguments):
                raise MemoryError("none left")

            def ask():
                try:
                    get(server)
                except (OSError, http.client.HTTPException):
                    pass

            server = WSGIServer(("127.0.0.1", 0), app, log=None)
            server.start()
            from _coring import wsgi
            call, wsgi.Caller.call = wsgi.Caller.call, fail
            client = threading.Thread(target=ask)
            client.start()
            try:
                server.serve_forever()
            except RuntimeError as error:
                assert "coring has ended (status -9)" in str(error), error
            client.join()
            wsgi.Caller.call = call
            server.start()
            assert get(server)
            """
        )
        self.assertIn("MemoryError: none left", self.errors)

    def test_an_address_in_use_is_an_error(self):
        self.run_script(
            """
            first = WSGIServer(("127.0.0.1", 0), app, log=None)
            first.start()
            try:
                WSGIServer(first.address, app).start()
            except OSError as error:
                assert error.errno == 98
            else:
                raise AssertionError("no error")
            first.stop()
            """
        )

    def test_sockets_and_paths(self):
        self.run_script(
            """
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            server = WSGIServer(sock, app, log=None)
            server.start()
            assert server.server_port == port
            assert get(server)
            server.close()
            server = WSGIServer("unix:here.sock", app, log=None)
            server.start()
            assert server.address == os.path.abspath("here.sock")
            client = socket.socket(socket.AF_UNIX)
            client.connect("here.sock")
            client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
            server.stop()
            """
        )

    def test_the_access_log_goes_to_standard_error(self):
        # As a service of systemd has it.
        log, stderr = socket.socketpair()
        self.addCleanup(log.close)
        with stderr:
            process = self.start(
                """
                server = WSGIServer(("127.0.0.1", 0), app)
                server.start()
                assert get(server, "/logged")
                # It is not killed before it has written the log.
                server.stop(timeout=45)
                """,
                stderr=stderr,
            )
        out, _ = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out), (0, ""))
        with log.makefile() as file:
            self.assertIn('"GET /logged HTTP/1.1" 200', file.read())

    def test_one_request_at_a_time(self):
        self.run_script(
            """
            running, most = [], []
            def work(environ, start_response):
                running.append(1)
                most.append(len(running))
                time.sleep(0.05)
                running.pop()
                return app(environ, start_response)
            server = WSGIServer(("127.0.0.1", 0), work, log=None, spawn=1)
            server.start()
            clients = [threading.Thread(target=get, args=(server,)) for _ in range(8)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            assert most == [1] * 8, most
            """
        )

    def test_a_connection_may_be_idle_for_longer_than_gunicorn_lets_it(self):
        self.run_script(
            """
            server = WSGIServer(("127.0.0.1", 0), app, log=None)
            server.start()
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=45)
            for wait in (3.5, 0):
                connection.request("GET", "/")
                assert connection.getresponse().read()
                connection.auto_open = 0
                time.sleep(wait)
            server.stop()
            """
        )

    def test_what_is_not_supported_is_refused(self):
        self.run_script(
            """
            for arguments, expected in [
                ({"handler_class": object}, "coring itself speaks HTTP"),
                ({"keyfile": "a", "certfile": "b"}, "certfile, keyfile not supported"),
                ({"log": sys.stdout}, "coring itself writes the access log"),
                ({"spawn": None}, "a pool that has a size"),
            ]:
                try:
                    WSGIServer(("127.0.0.1", 0), app, **arguments)
                except TypeError as error:
                    assert expected in str(error), error
                else:
                    raise AssertionError(arguments)
            """
        )

    def test_nothing_of_a_server_is_left(self):
        self.run_script(
            """
            import gc

            def has_link():
                gc.collect()
                return any(type(one).__name__ == "Link" for one in gc.get_objects())

            server = WSGIServer(("127.0.0.1", 0), app, log=None)
            numbers = []
            for _ in range(4):
                server.start()
                assert get(server)
                server.stop()
                end = time.monotonic() + 45
                while has_link():
                    assert time.monotonic() < end
                    time.sleep(0.02)
                numbers.append(len(os.listdir("/proc/self/fd")))
            assert numbers == numbers[:1] * 4, numbers
            """
        )

    def test_a_forked_child_leaves_the_server_alone(self):
        self.run_script(
            """
            server = WSGIServer(("127.0.0.1", 0), app, log=None)
            server.start()
            child = os.fork()
            if child == 0:
                os._exit(7)
            assert os.waitpid(child, 0)[1] >> 8 == 7
            assert get(server)
            server.stop()
            """
        )


if __name__ == "__main__":
    unittest.main()
