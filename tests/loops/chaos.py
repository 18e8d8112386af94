"""A run whose engine, worker and trainer are killed at random, over and over."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil

from sdpo_megatron.exit_codes import STOPPED
from tests.loops import runs

VICTIMS = {
    "engine": "sglang::scheduler",
    "worker": "sdpo_megatron.loops.workers.worker",
    "trainer": "sdpo_megatron.loops.rank",
}
ETA = 1
_AFTER_A_STEP = 0.8
_LATER_S = 5.0


def arguments(model: Path, folder: Path) -> list[str]:
    """A run without an end that runs one batch ahead and saves often."""
    return [
        *runs.overrides(model, folder),
        f"rollout.max_staleness={ETA}",
        "rollout.sampling.concurrency=8",
        "rollout.engine.max_restarts=100000",
        "rollout.workers.max_restarts=100000",
        "run.steps=100000",
        "run.checkpoint_every=2",
    ]


def run_under_kills(model: Path, folder: Path, kills: int, seed: int = 0) -> Counter[str]:
    """Start the run, kill `kills` times, start it again where that ended it, let it go on for two
    more steps and stop it in order; how often each was killed.

    Most kills come some time after a step that followed the last one, anywhere in a step or a swap;
    one in five comes at once, while the last one is being recovered from.
    """
    draw, killed = random.Random(seed), Counter[str]()
    process = runs.start(arguments(model, folder))
    reached = 0
    while killed.total() < kills:
        if draw.random() < _AFTER_A_STEP:
            _wait_for_step(folder, reached + 1, process)
        time.sleep(draw.uniform(0.0, _LATER_S))
        assert process.poll() is None, process.communicate()[0]  # nothing but a kill ends it
        victim = draw.choice([*VICTIMS, "run"])
        if not _kill(victim, process.pid):
            continue  # it is not up yet
        killed[victim] += 1
        reached = _steps(folder)
        print(f"kill {killed.total()} of {kills}: {victim}, after step {reached}", flush=True)
        if victim in ("trainer", "run"):
            process.communicate(timeout=runs.LIMIT_S)
            process = runs.start(["--resume", str(folder)])
    _wait_for_step(folder, _steps(folder) + 2, process)
    process.send_signal(signal.SIGTERM)
    runs.finish(process, code=STOPPED)
    return killed


def _kill(victim: str, launcher: int) -> bool:
    """Whether there was such a process. "run" is the launcher: everything else follows it."""
    if victim == "run":
        psutil.Process(launcher).kill()
        return True
    for process in psutil.Process(launcher).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if VICTIMS[victim] in title and "guardian.py" not in title:
                process.kill()
                return True
    return False


def _wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    runs.wait_until(lambda: _steps(folder) >= step, process)


def _steps(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    with contextlib.suppress(ValueError):  # a line that is being written
        return int(json.loads(lines[-1])["step"]) if lines else 0
    return len(lines) - 1
