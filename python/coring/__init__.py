"""The wheel of coring: the program itself, and this package, which finds it."""

import os
import sys
import sysconfig


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
