"""What `bench/run` is made of. bench/README.md says how to use it and how to read what it says.

command     the command line, and a run from its start to its end
scenarios   what is asked of the servers, and which ratios have to hold
contenders  the servers: their commands, what they can play, what they need
install     programs from Debian, wheels from PyPI, builds by cargo
server      a server that runs: start, check, CPU time, memory, end
generators  what loads it: wrk, ab, the open-loop generator; connections that idle
rounds      a scenario: the contenders in turn
ratios      medians, intervals, verdicts: pure functions
report      what a terminal shows, and figures as they are stored
page        the page of results
plots       its plots; runs by itself in the virtual environment, for it needs matplotlib
programs    runs other programs
machine     what the figures were taken on
"""

from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
REPOSITORY = BENCH.parent

EXIT_FAILED, EXIT_MISSING, EXIT_REFUSED = 1, 2, 3


class Failed(Exception):
    """Something does not do what is asked of it."""


class Missing(Exception):
    """Something that a run needs is not there; says what, and how to get it."""
