"""coring in code: `coring.pywsgi.WSGIServer` in a process that gevent has patched."""

import importlib.util
import os
import sys
import unittest

import test_pywsgi
from test_in_code import setUpModule  # noqa: F401

GEVENT_PYTHON = os.environ.get("CORING_GEVENT_PYTHON", sys.executable)


class Greenlets(test_pywsgi.Threads):
    python = GEVENT_PYTHON
    begin = "from gevent import monkey\nmonkey.patch_all()\n" + test_pywsgi.BEGIN

    def setUp(self):
        if self.python == sys.executable and importlib.util.find_spec("gevent") is None:
            self.skipTest("not tested: coring.pywsgi with gevent, which needs the module gevent")
        super().setUp()

    # There are no threads.
    test_a_thread_that_fails_ends_coring_alone = None

    def test_an_interrupt_that_does_not_wake_the_hub_ends_it(self):
        """As one that comes right before the hub waits."""
        process = self.start(
            """
            import _thread
            signal.signal(signal.SIGINT, signal.default_int_handler)
            server = WSGIServer(("127.0.0.1", 0), app, log=None)
            server.start()
            sleep = monkey.get_original("time", "sleep")
            def interrupt():
                sleep(0.5)
                _thread.interrupt_main()
            monkey.get_original("_thread", "start_new_thread")(interrupt, ())
            server.serve_forever()
            """
        )
        self.addCleanup(process.kill)
        self.assertIn("KeyboardInterrupt", process.communicate(timeout=60)[1])

    def test_requests_run_in_greenlets(self):
        self.run_script(
            """
            import gevent
            from gevent.pool import Pool
            server = WSGIServer(("127.0.0.1", 0), app, log=None, spawn=Pool(50))
            server.start()
            began = time.monotonic()
            jobs = [gevent.spawn(get, server, "/sleep") for _ in range(50)]
            assert all(job.get() for job in jobs)
            # One after the other would take 25 s.
            assert time.monotonic() - began < 15
            server.stop()
            """
        )


if __name__ == "__main__":
    unittest.main()
