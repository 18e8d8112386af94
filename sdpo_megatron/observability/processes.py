"""Memory of a run: this process, its fellow ranks, and everything that they started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["MemoryUse", "limit_bytes", "measure"]

# Of the cgroup that this process lives in, as a container sees it: version 2, then version 1.
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


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


def limit_bytes(cgroup_limits: Sequence[str] = _CGROUP_LIMITS) -> int:
    """Bytes that all processes here may hold together: the least of the container's limit and the
    machine's memory.
    """
    limits = [int(psutil.virtual_memory().total)]
    for file in cgroup_limits:
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # another version of cgroups; "max"
            continue
    return min(limits)


def _size(process: psutil.Process) -> tuple[int, bool]:
    """(bytes, whether they are a PSS)."""
    try:
        return int(process.memory_full_info().pss), True
    except (psutil.AccessDenied, AttributeError):  # another user's process; not Linux
        return int(process.memory_info().rss), False
