"""The Python side of coring: runs a WSGI or ASGI application in a worker process.

It needs nothing but the standard library of CPython 3.8 or later.
"""

import sys

# The modules that were imported before any of coring's.
BEFORE = frozenset(sys.modules)
