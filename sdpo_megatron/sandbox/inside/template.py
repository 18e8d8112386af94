"""The template of a worker: the process that its runs are cloned from.

It is fenced by everything that does not differ between runs, sees limits and descriptors only, and
does little between two clones, so that few pages are copied. Its children are the worker's (by
CLONE_PARENT): the worker watches them, waits for them, and takes them along when it dies. A child
says b"+" over the status socket once it is confined, or why it could not be.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .fence import landlock, linux, namespaces, view
from .fence.confine import FAILED, OUT_OF_MEMORY, Child, Fence, Limits, confine, settle
from .messages import receive
from .plain_data import decode, encode
from .step import Step
from .verdict import attempt, compare, judge, rehearsal

_MAINS: dict[str, Callable[[], None]] = {"attempt": attempt.main, "judge": judge.main}
TRUSTED_SCRIPTS = (compare.main, rehearsal.main)  # imported before the fork, run by name


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
    link = socket.socket(fileno=setup.link_fd)
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        fence = _prepare(setup, link)
    except BaseException as error:
        link.send(encode({"error": f"{type(error).__name__}: {error}"}))
        os._exit(1)
    link.send(encode({"layers": list(fence.layers)}))
    gc.collect()
    gc.freeze()  # a collection in a run must not touch (and so copy) pages shared with us
    return _serve(fence, link, setup.status_fd)


def _prepare(setup: Setup, link: socket.socket) -> Fence:
    def ask_for_ids() -> None:
        link.send(encode({"ids": True}))
        if not decode(link.recv(4096)).get("mapped"):
            raise OSError("the worker could not map ids into the user namespace")

    plan = setup.plan
    namespaces.enter(plan, ask_for_ids)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of uid clears it
    fence = Fence(
        layers=setup.layers,
        run_flags=plan.flags_of_a_run,
        entrances=list(setup.entrances),
        choose_uid=bool(plan.block),
    )
    if "landlock" in fence.layers:
        fence.landlock_abi = landlock.abi()
        paths = ["/"] if "mount" in fence.layers else view.without_packages(plan.paths)
        fence.readable = [landlock.open_rule(path, landlock.READ) for path in paths]
        fence.readable.append(landlock.open_rule("/dev/null", landlock.READ_WRITE_FILE))
        fence.readable.append(landlock.open_rule("/dev/urandom", landlock.READ))
    rules = {fd for fd, _ in fence.readable}
    linux.close_all_except({link.fileno(), setup.status_fd, *fence.entrances, *rules})
    settle(fence)
    return fence


def _serve(fence: Fence, link: socket.socket, status_fd: int) -> Step:
    while True:
        data, fds = receive(link)
        if not data:
            os._exit(0)
        request = decode(data)
        answer: dict[str, Any] = {"pids": []}
        for fields in request["children"]:
            fields["limits"] = Limits(**request["limits"])
            fields["fds"] = tuple(fds[at] for at in fields["fds"])
            try:
                pid = linux.clone(fence.run_flags | linux.CLONE_PARENT)
            except OSError as error:
                answer["error"] = str(error)
                break
            if pid == 0:
                return functools.partial(_play, fence, Child(**fields), status_fd)
            answer["pids"].append(pid)
        for fd in fds:
            os.close(fd)
        link.send(encode(answer))


def _play(fence: Fence, child: Child, status_fd: int) -> Step:
    """The child's side: confines itself and says so. Returns the role."""
    try:
        placed = confine(fence, child, status_fd)
        os.write(placed, b"+")  # fails when the worker has died: then nothing is run
        os.close(placed)
    except BaseException as error:
        for fd in (status_fd, len(child.fds)):
            with contextlib.suppress(OSError):
                os.write(fd, f"{child.role}: {type(error).__name__}: {error}".encode())
                break
        os._exit(FAILED)
    return functools.partial(_run, _MAINS[child.role])


def _run(role: Callable[[], None]) -> None:
    try:
        role()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BaseException:  # a broken channel: the program closed it
        os._exit(FAILED)
    os._exit(0)
