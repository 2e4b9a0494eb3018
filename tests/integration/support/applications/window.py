"""A WSGI application whose worker stops between the receipt of a request and its mark."""

import os
import time

from _coring import threads
from wsgi import app, note

__all__ = ["app"]
_loads = threads.loads


def loads_and_waits(buffer):
    """Unpack a message. The query of a request names the file that it waits for before its mark."""
    message = _loads(buffer)
    if message[0] == threads.REQUEST and message[3]["QUERY_STRING"]:
        note("hold " + message[3]["PATH_INFO"])
        while not os.path.exists(message[3]["QUERY_STRING"]):
            time.sleep(0.01)
    return message


threads.loads = loads_and_waits
