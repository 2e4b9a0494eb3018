"""A stand-in for coring: it starts worker processes as coring does, and speaks their protocol."""

import ctypes
import marshal
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from zygote import PATIENCE, Process, forked

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "python"
DONTWAIT = socket.MSG_DONTWAIT
CREDIT = 256 << 10

HEAD, BODY, ABORT, EXPIRED, FENCED, WANT = range(1, 7)


def modules():
    """The sources of `_coring`, by the names of its modules."""
    found = {}
    for path in sorted((SOURCES / "_coring").glob("*.py")):
        name = "_coring" if path.stem == "__init__" else f"_coring.{path.stem}"
        found[name] = path.read_text()
    return found


MODULES = modules()
BOOTSTRAP = (SOURCES / "bootstrap.py").read_text()


def memfd(content):
    """A descriptor of a file without a name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("test", os.MFD_CLOEXEC)
    else:
        fd = ctypes.CDLL(None).memfd_create(b"test", 1)
    os.write(fd, content)
    return fd


def eventfd():
    return ctypes.CDLL(None).eventfd(0, os.O_CLOEXEC | os.O_NONBLOCK)


def pair():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Message:
    """One message of a worker."""

    def __init__(self, raw):
        self.kind, self.flags, self.status, self.size = struct.unpack_from("<BBHI", raw)
        self.id = raw[8:16]
        payload = raw[16:]
        self.head = payload[: self.size] if self.kind == HEAD else b""
        self.body = payload[self.size :] if self.kind == HEAD else payload
        self.is_last = bool(self.flags & 1) or self.kind in (ABORT, EXPIRED)

    def __repr__(self):
        return f"<{self.kind} {self.flags} {self.status} {self.head!r} {self.body[:40]!r}>"


class Response:
    """The messages of one request so far."""

    def __init__(self):
        self.messages = []
        self.body = b""
        self.end = None
        self.status = None
        self.reason = None
        self.headers = []

    def take(self, message):
        if self.end is not None:
            raise AssertionError(f"{message} came after the end of the response")
        self.messages.append(message)
        if message.kind == HEAD:
            if self.status is not None:
                raise AssertionError("a second head")
            assert len(message.head) <= 64 << 10
            reason, *fields = message.head.split(b"\n")
            self.status, self.reason = message.status, reason.decode("latin-1")
            pairs = [field.partition(b":") for field in fields]
            self.headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, _, v in pairs]
        assert len(message.body) <= 64 << 10
        self.body += message.body
        if message.is_last:
            self.end = {ABORT: "abort", EXPIRED: "expired"}.get(message.kind, "end")

    def header(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]


class Front:
    """coring, with one worker or several.

    `files` are written to a new directory, which is their current one.
    """

    def __init__(
        self, app, files=None, workers=1, cores=1, python=sys.executable, env=None, **config
    ):
        self.directory = Path(tempfile.mkdtemp(prefix="coring-test-"))
        for name, text in (files or {}).items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        self.python, self.env = python, env
        self.config = {
            "app": app,
            "factory": False,
            "interface": "auto",
            "worker_class": "auto",
            "threads": 0,
            "chdir": None,
            "app_dir": None,
            "pythonpath": [],
            "loop": "auto",
            "lifespan": "auto",
            "base": {"SERVER_SOFTWARE": "coring/test"},
            "root_path": "",
            "workers": workers,
            "log_level": "info",
            "drain_timeout": 5.0,
            "argv": ["coring", "run", app],
        }
        self.config.update(config)
        self.near, self.far = pair()
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 512 << 10)
        self.cores = cores
        self.responses = {}
        self.fenced = []
        self.wanted = {}
        self.auto_grant = True
        self.count = 0
        self.workers = [Worker(self, number) for number in range(workers)]
        try:
            for worker in self.workers:
                worker.wait_until_loaded()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def worker(self):
        return self.workers[0]

    @property
    def is_asgi(self):
        return self.worker.loaded[1] == "asgi"

    @property
    def has_own_socket(self):
        """Whether each worker receives its requests from a socket of its own."""
        return self.worker.loaded[1] in ("asgi", "gevent")

    def close(self):
        for worker in self.workers:
            worker.kill()
        self.near.close()
        self.far.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    # Requests.

    def new_id(self):
        self.count += 1
        return self.new_id_of(self.count)

    def send(
        self,
        method="GET",
        path="/",
        headers=(),
        body=b"",
        *,
        query="",
        core=0,
        deadline=None,
        version="1.1",
        variables=None,
        spool=None,
        parts=False,
        worker=0,
    ):
        """Sends a request, and returns its number."""
        ident = self.new_id()
        limit = time.monotonic() + 2 * PATIENCE if deadline is None else deadline
        self.responses[ident] = Response()
        if self.is_asgi:
            values = scope(method, path, headers, query, version)
        else:
            length = len(body) if spool is None else spool[1]
            has_body = spool is not None or body or method in ("POST", "PUT")
            values = environ(method, path, headers, query, version, length if has_body else None)
        values.update(variables or {})
        message = (0, core, ident, values, None if spool or parts else body, limit)
        raw = marshal.dumps(message, 2)
        if self.has_own_socket:
            self.workers[worker].data[core].send(raw)
            if spool:
                for at in range(0, spool[1], 60_000):
                    part = os.pread(spool[0], min(60_000, spool[1] - at), at)
                    self.tell(1, ident, part, True, core=core, worker=worker)
                self.tell(1, ident, b"", False, core=core, worker=worker)
        elif spool:
            self.near.sendmsg(
                [raw], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", spool[0]))]
            )
        else:
            self.near.send(raw)
        return ident

    def tell(self, *message, core=0, worker=0):
        """Sends a message on a data socket."""
        self.workers[worker].data[core].send(marshal.dumps(message, 2))

    def fence(self, nonce, core=0):
        self.near.send(marshal.dumps((5, core, nonce), 2))

    def new_id_of(self, count):
        """The number that request `count` had, from 1."""
        return struct.pack("<II", count, 0xC0DE0000 + count)

    def worker_times(self):
        """Seconds of processor time that the first worker has used, in user and in system mode."""
        with open(f"/proc/{self.worker.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return [int(field) / os.sysconf("SC_CLK_TCK") for field in fields[11:13]]

    # Responses.

    def pump(self, timeout=0.0):
        """Takes what the workers have sent; waits for something, if there is nothing yet."""
        poll = select.poll()
        sockets = {}
        for worker in self.workers:
            for core, sock in enumerate(worker.data):
                poll.register(sock, select.POLLIN)
                sockets[sock.fileno()] = (worker, core, sock)
        for fd, _ in poll.poll(timeout * 1000):
            worker, core, sock = sockets[fd]
            # A worker may send as fast as this takes.
            for _ in range(64):
                try:
                    raw = sock.recv(1 << 20, DONTWAIT)
                except (BlockingIOError, ConnectionError):
                    break
                if not raw:
                    break
                self.take(Message(raw), worker, core)

    def take(self, message, worker, core):
        if message.kind == FENCED:
            self.fenced.append((core, message.id))
        elif message.kind == WANT:
            self.wanted[message.id] = self.wanted.get(message.id, 0) + message.size
        else:
            response = self.responses[message.id]
            response.take(message)
            response.core, response.worker = core, worker
            if self.auto_grant and message.body and not message.is_last:
                self.tell(3, message.id, len(message.body), core=core, worker=worker.number)

    def until(self, condition, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f"nothing came in time; stderr: {self.stderr()[-2000:]}")
            self.pump(min(left, 0.05))

    def response(self, ident, timeout=PATIENCE):
        """The whole response to a request."""
        response = self.responses[ident]
        self.until(lambda: response.end is not None, timeout)
        return response

    def get(self, path="/", headers=(), **more):
        return self.response(self.send("GET", path, headers, **more))

    def post(self, path, body, headers=(), **more):
        return self.response(self.send("POST", path, headers, body, **more))

    # The outputs of the first worker.

    def stderr(self):
        return self.worker.output("stderr")

    def stdout(self):
        return self.worker.output("stdout")


class Worker:
    """A worker process, and coring's ends of its sockets."""

    def __init__(self, front, number):
        self.number = number
        self.directory = front.directory
        self.control, far_control = pair()
        self.data, self.bells, far_data = [], [], []
        for _ in range(front.cores):
            near, far = pair()
            for end in (near, far):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 512 << 10)
            self.data.append(near)
            far_data.append(far)
            self.bells.append(eventfd())
        self.page = memfd(bytes(4096))
        zygote_socket, far_zygote_socket = pair()
        config = dict(front.config, control=far_zygote_socket.fileno())
        bundle = memfd(marshal.dumps({"modules": MODULES, "entry": "zygote", "config": config}, 2))
        self.outputs = {name: open(self.path(name), "wb") for name in ("stdout", "stderr")}
        environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", PYTHONFAULTHANDLER="1")
        environment.update(front.env or {})
        self.zygote = subprocess.Popen(
            [front.python, "-c", BOOTSTRAP, str(bundle), str(far_zygote_socket.fileno())],
            pass_fds=[bundle, far_zygote_socket.fileno()],
            cwd=str(front.directory),
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **self.outputs,
        )
        os.close(bundle)
        far_zygote_socket.close()
        far_life, self.life = os.pipe()
        fds = [far_control.fileno(), self.page, front.far.fileno(), far_life]
        for far, bell in zip(far_data, self.bells):
            fds += [far.fileno(), bell]
        self.loaded = []
        pid, self.failed = forked(zygote_socket, number, fds)
        # If it could not fork, it stands for the worker.
        self.process = Process(pid) if pid else self.zygote
        os.close(far_life)
        far_control.close()
        for far in far_data:
            far.close()

    def path(self, name):
        return str(self.directory / f".{name}.{self.number}")

    def output(self, name):
        with open(self.path(name), encoding="utf-8", errors="replace") as file:
            return file.read()

    def wait_until_loaded(self):
        self.control.settimeout(PATIENCE)
        try:
            report = self.failed or self.control.recv(1 << 16)
            report, _, reason = report.decode().partition("\n")
        except ConnectionError:
            report = reason = ""
        report = report.split(" ", 4)
        if report[0] == "loaded":
            self.loaded = report[1:]
            return
        code = self.process.wait(PATIENCE)
        stderr = self.output("stderr")
        if not stderr.endswith(reason):
            raise AssertionError(f"{reason!r} was reported, and {stderr!r} was written")
        raise LoadFailed(report, code, stderr, self.output("stdout"))

    def marks(self):
        page = os.pread(self.page, 4096, 0)
        return [page[at : at + 8] for at in range(0, 4096, 16) if page[at : at + 8] != bytes(8)]

    def sleeps(self):
        """Whether none of its threads runs or is about to."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        return all(stat.read_text().rsplit(")", 1)[1].split()[0] == "S" for stat in tasks)

    def rings(self, core=0):
        """The number of rings since the last call."""
        try:
            return int.from_bytes(os.read(self.bells[core], 8), "little")
        except BlockingIOError:
            return 0

    def wait_for_ring(self, core=0, timeout=PATIENCE):
        poll = select.poll()
        poll.register(self.bells[core], select.POLLIN)
        return bool(poll.poll(timeout * 1000)) and self.rings(core)

    def wait_for_rings(self, count):
        """Waits for `count` rings since the last call."""
        while count > 0:
            found = self.wait_for_ring()
            assert found, "the bell is silent"
            count -= found

    def wait(self, timeout=PATIENCE):
        """Its exit status. If it does not end, its threads say on standard error where they are."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError(f"it does not end: {self.output('stderr')}") from None

    def quit(self):
        self.control.send(b"quit")

    def kill(self):
        for process in (self.process, self.zygote):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        for output in self.outputs.values():
            output.close()
        for sock in [self.control, *self.data]:
            sock.close()
        for fd in [self.page, self.life, *self.bells]:
            try:
                os.close(fd)
            except OSError:
                pass
        self.bells = []


class LoadFailed(Exception):
    """The worker has not loaded the application."""

    def __init__(self, report, code, stderr, stdout):
        super().__init__(f"{report} {code}\n{stderr}")
        self.report, self.code, self.stderr, self.stdout = report, code, stderr, stdout
        self.line = stderr.rstrip("\n").split("\n")[-1]


def environ(method, path, headers, query, version, length):
    """The variables that coring sends for a request (src/python/vars.rs)."""
    values = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "RAW_URI": path,
        "REQUEST_URI": path,
        "SERVER_PROTOCOL": f"HTTP/{version}",
        "wsgi.url_scheme": "http",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "40000",
    }
    if length is not None:
        values["CONTENT_LENGTH"] = str(length)
    for name, value in headers:
        if name.lower() == "content-type":
            values["CONTENT_TYPE"] = value
        else:
            values["HTTP_" + name.upper().replace("-", "_")] = value
    return values


def scope(method, path, headers, query, version):
    """The scope that coring sends for a request (src/python/vars.rs)."""
    return {
        "type": "http",
        "http_version": version,
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8000),
        "headers": [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers],
    }
