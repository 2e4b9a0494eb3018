"""The settings that the process reports which executes a configuration file of gunicorn's."""

import marshal
import os
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

from front import BOOTSTRAP, MODULES, memfd

NAMES = ["workers", "bind", "errorlog", "worker_class", "reload", "raw_env", "on_exit", "umask"]


class Case(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def execute(self, location, files):
        """The exit status, the parts of the report, and standard error."""
        for name, text in files.items():
            path = self.directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))
        near, far = os.pipe()
        config = {"location": location, "names": NAMES, "pipe": far}
        bundle = memfd(marshal.dumps({"modules": MODULES, "entry": "settings", "config": config}))
        done = subprocess.run(
            [sys.executable, "-c", BOOTSTRAP, str(bundle), str(far)],
            pass_fds=[bundle, far],
            cwd=self.directory,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(bundle)
        os.close(far)
        with open(near, "rb") as pipe:
            report = pipe.read().decode()
        return done.returncode, report.split("\0")[:-1], done.stderr

    def settings(self, text, location="conf.py", **files):
        files = {name.replace("__", "/") + ".py": body for name, body in files.items()}
        code, parts, stderr = self.execute(location, {"conf.py": text, **files})
        self.assertEqual((code, stderr), (0, ""))
        found = {}
        while parts:
            name, kind, count, *parts = parts
            found[name] = (kind, *parts[: int(count)])
            del parts[: int(count)]
        return found

    def test_values_are_reported_by_their_kinds(self):
        found = self.settings(
            """
            import multiprocessing
            workers = multiprocessing.cpu_count() * 0 + 9
            bind = ["127.0.0.1:8000", "unix:/run/x"]
            errorlog = None
            reload = True
            raw_env = {"A": 1}
            umask = 0o22
            class worker_class: pass
            def on_exit(server): pass
            """
        )
        self.assertEqual(
            found,
            {
                "workers": ("text", "9"),
                "bind": ("list", "127.0.0.1:8000", "unix:/run/x"),
                "errorlog": ("none",),
                "reload": ("bool", "true"),
                "raw_env": ("other", "{'A': 1}"),
                "umask": ("text", "18"),
                "worker_class": ("text", "__config__.worker_class"),
                "on_exit": ("function",),
                "": ("bool", "false"),
            },
        )

    def test_a_file_sees_what_it_sees_under_gunicorn(self):
        found = self.settings(
            """
            import os, sys, helper
            assert __name__ == "__config__" and __file__.endswith("conf.py")
            assert sys.modules[__name__].helper is helper
            assert sys.argv[0] == "coring"
            workers = helper.count
            """,
            helper="count = 3",
        )
        self.assertEqual(found["workers"], ("text", "3"))

    def test_files_and_modules_are_named_as_under_gunicorn(self):
        for location in ("conf.py", "./conf.py", "file:conf.py", f"{self.directory}/conf.py"):
            self.assertEqual(self.settings("workers = 4", location)["workers"], ("text", "4"))
        found = self.settings("", "python:shop.conf", shop__conf="workers = 5")
        self.assertEqual(found["workers"], ("text", "5"))
        code, parts, _ = self.execute("settings.conf", {"settings.conf": "workers = 6"})
        self.assertEqual((code, parts[:4]), (0, ["workers", "text", "1", "6"]))

    def test_names_in_vain_are_reported_with_what_is_meant(self):
        found = self.settings(
            """
            import os
            from json import dumps
            cores = 2
            workers = cores * 2
            logfile = "debug.log"
            worker_clas = "gevent"
            x_forwarded_for_header = "X-FORWARDED-FOR"
            _private = 1
            def helper(): pass
            """
        )
        unknown = {name: value[1] for name, value in found.items() if value[0] == "unknown"}
        meant = {"logfile": "errorlog", "worker_clas": "worker_class", "x_forwarded_for_header": ""}
        self.assertEqual(unknown, meant)

    def test_a_file_that_fails_is_shown(self):
        for text, last, frame in (
            ("x = 1\nworkers = 1 +\n", "SyntaxError: invalid syntax", 'conf.py", line 2'),
            ("def f():\n    1 / 0\nf()\n", "ZeroDivisionError: division", "line 2, in f"),
            ("import sys\nsys.exit('no')\n", "SystemExit: no", 'conf.py", line 2'),
        ):
            code, parts, stderr = self.execute("conf.py", {"conf.py": text})
            self.assertEqual((code, parts), (1, []), stderr)
            line = f"coring: the configuration conf.py failed: {last}"
            self.assertTrue(stderr.splitlines()[-1].startswith(line), stderr)
            self.assertIn(frame, stderr)
            self.assertNotIn("coring:_coring", stderr)

    def test_a_file_or_module_that_is_missing_is_named(self):
        code, _, stderr = self.execute("nowhere.py", {})
        expected = "coring: there is no configuration file nowhere.py; correct -c\n"
        self.assertEqual((code, stderr), (1, expected))
        code, _, stderr = self.execute("python:nowhere", {})
        self.assertEqual(code, 1)
        self.assertIn("ModuleNotFoundError: No module named 'nowhere'", stderr.splitlines()[-1])


if __name__ == "__main__":
    unittest.main()
