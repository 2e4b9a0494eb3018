"""Runs a program that inherits unusual process state: inherited.py STATE PROGRAM [ARGUMENT ...]

STATE is one of
    blocked    all signals are blocked
    ignored    all signals are ignored
    pending    SIGTERM is blocked and pending
    closed     the three standard descriptors are closed
"""

import os
import signal
import sys

state, program = sys.argv[1], sys.argv[2:]
catchable = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
match state:
    case "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, catchable)
    case "ignored":
        for number in catchable:
            signal.signal(number, signal.SIG_IGN)
    case "pending":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGTERM)
    case "closed":
        for descriptor in range(3):
            os.close(descriptor)
os.execv(program[0], program)
