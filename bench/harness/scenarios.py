"""The scenarios: the load on the servers, and the target ratios. Servers are known by name only."""

from __future__ import annotations

from typing import Mapping, NamedTuple

KIB = 1024
MIB = 1024 * KIB
BODY = b"<b>hello world</b>"

# The peers that a target for "every peer" means.
RUST_PEERS = ("hyper", "axum", "actix-web", "may_minihttp", "ntex", "monoio", "glommio")
PEERS = ("nginx", "h2o", "haproxy", "lighttpd", *RUST_PEERS)
CLOSING_FLOORS = ("floor-close-multishot", "floor-close-oneshot")
# coring as cargo builds it, and as deploy/build does: static, and optimised by a profile (PGO).
OURS = ("coring", "coring-pgo")

# The suffix of a contender that is measured without the disturbance (a download or idle
# connections) that the contender of the same name has.
ALONE = "-alone"


class Target(NamedTuple):
    """A target: `above` ÷ `below` in the scenario's figure is at most `limit`."""

    above: str
    below: str
    limit: float


def undisturbed(names: tuple[str, ...], limit: float) -> tuple[Target, ...]:
    """Targets: each contender's figure is at most `limit` times its figure without disturbance."""
    return tuple(Target(name, name + ALONE, limit) for name in names)


def beats(peers: tuple[str, ...], limit: float = 1.0) -> tuple[Target, ...]:
    """Targets: coring's figure is at most `limit` times that of each peer."""
    return tuple(Target(ours, peer, limit) for ours in OURS for peer in peers)


ON_EPOLL = (Target("coring-epoll", "floor-epoll", 1.05),)


class Scenario(NamedTuple):
    """One load on one kind of server."""

    about: str
    task: str = "hello"  # the command that starts the servers: hello, static or echo
    generator: str = "wrk"  # wrk, ab or load
    connections: int = 64
    pipelined: int = 1  # requests sent at once
    closing: bool = False  # a connection for each request
    ab: str = ""  # the arguments of ab; {seconds} is filled in
    file: str = "index.html"  # static: the requested file, relative to the site
    upload: int = 0  # bytes of a request's body
    logs: bool = False  # servers write an access log, a file in the combined format
    idle: int = 0  # idle connections meanwhile; an open loop is also measured without them
    cold: str = ""  # a file that is not in the page cache, and that one client downloads meanwhile
    load: float = 0.0  # open loop: the rate, as a share of what saturates the slowest contender
    fewer: tuple[int, ...] = ()  # numbers of connections that p50 is measured with, too
    workers: int = 1  # worker threads or processes of a server; it has as many cores
    threads: int = 1  # threads of wrk; if more than one, they use the server's core too
    figure: str = "cpu"  # the figure that is compared: cpu, p99 or p99.9
    twin: str = "floor-ring"  # the contender that runs twice, to show the noise
    fair_floor: bool = False  # refuse a run in which the floor is not well below nginx
    targets: tuple[Target, ...] = ()

    @property
    def path(self) -> str:
        """The requested path."""
        return {"hello": "/", "static": f"/{self.file}", "echo": "/echo"}[self.task]

    @property
    def idles_beside(self) -> bool:
        """Whether each contender has a second instance that holds no idle connections."""
        return self.idle > 0 and self.load > 0


def application(about: str, name: str, limits: Mapping[str, float]) -> Scenario:
    """A scenario for a Python application. `limits` are the targets of coring, by peer."""
    ours = f"coring-{name}"
    targets = tuple(Target(ours, peer, limit) for peer, limit in limits.items())
    about = f"wrk, 64 connections, {about}; and p50 with 1 and 4 connections"
    return Scenario(about, fewer=(1, 4), twin=ours, targets=targets)


KEEPALIVE = beats(("floor-ring",), 1.05) + beats(PEERS) + ON_EPOLL

SCENARIOS = {
    "articles": Scenario(
        "ab -c 100 -n 1000, as in the articles",
        generator="ab",
        connections=100,
        closing=True,
        ab="-r -c 100 -n 1000",
        twin="coring",
    ),
    "ab-keepalive": Scenario(
        "ab -k -c 100, at most 100,000 requests a round",
        generator="ab",
        connections=100,
        ab="-r -k -c 100 -t {seconds} -n 100000",
    ),
    "keepalive1": Scenario("wrk, 1 connection", connections=1),
    "keepalive": Scenario("wrk, 64 connections", fair_floor=True, targets=KEEPALIVE),
    "keepalive512": Scenario(
        "wrk, 512 connections", connections=512, fair_floor=True, targets=KEEPALIVE
    ),
    "saturated": Scenario(
        "wrk, 64 connections, two threads on both cores: more load than one worker can serve",
        threads=2,
        fair_floor=True,
        targets=beats(PEERS),
    ),
    "logged": Scenario(
        "wrk, 64 connections, each response logged in an access log",
        logs=True,
        twin="coring",
        targets=beats(("nginx",)),
    ),
    "pipelined": Scenario(
        "wrk, 64 connections, 16 requests at a time",
        pipelined=16,
        fair_floor=True,
        targets=beats(("floor-ring",), 1.25) + beats(PEERS),
    ),
    "close": Scenario(
        "wrk, 64 connections at a time, one for each request",
        closing=True,
        twin="floor-close-oneshot",
        targets=beats(CLOSING_FLOORS, 1.05) + beats(("nginx", "haproxy", "hyper")),
    ),
    "static-1k": Scenario(
        "wrk, 64 connections, a file of 1 KiB",
        task="static",
        file="1k.bin",
        fair_floor=True,
        targets=beats(("floor-ring",), 1.10),
    ),
    "static-64k": Scenario(
        "wrk, 64 connections, a file of 64 KiB",
        task="static",
        file="64k.bin",
        twin="coring",
        targets=beats(("nginx", "lighttpd"), 0.95),
    ),
    "static-1m": Scenario(
        "wrk, 64 connections, a file of 1 MiB",
        task="static",
        file="1m.bin",
        twin="coring",
        targets=beats(("nginx", "lighttpd")),
    ),
    "static-64m": Scenario(
        "wrk, 64 connections, a file of 64 MiB",
        task="static",
        file="64m.bin",
        twin="coring",
        targets=beats(("nginx", "lighttpd")),
    ),
    "upload": Scenario(
        "wrk, 16 connections, 1 MiB uploaded and echoed",
        task="echo",
        connections=16,
        upload=MIB,
        twin="coring",
    ),
    "idle": Scenario(
        "wrk, 64 connections, beside 10,000 that are idle after one request each",
        idle=10_000,
        twin="coring",
    ),
    "latency-idle": Scenario(
        "open loop, 64 connections, 30 % of what saturates the slowest; alone, and beside 10,000"
        " connections that are idle after one request each",
        generator="load",
        load=0.3,
        idle=10_000,
        figure="p99",
        twin="coring",
        targets=undisturbed(("coring", "coring-epoll"), 1.1),
    ),
    "latency-30": Scenario(
        "open loop, 64 connections, 30 % of what saturates the slowest",
        generator="load",
        load=0.3,
        figure="p99.9",
    ),
    "latency-70": Scenario(
        "open loop, 64 connections, 70 % of what saturates the slowest",
        generator="load",
        load=0.7,
        figure="p99.9",
        targets=beats(PEERS),
    ),
    "cold": Scenario(
        "open loop, 64 connections, a file of 1 KiB, 10 % of what saturates the slowest; alone,"
        " and beside one client that downloads 1 GiB from the disk",
        task="static",
        generator="load",
        file="1k.bin",
        load=0.1,
        cold="1g.cold",
        figure="p99",
        twin="coring",
        targets=undisturbed(("coring", "coring-epoll"), 2.0),
    ),
    "two-workers": Scenario(
        "wrk, 64 connections, two workers on two cores, which the generator shares",
        workers=2,
        threads=2,
        twin="coring",
    ),
    "library": Scenario(
        "wrk, 64 connections, coring as a library: a handler on coring's own loop, on glommio and"
        " on tokio, and axum's Router instead of the handler",
        twin="coring-handler",
        targets=(
            Target("coring-in-glommio", "coring-handler", 1.06),
            Target("coring-in-tokio", "coring-handler", 1.05),
            Target("coring-axum", "coring-handler", 1.20),
            Target("coring-axum", "axum", 1.0),
        ),
    ),
    "python-wsgi": application(
        "a WSGI application without a framework",
        "wsgi",
        {"granian-wsgi": 1.0, "gunicorn-gevent": 0.12},
    ),
    "python-flask": application(
        "a Flask application",
        "flask",
        {"granian-flask": 0.90, "gunicorn-gevent-flask": 0.45},
    ),
    "python-asgi": application(
        "an ASGI application without a framework", "asgi", {"uvicorn": 0.60}
    ),
    "python-fastapi": application(
        "a FastAPI application",
        "fastapi",
        {"uvicorn-fastapi": 0.80, "granian-fastapi": 1.0},
    ),
}

FILES = {"1k.bin": KIB, "64k.bin": 64 * KIB, "1m.bin": MIB, "64m.bin": 64 * MIB}
COLD_BYTES = 1024 * MIB
