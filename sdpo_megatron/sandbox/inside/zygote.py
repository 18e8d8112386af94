"""The clean process from which everything is forked: started by exec with an empty environment,
before any test exists.

It imports what programs commonly use, then waits for its host to ask for workers; each worker is a
fork of it with its own socket. It dies with its host, and its workers with it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import os
import select
import signal
import socket
import sys
from typing import Any

from . import process_tree, worker
from .fence import linux
from .messages import pack, receive, unpack
from .step import Step

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


def main() -> Step | None:
    """Forks workers for the host at the other end of descriptor 0 (SOCK_SEQPACKET), until it hangs
    up or dies. Returns a next step only in a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's to handle
    host_pid = os.getppid()
    control = socket.socket(fileno=os.dup(0))
    host_fd = linux.pidfd_open(host_pid)
    settings = {**unpack(control.recv(65536)), "host_pid": host_pid}
    for name in PRELOAD:
        importlib.import_module(name)
    if settings["packages"]:
        sys.path.append(settings["package_path"])
    for name in settings["packages"]:  # found, not imported: only who uses one pays for it
        importlib.util.find_spec(name)
    gc.collect()
    gc.freeze()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    control.send(pack({"ready": True}))
    return _Zygote(control, settings, host_fd).serve()


class _Zygote:
    def __init__(self, control: socket.socket, settings: dict[str, Any], host_fd: int) -> None:
        self.control, self.settings, self.host_fd = control, settings, host_fd
        self.proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.workers: dict[int, int] = {}  # pidfd: pid

    def serve(self) -> Step | None:
        while True:
            poller = select.poll()
            for fd in (self.control.fileno(), self.host_fd, *self.workers):
                poller.register(fd, select.POLLIN)
            ready = [fd for fd, _ in poller.poll()]
            for pidfd in self.workers.keys() & set(ready):
                self._bury(pidfd)
            if self.host_fd in ready:
                break
            if self.control.fileno() not in ready:
                continue
            data, fds = receive(self.control)
            if not data:
                break
            pid = os.fork()
            if pid == 0:
                return self._worker(data, fds[0])
            self.workers[linux.pidfd_open(pid)] = pid
            os.close(fds[0])
        self._end()
        os._exit(0)

    def _worker(self, data: bytes, fd: int) -> Step:
        for inherited in (0, self.control.detach(), self.proc_fd, *self.workers):
            os.close(inherited)
        settings = {**self.settings, **unpack(data)}
        return functools.partial(worker.main, socket.socket(fileno=fd), settings, self.host_fd)

    def _bury(self, pidfd: int) -> None:
        """Reaps a worker that has died, and kills what it left: orphans come to us."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.workers[pidfd], 0)
        del self.workers[pidfd]
        os.close(pidfd)
        process_tree.kill_strays(self.proc_fd, frozenset(self.workers.values()))

    def _end(self) -> None:
        """The workers see the host go too: lets them end their runs and remove their cgroups."""
        signal.alarm(10)
        while self.workers:
            self._bury(next(iter(self.workers)))
