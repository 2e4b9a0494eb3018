"""The process that all workers are forked from.

It has the worker's code loaded, with `--preload` the application too. It runs one thread, and
makes no event loop: a fork copies neither the other threads nor the kernel's side of a loop. Each
order to fork brings the descriptors of one worker.

It forks twice, and the process between exits. So the kernel gives the worker to coring, and the
worker outlives this process.
"""

from __future__ import annotations

import array
import errno
import faulthandler
import fcntl
import gc
import os
import signal
import socket
import sys
import threading
import warnings
from select import POLLIN, poll
from typing import Any

from _coring import application, hooks, logs, main

# More than coring sends with one message.
_FDS_MAX = 64
_NAME = "coring-zygote"

# How long the process between may take to fork the worker. coring waits a little longer.
_FORK_SECONDS = 4

# Taken now: gevent replaces them by functions that make a hub.
_fork, _waitpid = os.fork, os.waitpid


def run(config: dict[str, Any]) -> None:
    """Forks workers until coring closes the socket. Each of them returns from here at its end."""
    fd = config["control"]
    os.set_inheritable(fd, False)
    control = socket.socket(fileno=fd)
    # SIGABRT, by which coring ends a process that hangs, shows where its threads are, and so does a
    # crash, in workers too. The application may give standard error another object.
    faulthandler.enable(2)
    name = _rename(_NAME)
    _ignore_signals()
    loaded, handlers = None, {}
    try:
        main.prepare(config)
        functions = hooks.Hooks(config)
        if config.get("preload"):
            loaded = _preload(config)
            handlers = _ignore_signals()
    except application.LoadError as error:
        main.exit_with(lambda text: control.send(text.encode()), main.LOAD_FAILED, str(error))
    functions.occur(config.get("occasion", ""))
    # Most workers need these modules.
    from _coring import threads  # noqa: F401

    gc.collect()
    # The garbage collection of workers leaves alone all objects so far: it would copy their pages.
    gc.freeze()
    control.send(b"ready")
    forked = _fork_workers(control, functions)
    control.close()
    if forked is None:
        # Threads and exit handlers of the application would keep it.
        logs.flush_and_exit(0)
    worker, number, fds = forked
    _rename(name)
    _end_with_coring(fds[3])
    functions.begin(worker)
    main.run(config_of(config, number, fds), loaded, handlers, functions)


def _fork_workers(
    control: socket.socket, functions: hooks.Hooks
) -> tuple[hooks.Worker, int, list[int]] | None:
    """Forks workers. Returns, in a worker, its number and its descriptors, and nothing here when
    coring has closed the socket."""
    while True:
        order, fds = _receive(control, functions)
        if not order:
            return None
        number = int(order.split()[1])
        worker = functions.before_fork(number)
        # Until the worker handles them: one that is sent to it meanwhile is not lost.
        old = signal.pthread_sigmask(signal.SIG_BLOCK, main.GROUP_SIGNALS)
        try:
            if fds is None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            pid = _fork_twice()
            if pid == 0:
                return worker, number, fds
            functions.after_fork(worker, pid)
            reply = b"forked %d" % pid
        except OSError as error:
            reply = b"unforked %d" % (error.errno or errno.EAGAIN)
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        for fd in fds or ():
            os.close(fd)
        control.send(reply)


def config_of(config: dict[str, Any], worker: int, fds: list[int]) -> dict[str, Any]:
    """The settings of one worker. coring sends its descriptors in this order."""
    return dict(
        config,
        worker=worker,
        control=fds[0],
        page=fds[1],
        shared=fds[2],
        data=fds[4::2],
        bells=fds[5::2],
    )


def _rename(name: str) -> str:
    """Gives the process the name that `ps` and `top` show. Returns the one that it had."""
    try:
        with open("/proc/self/comm", "r+") as file:
            old = file.read().rstrip("\n")
            file.write(name)
            return old
    except OSError:
        return ""


def _ignore_signals() -> dict[int, Any]:
    """Leaves the signals that are sent to all processes to coring. Returns the handlers of the
    application.

    The handler is a function, since programs that the application starts would inherit SIG_IGN.
    """
    old = {number: signal.signal(number, _ignore) for number in main.GROUP_SIGNALS}
    return {number: handler for number, handler in old.items() if handler not in (None, _ignore)}


def _ignore(number: int, frame: Any) -> None:
    """Does nothing."""


def _receive(control: socket.socket, functions: hooks.Hooks) -> tuple[bytes, list[int] | None]:
    """An order to fork, and its descriptors, which some messages before it may carry, too. Calls
    the functions that other messages name, which may come between these.

    None instead of descriptors if this process may not open so many.
    """
    fds = array.array("i")
    is_cut = False
    while True:
        message, ancillary, flags, _ = control.recvmsg(
            4096, socket.CMSG_SPACE(_FDS_MAX * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        is_cut = is_cut or bool(flags & socket.MSG_CTRUNC)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if message.startswith(b"hook "):
            functions.hear(message[5:])
        elif message != b"more":
            break
    if is_cut:
        for fd in fds:
            os.close(fd)
        return message, None
    return message, list(fds)


def _fork_twice() -> int:
    """Forks a process that is coring's child. Returns its id, and 0 in it."""
    # Each of them would write the content of a buffer.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # The application's threads were reported, once.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            child = _fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        if child == 0:
            os.close(reader)
            try:
                pid = _fork()
            except OSError as error:
                os.write(writer, b"%d" % -(error.errno or errno.EAGAIN))
                os._exit(1)
            if pid:
                os.write(writer, b"%d" % pid)
                os._exit(0)
            os.close(writer)
            return 0
    os.close(writer)
    polling = poll()
    polling.register(reader, POLLIN)
    if polling.poll(_FORK_SECONDS * 1000):
        pid = int(os.read(reader, 20) or -errno.EAGAIN)
    else:
        # If there is a worker already, it ends, since coring closes its descriptors.
        os.kill(child, signal.SIGKILL)
        pid = -errno.ETIMEDOUT
        logs.write(
            f"coring: a fork has hung for {_FORK_SECONDS} s, and is killed: does a function that "
            "the application gave to os.register_at_fork wait for something?\n"
        )
    os.close(reader)
    try:
        # Until it has exited, the process that it has forked is its own child.
        _waitpid(child, 0)
    except ChildProcessError:
        # The application ignores SIGCHLD.
        pass
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


def _preload(config: dict[str, Any]) -> main.Loaded:
    """Loads the application, and says what of it a fork does not copy."""
    before = threading.enumerate()
    loaded = main.load(config, is_preload=True)
    threads = [thread for thread in threading.enumerate() if thread not in before]
    if threads:
        names = ", ".join(thread.name for thread in threads)
        logs.write(
            f"coring: `{config['app']}` has started threads while it was imported ({names}), which "
            "forked workers do not have; start them at the first request, or leave out --preload\n"
        )
    if _has_loop():
        raise application.LoadError(
            f"`{config['app']}` has made an event loop while it was imported, which forked workers "
            "cannot share; make it at the first request, or leave out --preload"
        )
    return loaded


def _has_loop() -> bool:
    """Whether there is an event loop."""
    if "asyncio" not in sys.modules:
        return False
    kind = sys.modules["asyncio"].AbstractEventLoop
    # isinstance() would evaluate lazy objects, and fails for proxies of what is gone.
    loops = [one for one in gc.get_objects() if issubclass(type(one), kind)]
    return any(not loop.is_closed() for loop in loops)


def _end_with_coring(fd: int) -> None:
    """Has the kernel kill this process when coring has ended, whatever it does then.

    coring alone has the other end of this pipe. PR_SET_PDEATHSIG of prctl(2) would need `ctypes`,
    which some builds of Python do not have, and would be off after a change of user.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    except OSError:
        # A kernel that cannot: then a worker ends when it next looks at its socket to coring.
        pass
    polling = poll()
    polling.register(fd, 0)
    if polling.poll(0):
        os._exit(0)

    is_closed = False

    def close() -> None:
        nonlocal is_closed
        # In a grandchild the number may be that of something else.
        if is_closed:
            return
        is_closed = True
        try:
            os.close(fd)
        except OSError:
            pass

    os.register_at_fork(after_in_child=close)
