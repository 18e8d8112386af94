"""The accounting supervisor: CPU time, memory and number of all processes below one, from /proc.

Used where cgroups are missing. It samples, so a tree can pass its limit for one interval before it
is killed. No CPU time is lost between samples: a dead child stays in sight until somebody in the
tree waits for it, and is then in that one's account (seccomp keeps SIGCHLD from being ignored).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from dataclasses import dataclass

from .fence import linux

_TICK = os.sysconf("SC_CLK_TCK")
_MAX_VISITED = 4096
# Anonymous, shared anonymous and swapped-out memory: all that a program fills itself.
_MEMORY = re.compile(r"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", re.M)
_OWNER = re.compile(r"^Uid:\s+(\d+)", re.M)
_THREADS = re.compile(r"^Threads:\s+(\d+)$", re.M)


@dataclass
class Usage:
    """Over a tree: CPU seconds (reaped children included), memory in bytes, number of processes
    and threads; and the longest time that one of them was ready to run but had to wait, in seconds.
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
            fields = linux.read_at(proc_fd, f"{pid}/stat").rpartition(")")[2].split()
            status = linux.read_at(proc_fd, f"{pid}/status")
        except OSError:
            continue
        threads = _THREADS.search(status)
        total.processes += int(threads.group(1)) if threads else 1
        total.waited_s = max(total.waited_s, _waited(proc_fd, pid))
        total.cpu_s += sum(map(int, fields[11:15])) / _TICK  # utime, stime, cutime, cstime
        total.memory += sum(int(kib) << 10 for kib in _MEMORY.findall(status))
    return total


def _waited(proc_fd: int, pid: int) -> float:
    try:
        return int(linux.read_at(proc_fd, f"{pid}/schedstat").split()[1]) / 1e9
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
                children = linux.read_at(proc_fd, f"{pid}/task/{thread}/children")
                found += map(int, children.split())
        except OSError:
            continue
    return found


def tasks_of(proc_fd: int, uid: int) -> int:
    """Processes and threads of a user, as far as they are in sight."""
    count = 0
    for name in _list(proc_fd, "."):
        if name.isdigit():
            with contextlib.suppress(OSError):
                status = linux.read_at(proc_fd, f"{name}/status")
                owner, threads = _OWNER.search(status), _THREADS.search(status)
                if owner and threads and int(owner.group(1)) == uid:
                    count += int(threads.group(1))
    return count


def kill_strays(proc_fd: int, keep: frozenset[int] = frozenset()) -> float:
    """Kills and reaps this process's descendants, except the children in `keep` and theirs.

    For a subreaper, to whom orphans come. Returns the CPU seconds of those it reaped.
    """
    cpu_s = 0.0
    for _ in range(1000):
        kept = {pid for root in keep for pid in descendants(proc_fd, root)}
        strays = [pid for pid in descendants(proc_fd, os.getpid())[1:] if pid not in kept]
        if not strays:
            break
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in strays:
            with contextlib.suppress(ChildProcessError):
                done, _, used = os.wait4(pid, os.WNOHANG)
                cpu_s += used.ru_utime + used.ru_stime if done else 0.0
        time.sleep(0.001)
    return cpu_s


def _list(proc_fd: int, path: str) -> list[str]:
    fd = linux.open_at(proc_fd, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)
