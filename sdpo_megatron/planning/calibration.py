"""Speeds of a machine from a run on it: metrics.jsonl against what the model says was to do.

What is fitted, by least squares over the steps of the run:

    rollout   = prefill + iteration_s x longest + sequence_s x tokens    (at least two steps)
    teacher, student, optimizer, publish: work / seconds, of all steps together

Prompts' lengths are not in the metrics: give those of the run's task, and give the same ones when
the speeds are used for a prediction. The first step warms everything up and is left out, of decode
where three steps or more are there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sdpo_megatron.config import TrainConfig, load_saved
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.cluster import Cluster
from sdpo_megatron.planning.lengths import Lengths
from sdpo_megatron.planning.phases import Model
from sdpo_megatron.planning.speeds import FAST, Speeds
from sdpo_megatron.planning.workload import Workload
from sdpo_megatron.weights.spec import ModelSpec

PHASES = ("rollout", "teacher", "student", "optimizer", "publish")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A run: its steps' metrics, and the model of each step's work."""

    config: TrainConfig
    spec: ModelSpec
    prompt: float
    teacher_prompt: float
    steps: tuple[Mapping[str, float], ...]

    @classmethod
    def read(
        cls, run: Path, *, prompt: float, teacher_prompt: float, spread: float = 0.6
    ) -> Measured:
        """
        Raises:
            ConfigError: `run` is no run folder, or has no finished step.
        """
        if not (run / "config.yaml").is_file() or not (run / "metrics.jsonl").is_file():
            raise ConfigError(f"{run} is no run folder: it lacks config.yaml or metrics.jsonl")
        config = load_saved(run / "config.yaml")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = tuple(
            {key: float(value) for key, value in line.items() if isinstance(value, int | float)}
            for line in lines
        )
        if not steps:
            raise ConfigError(f"{run} has no finished step")
        return cls(
            config=config,
            spec=ModelSpec.from_folder(config.model.path),
            prompt=prompt,
            teacher_prompt=teacher_prompt,
            steps=steps,
        )

    def models(self, speeds: Speeds) -> Iterator[Model]:
        """Of each step, with its own lengths and share of taught attempts."""
        sampling = self.config.rollout.sampling
        base = Workload.of(self.config, prompt=self.prompt, teacher_prompt=self.teacher_prompt)
        for metrics in self.steps:
            mean = metrics["rollout/response_tokens_mean"]
            tokens = mean * base.attempts
            work = replace(
                base,
                lengths=fitted_lengths(
                    mean, metrics["rollout/truncated_fraction"], sampling.max_new_tokens
                ),
                taught=min(1.0, metrics["train/tokens"] / tokens),
            )
            cluster = Cluster.here(self.config, work)
            yield Model(
                config=self.config, spec=self.spec, cluster=cluster, speeds=speeds, work=work
            )

    def seconds(self, phase: str) -> list[float]:
        return [metrics[f"time/{phase}_s"] for metrics in self.steps]


def fitted_lengths(mean: float, cut: float, limit: int) -> Lengths:
    """The distribution with this mean after the cut and, as nearly, this share of cut ones."""
    spreads = [0.05 * i for i in range(1, 41)]

    def with_spread(spread: float) -> Lengths:
        low, high = 0.01, 4.0 * limit
        for _ in range(60):  # the mean after the cut grows with the mean before it
            middle = math.sqrt(low * high)
            found = Lengths(mean=middle, spread=spread, limit=limit)
            low, high = (middle, high) if found.expected() < mean else (low, middle)
        return Lengths(mean=low, spread=spread, limit=limit)

    return min(map(with_spread, spreads), key=lambda found: abs(found.cut_share() - cut))


def calibrated(run: Measured, title: str) -> Speeds:
    """The speeds with which the model says what was measured.

    Raises:
        ConfigError: Fewer than two steps: decode cannot be told from what a batch costs at least.
    """
    if len(run.steps) < 2:
        raise ConfigError("a calibration needs a run of two steps or more")
    kept = replace(run, steps=run.steps[1:])
    models = list(kept.models(_unit(title)))
    student = _rate([m.student().seconds for m in models], kept.seconds("student"))
    score = _rate([_passes(m) for m in models], kept.seconds("teacher"))
    optimizer = _rate([m.optimizer().seconds for m in models], kept.seconds("optimizer"))
    metrics, attempts = kept.steps, models[0].work.attempts
    known = replace(
        _unit(title),
        train_flops=student,
        score_flops=score,
        # The engines have the cores that the ranks have, in turn with them.
        prefill_flops=score * models[0].cluster.ranks / models[0].cluster.engines,
        memory_bytes_s=optimizer,
        swap_s=_mean(kept.seconds("publish")),
        judge_s=_mean([m["time/verify_s"] for m in metrics]) / attempts,
        step_s=max(0.0, _mean([_rest(m) for m in metrics])),
    )
    return _with_decode(known, run if len(run.steps) == 2 else kept)


def _unit(title: str) -> Speeds:
    """All rates 1, all constants 0; wires and disks so fast that they do not show."""
    return Speeds(
        title=title,
        train_flops=1.0,
        score_flops=1.0,
        prefill_flops=FAST,
        iteration_s=1e-9,
        sequence_s=0.0,
        context_s=0.0,
        memory_bytes_s=1.0,
        link_bytes_s=FAST,
        network_bytes_s=FAST,
        host_bytes_s=FAST,
        disk_bytes_s=FAST,
        shared_bytes_s=FAST,
        swap_s=0.0,
    )


def _passes(model: Model) -> float:
    """The teacher's passes at one operation a second, without the swap of weights."""
    return model.work.scoring_flops(model.spec) * model.bubble() / model.cluster.ranks


def _with_decode(known: Speeds, run: Measured) -> Speeds:
    """iteration_s and sequence_s by least squares."""
    rows = []
    for model, seconds in zip(run.models(known), run.seconds("rollout"), strict=True):
        longest = model.work.lengths.longest(model.work.attempts)
        tokens = model.work.response_tokens / model.cluster.engines
        rows.append((longest, tokens, seconds - model.prefill_s() - known.judge_s))
    iteration, sequence = _two_unknowns(rows)
    return replace(known, iteration_s=iteration, sequence_s=sequence)


def _two_unknowns(rows: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """x, y >= 0 that make a x + b y nearest to c; both where the rows tell them apart, else y."""
    aa, ab, bb, ac, bc = (
        sum(product)
        for product in zip(*((a * a, a * b, b * b, a * c, b * c) for a, b, c in rows), strict=True)
    )
    determinant = aa * bb - ab * ab
    if determinant > 1e-9 * aa * bb:
        x, y = (ac * bb - bc * ab) / determinant, (bc * aa - ac * ab) / determinant
        if x > 0 and y > 0:
            return x, y
    return (ac / aa, 0.0) if ac * ac / aa > bc * bc / bb else (1e-9, bc / bb)


def _rate(work: Sequence[float], seconds: Sequence[float]) -> float:
    return sum(work) / sum(seconds)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rest(metrics: Mapping[str, float]) -> float:
    phases = (*PHASES, "checkpoint")
    return metrics["time/step_s"] - sum(metrics.get(f"time/{phase}_s", 0.0) for phase in phases)


def compared(run: Measured, speeds: Speeds) -> list[tuple[str, float, float]]:
    """(phase, predicted, measured) seconds of the whole run; the last row is the step."""
    models = list(run.models(speeds))
    rows = []
    for number, phase in enumerate(PHASES):
        predicted = sum(model.phases()[number].seconds for model in models)
        rows.append((phase, predicted, sum(run.seconds(phase))))
    checkpoints = sum(metrics.get("time/checkpoint_s", 0.0) for metrics in run.steps)
    total = sum(predicted for _, predicted, _ in rows) + speeds.step_s * len(models)
    rows.append(("step", total, sum(run.seconds("step")) - checkpoints))
    return rows
