"""A worker: receives runs over its socket, one at a time, starts them and watches over them until
nothing is left.

No payload passes through here. Programs, inputs, tests and outputs travel over descriptors that go
straight from the host to the child, so the memory that each child is a copy of never holds them. A
worker knows limits, and how runs ended.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import shutil
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any

from . import linux, process_tree
from .cgroups import Cgroups
from .confine import OUT_OF_MEMORY, Fence, Limits
from .launch import Child, bubblewrap_child, clone_child
from .plain_data import decode, encode

_FIRST_SAMPLE_S, _SAMPLE_S = 0.02, 0.05
_MAX_FDS = 8
MAX_STRETCH = 5.0  # how many times its wall limit a run may last on a machine that is too busy
JUDGE_GRACE_S = 20.0  # for the judge, to report after its attempt was ended


@dataclass
class Tools:
    """What a worker has besides its fence: runner's name, cgroups, /proc, how to choose uids."""

    runner: str
    fence: Fence
    cgroups: Cgroups
    proc_fd: int
    host_fd: int
    tmp: str = "/tmp"
    bwrap: str = ""
    worker_index: int = 0


def serve(control: socket.socket, tools: Tools) -> None:
    """Serves runs until the host closes the socket or dies."""
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    control.setblocking(True)
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(tools.host_fd, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poller.poll()]
        if tools.host_fd in ready:
            return
        data, fds = _receive(control)
        if not data:
            return
        request = decode(data)
        if request.get("kill"):
            continue  # it came after its run was over
        try:
            result = _Run(request, fds, control, tools).go()
        except OSError as error:
            result = {"error": f"{error}"}
        finally:
            for fd in fds:
                os.close(fd)
        control.send(encode({"run": request["run"], **result}))


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    try:
        data, ancillary, _, _ = control.recvmsg(
            65536, socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionError:
        return b"", []
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)


class _HostGone(BaseException):
    pass


class _Run:
    """One run: an attempt and, when judged, its judge. It ends when its primary process ends."""

    def __init__(
        self, request: dict[str, Any], fds: list[int], control: socket.socket, tools: Tools
    ) -> None:
        self.limits = Limits(**request["limits"])
        self.number = int(request["run"])
        self.control, self.tools, self.fds = control, tools, fds
        attempt_fds = fds[:4]  # stdin, stdout, stderr, channel
        self.jobs = [("attempt", attempt_fds)]
        if request["judged"]:
            rpc_attempt, rpc_judge, judge_channel = fds[4:7]
            attempt = ("attempt", [*attempt_fds, rpc_attempt])
            self.jobs = [attempt, ("judge", [*_devnull(fds), judge_channel, rpc_judge])]
        self.children: dict[str, Child] = {}
        self.cause = ""
        self.peak = process_tree.Usage()
        self.tmp = tools.tmp

    def go(self) -> dict[str, Any]:
        start = time.monotonic()
        try:
            for role, fds in self.jobs:
                self.children[role] = self._start(role, fds)
            while self.fds:  # ours would keep the channels open after the children have died
                os.close(self.fds.pop())
            self._watch(start)
        except _HostGone:
            self._end_all()
            self.tools.cgroups.remove()
            os._exit(0)
        except OSError:
            self._end_all()
            raise
        return {**self._end_all(), "wall_s": time.monotonic() - start}

    def _start(self, role: str, fds: list[int]) -> Child:
        tools = self.tools
        uid = 0
        if tools.fence.host_uid:
            # A uid of its own: 64 in turn per worker, the judge's apart from the attempt's.
            slot = (self.number % 32) * 2 + (role == "judge")
            uid = tools.fence.host_uid + tools.worker_index * 64 + slot
        limits = self.limits
        if role == "attempt" and tools.tmp != "/tmp":
            # No mount namespace: a plain folder, removed after the run.
            self.tmp = f"{tools.tmp}/{tools.worker_index}-{self.number}"
            os.mkdir(self.tmp, 0o700)
            os.chown(self.tmp, uid or -1, uid or -1)
        if role == "attempt":
            tools.cgroups.limit(
                limits.memory_mib, limits.processes + (2 if tools.runner == "bubblewrap" else 0)
            )
        adopt = tools.cgroups.add if role == "attempt" else _ignore
        if tools.runner == "bubblewrap":
            return bubblewrap_child(role, tools.fence, limits, fds, uid, tools.bwrap, adopt)
        return clone_child(role, tools.fence, limits, fds, uid, self.tmp, tools.proc_fd, adopt)

    def _watch(self, start: float) -> None:
        """Waits for the primary process; samples the attempt's tree; obeys a kill from the host."""
        primary = self.children.get("judge") or self.children["attempt"]
        poller = select.poll()
        for fd in (primary.pidfd, self.control.fileno(), self.tools.host_fd):
            poller.register(fd, select.POLLIN)
        next_sample, deadline = start + _FIRST_SAMPLE_S, start + self.limits.wall_s
        while True:
            wait = max(0.0, min(next_sample, deadline) - time.monotonic())
            ready = {fd for fd, _ in poller.poll(int(wait * 1000) + 1)}
            if self.tools.host_fd in ready:
                raise _HostGone
            if self.control.fileno() in ready:
                data, _ = _receive(self.control)
                if not data:
                    raise _HostGone
                self.cause = self.cause or str(decode(data).get("kill", "killed"))
                return
            if primary.pidfd in ready:
                return
            now = time.monotonic()
            if now < min(next_sample, deadline):
                continue
            next_sample = now + _SAMPLE_S
            if not self.cause:
                self._sample()
                deadline = start + self._patience()
                if now >= deadline:
                    self.cause = self.cause or "wall_time"
                if self.cause:  # a judge notices that the attempt has gone, and reports what it has
                    linux.pidfd_kill(self.children["attempt"].pidfd)
                    deadline = now + JUDGE_GRACE_S
            elif now >= deadline:
                return
            if self.cause and primary is self.children["attempt"]:
                return

    def _patience(self) -> float:
        """The wall limit, extended by the time that the run was ready but the machine was busy."""
        waited = self.peak.waited_s
        if "judge" in self.children:
            waited += process_tree.usage(self.tools.proc_fd, self.children["judge"].pid).waited_s
        return min(self.limits.wall_s + waited, MAX_STRETCH * self.limits.wall_s)

    def _sample(self) -> None:
        used = process_tree.usage(self.tools.proc_fd, self.children["attempt"].pid)
        self.peak.memory = max(self.peak.memory, used.memory)
        self.peak.cpu_s = max(self.peak.cpu_s, used.cpu_s)
        self.peak.waited_s = max(self.peak.waited_s, used.waited_s)
        if self.cause or "accounting" not in self.tools.fence.layers:
            return
        if used.cpu_s > self.limits.cpu_s:
            self.cause = "cpu_time"
        elif used.memory > self.limits.memory_mib << 20:
            self.cause = "memory"
        elif used.processes > self.limits.processes + (
            2 if self.tools.runner == "bubblewrap" else 0
        ):
            self.cause = "processes"

    def _end_all(self) -> dict[str, Any]:
        """Kills what is left, reaps it, and says how the attempt ended."""
        result: dict[str, Any] = {"error": ""}
        alive = {role: _alive(child) for role, child in self.children.items()}
        for role, child in self.children.items():
            linux.pidfd_kill(child.pidfd)
            _, status, used = os.wait4(child.pid, 0)
            status = self._plain_status(status)
            problem = os.read(child.status_fd, 4096).decode("utf-8", "replace")
            os.close(child.status_fd)
            os.close(child.pidfd)
            if problem[:1] != "+" and not self.cause and not alive[role]:
                result["error"] = (
                    f"the {role} could not be confined: {problem or 'it ended before it began'}"
                )
            if role == "attempt":
                # A dying attempt closes its channels, which ends the judge, before it counts as
                # dead: only SIGKILL leaves open whether the end was ours.
                killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
                ours = alive[role] and killed
                cpu_s = max(used.ru_utime + used.ru_stime, self.peak.cpu_s)
                result |= {
                    "cause": self.cause
                    or (self._memory_kill() if ours else self._cause_of_death(status, cpu_s)),
                    "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                    "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) and not ours else None,
                    "cpu_s": cpu_s,
                    "waited_s": self.peak.waited_s,
                    "peak_memory_mib": max(self.peak.memory >> 20, used.ru_maxrss >> 10),
                }
        if "pid" not in self.tools.fence.layers or self.tools.runner == "bubblewrap":
            _reap_strays(self.tools.proc_fd)
        if self.tmp != "/tmp":
            shutil.rmtree(self.tmp, ignore_errors=True)
        return result

    def _plain_status(self, status: int) -> int:
        """Bubblewrap ends with 128 + n when the program dies of signal n: told as that signal."""
        if (
            self.tools.runner == "bubblewrap"
            and os.WIFEXITED(status)
            and os.WEXITSTATUS(status) > 128
        ):
            return os.WEXITSTATUS(status) - 128
        return status

    def _cause_of_death(self, status: int, cpu_s: float) -> str:
        """Names the limit behind an end that was not our doing: the kernel's CPU limit, its
        out-of-memory killer, or an allocation that it refused."""
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == OUT_OF_MEMORY:
            return "memory"
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) not in (
            signal.SIGKILL,
            signal.SIGXCPU,
        ):
            return ""
        if cpu_s >= 0.9 * self.limits.cpu_s:
            return "cpu_time"
        return self._memory_kill()

    def _memory_kill(self) -> str:
        return "memory" if self.tools.cgroups.killed_for_memory() else ""


def _ignore(_pid: int) -> None:
    """The judge is not counted in the attempt's cgroup."""


def _devnull(fds: list[int]) -> list[int]:
    """stdin, stdout and stderr of a judge: the attempt's stdin is never its business."""
    return [fds[7]] * 3


def _alive(child: Child) -> bool:
    poller = select.poll()
    poller.register(child.pidfd, select.POLLIN)
    return not poller.poll(0)


def _reap_strays(proc_fd: int) -> None:
    """Without a pid namespace: kills and reaps descendants until none is left.

    Orphans come to us, the subreaper.
    """
    for _ in range(1000):
        strays = process_tree.descendants(proc_fd, os.getpid())[1:]
        if not strays:
            return
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)
