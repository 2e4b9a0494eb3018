"""Medians, paired ratios with their intervals, and verdicts. Pure functions."""

from __future__ import annotations

import random
import statistics
from typing import NamedTuple, Sequence

from .contenders import CONTENDERS
from .scenarios import ALONE, CLOSING_FLOORS, OURS, Scenario, Target

CLAIM_ROUNDS = 40
AA_RANGE = (0.98, 1.02)
FLOOR_TO_NGINX_MAX = 0.9
BOOTSTRAP_SAMPLES = 2000
TWIN = "-2"  # the suffix of a contender's second instance


class Sample(NamedTuple):
    """The measurement of one contender in one round."""

    requests: float
    errors: int
    cpu_us: float  # per request, of the whole process tree
    rate: float  # requests per second
    latency_us: dict[str, float]  # by percentile; empty if the generator cannot measure it
    pss_kib: int
    fewer_us: dict[str, float]  # p50 by number of connections, if a scenario has fewer, too

    def figure(self, name: str) -> float:
        """The figure that a scenario compares."""
        return self.cpu_us if name == "cpu" else self.latency_us[name.lstrip("p")]


class Ratio(NamedTuple):
    """One contender's figure divided by another's."""

    above: str
    below: str
    median: float
    low: float
    high: float

    @property
    def separable(self) -> bool:
        """Whether the interval excludes 1."""
        return not self.low <= 1.0 <= self.high

    def meets(self, limit: float) -> bool:
        """Whether the ratio meets a target."""
        return self.median <= limit and self.low < limit


Samples = dict[str, list[Sample]]


def paired(samples: Samples, above: str, below: str, figure: str) -> Ratio:
    """The median of the per-round ratios, and its 95 % interval by bootstrap."""
    pairs = zip(samples[above], samples[below])
    ratios = [a.figure(figure) / max(b.figure(figure), 1e-9) for a, b in pairs]
    draw = random.Random(1)
    medians = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(BOOTSTRAP_SAMPLES)
    )
    low, high = (medians[int(BOOTSTRAP_SAMPLES * share)] for share in (0.025, 0.975))
    return Ratio(above, below, statistics.median(ratios), low, high)


def application(name: str) -> str:
    """The Python application that a contender serves, or nothing."""
    return CONTENDERS[name].application if name in CONTENDERS else ""


def pairs_of(names: Sequence[str], scenario: Scenario) -> list[tuple[str, str]]:
    """The pairs to compare: the floors, coring's engines and builds, coring and each other.

    coring with a Python application is compared with the servers of the same one.
    """
    twin = scenario.twin
    pairs = [
        (twin, twin + TWIN),
        ("floor-ring", "nginx"),
        ("floor-epoll", "floor-ring"),
        CLOSING_FLOORS,
        *((floor, peer) for floor in CLOSING_FLOORS for peer in ("nginx", "h2o")),
        ("coring-epoll", "floor-epoll"),
        ("coring-epoll", "floor-close-epoll"),
        ("coring-epoll", "coring"),
        ("coring-pgo", "coring"),
        ("coring-handler-epoll", "coring-handler"),
    ]
    hosts = [name for name in names if application(name) and name.startswith("coring")]
    others = [name for name in names if name not in (*OURS, "coring-epoll", twin + TWIN)]
    others = [name for name in others if not name.endswith(ALONE) and name not in hosts]
    pairs += [(name, name + ALONE) for name in names]
    pairs += [(name, "floor-ring") for name in others if name not in CONTENDERS]
    pairs += [(ours, name) for ours in OURS for name in others]
    pairs += [
        (ours, name) for ours in hosts for name in others if application(name) == application(ours)
    ]
    pairs += [(target.above, target.below) for target in scenario.targets]
    return list(dict.fromkeys(pair for pair in pairs if set(pair) <= set(names)))


def targets_of(scenario: Scenario, ratios: Sequence[Ratio]) -> list[Target]:
    """The scenario's targets. coring must also be below h2o if a closing floor is."""
    below_h2o = [r for r in ratios if r.above in CLOSING_FLOORS and r.below == "h2o"]
    if any(ratio.median < 1.0 for ratio in below_h2o):
        return [*scenario.targets, *(Target(ours, "h2o", 1.0) for ours in OURS)]
    return list(scenario.targets)


def judge(ratio: Ratio, targets: Sequence[Target], twin: str) -> str:
    """The note beside a ratio: noise, not separable, targets met or missed."""
    if (ratio.above, ratio.below) == (twin, twin + TWIN):
        return "A/A: the noise"
    notes = [] if ratio.separable else ["not separable"]
    for target in targets:
        if (target.above, target.below) == (ratio.above, ratio.below):
            met = "met" if ratio.meets(target.limit) else "MISSED"
            notes.append(f"target ≤ {target.limit:.2f}: {met}")
    return ", ".join(notes)


def refusal(scenario: Scenario, ratios: Sequence[Ratio]) -> str:
    """The reason why a run is refused. Empty if it is not."""
    by_pair = {(ratio.above, ratio.below): ratio for ratio in ratios}
    noise = by_pair.get((scenario.twin, scenario.twin + TWIN))
    fair = by_pair.get(("floor-ring", "nginx"))
    if noise and scenario.figure != "cpu" and noise.separable:
        return f"A/A is {noise.median:.3f} [{noise.low:.3f}, {noise.high:.3f}], which excludes 1"
    if noise and scenario.figure == "cpu" and not AA_RANGE[0] <= noise.median <= AA_RANGE[1]:
        return f"A/A is {noise.median:.3f}, outside {AA_RANGE[0]} to {AA_RANGE[1]}"
    if scenario.fair_floor and fair and fair.median > FLOOR_TO_NGINX_MAX:
        return f"floor ÷ nginx is {fair.median:.3f}, above {FLOOR_TO_NGINX_MAX}: a slow floor"
    return ""


def lacks(scenario: Scenario, names: Sequence[str], rounds: int) -> str:
    """The reason why a run supports no claim. Empty if it does."""
    wanted = [scenario.twin, scenario.twin + TWIN]
    wanted += ["floor-ring", "nginx"] if scenario.fair_floor else []
    missing = [name for name in dict.fromkeys(wanted) if name not in names]
    if missing:
        return f"it lacks {', '.join(missing)}"
    if rounds < CLAIM_ROUNDS:
        return f"a claim needs {CLAIM_ROUNDS} rounds, this is {rounds}"
    return ""
