"""Has worker processes forked, as coring does."""

import ctypes
import os
import signal
import socket
import struct
import subprocess
import time

# Seconds that something may take which has to happen. Machines may be busy.
PATIENCE = 45
PR_SET_CHILD_SUBREAPER = 36
# Descriptors in one message.
DESCRIPTORS_MAX = 16


def forked(zygote, number, fds):
    """The process id of a worker that gets the descriptors, or what the zygote reports instead."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    zygote.settimeout(PATIENCE)
    with zygote:
        try:
            report = zygote.recv(1 << 16)
        except ConnectionError:
            report = b""
        if report != b"ready":
            return None, report
        while fds:
            part, fds = fds[:DESCRIPTORS_MAX], fds[DESCRIPTORS_MAX:]
            rights = struct.pack(f"{len(part)}i", *part)
            order = b"more" if fds else b"fork %d" % number
            zygote.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        kind, pid = zygote.recv(1 << 16).split()
        assert kind == b"forked"
        return int(pid), None


class Process:
    """A child that was forked elsewhere, as subprocess.Popen has it."""

    def __init__(self, pid):
        self.pid = pid
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
                self.returncode = code
        return self.returncode

    def wait(self, timeout=None):
        end = time.monotonic() + (60 if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.002)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)
