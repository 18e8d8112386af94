"""What ended a process, from its status: which limit, or none."""

from __future__ import annotations

import os
import signal

from .fence.confine import OUT_OF_MEMORY, Limits

_NEARLY = 0.9  # of the CPU limit: the kernel's own count differs a little from ours


def is_kill(status: int) -> bool:
    """Whether SIGKILL or SIGXCPU ended it: what the kernel sends at its limits."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU)


def limit_behind(status: int, cpu_s: float, limits: Limits) -> str:
    """ "memory" for an allocation that was refused, "cpu_time" for the kernel's CPU limit, else "".

    Whether the kernel's out-of-memory killer was at work, only the cgroup knows.
    """
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == OUT_OF_MEMORY:
        return "memory"
    return "cpu_time" if is_kill(status) and cpu_s >= _NEARLY * limits.cpu_s else ""


def of_judge(status: int, cpu_s: float, limits: Limits, was_alive: bool, late: bool) -> str:
    """What ended a judge before its time: a limit by name, "died", or "" when it ended by itself
    or because the run was over for another reason."""
    if was_alive:
        return "wall_time" if late else ""
    by_itself = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    return limit_behind(status, cpu_s, limits) or ("" if by_itself else "died")
