"""The command line of `bench/run`, and a run from its start to its end.

It refuses to know how a scenario is measured.
"""

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
from .contenders import CONTENDERS, QUICK, Contender, added
from .ratios import CLAIM_ROUNDS, TWIN
from .rounds import Progress, Round, make_site, with_alone, with_twin
from .scenarios import SCENARIOS, Scenario
from .server import Places

PUBLISHED = BENCH / "results"
TRIED = PUBLISHED / "tmp"

EPILOG = """
exit status: 0 all went well; 1 a contender failed, or coring or a floor with errors; 2 something
is missing; 3 a run of 40 rounds or more is refused: it is too noisy, or the floor too slow
"""


def names(word: str) -> list[str]:
    """The parts of a,b,c."""
    return [part for part in word.split(",") if part]


def parser() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    about = "Measures coring beside its floors and its peers, in pairs. bench/README.md says how."
    found = argparse.ArgumentParser("bench/run", description=about, epilog=EPILOG)
    add = found.add_argument
    add("--scenario", type=names, metavar="A,B", help="these only (default: all)")
    add("--only", type=names, metavar="A,B", help="these contenders only (default: all)")
    add("--rounds", type=int, help=f"of each scenario; a claim needs {CLAIM_ROUNDS} (default)")
    add("--seconds", type=int, default=1, help="of each measurement (default: 1)")
    text = "a smoke test: 1 round of all scenarios, few contenders, no claim"
    add("--quick", action="store_true", help=text)
    add("--list", action="store_true", help="name the scenarios and the contenders, and end")
    add("--json", type=Path, metavar="FILE", help="write every sample there")
    text = f"write the page to {PUBLISHED.relative_to(BENCH.parent)}, not to its tmp"
    add("--publish", action="store_true", help=text)
    text = "write the page from the stored figures again; measure nothing"
    add("--render", action="store_true", help=text)
    text = "add a server, or replace one; harness/contenders.py names the {fields}"
    add("--contender", action="append", default=[], metavar="NAME=COMMAND", help=text)
    add("--bin-dir", type=Path, help="take coring and the floors from there; build neither")
    return found


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    found = parser()
    options = found.parse_args(words)
    if any("=" not in word for word in options.contender):
        found.error("--contender takes NAME=COMMAND")
    if any(word.partition("=")[0].endswith(TWIN) for word in options.contender):
        found.error(f"--contender: names that end with {TWIN} are those of twins")
    extra = {name: added(text) for name, _, text in (w.partition("=") for w in options.contender)}
    options.contenders = {**CONTENDERS, **extra}
    for flag, chosen, known in (
        ("--scenario", options.scenario, SCENARIOS),
        ("--only", options.only, options.contenders),
    ):
        for name in chosen or []:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]}?" if close else "--list names all."
                found.error(f"{flag}: there is no {name!r}; {hint}")
    if options.rounds is None:
        options.rounds = 1 if options.quick else CLAIM_ROUNDS
    if options.rounds < 1 or options.seconds < 1:
        found.error("--rounds and --seconds are at least 1")
    if options.publish and options.quick:
        found.error("--publish: a smoke test proves nothing that is worth publishing")
    options.words = ["bench/run", *words]
    return options


def choose(options: argparse.Namespace) -> dict[str, Contender]:
    """The contenders of this run."""
    known = options.contenders
    extra = [name for name in known if name not in CONTENDERS]
    wanted = options.only or ([*QUICK, *extra] if options.quick else known)
    return {name: one for name, one in known.items() if name in wanted}


def show_list(contenders: Mapping[str, Contender]) -> None:
    """All that can be named."""
    print("scenarios")
    for name, scenario in SCENARIOS.items():
        print(f"  {name:22} {scenario.about}")
    print("\ncontenders, and what they play")
    for name, one in contenders.items():
        played = [scenario for scenario in SCENARIOS if one.plays(scenario)]
        every = [s for s, what in SCENARIOS.items() if what.task in one.commands]
        print(f"  {name:22} {'all of its kind' if played == every else ', '.join(played)}")


class Run:
    """What all scenarios of one run share."""

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
        """Gets all that is needed; the contenders that cannot be had, each with the reason."""
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
        missing = install.get_contenders(plays, target / "peers", self._environment)
        if "coring-pgo" in plays:
            program = binaries / "coring-pgo"
            missing |= install.get_by_profile(program, build=not self._options.bin_dir)
        for name, why in missing.items():
            print(f"LEFT OUT: {name}: {why}", file=sys.stderr)
        asked = [name for name in missing if name in (self._options.only or [])]
        if asked:
            raise Missing("; ".join(f"{name}: {missing[name]}" for name in asked))
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
        """All scenarios; the status of the worst."""
        options = self._options
        warm_up = 0 if options.quick else 1
        each = {name: self._players(name) for name in self._scenarios()}
        total = sum(len(players) for players in each.values()) * (options.rounds + warm_up)
        if total == 0:
            raise Missing("contenders: none of those chosen plays these scenarios.")
        progress = Progress(total)
        # Whatever we do ourselves meanwhile is done on the generator's core.
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
    """The page out of what is stored."""
    page.write(directory, environment.python, environment.install(install.PLOTS))
    print(f"\nthe page: {(directory / page.PAGE).relative_to(BENCH.parent)}")


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end(number: int, _frame: object) -> None:
    """A signal: servers are ended on the way out, which a second one does not disturb."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def main(words: Sequence[str]) -> int:
    """Runs what the command line asks for."""
    options = arguments(words)
    if options.list:
        show_list(options.contenders)
        return 0
    for each in SIGNALS:
        signal.signal(each, end)
    try:
        if options.render:
            environment = install.Environment(install.target_directory() / "bench-venv")
            write_page(PUBLISHED if options.publish else TRIED, environment)
            return 0
        machine.prepare()
        with tempfile.TemporaryDirectory(prefix="coring-bench-") as scratch:
            return Run(options, Path(scratch)).measure()
    except Missing as missing:
        print(f"MISSING: {missing}", file=sys.stderr)
        return EXIT_MISSING
    except KeyboardInterrupt as interrupt:
        Progress.clear()
        print("interrupted; all servers are ended", file=sys.stderr)
        return 128 + int(interrupt.args[0])
