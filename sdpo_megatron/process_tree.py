"""What this process starts, and what becomes of it when this process ends. Linux only.

Standard library only: the engines' guardian runs it without site-packages. The sandbox has its own
(sandbox/inside), which reads a /proc that the programs it watches cannot see.
"""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ["adopt_orphans", "descendants", "die_with_parent"]

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)  # before any fork: dlopen in a child could deadlock


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends; an exec keeps it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def descendants(root: int) -> list[int]:
    """Ids of the processes below `root` that run, in no order; those that end meanwhile may be
    among them.
    """
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
            except OSError:
                continue
            if state != b"Z":
                children.setdefault(int(parent), []).append(int(entry))
    found, frontier = [], [root]
    while frontier:
        below = children.get(frontier.pop(), [])
        found += below
        frontier += below
    return found
