"""The page of results: written from the stored figures only, so that nobody edits it by hand.

It refuses to know how figures are taken, and how plots are drawn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from . import BENCH
from .install import fault
from .ratios import TWIN
from .report import HEADS, Figures, interval, optional, row
from .scenarios import ALONE, SCENARIOS

STORED = "figures.json"
PAGE = "README.md"

# What the articles printed, on their own machine: requests/s, p50 and longest in ms.
PUBLISHED = (("uvicorn + FastAPI", 1352, 69, 106), ("gevent WSGIServer", 1556, 61, 84))
PUBLISHED_HERE = {"uvicorn + FastAPI": "uvicorn-fastapi", "gevent WSGIServer": "gevent"}

HEAD = """# Results

Written by `bench/run`; whoever wants other figures runs it again. [How they are
taken](../README.md#method) and [how to read them](../README.md#read) is said there. In short: the
figure is CPU time per request; only ratios within one run are compared; a run counts only if the
same server, run twice, differs from itself by less than 2 %.
"""

ARTICLES = """
The articles that coring's idea comes from printed the first two rows, taken on their authors'
machine. **They cannot be compared with the rows below them**: another machine, other versions of
Python and of both servers. The same two servers, run here, say how far the machines are apart.
`ab` counts milliseconds.
"""


def store(directory: Path, figures: Sequence[Figures]) -> None:
    """Replaces the figures of these scenarios, leaves those of others, and writes the page."""
    directory.mkdir(parents=True, exist_ok=True)
    found = stored(directory) | {one["scenario"]: one for one in figures}
    ordered = {name: found[name] for name in SCENARIOS if name in found}
    (directory / STORED).write_text(json.dumps(ordered, indent=1) + "\n")


def stored(directory: Path) -> dict[str, Figures]:
    """The figures by scenario."""
    file = directory / STORED
    return json.loads(file.read_text()) if file.exists() else {}


def write(directory: Path, python: Path, no_plots: str) -> None:
    """Writes the page and its plots, or says why there are none."""
    found = stored(directory)
    if not no_plots:
        script = BENCH / "harness" / "plots.py"
        command = [str(python), str(script), str(directory / STORED), str(directory)]
        no_plots = fault(command)
    parts = [HEAD]
    if no_plots:
        parts.append(f"There are no plots: {no_plots}.\n")
    parts.append(machines(found))
    parts.append(contents(found))
    parts += [section(one, plots=not no_plots) for one in found.values()]
    parts.append(engines(found))
    (directory / PAGE).write_text("\n".join(filter(None, parts)), encoding="utf-8")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table whose columns but the first `left` are numbers."""
    rule = ["---" if column < left else "---:" for column in range(len(heads))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, rule, *rows))


def machines(found: Mapping[str, Figures]) -> str:
    """What the scenarios were taken on: once where it is the same for all."""
    seen: dict[str, tuple[Mapping[str, str], list[str]]] = {}
    for name, one in found.items():
        seen.setdefault(json.dumps(one["machine"]), (one["machine"], []))[1].append(name)
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
    """All scenarios, with coring's cost and the verdict."""
    rows = []
    for name, one in found.items():
        ours = [r for r in one["ratios"] if r["above"] != "coring-pgo"]
        notes = [r["note"] for r in ours if "target" in r["note"]]
        met = sum("met" in note for note in notes)
        targets = f"{met} of {len(notes)}" if notes else "none"
        rows.append([f"[{name}](#{name})", one["about"], targets, one["verdict"]])
    heads = ("scenario", "", "targets met", "verdict")
    return "## The scenarios\n\n" + table(heads, rows, left=4)


def section(one: Figures, *, plots: bool) -> str:
    """One scenario."""
    name = one["scenario"]
    lines = [f"## {name}\n", f"{sentence(one['about'])}.\n"]
    if one["asked_per_second"]:
        lines.append(f"{one['asked_per_second']:,.0f} requests/s were asked for.\n")
    lines.append(
        f"{one['date']}, {one['rounds']} × {one['seconds']} s: `{one['command']}`."
        f" Verdict: **{one['verdict']}**.\n"
    )
    if name == "articles":
        lines.append(articles(one["contenders"]))
    lines.append(contenders(one["contenders"]))
    if plots:
        lines.append(f"![CPU per request, requests/s and latency of {name}]({name}.svg)\n")
    if one["ratios"]:
        what = "CPU per request" if one["figure"] == "cpu" else one["figure"]
        rows = [[f"{r['above']} ÷ {r['below']}", interval(r), r["note"]] for r in one["ratios"]]
        lines.append(table((f"{what}, paired ratios", "median [95 %]", ""), rows, left=3))
    if one["left_out"]:
        lines.append("Left out:\n")
        lines += [f"- {who}: {why}" for who, why in one["left_out"].items()]
        lines.append("")
    return "\n".join(lines)


def sentence(text: str) -> str:
    """With a large letter, unless a program's name begins it."""
    return text if text.startswith(("wrk", "ab ")) else text[0].upper() + text[1:]


def contenders(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The medians, cheapest first."""
    heads = ["", *HEADS]
    ordered = sorted(found.items(), key=lambda item: item[1]["cpu_us"])
    rows = [[name, *row(one)] for name, one in ordered]
    if any("idle_bytes" in one for one in found.values()):
        heads.append("B/idle connection")
        rows = [[*r, optional(one, "idle_bytes")] for r, (_, one) in zip(rows, ordered)]
    if any("beside_mib" in one for one in found.values()):
        heads.append("MiB beside")
        rows = [[*r, optional(one, "beside_mib")] for r, (_, one) in zip(rows, ordered)]
    return table(heads, rows)


def articles(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The articles' table, made again beside theirs."""
    rows = [
        [f"{who}, as published", f"{rate:,}", str(p50), str(longest), ""]
        for who, rate, p50, longest in PUBLISHED
    ]
    published = {PUBLISHED_HERE[who]: (who, rate) for who, rate, _, _ in PUBLISHED}
    for name in ("uvicorn-fastapi", "gevent", "coring", "nginx"):
        if name not in found:
            continue
        rate, latency = found[name]["rate"], found[name]["latency_us"]
        who, then = published.get(name, (name, 0))
        times = f"{rate / then:.1f} × as published" if then else ""
        ms = [f"{latency[p] / 1000:.0f}" for p in ("50", "100")]
        rows.append([f"{who}, here", f"{rate:,.0f}", *ms, times])
    return ARTICLES + "\n" + table(("", "requests/s", "p50 ms", "longest ms", ""), rows)


def engines(found: Mapping[str, Figures]) -> str:
    """The same server on io_uring and on epoll."""
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

The same server on either engine, by its own counters (`--stats`). An enter is a call of
io_uring_enter, or of epoll_wait: on epoll each receive and each send is a call besides. Accepting
and receiving are asked for once per connection on io_uring, so that a submission is a send, but for
what a connection's beginning and end take.

"""
    return text + table(("", "", "CPU µs/request", *counted), rows, left=2)
