"""What a freshly cloned child does to itself before it reads a byte that anybody else wrote.

Its template has already put on all that does not differ between runs (`settle`), and has put down
the rest as system calls (`Confinement`). Their order matters: mounts need capabilities, the uid
change clears the parent-death signal, Landlock forbids mounts, and the last filter forbids most of
the rest.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import struct
from dataclasses import dataclass, field

from . import landlock, linux, seccomp, view
from .calls import Calls

CHANNEL_FD, RPC_FD = 3, 4
# Exit code of an attempt whose allocation was refused: the same end as being killed for memory,
# whichever limit came first. Used for words only; any program may exit with it.
OUT_OF_MEMORY = 90
FAILED = 91  # exit code of a role that could not go on, e.g. because its channel was closed
_INTERPRETER_BYTES = 256 << 20  # address space mapped before the program starts
_AT_FDCWD, _LAST_FD = -100, (1 << 32) - 1
_PATH_BYTES = 4096


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
        rules: Of Landlock, but for the run's own folder: (descriptor, rights).
        rules_writing: They are about writing only: the template itself may read no more than a run.
        entrances: Descriptors of cgroup.procs of the cgroups that the attempt enters.
        choose_uid: Each run gets the uid it is told; else it keeps the template's.
    """

    layers: tuple[str, ...] = ()
    run_flags: int = 0
    landlock_abi: int = 0
    rules: list[tuple[int, int]] = field(default_factory=list)
    rules_writing: bool = False
    entrances: list[int] = field(default_factory=list)
    choose_uid: bool = False


@dataclass(frozen=True)
class Descriptors:
    """Of a child to be: what becomes 0, 1, 2 ..., the status socket (it comes behind them), and
    the first number that is free."""

    sources: tuple[int, ...]
    status: int
    free: int


def settle(fence: Fence) -> None:
    """Puts on, for good and for all children, what is the same in every run."""
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    if fence.choose_uid:
        os.setgroups([])
    if "rlimits" in fence.layers:
        for name, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
            (resource.RLIMIT_SIGPENDING, 64),
            (resource.RLIMIT_STACK, 64 << 20),
        ):
            resource.setrlimit(name, _at_most(name, value, value))
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    if "seccomp" in fence.layers:
        seccomp.install(seccomp.program(linux.MACHINE))


class Confinement:
    """What children of one kind do to themselves; the uid and the folder of each are filled in.

    Attributes:
        placed: Where the status socket is once it is put on: behind the child's descriptors.
    """

    def __init__(
        self, fence: Fence, limits: Limits, fds: Descriptors, tmp: str, is_attempt: bool
    ) -> None:
        """`tmp` is the folder that they own, "" for none; `is_attempt` has them enter the
        cgroups."""
        self.placed = len(fds.sources)
        self._calls = calls = Calls()
        self._uid_calls: tuple[int, ...] = ()
        self._tmp, self._tmp_path = calls.hold_open(os.fsencode(tmp or "/"), _PATH_BYTES)
        self._tmp_owner: memoryview | None = None
        if is_attempt:
            for fd in fence.entrances:
                calls.add("write", fd, calls.hold(b"0"), 1, result=1)
        self._add_namespaces(fence, limits.tmp_mib)
        self._add_identity(fence)
        free = fds.free
        if fence.landlock_abi:
            free = self._add_landlock(fence, free, bool(tmp))
        for at, fd in enumerate((*fds.sources, fds.status)):
            calls.add("dup3", fd, at, 0 if at < 3 else os.O_CLOEXEC, result=at)
        self._add_closing(free)
        if "rlimits" in fence.layers:
            self._add_limits(limits)
        self._filters_late = "seccomp" in fence.layers and "pid" not in fence.layers
        if "seccomp" in fence.layers and not self._filters_late:
            seccomp.add(calls, seccomp.last_program(linux.MACHINE))

    def _add_namespaces(self, fence: Fence, tmp_mib: int) -> None:
        if fence.run_flags & linux.NAMESPACES["mount"]:
            self._tmp_owner = view.private_tmp(self._calls, tmp_mib, os.getuid())
        if fence.run_flags & linux.NAMESPACES["uts"]:
            self._calls.add("sethostname", self._calls.hold(b"sandbox"), 7)

    def _add_identity(self, fence: Fence) -> None:
        add, hold = self._calls.add, self._calls.hold
        if fence.choose_uid:
            self._uid_calls = add("setresgid"), add("setresuid")
            add("prctl", linux.PR_SET_DUMPABLE, 0)
        add("chdir", self._tmp)
        add("setpgid", 0, 0)
        add("capset", hold(linux.CAPSET_HEADER), hold(linux.NO_CAPABILITIES))
        add("prctl", linux.PR_SET_PDEATHSIG, int(signal.SIGKILL))

    def _add_landlock(self, fence: Fence, free: int, has_tmp: bool) -> int:
        """Returns the first descriptor that is free afterwards."""
        rules = fence.rules
        if has_tmp:
            flags = os.O_PATH | os.O_CLOEXEC
            self._calls.add("openat", _AT_FDCWD, self._tmp, flags, result=free)
            rules, free = [*rules, (free, landlock.READ_WRITE)], free + 1
        landlock.restrict(self._calls, rules, fence.landlock_abi, free, fence.rules_writing)
        return free + 1

    def _add_closing(self, behind: int) -> None:
        """Of all descriptors behind the child's own, up to the last that is open."""
        try:
            linux.call("close_range", behind, _LAST_FD, 0)
        except OSError:  # before Linux 5.9
            for fd in range(self.placed + 1, behind):
                self._calls.add("close", fd)
        else:
            self._calls.add("close_range", self.placed + 1, _LAST_FD, 0)

    def _add_limits(self, limits: Limits) -> None:
        """Per-process rlimits; the totals of a tree are the cgroup's or the accounting
        supervisor's."""
        # The supervisor is the first to notice, this the last resort.
        cpu = math.ceil(limits.cpu_s) + 1
        space = (limits.memory_mib << 20) + _INTERPRETER_BYTES
        size = limits.tmp_mib << 20
        for name, soft, hard in (
            (resource.RLIMIT_CPU, cpu, cpu + 1),
            (resource.RLIMIT_AS, space, space),
            (resource.RLIMIT_FSIZE, size, size),
            (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
            (resource.RLIMIT_NPROC, limits.processes, limits.processes),
        ):
            both = struct.pack("=2Q", *_at_most(name, soft, hard))
            self._calls.add("prlimit64", 0, name, self._calls.hold(both), 0)

    def fill_in(self, uid: int, folder: str) -> None:
        """For the next child: the uid that it takes, and the folder that it owns ("" where that is
        the same for all)."""
        for place in self._uid_calls:
            self._calls.replace(place, uid, uid, uid)
        if self._uid_calls and self._tmp_owner is not None:
            self._tmp_owner[:] = view.ownership(uid)
        if folder:
            path = os.fsencode(folder) + b"\0"
            self._tmp_path[: len(path)] = path

    def put_on(self) -> None:
        """Locks this process in.

        Raises:
            OSError: A layer that was promised cannot be applied; the caller must then not run.
        """
        self._calls.carry_out()
        if self._filters_late:
            seccomp.install(seccomp.last_program(linux.MACHINE, os.getpid()))


def _at_most(name: int, soft: int, hard: int) -> tuple[int, int]:
    """Neither above the hard limit that holds now."""
    current = resource.getrlimit(name)[1]
    if current == resource.RLIM_INFINITY:
        return soft, hard
    return min(soft, current), min(hard, current)
