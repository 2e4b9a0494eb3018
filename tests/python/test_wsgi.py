"""PEP 3333, line by line; and what other servers get wrong.

The numbers are those of the checklist in the design notes. Where it is allowed to, a view runs
within wsgiref.validate as well.
"""

import json
import os
import sys
import tempfile
import time
import unittest
from pathlib import Path
from urllib.parse import quote

import front
from front import ABORT, HEAD, PATIENCE, Front

APP = {"wsgi_app.py": Path(front.__file__).with_name("wsgi_app.py").read_text()}


class Base:
    worker_class = "sync"
    threads = 1
    python = sys.executable

    @classmethod
    def setUpClass(cls):
        cls.front = Front(
            "wsgi_app:app",
            APP,
            worker_class=cls.worker_class,
            threads=cls.threads,
            python=cls.python,
        )

    @classmethod
    def tearDownClass(cls):
        cls.front.close()

    def setUp(self):
        self.stderr_before = len(self.front.stderr())

    def errors(self):
        """What this test has made the worker write to standard error."""
        return self.front.stderr()[self.stderr_before :]

    def both(self, view, check=None, method="GET", **more):
        """Runs a view as it is, and within the validator."""
        for path in (f"/{view}", f"/v/{view}"):
            with self.subTest(path):
                response = self.front.response(self.front.send(method, path, **more))
                self.assertEqual(response.end, "end", self.errors())
                self.assertNotIn("Traceback", self.errors())
                if check is not None:
                    check(response)
        return response

    def refused(self, view, expected, **more):
        """A view that breaks the rules gets 500 and a log entry."""
        response = self.front.get(f"/{view}", **more)
        self.assertEqual((response.status, response.end), (500, "end"), self.errors())
        self.assertEqual(response.body, b"Internal Server Error")
        self.assertIn(expected, self.errors())

    def closed(self, name):
        return json.loads(self.front.get("/calls").body)[1].count(name)

    def assert_closed(self, name, count):
        """A response may be complete before the application is."""
        end = time.monotonic() + PATIENCE
        while self.closed(name) < count and time.monotonic() < end:
            time.sleep(0.005)
        self.assertEqual(self.closed(name), count)

    def assert_logged(self, text):
        end = time.monotonic() + PATIENCE
        while text not in self.errors() and time.monotonic() < end:
            time.sleep(0.005)
        self.assertIn(text, self.errors())

    def calls(self, name):
        return json.loads(self.front.get("/calls").body)[0].get(name)

    def late_call(self, name):
        """What a view has noted after its response was complete. Another thread runs it."""
        end = time.monotonic() + PATIENCE
        while self.calls(name) is None and time.monotonic() < end:
            time.sleep(0.005)
        return self.calls(name)


class Calls(Base):
    """1 to 8: the call and its environ."""

    def environ(self, *args, **more):
        kind, values, kinds = json.loads(self.front.get("/environ", *args, **more).body)
        self.assertEqual(kind, "dict")
        return values, kinds

    def test_01_application_is_called_with_two_positional_arguments(self):
        self.both("hello", lambda r: self.assertEqual(r.body, b"hello"))

    def test_02_environ_is_a_private_dict(self):
        for _ in range(2):
            self.assertEqual(json.loads(self.front.get("/mutate").body), [])
        self.assertEqual(self.environ()[0]["wsgi.version"], "(1, 0)")

    def test_03_04_05_cgi_variables(self):
        values, _ = self.environ(query="a=b")
        self.assertEqual(values["REQUEST_METHOD"], "'GET'")
        self.assertEqual(values["PATH_INFO"], "'/environ'")
        self.assertEqual(values["SCRIPT_NAME"], "''")
        self.assertEqual(values["QUERY_STRING"], "'a=b'")
        self.assertEqual(values["SERVER_NAME"], "'127.0.0.1'")
        self.assertEqual(values["SERVER_PORT"], "'8000'")
        self.assertEqual(values["SERVER_PROTOCOL"], "'HTTP/1.1'")
        self.assertEqual(values["SERVER_SOFTWARE"], "'coring/test'")
        self.assertNotIn("CONTENT_LENGTH", values)
        values, _ = self.environ(version="1.0")
        self.assertEqual(values["SERVER_PROTOCOL"], "'HTTP/1.0'")

    def test_06_header_variables_are_there_or_absent(self):
        values, _ = self.environ([("X-Test", "yes"), ("Content-Type", "a/b")])
        self.assertEqual(values["HTTP_X_TEST"], "'yes'")
        self.assertEqual(values["CONTENT_TYPE"], "'a/b'")
        values, _ = self.environ()
        self.assertNotIn("HTTP_X_TEST", values)
        self.assertNotIn("CONTENT_TYPE", values)

    def test_07_values_are_str_of_latin1(self):
        values, kinds = self.environ(variables={"HTTP_X_RAW": "\xe9\xff"})
        self.assertEqual(values["HTTP_X_RAW"], repr("\xe9\xff"))
        for key, kind in kinds.items():
            if not key.startswith("wsgi."):
                self.assertEqual(kind, "str", key)

    def test_07_a_nul_in_the_path_injects_nothing(self):
        response = self.front.get("/x\0REMOTE_USER\0admin", variables={"PATH_INFO": "/environ"})
        values = json.loads(response.body)[1]
        self.assertNotIn("REMOTE_USER", values)
        response = self.front.get("/x\0REMOTE_USER\0admin")
        self.assertEqual(response.status, 200)

    def test_08_wsgi_variables(self):
        values, kinds = self.environ(variables={"wsgi.url_scheme": "https"})
        self.assertEqual(values["wsgi.version"], "(1, 0)")
        self.assertEqual(values["wsgi.url_scheme"], "'https'")
        self.assertEqual(values["wsgi.multithread"], repr(self.threads > 1))
        self.assertEqual(values["wsgi.multiprocess"], "False")
        self.assertEqual(values["wsgi.run_once"], "False")
        self.assertEqual(values["wsgi.input_terminated"], "True")
        self.assertIn("wsgi.file_wrapper", kinds)


class Input(Base):
    """9 and 10: wsgi.input and wsgi.errors."""

    def spooled(self, content):
        file = tempfile.TemporaryFile()
        self.addCleanup(file.close)
        file.write(content)
        # Where the file stands makes no difference.
        file.flush()
        return (file.fileno(), len(content))

    def test_09_read(self):
        query = quote("[2, 0, 3, 100, 1]", safe="[], ")
        for path in ("/read", "/v/read"):
            response = self.front.post(path, b"abcdefgh", query=query)
            self.assertEqual(json.loads(response.body), ["ab", "", "cde", "fgh", ""])
        response = self.front.post("/read", b"abcdefgh", query="[-1, -1]")
        self.assertEqual(json.loads(response.body), ["abcdefgh", ""])

    def test_09_readline_keeps_the_newline(self):
        body = b"ab\ncd\nef"
        expected = {
            "readline": ["ab\n", "cd\n", "ef", "", ""],
            "readline_size": ["ab", "\n", "cd", "\n", "ef", ""],
            "readlines": ["ab\n", "cd\n", "ef"],
            "iterate_input": ["ab\n", "cd\n", "ef"],
        }
        for view, lines in expected.items():
            for prefix in ("/", "/v/"):
                inline = self.front.post(prefix + view, body)
                self.assertEqual(json.loads(inline.body), lines)
                spooled = self.front.post(prefix + view, b"", spool=self.spooled(body))
                self.assertEqual(json.loads(spooled.body), lines)

    def test_09_readlines_hint(self):
        response = self.front.post("/readlines_hint", b"a\nb\nc\n")
        self.assertEqual(json.loads(response.body), [["a\n"], ["b\n", "c\n"]])

    def test_09_read_without_size_and_at_the_end(self):
        for size in (0, 1, 64 << 10):
            response = self.front.post("/read_all", b"\1" * size)
            self.assertEqual(json.loads(response.body), [size, size, ["", "", ""]])

    def test_09_long_bodies_come_by_a_descriptor(self):
        content = b"\1" * 1_000_000
        response = self.front.post("/read_all", b"", spool=self.spooled(content))
        self.assertEqual(json.loads(response.body), [len(content), len(content), ["", "", ""]])

    def test_09_end_is_at_the_content_length(self):
        fd, _ = self.spooled(b"\1" * 100)
        response = self.front.post("/read_all", b"", spool=(fd, 60))
        self.assertEqual(json.loads(response.body), [60, 60, ["", "", ""]])

    def test_09_descriptors_are_closed(self):
        pid = self.front.worker.process.pid
        self.front.get("/hello")
        before = len(os.listdir(f"/proc/{pid}/fd"))
        for _ in range(5):
            self.front.post("/read_all", b"", spool=self.spooled(b"abc"))
            self.front.post("/raise_early", b"", spool=self.spooled(b"abc"))
            self.front.post("/hello", b"", spool=self.spooled(b"abc"), deadline=1.0)
        self.front.until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before)

    def test_10_errors(self):
        self.both("errors")
        self.assertIn("written to errors\none \u00e9\ntwo\n", self.errors())


class Start(Base):
    """11 to 17: start_response."""

    def test_11_write(self):
        self.both("write", lambda r: self.assertEqual(r.body, b"first second third"))
        self.refused("write_text", "write() takes bytes, not str")

    def test_12_second_call_without_exc_info(self):
        self.refused("twice", "start_response was called before")
        self.refused("twice_after_failure", "start_response was called before")

    def test_13_exc_info_before_anything_was_sent(self):
        def check(response):
            self.assertEqual((response.status, response.reason), (503, "Trouble"))
            self.assertEqual(response.header("X-Old"), [])
            self.assertEqual(response.body, b"sorry")

        self.both("exc_info_before", check)

    def test_13_exc_info_after_something_was_sent(self):
        response = self.front.get("/exc_info_after")
        self.assertEqual((response.status, response.body), (200, b"sent"))
        self.assertEqual(response.end, "abort")
        self.assertIn("late trouble", self.errors())

    def test_15_head_is_held_until_the_first_block(self):
        def check(response):
            self.assertEqual((response.status, response.reason), (500, "Replaced"))
            self.assertEqual(response.messages[0].body, b"body")

        self.both("held_heads", check)
        self.both("empty_iterator", lambda r: self.assertEqual(len(r.messages), 1))

    def test_15_zero_length(self):
        self.both("zero_length", lambda r: self.assertEqual(len(r.messages), 1))

    def custom(self, status, headers):
        return self.front.get("/custom", query=quote(json.dumps([status, headers])))

    def test_16_reason_and_names_are_kept(self):
        response = self.custom("299 Very Fine", [["X-CamelCase", "v"], ["x-lower", ""]])
        self.assertEqual((response.status, response.reason), (299, "Very Fine"))
        self.assertEqual(response.headers, [("X-CamelCase", "v"), ("x-lower", "")])

    def test_16_latin1_values(self):
        response = self.custom("200 Gr\xfc\xdfe", [["X-A", "caf\xe9\tau lait"]])
        self.assertEqual(response.reason, "Gr\xfc\xdfe")
        self.assertEqual(response.header("X-A"), ["caf\xe9\tau lait"])

    def test_16_order_and_duplicates_are_kept(self):
        headers = [["Set-Cookie", "a=1"], ["B", "1"], ["Set-Cookie", "b=2"]]
        response = self.custom("200 OK", headers)
        self.assertEqual(response.headers, [tuple(h) for h in headers])

    def test_16_invalid_status(self):
        for status in (
            "",
            "abc",
            "20 OK",
            "2000 OK",
            "200OK",
            "200 a\nb",
            "200 a\r\nX: y",
            "099 x",
            "100 Continue",
            "101 Switching",
            "200 \u20ac",
        ):
            with self.subTest(status):
                self.assertEqual(self.custom(status, []).status, 500)

    def test_16_invalid_headers(self):
        invalid = [
            ["X A", "v"],
            ["", "v"],
            ["X:", "v"],
            ["X\n", "v"],
            ["X\0", "v"],
            ["X\xe9", "v"],
            ["X", "a\nb"],
            ["X", "a\r\nSet-Cookie: b"],
            ["X", "a\0b"],
            ["X", "a\nEvil\0b"],
            ["X", "a\x7f"],
            ["X", "\u20ac"],
            ["X\0Y", "v"],
            ["X\0v\nZ", "w"],
        ]
        for header in invalid:
            with self.subTest(header):
                self.assertEqual(self.custom("200 OK", [header]).status, 500)

    def test_16_a_known_head_does_not_hide_an_injection(self):
        """The text of these headers is that of two others, which are known to be valid."""
        self.assertEqual(self.custom("200 OK", [["X", "a"], ["Evil", "b"]]).status, 200)
        self.assertEqual(self.custom("200 OK", [["X", "a\nEvil\0b"]]).status, 500)
        self.assertEqual(self.custom("200 OK\nX\0a", [["Evil", "b"]]).status, 500)

    def test_16_fields_of_the_connection(self):
        for name in ("Upgrade", "TE", "Trailer", "Proxy-Authenticate"):
            with self.subTest(name):
                self.assertEqual(self.custom("200 OK", [[name, "x"]]).status, 500)
        self.assertIn("the header 'Upgrade' is the server's", self.errors())
        # Applications that run elsewhere send these, and they are harmless without effect.
        for header in (
            ["Connection", "keep-alive"],
            ["Transfer-Encoding", "chunked"],
            ["keep-alive", "timeout=5"],
        ):
            with self.subTest(header):
                response = self.custom("200 OK", [["A", "1"], header, ["B", "2"]])
                self.assertEqual(response.status, 200)
                self.assertEqual(response.headers, [("A", "1"), ("B", "2")])

    def test_16_fields_that_connection_names(self):
        headers = [
            ["X-Hop", "1"],
            ["A", "1"],
            ["Connection", "close, x-HOP"],
            ["Content-Length", "6"],
            ["connection", " ,x-b"],
            ["X-B", ""],
            ["x-hop", "2"],
        ]
        response = self.custom("200 OK", headers)
        self.assertEqual(response.headers, [("A", "1"), ("Content-Length", "6")])

    def test_16_content_length(self):
        for value in ("-1", "+6", "6, 6", "abc", "", "6 6", "0x6"):
            with self.subTest(value):
                self.assertEqual(self.custom("200 OK", [["Content-Length", value]]).status, 500)
        twice = [["Content-Length", "6"], ["content-length", "7"]]
        self.assertEqual(self.custom("200 OK", twice).status, 500)
        self.assertEqual(self.custom("200 OK", [["Content-Length", " 6 "]]).status, 200)

    def test_16_head_of_more_than_64_kib(self):
        self.assertEqual(self.custom("200 OK", [["X", "a" * 60_000]]).status, 200)
        self.assertEqual(self.custom("200 OK", [["X", "a" * 70_000]]).status, 500)

    def test_17_types(self):
        for name in (
            "bytes-header",
            "bytes-status",
            "generator-headers",
            "dict-headers",
            "triple",
            "int-value",
        ):
            with self.subTest(name):
                self.refused("misuse", "TypeError", query=name)


class Body(Base):
    """19 to 26: the body."""

    def test_19_blocks_are_sent_unaltered_and_in_order(self):
        self.both(
            "long_list", lambda r: self.assertEqual(r.body, b"x" * 50_000 + b"y" * 50_000 + b"z")
        )
        self.both("short_list", lambda r: self.assertEqual(r.body, b"ab"))

    def test_19_body_must_be_bytes(self):
        for name in ("str-body", "str-blocks", "bytes-result", "none-result", "bytearray-body"):
            with self.subTest(name):
                self.refused("misuse", "TypeError", query=name)
        self.assertIn("the application has returned str for a part of the body", self.errors())

    def test_19_a_list_of_one_is_one_message(self):
        response = self.front.get("/hello")
        self.assertEqual(len(response.messages), 1)
        self.assertEqual(len(self.front.get("/short_list").messages), 1)

    def test_20_each_block_is_sent_before_the_next_is_made(self):
        for view in ("stepwise", "v/stepwise", "step_write", "v/step_write"):
            with self.subTest(view), tempfile.TemporaryDirectory() as directory:
                go = os.path.join(directory, "go")
                self.front.worker.rings()
                ident = self.front.send("GET", f"/{view}", query=go)
                # 21 for write(). The bell rings at once, too.
                self.assertTrue(self.front.worker.wait_for_ring())
                response = self.front.responses[ident]
                self.front.until(lambda r=response: r.body == b"one")
                self.assertIsNone(response.end)
                Path(go).touch()
                self.assertEqual(self.front.response(ident).body, b"onetwo")

    def test_22_close_is_called_once(self):
        for view, end in (
            ("close_once", "end"),
            ("raise_late", "abort"),
            ("raise_unsent", "end"),
            ("raise_in_close", "end"),
            ("too_long", "end"),
            ("too_short", "abort"),
            ("zero_length", "end"),
        ):
            with self.subTest(view):
                before = self.closed(view)
                self.assertEqual(self.front.get(f"/{view}").end, end)
                self.assert_closed(view, before + 1)
        # The next test would find them among its own errors.
        self.assert_logged("RuntimeError: in close")
        self.assert_logged("the body is longer than its Content-Length")
        self.assert_closed("head_generator", 0)
        self.front.response(self.front.send("HEAD", "/head_generator"))
        self.assert_closed("head_generator", 1)

    def test_22_close_is_called_once_when_the_client_has_gone(self):
        before = self.closed("endless")
        ident = self.front.send("GET", "/endless")
        self.front.until(lambda: self.front.responses[ident].body)
        self.front.tell(2, ident)
        self.assertEqual(self.front.response(ident).end, "abort")
        self.assert_closed("endless", before + 1)
        self.assertEqual(self.errors(), "")

    def test_22_write_raises_when_the_client_has_gone(self):
        ident = self.front.send("GET", "/endless_write")
        self.front.until(lambda: self.front.responses[ident].body)
        self.front.tell(2, ident)
        self.assertEqual(self.front.response(ident).end, "abort")
        self.assertEqual(self.calls("endless_write"), "ClientDisconnected")
        self.assertEqual(self.errors(), "")

    def test_23_start_response_in_the_first_iteration(self):
        self.both("lazy_start", lambda r: self.assertEqual(r.body, b"ab"))
        self.both("class_application", lambda r: self.assertEqual(r.body, b"class"))

    def test_23_no_start_response(self):
        self.refused("no_start", "has not called start_response")
        self.refused("no_start_iterator", "has not called start_response")

    def test_25_content_length_is_never_exceeded(self):
        for view, body in (("too_long", b"abcde"), ("too_long_list", b"abc")):
            response = self.front.get(f"/{view}")
            self.assertEqual((response.end, response.body), ("end", body))
            self.assert_logged("the body is longer than its Content-Length")
        self.assertEqual(self.front.get("/write_length").body, b"abc")
        self.assertIn("beyond the Content-Length", self.late_call("write_length"))

    def test_25_short_bodies_are_logged_and_cut(self):
        for view in ("too_short", "too_short_list"):
            response = self.front.get(f"/{view}")
            self.assertEqual((response.end, response.body), ("abort", b"abc"))
        self.assertIn("2 bytes shorter than its Content-Length", self.errors())
        self.assertIn("27 bytes shorter than its Content-Length", self.errors())
        self.assertEqual(self.front.get("/nothing_sent").end, "abort")

    def test_25_the_last_byte_ends_the_response(self):
        self.both("exact", lambda r: self.assertEqual(len(r.messages), 1))
        response = self.front.get("/exact_blocks")
        self.assertEqual([m.body for m in response.messages], [b"abc", b"de"])
        self.assertEqual(self.front.get("/after_length").end, "end")
        self.assertTrue(self.late_call("after_length"))

    def test_26_no_body_on_head(self):
        for view in ("head_generator", "head_list", "hello"):
            for prefix in ("/", "/v/"):
                response = self.front.response(self.front.send("HEAD", prefix + view))
                self.assertEqual((response.status, response.body), (200, b""))
                self.assertEqual(len(response.messages), 1)
        # A known length is stated.
        self.assertEqual(
            self.front.response(self.front.send("HEAD", "/head_list")).header("Content-Length"),
            ["7"],
        )
        self.assertEqual(
            self.front.response(self.front.send("HEAD", "/hello")).header("Content-Length"), ["5"]
        )

    def test_26_no_body_on_204_and_304(self):
        for status in ("204", "304"):
            response = self.front.get("/bare", query=status)
            self.assertEqual(
                (response.status, response.body, response.end), (int(status), b"", "end")
            )
        self.both("no_content", lambda r: self.assertEqual(r.status, 204))

    def test_big_bodies_come_in_messages_of_64_kib(self):
        for size in (65_536, 65_536 + 256, 1 << 20):
            response = self.front.get("/big", query=str(size))
            self.assertEqual(response.body, bytes(range(256)) * (size // 256))
            self.assertEqual(response.messages[0].kind, HEAD)

    def test_empty_body(self):
        self.both("empty", lambda r: self.assertEqual((len(r.messages), r.body), (1, b"")))


class Failures(Base):
    """29: exceptions of the application."""

    def test_29_exception_before_the_head(self):
        self.refused("raise_early", "RuntimeError: before the start")
        self.assertIn("Error handling request GET /raise_early", self.errors())
        self.assertIn('wsgi_app.py", line', self.errors())

    def test_29_exception_after_the_head(self):
        response = self.front.get("/raise_late")
        self.assertEqual((response.status, response.body, response.end), (200, b"part", "abort"))
        self.assertEqual([m.kind for m in response.messages], [HEAD, ABORT])
        self.assertIn("RuntimeError: after the start", self.errors())

    def test_29_exception_while_the_head_is_held(self):
        self.refused("raise_unsent", "RuntimeError: nothing was sent")

    def test_29_exception_in_close(self):
        response = self.front.get("/raise_in_close")
        self.assertEqual((response.body, response.end), (b"all of it", "end"))
        self.assert_logged("RuntimeError: in close")

    def test_29_system_exit_and_keyboard_interrupt_do_not_end_the_worker(self):
        self.refused("misuse", "SystemExit: 3", query="exit")
        self.refused("misuse", "KeyboardInterrupt", query="keyboard")
        self.assertEqual(self.front.get("/hello").body, b"hello")

    def test_error_on_head_has_no_body(self):
        response = self.front.response(self.front.send("HEAD", "/raise_early"))
        self.assertEqual((response.status, response.body, response.end), (500, b"", "end"))

    def test_no_line_feed_of_the_path_reaches_the_log(self):
        self.front.get(
            "/raise_early\nforged",
            variables={"RAW_URI": "/raise_early%0Aforged", "PATH_INFO": "/raise_early"},
        )
        self.assertIn("GET /raise_early%0Aforged", self.errors())

    def test_what_earlier_requests_were_given_has_no_effect(self):
        self.assertEqual(self.front.get("/keep_start").body, b"kept")
        response = self.front.get("/use_late")
        self.assertEqual(json.loads(response.body), ["refused"])


class FileWrapper(Base):
    """31: wsgi.file_wrapper."""

    def test_31_starts_at_the_offset(self):
        expected = (b"0123456789" * 20_000)[5:]
        self.both("file", lambda r: self.assertEqual(r.body, expected))

    def test_31_stops_at_content_length(self):
        response = self.front.get("/file_length")
        self.assertEqual((response.body, response.end), (b"0123", "end"))

    def test_31_any_object_with_read(self):
        before = self.closed("file_object")
        self.both("file_object", lambda r: self.assertEqual(r.body, b"ab"))
        self.assert_closed("file_object", before + 2)
        self.assertEqual(self.calls("reads_before_return"), 0)

    def test_31_without_close(self):
        self.both("file_no_close", lambda r: self.assertEqual(r.body, b"a"))
        self.assertIs(self.calls("file_no_close"), False)


class SyncCalls(Calls, unittest.TestCase):
    pass


class SyncInput(Input, unittest.TestCase):
    pass


class SyncStart(Start, unittest.TestCase):
    pass


class SyncBody(Body, unittest.TestCase):
    pass


class SyncFailures(Failures, unittest.TestCase):
    pass


class SyncFileWrapper(FileWrapper, unittest.TestCase):
    pass


class Gthread:
    worker_class = "gthread"
    threads = 4


class GthreadCalls(Gthread, Calls, unittest.TestCase):
    pass


class GthreadInput(Gthread, Input, unittest.TestCase):
    pass


class GthreadStart(Gthread, Start, unittest.TestCase):
    pass


class GthreadBody(Gthread, Body, unittest.TestCase):
    pass


class GthreadFailures(Gthread, Failures, unittest.TestCase):
    pass


class GthreadFileWrapper(Gthread, FileWrapper, unittest.TestCase):
    pass


if __name__ == "__main__":
    unittest.main()
