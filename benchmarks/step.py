"""A training step of SmolLM2-135M: seconds by phase, and how far from what else could be had.

    python benchmarks/step.py [--quick]

1. trainer    our teacher pass, student pass and optimiser step against the same maths in plain
              transformers (padded batch, dense log-softmax, top-k, gather, autograd, torch's
              AdamW), same threads, same run
2. teacher    the step through two pipeline stages with and without the teacher's pass; a forward is
              a third of a forward and backward, so 4/3 is what it should cost
3. loop       `sdpo train experiment=quickstart` for a few steps: seconds by phase, tokens/s

Ratios are of medians over interleaved repetitions in one run. Prints a table, writes
benchmarks/results/step.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models" / "smollm2-135m-instruct"
PROMPT, TEACHER_PROMPT, RESPONSE = 150, 230, 48
ATTEMPTS = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two repetitions, no loop")
    parser.add_argument("--part", choices=["trainer", "teacher"], help=argparse.SUPPRESS)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments.repetitions)), flush=True)
        os._exit(0)
    from sdpo_megatron.weights.smollm2 import prepare

    prepare(MODEL)
    repetitions = 2 if arguments.quick else arguments.repetitions
    results: dict[str, Any] = {
        "machine": {"cores": os.cpu_count()},
        "trainer": _ranks("trainer", 1, repetitions),
        "teacher": _ranks("teacher", 2, repetitions),
    }
    if not arguments.quick:
        results["loop"] = _loop()
    _report(results)
    target = ROOT / "benchmarks" / "results" / "step.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nwrote {target.relative_to(ROOT)}")


# --- 1: the trainer against transformers ----------------------------------------------------------


def trainer(repetitions: int) -> dict[str, float]:
    """Median seconds of a step, ours and transformers', in bf16 with fp32 masters, one process."""
    actor = _actor()
    plain = _Transformers()
    samples = _samples(0)
    ours, theirs = [], []
    for repetition in range(repetitions + 1):
        ours.append(_seconds(lambda: actor.step(actor.share_of(samples))))
        theirs.append(_seconds(lambda: plain.step(samples)))
        print(
            f"repetition {repetition}: {ours[-1]:.2f} s, transformers {theirs[-1]:.2f} s",
            file=sys.stderr,
        )
    mine, other = statistics.median(ours[1:]), statistics.median(theirs[1:])
    tokens = ATTEMPTS * (PROMPT + RESPONSE)
    return {
        "ours_s": mine,
        "transformers_s": other,
        "ratio": mine / other,
        "tokens_per_s": tokens / mine,
    }


class _Transformers:
    """The same step written plainly: what a user would otherwise have."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
        self.teacher = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
        self.masters = [p.detach().float().clone() for p in self.model.parameters()]
        self.ema = [p.clone() for p in self.masters]
        self.optimizer = torch.optim.AdamW(self.masters, lr=5e-5, weight_decay=0.01)

    def step(self, samples: list[Any]) -> None:
        import torch

        self.optimizer.zero_grad()
        for start in range(0, len(samples), 4):
            self._micro_batch(samples[start : start + 4], len(samples) * RESPONSE)
        for master, param in zip(self.masters, self.model.parameters(), strict=True):
            master.grad, param.grad = param.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for kept, master in zip(self.ema, self.masters, strict=True):
                kept.lerp_(master, 0.05)
            for pair in (
                zip(self.model.parameters(), self.masters, strict=True),
                zip(self.teacher.parameters(), self.ema, strict=True),
            ):
                for param, master in pair:
                    param.copy_(master)

    def _micro_batch(self, samples: list[Any], total: int) -> None:
        import torch

        with torch.no_grad():
            teacher = self._log_probs(
                self.teacher, [(*s.teacher_prompt_ids, *s.response_ids) for s in samples]
            )
        student = self._log_probs(self.model, [(*s.prompt_ids, *s.response_ids) for s in samples])
        ids = student.topk(100).indices
        s, t = (_with_tail(log.gather(-1, ids)) for log in (student, teacher))
        m = torch.log(0.5 * s.exp() + 0.5 * t.exp())
        loss = 0.5 * (s.exp() * (s - m)).sum(-1) + 0.5 * (t.exp() * (t - m)).sum(-1)
        (loss.sum() / total).backward()

    def _log_probs(self, model: Any, sequences: list[tuple[int, ...]]) -> Any:
        import torch

        logits = model(torch.tensor(sequences), logits_to_keep=RESPONSE + 1).logits[:, :-1]
        return torch.log_softmax(logits.float(), -1)


def _with_tail(log_probs: Any) -> Any:
    import torch

    mass = torch.logsumexp(log_probs, -1, keepdim=True).clamp(max=-1e-7)
    return torch.cat([log_probs, torch.log(-torch.expm1(mass))], -1)


# --- 2: what the teacher costs --------------------------------------------------------------------


def teacher(repetitions: int) -> dict[str, float]:
    """Median seconds of the model's passes through two stages, with and without the teacher's.

    Rank 0 tells.
    """
    from sdpo_megatron.actor.batches.packing import pack, padded_length, partition

    actor = _actor(pipeline=2)
    # Student and teacher read the same prompts here, so that a pass is a pass.
    samples = _samples(0, same_prompts=True)
    plan = partition(samples, num_ranks=1, token_budget=actor.config.batch.micro_batch_tokens)[0]
    chosen = [[samples[i] for i in part] for part in plan]
    length = padded_length(chosen, "student", multiple_of=1)
    batches = [pack(part, "student", length, actor.runtime.device) for part in chosen]

    def loss(_number: int, hidden: Any) -> tuple[Any, None]:
        return hidden.float().square().sum() * 1e-6, None

    def both() -> None:
        actor.pipeline.hidden_states(batches)
        actor.pipeline.forward_backward(batches, loss)

    with_teacher, without = [], []
    for _ in range(repetitions + 1):
        with_teacher.append(_seconds(both))
        without.append(_seconds(lambda: actor.pipeline.forward_backward(batches, loss)))
    return {
        "with_s": statistics.median(with_teacher[1:]),
        "without_s": statistics.median(without[1:]),
        "ratio": statistics.median(with_teacher[1:]) / statistics.median(without[1:]),
        "micro_batches": float(len(batches)),
    }


PARTS = {"trainer": trainer, "teacher": teacher}


# --- 3: the loop ----------------------------------------------------------------------------------


def _loop() -> dict[str, float]:
    """Medians of the metrics of a short quickstart, its first step left out."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, "-m", "sdpo_megatron.cli", "train", "experiment=quickstart"),
                *("run.steps=4", "run.checkpoint_every=2", "run.metrics_port=0"),
                *(f"run.folder={folder}/run", f"model.path={MODEL}"),
            ],
            check=True,
            stdout=sys.stderr,
            cwd=ROOT,
        )
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines][1:]
    keys = [
        key
        for key in steps[0]
        if key.startswith(("time/", "memory/")) or key.endswith("tokens_per_s")
    ]
    return {key: statistics.median(step[key] or 0.0 for step in steps) for key in keys}


# --- common ---------------------------------------------------------------------------------------


def _ranks(part: str, world: int, repetitions: int) -> dict[str, float]:
    """Run a part on `world` ranks; the cores are shared among them."""
    threads = max(1, (os.cpu_count() or 1) // world)
    print(f"measuring: {part} ({world} rank(s) x {threads} thread(s))", flush=True)
    command = [sys.executable, __file__, "--part", part, "--repetitions", str(repetitions)]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29631"}
    ranks = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | shared
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(threads)},
        )
        for rank in range(world)
    ]
    outputs = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit(f"the part {part} failed; its message is above")
    found: dict[str, float] = json.loads(outputs[0].splitlines()[-1])
    return found


def _actor(pipeline: int = 1) -> Any:
    from sdpo_megatron.actor.runtime import start_runtime

    runtime = start_runtime()
    runtime.init_process_group()
    from sdpo_megatron.actor.actor import Actor
    from sdpo_megatron.actor.config import ActorConfig, BatchConfig, OptimizerConfig
    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.weights.spec import ModelSpec

    config = ActorConfig(
        parallel=ParallelConfig(pipeline=pipeline),
        precision=PrecisionConfig(dtype="bf16"),
        batch=BatchConfig(micro_batch_tokens=1200),
        optimizer=OptimizerConfig(lr=5e-5),
    )
    return Actor(config, ModelSpec.from_folder(MODEL), MODEL, runtime)


def _samples(seed: int, *, same_prompts: bool = False) -> list[Any]:
    from sdpo_megatron.nouns import TrainSample

    draw = random.Random(seed)

    def tokens(number: int) -> tuple[int, ...]:
        return tuple(draw.randrange(100, 49000) for _ in range(number))

    prompt, teacher_prompt = tokens(PROMPT), tokens(TEACHER_PROMPT)
    return [
        TrainSample(
            question_id="q",
            index=i,
            prompt_ids=prompt,
            teacher_prompt_ids=prompt if same_prompts else teacher_prompt,
            response_ids=tokens(RESPONSE),
            loss_mask=(True,) * RESPONSE,
            log_probs=(-1.0,) * RESPONSE,
        )
        for i in range(ATTEMPTS)
    ]


def _seconds(action: Any) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start


def _report(results: dict[str, Any]) -> None:
    one, two = results["trainer"], results["teacher"]
    print(
        f"\ntrainer   {one['ours_s']:.2f} s a step, {one['tokens_per_s']:.0f} tokens/s; "
        f"transformers {one['transformers_s']:.2f} s;"
    )
    print(f"          ratio {one['ratio']:.2f} (at most 1.2)")
    print(
        f"teacher   {two['with_s']:.2f} s with, {two['without_s']:.2f} s without: ratio "
        f"{two['ratio']:.2f} (4/3 = 1.33)"
    )
    for key, value in results.get("loop", {}).items():
        print(f"loop      {key:24s} {value:12.1f}")


if __name__ == "__main__":
    main()
