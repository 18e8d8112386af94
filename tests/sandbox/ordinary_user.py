"""A sandbox whose host is an ordinary user, for tests that are run by root.

A child process leaves root behind for good, starts the sandbox and runs what it is sent. Where the
interpreter lies in a folder that only root may enter, the child first makes a private mount
namespace in which others may.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdpo_megatron.errors import VerifierUnavailable
from sdpo_megatron.sandbox import Judge, Program, RunLimits, RunResult, Sandbox, SandboxConfig
from sdpo_megatron.sandbox.inside.fence import linux
from sdpo_megatron.sandbox.inside.plain_data import receive_frame, send_frame
from sdpo_megatron.sandbox.inside.verdict.judgement import Judgement, TestResult
from sdpo_megatron.sandbox.inside.verdict.statement import Statement
from tests.sandbox import pod

USER = 54321
_REPOSITORY = Path(__file__).parents[2]


class UserSandbox:
    """Like `Sandbox`, run by an ordinary user in a process of its own."""

    def __init__(self, config: SandboxConfig, limits: RunLimits, place: str = "") -> None:
        """`place` is "" for a machine, else one of `pod.PLACES`."""
        self.config = config
        to_read, to_write = os.pipe(), os.pipe()
        code = "from tests.sandbox.ordinary_user import serve; serve"
        code += f"({to_read[0]}, {to_write[1]}, {place!r})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[to_read[0], to_write[1]], cwd=_REPOSITORY
        )
        os.close(to_read[0])
        os.close(to_write[1])
        self._out, self._in = to_read[1], to_write[0]
        send_frame(self._out, [asdict(config), asdict(limits)])
        hello = receive_frame(self._in)
        if "error" in hello:
            self.close()
            raise VerifierUnavailable(hello["error"])
        self.layers: tuple[str, ...] = hello["layers"]

    def run(self, program: Program) -> RunResult:
        return self.run_many([program])[0]

    def run_many(self, programs: list[Program]) -> list[RunResult]:
        send_frame(self._out, [asdict(program) for program in programs])
        answers = receive_frame(self._in)
        if isinstance(answers, dict):
            raise VerifierUnavailable(answers["error"])
        return [_result(answer) for answer in answers]

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.wait(timeout=60)


def serve(to_read: int, to_write: int, place: str) -> None:
    """The child: becomes the ordinary user, then answers until its input ends."""
    _open_the_way()
    if place:
        pod.enter(place)
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    if place:
        pod.refuse_namespaces()
    try:
        config, limits = receive_frame(to_read)
        sandbox = Sandbox(SandboxConfig(**config), RunLimits(**limits)).start()
    except Exception as error:
        send_frame(to_write, {"error": f"{type(error).__name__}: {error}"})
        return
    send_frame(to_write, {"layers": sandbox.layers})
    with sandbox, ThreadPoolExecutor(sandbox.config.workers) as pool:
        while True:
            try:
                programs = [_program(fields) for fields in receive_frame(to_read)]
            except EOFError:
                return
            try:
                results = [asdict(result) for result in pool.map(sandbox.run, programs)]
                send_frame(to_write, results)
            except Exception as error:
                send_frame(to_write, {"error": f"{type(error).__name__}: {error}"})


def _result(fields: dict[str, Any]) -> RunResult:
    judgement = fields.pop("judgement")
    if judgement is not None:
        results = tuple(TestResult(**result) for result in judgement.pop("results"))
        judgement = Judgement(**judgement, results=results)
    return RunResult(**fields | {"report": Statement(**fields["report"])}, judgement=judgement)


def _program(fields: dict[str, Any]) -> Program:
    judge = fields.pop("judge")
    return Program(**fields, judge=Judge(**judge) if judge else None)


def _open_the_way() -> None:
    """Replaces each folder on the way to the interpreter that others may not enter, in a mount
    namespace of our own.
    """
    needed = [os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, str(_REPOSITORY))]
    blocked = {
        folder: [path for path in needed if folder in _blocked(path)]
        for folder in {folder for path in needed for folder in _blocked(path)}
    }
    if not blocked:
        return
    linux.call("unshare", linux.NAMESPACES["mount"])
    linux.mount("none", "/", "none", linux.MS_REC | linux.MS_PRIVATE)
    for folder, paths in blocked.items():
        sources = {path: os.open(path, os.O_PATH) for path in paths}
        linux.mount("tmpfs", folder, "tmpfs", 0, "mode=755")
        for path, source in sources.items():
            os.makedirs(path, exist_ok=True)
            linux.mount(f"/proc/self/fd/{source}", path, "none", linux.MS_BIND | linux.MS_REC)
            os.close(source)


def _blocked(path: str) -> list[str]:
    ancestors = [str(parent) for parent in reversed(Path(path).parents)]
    return [folder for folder in ancestors if not os.stat(folder).st_mode & 0o001][:1]
