"""The page of results. It is written from the stored figures only, and never edited by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from . import BENCH
from .install import fault
from .ratios import TWIN
from .report import HEADS, Figures, fewer, interval, optional, row
from .scenarios import ALONE, SCENARIOS

STORED = "figures.json"
PAGE = "README.md"

# The figures of the articles, from their authors' machine: requests/s, p50 and longest in ms.
PUBLISHED = (("uvicorn + FastAPI", 1352, 69, 106), ("gevent WSGIServer", 1556, 61, 84))
ARTICLES_HERE = (
    *("uvicorn-fastapi", "coring-fastapi", "gevent", "coring-wsgi", "gevent-flask"),
    *("coring-flask", "coring", "nginx"),
)
PUBLISHED_HERE = {"uvicorn + FastAPI": "uvicorn-fastapi", "gevent WSGIServer": "gevent"}

HEAD = """# Results

This page, its pictures and `figures.json` are written by `bench/run`. [Method](../README.md#method)
explains how the figures are measured, and [Reading the results](../README.md#reading-the-results)
how to read them. In short:

- The figure is CPU time per request, unless a scenario says otherwise.
- Only ratios within one run are compared. Absolute figures change from one minute to the next.
- A run counts only if it has 40 rounds, and if two instances of the same server (A/A) differ by at
  most 2 %. Where latency is compared, the interval of that ratio must include 1.

[Trials](trials.md) lists the changes that were measured, and where the remaining time goes.

## Names

| name | meaning |
| --- | --- |
| `coring` | coring on io_uring, as `cargo build --release` builds it |
| `coring-epoll` | the same program on epoll |
| `coring-pgo` | coring as `deploy/build` builds it for releases: statically linked, and optimised \
with a profile of its own work (PGO). It takes part in some scenarios only |
| `coring-handler`, `coring-handler-epoll` | [coring as a library]\
(../README.md#coring-as-a-library): a handler on its own loop, on io_uring and on epoll |
| `coring-in-glommio`, `coring-in-tokio` | the same handler, with coring's worker as a guest of \
glommio and of tokio |
| `coring-axum` | axum's `Router` by `coring::tower`, on coring's own loop |
| `floor-ring`, `floor-epoll` | [the floors](../README.md#the-floors): the cheapest HTTP servers \
over io_uring and epoll that we could write |
| `floor-close-oneshot`, `floor-close-multishot`, `floor-close-epoll` | the floors that [close \
each connection after one response](../README.md#a-connection-for-each-request) |
| `coring-wsgi`, `coring-sync` | `coring run` with its default for a WSGI application, a worker of \
8 threads, and with a worker of one thread |
| `…-2` | a second instance of a contender. The ratio of the two shows the noise |
| `…-alone` | a contender without the download or the idle connections of the scenario |
| `…-wsgi`, `…-asgi`, `…-flask`, `…-fastapi` | a Python server, and the application of \
`bench/apps` that it runs |

All other names are those of [the peers](../README.md#contenders).

## The pictures

coring is red, the floors are grey, all other servers are blue. Bars are medians. A CPU time of more
than 20 times the shortest is cut. A dot is the median of the paired ratios of coring to the other
server, and its line is their 95 % interval. Left of 1 coring is better. The grey band is the
interval of A/A, the noise. Second instances (`…-2`) are not drawn.

Latency is drawn only where it is measured at a fixed rate: for coring, the floor, nginx, and the
best of the other servers. Such a rate is the same for all contenders, so requests/s are not drawn
there. In [cold](#cold) and [latency-idle](#latency-idle) the ratio is that of a server to itself
without the download or the idle connections (`…-alone`, dashed).
"""

ARTICLES = """
The first two rows are the figures of the articles that inspired coring, from their authors'
machine. **They cannot be compared with the rows below them**: the machine is another one, and so
are the versions of Python and of both servers. The same two servers were measured here too, which
shows how much the machines differ. `ab` measures latency in whole milliseconds.
"""


def store(directory: Path, figures: Sequence[Figures]) -> None:
    """Replaces the stored figures of these scenarios, and keeps those of the others.

    All descriptions are set to those of SCENARIOS, so that a changed wording needs no new run.
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = stored(directory) | {one["scenario"]: one for one in figures}
    ordered = {
        name: found[name] | {"about": scenario.about}
        for name, scenario in SCENARIOS.items()
        if name in found
    }
    (directory / STORED).write_text(json.dumps(ordered, indent=1) + "\n")


def stored(directory: Path) -> dict[str, Figures]:
    """The stored figures, by scenario."""
    file = directory / STORED
    return json.loads(file.read_text()) if file.exists() else {}


def write(directory: Path, python: Path, no_plots: str) -> None:
    """Writes the page and its plots. `no_plots` is the reason why there can be none, if any."""
    found = stored(directory)
    if not no_plots:
        script = BENCH / "harness" / "plots.py"
        command = [str(python), str(script), str(directory / STORED), str(directory)]
        no_plots = fault(command)
    parts = [HEAD]
    if no_plots:
        parts.append(f"There are no pictures: {no_plots}.\n")
    parts.append(machines(found))
    parts.append(contents(found))
    parts += [section(one, plots=not no_plots) for one in found.values()]
    parts.append(engines(found))
    (directory / PAGE).write_text("\n".join(filter(None, parts)), encoding="utf-8")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table. All columns but the first `left` are right-aligned."""
    rule = ["---" if column < left else "---:" for column in range(len(heads))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, rule, *rows))


def machines(found: Mapping[str, Figures]) -> str:
    """The machines that the scenarios were measured on, without coring's commit."""
    seen: dict[str, tuple[Mapping[str, str], list[str]]] = {}
    for name, one in found.items():
        machine = {key: text for key, text in one["machine"].items() if key != "coring"}
        seen.setdefault(json.dumps(machine), (machine, []))[1].append(name)
    parts = ["## The machine\n"]
    for machine, names in seen.values():
        if len(seen) > 1:
            parts.append(f"For {', '.join(names)}:\n")
        parts.append(table(("", ""), machine.items(), left=2))
    versions: dict[str, str] = {}
    for one in found.values():
        versions |= one["versions"]
    parts.append("Versions:\n")
    parts.append(table(("", ""), versions.items(), left=2))
    return "\n".join(parts)


def contents(found: Mapping[str, Figures]) -> str:
    """The table of all scenarios, with the verdicts."""
    rows = []
    for name, one in found.items():
        ours = [r for r in one["ratios"] if r["above"] != "coring-pgo"]
        notes = [r["note"] for r in ours if "target" in r["note"]]
        met = sum("met" in note for note in notes)
        targets = f"{met} of {len(notes)}" if notes else "none"
        rows.append([f"[{name}](#{name})", one["about"], targets, one["verdict"]])
    heads = ("scenario", "load", "targets met", "verdict")
    return "## The scenarios\n\n" + table(heads, rows, left=4)


def section(one: Figures, *, plots: bool) -> str:
    """The section of one scenario."""
    name = one["scenario"]
    lines = [f"## {name}\n", f"{sentence(one['about'])}.\n"]
    if one["asked_per_second"]:
        lines.append(f"The rate was {one['asked_per_second']:,.0f} requests/s.\n")
    lines.append(
        f"{one['date']}, commit {one['machine']['coring']}, {one['rounds']} rounds of"
        f" {one['seconds']} s: `{one['command']}`. Verdict: **{one['verdict']}**.\n"
    )
    if name == "articles":
        lines.append(articles(one["contenders"]))
    lines.append(contenders(one["contenders"]))
    if plots:
        shown = "latency and ratios" if one["asked_per_second"] else "ratios and requests/s"
        lines.append(f"![CPU time per request, {shown} of {name}]({name}.svg)\n")
    if one["ratios"]:
        figure = "CPU per request" if one["figure"] == "cpu" else one["figure"]
        rows = [[f"{r['above']} ÷ {r['below']}", interval(r), r["note"]] for r in one["ratios"]]
        lines.append(table((f"{figure}, paired ratios", "median [95 %]", ""), rows, left=3))
    if one["left_out"]:
        lines.append("Left out:\n")
        lines += [f"- {who}: {why}" for who, why in one["left_out"].items()]
        lines.append("")
    return "\n".join(lines)


def sentence(text: str) -> str:
    """The text with a capital letter, unless it begins with the name of a program."""
    return text if text.startswith(("wrk", "ab ")) else text[0].upper() + text[1:]


def contenders(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of medians, cheapest contender first."""
    heads = ["", *HEADS]
    ordered = sorted(found.items(), key=lambda item: item[1]["cpu_us"])
    rows = [[name, *row(one)] for name, one in ordered]
    if any("idle_bytes" in one for one in found.values()):
        heads.append("B/idle connection")
        rows = [[*r, optional(one, "idle_bytes")] for r, (_, one) in zip(rows, ordered)]
    if any("beside_mib" in one for one in found.values()):
        heads.append("MiB downloaded")
        rows = [[*r, optional(one, "beside_mib")] for r, (_, one) in zip(rows, ordered)]
    for connections, head in fewer(found.values()).items():
        heads.append(head)
        rows = [[*r, f"{one['fewer_us'][connections]:,.0f}"] for r, (_, one) in zip(rows, ordered)]
    return table(heads, rows)


def articles(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of the articles, and the same figures measured here."""
    rows = [
        [f"{who}, as published", f"{rate:,}", str(p50), str(longest), ""]
        for who, rate, p50, longest in PUBLISHED
    ]
    published = {PUBLISHED_HERE[who]: (who, rate) for who, rate, _, _ in PUBLISHED}
    for name in ARTICLES_HERE:
        if name not in found:
            continue
        rate, latency = found[name]["rate"], found[name]["latency_us"]
        who, then = published.get(name, (name, 0))
        times = f"{rate / then:.1f} × as published" if then else ""
        ms = [f"{latency[p] / 1000:.0f}" for p in ("50", "100")]
        rows.append([f"{who}, here", f"{rate:,.0f}", *ms, times])
    return ARTICLES + "\n" + table(("", "requests/s", "p50 ms", "longest ms", ""), rows)


def engines(found: Mapping[str, Figures]) -> str:
    """The table of coring's counters on io_uring and on epoll."""
    rows = []
    for name, one in found.items():
        for who, counted in one["engines"].items():
            if who not in one["contenders"] or who.removesuffix(ALONE).endswith(TWIN):
                continue
            cpu = f"{one['contenders'][who]['cpu_us']:.2f}"
            rows.append([name, who, cpu, *(f"{value:.3f}" for value in counted.values())])
    if not rows:
        return ""
    counted = ("enters/request", "submissions/request", "completions/enter")
    text = """## Engines side by side

coring on both engines, by its own counters (`--stats`). An enter is a call of io_uring_enter(2), or
of epoll_wait(2). On epoll each receive and each send is one more system call. On io_uring the
accept and the receives stay armed (multishot), so nearly every submission is a send. The others
belong to the start and the end of a connection. Calls of a host, glommio or tokio, are not counted.

"""
    return text + table(("scenario", "contender", "CPU µs/request", *counted), rows, left=2)
