"""Runs gevent's tests of its own server, from its package, against `coring.pywsgi`.

Usage: foreign_pywsgi.py [NAME OF A TEST]

The interpreter needs the module gevent. Each test starts the server in this process. It prints how
many have passed, failed, or were left out. A test may fail only if EXPLAINED has the reason, and
what is listed there must fail.
"""

# ruff: noqa: E402, I001
# What gevent replaces is replaced before anything else is imported.
from gevent import monkey

monkey.patch_all()

import contextlib
import io
import sys
import types
import unittest

from environments import find_coring
from front import SOURCES

sys.path.insert(0, str(SOURCES))

import coring.pywsgi
import gevent
from gevent.tests import test__pywsgi as suite

# Tests by a part of their names, and why they fail.
EXPLAINED = {
    "ChunkedInputTests": "the request has no Host: 400",
    "TestNonLatin1HeaderFromApplication": "the request has no Host: 400",
    "TestNonLatin1UnicodeHeaderFromApplication": "the request has no Host: 400",
    "test_trailers_close_ignored": "Host and Connection in the trailers: 400",
    "test_trailers_request_smuggling_header_first": "Host and Connection in the trailers: 400",
    "smuggling_missing_last_chunk_keep_alive": "400; the test lets the first request pass",
    "test_trailers_too_long": "coring waits for the end of an unread body of up to 64 KiB",
    "test_229_incorrect_chunk_token_ext_too_long": "coring allows longer extensions of chunks",
    "TestMultiLineHeader": "a field on several lines: 400 (RFC 9112, 5.2)",
    "Expect100ContinueTests.test_continue": "the body is there already, so there is no 100",
    "TestConnectionUpgrades.test_connection_upgrade": "no upgrades yet",
    "TestConnectionUpgrades.test_upgrade_websocket": "no upgrades yet",
    "TestBytearray": "PEP 3333: a part of a body is bytes",
    "TestCloseIter": "PEP 3333: a part of a body is bytes",
    "TestBody304": "304 is sent without the body; gevent raises an AssertionError",
    "TestWrite304": "304 is sent without the body; gevent raises an AssertionError",
    "TestContentLength304": "the length of a 304 is allowed; gevent raises an AssertionError",
    "TestEmptyWrite": "an empty body has a Content-Length instead of chunks",
    "TestEmptyYield.": "an empty body has a Content-Length instead of chunks",
    "TestErrorAfterChunk": "the error is logged, and not handed to the hub",
    "TestErrorInApplication": "the error is logged, and not handed to the hub",
    "TestError_after_start_response": "the error is logged, and not handed to the hub",
    "TestHTTPResponseSplitting.test_newline_in_": "the ValueError has other words",
    "TestEnviron.test_environ_is_secure_by_default": "a class of gevent.pywsgi for environ",
    "MultipleCookieHeadersTest": "only Cookie is joined by semicolons, not Cookie2",
    "TestHandlerSubclass": "handler_class is not supported",
    "TestLogging": "coring itself writes the access log",
}


class WSGIServer(coring.pywsgi.WSGIServer):
    """Without what has other words in coring."""

    def __init__(self, listener, application=None, **more):
        for name in ("log", "error_log", "handler_class"):
            more.pop(name, None)
        super().__init__(listener, application, log=None, **more)


class PatientTimeout(gevent.Timeout):
    """gevent's tests give the end of a server half a second, which a busy machine does not keep."""

    @classmethod
    def start_new(cls, seconds, exception=None):
        return super().start_new(60 * seconds, exception)


class Result(unittest.TextTestResult):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.passed = 0

    def addSuccess(self, test):  # noqa: N802
        super().addSuccess(test)
        self.passed += 1


def name_of(test):
    kind = type(test)
    return f"{kind.__name__}.{test._testMethodName} ("


def main():
    program = find_coring()
    if program is None:
        raise SystemExit("there is no coring in target; build it")
    coring.pywsgi.find_program = lambda: str(program)
    suite.pywsgi.WSGIServer = WSGIServer
    suite.gevent = types.ModuleType("gevent")
    vars(suite.gevent).update(vars(gevent), Timeout=PatientTimeout)
    loader = unittest.TestLoader()
    if len(sys.argv) > 1:
        loader.testNamePatterns = [f"*{sys.argv[1]}*"]
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        runner = unittest.TextTestRunner(stream=log, resultclass=Result)
        result = runner.run(loader.loadTestsFromModule(suite))
    failed = {name_of(test): trace for test, trace in result.failures + result.errors}
    skipped = {name_of(test) for test, _ in result.skipped}
    print(f"gevent {suite.gevent.__version__}, test__pywsgi: {result.passed} passed, ", end="")
    print(f"{len(failed)} failed, {len(skipped)} left out")
    status = 0
    for name, trace in sorted(failed.items()):
        reasons = [reason for part, reason in EXPLAINED.items() if part in name]
        print(f"    {name[:-2]}: {reasons[0] if reasons else 'NOT EXPLAINED'}")
        if not reasons:
            status = 1
            print(trace)
    for test, reason in sorted(result.skipped, key=lambda pair: name_of(pair[0])):
        print(f"    {name_of(test)[:-2]} is left out: {reason}")
    unused = [part for part in EXPLAINED if not any(part in name for name in failed)]
    if unused and len(sys.argv) == 1:
        status = 1
        print(f"    these do not fail any more: {', '.join(unused)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
