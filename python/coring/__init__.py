"""The wheel of coring: the program itself, and this package, which finds it."""

import os
import sys
import sysconfig
from typing import NoReturn

# Settings that are on unless a flag says otherwise.
_ON = ("access_log", "date_header", "proxy_headers", "server_header")


def find_program() -> str:
    """Return the path of the program that was installed together with this package.

    Raises FileNotFoundError if it is not there.
    """
    name = "coring"
    schemes = [sysconfig.get_path("scripts")]
    if sys.version_info >= (3, 10):
        schemes.append(sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")))
    # pip install --target puts scripts into bin/ beside the packages.
    schemes.append(os.path.join(os.path.dirname(os.path.dirname(__file__)), "bin"))
    for directory in schemes:
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            return path
    raise FileNotFoundError(f"the program {name!r} is not in any of {schemes}")


def become_program(arguments: list) -> NoReturn:
    """Become the program. Applications run on this interpreter unless the environment says
    otherwise."""
    program = find_program()
    if sys.executable:
        # coring reads this where --python is not given.
        os.environ.setdefault("CORING_PYTHON", sys.executable)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os.execv(program, [program, *arguments])


def run(app: str, **settings: object) -> NoReturn:
    """Become the program that serves `app`, as in run("main:app", host="0.0.0.0", port=8000).

    `settings` are flags of `coring run`, with underscores; False stands for `--no-access-log` and
    the like. Nothing after the call is run, so it belongs under `if __name__ == "__main__":`, where
    the workers do not see it.
    """
    if not isinstance(app, str):
        raise TypeError(
            'coring.run takes the name of an application, as in run("main:app"), since workers '
            "import it; coring.pywsgi.WSGIServer takes the application itself"
        )
    arguments = ["run", app]
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            arguments.append(flag)
        elif value is False and name in _ON:
            arguments.append(flag.replace("--", "--no-", 1))
        elif value is not None and value is not False:
            values = value if isinstance(value, (list, tuple)) else [value]
            arguments += [f"{flag}={each}" for each in values]
    become_program(arguments)
