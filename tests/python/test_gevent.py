"""The class gevent: greenlets, patches, its limit, bodies in parts, and all of PEP 3333.

The interpreter needs the module `gevent`. It is this one, or that of CORING_GEVENT_PYTHON.
"""

import importlib.util
import os
import sys
import time
import unittest

import test_protocol
import test_wsgi
from front import CREDIT, Front, LoadFailed

APP = test_wsgi.APP
PYTHON = os.environ.get("CORING_GEVENT_PYTHON", sys.executable)

HELPERS = {
    "app.py": """
        import os
        import socket
        import threading
        import time

        import gevent
        from gevent import monkey
        from gevent.event import Event

        event, event2 = Event(), Event()
        RUNNING = []
        MOST = [0]

        def app(environ, start_response):
            RUNNING.append(1)
            MOST[0] = max(MOST[0], len(RUNNING))
            try:
                result = VIEWS[environ["PATH_INFO"][1:]](environ)
            finally:
                RUNNING.pop()
            start_response("200 OK", [("Content-Type", "text/plain")])
            return result if isinstance(result, list) else [str(result).encode()]

        VIEWS = {
            "hello": lambda environ: "hello",
            "most": lambda environ: MOST[0],
            "sleep": lambda environ: time.sleep(float(environ["QUERY_STRING"])),
            "patched": lambda environ: monkey.is_module_patched("socket"),
            "greenlet": lambda environ: type(gevent.getcurrent()).__name__,
            "read": lambda environ: len(environ["wsgi.input"].read()),
            "lines": lambda environ: [environ["wsgi.input"].readline(), b"|", b"end"],
            "spawned": lambda environ: gevent.spawn(lambda: "spawned").get(),
            "thread": lambda environ: gevent.get_hub().threadpool.apply(threading.get_ident)
            != threading.get_ident(),
            "flags": lambda environ: [environ["wsgi.multithread"], environ["wsgi.multiprocess"]],
            "copies": lambda environ: copies(),
            "noted_sleep": lambda environ: noted(lambda: gevent.sleep(0.1)),
            "noted_event": lambda environ: noted(event.wait),
            "noted_timeout": lambda environ: noted(lambda: event2.wait(0.1)),
            "notes": lambda environ: open("noted").read(),
        }

        def copies():
            child = os.fork()
            if child == 0:
                event.set()
                gevent.sleep(0.3)
                os._exit(7)
            event.set()
            return os.waitpid(child, 0)[1] >> 8

        def noted(wait):
            try:
                wait()
            finally:
                with open("noted", "a") as file:
                    file.write(f"{os.getpid()}\\n")
        """
}


def setUpModule():
    if sys.executable == PYTHON and importlib.util.find_spec("gevent") is None:
        raise unittest.SkipTest("not tested: the class gevent, which needs the module gevent")


class Gevent:
    worker_class = "gevent"
    threads = 4
    python = PYTHON


class GeventCalls(Gevent, test_wsgi.Calls, unittest.TestCase):
    pass


class GeventInput(Gevent, test_wsgi.Input, unittest.TestCase):
    pass


class GeventStart(Gevent, test_wsgi.Start, unittest.TestCase):
    pass


class GeventBody(Gevent, test_wsgi.Body, unittest.TestCase):
    pass


class GeventFailures(Gevent, test_wsgi.Failures, unittest.TestCase):
    pass


class GeventFileWrapper(Gevent, test_wsgi.FileWrapper, unittest.TestCase):
    pass


class Case(unittest.TestCase):
    def start(self, app="app:app", files=None, **more):
        more.setdefault("worker_class", "gevent")
        started = Front(app, files or HELPERS, python=PYTHON, **more)
        self.addCleanup(started.close)
        return started


class Requests(Case):
    def test_loaded(self):
        interface, worker_class, connections, detail = self.start().worker.loaded
        self.assertEqual((interface, worker_class, connections), ("wsgi", "gevent", "1000"))
        self.assertRegex(detail, r"^CPython 3\.\d+\.\d+, gevent \d+\.\d+")

    def test_a_hundred_sleep_at_the_same_time(self):
        f = self.start()
        began = time.monotonic()
        for ident in [f.send("GET", "/sleep", query="1") for _ in range(100)]:
            self.assertEqual(f.response(ident).status, 200)
        # One after the other would take 100 s.
        self.assertLess(time.monotonic() - began, 20)
        self.assertEqual(f.get("/most").body, b"100")

    def test_no_more_run_than_may(self):
        f = self.start(worker_connections=3)
        idents = [f.send("GET", "/sleep", query="0.05") for _ in range(9)]
        for ident in idents:
            self.assertEqual(f.response(ident).status, 200)
        self.assertEqual(f.get("/most").body, b"3")

    def test_one_that_has_waited_too_long_is_not_run(self):
        f = self.start(worker_connections=1)
        # It has passed when the first one ends, however late that begins.
        deadline = time.monotonic() + 0.1
        slow = f.send("GET", "/sleep", query="1")
        late = f.send(deadline=deadline)
        self.assertEqual(f.response(late).end, "expired")
        self.assertEqual(f.response(slow).end, "end")
        self.assertEqual(f.get("/hello").body, b"hello")

    def test_each_has_a_greenlet_of_gevents_own(self):
        f = self.start()
        self.assertEqual(f.get("/greenlet").body, b"Greenlet")
        self.assertEqual(f.get("/spawned").body, b"spawned")
        self.assertEqual(f.get("/thread").body, b"True")
        self.assertEqual(f.get("/patched").body, b"True")

    def test_the_bell_is_rung_once_for_a_burst(self):
        f = self.start()
        f.get("/hello")
        f.worker.process.send_signal(19)
        idents = [f.send("GET", "/hello") for _ in range(100)]
        f.worker.rings()
        began = time.monotonic()
        f.worker.process.send_signal(18)
        for ident in idents:
            f.response(ident)
        time.sleep(0.01)
        took = time.monotonic() - began
        self.assertLessEqual(f.worker.rings(), 3 + took / 0.001)

    def test_an_idle_worker_does_nothing(self):
        f = self.start()
        f.get("/hello")
        f.send("GET", "/sleep", query="2")
        time.sleep(0.1)
        before = sum(f.worker_times())
        time.sleep(0.5)
        self.assertLess(sum(f.worker_times()) - before, 0.05)


class Bodies(Case):
    def test_parts_are_read_as_they_come(self):
        f = self.start()
        ident = f.send("POST", "/lines", parts=True)
        f.tell(1, ident, b"first\nsec", True)
        f.until(lambda: f.responses[ident].end is not None)
        self.assertEqual(f.responses[ident].body, b"first\n|end")

    def test_room_is_given_back_as_the_application_reads(self):
        f = self.start()
        ident = f.send("POST", "/read", parts=True)
        for _ in range(20):
            f.tell(1, ident, b"x" * 60_000, True)
        f.until(lambda: f.wanted.get(ident, 0) > 20 * 60_000 - CREDIT // 4)
        f.tell(1, ident, b"", False)
        self.assertEqual(f.response(ident).body, b"1200000")

    def test_an_application_that_does_not_read_holds_up_nobody(self):
        f = self.start()
        slow = f.send("POST", "/sleep", parts=True, query="0.3")
        for _ in range(4):
            f.tell(1, slow, b"x" * 60_000, True)
        self.assertEqual(f.get("/hello").body, b"hello")
        self.assertEqual(f.response(slow).status, 200)
        self.assertNotIn(slow, f.wanted)

    def test_a_client_that_goes_ends_the_reading(self):
        f = self.start()
        ident = f.send("POST", "/read", parts=True)
        f.tell(1, ident, b"half", True)
        f.tell(2, ident)
        self.assertEqual(f.response(ident).status, 500)
        self.assertEqual(f.stderr(), "")
        self.assertEqual(f.get("/hello").body, b"hello")

    def test_a_client_that_goes_does_not_end_its_view(self):
        f = self.start()
        ident = f.send("GET", "/sleep", query="0.2")
        f.tell(2, ident)
        self.assertEqual(f.response(ident).end, "end")
        self.assertEqual(f.stderr(), "")


class End(Case):
    def test_quit_finishes_what_runs_and_what_waits(self):
        f = self.start(worker_connections=2)
        idents = [f.send("GET", "/sleep", query="0.2") for _ in range(4)]
        f.worker.quit()
        for ident in idents:
            self.assertEqual(f.response(ident).status, 200)
        self.assertEqual(f.worker.wait(), 0)
        self.assertEqual(f.stderr(), "")

    def test_quit_ends_what_takes_too_long(self):
        f = self.start(drain_timeout=0.3)
        f.send("GET", "/sleep", query="20")
        f.worker.quit()
        self.assertEqual(f.worker.wait(), 0)

    def test_other_requests_do_not_run_in_a_child(self):
        f = self.start()
        others = [f.send("GET", f"/noted_{what}") for what in ("sleep", "event", "timeout")]
        self.assertEqual(f.get("/copies").body, b"7")
        for ident in others:
            self.assertEqual(f.response(ident).status, 200)
        self.assertEqual(f.get("/notes").body.decode(), f"{f.worker.process.pid}\n" * 3)
        self.assertEqual(f.stderr(), "")


class Link(test_protocol.Both, Case):
    """What holds for threads holds here, unless it is about marks or the shared end."""

    threads = 1
    test_loaded = None
    test_mark_is_set_while_the_application_runs = None
    test_mark_is_set_while_the_body_is_made = None
    test_expired = None
    test_expired_while_it_waited = None
    test_fence = None
    test_bell_is_rung_once_for_a_burst = None
    test_bell_for_a_slow_burst = None
    test_disconnect_before_the_head_still_ends_once = None
    test_disconnect_before_a_stream = None
    test_quit_finishes_what_runs = None
    test_quit_is_heard_while_there_is_always_a_request = None
    test_everything_closed_is_the_end = None
    test_a_core_that_ends_does_not_end_the_worker = None
    test_killed_worker_leaves_its_mark_and_the_others_go_on = None
    test_flags_of_the_shared_description = None
    test_flags_set_by_the_application = None
    test_shutdown_of_the_shared_end = None
    test_shutdown_with_requests_that_run = None
    test_a_closed_descriptor_ends_the_worker = None

    def start(self, app="wsgi_app:app", files=None, **more):
        more.pop("threads", None)
        return super().start(app, files or APP, **more)


class Start(Case):
    def test_gevent_is_missing(self):
        files = {**HELPERS, "path/gevent/__init__.py": "raise ImportError('not here')"}
        with self.assertRaises(LoadFailed) as caught:
            self.start(files=files, env={"PYTHONPATH": "path"})
        failed = caught.exception
        self.assertEqual((failed.report, failed.code), (["failed", "4"], 4))
        self.assertIn("-k gevent needs the module `gevent` (not here)", failed.line)
        self.assertIn(f"{PYTHON} -m pip install gevent", failed.line)
        self.assertEqual(failed.stderr.count("\n"), 1)

    def test_an_asgi_application_is_refused(self):
        files = {"app.py": "async def app(scope, receive, send): pass"}
        with self.assertRaises(LoadFailed) as caught:
            self.start(files=files)
        self.assertIn("workers of the class gevent do not run; choose asgi", str(caught.exception))

    def launched(self, start):
        """A worker whose Python runs `start` first, as instrumentation does."""
        return self.start(
            files={**HELPERS, "path/sitecustomize.py": start}, env={"PYTHONPATH": "path"}
        )

    def test_what_was_imported_before_is_named(self):
        f = self.launched("import ssl")
        self.assertEqual(f.get("/patched").body, b"True")
        stderr = f.stderr()
        self.assertIn("has imported socket, ssl", stderr)
        self.assertIn("set DD_GEVENT_PATCH_ALL=true", stderr)
        self.assertEqual(stderr.count("\n"), 1)

    def test_threads_that_run_before_are_named(self):
        f = self.launched(
            """
            import threading, time
            threading.Thread(target=time.sleep, args=(9,), name="telemetry", daemon=True).start()
            """
        )
        self.assertEqual(f.get("/hello").body, b"hello")
        self.assertIn("has imported threading, and has threads (telemetry)", f.stderr())

    def test_patches_of_a_launcher_are_kept(self):
        f = self.launched("import gevent.monkey; gevent.monkey.patch_all()")
        self.assertEqual(f.get("/hello").body, b"hello")
        self.assertIn("gevent has patched the standard library before", f.stderr())
        began = time.monotonic()
        for ident in [f.send("GET", "/sleep", query="0.5") for _ in range(60)]:
            self.assertEqual(f.response(ident).status, 200)
        # One after the other would take 30 s.
        self.assertLess(time.monotonic() - began, 20)
        f.worker.quit()
        self.assertEqual(f.worker.wait(), 0)


if __name__ == "__main__":
    unittest.main()
