"""Runs a program under a seccomp filter.

seccomp.py [--kill] [--without NAME]... PROFILE PROGRAM [ARG...]

PROFILE is a seccomp profile in JSON, in the format of the OCI runtime specification, or a systemd
unit. Of a unit the script translates SystemCallFilter=, RestrictAddressFamilies= and
MemoryDenyWriteExecute=. libseccomp compiles the filter, as it does for systemd and the container
runtimes. --without removes a system call from those that PROFILE allows. With --kill a forbidden
system call kills the program (SIGSYS) instead of failing with an error.
"""

import argparse
import ctypes
import errno
import json
import os
import socket
import subprocess
import sys

ACTIONS = {
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
}
OPERATORS = {
    name: number
    for number, name in enumerate(("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"), start=1)
}
ARCHITECTURES = {"SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_AARCH64": 0xC00000B7}
UNKNOWN = -1  # __NR_SCMP_ERROR: libseccomp knows no system call of that name
PROT_WRITE, PROT_EXEC = 2, 4


class Argument(ctypes.Structure):
    """struct scmp_arg_cmp of seccomp_rule_add(3)."""

    _fields_ = [
        ("index", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("value_two", ctypes.c_uint64),
    ]


def library():
    try:
        lib = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        sys.exit(f"seccomp.py: {error}; Debian: apt-get install libseccomp2")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = [ctypes.c_uint32]
    lib.seccomp_arch_exist.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    lib.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    lib.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(Argument),
    ]
    lib.seccomp_load.argtypes = [ctypes.c_void_p]
    return lib


def check(result, what):
    if result < 0:
        sys.exit(f"seccomp.py: {what}: {os.strerror(-result)}")


def action(name, number):
    value = ACTIONS[name]
    return value | (errno.EPERM if number is None else number) if "ERRNO" in name else value


def load(profile):
    lib = library()
    default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = lib.seccomp_init(default)
    for name in profile.get("architectures", []):
        if lib.seccomp_arch_exist(context, ARCHITECTURES[name]) != 0:
            check(lib.seccomp_arch_add(context, ARCHITECTURES[name]), name)
    for rule in profile["syscalls"]:
        wanted = action(rule["action"], rule.get("errnoRet"))
        if wanted == default:
            continue
        arguments = [
            Argument(
                argument["index"],
                OPERATORS[argument["op"].removeprefix("SCMP_CMP_")],
                argument["value"],
                argument.get("valueTwo", 0),
            )
            for argument in rule.get("args", [])
        ]
        array = (Argument * len(arguments))(*arguments)
        for name in rule["names"]:
            number = lib.seccomp_syscall_resolve_name(name.encode())
            # System calls that this libseccomp does not know stay forbidden, as with the runtimes.
            if number != UNKNOWN:
                added = lib.seccomp_rule_add_array(context, wanted, number, len(array), array)
                check(added, name)
    check(lib.seccomp_load(context), "seccomp_load")


def settings(unit):
    """The `name=value` lines of the unit, in order."""
    with open(unit, encoding="utf-8") as lines:
        pairs = (line.strip().split("=", 1) for line in lines if not line.startswith("#"))
        return [pair for pair in pairs if len(pair) == 2]


def call_sets():
    """systemd's sets of system calls: the members listed under each set's name."""
    command = ["systemd-analyze", "--no-pager", "syscall-filter"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sets, current = {}, None
    for line in listed.splitlines():
        word = line.strip()
        if line.startswith("@"):
            current = sets.setdefault(word, [])
        elif not line.startswith(" "):
            current = None  # the heading "# Ungrouped"; the calls below it are in no set
        elif current is not None and not word.startswith("#"):
            current.append(word)
    return sets


def members(name, sets):
    """The system calls that `name`, a system call or a set, stands for."""
    if not name.startswith("@"):
        return {name}
    return set().union(*(members(member, sets) for member in sets[name]))


def allowed(unit):
    """The system calls that SystemCallFilter= allows. An allow-list includes @default
    (systemd.exec(5))."""
    sets = call_sets()
    names = members("@default", sets)
    for value in (value for name, value in settings(unit) if name == "SystemCallFilter"):
        words = value.removeprefix("~").split()
        named = set().union(*(members(word, sets) for word in words))
        names = names - named if value.startswith("~") else names | named
    return names


def masked(index, mask):
    return [{"index": index, "op": "MASKED_EQ", "value": mask, "valueTwo": 0}]


def translate(unit):
    """Translates the settings of a unit into a profile."""
    values = dict(settings(unit))
    names = allowed(unit)
    rules = []
    if "RestrictAddressFamilies" in values:
        names.discard("socket")
        for family in values["RestrictAddressFamilies"].split():
            number = int(getattr(socket, family))
            is_family = [{"index": 0, "op": "EQ", "value": number}]
            rules.append({"names": ["socket"], "args": is_family})
    if values.get("MemoryDenyWriteExecute") == "yes":
        names -= {"mmap", "mprotect", "pkey_mprotect"}
        rules.append({"names": ["mmap"], "args": masked(2, PROT_WRITE)})
        rules.append({"names": ["mmap"], "args": masked(2, PROT_EXEC)})
        rules.append({"names": ["mprotect", "pkey_mprotect"], "args": masked(2, PROT_EXEC)})
    rules.append({"names": sorted(names)})
    number = getattr(errno, values["SystemCallErrorNumber"])
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": number,
        "syscalls": [rule | {"action": "SCMP_ACT_ALLOW"} for rule in rules],
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("profile")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.profile.endswith(".service"):
        profile = translate(options.profile)
    else:
        with open(options.profile, encoding="utf-8") as file:
            profile = json.load(file)
    for name in options.without:
        holders = [rule["names"] for rule in profile["syscalls"] if name in rule["names"]]
        if not holders:
            sys.exit(f"seccomp.py: {name} is not in {options.profile}")
        for names in holders:
            names.remove(name)
    if options.kill:
        profile["defaultAction"] = "SCMP_ACT_KILL_PROCESS"
    load(profile)
    os.execvp(options.program[0], options.program)


main()
