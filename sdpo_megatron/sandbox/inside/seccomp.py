"""A seccomp filter, assembled by hand: an allow-list of system calls.

Arguments are checked where they matter.
"""

from __future__ import annotations

import ctypes
import struct

from . import linux
from .syscall_table import table

_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER_AT, _ARCH_AT, _ARGUMENT_0_AT, _ARGUMENT_1_AT = (
    0,
    4,
    16,
    24,
)  # struct seccomp_data, little-endian halves

_NEW_NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
# terminal size and attributes, non-blocking, close-on-exec, bytes waiting: never TIOCSTI (typing
# into the terminal)
_IOCTLS = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451, 0x541B)
_SPECIAL = ("clone", "clone3", "ioctl", "execve")


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _argument_check(number: int, check: list[bytes]) -> list[bytes]:
    return [_op(_JUMP_EQUAL, number, 0, len(check)), *check]


def program(machine: str, allow_exec: bool = False) -> bytes:
    """The filter as BPF instructions (8 bytes each). KeyError for an unknown machine.

    A foreign architecture (32-bit or x32 calls) kills the process; a call that is not listed fails
    with EPERM, clone3 with ENOSYS so that libc falls back to clone, whose flags can be inspected.
    """
    numbers, arch = table(machine)
    code = [
        _op(_LOAD, _ARCH_AT),
        _op(_JUMP_EQUAL, arch, 1, 0),
        _op(_RETURN, _KILL_PROCESS),
        _op(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        code += [_op(_JUMP_GREATER_EQUAL, 0x40000000, 0, 1), _op(_RETURN, _KILL_PROCESS)]
    for name, number in sorted(numbers.items(), key=lambda pair: pair[1]):
        if name not in _SPECIAL or (name == "execve" and allow_exec):
            code += [_op(_JUMP_EQUAL, number, 0, 1), _op(_RETURN, _ALLOW)]
    code += _argument_check(
        numbers["clone"],
        [
            _op(_LOAD, _ARGUMENT_0_AT),
            _op(_JUMP_ANY_BIT, _NEW_NAMESPACE_FLAGS, 0, 1),
            _op(_RETURN, _ERRNO | _EPERM),
            _op(_RETURN, _ALLOW),
        ],
    )
    ioctl = [_op(_LOAD, _ARGUMENT_1_AT)]
    for command in _IOCTLS:
        ioctl += [_op(_JUMP_EQUAL, command, 0, 1), _op(_RETURN, _ALLOW)]
    code += _argument_check(numbers["ioctl"], [*ioctl, _op(_RETURN, _ERRNO | _EPERM)])
    code += _argument_check(numbers["clone3"], [_op(_RETURN, _ERRNO | _ENOSYS)])
    code.append(_op(_RETURN, _ERRNO | _EPERM))
    return b"".join(code)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install(code: bytes) -> None:
    """Applies the filter to this process and all it will fork, for good.

    Needs no_new_privs set before.
    """
    linux.call("seccomp", 1, 0, ctypes.byref(_Program(len(code) // 8, code)))
