"""A WSGI application whose worker stops between the receipt of a request and its mark."""

import time

from _coring import threads
from wsgi import app, note

__all__ = ["app"]
_loads = threads.loads


def loads_and_waits(buffer):
    """Unpack a message. The query of a request says for how many seconds it is not marked."""
    message = _loads(buffer)
    if message[0] == threads.REQUEST and message[3]["QUERY_STRING"]:
        note("hold " + message[3]["PATH_INFO"])
        time.sleep(float(message[3]["QUERY_STRING"]))
    return message


threads.loads = loads_and_waits
