"""Serves an application with fastpysgi.

Usage: serve_fastpysgi.py MODULE PORT WORKERS
"""

import sys
from importlib import import_module

import fastpysgi

app = import_module(sys.argv[1]).app
fastpysgi.server.backlog = 4096
fastpysgi.run(app, host="127.0.0.1", port=int(sys.argv[2]), loglevel=1, workers=int(sys.argv[3]))
