"""Runs a program under a seccomp filter that restricts io_uring.

refuse_io_uring.py WHAT PROGRAM [ARGUMENT ...]

WHAT is the name of an error, for example EPERM: io_uring_setup fails with it. Or WHAT is
"unregistered": io_uring_enter fails with EPERM unless it is called with
IORING_ENTER_REGISTERED_RING. All other system calls are allowed.
"""

import ctypes
import errno
import os
import struct
import sys

IO_URING_SETUP, IO_URING_ENTER = 425, 426  # on every architecture
IORING_ENTER_REGISTERED_RING = 1 << 4
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
PR_SET_NO_NEW_PRIVS = 38
LOAD_WORD, RETURN = 0x20, 0x06  # BPF_LD|W|ABS, BPF_RET|K
JUMP_IF_EQUAL, JUMP_IF_SET = 0x15, 0x45  # BPF_JMP|JEQ|K, BPF_JMP|JSET|K
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000


# Offsets in struct seccomp_data: the number of the system call, and the low half of its fourth
# argument. Each argument has 64 bits.
NUMBER, FLAGS_OF_ENTER = 0, 16 + 3 * 8 + (4 if sys.byteorder == "big" else 0)


def refuse_setup(number):
    return [
        (LOAD_WORD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | number),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ]


def refuse_unregistered():
    return [
        (LOAD_WORD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, 3, IO_URING_ENTER),
        (LOAD_WORD, 0, 0, FLAGS_OF_ENTER),
        (JUMP_IF_SET, 1, 0, IORING_ENTER_REGISTERED_RING),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ]


def install(instructions):
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(instructions), ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    pointer = ctypes.create_string_buffer(program, len(program))
    for call in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(pointer), 0, 0),
    ):
        if prctl(*call) != 0:
            sys.exit(f"prctl{call}: {os.strerror(ctypes.get_errno())}")


what = sys.argv[1]
install(refuse_unregistered() if what == "unregistered" else refuse_setup(getattr(errno, what)))
os.execv(sys.argv[2], sys.argv[2:])
