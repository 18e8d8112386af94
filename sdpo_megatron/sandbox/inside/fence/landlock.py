"""Landlock: the kernel's per-process allow-list of paths, ports and signals.

Needs no privilege (Linux 5.13).
"""

from __future__ import annotations

import os
import struct

from . import linux
from .calls import Calls

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
READ = _READ_FILE | _READ_DIR
READ_WRITE_FILE = READ | _WRITE_FILE
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_FROM_ABI_5 = (1 << 16) - 1  # + ioctl on devices
# make_char, make_block, make_sock, make_fifo stay forbidden even inside the run's own directory
READ_WRITE = (
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


_RULESET = struct.Struct("=3Q")  # struct landlock_ruleset_attr: files, network, scopes
_PATH_RULE = struct.Struct("=Qi")  # struct landlock_path_beneath_attr: rights, descriptor


def abi() -> int:
    """Landlock's ABI version. Raises OSError when the kernel has none or it is switched off."""
    return linux.call("landlock_create_ruleset", 0, 0, 1)


def _file_rights(version: int) -> int:
    return _FILE_RIGHTS.get(version, _ALL_FROM_ABI_5)


def restrict(
    calls: Calls,
    rules: list[tuple[int, int]],
    version: int,
    free: int,
    only_writing: bool = False,
) -> None:
    """Adds what confines a process and all that it will fork, for good.

    `rules` holds (directory or file descriptor, rights): what is not allowed by a rule is denied,
    with `only_writing` as far as it changes anything. `free` is the first descriptor that will not
    be in use. TCP (ABI 4), abstract sockets and signals to outside (ABI 6) are denied wherever the
    kernel can. Needs no_new_privs set before.
    """
    handled = _file_rights(version)
    if only_writing:
        handled &= ~(_EXECUTE | READ)
    network, scoped = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = calls.hold(_RULESET.pack(handled, network, scoped))
    calls.add("landlock_create_ruleset", ruleset, size, 0, result=free)
    for fd, rights in rules:
        if rights & handled:
            rule = calls.hold(_PATH_RULE.pack(rights & handled, fd))
            calls.add("landlock_add_rule", free, 1, rule, 0)
    calls.add("landlock_restrict_self", free, 0)


def open_rule(path: str, rights: int) -> tuple[int, int]:
    """A rule for `path`, opened now so that it can be applied after the path is out of sight."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    return fd, rights if os.path.isdir(path) else rights & ~_READ_DIR
