"""Serves an application with gevent's own WSGIServer, which has no command line.

Usage: serve_gevent.py MODULE PORT
"""

import sys
from importlib import import_module

from gevent.pywsgi import WSGIServer

app = import_module(sys.argv[1]).app
WSGIServer(("127.0.0.1", int(sys.argv[2])), app, log=None, backlog=4096).serve_forever()
