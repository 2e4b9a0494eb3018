"""Draws a scenario's plots: CPU per request, requests per second, latency.

Runs by itself in the virtual environment: `plots.py figures.json DIRECTORY`. It refuses to know
anything but the stored figures.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "coring", "svg.fonttype": "none", "font.size": 9})

from matplotlib import pyplot  # noqa: E402  # pylint: disable=wrong-import-position

COLOURS = (("coring", "#d1495b"), ("floor-", "#8d99ae"))
OTHER = "#2e6f95"
COST_SHOWN = 20  # times the cheapest; a longer bar only hides the others


def colour(name):
    """One for coring, one for the floors, one for all others."""
    return next((shade for start, shade in COLOURS if name.startswith(start)), OTHER)


def bars(axes, names, values, title, limit):
    """A bar for each contender; one beyond the limit is cut, and its figure says so."""
    axes.barh(names, [min(value, limit) for value in values], color=[colour(n) for n in names])
    for index, value in enumerate(values):
        text = f" {value:,.2f}" if value < 100 else f" {value:,.0f}"
        cut = " (cut)" if value > limit else ""
        axes.text(min(value, limit), index, text + cut, va="center", fontsize=7)
    axes.set_xlim(0, min(max(values), limit) * 1.25)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)


def latencies(axes, found):
    """The percentiles, so that each nine has the same room."""
    ends = []
    for name, one in found.items():
        points = [
            (100 - min(float(percentile), 99.99), us / 1000)
            for percentile, us in one["latency_us"].items()
            if us > 0
        ]
        if points:
            width = 2 if colour(name) != OTHER else 0.8
            axes.plot(*zip(*points), color=colour(name), linewidth=width, marker=".", markersize=3)
            ends.append((points[-1], name))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_xaxis()
    axes.set_xticks([50, 10, 1, 0.1, 0.01], ["p50", "p90", "p99", "p99.9", "longest"])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title("latency, ms")
    axes.spines[["top", "right"]].set_visible(False)
    label(axes, sorted(ends, key=lambda end: end[0][1]))


def label(axes, ends):
    """Names the lines at their ends, from below; a label makes room for the one before."""
    room = 1 / max(len(ends), 20)
    to_axes = axes.transData + axes.transAxes.inverted()
    lowest = 0.0
    for index, (point, name) in enumerate(ends):
        highest = 1 - room * (len(ends) - 1 - index)
        y = min(max(to_axes.transform(point)[1], lowest), highest)
        lowest = y + room
        axes.annotate(
            name,
            point,
            xytext=(1.04, y),
            textcoords="axes fraction",
            fontsize=7,
            color=colour(name),
            va="center",
            arrowprops={"arrowstyle": "-", "linewidth": 0.3, "color": colour(name)},
        )


def draw(scenario, one, directory):
    """One file for one scenario."""
    found = {n: c for n, c in one["contenders"].items() if not n.endswith(("-2", "-2-alone"))}
    ordered = sorted(found, key=lambda name: found[name]["cpu_us"])
    timed = {n: c for n, c in found.items() if c["latency_us"]}
    panels = 3 if timed else 2
    height = max(3.0, 0.24 * len(ordered) + 1)
    figure, axes = pyplot.subplots(1, panels, figsize=(5 * panels, height))
    costs = [found[name]["cpu_us"] for name in ordered]
    rates = [found[name]["rate"] for name in ordered]
    bars(axes[0], ordered, costs, "CPU µs per request", min(costs) * COST_SHOWN)
    bars(axes[1], ordered, rates, "requests per second", max(rates))
    if timed:
        latencies(axes[2], timed)
    figure.suptitle(one["about"])
    figure.tight_layout()
    figure.savefig(directory / f"{scenario}.svg", metadata={"Date": None})
    pyplot.close(figure)


def main():
    """All scenarios that are stored."""
    figures, directory = (Path(word) for word in sys.argv[1:])
    for scenario, one in json.loads(figures.read_text()).items():
        if one["contenders"]:
            draw(scenario, one, directory)


if __name__ == "__main__":
    main()
