"""How many cores this process may keep busy. Linux; standard library only."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["usable_cores"]

_QUOTA = Path(
    "/sys/fs/cgroup/cpu.max"
)  # of a container, seen from inside; absent on a whole machine


def usable_cores(quota: Path = _QUOTA) -> int:
    """Cores that the scheduler may run this process on, or fewer where a container's CPU limit
    allows fewer; at least 1.

    Args:
        quota: The cgroup's cpu.max: "microseconds period", or "max period" for no limit.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        used, period = quota.read_text().split()
        limit = int(used) // int(period)
    except (OSError, ValueError):
        return cores
    return max(1, min(cores, limit))
