"""One run: an attempt and, when judged, its judge, watched over until nothing of them is left."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from dataclasses import dataclass, replace
from typing import Any

from . import ending, process_tree
from .fence import folders, linux
from .fence.confine import Limits
from .fence.namespaces import INSIDE_ID
from .messages import receive, unpack
from .order import JUDGED, RPC_ENDS, UNJUDGED, read_answer, write_order
from .tools import Tools

_FIRST_SAMPLE_S, _SAMPLE_S = 0.02, 0.05
_SLOTS = 31  # pairs of uids of a block that runs take in turn; the last uid is the template's
_MARGIN = 64  # processes
MAX_STRETCH = 5.0  # how many times its wall limit a run may last on a machine that is too busy
JUDGE_GRACE_S = 20.0  # for the judge, to report after its attempt was ended


class HostGone(BaseException):
    """The host has died or hung up."""


class TemplateGone(Exception):
    """The template has died: this worker can run nothing more."""


@dataclass
class _Process:
    pid: int
    pidfd: int


class Run:
    """One run. It ends when its primary process ends: the judge, or the attempt without one."""

    def __init__(self, request: dict[str, Any], fds: list[int], tools: Tools) -> None:
        self.limits = Limits(**request["limits"])
        self.number = int(request["run"])
        self.tools, self.fds = tools, fds
        self.judged = bool(request["judged"])
        self.processes: dict[str, _Process] = {}
        self.cause = ""
        self.judge_late = False
        self.peak = process_tree.Usage()
        self.folder = ""
        self.cpu_before_s = 0.0

    def go(self) -> dict[str, Any]:
        """Runs, and says how it ended. Raises OSError, HostGone or TemplateGone; nothing of the
        run is left in any case."""
        start = time.monotonic()
        try:
            self._start()
            self._watch(start)
        except BaseException:
            self._end_all()
            raise
        return {**self._end_all(), "wall_s": time.monotonic() - start}

    def _start(self) -> None:
        tools = self.tools
        tools.cgroups.prepare(self.limits.memory_mib, self.limits.processes)
        self.cpu_before_s = tools.cgroups.cpu_s()
        slot = self.number % _SLOTS * 2
        if tools.folder:
            self.folder = f"{tools.folder}/{self.number}"
            os.mkdir(self.folder, 0o700)
            if tools.block:
                os.chown(self.folder, tools.block + slot, tools.block + slot)
        uids = [0, 0]  # not to be chosen
        if tools.block:  # one for each child; in turn
            uids[0] = slot + (INSIDE_ID if "user" in tools.layers else tools.block)
            uids[1] = uids[0] + 1
        limits = replace(self.limits, processes=self._process_limit())
        order = write_order(limits, self.judged, uids, self.folder)
        try:
            socket.send_fds(tools.link, [order], self.fds)
            answer = tools.link.recv(4096)
        except OSError as error:
            raise TemplateGone(str(error)) from error
        if not answer:
            raise TemplateGone("it died")
        pids, problem = read_answer(answer)
        for role, pid in zip(JUDGED if self.judged else UNJUDGED, pids, strict=False):
            self.processes[role] = _Process(pid, linux.pidfd_open(pid))
        if problem:
            raise OSError(problem)
        # Ours would keep the calls between attempt and judge open after one has died. The others
        # stay until the end: that they are over would only wake the host before it can go on.
        for fd in self.fds[RPC_ENDS]:
            os.close(fd)
        del self.fds[RPC_ENDS]

    def _process_limit(self) -> int:
        """RLIMIT_NPROC counts by uid: what else runs under that of the run must not count."""
        tools = self.tools
        if tools.block:
            return self.limits.processes
        if "user" in tools.layers:  # the template, and the judge
            return self.limits.processes + 2
        others = process_tree.tasks_of(tools.proc_fd, os.getuid())
        # Rounded, so that a template need not prepare itself anew for each run.
        return self.limits.processes + others + -others % _MARGIN

    def _watch(self, start: float) -> None:
        """Waits for the primary process; samples the attempt's tree; obeys a kill from the host."""
        primary = self.processes.get("judge") or self.processes["attempt"]
        control = self.tools.control
        poller = select.poll()
        for fd in (primary.pidfd, control.fileno(), self.tools.host_fd):
            poller.register(fd, select.POLLIN)
        next_sample, deadline = start + _FIRST_SAMPLE_S, start + self.limits.wall_s
        while True:
            wait = max(0.0, min(next_sample, deadline) - time.monotonic())
            ready = {fd for fd, _ in poller.poll(int(wait * 1000) + 1)}
            if self.tools.host_fd in ready:
                raise HostGone
            if control.fileno() in ready:
                data, _ = receive(control)
                if not data:
                    raise HostGone
                self.cause = self.cause or str(unpack(data).get("kill", "killed"))
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
                    linux.pidfd_kill(self.processes["attempt"].pidfd)
                    deadline = now + JUDGE_GRACE_S
            elif now >= deadline:
                self.judge_late = True
                return
            if self.cause and primary is self.processes["attempt"]:
                return

    def _patience(self) -> float:
        """The wall limit, extended by the time that the run was ready but the machine was busy."""
        waited = self.peak.waited_s
        if "judge" in self.processes:
            judge = self.processes["judge"].pid
            waited += process_tree.usage(self.tools.proc_fd, judge).waited_s
        return min(self.limits.wall_s + waited, MAX_STRETCH * self.limits.wall_s)

    def _sample(self) -> None:
        used = process_tree.usage(self.tools.proc_fd, self.processes["attempt"].pid)
        self.peak.memory = max(self.peak.memory, used.memory)
        self.peak.cpu_s = max(self.peak.cpu_s, used.cpu_s, self._counted_cpu_s())
        self.peak.waited_s = max(self.peak.waited_s, used.waited_s)
        if self.cause or "accounting" not in self.tools.layers:
            return
        if self.peak.cpu_s > self.limits.cpu_s:
            self.cause = "cpu_time"
        elif used.memory > self.limits.memory_mib << 20:
            self.cause = "memory"
        elif used.processes > self.limits.processes:
            self.cause = "processes"

    def _counted_cpu_s(self) -> float:
        """By the cgroup's account; 0 without."""
        return self.tools.cgroups.cpu_s() - self.cpu_before_s

    def _end_all(self) -> dict[str, Any]:
        """Kills what is left, reaps it, and says how the attempt ended."""
        result: dict[str, Any] = {"error": "", "judge_cause": ""}
        alive = {role: _alive(process) for role, process in self.processes.items()}
        statuses = {}
        for role, process in self.processes.items():
            linux.pidfd_kill(process.pidfd)
            _, status, used = os.wait4(process.pid, 0)
            os.close(process.pidfd)
            statuses[role] = status, used.ru_utime + used.ru_stime, used.ru_maxrss >> 10
        strays_s = 0.0
        if "pid" not in self.tools.layers:
            keep = frozenset({self.tools.template_pid})
            strays_s = process_tree.kill_strays(self.tools.proc_fd, keep)
        if self.folder:
            folders.remove(self.folder)
        problems = self._problems()
        if "judge" in statuses:
            status, cpu_s, _ = statuses["judge"]
            result["judge_cause"] = ending.of_judge(
                status, cpu_s, self.limits, alive["judge"], self.judge_late
            )
        if "attempt" in statuses:
            status, cpu_s, peak_mb = statuses["attempt"]
            cpu_s = max(cpu_s + strays_s, self.peak.cpu_s, self._counted_cpu_s())
            # A dying attempt closes its channels, which ends the judge, before it counts as dead:
            # only SIGKILL leaves open whether the end was ours.
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            ours = alive["attempt"] and killed
            cause = self.cause
            if not cause and "accounting" in self.tools.layers and cpu_s > self.limits.cpu_s:
                cause = "cpu_time"
            if not cause:
                limit = "" if ours else ending.limit_behind(status, cpu_s, self.limits)
                cause = limit or (self._memory_kill() if ending.is_kill(status) else "")
            result |= {
                "cause": cause,
                "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) and not ours else None,
                "cpu_s": cpu_s,
                "waited_s": self.peak.waited_s,
                "peak_memory_mib": max(self.peak.memory >> 20, peak_mb),
            }
        if problems and not self.cause:
            result["error"] = f"a process of the run could not be confined: {'; '.join(problems)}"
        return result

    def _problems(self) -> list[str]:
        """What the run's processes said instead of "+". One that was killed may have said
        nothing."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while said := self.tools.status.recv(4096):
                if said != b"+":
                    found.append(said.decode("utf-8", "replace"))
        return found

    def _memory_kill(self) -> str:
        return "memory" if self.tools.cgroups.killed_for_memory() else ""


def _alive(process: _Process) -> bool:
    poller = select.poll()
    poller.register(process.pidfd, select.POLLIN)
    return not poller.poll(0)
