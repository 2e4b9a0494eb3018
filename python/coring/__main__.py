"""python -m coring: becomes the program."""

import os
import sys

from . import find_program

program = find_program()
os.execv(program, [program, *sys.argv[1:]])
