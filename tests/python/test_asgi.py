"""ASGI (HTTP and lifespan), line by line; and what other servers get wrong.

The numbers are those of the checklist in the design notes.
"""

import importlib.util
import json
import os
import signal
import time
import unittest
from pathlib import Path

import front
from front import ABORT, CREDIT, HEAD, PATIENCE, Front, LoadFailed

APP = {"asgi_app.py": Path(front.__file__).with_name("asgi_app.py").read_text()}


class Case(unittest.TestCase):
    loop = "asyncio"

    def setUp(self):
        self.front = Front("asgi_app:app", APP, loop=self.loop)
        self.addCleanup(self.front.close)

    def seen(self, name):
        return json.loads(self.front.get("/seen").body).get(name)

    def seen_soon(self, name):
        end = time.monotonic() + PATIENCE
        while self.seen(name) is None and time.monotonic() < end:
            time.sleep(0.005)
        return self.seen(name)

    def set(self, name):
        self.front.get("/flag", query=name)


class General(Case):
    """1 to 7."""

    def scope(self, *args, **more):
        return json.loads(self.front.get("/scope", *args, **more).body)

    def test_01_scope(self):
        kind, has_str_keys, values = self.scope()
        self.assertEqual((kind, has_str_keys), ("dict", True))
        self.assertEqual(values["type"], "http")
        self.assertEqual(values["asgi"], {"version": "3.0", "spec_version": "2.5"})

    def test_01_scope_is_private(self):
        for _ in range(2):
            self.assertIsNone(json.loads(self.front.get("/mutate").body))

    def test_03_asgi2(self):
        source = """
            class App:
                def __init__(self, scope):
                    self.scope = scope
                async def __call__(self, receive, send):
                    assert self.scope["type"] == "http"
                    await send({"type": "http.response.start", "status": 200})
                    await send({"type": "http.response.body", "body": b"two"})
        """
        with Front("two:App", {"two.py": source}) as f:
            self.assertEqual(f.worker.loaded[0], "asgi2")
            self.assertEqual(f.get().body, b"two")

    def test_04_invalid_events_are_raised(self):
        for name, error in {
            "body-first": "RuntimeError",
            "unknown": "RuntimeError",
            "no-type": "KeyError",
            "no-status": "KeyError",
            "str-status": "TypeError",
            "float-status": "TypeError",
            "low-status": "ValueError",
            "str-header": "TypeError",
            "triple": "ValueError",
            "name": "ValueError",
            "value": "ValueError",
            "nul": "ValueError",
            "length": "ValueError",
            "start-twice": "RuntimeError",
            "str-body": "TypeError",
            "int-body": "TypeError",
            "disconnect": "RuntimeError",
            "too-long": "RuntimeError",
            "too-short": "RuntimeError",
        }.items():
            with self.subTest(name):
                response = self.front.get("/invalid", query=name)
                self.assertEqual(self.seen(name), error)
                self.assertEqual((response.status, response.end), (500, "end"))

    def test_04_extra_and_missing_keys(self):
        self.assertEqual(self.front.get("/extra_keys").body, b"fine")
        response = self.front.get("/no_optional_keys")
        self.assertEqual((response.status, response.body, response.end), (201, b"", "end"))

    def test_04_other_types_of_values(self):
        response = self.front.get("/kinds")
        self.assertEqual((response.headers, response.body), ([("x-a", "1")], b"bytes"))

    def test_05_exception_before_the_start(self):
        response = self.front.get("/fail_early")
        self.assertEqual((response.status, response.body), (500, b"Internal Server Error"))
        self.assertEqual(response.end, "end")
        self.assertIn("Exception in ASGI application", self.front.stderr())
        self.assertIn("RuntimeError: before the start", self.front.stderr())
        self.assertEqual(self.front.get("/fail_held").status, 500)

    def test_05_exception_after_the_start(self):
        response = self.front.get("/fail_late")
        self.assertEqual((response.body, response.end), (b"part", "abort"))
        self.assertEqual([m.kind for m in response.messages], [HEAD, ABORT])

    def test_05_exception_after_the_end(self):
        self.assertEqual(self.front.get("/fail_after").end, "end")
        self.front.until(lambda: "RuntimeError: after the end" in self.front.stderr())

    def test_05_incomplete_responses(self):
        self.assertEqual(self.front.get("/no_response").status, 500)
        self.assertIn("returned without starting response", self.front.stderr())
        self.assertEqual(self.front.get("/no_end").end, "abort")
        self.assertIn("returned without completing response", self.front.stderr())

    def test_05_system_exit_and_cancellation(self):
        self.assertEqual(self.front.get("/exits").status, 500)
        self.assertEqual(self.front.get("/cancels").status, 500)
        self.assertEqual(self.front.get().body, b"hello")

    def test_06_messages_after_the_end_are_ignored(self):
        response = self.front.get("/after_end")
        self.assertEqual((response.body, len(response.messages)), (b"hello", 1))
        self.assertEqual(self.seen_soon("after_end"), ["http.disconnect"])
        self.assertEqual(self.front.stderr(), "")

    def test_07_no_extension_is_offered(self):
        self.assertFalse(self.scope()[2].get("extensions"))

    def test_a_fresh_context_for_each_request(self):
        idents = [self.front.send("GET", "/context", query=f"v{i}") for i in range(3)]
        for i, ident in enumerate(idents):
            values = json.loads(self.front.response(ident).body)
            self.assertEqual(values, ["unset", f"v{i}"])

    def test_tasks_are_held(self):
        ident = self.front.send("GET", "/collected")
        self.front.get("/collect")
        self.assertEqual(self.front.response(ident).body, b"hello")

    def test_one_loop_in_the_main_thread(self):
        same, loops, name, is_main, has_task = json.loads(self.front.get("/loop").body)
        self.assertEqual((same, loops, is_main, has_task), (True, 1, True, True))
        self.assertEqual(name, self.loop)
        self.assertIn(self.loop, self.front.worker.loaded[3])

    def test_requests_run_at_the_same_time(self):
        began = time.monotonic()
        idents = [self.front.send("GET", "/sleep", query="0.3") for _ in range(200)]
        for ident in idents:
            self.assertEqual(self.front.response(ident).body, b"hello")
        # One after the other would take 60 s.
        self.assertLess(time.monotonic() - began, 20)

    def test_background_work_after_the_response(self):
        self.assertEqual(self.front.get("/background").body, b"hello")
        self.assertTrue(self.seen_soon("background"))

    def test_error_on_head_has_no_body(self):
        response = self.front.response(self.front.send("HEAD", "/fail_early"))
        self.assertEqual((response.status, response.body), (500, b""))

    def test_08_to_13_scope_of_http(self):
        headers = [("Host", "a"), ("X-A", "1"), ("X-B", "\xe9"), ("X-A", "2")]
        values = self.scope(headers, query="a=%20b")[2]
        self.assertEqual(values["http_version"], "1.1")
        self.assertEqual(values["method"], "GET")
        self.assertEqual(values["scheme"], "http")
        self.assertEqual((values["path"], values["raw_path"]), ("/scope", "bytes:/scope"))
        self.assertEqual(values["query_string"], "bytes:a=%20b")
        self.assertEqual(values["root_path"], "")
        pairs = [tuple(pair) for pair in values["headers"]]
        self.assertEqual(pairs, [(f"bytes:{n.lower()}", f"bytes:{v}") for n, v in headers])
        self.assertEqual(values["client"], ["127.0.0.1", 40000])
        self.assertEqual(values["server"], ["127.0.0.1", 8000])
        self.assertEqual(self.scope(version="1.0")[2]["http_version"], "1.0")

    def test_14_state_is_a_shallow_copy(self):
        for count in (1, 2, 3):
            self.assertEqual(json.loads(self.front.get("/state").body), [1, count])


class Http(Case):
    """15 to 21."""

    def test_15_whole_body(self):
        response = self.front.post("/echo", b"x" * 1000)
        self.assertEqual(response.body, b"x" * 1000)
        self.assertEqual(self.seen("echo"), [["http.request", 1000, False]])

    def test_15_first_event_of_an_empty_body(self):
        self.front.get("/echo")
        self.assertEqual(self.seen("echo"), [["http.request", 0, False]])
        ident = self.front.send("POST", "/echo", parts=True)
        self.front.tell(1, ident, b"", False)
        self.front.response(ident)
        self.assertEqual(self.seen("echo"), [["http.request", 0, False]])

    def test_15_body_in_parts(self):
        ident = self.front.send("POST", "/echo", parts=True)
        for count, part in enumerate((b"a" * 10, b"b" * 20), 1):
            self.front.tell(1, ident, part, True)
            self.front.until(lambda count=count: self.seen("parts") == count)
        self.front.tell(1, ident, b"", False)
        self.assertEqual(self.front.response(ident).body, b"a" * 10 + b"b" * 20)
        expected = [[10, True], [20, True], [0, False]]
        self.assertEqual(self.seen("echo"), [["http.request", *item] for item in expected])

    def test_15_parts_that_have_arrived_are_joined(self):
        os.kill(self.front.worker.process.pid, signal.SIGSTOP)
        ident = self.front.send("POST", "/echo", parts=True)
        for _ in range(3):
            self.front.tell(1, ident, b"abc", True)
        self.front.tell(1, ident, b"d", False)
        os.kill(self.front.worker.process.pid, signal.SIGCONT)
        self.assertEqual(self.front.response(ident).body, b"abcabcabcd")

    def test_15_room_for_parts(self):
        """What the application has taken is wanted again, and not before."""
        ident = self.front.send("POST", "/slow_reader", parts=True)
        sent, size, window = 0, 1 << 20, CREDIT
        while sent < size:
            room = window + self.front.wanted.get(ident, 0) - sent
            part = min(size - sent, 30_000, room)
            if part:
                sent += part
                self.front.tell(1, ident, b"p" * part, sent < size)
            else:
                wanted = self.front.wanted.get(ident, 0)
                self.front.until(lambda w=wanted: self.front.wanted.get(ident, 0) > w)
        response = self.front.response(ident)
        self.assertEqual(json.loads(response.body), size)
        self.assertLessEqual(self.front.wanted[ident], size)

    def test_15_no_room_without_reading(self):
        ident = self.front.send("POST", "/sleep", parts=True, query="0.1")
        for _ in range(4):
            self.front.tell(1, ident, b"p" * 65_536, True)
        self.front.response(ident)
        self.assertEqual(self.front.wanted, {})

    def test_15_unread_body(self):
        ident = self.front.send("POST", "/unread", parts=True)
        self.front.tell(1, ident, b"p", True)
        self.assertEqual(self.front.response(ident).body, b'"unread"')
        self.front.tell(1, ident, b"p", False)
        self.assertEqual(self.front.get().body, b"hello")

    def test_16_header_order_and_ignored_fields(self):
        response = self.front.get("/headers")
        self.assertEqual(
            response.headers,
            [("set-cookie", "a=1"), ("X-Upper", "caf\xe9"), ("set-cookie", "b=2"), ("last", "")],
        )
        self.assertEqual(response.reason, "")

    def test_16_start_is_not_sent_before_the_body(self):
        ident = self.front.send("GET", "/unstarted")
        time.sleep(0.05)
        self.front.pump(0.05)
        self.assertEqual(self.front.responses[ident].messages, [])
        self.set("begin")
        self.front.until(lambda: self.front.responses[ident].messages)
        self.assertEqual(self.front.responses[ident].status, 200)
        self.assertIsNone(self.front.responses[ident].end)
        self.set("end")
        self.assertEqual(self.front.response(ident).end, "end")

    def test_17_parts_are_sent_at_once(self):
        ident = self.front.send("GET", "/stream")
        self.assertTrue(self.front.worker.wait_for_ring())
        self.front.pump()
        self.assertEqual(self.front.responses[ident].body, b"one")
        self.front.get("/go")
        self.assertEqual(self.front.response(ident).body, b"onetwo")

    def test_17_credit(self):
        self.front.auto_grant = False
        ident = self.front.send("GET", "/big", query="1000000")
        response = self.front.responses[ident]
        self.front.until(lambda: len(response.body) == CREDIT)
        self.assertEqual(self.front.get().body, b"hello")
        self.assertEqual(len(response.body), CREDIT)
        self.front.tell(3, ident, 1000)
        self.front.until(lambda: len(response.body) == CREDIT + 1000)
        self.front.auto_grant = True
        self.front.tell(3, ident, 100_000)
        self.assertEqual(len(self.front.response(ident).body), 1_000_000)

    def test_17_application_waits_for_credit(self):
        self.front.auto_grant = False
        ident = self.front.send("GET", "/chunks", query="100")
        self.front.until(lambda: len(self.front.responses[ident].body) == CREDIT)
        self.assertEqual(self.seen("chunks"), CREDIT // 10_000)
        self.front.auto_grant = True
        self.front.tell(3, ident, CREDIT)
        self.assertEqual(len(self.front.response(ident).body), 1_000_000)

    def test_17_full_socket(self):
        self.front.auto_grant = False
        os.kill(self.front.worker.process.pid, signal.SIGSTOP)
        idents = [self.front.send("GET", "/big", query="250000") for _ in range(20)]
        os.kill(self.front.worker.process.pid, signal.SIGCONT)
        self.assertTrue(self.front.worker.wait_for_ring())
        for ident in idents:
            self.assertEqual(len(self.front.response(ident).body), 250_000)

    def test_18_one_message_for_a_short_response(self):
        response = self.front.get()
        self.assertEqual(len(response.messages), 1)
        self.assertTrue(self.front.worker.wait_for_ring())

    def test_19_trailers_are_not_supported(self):
        response = self.front.get("/trailers")
        self.assertEqual((response.body, response.end), (b"body", "end"))
        self.assertEqual(self.front.stderr(), "")

    def test_20_disconnect_wakes_receive(self):
        ident = self.front.send("GET", "/events")
        self.front.until(lambda: self.front.responses[ident].body)
        self.front.tell(2, ident)
        self.assertEqual(self.front.response(ident).end, "abort")
        self.assertEqual(self.seen("events"), "http.disconnect")
        # 21. It is not logged either.
        self.assertEqual(self.seen("bye"), "ClientDisconnected")
        self.assertEqual(self.front.stderr(), "")

    def test_20_disconnect_before_the_start(self):
        ident = self.front.send("GET", "/wait_before_start")
        time.sleep(0.05)
        self.front.tell(2, ident)
        self.assertEqual(self.front.response(ident).end, "abort")
        self.assertEqual(self.seen("before_start"), "http.disconnect")
        self.assertEqual(self.seen("before_start_error"), True)
        self.assertEqual(self.front.stderr(), "")

    def test_20_disconnect_while_the_body_arrives(self):
        ident = self.front.send("POST", "/slow_reader", parts=True)
        self.front.tell(1, ident, b"p", True)
        self.front.tell(2, ident)
        self.assertEqual(self.front.response(ident).end, "abort")

    def test_20_disconnect_after_the_response(self):
        self.front.get("/receive_during_end")
        self.assertEqual(self.seen_soon("receive_during_end"), "http.disconnect")

    def test_20_receive_can_be_cancelled(self):
        self.assertEqual(json.loads(self.front.get("/cancelled_receive").body), ["nothing"] * 3)

    def test_21_send_raises_after_the_disconnect(self):
        for path in ("/endless", "/endless_wrapped"):
            ident = self.front.send("GET", path)
            self.front.until(lambda i=ident: self.front.responses[i].body)
            self.front.tell(2, ident)
            self.assertEqual(self.front.response(ident).end, "abort")
        self.assertEqual(self.front.stderr(), "")

    def test_21_send_that_waits_for_credit_raises(self):
        self.front.auto_grant = False
        ident = self.front.send("GET", "/chunks", query="1000")
        self.front.until(lambda: len(self.front.responses[ident].body) == CREDIT)
        self.front.tell(2, ident)
        self.assertEqual(self.front.response(ident).end, "abort")
        self.assertEqual(self.front.stderr(), "")

    def test_drain_wakes_receive(self):
        ident = self.front.send("GET", "/events")
        self.front.until(lambda: self.front.responses[ident].body)
        self.front.tell(4)
        # The client is still there: it can be told.
        response = self.front.response(ident)
        self.assertEqual(response.body, b"data: 1\n\nbye")
        self.assertEqual(response.end, "abort")
        self.assertEqual(self.seen("events"), "http.disconnect")
        self.assertEqual(self.front.stderr(), "")

    def test_drain_is_of_one_core(self):
        self.front.close()
        self.front = Front("asgi_app:app", APP, loop=self.loop, cores=2)
        self.addCleanup(self.front.close)
        idents = [self.front.send("GET", "/events", core=core) for core in (0, 1)]
        self.front.until(lambda: all(self.front.responses[i].body for i in idents))
        self.front.tell(4, core=1)
        self.front.response(idents[1])
        self.assertEqual(self.front.get(core=0).body, b"hello")
        self.assertIsNone(self.front.responses[idents[0]].end)
        self.front.worker.data[0].close()
        self.front.worker.data[0], other = front.pair()
        self.assertEqual(self.front.get(core=1).body, b"hello")
        other.close()

    def test_drain_lets_uploads_finish(self):
        ident = self.front.send("POST", "/echo", parts=True)
        self.front.tell(1, ident, b"first ", True)
        self.front.tell(4)
        time.sleep(0.05)
        self.front.tell(1, ident, b"second", False)
        self.assertEqual(self.front.response(ident).body, b"first second")
        # So do requests that come while the core drains.
        self.assertEqual(self.front.post("/echo", b"late").body, b"late")

    def test_head_and_statuses_without_a_body(self):
        response = self.front.response(self.front.send("HEAD", "/hello"))
        self.assertEqual((response.body, response.header("content-length")), (b"", ["5"]))
        self.assertEqual(len(response.messages), 1)
        for path in ("/chunks", "/big"):
            response = self.front.response(self.front.send("HEAD", path, query="100000"))
            self.assertEqual((response.body, response.end), (b"", "end"))
        for status in ("204", "304"):
            response = self.front.get("/bare", query=status)
            self.assertEqual(
                (response.status, response.body, response.end), (int(status), b"", "end")
            )

    def test_expired(self):
        response = self.front.response(self.front.send(deadline=time.monotonic() - 1))
        self.assertEqual(response.end, "expired")
        self.assertEqual(self.front.get().body, b"hello")

    def test_rings_once_a_turn(self):
        self.front.get()
        self.front.worker.wait_for_ring()
        os.kill(self.front.worker.process.pid, signal.SIGSTOP)
        idents = [self.front.send() for _ in range(50)]
        began = time.monotonic()
        os.kill(self.front.worker.process.pid, signal.SIGCONT)
        for ident in idents:
            self.front.response(ident)
        time.sleep(0.01)
        took = time.monotonic() - began
        self.assertLessEqual(self.front.worker.rings(), 3 + took / 0.001)

    def test_rings_within_a_long_turn(self):
        self.front.get()
        os.kill(self.front.worker.process.pid, signal.SIGSTOP)
        idents = [self.front.send("GET", "/block", query="1") for _ in range(6)]
        self.front.worker.rings()
        os.kill(self.front.worker.process.pid, signal.SIGCONT)
        self.assertTrue(self.front.worker.wait_for_ring())
        self.front.pump()
        self.assertIsNone(self.front.responses[idents[-1]].end)


class End(Case):
    """The end of a worker; 37."""

    def test_37_shutdown_after_the_requests(self):
        running = self.front.send("GET", "/sleep", query="0.2")
        self.front.get("/background")
        self.front.worker.quit()
        self.assertEqual(self.front.response(running).body, b"hello")
        self.assertEqual(self.front.worker.wait(), 0)
        self.assertEqual(self.front.stdout(), "shutdown True\n")
        self.assertEqual(self.front.stderr(), "")

    def test_quit_serves_what_is_in_the_sockets(self):
        os.kill(self.front.worker.process.pid, signal.SIGSTOP)
        self.front.worker.quit()
        idents = [self.front.send("GET", "/sleep", query="0.05") for _ in range(5)]
        os.kill(self.front.worker.process.pid, signal.SIGCONT)
        for ident in idents:
            self.assertEqual(self.front.response(ident).body, b"hello")
        self.assertEqual(self.front.worker.wait(), 0)

    def test_quit_is_bounded(self):
        self.front.close()
        self.front = Front("asgi_app:app", APP, loop=self.loop, drain_timeout=0.3)
        self.addCleanup(self.front.close)
        self.front.send("GET", "/sleep", query="60")
        self.front.get()
        self.front.worker.quit()
        self.assertEqual(self.front.worker.wait(), 0)
        self.assertEqual(self.front.stdout(), "shutdown None\n")

    def test_end_of_control_is_the_end(self):
        self.front.send("GET", "/sleep", query="60")
        self.front.get()
        self.front.worker.control.close()
        self.front.worker.wait()
        self.assertEqual(self.front.stdout(), "")

    def test_signals_for_the_group_do_not_end_the_worker(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            self.front.worker.process.send_signal(number)
        self.assertEqual(self.front.get().body, b"hello")

    def test_a_child_that_returns_does_not_serve(self):
        for how, code in (("return", b"0"), ("exit", b"7"), ("raise", b"1"), ("await", b"0")):
            with self.subTest(how):
                response = self.front.get("/fork", query=how)
                self.assertEqual((response.body, response.end), (code, "end"))
        self.assertIn("in the child", self.front.stderr())
        self.assertEqual(self.front.get().body, b"hello")

    def test_multiprocessing_from_a_handler(self):
        for method in ("fork", "spawn", "forkserver"):
            with self.subTest(method):
                self.assertEqual(self.front.get("/spawn", query=method).body, b"120")

    def test_an_idle_worker_does_nothing(self):
        self.front.get()
        before = sum(self.front.worker_times())
        time.sleep(0.5)
        self.assertLess(sum(self.front.worker_times()) - before, 0.05)


class Lifespan(unittest.TestCase):
    """33 to 38."""

    def load(self, source, **more):
        text = f"""
import asyncio, sys
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
{source}
        return
    await send({{"type": "http.response.start", "status": 200}})
    await send({{"type": "http.response.body", "body": repr(scope["state"]).encode()}})
"""
        f = Front("life:app", {"life.py": text}, loop="asyncio", **more)
        self.addCleanup(f.close)
        return f

    def fails(self, source, **more):
        with self.assertRaises(LoadFailed) as caught:
            self.load(source, **more)
        self.assertEqual(caught.exception.report, ["failed", "3"])
        self.assertEqual(caught.exception.code, 3)
        return caught.exception

    START = """
        await receive()
        scope["state"]["a"] = 1
        await send({"type": "lifespan.startup.complete"})
"""

    def test_34_ready_after_startup(self):
        began = time.monotonic()
        f = self.load("        await asyncio.sleep(0.3)" + self.START)
        self.assertGreater(time.monotonic() - began, 0.3)
        self.assertEqual(f.get().body, b"{'a': 1}")

    def test_34_complete_and_return(self):
        """An application that does not wait for the shutdown."""
        f = self.load(self.START)
        self.assertEqual(f.get().body, b"{'a': 1}")
        f.worker.quit()
        self.assertEqual(f.worker.wait(), 0)

    def test_35_startup_failed(self):
        failed = self.fails("""
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database today"})
""")
        self.assertIn("no database today\n", failed.stderr)
        self.assertIn("the application's startup has failed", failed.line)

    def test_36_exception_means_no_lifespan(self):
        f = self.load("        raise ValueError('only http')")
        self.assertEqual(f.get().body, b"{}")
        f.worker.quit()
        self.assertEqual(f.worker.wait(), 0)

    def test_36_exception_with_lifespan_on(self):
        failed = self.fails("        raise ValueError('broken startup')", lifespan="on")
        self.assertIn("ValueError: broken startup", failed.stderr)

    def test_36_return_means_no_lifespan(self):
        self.assertEqual(self.load("        pass").get().body, b"{}")
        self.fails("        pass", lifespan="on")

    def test_lifespan_off(self):
        f = self.load("        print('called', flush=True)", lifespan="off")
        self.assertEqual(f.get().body, b"{}")
        self.assertEqual(f.stdout(), "")

    def test_exit_in_startup(self):
        self.fails("        sys.exit(1)")

    def test_37_shutdown_is_bounded(self):
        f = self.load(
            self.START + "        await receive(); await asyncio.sleep(60)", drain_timeout=0.2
        )
        f.worker.quit()
        self.assertEqual(f.worker.wait(), 0)
        self.assertIn("shutdown was cut", f.stderr())

    def test_37_shutdown_failed(self):
        f = self.load(
            self.START
            + """
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "still busy"})
"""
        )
        f.worker.quit()
        self.assertEqual(f.worker.wait(), 0)
        self.assertIn("still busy", f.stderr())

    def test_37_exception_in_shutdown(self):
        f = self.load(self.START + "        await receive(); raise ValueError('at the end')")
        f.worker.quit()
        self.assertEqual(f.worker.wait(), 0)
        self.assertIn("ValueError: at the end", f.stderr())

    def test_exception_while_requests_run(self):
        f = self.load(self.START + "        await asyncio.sleep(0.1); raise ValueError('midway')")
        f.until(lambda: "ValueError: midway" in f.stderr())
        self.assertEqual(f.get().status, 200)

    def test_events_out_of_turn(self):
        f = self.load(
            self.START
            + """
        for kind in ("lifespan.startup.complete", "lifespan.shutdown.complete", "http.x"):
            try:
                await send({"type": kind})
            except RuntimeError:
                scope["state"][kind] = "refused"
"""
        )
        self.assertEqual(f.get().body.count(b"refused"), 3)


if importlib.util.find_spec("uvloop"):

    class UvloopGeneral(General):
        loop = "uvloop"

    class UvloopHttp(Http):
        loop = "uvloop"

    class UvloopEnd(End):
        loop = "uvloop"


if __name__ == "__main__":
    unittest.main()
