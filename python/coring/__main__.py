"""python -m coring: becomes the program. Applications run on this interpreter."""

import sys

from . import become_program

become_program(sys.argv[1:])
