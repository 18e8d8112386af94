"""The self-teacher: the same module with another weight set swapped in, scored by forward-only
passes.

`teacher_passes` says which weight set reads which prompt with which coefficient; the teacher's
logits are the sum. What is kept of a pass is the final hidden state of each response token and the
LM-head shard, never logits (architecture.md, decision 2).

| kind | passes (weights, prompt, coefficient) |
| --- | --- |
| ema, frozen, restart_freeze | (its set, teacher, 1) |
| live | (live, teacher, 1) |
| trust_region | (initial, teacher, 1 - r), (live, teacher, r) |
| null correction beta | each of the above x beta, the same under the null prompt x -beta, and the
student itself x 1 |

The reference of a KL anchor is one more: (initial, student, 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from sdpo_megatron.actor.config import TeacherConfig
from sdpo_megatron.actor.packing import PackedSequences, Role
from sdpo_megatron.actor.pipeline import Pipeline
from sdpo_megatron.actor.weight_sets import ShardedWeights, WeightSet
from sdpo_megatron.objectives import Objective, TeacherHead, TeacherTarget

LIVE = "live"
_SET_OF_KIND = {
    "ema": "ema",
    "frozen": "initial",
    "trust_region": "initial",
    "restart_freeze": "restarted",
}


@dataclass(frozen=True)
class Pass:
    """One forward-only pass: these weights read this prompt, and count this much in the target's
    logits.
    """

    weights: str
    role: Role
    coefficient: float


@dataclass(frozen=True)
class Targets:
    """What the loss of one micro-batch is computed against."""

    teacher: TeacherTarget | None = None
    reference: TeacherTarget | None = None


def teacher_passes(config: TeacherConfig, null_beta: float | None) -> tuple[Pass, ...]:
    """The passes that make the teacher's logits."""
    if config.kind == LIVE:
        content = [Pass(LIVE, "teacher", 1.0)]
    elif config.kind == "trust_region":
        content = [
            Pass("initial", "teacher", 1.0 - config.rate),
            Pass(LIVE, "teacher", config.rate),
        ]
    else:
        content = [Pass(_SET_OF_KIND[config.kind], "teacher", 1.0)]
    if null_beta is None:
        return tuple(content)
    plus = [Pass(p.weights, p.role, null_beta * p.coefficient) for p in content]
    minus = [Pass(p.weights, "null", -null_beta * p.coefficient) for p in content]
    return (*plus, *minus)


def weight_set_names(config: TeacherConfig, objective: Objective) -> tuple[str, ...]:
    """The weight sets that a run keeps beside the live one, in order."""
    names = []
    if objective.needs_teacher and config.kind != LIVE:
        names.append(_SET_OF_KIND[config.kind])
    if objective.needs_reference:
        names.append("initial")
    return tuple(dict.fromkeys(names))


class Teacher:
    """Keeps the weight sets, moves them after optimiser steps, and scores.

    R response tokens of a micro-batch, H hidden size, Vp vocabulary rows on this tensor-parallel
    rank.
    """

    def __init__(
        self,
        config: TeacherConfig,
        objective: Objective,
        weights: ShardedWeights,
        pipeline: Pipeline,
    ) -> None:
        """Copies the live weights into every set that the objective asks for."""
        self.config, self.weights, self._pipeline = config, weights, pipeline
        self.sets: dict[str, WeightSet] = {
            name: weights.snapshot() for name in weight_set_names(config, objective)
        }
        null_beta = (
            objective.config.distillation.null_beta if objective.needs_null_teacher else None
        )  # type: ignore[union-attr]
        self._teacher = teacher_passes(config, null_beta) if objective.needs_teacher else ()
        self._reference = (Pass("initial", "student", 1.0),) if objective.needs_reference else ()
        self._student_share = 1.0 if objective.needs_null_teacher else 0.0

    @property
    def roles(self) -> set[Role]:
        """The prompts that have to be packed for `score`."""
        return {one.role for one in self._teacher + self._reference}

    def score(self, batches: Mapping[Role, Sequence[PackedSequences]]) -> list[Targets]:
        """The targets of each micro-batch (last stage; an empty list before it). Collective."""
        heads = self._heads(self._teacher + self._reference, batches)
        return [
            Targets(
                teacher=_combine([found[one] for one in self._teacher], self._student_share),
                reference=_combine([found[one] for one in self._reference], 0.0),
            )
            for found in heads
        ]

    def score_null(self, batches: Sequence[PackedSequences]) -> list[Targets]:
        """The same teacher under the null prompts: what the template's wording alone says. As
        `score`.
        """
        wanted = tuple(
            Pass(one.weights, "null", one.coefficient) for one in teacher_passes(self.config, None)
        )
        heads = self._heads(wanted, {"null": batches})
        return [Targets(teacher=_combine([found[one] for one in wanted], 0.0)) for found in heads]

    def after_optimizer_step(self, number: int) -> None:
        """Move the set after optimiser step `number` (from 1) where the kind asks for it."""
        if "ema" in self.sets and self.config.cadence == "per_optimizer_step":
            self.weights.move(self.sets["ema"], self.config.rate)
        if "restarted" in self.sets and number % self.config.restart_every == 0:
            self.sets["restarted"] = self.weights.snapshot()

    def after_rollout_batch(self) -> None:
        """Move the set after all optimiser steps of a rollout batch where the cadence is
        per_rollout_batch.
        """
        if "ema" in self.sets and self.config.cadence == "per_rollout_batch":
            self.weights.move(self.sets["ema"], self.config.rate)

    def _heads(
        self, wanted: Sequence[Pass], batches: Mapping[Role, Sequence[PackedSequences]]
    ) -> list[dict[Pass, TeacherHead]]:
        """By micro-batch; each weight set is swapped in once."""
        by_pass: dict[Pass, list[TeacherHead]] = {}
        for name in dict.fromkeys(one.weights for one in wanted):
            with nullcontext() if name == LIVE else self.weights.swapped(self.sets[name]):
                head = self._head_weight(copy=name != LIVE)
                for one in wanted:
                    if one.weights == name:
                        states = self._pipeline.hidden_states(batches[one.role])
                        by_pass[one] = [
                            TeacherHead(self._keep(h), head, one.coefficient) for h in states
                        ]
        return [dict(zip(by_pass, row, strict=True)) for row in zip(*by_pass.values(), strict=True)]

    def _head_weight(self, *, copy: bool) -> Any:
        """[Vp, H] of the swapped-in set on the last stage (a copy: buffers go back), else None."""
        weight = head_weight(self._pipeline.chunks)
        if weight is None:
            return None
        return weight.detach().clone() if copy else weight.detach()

    def _keep(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.config.keep_hidden_on_host or not hidden.is_cuda:
            return hidden
        return torch.empty_like(hidden, device="cpu", pin_memory=True).copy_(
            hidden, non_blocking=True
        )


def _combine(heads: list[TeacherHead], student_share: float) -> TeacherTarget | None:
    return TeacherTarget(heads, student_share) if heads else None


def head_weight(chunks: Sequence[Any]) -> torch.nn.Parameter | None:
    """The LM head's shard [Vp, H] (the embedding's where they are tied) on the last pipeline stage,
    None before it.
    """
    model = chunks[-1].module
    return model.head_weight() if model.post_process else None
