"""What a freshly forked child does to itself before it reads a byte that anybody else wrote.

The order matters: mounts need capabilities, the uid change clears the parent-death signal, Landlock
and seccomp need no_new_privs, and seccomp must come last because it forbids most of the rest.
"""

from __future__ import annotations

import math
import os
import resource
import signal
from dataclasses import dataclass, field

from . import landlock, linux, seccomp, view

INSIDE_ID = 1000  # uid and gid of the program as it sees itself
CHANNEL_FD, RPC_FD = 3, 4
# Exit code of an attempt whose allocation was refused: the same end as being killed for memory,
# whichever limit came first. Used for words only; any program may exit with it.
OUT_OF_MEMORY = 90


@dataclass(frozen=True)
class Limits:
    """Limits of one run: seconds, MiB, counts; `memory_mib` and `processes` are the tree's."""

    wall_s: float
    cpu_s: float
    memory_mib: int
    processes: int
    tmp_mib: int
    open_files: int


@dataclass
class Fence:
    """What a worker found out once and applies to each run.

    Attributes:
        layers: Names of the active layers, in the order in which they are reported.
        landlock_abi: 0 when Landlock is off.
        seccomp_code: The BPF program; empty when seccomp is off.
        readable: Landlock rules of the readable paths: (descriptor, rights).
        devices: Landlock rules of /dev/null and its kin.
        host_uid: First uid that runs may get on the host; 0 when uids cannot be chosen (ordinary
            user).
    """

    layers: tuple[str, ...] = ()
    landlock_abi: int = 0
    seccomp_code: bytes = b""
    readable: list[tuple[int, int]] = field(default_factory=list)
    devices: list[tuple[int, int]] = field(default_factory=list)
    host_uid: int = 0

    def namespace_flags(self) -> int:
        return sum(flag for name, flag in linux.NAMESPACES.items() if name in self.layers)


def confine(
    fence: Fence, limits: Limits, fds: list[int], status_fd: int, uid: int, tmp: str
) -> None:
    """Locks this process in. `fds` become stdin, stdout, stderr, channel and (for judged runs) rpc:
    0, 1, 2, 3, 4.

    `uid` is the id to take (inside the user namespace, or on the host without one; -1 keeps it),
    `tmp` the directory that the run owns. Raises OSError when a layer that was promised cannot be
    applied: the caller must then not run.
    """
    own = uid if uid >= 0 else os.getuid()
    if "mount" in fence.layers:
        view.private_tmp(limits.tmp_mib, own, own)
    if "uts" in fence.layers:
        linux.call("sethostname", b"sandbox", 7)
    if uid >= 0:
        if "user" not in fence.layers or fence.host_uid:
            os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.chdir(tmp)
    os.umask(0o077)
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    if fence.landlock_abi:
        tmp_fd = os.open(tmp, os.O_PATH | os.O_CLOEXEC)
        landlock.restrict([*fence.readable, *fence.devices], [tmp_fd], fence.landlock_abi)
    place_descriptors(fds, status_fd)
    if "rlimits" in fence.layers:
        set_limits(limits)
    if fence.seccomp_code:
        seccomp.install(fence.seccomp_code)


def place_descriptors(fds: list[int], status_fd: int) -> None:
    """Moves `fds` to 0.. and `status_fd` behind them, and closes everything else."""
    high = [os.dup2(fd, 200 + at, inheritable=False) for at, fd in enumerate([*fds, status_fd])]
    for at, fd in enumerate(high):
        os.dup2(fd, at, inheritable=at < 3)
    linux.close_all_except(set(range(len(high))))


def set_limits(limits: Limits) -> None:
    """Per-process rlimits; the totals of a tree are the cgroup's or the accounting supervisor's."""
    cpu = math.ceil(limits.cpu_s) + 1  # the supervisor is the first to notice, this the last resort
    interpreter = (
        256 << 20
    )  # address space that the interpreter and its libraries have mapped before the program starts
    for name, value in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, (limits.memory_mib << 20) + interpreter),
        (resource.RLIMIT_FSIZE, limits.tmp_mib << 20),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 64),
        (resource.RLIMIT_STACK, 64 << 20),
    ):
        hard = resource.getrlimit(name)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(name, (value, value))
