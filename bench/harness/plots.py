"""Draws the picture of each scenario: CPU time per request, ratios, and requests/s or latency.

A program of its own, which runs in the virtual environment: `plots.py figures.json DIRECTORY`. It
reads the stored figures only.
"""

import json
import math
import sys
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "coring",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": "#e3e6eb",
        # Opaque, so that the text is readable on a dark page too.
        "savefig.facecolor": "white",
    }
)

from matplotlib import pyplot  # noqa: E402  # pylint: disable=wrong-import-position
from matplotlib.lines import Line2D  # noqa: E402  # pylint: disable=wrong-import-position
from matplotlib.patches import Patch  # noqa: E402  # pylint: disable=wrong-import-position
from matplotlib.ticker import FixedLocator, NullLocator  # noqa: E402  # pylint: disable=C0413

TWIN, ALONE = "-2", "-alone"
CORING, FLOOR, OTHER, NOISE = "#c8324f", "#7d8797", "#2e6f95", "#d9dde3"
SECOND_OTHER = "#e08a1e"  # the second of the other servers among lines
COLOURS = (("coring", CORING), ("floor-", FLOOR))
WIDTH = 8.65  # inches: as wide as the text of a page on GitHub, so that a point is a point
ROW, HEAD, LATENCY = 0.21, 1.25, 2.6  # inches
COST_SHOWN = 20  # a CPU time of more than this many times the shortest is cut
# The ticks of ratios: each list is for ratios that are at most this many times apart.
TICKS = (
    (2.5, (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.4, 1.6, 1.8, 2, 2.2)),
    (8, (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4)),
    (float("inf"), (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)),
)
LABEL_GAP = 0.095  # between the labels of lines, as a share of the axes


def colour(name):
    """The colour of a contender."""
    return next((shade for start, shade in COLOURS if name.startswith(start)), OTHER)


def bars(axes, names, values, title, limit):
    """A bar for each contender, and its value. A bar beyond the limit is cut."""
    longest = min(max(values), limit)
    axes.barh(names, [min(value, limit) for value in values], color=[colour(n) for n in names])
    for index, value in enumerate(values):
        text = f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
        cut = " (cut)" if value > limit else ""
        x = min(value, limit) + longest * 0.02
        axes.text(x, index, text + cut, va="center", fontsize=8)
    axes.set_xlim(0, longest * 1.35)
    axes.xaxis.set_major_locator(NullLocator())
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title)


def ratios_of(one, names):
    """For each contender that has a ratio to coring: the median and the ends of its interval.

    In a scenario with a disturbance it is the ratio of the contender to itself without it.
    """
    twins = [r["above"] for r in one["ratios"] if r["below"] == r["above"] + TWIN]
    ours = ("coring", *twins, *names)
    ours = next((n for n in ours if n in names and n.startswith("coring")), "")
    stored = {(r["above"], r["below"]): (r["median"], r["low"], r["high"]) for r in one["ratios"]}
    found = {}
    for name in names:
        if has_alone(one):
            ratio = stored.get((name, name + ALONE))
        else:
            ratio = stored.get((ours, name))
            inverse = stored.get((name, ours))
            if ratio is None and inverse is not None:
                median, low, high = inverse
                ratio = 1 / median, 1 / high, 1 / low
        if ratio is not None:
            found[name] = ratio
    return found


def has_alone(one):
    """Whether the contenders are also measured without a disturbance."""
    return any(name.endswith(ALONE) for name in one["contenders"])


def intervals(axes, one, names):
    """The paired ratios, each with its interval, and that of A/A as a band."""
    found = ratios_of(one, names)
    noise = [(r["low"], r["high"]) for r in one["ratios"] if r["below"] == r["above"] + TWIN]
    for band in noise:
        axes.axvspan(*band, color=NOISE, linewidth=0)
    axes.axvline(1, color="black", linewidth=0.8)
    for name, (median, low, high) in found.items():
        y = names.index(name)
        axes.plot((low, high), (y, y), color=colour(name), linewidth=1.6)
        axes.plot(median, y, color=colour(name), marker="o", markersize=4)
        axes.text(1.02, y, f"{median:.2f}", va="center", fontsize=8, transform=at_right(axes))
    ends = [1, *(end for ratio in [*found.values(), *noise] for end in ratio)]
    low, high = min(ends) / 1.03, max(ends) * 1.03
    ticks = next(each for span, each in TICKS if high / low <= span)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    figure = "CPU" if one["figure"] == "cpu" else one["figure"]
    if has_alone(one):
        axes.set_title(f"{figure} ÷ {figure} alone")
    else:
        axes.set_title(f"{figure}: coring ÷ the other")


def at_right(axes):
    """Coordinates: x as a share of the axes, y in data."""
    return axes.get_yaxis_transform()


def lines_of(one):
    """The contenders whose latency is drawn, each with its colour: few, so that it is readable."""
    found = one["contenders"]
    if has_alone(one):
        pairs = (("coring", CORING), ("nginx", OTHER))
        return {n: shade for name, shade in pairs for n in (name, name + ALONE) if n in found}
    chosen = {"coring": CORING, "floor-ring": FLOOR, "nginx": OTHER}
    figure = one["figure"].lstrip("p")
    others = [n for n in found if colour(n) == OTHER and n != "nginx"]
    best = min(others, key=lambda name: found[name]["latency_us"][figure], default=None)
    chosen |= {best: SECOND_OTHER} if best else {}
    return {name: shade for name, shade in chosen.items() if name in found}


def latencies(axes, one):
    """The latency of some contenders by percentile. Each nine of the percentile is as wide."""
    ends = []
    for name, shade in lines_of(one).items():
        latency = one["contenders"][name]["latency_us"]
        points = [(100 - min(float(p), 99.99), us / 1000) for p, us in latency.items() if us > 0]
        style = "--" if name.endswith(ALONE) else "-"
        axes.plot(*zip(*points), color=shade, linestyle=style, marker="o", markersize=3)
        ends.append((points[-1][1], name, shade))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(50, 0.01)
    shares = (50, 10, 1, 0.1, 0.01)
    axes.set_xticks(shares, ["p50", "p90", "p99", "p99.9", "longest"])
    low, high = axes.get_ylim()
    steps = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]
    axes.yaxis.set_major_locator(FixedLocator([step for step in steps if low <= step <= high]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(low, high)
    axes.grid()
    axes.set_title("latency in ms (both scales are logarithmic)")
    ends = [(math.log(value / low) / math.log(high / low), *rest) for value, *rest in sorted(ends)]
    for y, (_, name, shade) in zip(spread([at for at, *_ in ends]), ends):
        axes.text(1.015, y, name, color=shade, va="center", transform=axes.transAxes)


def spread(places):
    """Ascending places, moved apart where labels would overlap, and still centred and inside."""
    found = []
    for place in places:
        found.append(max(place, found[-1] + LABEL_GAP) if found else place)
    shift = (sum(found) - sum(places)) / len(places)
    shift = max(shift, found[-1] - 1)
    return [place - shift for place in found]


def legend(figure, one):
    """Explains the colours that occur."""
    names = list(one["contenders"])
    rows = (("coring", CORING), ("floors: the cheapest server we could write", FLOOR))
    rows = [(text, shade) for text, shade in rows if any(colour(n) == shade for n in names)]
    if any(colour(name) == OTHER for name in names):
        rows.append(("other servers", OTHER))
    handles = [Patch(color=shade, label=text) for text, shade in rows]
    handles.append(Line2D([], [], color="black", marker="o", markersize=4, label="95 % interval"))
    handles.append(Patch(color=NOISE, label="A/A: noise"))
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower center", frameon=False,
                  fontsize=8, columnspacing=1.2, handlelength=1.4)


def draw(scenario, one, directory):
    """The picture of one scenario."""
    found = {n: c for n, c in one["contenders"].items() if not n.endswith((TWIN, TWIN + ALONE))}
    names = sorted(found, key=lambda name: found[name]["cpu_us"])
    height = HEAD + ROW * max(len(names), 4)
    fixed_rate = bool(one["asked_per_second"] and lines_of(one))
    figure = pyplot.figure(figsize=(WIDTH, height + LATENCY * fixed_rate), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06)
    if fixed_rate:
        above, below = figure.subfigures(2, 1, height_ratios=(height, LATENCY))
        upper = above.subplots(1, 2, sharey=True)
        latencies(below.subplots(), one)
    else:
        upper = figure.subplots(1, 3, sharey=True)
        rates = [found[name]["rate"] for name in names]
        bars(upper[2], names, rates, "requests/s", max(rates))
    costs = [found[name]["cpu_us"] for name in names]
    bars(upper[0], names, costs, "CPU µs per request", min(costs) * COST_SHOWN)
    intervals(upper[1], one, names)
    upper[0].invert_yaxis()
    for tick in upper[0].get_yticklabels():
        tick.set_color(colour(tick.get_text()))
    figure.suptitle("\n".join(textwrap.wrap(one["about"], 100)), fontsize=10)
    legend(figure, one)
    figure.savefig(directory / f"{scenario}.svg", metadata={"Date": None})
    pyplot.close(figure)


def main():
    """Draws all scenarios that are stored."""
    figures, directory = (Path(word) for word in sys.argv[1:])
    for scenario, one in json.loads(figures.read_text()).items():
        if one["contenders"]:
            draw(scenario, one, directory)


if __name__ == "__main__":
    main()
