"""What a worker does from its start to its end."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from typing import Any, Callable, NoReturn, Tuple

from _coring import application, hooks, logs
from _coring.link import Link
from _coring.wsgi import Caller

DEFAULT_THREADS = 8
# As many as have a mark.
THREADS_MAX = 256

GROUP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
)

LOAD_FAILED = 4
START_FAILED = 3

# Bytes of the reason that the supervisor is told; it takes 64 KiB in all.
REASON_BYTES_MAX = 60 << 10


# The application, its interface, and the class of worker that runs it.
Loaded = Tuple[Any, str, str]


def run(
    config: dict[str, Any],
    loaded: Loaded | None,
    handlers: dict[int, Any],
    functions: hooks.Hooks,
) -> None:
    """Runs the application, and ends the process when coring asks for that.

    Loads it first, unless it is loaded already, and has set these handlers of signals.
    """
    link = Link(config)
    _take_signals(link, functions)
    if functions.has("worker_abort"):
        _take_abort(functions)
    # They were blocked by the fork.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
    _take_name(config)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        app, interface, worker_class = loaded or load(config)
        if worker_class == "asgi":
            from _coring import asgi

            loop = asgi.current_loop() or asgi.new_loop(config.get("loop", "auto"))
    except application.LoadError as error:
        exit_with(link.report, LOAD_FAILED, str(error))
    functions.loaded()
    new_caller: Callable[..., Caller] = Caller
    if worker_class == "asgi" and interface == "asgi2":
        app = application.as_asgi3(app)
    if functions.has("pre_request", "post_request"):
        from _coring import around

        new_caller = around.new_caller(functions)
        app = around.asgi(app, functions) if worker_class == "asgi" else app
    if worker_class == "asgi":
        failure = asgi.run(link, app, interface, config, loop)
        if failure is not None:
            exit_with(link.report, START_FAILED, failure)
    elif worker_class == "gevent":
        from _coring import greenlets

        greenlets.run(link, app, config, new_caller)
    else:
        from _coring import threads

        logs.warn_of_access_filters()
        count = 1
        if worker_class == "gthread":
            count = min(int(config.get("threads") or DEFAULT_THREADS), THREADS_MAX)
        link.report_loaded(f"{interface} {worker_class} {count} {python_version()}")
        threads.run(link, app, config, count, new_caller)
    functions.end()
    sys.exit(0)


def _take_name(config: dict[str, Any]) -> None:
    """Takes the name that ps and top show. It has 15 bytes, and so ends with the number."""
    if config.get("proc_name"):
        number = f"/{config.get('worker', 0)}".encode()
        name = config["proc_name"].encode()[: 15 - len(number)] + number
        try:
            with open("/proc/self/comm", "wb") as file:
                file.write(name)
        except OSError:
            pass


def prepare(config: dict[str, Any]) -> None:
    """Does what comes before anything of the application is imported."""
    logs.set_up(config.get("log_level", "info"))
    if config.get("reload"):
        from _coring import reload

        reload.ignore_caches()
    if config.get("worker_class") == "gevent":
        from _coring import greenlets

        greenlets.patch()


def load(config: dict[str, Any], is_preload: bool = False) -> Loaded:
    """Loads the application, here or, for `is_preload`, for workers that are forked later."""
    wanted = config.get("interface", "auto")
    worker_class = config.get("worker_class", "auto")
    if config.get("log_config"):
        try:
            logs.configure(config["log_config"])
        except Exception as error:
            line = f"the logging configuration {config['log_config']} failed: {error!r}"
            raise application.LoadError(line, error) from None
    if not is_preload and (worker_class == "asgi" or wanted.startswith("asgi")):
        from _coring import asgi

        # Some modules ask for the event loop while they are imported.
        asgi.new_loop(config.get("loop", "auto"))
    app = application.load(config)
    interface = application.interface_of(app)
    if wanted == "asgi":
        interface = interface if interface.startswith("asgi") else "asgi3"
    elif wanted != "auto":
        interface = wanted
    is_asgi = interface.startswith("asgi")
    if worker_class == "auto":
        is_single = config.get("threads") == 1
        worker_class = "asgi" if is_asgi else "sync" if is_single else "gthread"
    elif is_asgi != (worker_class == "asgi"):
        kind = "an ASGI" if is_asgi else "a WSGI"
        cure = "asgi" if is_asgi else "sync, gthread or gevent"
        raise application.LoadError(
            f"`{config['app']}` is {kind} application, which workers of the class {worker_class} "
            f"do not run; choose {cure}, or give --interface if that is wrong"
        )
    return app, interface, worker_class


def _take_signals(link: Link, functions: hooks.Hooks) -> None:
    """Leaves the signals that a terminal or a service manager sends to all processes to coring.

    coring gets them too, and says what is to be done. On SIGTERM a worker asks for another one in
    its place. The handler is a function, since programs that the application starts would inherit
    SIG_IGN. Forked children are ended by these signals, as multiprocessing expects, from their
    first moment on.
    """

    def handle(number: int, _: Any) -> None:
        if number == signal.SIGTERM:
            link.ask_for_replacement()
        elif number in (signal.SIGINT, signal.SIGQUIT):
            functions.interrupted()

    for number in GROUP_SIGNALS:
        signal.signal(number, handle)
    masks = threading.local()

    def block() -> None:
        masks.old = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)

    def restore() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.old)

    def restore_in_child() -> None:
        for number in GROUP_SIGNALS:
            if signal.getsignal(number) is handle:
                is_int = number == signal.SIGINT
                signal.signal(number, signal.default_int_handler if is_int else signal.SIG_DFL)
        restore()

    os.register_at_fork(before=block, after_in_parent=restore, after_in_child=restore_in_child)


def _take_abort(functions: hooks.Hooks) -> None:
    """Calls `worker_abort` on SIGABRT, by which coring ends a worker that hangs."""
    worker = os.getpid()

    def handle(number: int, _: Any) -> None:
        try:
            if os.getpid() == worker:
                functions.aborted()
                functions.end()
        finally:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    # `faulthandler` calls the handler that was there before, after it has written.
    faulthandler.disable()
    signal.signal(signal.SIGABRT, handle)
    faulthandler.enable(2)


def python_version() -> str:
    name = {"cpython": "CPython", "pypy": "PyPy"}.get(
        sys.implementation.name, sys.implementation.name
    )
    return f"{name} {'.'.join(map(str, sys.version_info[:3]))}"


def exit_with(report: Callable[[str], object], code: int, reason: str) -> NoReturn:
    """Ends the process, whatever threads the application has started."""
    logs.write(reason)
    # The end of a traceback says most.
    end = reason.encode("utf-8", "backslashreplace")[-REASON_BYTES_MAX:]
    report(f"failed {code}\n{end.decode('utf-8', 'ignore')}")
    logs.flush_and_exit(code)
