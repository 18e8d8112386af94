"""Two ways to start a confined child: a clone of this interpreter, or bubblewrap and a new one.

This interpreter is pre-imported. Both ways end in the same place: descriptors 0 to 4 set, every
promised layer on, `main` of the attempt or of the judge. A child that cannot put a layer on says so
over its status pipe and runs nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from . import attempt, compare, judge, landlock, linux, rehearsal, seccomp
from .confine import INSIDE_ID, OUT_OF_MEMORY, RPC_FD, Fence, Limits, confine, set_limits
from .plain_data import receive_frame, send_frame

# Resolved at import: after the worker has entered its view, links outside of it lead nowhere.
_INTERPRETER = os.path.realpath(sys.executable)
_MOUNTED = "/.sandbox"
_MAINS: dict[str, Callable[[], None]] = {"attempt": attempt.main, "judge": judge.main}
TRUSTED_SCRIPTS = (compare.main, rehearsal.main)  # imported before the fork, run by name


@dataclass
class Child:
    """A running child. `status_fd` yields b"+" once it is confined, or why it could not be."""

    pid: int
    pidfd: int
    status_fd: int


def clone_child(
    role: str,
    fence: Fence,
    limits: Limits,
    fds: list[int],
    host_uid: int,
    tmp: str,
    proc_fd: int,
    adopt: Callable[[int], None],
) -> Child:
    """Clones this process into new namespaces.

    `adopt` is called with the pid before the child does anything.
    """
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    status_read, status_write = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = linux.clone(fence.namespace_flags())
    if pid == 0:
        _become(role, fence, limits, fds, status_write, go_read, go_write, host_uid, tmp)
    os.close(go_read)
    os.close(status_write)
    try:
        if "user" in fence.layers:
            _map_ids(proc_fd, pid, host_uid)
        adopt(pid)
        os.write(go_write, b"+")
    except OSError:
        linux.pidfd_kill(pidfd)
        os.waitpid(pid, 0)
        os.close(pidfd)
        os.close(status_read)
        raise
    finally:
        os.close(go_write)
    return Child(pid, pidfd, status_read)


def _become(
    role: str,
    fence: Fence,
    limits: Limits,
    fds: list[int],
    status_fd: int,
    go_read: int,
    go_write: int,
    host_uid: int,
    tmp: str,
) -> None:
    """The child's side: confine, then run the role. Never returns."""
    try:
        os.close(go_write)
        if os.read(go_read, 1) != b"+":
            os._exit(0)  # the worker died before it let us go
        uid = (INSIDE_ID if "user" in fence.layers else host_uid) if "uid" in fence.layers else -1
        if uid < 0 and "user" in fence.layers:
            uid = INSIDE_ID
        confine(fence, limits, fds, status_fd, uid, tmp)
        _run(role, len(fds))
    except BaseException as error:
        _report_failure(status_fd, len(fds), error)
    finally:
        os._exit(0)


def _run(role: str, status_fd: int) -> None:
    """Says that the fence is up, then runs. `status_fd` follows the placed descriptors."""
    os.write(status_fd, b"+")
    os.close(status_fd)
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    try:
        _MAINS[role]()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BaseException:  # a broken channel: the program closed it
        pass
    os._exit(0)


def _report_failure(*arguments: object) -> None:
    original, placed, error = arguments
    for fd in (original, placed):
        try:
            os.write(fd, f"{type(error).__name__}: {error}".encode())  # type: ignore[arg-type]
            return
        except OSError:
            continue


def _map_ids(proc_fd: int, pid: int, host_uid: int) -> None:
    """Writes the child's user namespace maps.

    They hold one id: INSIDE_ID, which is `host_uid` (or our own) outside.
    """
    outside_uid, outside_gid = (host_uid, host_uid) if host_uid else (os.getuid(), os.getgid())
    if not host_uid:
        _write(proc_fd, f"{pid}/setgroups", "deny")
    _write(proc_fd, f"{pid}/uid_map", f"{INSIDE_ID} {outside_uid} 1")
    _write(proc_fd, f"{pid}/gid_map", f"{INSIDE_ID} {outside_gid} 1")


def _write(proc_fd: int, path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def bubblewrap_child(
    role: str,
    fence: Fence,
    limits: Limits,
    fds: list[int],
    host_uid: int,
    bwrap: str,
    adopt: Callable[[int], None],
) -> Child:
    """Starts bubblewrap and in it a new interpreter that runs `inside.launch.main`.

    The view must hold both.
    """
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    status_read, status_write = os.pipe2(os.O_CLOEXEC)
    setup_read, setup_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go_write)
            if os.read(go_read, 1) == b"+":
                _exec_bubblewrap(
                    role, fds, status_write, setup_read, setup_write, limits, host_uid, bwrap
                )
        except BaseException as error:
            _report_failure(status_write, status_write, error)
        finally:
            os._exit(0)
    for fd in (go_read, status_write, setup_read):
        os.close(fd)
    pidfd = linux.pidfd_open(pid)
    adopt(pid)
    os.write(go_write, b"+")
    os.close(go_write)
    send_frame(
        setup_write,
        {
            "limits": asdict(limits),
            "layers": list(fence.layers),
            "abi": fence.landlock_abi,
            "role": role,
        },
    )
    os.close(setup_write)
    return Child(pid, pidfd, status_read)


def _exec_bubblewrap(
    role: str,
    fds: list[int],
    status_fd: int,
    setup_fd: int,
    setup_write: int,
    limits: Limits,
    host_uid: int,
    bwrap: str,
) -> None:
    os.close(setup_write)
    wanted = [*fds, status_fd, setup_fd]
    high = [os.dup2(fd, 200 + at, inheritable=False) for at, fd in enumerate(wanted)]
    for at, fd in enumerate(high):
        os.dup2(fd, at, inheritable=True)
    linux.close_all_except(set(range(len(wanted))))
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if host_uid:
        os.setgroups([])
        os.setresgid(host_uid, host_uid, host_uid)
        os.setresuid(host_uid, host_uid, host_uid)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    folders = [f"/{name}" for name in sorted(os.listdir("/")) if name not in ("proc", "tmp", "dev")]
    binds = [word for path in folders for word in _bind(path)]
    command = [
        bwrap,
        *("--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"),
        *("--uid", str(INSIDE_ID), "--gid", str(INSIDE_ID), "--hostname", "sandbox"),
        *("--setenv", "PYTHONHASHSEED", "0", "--setenv", "LC_ALL", "C.UTF-8"),
        *binds,
        # By a path of its own: a project below /tmp vanishes under the private one.
        *("--ro-bind", _own_folder(), _MOUNTED),
        *(word for name in sorted(os.listdir("/dev")) for word in _device(f"/dev/{name}")),
        *(
            "--size",
            str(limits.tmp_mib << 20),
            "--tmpfs",
            "/tmp",
            "--dir",
            "/proc",
            "--chdir",
            "/tmp",
        ),
        *("--remount-ro", "/"),
        *interpreter_command(f"from inside.launch import main; main({len(fds)})", _MOUNTED),
    ]
    os.execv(bwrap, command)


def _device(path: str) -> tuple[str, ...]:
    return ("--dev-bind", path, path)


def _bind(path: str) -> tuple[str, ...]:
    if os.path.islink(path):
        return ("--symlink", os.readlink(path), path)
    return ("--ro-bind", path, path)


def _own_folder() -> str:
    """Where `inside` is found."""
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def interpreter_command(code: str, folder: str | None = None) -> list[str]:
    """A bare interpreter: no site, no user folder, no script folder on the path, and only `inside`
    importable, from `folder` where it is mounted elsewhere."""
    start = f"import sys; sys.path.append({folder or _own_folder()!r}); {code}"
    return [_INTERPRETER, "-s", "-S", "-P", "-B", "-c", start]


def main(num_fds: int) -> None:
    """Entry of the interpreter in bubblewrap: the layers that bubblewrap leaves to the program."""
    status_fd, setup_fd = num_fds, num_fds + 1
    try:
        setup = receive_frame(setup_fd)
        os.close(setup_fd)
        sys.path.pop()
        layers = tuple(setup["layers"])
        os.umask(0o077)
        if "rlimits" in layers:
            set_limits(Limits(**setup["limits"]))
        linux.drop_capabilities()
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        if setup["abi"]:
            readable = [
                landlock.open_rule("/", landlock.READ),
                landlock.open_rule("/dev", landlock.READ | 2),
            ]
            tmp_fd = os.open("/tmp", os.O_PATH | os.O_CLOEXEC)
            landlock.restrict(readable, [tmp_fd], setup["abi"])
        linux.close_all_except(set(range(num_fds + 1)))
        if "seccomp" in layers:
            seccomp.install(seccomp.program(linux.MACHINE))
        for fd in range(3, num_fds):
            os.set_inheritable(fd, False)
        assert RPC_FD == 4
        _run(setup["role"], status_fd)
    except BaseException as error:
        _report_failure(status_fd, status_fd, error)
    finally:
        os._exit(0)
