"""What only a card can show, in one command: python scripts/gpu_check.py [--out FILE] [STAGE ...]

    versions     the card, the packages, why Transformer Engine cannot be used if it cannot
    local        local layers: logits against transformers, packed against one by one, a step
    te_bf16      a step on Transformer Engine's layers beside one on local layers, packed against
                 one by one; and what a teacher's pass leaves behind:
    tensorwise     student gradients with and without one before them, hidden states of swapped
    blockwise      weights against a fresh model of that set, live weights after: all to the bit
    loss         the fused loss against four matrix products: seconds, peak, kernels; a sweep of
                 chunks; one of eight vocabulary shards; values against float64
    step         seconds of a step by phase, SDPO over GRPO
    resume       a checkpoint, and the step after it to the bit
    moe          a mixture of experts: a step on grouped products against local layers
    hash         the weights' hash against SGLang's kernel

and, with --engine or by name, SGLang on the card beside the trainer:

    engine         a swap proven by SGLang's GPU hash; its log-probs against the trainer's
    engine_fp8     the same with its matrices in block-wise FP8
    engine_memory  what it gives back while the trainer works; it serves the same afterwards

Each of the two is meant for one Hopper card and ten minutes. Each stage is a process of its own,
and its JSON is in --out as soon as it ends, so that a run that is cut short has shown something.
Exit code 1 when a stage failed. With --dry-run the same code runs on a CPU at sizes that a CPU can
do, on local layers in float32: it shows that the stages work, and nothing about a card.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = {  # seconds that each may take
    "versions": 60, "local": 120, "te_bf16": 120, "tensorwise": 120, "blockwise": 120,
    "loss": 240, "step": 180, "resume": 120, "moe": 120, "hash": 60,
    "engine": 300, "engine_fp8": 300, "engine_memory": 300,
}  # fmt: skip
ENGINE = tuple(name for name in STAGES if name.startswith("engine"))


def main(argv: list[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    parser.add_argument(
        "--engine", action="store_true", help="the stages with SGLang, not the others"
    )
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, at small sizes")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.stages) - STAGES.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(STAGES)}")
    results: list[dict[str, object]] = []
    others = [name for name in STAGES if name not in ENGINE]
    for name in arguments.stages or (ENGINE if arguments.engine else others):
        results.append(stage(name, arguments.dry_run))
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps(results[-1]), flush=True)
    return int(any(result["status"] == "failed" for result in results))


def stage(name: str, dry_run: bool) -> dict[str, object]:
    """Run one; its record says passed, failed or skipped, and what was measured."""
    command = [sys.executable, "-m", "scripts.gpu_stages", name, *(["--dry-run"] * dry_run)]
    start = time.monotonic()
    record: dict[str, object] = {"stage": name, "dry_run": dry_run}
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=STAGES[name]
        )
    except subprocess.TimeoutExpired:
        record |= {"status": "failed", "why": f"took more than {STAGES[name]} s"}
    else:
        if done.returncode == 0:
            record |= json.loads(done.stdout.splitlines()[-1])
        else:
            record |= {"status": "failed", "why": done.stderr[-3000:]}
    return record | {"seconds": round(time.monotonic() - start, 1)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
