"""`coring run` of the victim, as a process of its own, and what /proc says of it."""

import collections
import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from environments import HERE
from strict_client import PATIENCE, Fault

# Workers at the start.
WORKERS = 3
# The name of the process that workers are forked from.
ZYGOTE = "coring-zygote\n"
# When a worker that does not go on is ended, in seconds.
TIMEOUT = 3
# When a worker is replaced.
MAX_REQUESTS = 500


class Server:
    """A server in a directory of its own."""

    def __init__(self, program, worker_class, preload):
        self.directory = Path(tempfile.mkdtemp(prefix="coring-murder-"))
        self.ledger = self.directory / "ledger"
        self.ledger.touch()
        self.write_code(0)
        interface = "asgi" if worker_class == "asgi" else "wsgi"
        flags = ["-k", worker_class, "-w", str(WORKERS), "--bind", "127.0.0.1:0"]
        flags += ["--timeout", str(TIMEOUT), "--max-requests", str(MAX_REQUESTS)]
        flags += ["--preload"] if preload else []
        env = {k: v for k, v in os.environ.items() if not k.startswith("CORING_")}
        kept = ("CORING_ENGINE", "CORING_PYTHON")
        env.update({k: os.environ[k] for k in kept if k in os.environ})
        env.update(LEDGER=str(self.ledger), PYTHONPATH=str(HERE), PYTHONDONTWRITEBYTECODE="1")
        self.process = subprocess.Popen(
            [program, "run", f"served:{interface}", *flags],
            cwd=self.directory,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        self.log = []
        self.address = None
        self.is_listening = threading.Event()
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()
        if not self.is_listening.wait(PATIENCE) or self.address is None:
            self.process.kill()
            raise Fault("coring has not started:\n" + "".join(self.log))

    def read_log(self):
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"http://(127\.0\.0\.1):(\d+)", line)
            if found and not self.address:
                self.address = (found.group(1), int(found.group(2)))
                self.is_listening.set()
        self.is_listening.set()

    def write_code(self, generation, is_good=True):
        """Write the module that is served. It takes its place at once."""
        text = f"import victim\nvictim.generation = {generation}\n"
        text += "from victim import asgi, wsgi\n" if is_good else "from victim import\n"
        path = self.directory / "served.new"
        path.write_text(text)
        path.rename(self.directory / "served.py")

    def count(self, text):
        """How many lines of its log have a text."""
        return sum(text in line for line in list(self.log))

    def children(self):
        """The process ids of its workers and orphans, with the letters of their states."""
        found = {}
        pid = self.process.pid
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for child in path.read_text().split():
                    stat = Path(f"/proc/{child}/stat").read_text()
                    if "(coring-zygote)" in stat:
                        continue
                    found[int(child)] = stat.rpartition(")")[2].split()[0]
        return found

    def descriptors(self):
        """How many descriptors there are of each kind."""
        counted = collections.Counter()
        for path in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                counted[re.sub(r"[\d\[\]: ]+", "", os.readlink(str(path)))] += 1
        return counted

    def zygote(self):
        """The process that workers are forked from; none while there is none."""
        for path in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for child in path.read_text().split():
                    if Path(f"/proc/{child}/comm").read_text() == ZYGOTE:
                        return int(child)
        return None

    def memory(self):
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Fault("coring does not end") from None
        if code != 0:
            raise Fault(f"coring has ended with {code}")
