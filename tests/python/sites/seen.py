"""What an application sees of a request, as JSON."""

import json

_PLAIN = (str, int, float, bool, type(None))


def plain(value):
    """The value, or the name of its type if JSON has none for it."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value if isinstance(value, _PLAIN) else f"<{type(value).__name__}>"


# What frameworks add.
_ADDED = ("app", "bottle.", "router", "route", "endpoint", "path_params", "werkzeug.", "fastapi_")
_ADDED += ("webob.", "csrf", "session", "falcon.", "user", "fastapi.", "starlette.")
# The environment of the process, which Django merges into its own.
_FIRST = ("HTTP_", "REMOTE_", "SERVER_", "wsgi.", "CONTENT_", "gunicorn.", "RAW_")
_NAMES = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING")


def environ(variables):
    """The variables that a WSGI server makes, and the types of their values."""
    names = [name for name in variables if name.startswith(_FIRST) or name in _NAMES]
    shown = {name: plain(variables[name]) for name in names}
    return json.dumps(shown, sort_keys=True)


def scope(variables):
    """The variables that an ASGI server makes."""
    names = [name for name in variables if not name.startswith(_ADDED)]
    return json.dumps({name: plain(variables[name]) for name in names}, sort_keys=True)
