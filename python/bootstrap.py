"""The program that `python -c` runs: it imports the package `_coring` from memory.

The arguments are the numbers of two descriptors. The first one holds, in the format of `marshal`,
the sources of all modules, the name of the one to run, and its configuration, so nothing of
coring's has to be on the module search path. To the second one the process reports.
"""

import sys

# For `-c` this is the current directory, whose files must not stand in for the standard library's.
if sys.path and sys.path[0] == "":
    del sys.path[0]

import marshal
import os

# Older versions, down to Python 2, can read this file as far as here.
if sys.version_info < (3, 8):  # noqa: UP036
    sys.stderr.write(
        "coring: {} is Python {}, and coring needs 3.8 or newer; name another interpreter with "
        "--python\n".format(sys.executable, ".".join(map(str, sys.version_info[:3])))
    )
    os.write(int(sys.argv[2]), b"failed 1")
    sys.exit(1)

from importlib import import_module
from importlib.machinery import ModuleSpec


class MemoryImporter:
    """Finds and loads the modules of `_coring` by their sources."""

    def __init__(self, sources):
        self._sources = sources

    def find_spec(self, name, path=None, target=None):
        if name not in self._sources:
            return None
        # Without angle brackets: linecache does not ask a loader for files named like <string>.
        origin = "coring:" + name.replace(".", "/") + ".py"
        spec = ModuleSpec(name, self, origin=origin, is_package=name == "_coring")
        spec.has_location = True
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        source = self._sources[module.__name__]
        exec(compile(source, module.__spec__.origin, "exec"), module.__dict__)

    def get_source(self, name):
        """The lines that tracebacks show."""
        return self._sources[name]


def read_bundle(fd):
    parts = []
    offset = 0
    while True:
        part = os.pread(fd, 1 << 20, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    os.close(fd)
    return marshal.loads(b"".join(parts))


def main():
    bundle = read_bundle(int(sys.argv[1]))
    sys.meta_path.insert(0, MemoryImporter(bundle["modules"]))
    import_module("_coring." + bundle["entry"]).run(bundle["config"])


main()
