"""coring in code: `coring.run`, with the program in target."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

from environments import find_coring
from front import SOURCES

PROGRAM = find_coring()

BEGIN = """
import coring

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""


def setUpModule():
    if PROGRAM is None:
        raise unittest.SkipTest("not tested: coring in code, which needs the program in target")


class Case(unittest.TestCase):
    python = sys.executable
    begin = BEGIN

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        # As `pip install --target` has it.
        (self.directory / "coring").symlink_to(SOURCES / "coring")
        (self.directory / "bin").mkdir()
        (self.directory / "bin/coring").symlink_to(PROGRAM)

    def start(self, code, stderr=subprocess.PIPE):
        (self.directory / "script.py").write_text(self.begin + textwrap.dedent(code))
        env = {k: v for k, v in os.environ.items() if not k.startswith("CORING_")}
        env.update(PYTHONPATH=str(self.directory), PYTHONDONTWRITEBYTECODE="1")
        if "CORING_ENGINE" in os.environ:
            env["CORING_ENGINE"] = os.environ["CORING_ENGINE"]
        return subprocess.Popen(
            [self.python, "script.py"],
            cwd=str(self.directory),
            env=env,
            stdout=subprocess.PIPE,
            stderr=stderr,
            universal_newlines=True,
        )

    def run_script(self, code, status=0):
        """What a script has printed."""
        process = self.start(code)
        try:
            out, err = process.communicate(timeout=90)
        finally:
            process.kill()
        self.assertEqual(process.returncode, status, err)
        self.errors = err
        return out


class Run(Case):
    def test_it_becomes_the_program(self):
        process = self.start(
            """
            if __name__ == "__main__":
                coring.run("script:app", host="127.0.0.1", port=0, workers=2)
            """
        )
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("  cores"):
                break
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, lines)
        text = "".join(lines)
        self.assertIn(f"pid {process.pid}", text)
        self.assertIn("script:app (wsgi", text)
        self.assertIn("  workers 2", text)
        self.assertIn("http://127.0.0.1:", text)

    def test_settings_that_are_off(self):
        out = self.run_script(
            """
            import os
            coring.find_program = lambda: "coring"
            os.execv = lambda program, arguments: print(arguments[3:])
            coring.run("main:app", access_log=False, proxy_headers=False, reload=False, host=None)
            coring.run("main:app", access_log=True, proxy_headers=True, reload=True)
            """
        )
        off = ["--no-access-log", "--no-proxy-headers"]
        on = ["--access-log", "--proxy-headers", "--reload"]
        self.assertEqual(out, f"{off}\n{on}\n")

    def test_an_application_instead_of_its_name_is_refused(self):
        self.run_script("coring.run(app)", status=1)
        self.assertIn('as in run("main:app")', self.errors)


if __name__ == "__main__":
    unittest.main()
