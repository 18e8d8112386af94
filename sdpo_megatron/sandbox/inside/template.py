"""The template of a worker: the process that its runs are cloned from.

It is fenced by everything that does not differ between runs, sees limits and descriptors only, and
does little between two clones, so that few pages are copied. Its children are the worker's (by
CLONE_PARENT): the worker watches them, waits for them, and takes them along when it dies. A child
says b"+" over the status socket once it is confined, or why it could not be.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from .fence import landlock, linux, namespaces, view
from .fence.calls import Calls
from .fence.confine import FAILED, OUT_OF_MEMORY, Confinement, Descriptors, Fence, settle
from .messages import MAX_FDS, Letterbox, pack, unpack
from .order import JUDGED, KIND_BYTES, UNJUDGED, read_kind, read_run, write_answer
from .practice import practise
from .step import Step
from .verdict import attempt, compare, judge, rehearsal

_MAINS: dict[str, Callable[[], None]] = {"attempt": attempt.main, "judge": judge.main}
TRUSTED_SCRIPTS = (compare.main, rehearsal.main)  # imported before the fork, run by name
_OF_CHILDREN = 6  # descriptors that a child uses itself, at most: 0 to 4, and the status socket


@dataclass(frozen=True)
class Setup:
    """What a worker gives its template: the plan, the layers, cgroup entrances, and both sockets
    (descriptors): the link to the worker, and the children's status socket."""

    plan: namespaces.Plan
    layers: tuple[str, ...]
    entrances: tuple[int, ...]
    link_fd: int
    status_fd: int


def main(setup: Setup) -> Step:
    """Fences itself, then clones runs until the worker closes the link."""
    link_fd, status_fd, *entrances = _leave_room([setup.link_fd, setup.status_fd, *setup.entrances])
    link = socket.socket(fileno=link_fd)
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        fence = _enter(setup.plan, setup.layers, link)
        fence.entrances = entrances
        rules = {fd for fd, _ in fence.rules}
        free = _close_ranks({link_fd, status_fd, *entrances, *rules})
        _open_streams()
        practise()
        settle(fence)
    except BaseException as error:
        link.send(pack({"error": f"{type(error).__name__}: {error}"}))
        os._exit(1)
    link.send(pack({"layers": list(fence.layers)}))
    _servers.append(_Server(fence, link.detach(), status_fd, free))
    return _serve


def _leave_room(fds: list[int]) -> list[int]:
    """Where `fds` are after all others are closed and the numbers that children replace are taken:
    0 by an empty input, 1 to 5 by pipes that nobody reads."""
    moved = [
        fd if fd >= _OF_CHILDREN else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OF_CHILDREN)
        for fd in fds
    ]
    linux.close_all_except(set(moved))
    os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    pipe = fcntl.fcntl(os.pipe2(os.O_CLOEXEC)[1], fcntl.F_DUPFD_CLOEXEC, _OF_CHILDREN)
    for fd in range(1, _OF_CHILDREN):
        os.dup2(pipe, fd, inheritable=False)
    os.close(pipe)
    return moved


def _close_ranks(lasting: set[int]) -> int:
    """Closes all other descriptors and leaves no gap, so that the number of each one that will be
    opened is known: returns the first that is free."""
    linux.close_all_except({*range(_OF_CHILDREN), *lasting})
    while (free := os.dup(0)) < max(lasting):
        pass
    os.close(free)
    return free


def _enter(plan: namespaces.Plan, layers: tuple[str, ...], link: socket.socket) -> Fence:
    def ask_for_ids() -> None:
        link.send(pack({"ids": True}))
        if not unpack(link.recv(4096)).get("mapped"):
            raise OSError("the worker could not map ids into the user namespace")

    namespaces.enter(plan, ask_for_ids)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of uid clears it
    fence = Fence(layers=layers, run_flags=plan.flags_of_a_run, choose_uid=bool(plan.block))
    if "landlock" in fence.layers:
        fence.landlock_abi = landlock.abi()
        null = landlock.open_rule("/dev/null", landlock.READ_WRITE_FILE)
        readable = [null, landlock.open_rule("/dev/urandom", landlock.READ)]
        if "mount" in fence.layers:
            fence.rules = [*readable, landlock.open_rule("/", landlock.READ)]
        else:
            _restrict_reading(fence, readable, plan)
            fence.rules, fence.rules_writing = [null], True
    return fence


def _restrict_reading(fence: Fence, rules: list[tuple[int, int]], plan: namespaces.Plan) -> None:
    """Without a root of its own a view is hundreds of rules: they are put on here, once for all
    runs, which then add where each of them may write. That is below the folder that holds theirs.
    """
    paths = view.without_packages(plan.paths)
    rules = [*rules, *(landlock.open_rule(path, landlock.READ) for path in paths)]
    if plan.folder:
        rules.append(landlock.open_rule(plan.folder, landlock.READ_WRITE))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    calls, free = Calls(), os.dup(0)
    os.close(free)
    landlock.restrict(calls, rules, fence.landlock_abi, free)
    calls.carry_out()


def _open_streams() -> None:
    """Once, for all runs: none is used before it belongs to one."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        errors = "backslashreplace" if fd == 2 else "surrogateescape"
        stream = open(fd, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


class _Server:
    """The template once it is fenced.

    A child leaves this as it is: to free it, it would first copy its pages. It says nothing about
    any other run than what all of them share: layers, limits, the numbers of descriptors.
    """

    def __init__(self, fence: Fence, link_fd: int, status_fd: int, free: int) -> None:
        self._fence, self._status_fd, self._free = fence, status_fd, free
        self._flags = fence.run_flags | linux.CLONE_PARENT
        self._box = Letterbox(link_fd, free)
        self._kind = b""
        self._children: tuple[tuple[Confinement, Step], ...] = ()

    def serve(self) -> Step:
        """Clones a run for each order. Returns a next step only in a child."""
        while True:
            order = self._box.receive()
            if not order:
                os._exit(0)
            if order[:KIND_BYTES] != self._kind:
                self._kind, self._children = order[:KIND_BYTES], self._prepare(order)
            uids, folder = read_run(order)
            pids, error = [], ""
            for (confinement, step), uid in zip(self._children, uids, strict=False):
                confinement.fill_in(uid, folder)
                try:
                    pid = linux.clone(self._flags)
                except OSError as problem:
                    error = str(problem)
                    break
                if pid == 0:
                    return step
                pids.append(pid)
            os.closerange(self._free, self._free + MAX_FDS)
            self._box.answer(write_answer(pids, error))

    def _prepare(self, order: bytes) -> tuple[tuple[Confinement, Step], ...]:
        """The children of runs of the order's kind: what each does to itself, and its first
        step."""
        limits, judged = read_kind(order)
        _, folder = read_run(order)
        roles = JUDGED if judged else UNJUDGED
        free = self._free + 1 + max(place for places in roles.values() for place in places)
        children = []
        for role, places in roles.items():
            is_attempt = role == "attempt"
            sources = tuple(self._free + place for place in places)
            fds = Descriptors(sources, self._status_fd, free)
            own = folder if is_attempt else ""
            tmp = "/tmp" if "private_tmp" in self._fence.layers else own
            confinement = Confinement(self._fence, limits, fds, tmp, is_attempt)
            children.append(
                (confinement, functools.partial(_play, role, confinement, self._status_fd))
            )
        return tuple(children)


_servers: list[_Server] = []  # one, in the template


def _serve() -> Step:
    gc.collect()
    gc.freeze()  # a collection in a run must not touch (and so copy) pages shared with us
    return _servers[0].serve()


def _play(role: str, confinement: Confinement, status_fd: int) -> Step:
    """The child's side: confines itself and says so. Returns the role."""
    placed = confinement.placed
    try:
        confinement.put_on()
        os.write(placed, b"+")  # fails when the worker has died: then nothing is run
        os.close(placed)
    except BaseException as error:
        for fd in (status_fd, placed):
            with contextlib.suppress(OSError):
                os.write(fd, f"{role}: {type(error).__name__}: {error}".encode())
                break
        os._exit(FAILED)
    return functools.partial(_run, _MAINS[role])


def _run(role: Callable[[], None]) -> None:
    try:
        role()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BaseException:  # a broken channel: the program closed it
        os._exit(FAILED)
    os._exit(0)
