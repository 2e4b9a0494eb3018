"""The contenders: the commands that start them, their scenarios, and what they need installed.

These {fields} of a command are filled in: bin and peers (the folders of the binaries), python (the
interpreter of the virtual environment), apps (bench/apps), site (the folder of files), config (the
filled-in file of bench/configs), port, workers, log (coring's argument for an access log), and
response (the argument that makes a floor send coring's bytes).
"""

from __future__ import annotations

from typing import Mapping, NamedTuple

from .scenarios import CLOSING_FLOORS, RUST_PEERS, SCENARIOS

LOGGED = frozenset({"logged"})
NATIVE = frozenset(SCENARIOS) - {"upload"} - LOGGED
KEPT = frozenset({"keepalive1", "keepalive", "keepalive512", "saturated", "pipelined"})
FLOOR = KEPT | {"ab-keepalive"}
LATENCY = frozenset({"latency-30", "latency-70"})
CLOSE = frozenset({"close", "articles"})
COLD = frozenset({"cold"})
PGO = frozenset({"keepalive", "keepalive512", "pipelined", "close", "static-1k"})
PYTHON = frozenset({"articles", "ab-keepalive", "keepalive"})


class Contender(NamedTuple):
    """A server, and what it needs installed."""

    kind: str  # coring, floor, server, rust, python or added
    commands: Mapping[str, str]  # by task
    scenarios: frozenset[str] = frozenset(SCENARIOS)
    program: str = ""  # a program, from the Debian package of the same name
    config: str = ""  # a file of bench/configs
    line: str = ""  # an additional line of that file
    crate: str = ""  # a package of bench/peers
    wheels: tuple[str, ...] = ()
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
    return Contender("coring", commands)


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
    return Contender("rust", commands, NATIVE | {"upload"}, crate=crate, cannot=cannot)


def python(command: str, *wheels: str, echo: bool = False) -> Contender:
    """A Python server with an application of bench/apps."""
    tasks = ("hello", "echo") if echo else ("hello",)
    scenarios = PYTHON | {"upload"} if echo else PYTHON
    return Contender("python", dict.fromkeys(tasks, command), scenarios, wheels=wheels)


GEVENT = "{python} {apps}/serve_gevent.py %s {port}"
GUNICORN = (
    "{python} -m gunicorn -k gevent -w {workers} -b 127.0.0.1:{port} --chdir {apps} --backlog 4096"
    " --worker-connections 12000 --keep-alive 3600 --log-level warning %s:app"
)
UVICORN = (
    "{python} -m uvicorn --app-dir {apps} --host 127.0.0.1 --port {port} --workers {workers}"
    " --loop uvloop --http httptools --backlog 4096 --timeout-keep-alive 3600"
    " --no-access-log --log-level warning %s:app"
)
GRANIAN = (
    "{python} -m granian --interface %s --working-dir {apps} --host 127.0.0.1 --port {port}"
    " --workers {workers} --backlog 4096 --loop uvloop --http 1 --no-ws --log-level warning %s:app"
)
NGINX = "nginx -e stderr -c {config}"
FASTPYSGI = "{python} {apps}/serve_fastpysgi.py %s {port} {workers}"
UVICORN_WHEELS = ("uvicorn", "uvloop", "httptools")
GRANIAN_WHEELS = ("granian", "uvloop")

# The order is that of starting: coring first, because the floors send the bytes of its response.
CONTENDERS = {
    "coring": coring(),
    "coring-pgo": coring("coring-pgo")._replace(scenarios=PGO),
    "coring-epoll": coring(engine="epoll"),
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
    "fastpysgi-wsgi": python(FASTPYSGI % "wsgi", "fastpysgi", echo=True),
    "fastpysgi-asgi": python(FASTPYSGI % "asgi", "fastpysgi", echo=True),
    "granian-wsgi": python(GRANIAN % ("wsgi", "wsgi"), *GRANIAN_WHEELS, echo=True),
    "granian-asgi": python(GRANIAN % ("asgi", "asgi"), *GRANIAN_WHEELS, echo=True),
    "uvicorn": python(UVICORN % "asgi", *UVICORN_WHEELS, echo=True),
    "gevent": python(GEVENT % "wsgi", "gevent", echo=True),
    "gunicorn-gevent": python(GUNICORN % "wsgi", "gunicorn", "gevent", echo=True),
    "fastpysgi-flask": python(FASTPYSGI % "flask_app", "fastpysgi", "flask"),
    "granian-flask": python(GRANIAN % ("wsgi", "flask_app"), *GRANIAN_WHEELS, "flask"),
    "gevent-flask": python(GEVENT % "flask_app", "gevent", "flask"),
    "gunicorn-flask": python(GUNICORN % "flask_app", "gunicorn", "gevent", "flask"),
    "granian-fastapi": python(GRANIAN % ("asgi", "fastapi_app"), *GRANIAN_WHEELS, "fastapi"),
    "uvicorn-fastapi": python(UVICORN % "fastapi_app", *UVICORN_WHEELS, "fastapi"),
}

# The contenders of a smoke test: coring, the floors, and one of each other kind.
QUICK = tuple(name for name, one in CONTENDERS.items() if one.kind in ("coring", "floor"))
QUICK += ("nginx", "hyper", "uvicorn-fastapi")


def added(command: str) -> Contender:
    """A server from the command line: it serves files if its command has {site}, else the page."""
    return Contender("added", {"static" if "{site}" in command else "hello": command})
