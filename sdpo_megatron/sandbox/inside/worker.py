"""A worker: finds out which layers work here, starts its template, and serves runs one at a time.

No payload passes through here. Programs, inputs, tests and outputs travel over descriptors that go
straight from the host to the child. A worker knows limits, and how runs ended; the template, and so
what is cloned from it, does not.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import socket
from dataclasses import dataclass
from typing import Any

from . import template
from .fence import folders, landlock, linux, namespaces, seccomp, uids, view
from .fence.cgroups import Cgroups
from .messages import pack, receive, unpack
from .run import HostGone, Run, TemplateGone
from .step import Step
from .tools import Tools


@dataclass
class _Findings:
    """What works here: names of layers, and the reasons for those that do not."""

    layers: list[str]
    missing: dict[str, str]


def main(control: socket.socket, settings: dict[str, Any], host_fd: int) -> Step | None:
    """Serves the host. Returns a next step only in the process that becomes the template."""
    status = 0
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        worker = _Worker(control, settings, host_fd)
        if step := worker.prepare():
            return step
        worker.serve()
    except BaseException as error:
        status = 1
        with contextlib.suppress(OSError):
            control.send(pack({"error": f"{type(error).__name__}: {error}"}))
    os._exit(status)


class _Worker:
    def __init__(self, control: socket.socket, settings: dict[str, Any], host_fd: int) -> None:
        self.control, self.settings, self.host_fd = control, settings, host_fd
        self.proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.held: list[Any] = []  # what locks a block of uids and a folder
        self.folder_fd = -1

    def prepare(self) -> Step | None:
        """Finds the layers, starts the template, says hello. Returns a step in the template."""
        found = _Findings([], dict.fromkeys(self.settings["disable"], "switched off in the config"))
        cgroups = self._cgroups(found)
        working = namespaces.working(found.missing)
        block = self._block(found)
        others = self._other_layers(found)
        folder = ""
        while True:
            if "mount" in working:
                private = ("private_root", "private_tmp")
            else:
                private = ()
                for name in ("private_root", "private_tmp"):
                    found.missing.setdefault(name, "no mount namespace")
                folder = folder or self._folder(found)
            plan = namespaces.Plan(
                names=working,
                privileged=linux.CAP_SYS_ADMIN in linux.capabilities(),
                paths=tuple(view.readable(tuple(self.settings["packages"]))),
                block=block,
                seccomp="seccomp" in others,
                folder=folder,
            )
            layers = (*found.layers, *working, *private, *others, *(("uid",) if block else ()))
            started = self._start_template(plan, layers, cgroups)
            if callable(started):
                return started
            if "error" not in started:
                break
            if not working:
                raise OSError(started["error"])
            # A namespace could be made but not used, as where a security module forbids mounts.
            found.missing.update(dict.fromkeys(working, started["error"]))
            working = ()
        self.tools = Tools(
            layers=tuple(layers),
            cgroups=cgroups,
            proc_fd=self.proc_fd,
            host_fd=self.host_fd,
            control=self.control,
            link=self.link,
            status=self.status,
            template_pid=self.template_pid,
            block=block,
            folder=folder,
        )
        hello = {"pid": os.getpid(), "layers": list(layers), "missing": found.missing}
        self.control.send(pack(hello))
        return None

    def _cgroups(self, found: _Findings) -> Cgroups:
        settings = self.settings
        number = f"{settings['sandbox']}{settings['worker_index']:03d}"
        name = f"sdpo-{settings['host_pid']}-{number}"
        cgroups = Cgroups(name, without=tuple(found.missing))
        found.missing.update(cgroups.reasons)
        found.layers += cgroups.layers
        return cgroups

    def _block(self, found: _Findings) -> int:
        if "uid" in found.missing:
            return 0
        uid, holder = uids.hold_block(self.settings["first_uid"])
        problem = uids.can_become(uid)
        if problem:
            found.missing["uid"] = problem
            holder.close()
            return 0
        self.held.append(holder)
        return uid

    def _other_layers(self, found: _Findings) -> list[str]:
        layers = []
        if "landlock" not in found.missing:
            try:
                landlock.abi()
                layers.append("landlock")
            except OSError as error:
                found.missing["landlock"] = str(error)
        if "seccomp" not in found.missing:
            try:
                seccomp.program(linux.MACHINE)
                layers.append("seccomp")
            except KeyError:
                found.missing["seccomp"] = f"no system-call table for {os.uname().machine}"
        return layers + [n for n in ("rlimits", "accounting") if n not in found.missing]

    def _folder(self, found: _Findings) -> str:
        held = folders.hold_folder()
        if held is None:
            found.missing["private_tmp"] = "no folder can be written here: runs have none"
            return ""
        folder, self.folder_fd = held
        return folder

    def _start_template(
        self, plan: namespaces.Plan, layers: tuple[str, ...], cgroups: Cgroups
    ) -> Step | dict[str, Any]:
        """A step in the template; its first word in the worker."""
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.status, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.template_pid = os.fork()
        if self.template_pid == 0:
            entrances = tuple(cgroups.entrances)
            self._raise_oom_score()
            setup = template.Setup(plan, layers, entrances, theirs.detach(), status.detach())
            return functools.partial(template.main, setup)
        theirs.close()
        status.close()
        self.status.setblocking(False)
        said = self._hear()
        if "ids" in said:
            try:
                namespaces.map_ids(self.proc_fd, self.template_pid, plan.block)
            except OSError as error:
                said = {"error": f"mapping ids: {error}"}
                os.kill(self.template_pid, signal.SIGKILL)
            else:
                self.link.send(pack({"mapped": True}))
                said = self._hear()
        if "error" in said:
            os.waitpid(self.template_pid, 0)
            self.link.close()
            self.status.close()
        return said

    def _hear(self) -> dict[str, Any]:
        return unpack(self.link.recv(65536) or pack({"error": "the template died"}))

    def _raise_oom_score(self) -> None:
        """When the machine runs out of memory, what runs here goes first."""
        with contextlib.suppress(OSError):
            linux.write_at(self.proc_fd, "self/oom_score_adj", "1000")

    def serve(self) -> None:
        """Serves runs until the host closes the socket or dies."""
        control, poller = self.control, select.poll()
        poller.register(control, select.POLLIN)
        poller.register(self.host_fd, select.POLLIN)
        try:
            while True:
                ready = [fd for fd, _ in poller.poll()]
                if self.host_fd in ready:
                    return
                data, fds = receive(control)
                if not data:
                    return
                request = unpack(data)
                if request.get("kill"):
                    continue  # it came after its run was over
                try:
                    control.send(pack({"run": request["run"], **self._run(request, fds)}))
                finally:
                    for fd in fds:
                        os.close(fd)
        except HostGone:
            return
        finally:
            self._clean_up()

    def _run(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        try:
            return Run(request, fds, self.tools).go()
        except (OSError, TemplateGone) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _clean_up(self) -> None:
        self.tools.cgroups.remove()
        if self.tools.folder:
            folders.release(self.tools.folder, self.folder_fd)
