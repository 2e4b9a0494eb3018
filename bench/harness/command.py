"""The command line of `bench/run`, and a run from its start to its end."""

from __future__ import annotations

import argparse
import datetime
import difflib
import json
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import Mapping, Sequence

from . import BENCH, EXIT_FAILED, EXIT_MISSING, Failed, Missing, install, machine, page, report
from .contenders import ALL, CONTENDERS, QUICK, Contender, added
from .ratios import CLAIM_ROUNDS, TWIN
from .rounds import Progress, Round, make_site, with_alone, with_twin
from .scenarios import SCENARIOS, Scenario
from .server import Places

PUBLISHED = BENCH / "results"
TRIED = PUBLISHED / "tmp"

EPILOG = """
exit status: 0 success; 1 a contender failed, or coring or a floor had errors; 2 something that the
run needs is missing; 3 a run of 40 rounds or more was refused, because it is too noisy or the floor
too slow
"""


def names(word: str) -> list[str]:
    """The names in `a,b,c`."""
    return [part for part in word.split(",") if part]


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    about = "Measures coring beside the floors and its peers. bench/README.md explains how."
    found = argparse.ArgumentParser("bench/run", description=about, epilog=EPILOG)
    add = found.add_argument
    add("--scenario", type=names, metavar="A,B", help="run these scenarios only (default: all)")
    add("--only", type=names, metavar="A,B", help="run these contenders only (default: all)")
    text = f"rounds of each scenario (default: {CLAIM_ROUNDS}, which a claim needs)"
    add("--rounds", type=int, metavar="N", help=text)
    text = "length of each measurement (default: 1)"
    add("--seconds", type=int, default=1, metavar="N", help=text)
    text = "smoke test: 1 round of all scenarios with few contenders; supports no claim"
    add("--quick", action="store_true", help=text)
    add("--list", action="store_true", help="list the scenarios and the contenders, and exit")
    add("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    text = f"write the page to {PUBLISHED.relative_to(BENCH.parent)} instead of its folder tmp"
    add("--publish", action="store_true", help=text)
    text = "measure nothing: write the page and draw its pictures again, from the stored figures"
    add("--render", action="store_true", help=text)
    text = "add a server, or replace one; harness/contenders.py explains the {fields}"
    add("--contender", action="append", default=[], metavar="NAME=COMMAND", help=text)
    text = "use the binaries of coring, the floors and load in DIR; build none of them"
    add("--bin-dir", type=Path, metavar="DIR", help=text)
    return found


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parses and checks the command line."""
    found = parser()
    options = found.parse_args(words)
    if any("=" not in word for word in options.contender):
        found.error("--contender takes NAME=COMMAND")
    if any(word.partition("=")[0].endswith(TWIN) for word in options.contender):
        found.error(f"--contender: a name must not end with {TWIN}, which marks a second instance")
    extra = {name: added(text) for name, _, text in (w.partition("=") for w in options.contender)}
    options.contenders = {**CONTENDERS, **extra}
    for flag, chosen, known in (
        ("--scenario", options.scenario, SCENARIOS),
        ("--only", options.only, options.contenders),
    ):
        for name in chosen or []:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]}?" if close else "--list shows all names."
                found.error(f"{flag}: {name!r} is unknown; {hint}")
    if options.rounds is None:
        options.rounds = 1 if options.quick else CLAIM_ROUNDS
    if options.rounds < 1 or options.seconds < 1:
        found.error("--rounds and --seconds must be at least 1")
    if options.publish and options.quick:
        found.error("--publish: the figures of a smoke test cannot be published")
    options.words = ["bench/run", *words]
    return options


def choose(options: argparse.Namespace) -> dict[str, Contender]:
    """The contenders of this run."""
    known = options.contenders
    extra = [name for name in known if name not in CONTENDERS]
    wanted = options.only or ([*QUICK, *extra] if options.quick else known)
    return {name: one for name, one in known.items() if name in wanted}


def show_list(contenders: Mapping[str, Contender]) -> None:
    """Prints all scenarios and contenders."""
    print("scenarios")
    for name, scenario in SCENARIOS.items():
        print(f"  {name:22} {scenario.about}")
    print("\ncontenders, and their scenarios")
    for name, one in contenders.items():
        played = [scenario for scenario in SCENARIOS if one.plays(scenario)]
        every = [s for s in SCENARIOS if s in ALL and SCENARIOS[s].task in one.commands]
        text = ", ".join(played) or f"none: {', '.join(set(one.cannot.values()))}"
        if played and played == every:
            text = "all that it has a command for"
        print(f"  {name:22} {text}")


class Run:
    """A run: the contenders, their installation, and all its scenarios."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self._options = options
        self._contenders = choose(options)
        target = install.target_directory()
        self._environment = install.Environment(target / "bench-venv")
        binaries = options.bin_dir.resolve() if options.bin_dir else target / "release"
        self._missing = self._install(target, binaries)
        self._places = Places(
            binaries=binaries,
            peers=target / "peers" / "release",
            python=self._environment.python,
            site=scratch / "site",
            scratch=scratch,
            cores=machine.pick_cores(),
        )
        make_site(self._places.site)

    def _install(self, target: Path, binaries: Path) -> dict[str, str]:
        """Installs and builds all. Returns the contenders that failed, each with the reason."""
        tools = install.install_programs(install.TOOLS)
        if tools:
            raise Missing("; ".join(f"{name}: {why}" for name, why in tools.items()))
        if not self._options.bin_dir:
            install.build_coring()
        plays = {
            name: one
            for name, one in self._contenders.items()
            if any(one.plays(scenario) for scenario in self._scenarios())
        }
        quick = self._options.quick
        missing = install.get_contenders(plays, target / "peers", self._environment, quick=quick)
        if "coring-pgo" in plays:
            program = binaries / "coring-pgo"
            missing |= install.get_by_profile(program, build=not self._options.bin_dir)
        for name, why in missing.items():
            print(f"LEFT OUT: {name}: {why}", file=sys.stderr)
        required = [name for name in missing if name in (self._options.only or [])]
        if required:
            raise Missing("; ".join(f"{name}: {missing[name]}" for name in required))
        return missing

    def _scenarios(self) -> dict[str, Scenario]:
        chosen = self._options.scenario or list(SCENARIOS)
        return {name: one for name, one in SCENARIOS.items() if name in chosen}

    def _players(self, name: str) -> dict[str, Contender]:
        found = {
            who: one
            for who, one in self._contenders.items()
            if one.plays(name) and who not in self._missing
        }
        found = with_twin(found, SCENARIOS[name].twin)
        return with_alone(found) if SCENARIOS[name].idles_beside else found

    def measure(self) -> int:
        """Measures all scenarios. Returns the exit status: that of the first that failed."""
        options = self._options
        warm_up = 0 if options.quick else 1
        each = {name: self._players(name) for name in self._scenarios()}
        total = sum(len(players) for players in each.values()) * (options.rounds + warm_up)
        if total == 0:
            raise Missing("contenders: none of the chosen ones takes part in these scenarios.")
        progress = Progress(total)
        # The harness itself must not disturb the servers' core.
        os.sched_setaffinity(0, {self._places.cores[1]})
        figures, samples, status = [], {}, 0
        for name, players in each.items():
            if not players:
                continue
            try:
                found, samples[name] = self._scenario(name, players, warm_up, progress)
            except Failed as failure:
                Progress.clear()
                print(f"FAILED: {name}: {failure}", file=sys.stderr)
                status = status or EXIT_FAILED
                continue
            figures.append(found)
            status = status or found["status"]
        if options.json:
            everything = {"figures": figures, "samples": samples}
            options.json.write_text(json.dumps(everything, indent=1) + "\n")
        self._write_page(figures)
        return status

    def _scenario(
        self, name: str, players: Mapping[str, Contender], warm_up: int, progress: Progress
    ) -> tuple[report.Figures, dict[str, list[dict[str, object]]]]:
        options, scenario = self._options, SCENARIOS[name]
        taken = Round(scenario, self._places, options.seconds)
        outcome = taken.run(players, options.rounds, warm_up, progress)
        figures = report.summary(name, scenario, outcome, options.rounds)
        left_out = {n: w for n, w in self._missing.items() if self._contenders[n].plays(name)}
        left_out |= {n: c.cannot[name] for n, c in self._contenders.items() if name in c.cannot}
        figures["left_out"] = {**left_out, **figures["left_out"]}
        figures |= {
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "command": shlex.join(options.words),
            "rounds": options.rounds,
            "seconds": options.seconds,
            "machine": machine.describe(self._places.cores),
            "versions": machine.versions(
                {n: one for n, one in players.items() if n in self._contenders},
                self._places.python,
            ),
        }
        Progress.clear()
        report.show(figures)
        return figures, {
            who: [sample._asdict() for sample in found] for who, found in outcome.samples.items()
        }

    def _write_page(self, figures: Sequence[report.Figures]) -> None:
        directory = PUBLISHED if self._options.publish else TRIED
        page.store(directory, figures)
        write_page(directory, self._environment)


def write_page(directory: Path, environment: install.Environment) -> None:
    """Writes the page and its pictures from the stored figures."""
    page.write(directory, environment.python, environment.install(install.PLOTS))
    print(f"\nthe page: {(directory / page.PAGE).relative_to(BENCH.parent)}")


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end(number: int, _frame: object) -> None:
    """Handles a signal: unwinds, which stops all servers. Further signals are ignored meanwhile."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def main(words: Sequence[str]) -> int:
    """Runs `bench/run` with these arguments. Returns the exit status."""
    options = arguments(words)
    if options.list:
        show_list(options.contenders)
        return 0
    for each in SIGNALS:
        signal.signal(each, end)
    try:
        if options.render:
            environment = install.Environment(install.target_directory() / "bench-venv")
            directory = PUBLISHED if options.publish else TRIED
            page.store(directory, [])
            write_page(directory, environment)
            return 0
        machine.prepare()
        with tempfile.TemporaryDirectory(prefix="coring-bench-") as scratch:
            return Run(options, Path(scratch)).measure()
    except Missing as missing:
        print(f"MISSING: {missing}", file=sys.stderr)
        return EXIT_MISSING
    except KeyboardInterrupt as interrupt:
        Progress.clear()
        print("interrupted; all servers have been stopped", file=sys.stderr)
        return 128 + int(interrupt.args[0])
