"""python -m coring: becomes the program. Applications run on this interpreter."""

import os
import sys

from . import find_program

program = find_program()
if sys.executable:
    # coring reads this where --python is not given.
    os.environ.setdefault("CORING_PYTHON", sys.executable)
os.execv(program, [program, *sys.argv[1:]])
