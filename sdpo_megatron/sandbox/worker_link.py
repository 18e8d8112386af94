"""The host's side of one worker: sends it a run, moves the run's data, and waits for its word on
how the run ended."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import select
import signal
import socket
import time
from dataclasses import replace
from typing import Any

from sdpo_megatron.errors import VerifierUnavailable

from .config import RunLimits, SandboxConfig
from .inside.messages import pack, unpack
from .inside.plain_data import encode
from .inside.run import JUDGE_GRACE_S, MAX_STRETCH
from .inside.verdict import checks
from .inside.verdict.judgement import read_judgement, report_bytes
from .inside.verdict.statement import HEAD_BYTES, read_statement
from .program import Program, RunResult
from .streams import Stream, job_bytes

_LOOK_S = 0.05  # how often streams are looked at that do not wake the host
_GRACE_S = 20.0  # beyond the run's own wall limit, before the worker itself is given up
_RUN_LIMITS = ("wall_s", "cpu_s", "memory_mib", "processes")


class WorkerLink:
    """One worker process. Used by one thread at a time."""

    def __init__(
        self,
        control: socket.socket,
        hello: dict[str, Any],
        config: SandboxConfig,
        limits: RunLimits,
    ) -> None:
        self.layers: tuple[str, ...] = tuple(hello["layers"])
        self.missing: dict[str, str] = dict(hello["missing"])
        self.pid: int = hello["pid"]
        self._control, self._config, self._limits = control, config, limits
        self._runs = 0

    def run(self, program: Program) -> RunResult:
        """Runs one program.

        Raises:
            VerifierUnavailable: The worker failed; it must then be closed.
        """
        allowed = replace(self._limits, **program.limits)
        limits = {name: getattr(allowed, name) for name in _RUN_LIMITS}
        limits |= {"tmp_mib": self._config.tmp_mib, "open_files": self._config.open_files}
        output_limit = allowed.output_kib << 10
        self._runs += 1
        nonce = secrets.token_hex(16)
        exchange = _Exchange(program, nonce, output_limit)
        try:
            request = {"run": self._runs, "judged": program.judge is not None, "limits": limits}
            exchange.hand_over(self._control, request)
            patience = MAX_STRETCH * limits["wall_s"] + JUDGE_GRACE_S + _GRACE_S
            answer = self._pump(exchange, time.monotonic() + patience)
        finally:
            exchange.close()
        if answer.get("run") != self._runs or answer.get("error"):
            said = bytes(exchange.stderr.received[-300:]).decode("utf-8", "replace")
            problem = answer.get("error") or "it answered another run"
            raise VerifierUnavailable(f"sandbox worker {self.pid}: {problem} {said}".rstrip())
        return exchange.result(answer, self.layers)

    def _pump(self, exchange: _Exchange, deadline: float) -> dict[str, Any]:
        control = self._control.fileno()
        killed = False
        look_at = time.monotonic() + _LOOK_S
        while True:
            poller = select.poll()
            poller.register(control, select.POLLIN)
            by_fd = {stream.fd: stream for stream in exchange.streams if stream.is_waited_for()}
            for stream in by_fd.values():
                poller.register(stream.fd, stream.events())
            wait = min(deadline, look_at) - time.monotonic()
            ready = poller.poll(max(0, int(wait * 1000) + 1))
            if any(fd == control for fd, _ in ready):
                answer = self._answer()
                exchange.advance()
                return answer
            for fd, _ in ready:
                by_fd[fd].advance()
            now = time.monotonic()
            if now >= look_at:
                exchange.advance()
                look_at = now + _LOOK_S
            if now >= deadline:
                raise VerifierUnavailable(
                    f"sandbox worker {self.pid} did not answer within its limit"
                )
            if exchange.flooded() and not killed:
                killed = True
                self._control.send(pack({"kill": "output"}))

    def _answer(self) -> dict[str, Any]:
        try:
            data = self._control.recv(65536)
        except OSError as error:
            raise VerifierUnavailable(f"sandbox worker {self.pid}: {error}") from error
        if not data:
            raise VerifierUnavailable(f"sandbox worker {self.pid} died during a run")
        return unpack(data)

    def hang_up(self) -> None:
        """Tells the worker to end, also while another thread is in `run`, which then raises."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def close(self, kill: bool = False) -> None:
        """Ends the worker and what it was running; `kill` when it may no longer be listening."""
        self._control.close()
        if not kill:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class _Exchange:
    """All descriptors of one run, both ends, until the child ends are handed over."""

    def __init__(self, program: Program, nonce: str, output_limit: int) -> None:
        self.nonce = nonce
        self._program = program
        self._child_ends: list[int] = []
        self.streams: list[Stream] = []
        self._child_ends.append(_stdin(program.stdin))
        self.stdout = self._output(output_limit)
        self.stderr = self._output(output_limit)
        said = HEAD_BYTES + (program.answer_bytes if program.mode == "call" else 0)
        job = job_bytes(_attempt_job(program))
        self.channel = self._channel(job, said, wakes=program.mode == "call")
        self.judge: Stream | None = None
        if program.judge is not None:
            rpc = socket.socketpair()
            self._child_ends += [end.detach() for end in rpc]
            job = job_bytes(_judge_job(program, nonce))
            self.judge = self._channel(job, report_bytes(len(program.judge.tests)), wakes=False)
            self._child_ends.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))

    def _output(self, limit: int) -> Stream:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        self._child_ends.append(write_end)
        return self._own(Stream(read_end, limit))

    def _channel(self, job: bytes, limit: int, wakes: bool) -> Stream:
        """`wakes` where more may come than a socket holds. A judge says two lines a test: to wake
        for each would cost more than to read them."""
        ours, theirs = socket.socketpair()
        self._child_ends.append(theirs.detach())
        return self._own(Stream(ours.detach(), limit, job, wakes))

    def _own(self, stream: Stream) -> Stream:
        self.streams.append(stream)
        return stream

    def hand_over(self, control: socket.socket, request: dict[str, Any]) -> None:
        try:
            socket.send_fds(control, [pack(request)], self._child_ends)
        except OSError as error:
            raise VerifierUnavailable(f"the sandbox worker is gone: {error}") from error
        self._close_child_ends()

    def advance(self) -> None:
        """Moves all that can be moved without waiting."""
        for stream in self.streams:
            stream.advance()

    def flooded(self) -> bool:
        return self.stdout.overflowed or self.stderr.overflowed or self.channel.overflowed

    def result(self, answer: dict[str, Any], layers: tuple[str, ...]) -> RunResult:
        judge, judgement = self._program.judge, None
        if self.judge is not None and judge is not None:
            order = [index for index, _ in judge.tests]
            judgement = read_judgement(self.judge.received, self.nonce, order)
        cause: Any = answer["cause"] or ("output" if self.flooded() else "")
        return RunResult(
            nonce=self.nonce,
            cause=cause,
            judge_cause=answer["judge_cause"],
            exit_code=answer["exit_code"],
            signal=answer["signal"],
            stdout=bytes(self.stdout.received),
            stderr=bytes(self.stderr.received),
            report=read_statement(bytes(self.channel.received)),
            judgement=judgement,
            wall_s=answer["wall_s"],
            waited_s=answer["waited_s"],
            cpu_s=answer["cpu_s"],
            peak_memory_mib=answer["peak_memory_mib"],
            layers=layers,
        )

    def _close_child_ends(self) -> None:
        while self._child_ends:
            os.close(self._child_ends.pop())

    def close(self) -> None:
        self._close_child_ends()
        for stream in self.streams:
            stream.close()


def _stdin(data: bytes) -> int:
    """A read-only descriptor yielding `data`: an anonymous file, so no one has to feed a pipe."""
    if not data:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _attempt_job(program: Program) -> dict[str, Any]:
    return {
        "mode": program.mode,
        "prelude": program.prelude,
        "readings": list(program.readings),
        "continues": program.continues,
        "entry": program.entry,
        "args": encode(program.args),
        "answer_bytes": program.answer_bytes,
    }


def _judge_job(program: Program, nonce: str) -> dict[str, Any]:
    judge = program.judge
    assert judge is not None
    return {
        "nonce": nonce,
        "setup": list(judge.setup),
        "tests": [[index, _split(source)] for index, source in judge.tests],
        "entry": program.entry,
        "answer_bytes": program.answer_bytes,
        "shown": list(judge.shown),
        "stop_at_failure": judge.stop_at_failure,
        "rehearse": judge.rehearse,
        "text_limit": judge.text_limit,
    }


_split = functools.lru_cache(4096)(checks.split)  # an item is judged many times
