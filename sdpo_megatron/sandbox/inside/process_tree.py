"""The accounting supervisor: CPU time, memory and number of all processes below one, from /proc.

Used where cgroups are missing and for limits that no kernel counter covers (CPU time of a whole
tree). It samples, so a tree can pass its limit for one interval before it is killed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MAX_VISITED = 4096


@dataclass
class Usage:
    """Over a tree: CPU seconds (reaped children included), private memory in bytes, number of
    processes; and the longest time that one of them was ready to run but had to wait, in seconds.
    """

    cpu_s: float = 0.0
    memory: int = 0
    processes: int = 0
    waited_s: float = 0.0


def usage(proc_fd: int, root: int) -> Usage:
    """Adds up `root` and its descendants. Orphans stay in the tree because root is their
    namespace's init or a subreaper."""
    total = Usage()
    for pid in descendants(proc_fd, root):
        try:
            fields = _read(proc_fd, f"{pid}/stat").rpartition(")")[2].split()
            memory = _read(proc_fd, f"{pid}/statm").split()
        except OSError:
            continue
        total.processes += 1
        total.waited_s = max(total.waited_s, _waited(proc_fd, pid))
        total.cpu_s += sum(map(int, fields[11:15])) / _TICK  # utime, stime, cutime, cstime
        total.memory += (
            int(memory[1]) - int(memory[2])
        ) * _PAGE  # resident minus file-backed and shared
    return total


def _waited(proc_fd: int, pid: int) -> float:
    try:
        return int(_read(proc_fd, f"{pid}/schedstat").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):  # a kernel without scheduler statistics
        return 0.0


def descendants(proc_fd: int, root: int) -> list[int]:
    """`root` and everything below it, at most 4096 processes."""
    found = [root]
    for pid in found:
        if len(found) > _MAX_VISITED:
            break
        try:
            for thread in _list(proc_fd, f"{pid}/task"):
                found += map(int, _read(proc_fd, f"{pid}/task/{thread}/children").split())
        except OSError:
            continue
    return found


def _list(proc_fd: int, path: str) -> list[str]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc_fd)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _read(proc_fd: int, path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    try:
        return os.read(fd, 65536).decode("ascii", "replace")
    finally:
        os.close(fd)
