"""Memory of a run: this process and everything that it started."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

__all__ = ["MemoryUse", "measure"]


@dataclass(frozen=True)
class MemoryUse:
    """Bytes held now.

    Attributes:
        rank0_bytes: Of the process that measures.
        all_bytes: Of it and all its descendants on this machine.
        num_processes: How many that is.
        shared_counted_once: True when every figure is a PSS (a page shared by n processes counts
            1/n in each); False when at least one is an RSS, which counts shared pages in full.
    """

    rank0_bytes: int
    all_bytes: int
    num_processes: int
    shared_counted_once: bool


def measure(pid: int | None = None) -> MemoryUse:
    """Memory of process `pid` (default: this one) and of its descendants.

    Processes that end meanwhile are left out. An engine that was started in a session of its own
    is still a descendant; one that is given by URL is not, and is not counted.
    """
    root = psutil.Process(pid)
    own, exact = _memory(root)
    total, count = own, 1
    for child in root.children(recursive=True):
        try:
            size, is_pss = _memory(child)
        except psutil.NoSuchProcess:
            continue
        total, count, exact = total + size, count + 1, exact and is_pss
    return MemoryUse(own, total, count, exact)


def _memory(process: psutil.Process) -> tuple[int, bool]:
    """(bytes, whether they are a PSS)."""
    try:
        return int(process.memory_full_info().pss), True
    except (psutil.AccessDenied, AttributeError):  # another user's process; not Linux
        return int(process.memory_info().rss), False
