"""The contenders: the commands that start them, their scenarios, and what they need installed.

These {fields} of a command are filled in: bin and peers (the folders of the binaries), python (the
interpreter of the virtual environment), apps (bench/apps), site (the folder of files), config (the
filled-in file of bench/configs), module and interface (of the application), port, workers, log
(coring's argument for an access log), and response (the argument that makes a floor send coring's
bytes).
"""

from __future__ import annotations

from typing import Mapping, NamedTuple

from .scenarios import CLOSING_FLOORS, RUST_PEERS, SCENARIOS

LOGGED = frozenset({"logged"})
LIBRARY = frozenset({"library"})
ALL = frozenset(name for name in SCENARIOS if not name.startswith("python-")) - LIBRARY
NATIVE = ALL - {"upload"} - LOGGED
KEPT = frozenset({"keepalive1", "keepalive", "keepalive512", "saturated", "pipelined"})
FLOOR = KEPT | {"ab-keepalive"}
LATENCY = frozenset({"latency-30", "latency-70"})
CLOSE = frozenset({"close", "articles"})
COLD = frozenset({"cold"})
PGO = frozenset({"keepalive", "keepalive512", "pipelined", "close", "static-1k"})
PYTHON = frozenset({"articles", "ab-keepalive", "keepalive", "upload"})


class Contender(NamedTuple):
    """A server, and what it needs installed."""

    kind: str  # coring, floor, server, rust, python or added
    commands: Mapping[str, str]  # by task
    scenarios: frozenset[str] = frozenset(SCENARIOS)
    program: str = ""  # a program, from the Debian package of the same name
    config: str = ""  # a file of bench/configs
    line: str = ""  # an additional line of that file
    crate: str = ""  # a package of bench/peers
    slow_build: bool = False  # `--quick` does not build it
    wheels: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()  # of Debian, needed to compile the wheels
    application: str = ""  # a Python application, which counts its calls
    closes: bool = False  # it never keeps a connection
    cannot: Mapping[str, str] = {}  # scenarios that it does not support, each with the reason

    def plays(self, scenario: str) -> bool:
        """Whether it takes part in the scenario."""
        wanted = scenario in self.scenarios and scenario not in self.cannot
        return wanted and SCENARIOS[scenario].task in self.commands


NO_ECHO = {"upload": "bench/peers has no echo for it"}
HTTP_1_1_ONLY = dict.fromkeys(("articles", "ab-keepalive"), "it supports HTTP/1.1 only")
CANNOT = {
    "may_minihttp": {**NO_ECHO, **HTTP_1_1_ONLY, "close": "it never closes a connection"},
    "monoio": {**NO_ECHO, **HTTP_1_1_ONLY},
    "glommio": {**NO_ECHO, **HTTP_1_1_ONLY},
}


def coring(program: str = "coring", engine: str = "auto") -> Contender:
    """coring, with all its limits. `--stats` prints its counters when it exits."""
    shared = "--bind 127.0.0.1:{port} --cores {workers} --idle-timeout 1h --stats {log}"
    shared += f" --engine {engine}"
    commands = {
        "hello": f"{{bin}}/{program} {shared}",
        "static": f"{{bin}}/{program} serve {{site}} {shared}",
        "echo": f"{{bin}}/{program} echo {shared}",
    }
    return Contender("coring", commands, ALL)


def floor(command: str, scenarios: frozenset[str], *, static: bool = False) -> Contender:
    """A program of bench/floor."""
    command = f"{{bin}}/{command} --bind 127.0.0.1:{{port}} {{response}}"
    commands = {"hello": command, "static": command} if static else {"hello": command}
    return Contender("floor", commands, scenarios)


def server(program: str, command: str, scenarios: frozenset[str] = NATIVE) -> Contender:
    """A server written in C, from Debian."""
    tasks = ("hello",) if program == "haproxy" else ("hello", "static")
    commands = dict.fromkeys(tasks, command)
    return Contender("server", commands, scenarios, program=program, config=f"{program}.conf")


def rust(name: str) -> Contender:
    """A peer of bench/peers, with an echo if it supports one."""
    crate = f"peer-{name.replace('_', '-')}"
    command = f"{{peers}}/{crate} --bind 127.0.0.1:{{port}} --workers {{workers}}"
    cannot = CANNOT.get(name, {})
    commands = {"hello": command, "echo": command}
    scenarios = NATIVE | {"upload"} | (LIBRARY if name == "axum" else frozenset())
    return Contender("rust", commands, scenarios, crate=crate, cannot=cannot)


def library(what: str) -> Contender:
    """`peer-coring`, a program that uses coring as a library in one of several ways."""
    command = f"{{peers}}/peer-coring {what} --bind 127.0.0.1:{{port}}"
    return Contender("coring", {"hello": command}, LIBRARY, crate="peer-coring", slow_build=True)


class Application(NamedTuple):
    """A Python application of bench/apps."""

    module: str
    interface: str  # wsgi or asgi
    wheels: tuple[str, ...] = ()


APPLICATIONS = {
    "wsgi": Application("wsgi", "wsgi"),
    "flask": Application("flask_app", "wsgi", ("flask",)),
    "asgi": Application("asgi", "asgi"),
    "fastapi": Application("fastapi_app", "asgi", ("fastapi",)),
}


class PythonServer(NamedTuple):
    """A server of Python applications."""

    command: str
    applications: tuple[str, ...]
    wheels: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    scenarios: frozenset[str] = PYTHON
    kind: str = "python"
    closes: bool = False


def python(name: str, one: PythonServer) -> dict[str, Contender]:
    """The contenders of a server, one for each application.

    A server that has one interface only goes without the name of the bare application.
    """
    found = {}
    for each in one.applications:
        is_bare = each in ("wsgi", "asgi")
        is_only = is_bare and not {"wsgi", "asgi"} <= set(one.applications)
        tasks = ("hello", "echo") if is_bare else ("hello",)
        found[name if is_only else f"{name}-{each}"] = Contender(
            one.kind,
            dict.fromkeys(tasks, one.command),
            one.scenarios | {f"python-{each}"},
            wheels=(*one.wheels, *APPLICATIONS[each].wheels),
            packages=one.packages,
            application=each,
            closes=one.closes,
        )
    return found


CORING = (
    "{bin}/coring run {module}:app --chdir {apps} --python {python} --workers {workers}"
    " --cores {workers} --bind 127.0.0.1:{port} --idle-timeout 1h --stats {log}"
)
FASTPYSGI = "{python} {apps}/serve_fastpysgi.py {module} {port} {workers}"
GRANIAN = (
    "{python} -m granian --interface {interface} --working-dir {apps} --host 127.0.0.1"
    " --port {port} --workers {workers} --backlog 4096 --loop uvloop --http 1 --no-ws"
    " --log-level warning {module}:app"
)
UVICORN = (
    "{python} -m uvicorn --app-dir {apps} --host 127.0.0.1 --port {port} --workers {workers}"
    " --loop uvloop --http httptools --backlog 4096 --timeout-keep-alive 3600"
    " --no-access-log --log-level warning {module}:app"
)
GEVENT = "{python} {apps}/serve_gevent.py {module} {port}"
GUNICORN = (
    "{python} -m gunicorn -k %s -w {workers} -b 127.0.0.1:{port} --chdir {apps} --backlog 4096"
    " --worker-connections 12000 --keep-alive 3600 --log-level warning {module}:app"
)
BJOERN = "{python} {apps}/serve_bjoern.py {module} {port}"
NGINX = "nginx -e stderr -c {config}"

# gunicorn imports packaging for gevent, and does not require it.
WSGI = ("wsgi", "flask")
ASGI = ("asgi", "fastapi")
ARTICLES = frozenset({"articles"})
PYTHON_SERVERS = {
    "coring": PythonServer(CORING, (*WSGI, *ASGI), ("uvloop",), scenarios=ARTICLES, kind="coring"),
    "coring-sync": PythonServer(
        CORING + " --worker-class sync", WSGI, scenarios=frozenset(), kind="coring"
    ),
    "fastpysgi": PythonServer(FASTPYSGI, (*WSGI, *ASGI), ("fastpysgi",)),
    "granian": PythonServer(GRANIAN, (*WSGI, *ASGI), ("granian", "uvloop")),
    "uvicorn": PythonServer(UVICORN, ASGI, ("uvicorn", "uvloop", "httptools")),
    "gevent": PythonServer(GEVENT, WSGI, ("gevent",)),
    "gunicorn-gevent": PythonServer(GUNICORN % "gevent", WSGI, ("gunicorn", "gevent", "packaging")),
    "gunicorn-gthread": PythonServer(
        GUNICORN % "gthread --threads 8", WSGI, ("gunicorn",), scenarios=ARTICLES
    ),
    "gunicorn-sync": PythonServer(
        GUNICORN % "sync", WSGI, ("gunicorn",), scenarios=ARTICLES, closes=True
    ),
    "bjoern": PythonServer(BJOERN, WSGI, ("bjoern",), ("libev-dev",), scenarios=ARTICLES),
}
NO_MEINHELD = "1.0.2, its last release, needs greenlet < 0.5, which no CPython since 3.11 compiles"

# The uses of coring as a library: contenders, each with the argument of `peer-coring`.
USES = {
    "coring-handler": "uring",
    "coring-handler-epoll": "epoll",
    "coring-in-glommio": "glommio",
    "coring-in-tokio": "tokio",
    "coring-axum": "axum",
}

# The order is that of starting: coring first, because the floors send the bytes of its response.
CONTENDERS = {
    "coring": coring(),
    "coring-pgo": coring("coring-pgo")._replace(scenarios=PGO),
    "coring-epoll": coring(engine="epoll"),
    **{name: library(what) for name, what in USES.items()},
    "floor-ring": floor("floor-ring", FLOOR | LATENCY | {"static-1k"}, static=True),
    "floor-epoll": floor("floor-epoll", FLOOR | LATENCY),
    **{
        name: floor(f"floor-ring --close {name.rpartition('-')[2]}", CLOSE)
        for name in CLOSING_FLOORS
    },
    "floor-close-epoll": floor("floor-epoll --close", CLOSE),
    "nginx": server("nginx", NGINX, NATIVE | LOGGED),
    "nginx-aio": server("nginx", NGINX, COLD)._replace(line="aio threads;"),
    "h2o": server("h2o", "h2o -c {config}"),
    "haproxy": server("haproxy", "haproxy -db -f {config}"),
    "lighttpd": server("lighttpd", "lighttpd -D -f {config}"),
    **{name: rust(name) for name in RUST_PEERS},
    **{each: one for who, of in PYTHON_SERVERS.items() for each, one in python(who, of).items()},
    "meinheld": Contender(
        "python",
        {},
        frozenset(),
        cannot=dict.fromkeys(("python-wsgi", "python-flask"), NO_MEINHELD),
    ),
}

# The contenders of a smoke test: coring, the floors, and one of each other kind. Of the servers in
# Python only those that are installed take part.
QUICK = tuple(name for name, one in CONTENDERS.items() if one.kind in ("coring", "floor"))
QUICK += ("nginx", "hyper", "granian-wsgi", "granian-flask", "uvicorn", "uvicorn-fastapi")
QUICK += ("meinheld",)


def added(command: str) -> Contender:
    """A server from the command line: it serves files if its command has {site}, else the page."""
    return Contender("added", {"static" if "{site}" in command else "hello": command})
