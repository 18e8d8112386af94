"""The self-teacher: the same module, another weight set swapped in, scored by forward-only passes.

A pass is a weight set that reads a prompt. What is kept of it is the final hidden state of each
response token (`kept_rows`: a part of them on each rank) and the LM-head shard, never logits;
`objectives.targets` makes the teacher's logits of them.

| kind | passes (weights, prompt) |
| --- | --- |
| ema, frozen, restart_freeze | (its set, teacher) |
| live | (live, teacher) |
| trust_region | (initial, teacher), (live, teacher) |
| null correction | each of the above, and the same under the null prompt |

The reference of a KL anchor is one more: (initial, student).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, overload

import torch

from sdpo_megatron.actor.batches.packing import PackedSequences, Role
from sdpo_megatron.actor.config import TeacherConfig
from sdpo_megatron.actor.kept_rows import KeptRows, sharing_group
from sdpo_megatron.actor.model.pipeline import Pipeline
from sdpo_megatron.actor.weight_sets import ShardedWeights, WeightSet
from sdpo_megatron.objectives import (
    Objective,
    TeacherHead,
    TeacherTarget,
    null_corrected,
    trust_region,
)

LIVE = "live"
_SETS_OF_KIND: dict[str, tuple[str, ...]] = {
    "live": (LIVE,),
    "ema": ("ema",),
    "frozen": ("initial",),
    "trust_region": ("initial", LIVE),
    "restart_freeze": ("restarted",),
}

Pass = tuple[str, Role]
"""One forward-only pass: these weights read this prompt."""
_REFERENCE: Pass = ("initial", "student")


@dataclass(frozen=True)
class Targets:
    """What the loss of one micro-batch is computed against."""

    teacher: TeacherTarget | None = None
    reference: TeacherTarget | None = None


def teacher_passes(config: TeacherConfig, *roles: Role) -> tuple[Pass, ...]:
    """The passes of the teacher's weight sets under the prompts of `roles`."""
    return tuple((name, role) for role in roles for name in _SETS_OF_KIND[config.kind])


def passes_of(config: TeacherConfig, objective: Objective) -> tuple[Pass, ...]:
    """All forward-only passes that an optimiser step takes before the student's."""
    roles: list[Role] = ["teacher"] if objective.needs_teacher else []
    roles += ["null"] if objective.needs_null_teacher else []
    reference = (_REFERENCE,) if objective.needs_reference else ()
    return teacher_passes(config, *roles) + reference


def weight_set_names(config: TeacherConfig, objective: Objective) -> tuple[str, ...]:
    """The weight sets that a run keeps beside the live one, in order."""
    wanted = _SETS_OF_KIND[config.kind] if objective.needs_teacher else ()
    if objective.needs_reference:
        wanted += ("initial",)
    return tuple(name for name in dict.fromkeys(wanted) if name != LIVE)


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
        self._objective, self._sharing = objective, sharing_group()
        self.passes = passes_of(config, objective)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Copies the live weights into every set."""
        names = weight_set_names(self.config, self._objective)
        self.sets: dict[str, WeightSet] = {name: self.weights.snapshot() for name in names}

    @property
    def roles(self) -> set[Role]:
        """The prompts that have to be packed for `score`."""
        return {role for _, role in self.passes}

    def score(self, batches: Mapping[Role, Sequence[PackedSequences]]) -> Sequence[Targets]:
        """The targets of each micro-batch (last stage; none before it). Collective, and so is
        taking one out of the sequence.
        """
        return _Scored(self._kept(self.passes, batches), self._targets)

    def score_null(self, batches: Sequence[PackedSequences]) -> Sequence[Targets]:
        """As `score`, but under the null prompts: what the template's wording alone says."""
        kept = self._kept(teacher_passes(self.config, "null"), {"null": batches})
        return _Scored(kept, lambda heads: Targets(teacher=self._content(heads, "null")))

    def after_optimizer_step(self, number: int) -> None:
        """Move the set after optimiser step `number` (from 1) where the kind asks for it."""
        if "ema" in self.sets and self.config.cadence == "per_optimizer_step":
            self.weights.move(self.sets["ema"], self.config.rate)
        if "restarted" in self.sets and number % self.config.restart_every == 0:
            self.sets["restarted"] = self.weights.snapshot()

    def after_rollout_batch(self) -> None:
        """Move the set after all optimiser steps of a rollout batch (cadence per_rollout_batch)."""
        if "ema" in self.sets and self.config.cadence == "per_rollout_batch":
            self.weights.move(self.sets["ema"], self.config.rate)

    def _targets(self, heads: Mapping[Pass, TeacherHead]) -> Targets:
        """What the student is pulled towards (arXiv 2601.20802), and held to."""
        teacher, distillation = None, self._objective.config.distillation
        if distillation is not None:
            teacher = self._content(heads, "teacher")
            if distillation.null_beta is not None:
                null = self._content(heads, "null")
                teacher = null_corrected(teacher, null, distillation.null_beta)
        reference = heads.get(_REFERENCE)
        return Targets(teacher, None if reference is None else TeacherTarget([reference]))

    def _content(self, heads: Mapping[Pass, TeacherHead], role: Role) -> TeacherTarget:
        """The teacher of this kind under the prompts of `role`."""
        found = [heads[name, role] for name in _SETS_OF_KIND[self.config.kind]]
        if self.config.kind == "trust_region":
            return trust_region(*found, self.config.rate)
        return TeacherTarget(found)

    def _kept(
        self, wanted: Sequence[Pass], batches: Mapping[Role, Sequence[PackedSequences]]
    ) -> list[dict[Pass, _Kept]]:
        """By micro-batch; each weight set is swapped in once."""
        by_pass: dict[Pass, list[_Kept]] = {}
        for name in dict.fromkeys(name for name, _ in wanted):
            with nullcontext() if name == LIVE else self.weights.swapped(self.sets[name]):
                head = self._head_weight(copy=name != LIVE)
                for weights, role in wanted:
                    if weights == name:
                        states = self._pipeline.hidden_states(batches[role], self._keep)
                        by_pass[weights, role] = [(rows, head) for rows in states]
        return [dict(zip(by_pass, row, strict=True)) for row in zip(*by_pass.values(), strict=True)]

    def _head_weight(self, *, copy: bool) -> Any:
        """[Vp, H] of the swapped-in set on the last stage (a copy: buffers go back), else None."""
        weight = head_weight(self._pipeline.chunks)
        if weight is None:
            return None
        return weight.detach().clone() if copy else weight.detach()

    def _keep(self, hidden: torch.Tensor) -> KeptRows:
        return KeptRows.of(hidden, self._sharing, on_host=self.config.keep_hidden_on_host)


_Kept = tuple[KeptRows, Any]
"""Of one pass and micro-batch: hidden states, and the head [Vp, H]."""


class _Scored(Sequence[Targets]):
    """The targets by micro-batch, whose hidden states come together when one is taken out."""

    def __init__(
        self,
        kept: Sequence[Mapping[Pass, _Kept]],
        targets: Callable[[Mapping[Pass, TeacherHead]], Targets],
    ) -> None:
        self._kept, self._make = kept, targets

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, number: int) -> Targets: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Targets]: ...
    def __getitem__(self, number: int | slice) -> Targets | Sequence[Targets]:
        if isinstance(number, slice):
            return _Scored(self._kept[number], self._make)
        heads = {
            of: TeacherHead(rows.whole(), head) for of, (rows, head) in self._kept[number].items()
        }
        return self._make(heads)


def head_weight(chunks: Sequence[Any]) -> torch.nn.Parameter | None:
    """The LM head's shard [Vp, H] (the embedding's where they are tied) on the last pipeline stage,
    None before it.
    """
    model = chunks[-1].module
    return model.head_weight() if model.post_process else None
