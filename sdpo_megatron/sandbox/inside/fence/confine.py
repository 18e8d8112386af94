"""What a freshly cloned child does to itself before it reads a byte that anybody else wrote.

Its template has already put on all that does not differ between runs (`settle`). The order matters:
mounts need capabilities, the uid change clears the parent-death signal, Landlock forbids mounts,
and the last filter forbids most of the rest.
"""

from __future__ import annotations

import math
import os
import resource
import signal
from dataclasses import dataclass, field

from . import landlock, linux, seccomp, view

CHANNEL_FD, RPC_FD = 3, 4
# Exit code of an attempt whose allocation was refused: the same end as being killed for memory,
# whichever limit came first. Used for words only; any program may exit with it.
OUT_OF_MEMORY = 90
FAILED = 91  # exit code of a role that could not go on, e.g. because its channel was closed
_INTERPRETER_BYTES = 256 << 20  # address space mapped before the program starts


@dataclass(frozen=True)
class Limits:
    """Limits of one run: seconds, MiB, counts; the memory and the processes of the whole tree."""

    wall_s: float
    cpu_s: float
    memory_mib: int
    processes: int
    tmp_mib: int
    open_files: int


@dataclass
class Fence:
    """What a template found out once and each of its children applies.

    Attributes:
        layers: Names of the active layers.
        run_flags: Namespaces that each run gets, as flags of clone.
        landlock_abi: 0 when Landlock is off.
        readable: Landlock rules: (descriptor, rights).
        entrances: Descriptors of cgroup.procs of the cgroups that the attempt enters.
        last_filter: What each run installs last; b"" when it depends on the run's pid.
        choose_uid: Each run gets the uid it is told; else it keeps the template's.
    """

    layers: tuple[str, ...] = ()
    run_flags: int = 0
    landlock_abi: int = 0
    readable: list[tuple[int, int]] = field(default_factory=list)
    entrances: list[int] = field(default_factory=list)
    last_filter: bytes = b""
    choose_uid: bool = False


@dataclass(frozen=True)
class Child:
    """One child to be: what it plays, its limits, its descriptors (they become 0, 1, 2 ...), the
    uid it takes, and the folder it owns ("" for none)."""

    role: str
    limits: Limits
    fds: tuple[int, ...]
    uid: int
    tmp: str


def settle(fence: Fence) -> None:
    """Puts on, for good and for all children, what is the same in every run."""
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    if "rlimits" in fence.layers:
        for name, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
            (resource.RLIMIT_SIGPENDING, 64),
            (resource.RLIMIT_STACK, 64 << 20),
        ):
            _lower(name, value)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    if "seccomp" in fence.layers:
        seccomp.install(seccomp.program(linux.MACHINE))
        if "pid" in fence.layers:
            fence.last_filter = seccomp.last_program(linux.MACHINE)


def confine(fence: Fence, child: Child, status_fd: int) -> int:
    """Locks this process in; returns where `status_fd` is then: behind the child's descriptors.

    Raises:
        OSError: A layer that was promised cannot be applied; the caller must then not run.
    """
    if child.role == "attempt":
        for fd in fence.entrances:
            os.write(fd, b"0")
    uid = child.uid if fence.choose_uid else os.getuid()
    if "mount" in fence.layers:
        view.private_tmp(child.limits.tmp_mib, uid, uid)
    if fence.run_flags & linux.NAMESPACES["uts"]:
        linux.call("sethostname", b"sandbox", 7)
    if fence.choose_uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
    os.chdir(child.tmp or "/")
    os.setsid()
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if fence.landlock_abi:
        _apply_landlock(fence, child.tmp)
    placed = place_descriptors([*child.fds, status_fd])
    if "rlimits" in fence.layers:
        _set_limits(child.limits)
    if "seccomp" in fence.layers:
        own = fence.last_filter or seccomp.last_program(linux.MACHINE, os.getpid())
        seccomp.install(own)
    return placed


def _apply_landlock(fence: Fence, tmp: str) -> None:
    writable = [os.open(tmp, os.O_PATH | os.O_CLOEXEC)] if tmp else []
    landlock.restrict(fence.readable, writable, fence.landlock_abi)


def place_descriptors(fds: list[int]) -> int:
    """Moves `fds` to 0, 1, 2 ..., closes everything else, returns the number of the last."""
    high = [os.dup2(fd, 200 + at, inheritable=False) for at, fd in enumerate(fds)]
    for at, fd in enumerate(high):
        os.dup2(fd, at, inheritable=at < 3)
    linux.close_all_except(set(range(len(high))))
    return len(high) - 1


def _set_limits(limits: Limits) -> None:
    """Per-process rlimits; the totals of a tree are the cgroup's or the accounting supervisor's."""
    cpu = math.ceil(limits.cpu_s) + 1  # the supervisor is the first to notice, this the last resort
    _lower(resource.RLIMIT_CPU, cpu, cpu + 1)
    _lower(resource.RLIMIT_AS, (limits.memory_mib << 20) + _INTERPRETER_BYTES)
    _lower(resource.RLIMIT_FSIZE, limits.tmp_mib << 20)
    _lower(resource.RLIMIT_NOFILE, limits.open_files)
    _lower(resource.RLIMIT_NPROC, limits.processes)


def _lower(name: int, soft: int, hard: int | None = None) -> None:
    current = resource.getrlimit(name)[1]
    bound = soft if hard is None else hard
    if current != resource.RLIM_INFINITY:
        soft, bound = min(soft, current), min(bound, current)
    resource.setrlimit(name, (soft, bound))
