"""A worker within a process that has started coring itself, for `coring.pywsgi`."""

from __future__ import annotations

import importlib
import os
import threading
from typing import Any

from _coring import zygote
from _coring.link import CoringEnded, Link
from _coring.main import DEFAULT_THREADS, THREADS_MAX, python_version
from _coring.wsgi import Application


def start(app: Application, config: dict[str, Any], fds: list[int]) -> None:
    """Serves in greenlets or in threads, and returns at once."""
    config = zygote.config_of(config, 0, fds)
    # It is for workers that have a process to themselves.
    os.close(fds[3])
    link = Link(config)
    link.is_embedded = True
    if config["worker_class"] == "gevent":
        from _coring import greenlets

        server = greenlets.Server(link, app, config)
        server.report_loaded()
        importlib.import_module("gevent").spawn(_serve, link, server.run, float("inf"))
        return
    from _coring import threads

    count = min(int(config.get("threads") or DEFAULT_THREADS), THREADS_MAX)
    link.report_loaded(f"wsgi gthread {count} {python_version()}")
    arguments = (link, threads.run, link, app, config, count)
    threading.Thread(target=_serve, args=arguments, name="coring", daemon=True).start()


def _serve(link: Link, run: Any, *args: Any) -> None:
    try:
        run(*args)
    except CoringEnded:
        pass
    finally:
        link.close()
