"""The figures of a scenario, as they are stored and as a terminal shows them."""

from __future__ import annotations

import statistics
from typing import Any, Iterable, Mapping, Sequence

from . import EXIT_FAILED, EXIT_REFUSED
from .ratios import Ratio, Sample, judge, lacks, paired, pairs_of, refusal, targets_of
from .rounds import Outcome
from .scenarios import Scenario

Figures = dict[str, Any]  # one scenario of figures.json, made by `summary`

PERCENTILES = ("50", "99", "99.9", "100")
TIMES = ("p50 µs", "p99 µs", "p99.9 µs", "longest µs")
HEADS = ("CPU µs/request", "requests/s", *TIMES, "PSS MiB", "errors")


def summary(name: str, scenario: Scenario, outcome: Outcome, rounds: int) -> Figures:
    """The figures of a scenario: medians, ratios, verdict."""
    names = list(outcome.samples)
    ratios = [
        paired(outcome.samples, above, below, scenario.figure)
        for above, below in pairs_of(names, scenario)
    ]
    targets = targets_of(scenario, ratios)
    errors = {n: sum(s.errors for s in found) for n, found in outcome.samples.items()}
    text, status = verdict(scenario, ratios, errors, rounds)
    if outcome.failed:
        text, status = f"{text}; left out: {', '.join(outcome.failed)}", status or EXIT_FAILED
    return {
        "scenario": name,
        "about": scenario.about,
        "figure": scenario.figure,
        "asked_per_second": outcome.rate,
        "contenders": {
            n: {
                **medians(found),
                "errors": errors[n],
                "answer_bytes": outcome.answer_bytes[n],
                **({"idle_bytes": outcome.idle_bytes[n]} if n in outcome.idle_bytes else {}),
                **(
                    {"beside_mib": statistics.median(outcome.beside_mib[n])}
                    if n in outcome.beside_mib
                    else {}
                ),
            }
            for n, found in outcome.samples.items()
        },
        "ratios": [{**r._asdict(), "note": judge(r, targets, scenario.twin)} for r in ratios],
        "engines": {n: engine(found) for n, found in outcome.counters.items() if found},
        "left_out": outcome.failed,
        "verdict": text,
        "status": status,
    }


def medians(samples: Sequence[Sample]) -> Figures:
    """The medians of a contender's samples."""
    timed = [s.latency_us for s in samples if s.latency_us]
    percentiles = timed[0] if timed else {}
    return {
        "cpu_us": statistics.median(s.cpu_us for s in samples),
        "rate": statistics.median(s.rate for s in samples),
        "latency_us": {p: statistics.median(t[p] for t in timed) for p in percentiles},
        "pss_kib": statistics.median(s.pss_kib for s in samples),
        "fewer_us": {
            connections: statistics.median(s.fewer_us[connections] for s in samples)
            for connections in samples[0].fewer_us
        },
    }


def engine(counters: Mapping[str, int]) -> dict[str, float]:
    """Ratios of coring's own counters: kernel entries, submissions and completions."""
    requests, enters = max(counters["requests"], 1), max(counters["enters"], 1)
    return {
        "enters_per_request": counters["enters"] / requests,
        "submissions_per_request": counters["submissions"] / requests,
        "completions_per_enter": counters["completions"] / enters,
    }


def verdict(
    scenario: Scenario, ratios: Sequence[Ratio], errors: Mapping[str, int], rounds: int
) -> tuple[str, int]:
    """Whether the run supports a claim, and the exit status."""
    seen = ", ".join(f"{name} {count}" for name, count in errors.items() if count)
    if any(count for name, count in errors.items() if name.startswith(("coring", "floor-"))):
        return f"FAILED: errors seen: {seen}", EXIT_FAILED
    beside = f"; errors seen: {seen}" if seen else ""
    refused = refusal(scenario, ratios)
    lacking = lacks(scenario, list(errors), rounds)
    if lacking:
        return f"no claim: {'; '.join(filter(None, (lacking, refused)))}{beside}", 0
    if refused:
        return f"REFUSED: {refused}{beside}", EXIT_REFUSED
    return f"the run counts{beside}", 0


def row(contender: Mapping[str, Any]) -> list[str]:
    """The cells of one contender, in the order of HEADS."""
    latency = contender["latency_us"]
    return [
        number(contender["cpu_us"]),
        f"{contender['rate']:,.0f}",
        *(f"{latency[p]:,.0f}" if p in latency else "–" for p in PERCENTILES),
        f"{contender['pss_kib'] / 1024:.1f}",
        str(contender["errors"]),
    ]


def optional(contender: Mapping[str, Any], figure: str) -> str:
    """A figure that only contenders with a disturbance have."""
    return f"{contender[figure]:,.0f}" if figure in contender else "–"


def fewer(found: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The heads of p50 with fewer connections, by their number."""
    numbers = dict.fromkeys(each for one in found for each in one.get("fewer_us", {}))
    return {each: f"p50 µs, c={each}" for each in numbers}


def number(value: float) -> str:
    """A number with about four significant digits."""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:,.1f}"


def interval(ratio: Mapping[str, Any]) -> str:
    """A ratio with its interval."""
    return f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"


def show(figures: Figures) -> None:
    """Prints the figures of a scenario."""
    found = figures["contenders"]
    print(f"\n{figures['scenario']}: {figures['about']}")
    if figures["asked_per_second"]:
        print(f"at a fixed rate of {figures['asked_per_second']:,.0f} requests/s")
    heads = [*HEADS, "response B"]
    rows = [[*row(one), f"{one['answer_bytes']:,}"] for one in found.values()]
    if any("idle_bytes" in one for one in found.values()):
        heads.append("B/idle")
        rows = [[*r, optional(one, "idle_bytes")] for r, one in zip(rows, found.values())]
    if any("beside_mib" in one for one in found.values()):
        heads.append("MiB downloaded")
        rows = [[*r, optional(one, "beside_mib")] for r, one in zip(rows, found.values())]
    for connections, head in fewer(found.values()).items():
        heads.append(head)
        rows = [[*r, f"{o['fewer_us'][connections]:,.0f}"] for r, o in zip(rows, found.values())]
    print_table(["", *heads], [[name, *cells] for name, cells in zip(found, rows)])
    if figures["ratios"]:
        what = "CPU per request" if figures["figure"] == "cpu" else figures["figure"]
        print(f"\n{what}, median of the paired ratios [95 % interval]")
        pairs = [(f"{r['above']} ÷ {r['below']}", r) for r in figures["ratios"]]
        width = max(len(pair) for pair, _ in pairs)
        for pair, ratio in pairs:
            print(f"{pair:{width}}  {interval(ratio)}  {ratio['note']}".rstrip())
    for name, counted in figures["engines"].items():
        print(f"{name}: {', '.join(f'{v:.3f} {k}' for k, v in counted.items())}".replace("_", " "))
    for name, why in figures["left_out"].items():
        print(f"left out: {name}: {why}")
    print(f"verdict: {figures['verdict']}", flush=True)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table: the first column is left-aligned, the others are right-aligned."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths)]
        print("  ".join([line[0].ljust(widths[0]), *cells[1:]]))
