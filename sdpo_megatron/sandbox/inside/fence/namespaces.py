"""Which namespaces work here, and moving the template of a worker into those that last.

User, net, ipc and uts namespaces are made once per worker, pid and mount namespaces for each run.
That is safe between runs because nothing in the former can be changed or left behind: a run has no
capability in them, and seccomp refuses every call that makes an object which outlives its process
(System V and POSIX queues and memory) or has a name (sockets). Without seccomp, net, ipc and uts
are made for each run as well.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from . import linux, view
from .uids import BLOCK

INSIDE_ID = 1000  # uid and gid of the first run as it sees itself
_LASTING = ("net", "ipc", "uts")


@dataclass(frozen=True)
class Plan:
    """What a template is to enter.

    Attributes:
        names: Names of the namespaces that work here, all together.
        privileged: The worker may make them without a user namespace.
        paths: The view: all that is readable.
        block: First of the host uids that the runs get; 0 when uids cannot be chosen.
        seccomp: Whether the filter will be on.
        folder: Where runs get a folder each; "" with a mount namespace, or without any.
    """

    names: tuple[str, ...]
    privileged: bool
    paths: tuple[str, ...]
    block: int
    seccomp: bool
    folder: str

    @property
    def once(self) -> tuple[str, ...]:
        return tuple(n for n in _LASTING if n in self.names and self.seccomp)

    @property
    def flags_of_a_run(self) -> int:
        often = [n for n in self.names if n != "user" and n not in self.once]
        return sum(linux.NAMESPACES[name] for name in often)


def working(missing: dict[str, str]) -> tuple[str, ...]:
    """Namespaces that this process may create together, each tried by a clone that ends at once.

    Adds the reasons for the others to `missing`, whose names are not tried.
    """
    found: list[str] = []
    for name, flag in linux.NAMESPACES.items():
        if name in missing:
            continue
        try:
            pid = linux.clone(sum(linux.NAMESPACES[n] for n in found) | flag)
        except OSError as error:
            missing[name] = str(error)
            continue
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        found.append(name)
    return tuple(found)


def enter(plan: Plan, ask_for_ids: object) -> None:
    """Moves this process into the view and the lasting namespaces.

    `ask_for_ids()` has the worker map ids (see `map_ids`) and returns when it has.
    Raises OSError.
    """
    user = "user" in plan.names
    lasting = sum(linux.NAMESPACES[name] for name in plan.once)
    if plan.privileged and "mount" in plan.names:
        linux.call("unshare", linux.NAMESPACES["mount"])
        view.enter(list(plan.paths))
    flags = lasting | (linux.NAMESPACES["user"] if user else 0)
    if not plan.privileged and "mount" in plan.names:
        flags |= linux.NAMESPACES["mount"]
    if flags:
        linux.call("unshare", flags)
    if user:
        ask_for_ids()  # type: ignore[operator]
        own = INSIDE_ID + (BLOCK - 1 if plan.block else 0)
        os.setresgid(own, own, own)
        os.setresuid(own, own, own)
    if not plan.privileged and "mount" in plan.names:
        view.enter(list(plan.paths))
    if "uts" in plan.once:
        linux.call("sethostname", b"sandbox", 7)


def map_ids(proc_fd: int, pid: int, block: int) -> None:
    """Maps ids of the user namespace of a template: a block of them, or only the worker's own."""
    inside, count = INSIDE_ID, BLOCK if block else 1
    if not block:
        linux.write_at(proc_fd, f"{pid}/setgroups", "deny")
    uid, gid = (block, block) if block else (os.geteuid(), os.getegid())
    linux.write_at(proc_fd, f"{pid}/uid_map", f"{inside} {uid} {count}")
    linux.write_at(proc_fd, f"{pid}/gid_map", f"{inside} {gid} {count}")
