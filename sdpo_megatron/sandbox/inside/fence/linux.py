"""The few Linux calls that Python 3.11 does not wrap, by number through libc's `syscall`.

Every wrapper raises OSError with errno and the call's name. The interpreter lock is kept during the
calls (PyDLL), so a clone'd child never sees a lock held by another thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct

MACHINE = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}.get(
    os.uname().machine, ""
)
_LIBC = ctypes.PyDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
# For calls of plain numbers only, their own and six more; see `calls`.
SYSCALL = _LIBC["syscall"]
SYSCALL.restype, SYSCALL.argtypes = ctypes.c_long, (ctypes.c_long,) * 7

# number on x86_64, number on aarch64 (arch/x86/entry/syscalls/syscall_64.tbl,
# include/uapi/asm-generic/unistd.h)
_NUMBERS = {
    "write": (1, 64),
    "close": (3, 57),
    "recvmsg": (47, 212),
    "openat": (257, 56),
    "dup3": (292, 24),
    "chdir": (80, 49),
    "setpgid": (109, 154),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "prlimit64": (302, 261),
    "clone": (56, 220),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "prctl": (157, 167),
    "capset": (126, 91),
    "sethostname": (170, 161),
    "seccomp": (317, 277),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "close_range": (436, 436),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}

_NONE = (0,) * 6
_CLONE, _SIGCHLD = _NUMBERS["clone"][MACHINE == "aarch64"], int(signal.SIGCHLD)
NAMESPACES = {
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "mount": 0x00020000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
}
CLONE_PARENT = 0x8000
# Effective, permitted and inheritable sets. Under no_new_privs an exec grants nothing, so the
# bounding set (41 more calls) does not matter.
CAPSET_HEADER, NO_CAPABILITIES = struct.pack("=Ii", 0x20080522, 0), bytes(24)
CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN = 6, 7, 21

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
AT_RECURSIVE = 0x8000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38


def number(name: str) -> int:
    """A system call's number. Raises OSError on a machine whose numbers are not known."""
    if not MACHINE:
        raise OSError(38, f"{name}: no system-call numbers for {os.uname().machine}")
    return _NUMBERS[name][MACHINE == "aarch64"]


def name_of(found: int) -> str:
    """Inverse of `number`."""
    return next(name for name in _NUMBERS if number(name) == found)


def call(name: str, *arguments: object) -> int:
    """Invokes a system call by name; bytes are passed as pointers."""
    if all(type(a) is int for a in arguments):
        result: int = SYSCALL(number(name), *arguments, *_NONE[len(arguments) :])
    else:
        wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        result = _LIBC.syscall(ctypes.c_long(number(name)), *wide)
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{name}: {os.strerror(errno)}")
    return result


def clone(flags: int) -> int:
    """fork() with namespaces in one call: the child's pid in the parent, 0 in the child.

    Only for a process of one thread, which holds no lock: nothing is put right in the child, as
    os.fork() would, and no function given to os.register_at_fork is called (those that the standard
    library has given copy a hundred pages).
    """
    pid: int = SYSCALL(_CLONE, flags | _SIGCHLD, 0, 0, 0, 0, 0)
    if pid < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"clone: {os.strerror(errno)}")
    return pid


def capabilities() -> set[int]:
    """Numbers of this process's effective capabilities."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return {number for number in range(64) if mask >> number & 1}


def open_at(folder_fd: int, path: str, flags: int = os.O_RDONLY) -> int:
    """Opens `path` below an open directory."""
    return os.open(path, flags | os.O_CLOEXEC, dir_fd=folder_fd)


def read_at(folder_fd: int, path: str) -> str:
    """What a file of the kernel's (/proc, a cgroup) says; at most 64 KiB."""
    fd = open_at(folder_fd, path)
    try:
        return os.read(fd, 65536).decode("ascii", "replace")
    finally:
        os.close(fd)


def write_at(folder_fd: int, path: str, text: str) -> None:
    fd = open_at(folder_fd, path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    try:
        call(
            "mount",
            source.encode(),
            target.encode(),
            kind.encode(),
            flags,
            data.encode() if data else None,
        )
    except OSError as error:
        raise OSError(
            error.errno, f"mount {kind} {source} on {target}: {os.strerror(error.errno or 0)}"
        ) from None


class _MountAttributes(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")
    ]


def change_mount(target: str, add: int = 0, remove: int = 0, recursive: bool = False) -> None:
    """Adds or removes MS_RDONLY and MS_NOSUID on a mount (or a tree), keeping flags that a user
    namespace has locked."""
    attributes = _MountAttributes(add, remove, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    call(
        "mount_setattr",
        -100,
        target.encode(),
        flags,
        ctypes.byref(attributes),
        ctypes.sizeof(attributes),
    )


def prctl(option: int, argument: int) -> None:
    call("prctl", option, argument, 0, 0, 0)


def pidfd_open(pid: int) -> int:
    """A descriptor of a process, closed on exec."""
    return call("pidfd_open", pid, 0)


def pidfd_kill(pidfd: int) -> None:
    """SIGKILL through a pidfd: never hits a recycled pid. Silent when the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        call("pidfd_send_signal", pidfd, int(signal.SIGKILL), 0, 0)


def close_all_except(keep: set[int]) -> None:
    """Closes every descriptor but those in `keep`."""
    first = 0
    for fd in [*sorted(keep), 1 << 20]:
        if fd > first:
            try:
                call("close_range", first, fd - 1, 0)
            except OSError:
                os.closerange(first, min(fd, 65536))
        first = fd + 1
