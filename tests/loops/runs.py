"""Real runs of `sdpo train` on a tiny random model: started, watched, killed and compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

STEPS = 4
LIMIT_S = 300.0


def overrides(model: Path, folder: Path, *more: str) -> list[str]:
    """Exactly reproducible: fp32, seeded sampling, one request at a time."""
    return [
        "precision=fp32",
        f"model.path={model}",
        "model.prepare=null",
        f"run.folder={folder}",
        f"run.steps={STEPS}",
        "run.checkpoint_every=1",
        "run.metrics_port=0",
        "run.threads_per_rank=1",
        "task.name=gsm8k",
        "task.limit=4",
        "task.verifier=tests.loops.parity:EvenLength",
        "batch.questions=2",
        "batch.micro_batch_tokens=2048",
        "rollout.sampling.num_attempts=3",
        "rollout.sampling.max_new_tokens=10",
        "rollout.sampling.max_prompt_tokens=1000",
        "rollout.teacher_prompt.max_prompt_tokens=1000",
        "rollout.sampling.concurrency=1",
        "rollout.teacher_prompt.feedback_when=no_solution",
        "rollout.engine.device=cpu",
        "rollout.engine.dtype=float32",
        "rollout.engine.deterministic=true",
        "rollout.engine.threads=1",
        "rollout.engine.max_total_tokens=8192",
        "optimizer.lr=1e-3",
        "judge.workers=1",
        *more,
    ]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """`sdpo train` in a process of its own, without a terminal."""
    return start_command("train", *arguments)


def start_command(*words: str) -> subprocess.Popen[str]:
    """The same of any command of `sdpo`."""
    return subprocess.Popen(
        [sys.executable, "-m", "sdpo_megatron.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )


def finish(process: subprocess.Popen[str], *, code: int = 0) -> str:
    """Wait for the end; the output. Fails the test when the exit code is another."""
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, output
    return output


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Poll quickly until `condition`; fails when the run ends first."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.005)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The run's processes: launcher, ranks, engine, verifiers."""
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 of the launcher alone; everything else must follow by itself within 20 s."""
    members = family(process)
    os.kill(process.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(members, timeout=20)
    alive = [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"left behind: {alive}"
    # Ends when nobody holds the run's output any more, not even what was just being started.
    process.communicate(timeout=20)


def numbers(folder: Path) -> list[dict[str, float]]:
    """What must not depend on how often the run was killed: losses, norms and rewards by step."""
    keys = ("step", "policy_version", "train/loss", "train/grad_norm", "teacher/kl_mean")
    keys += ("rollout/reward_mean", "teacher/ema_distance", "rollout/response_tokens_mean")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: json.loads(line)[key] for key in keys} for line in lines]
