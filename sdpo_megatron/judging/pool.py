"""A pool of bounded child processes for verifiers: no response can hang or starve the caller.

What ends a job decides what is said of it:

| the child | means | outcome |
| --- | --- | --- |
| used up its CPU time or memory | the response is too complex | a Verdict: wrong, with a reason |
| died otherwise, or hung | infrastructure failed | `VerifierUnavailable`, to be retried |
| says the item is unusable | a mistake in the task | `BadItem` |
| says the verifier raised | a mistake in the verifier | `VerifierBroken` |
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from sdpo_megatron.errors import ConfigError, VerifierBroken, VerifierUnavailable
from sdpo_megatron.fields import PositiveInt, settings
from sdpo_megatron.judging.bounds import pool_wall_s
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.wire import verdict_from_json
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.base import BadItem, graded

MAX_REPLY_BYTES = 16 * 2**20


@settings
class PoolConfig:
    """Size and limits of the child processes."""

    workers: PositiveInt = 2
    """Child processes, and so verifications at once."""

    cpu_limit_s: PositiveInt = 10
    """CPU seconds of one verification; beyond it the response is judged wrong."""

    memory_mib: PositiveInt = 4096
    """Address space of one child in MiB. sympy and its parser need about 400."""


class VerifierPool:
    """Runs verifiers by name or import path.

    An async context manager; children start when first needed.
    """

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._idle: list[Process] = []
        self._all: set[Process] = set()
        self._slots = asyncio.Semaphore(config.workers)
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all children and wait for them. Jobs still running raise VerifierUnavailable."""
        self._closed = True
        self._idle.clear()
        await asyncio.gather(*(self._end(child) for child in list(self._all)))

    async def verify(self, verifier: str, item: Item, response: str) -> Verdict:
        """Judge one response in a child process.

        Raises:
            BadItem: The item lacks what the verifier needs.
            ConfigError: There is no such verifier.
            VerifierBroken: The verifier raised.
            VerifierUnavailable: The child died or hung; worth a retry.
        """
        head = json.dumps({"verifier": verifier, "response": response})[:-1].encode("ascii")
        job = head + b', "item": ' + item.json() + b"}\n"
        wall_s = pool_wall_s(self._config.cpu_limit_s)
        async with self._slots:
            if self._closed:
                raise VerifierUnavailable("the verifier pool is closed")
            child = self._idle.pop() if self._idle else await self._start()
            started = time.monotonic()
            try:
                reply = await asyncio.wait_for(_exchange(child, job), wall_s)
            except TimeoutError as error:
                await self._end(child)
                raise VerifierUnavailable(
                    f"{verifier}: no reply after {wall_s:.0f} s; the child was replaced"
                ) from error
            except BaseException:
                # Cancelled in the middle of a job: its reply must not reach the next one.
                await self._end(child)
                raise
            if reply is None:
                return self._of_a_dead_child(verifier, await self._end(child))
            self._idle.append(child)
        return replace(_judged(verifier, reply), seconds=time.monotonic() - started)

    async def _start(self) -> Process:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "HOME": os.environ.get("HOME", "/"),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        arguments = (str(self._config.cpu_limit_s), str(self._config.memory_mib))
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "sdpo_megatron.judging.worker", *arguments),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                env=environment,
                limit=MAX_REPLY_BYTES,
                # Ctrl-C in a terminal must not end the children before the step is saved
                start_new_session=True,
            )
        except OSError as error:
            raise VerifierUnavailable(f"cannot start a verifier process: {error}") from error
        self._all.add(child)
        return child

    async def _end(self, child: Process) -> int:
        """Kill a child if it still runs; its return code."""
        with contextlib.suppress(ProcessLookupError):
            if child.returncode is None:
                child.kill()
        code = await child.wait()
        self._all.discard(child)
        return code

    def _of_a_dead_child(self, verifier: str, code: int) -> Verdict:
        if code == -signal.SIGXCPU:
            return _too_complex(f"it took more than {self._config.cpu_limit_s} s", "cpu_limit")
        raise VerifierUnavailable(
            f"{verifier}: the verifier process ended with code {code} during a verification"
        )


async def _exchange(child: Process, job: bytes) -> dict[str, Any] | None:
    """Send a job and read its reply; None when the child is gone."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(job)
        await child.stdin.drain()
        line = await child.stdout.readline()
    except (BrokenPipeError, ConnectionResetError):
        line = b""
    except ValueError as error:  # asyncio's word for a line beyond its limit
        raise VerifierBroken(f"its verdict is longer than {MAX_REPLY_BYTES} bytes") from error
    if not line.endswith(b"\n"):
        await (
            child.wait()
        )  # the pipe closed: let the kernel's own return code be the one that is read
        return None
    reply: dict[str, Any] = json.loads(line)
    return reply


def _judged(verifier: str, reply: Mapping[str, Any]) -> Verdict:
    if "verdict" in reply:
        try:
            return verdict_from_json(reply["verdict"])
        except ValueError as error:
            raise VerifierBroken(f"verifier {verifier}: {error}") from error
    message = f"verifier {verifier}: {reply['message']}"
    match reply["error"]:
        case "memory":
            return _too_complex("it needed too much memory", "memory_limit")
        case "bad_item":
            raise BadItem(message)
        case "config":
            raise ConfigError(message)
        case _:
            raise VerifierBroken(message)


def _too_complex(why: str, error: str) -> Verdict:
    return graded(
        False, format_ok=False, feedback=f"The answer could not be evaluated: {why}.", error=error
    )
