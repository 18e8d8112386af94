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
    parsed = parser.parse_args(arguments)
    return asyncio.run(_until_told(parsed.run, parsed.name, parsed.patience))


async def _until_told(run: Path, name: str, patience_s: float) -> int:
    staying = asyncio.ensure_future(_stay(run, name, patience_s))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, staying.cancel)
    try:
        return await staying
    except asyncio.CancelledError:
        _say("told to end")
        return DONE


async def _stay(run: Path, name: str, patience_s: float) -> int:
    _say(f"{name}: waiting for a trainer of {run}")
    alone_since, told = time.monotonic(), ""
    while time.monotonic() - alone_since < patience_s:
        problem = await _work_once(run, name)
        if not problem:
            _say("the trainer is gone; waiting for the next one")
            alone_since, told = time.monotonic(), ""
        elif problem != told:
            _say(problem)
            told = problem
        await asyncio.sleep(_POLL_S)
    _say(f"no trainer came within {patience_s:g} s")
    return DONE


async def _work_once(run: Path, name: str) -> str:
    """Work until the controller goes. Why that was not possible, if it was not.

    Raises:
        SdpoError: This machine cannot work for the run.
    """
    rollouts = run / "rollouts"
    try:
        door = Door.read(rollouts)
        if door is None:
            return "no trainer listens there (rollout.workers.listen_address)"
        config = load_saved(run / "config.yaml")
        channel = await door.enter(config.rollout.workers.silence_timeout_s)
    except OSError as error:
        return str(error)
    try:
        channel.send("hello", name=name)
        answer = await channel.receive() or {"kind": "refused", "why": "the trainer hung up"}
        if answer["kind"] == "refused":
            return str(answer["why"])
        _say("a trainer is there")
        worker = Worker(config, rollouts, channel)
        await worker.run()
        if worker.failure is not None:
            raise worker.failure
        return ""
    finally:
        await channel.close()


def _say(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S}  {text}", flush=True)
