"""Generation beside training against one after the other: the same work, end to end.

    python benchmarks/overlap.py [--steps 8] [--skip 2] [--rounds 1] [OVERRIDE ...]

Two runs of SmolLM2-135M, taking turns: rollout.max_staleness 0 and 1. Engine and trainer have one
thread each, so that two cores can do both at a time; the learning rate is so small that both sample
from the same policy, and every attempt is distilled. Of the steps after the first `skip`:

    g, t     seconds of a synchronous step that wait for attempts, and all others; g is scaled to
             the tokens that the asynchronous run sampled (t is of the same questions, prompts for
             the most part)
    ideal    max(g, t) / (g + t): what is left when one hides behind the other
    ratio    asynchronous seconds / (g + t)
    gain     (1 - ratio) / (1 - ideal): how much of what could be had is had; above 1 when the
             machine was a little faster in the second run
    hidden   share of g for which the asynchronous trainer did not wait

and what limits it: seconds that the asynchronous trainer still waits for attempts, and how much
slower each side is when both work (they share memory bandwidth and caches). Prints a table, writes
benchmarks/results/overlap.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models" / "smollm2-135m-instruct"
RESULT = ROOT / "benchmarks" / "results" / "overlap.json"
SETTINGS = (
    "experiment=quickstart",
    "parallel=single",
    "run.threads_per_rank=1",
    "run.checkpoint_every=0",
    "run.metrics_port=0",
    "optimizer.lr=1e-12",
    "batch.questions=2",
    "rollout.engine.threads=1",
    "rollout.sampling.max_new_tokens=48",
    "rollout.sampling.concurrency=16",
    "rollout.teacher_prompt.feedback_when=always",  # so that every attempt is distilled,
    "rollout.teacher_prompt.use_own_success=true",  # in each run and at each step
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--skip", type=int, default=2, help="steps that warm up")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="more settings of both runs")
    arguments = parser.parse_args()
    from sdpo_megatron.weights.smollm2 import prepare

    prepare(MODEL)
    rows: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    for number in range(arguments.rounds):
        for staleness in (0, 1) if number % 2 == 0 else (1, 0):
            found = run(staleness, arguments.steps, arguments.overrides)
            rows[staleness] += found[arguments.skip :]
    results = {
        "machine": {"cores": os.cpu_count()},
        "steps": arguments.steps - arguments.skip,
        "rounds": arguments.rounds,
        "overrides": arguments.overrides,
        **compare(rows[0], rows[1]),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")
    for name, value in results.items():
        print(f"{name:28} {value:.3f}" if isinstance(value, float) else f"{name:28} {value}")


def run(staleness: int, steps: int, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """The metrics of a run's steps."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sdpo_megatron.cli", "train", *SETTINGS, *overrides]
        command += [f"rollout.max_staleness={staleness}", f"run.steps={steps}"]
        command += [f"run.folder={folder}/run", f"model.path={MODEL}"]
        subprocess.run(command, cwd=ROOT, check=True)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def compare(
    synchronous: Sequence[dict[str, float]], asynchronous: Sequence[dict[str, float]]
) -> dict[str, float]:
    """The figures, from the metrics of the steps of both runs."""
    wait, rest = _seconds(synchronous)
    waiting, working = _seconds(asynchronous)
    tokens, others = _tokens(synchronous), _tokens(asynchronous)
    generate = wait * others / tokens
    ideal = max(generate, rest) / (generate + rest)
    ratio = (waiting + working) / (generate + rest)
    return {
        "synchronous_rollout_s": wait,
        "synchronous_train_s": rest,
        "asynchronous_wait_s": waiting,
        "asynchronous_train_s": working,
        "synchronous_tokens": tokens,
        "asynchronous_tokens": others,
        "ideal": ideal,
        "ratio": ratio,
        "gain": (1 - ratio) / (1 - ideal),
        "hidden": 1 - waiting / generate,
        "train_slower_beside_engine": working / rest,
        "rollout_slower_beside_trainer": (waiting + working) / generate,
    }


def _seconds(rows: Sequence[dict[str, float]]) -> tuple[float, float]:
    """Of a step: waiting for attempts, and everything else."""
    wait = statistics.mean(row["time/rollout_s"] for row in rows)
    return wait, statistics.mean(row["time/step_s"] for row in rows) - wait


def _tokens(rows: Sequence[dict[str, float]]) -> float:
    """Sampled in a step."""
    return statistics.mean(
        row["rollout/response_tokens_mean"] * row["rollout/attempts"] for row in rows
    )


if __name__ == "__main__":
    main()
