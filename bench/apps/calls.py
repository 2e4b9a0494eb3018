"""Counts the calls of an application.

A step of `itertools.count` is atomic, so no call of any thread is lost.
"""

from itertools import count

_steps = count()
_readings = count()


def add():
    """Counts a call."""
    next(_steps)


def made():
    """The number of calls. Reading it is a step, too, so the earlier readings are subtracted."""
    return next(_steps) - next(_readings)
