"""The program that `python -c` runs in a worker: it imports the package `_coring` from memory.

The argument is the number of a descriptor. It holds, in the format of `marshal`, the sources of all
modules and the configuration, so nothing of coring's has to be on the module search path.
"""

import marshal
import os
import sys
from importlib.machinery import ModuleSpec


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


class MemoryImporter:
    """Finds and loads the modules whose sources it was given."""

    def __init__(self, sources):
        self._sources = sources

    def find_spec(self, name, path=None, target=None):
        if name not in self._sources:
            return None
        origin = self._origin(name)
        spec = ModuleSpec(name, self, origin=origin, is_package=name == "_coring")
        spec.has_location = True
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        name = module.__name__
        exec(compile(self._sources[name], self._origin(name), "exec"), module.__dict__)

    def get_source(self, name):
        """The lines that tracebacks show."""
        return self._sources[name]

    def is_package(self, name):
        return name == "_coring"

    def get_code(self, name):
        return compile(self._sources[name], self._origin(name), "exec")

    @staticmethod
    def _origin(name):
        # Without angle brackets: linecache does not ask a loader for files named like <string>.
        return "coring:" + name.replace(".", "/") + ".py"


def main():
    bundle = read_bundle(int(sys.argv[1]))
    sys.meta_path.insert(0, MemoryImporter(bundle["modules"]))
    from _coring.main import run

    run(bundle["config"])


if __name__ == "__main__":
    main()
