"""Memory of a run: this process, its fellow ranks, and everything that they started."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

__all__ = ["MemoryUse", "measure"]


@dataclass(frozen=True)
class MemoryUse:
    """Bytes held now.

    Attributes:
        own_bytes: Of the process that asks.
        all_bytes: Of the root process and all its descendants on this machine.
        num_processes: How many that is.
        shared_counted_once: True when every figure is a PSS (a page shared by n processes counts
            1/n in each); False when at least one is an RSS, which counts shared pages in full.
    """

    own_bytes: int
    all_bytes: int
    num_processes: int
    shared_counted_once: bool


def measure(root: int | None = None) -> MemoryUse:
    """Memory of this process, and of the tree under process `root`.

    Args:
        root: Process id; None: the launcher of the ranks where this process is a rank (torchrun
            and `sdpo train` set LOCAL_WORLD_SIZE), else this process.

    Processes that end meanwhile are left out. An engine that was started in a session of its own
    is still a descendant; one that is given by URL is not, and is not counted.
    """
    if root is None:
        root = os.getppid() if "LOCAL_WORLD_SIZE" in os.environ else os.getpid()
    top = psutil.Process(root)
    total, count, exact = 0, 0, True
    for process in (top, *top.children(recursive=True)):
        try:
            size, is_pss = _size(process)
        except psutil.NoSuchProcess:
            continue
        total, count, exact = total + size, count + 1, exact and is_pss
    return MemoryUse(_size(psutil.Process())[0], total, count, exact)


def _size(process: psutil.Process) -> tuple[int, bool]:
    """(bytes, whether they are a PSS)."""
    try:
        return int(process.memory_full_info().pss), True
    except (psutil.AccessDenied, AttributeError):  # another user's process; not Linux
        return int(process.memory_info().rss), False
