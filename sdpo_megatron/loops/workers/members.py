"""A rollout worker as the controller sees it.

Own     started here under the engines' guardian, watched, started again when it dies
Guest   started by somebody else, on any machine; comes and goes
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sdpo_megatron.errors import WorkerDied
from sdpo_megatron.loops.workers.channel import Channel
from sdpo_megatron.rollout.config import WorkerConfig
from serving.launch import GUARDIAN

_TAIL_LINES = 8


class Member:
    """A worker.

    Attributes:
        name: Of it alone.
        channel: None while there is none.
        ready: It takes leases.
        heard: When it last said something (`time.monotonic`).
    """

    def __init__(self, name: str, config: WorkerConfig) -> None:
        self.name, self.ready = name, False
        self.channel: Channel | None = None
        self.heard = time.monotonic()
        self._config, self._silent = config, False

    def end_if_silent(self) -> None:
        """Have it ended when it has said nothing for too long."""
        limit = self._config.silence_timeout_s
        if self.ready and not self._silent and time.monotonic() - self.heard > limit:
            self._silent = True
            self.end()

    @property
    def silence(self) -> str:
        """What ended it, in words, where it was silence."""
        return f"it said nothing for {self._config.silence_timeout_s:g} s" if self._silent else ""

    def end(self) -> None:
        """Have it ended; nothing happens where it is not there."""
        raise NotImplementedError


class Guest(Member):
    """A worker that joined by itself. It is gone when its channel ends."""

    def __init__(self, name: str, config: WorkerConfig, channel: Channel) -> None:
        super().__init__(name, config)
        self.channel = self._line = channel

    def end(self) -> None:
        """Cut its channel; it may come back."""
        self._line.cut()


class Own(Member):
    """A worker that is ours. Whatever ends this process ends it too, with all that it has started.

    Attributes:
        restarts: So far.
    """

    def __init__(self, name: str, config: WorkerConfig, run: Path, socket: str) -> None:
        super().__init__(name, config)
        self.restarts = 0
        self._run, self._socket = run, socket
        self._log = run / "logs" / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._closing = False

    async def keep(self, on_death: Callable[[Own, str], None]) -> None:
        """Run it until `close`, again and again.

        Args:
            on_death: Called each time that it has ended by itself, with why.

        Raises:
            WorkerDied: More often than `max_restarts` allows.
        """
        while True:
            ended = asyncio.ensure_future(await self._start())
            await asyncio.wait([ended], timeout=self._config.start_timeout_s)
            in_time = ended.done() or self.ready
            if not in_time:
                self.end()
            status = await ended
            self.ready, self.channel = False, None
            if self._closing:
                return
            seconds = f"it was not ready within {self._config.start_timeout_s:g} s"
            why = f"it ended with status {status}" if in_time else seconds
            why = self.silence or why
            self._silent = False
            on_death(self, why)
            if self.restarts >= self._config.max_restarts:
                raise WorkerDied(
                    f"rollout worker {self.name}: {why}, and was restarted {self.restarts} times "
                    f"(rollout.workers.max_restarts); the end of {self._log}:\n{self._tail()}"
                )
            self.restarts += 1

    async def close(self, kept: asyncio.Task[None]) -> None:
        """End it in order, and whatever it has started; `kept` is the task of `keep`."""
        self._closing = True
        self.end()
        await kept

    async def _start(self) -> asyncio.Future[int]:
        command = [sys.executable, "-I", "-S", str(GUARDIAN), "--parent", str(os.getpid())]
        command += ["--grace", str(self._config.stop_timeout_s), "--", sys.executable, "-m"]
        command += ["sdpo_megatron.loops.workers.worker", str(self._run), self._socket, self.name]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is the controller's to handle
            )
        if self._closing:
            self.end()
        return asyncio.ensure_future(self._process.wait())

    def end(self) -> None:
        """SIGTERM to its guardian, which sees to the rest."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def _tail(self) -> str:
        try:
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        except OSError:
            return ""
