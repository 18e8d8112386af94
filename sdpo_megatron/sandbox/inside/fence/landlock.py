"""Landlock: the kernel's per-process allow-list of paths, ports and signals.

Needs no privilege (Linux 5.13).
"""

from __future__ import annotations

import ctypes
import os

from . import linux

_WRITE_FILE, _READ_FILE, _READ_DIR = 2, 4, 8
READ = _READ_FILE | _READ_DIR
READ_WRITE_FILE = READ | _WRITE_FILE
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_FROM_ABI_5 = (1 << 16) - 1  # + ioctl on devices
# make_char, make_block, make_sock, make_fifo stay forbidden even inside the run's own directory
_READ_WRITE = (
    _WRITE_FILE
    | READ
    | (1 << 4)
    | (1 << 5)
    | (1 << 7)
    | (1 << 8)
    | (1 << 12)
    | (1 << 13)
    | (1 << 14)
)


class _Ruleset(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def abi() -> int:
    """Landlock's ABI version. Raises OSError when the kernel has none or it is switched off."""
    return linux.call("landlock_create_ruleset", 0, 0, 1)


def _file_rights(version: int) -> int:
    return _FILE_RIGHTS.get(version, _ALL_FROM_ABI_5)


def restrict(readable: list[tuple[int, int]], writable: list[int], version: int) -> None:
    """Confines this process and all it will fork, for good.

    `readable` holds (directory or file descriptor, rights); `writable` descriptors of directories
    for reading and writing. TCP (ABI 4), abstract sockets and signals to outside (ABI 6) are denied
    wherever the kernel can. Needs no_new_privs set before.
    """
    handled = _file_rights(version)
    ruleset = _Ruleset(handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset_fd = linux.call("landlock_create_ruleset", ctypes.byref(ruleset), size, 0)
    try:
        for fd, rights in [*readable, *((fd, _READ_WRITE) for fd in writable)]:
            rule = _PathRule(rights & handled, fd)
            linux.call("landlock_add_rule", ruleset_fd, 1, ctypes.byref(rule), 0)
        linux.call("landlock_restrict_self", ruleset_fd, 0)
    finally:
        os.close(ruleset_fd)


def open_rule(path: str, rights: int) -> tuple[int, int]:
    """A rule for `path`, opened now so that it can be applied after the path is out of sight."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    return fd, rights if os.path.isdir(path) else rights & ~_READ_DIR
