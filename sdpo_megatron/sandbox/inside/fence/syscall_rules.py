"""Which arguments the allowed system calls may have, and which calls only pretend to work.

A rule is a list of tests that must all hold. Only numbers can be tested: what an argument points to
can change after the test.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Test:
    """`argument & mask` is one of `values` (or none of them, with `negate`); compares the low 32
    bits, and with `wide` the high ones must be 0."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    wide: bool = False
    negate: bool = False


def only_bits(argument: int, allowed: int) -> Test:
    """No bit but the allowed ones is set."""
    return Test(argument, (0,), mask=~allowed & 0xFFFFFFFF)


# fork, vfork, posix_spawn and threads. Not CLONE_PARENT (a child that is nobody's in the tree),
# CLONE_PTRACE, or any namespace.
_CLONE = only_bits(
    0,
    0xFF  # the signal at its end
    | 0x100  # VM
    | 0x200  # FS
    | 0x400  # FILES
    | 0x800  # SIGHAND
    | 0x4000  # VFORK
    | 0x10000  # THREAD
    | 0x40000  # SYSVSEM
    | 0x80000  # SETTLS
    | 0x100000  # PARENT_SETTID
    | 0x200000  # CHILD_CLEARTID
    | 0x400000  # DETACHED
    | 0x1000000,  # CHILD_SETTID
)
# Names, and questions. Not the parent-death signal, nor being dumpable, nor adopting orphans.
_PRCTL = Test(0, (2, 3, 15, 16, 21, 23, 39))
CHILD_RULES = {"clone": (_CLONE,), "prctl": (_PRCTL,)}

RULES: dict[str, tuple[Test, ...]] = {
    # Anonymous shared memory and huge pages are in no per-process account.
    "mmap": (Test(3, (0, 0x1, 0x20), mask=0x40000 | 0x20 | 0x1),),
    # NORMAL .. DONTNEED, FREE, (NO)HUGEPAGE, guard pages. Not MERGEABLE, COLD, PAGEOUT: those
    # change pages that runs share.
    "madvise": (Test(2, (0, 1, 2, 3, 4, 8, 14, 15, 102, 103)),),
    # A parent that ignores SIGCHLD loses the CPU time of its dead children.
    "rt_sigaction": (Test(0, (int(signal.SIGCHLD),), negate=True),),
    # DUPFD, descriptor and status flags, DUPFD_CLOEXEC, GETPIPE_SZ. Not locks, leases, owners,
    # SETPIPE_SZ.
    "fcntl": (Test(1, (0, 1, 2, 3, 4, 1030, 1032)),),
    # Terminal size and attributes, non-blocking, close-on-exec, bytes waiting. Not TIOCSTI.
    "ioctl": (Test(1, (0x5401, 0x5413, 0x5421, 0x5450, 0x5451, 0x541B)),),
    # Connected Unix streams only; datagrams can be sent to any name.
    "socketpair": (Test(0, (1,)), Test(1, (1,), mask=~0x80800 & 0xFFFFFFFF), Test(2, (0,))),
    "sendto": (Test(4, (0,), wide=True), Test(5, (0,))),
    # TYPE, ERROR, SNDBUF, RCVBUF, ACCEPTCONN, PROTOCOL, DOMAIN. Not PEERCRED, PEERPIDFD, PEERSEC.
    "getsockopt": (Test(1, (1,)), Test(2, (3, 4, 7, 8, 30, 38, 39))),
    # A process group of its own, not that of another run or of the machinery.
    "setpgid": (Test(1, (0,)),),
    # Of the caller only.
    "prlimit64": (Test(0, (0,)),),
    "sched_setaffinity": (Test(0, (0,)),),
}

# They return 0 and do nothing: the disk is the host's, and a run's files do not outlive it.
PRETENDED = ("fsync", "fdatasync", "msync", "fadvise64")
# libc falls back to clone, whose flags can be tested.
UNKNOWN = ("clone3",)
# Without a pid namespace a program may signal itself only.
SIGNALLING = ("kill", "tgkill", "rt_sigqueueinfo")
