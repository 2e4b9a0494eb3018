"""The modules of `bench/run`. bench/README.md explains its use and its results.

command     the command line, and a run from its start to its end
scenarios   the loads, and the ratios that coring should reach in each
contenders  the servers: their commands, the scenarios they take part in, what they need installed
install     installs programs from Debian and wheels from PyPI, builds with cargo
server      a running server: start, check, CPU time, memory, stop
check       checks that a server responds correctly before it is measured
generators  load generators: wrk, ab, the open-loop generator; idle connections
rounds      one scenario: measures the contenders in turn
ratios      medians, intervals and verdicts, as pure functions
report      the figures of a scenario, as they are stored and as a terminal shows them
page        the page of results
plots       its pictures; a program of its own, because it needs matplotlib
programs    runs other programs
machine     describes the machine that the figures were measured on
"""

from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
REPOSITORY = BENCH.parent

EXIT_FAILED, EXIT_MISSING, EXIT_REFUSED = 1, 2, 3


class Failed(Exception):
    """A contender, a generator or a scenario failed."""


class Missing(Exception):
    """Something that the run needs is missing. The message says what it is and how to get it."""
