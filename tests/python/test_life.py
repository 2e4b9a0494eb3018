"""The life of a worker: what it tells coring of itself, in each class."""

import os
import signal
import unittest
from pathlib import Path

from front import Front

APPS = {name: Path(__file__).with_name(name).read_text() for name in ("wsgi_app.py", "asgi_app.py")}
CLASSES = (("wsgi", "sync"), ("wsgi", "gthread"), ("asgi", "asgi"))


class Life(unittest.TestCase):
    def start(self, kind, worker_class, **config):
        f = Front(f"{kind}_app:app", APPS, worker_class=worker_class, threads=2, **config)
        self.addCleanup(f.close)
        return f

    def reports_after(self, f, requests):
        """What it tells the supervisor until its end."""
        for _ in range(requests):
            self.assertEqual(f.get().body, b"hello")
        f.worker.quit()
        self.assertEqual(f.worker.wait(), 0)
        return list(iter(lambda: f.worker.control.recv(100), b""))

    def test_a_number_of_requests_is_reported_once(self):
        for kind, worker_class in CLASSES:
            with self.subTest(worker_class):
                f = self.start(kind, worker_class, max_requests=3)
                self.assertEqual(self.reports_after(f, 5), [b"spent"])

    def test_chance_adds_to_the_number(self):
        f = self.start("wsgi", "sync", max_requests=2, max_requests_jitter=10**9)
        self.assertEqual(self.reports_after(f, 3), [])

    def test_the_main_loop_counts(self):
        for kind, worker_class in CLASSES[1:]:
            with self.subTest(worker_class):
                f = self.start(kind, worker_class, beat_interval=0.02)
                self.assertEqual(f.get().body, b"hello")
                for _ in range(3):
                    before = os.pread(f.worker.page, 8, 8)
                    f.until(lambda f=f, old=before: os.pread(f.worker.page, 8, 8) != old)

    def test_sigabrt_shows_where_threads_are(self):
        for kind, worker_class in CLASSES:
            with self.subTest(worker_class):
                environment = {"PYTHONFAULTHANDLER": ""}
                f = self.start(kind, worker_class, beat_interval=1.0, env=environment)
                self.assertEqual(f.get().body, b"hello")
                if worker_class != "sync":
                    # All threads have been started.
                    f.until(lambda f=f: os.pread(f.worker.page, 8, 8) != bytes(8))
                f.worker.process.send_signal(signal.SIGABRT)
                code = f.worker.wait()
                self.assertIn(code, (-signal.SIGABRT, -signal.SIGSEGV))
                # Python may crash while it looks at a thread that runs.
                is_whole = code == -signal.SIGABRT
                text = "(most recent call first)" if is_whole else "Fatal Python error"
                self.assertIn(text, f.stderr())


if __name__ == "__main__":
    unittest.main()
