"""``sdpo worker RUN_FOLDER``: a rollout worker on any machine that has the run's folder.

It may be started before the run, finds the controller's door in the folder, and works until the
controller goes; then it waits for the next one, which may be elsewhere. SIGTERM ends it in order.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sdpo_megatron.config import load_saved
from sdpo_megatron.exit_codes import DONE
from sdpo_megatron.loops.workers.door import Door
from sdpo_megatron.loops.workers.worker import Worker
from sdpo_megatron.rollout.config import WAITING, WORKING

_POLL_S = 1.0
_PATIENCE_S = 600.0


def main(arguments: Sequence[str]) -> int:
    """Work; the exit code is 0 when it was told to end, or no trainer comes any more.

    Raises:
        SdpoError: This machine cannot work for the run: no sandbox, say, or no model.
    """
    parser = argparse.ArgumentParser(
        prog="sdpo worker",
        description="Sample, judge and write groups for a run whose trainer is elsewhere "
        "(rollout.workers.listen_address). The run folder must be the same files at the same "
        "path, and so must the model and the task.",
    )
    parser.add_argument("run", type=Path, help="the run folder; it may come later")
    parser.add_argument(
        "--name", default=socket.gethostname(), help="unlike any other's (%(default)s)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=_PATIENCE_S,
        metavar="SECONDS",
        help="leave when no trainer has been there for so long (%(default)g)",
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help=f"rewritten every second, for probes: {WAITING} or {WORKING}",
    )
    parsed = parser.parse_args(arguments)
    return asyncio.run(
        _until_told(Guesting(parsed.run, parsed.name, parsed.state, parsed.patience))
    )


async def _until_told(guest: Guesting) -> int:
    staying = asyncio.ensure_future(guest.stay())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, staying.cancel)
    try:
        return await staying
    except asyncio.CancelledError:
        _say("told to end")
        return DONE


class Guesting:
    """A worker's stay with one trainer after the other."""

    def __init__(self, run: Path, name: str, state: Path | None, patience_s: float) -> None:
        self._run, self._name, self._state_file, self._patience_s = run, name, state, patience_s
        self._state = WAITING

    async def stay(self) -> int:
        """Until no trainer has come for long enough. Raises as `main`."""
        beating = asyncio.ensure_future(self._beat())
        _say(f"{self._name}: waiting for a trainer of {self._run}")
        alone_since, told = time.monotonic(), ""
        try:
            while time.monotonic() - alone_since < self._patience_s:
                problem = await self._work_once()
                if not problem:
                    _say("the trainer is gone; waiting for the next one")
                    alone_since, told = time.monotonic(), ""
                elif problem != told:
                    _say(problem)
                    told = problem
                await asyncio.sleep(_POLL_S)
        finally:
            beating.cancel()
        _say(f"no trainer came within {self._patience_s:g} s")
        return DONE

    async def _work_once(self) -> str:
        """Work until the controller goes. Why that was not possible, if it was not."""
        rollouts = self._run / "rollouts"
        try:
            door = Door.read(rollouts)
            if door is None:
                return "no trainer listens there (rollout.workers.listen_address)"
            config = load_saved(self._run / "config.yaml")
            channel = await door.enter(config.rollout.workers.silence_timeout_s)
        except OSError as error:
            return str(error)
        try:
            channel.send("hello", name=self._name)
            answer = await channel.receive() or {"kind": "refused", "why": "the trainer hung up"}
            if answer["kind"] == "refused":
                return str(answer["why"])
            _say("a trainer is there")
            self._state = WORKING
            worker = Worker(config, rollouts, channel)
            await worker.run()
            if worker.failure is not None:
                raise worker.failure
            return ""
        finally:
            self._state = WAITING
            await channel.close()

    async def _beat(self) -> None:
        """Say that the loop turns, and what it does."""
        while self._state_file is not None:
            self._state_file.write_text(f"{self._state}\n")
            await asyncio.sleep(_POLL_S)


def _say(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S}  {text}", flush=True)
