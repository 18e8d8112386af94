"""Settings of the actor: optimiser, teacher's weights, how attempts are cut into micro-batches."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
from sdpo_megatron.fields import (
    Count,
    Fraction,
    NonNegative,
    Positive,
    PositiveInt,
    refuse,
    settings,
)
from sdpo_megatron.objectives.config import ObjectiveConfig

Beta = Annotated[float, Field(ge=0, lt=1)]


@settings
class OptimizerConfig:
    """AdamW with fp32 master weights, sharded over data-parallel ranks."""

    lr: NonNegative = 1e-5
    """Peak learning rate."""
    warmup_steps: Count = 0
    """Rollout batches of linear warm-up: the first trains at rate 0, as in the authors' runs. All
    optimiser steps of a batch have one rate."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """From the peak to `min_lr` at `decay_steps`."""
    decay_steps: Count = 0
    """Rollout batches after which `min_lr` is reached; 0 with constant, which never gets there."""
    min_lr: NonNegative = 0.0
    """Learning rate at and after `decay_steps`; 0 with constant."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay."""
    beta1: Beta = 0.9
    """Decay of the first moment."""
    beta2: Beta = 0.999
    """Decay of the second moment."""
    eps: Positive = 1e-8
    """Added to the root of the second moment."""
    clip_grad: NonNegative = 1.0
    """Global gradient norm above which gradients are scaled down; 0 turns clipping off."""

    def __post_init__(self) -> None:
        problems = []
        if self.decay == "constant":
            problems += [
                (name, "does nothing with {decay}: set {decay:key}=linear or cosine, or leave it 0")
                for name in ("decay_steps", "min_lr")
                if getattr(self, name)
            ]
        elif self.decay_steps <= self.warmup_steps:
            problems.append(("decay_steps", "must be above {warmup_steps} with {decay}"))
        if self.min_lr > self.lr:
            problems.append(("min_lr", "must not be above {lr}"))
        refuse(self, problems)


@settings
class _Teacher:
    kind: str
    keep_hidden_on_host: bool = False
    """Keep the teacher's hidden states in (pinned) host memory between the two passes."""
    keep_weights_on_host: bool = False
    """Keep the weights beside the live ones (the teacher's, those of a KL anchor) in (pinned) host
    memory; a pass that swaps them in, and each move of an average, sends them over."""


@settings
class EmaTeacher(_Teacher):
    """An exponential moving average of the student: theta' <- (1-r) theta' + r theta."""

    kind: Literal["ema"] = "ema"
    """A moving average of the student."""
    rate: Fraction = 0.05
    """r."""
    cadence: Literal["per_optimizer_step", "per_rollout_batch"] = "per_optimizer_step"
    """When it moves; per_rollout_batch as in the authors' code."""


@settings
class FrozenTeacher(_Teacher):
    """The weights that training started from."""

    kind: Literal["frozen"] = "frozen"
    """The initial weights."""


@settings
class LiveTeacher(_Teacher):
    """The student's own weights of this step. Diverges in the paper (Table 4)."""

    kind: Literal["live"] = "live"
    """The student's own weights."""


@settings
class TrustRegionTeacher(_Teacher):
    """The initial weights, with a share of the live logits."""

    kind: Literal["trust_region"] = "trust_region"
    """The initial weights, mixed with the live ones."""
    rate: Fraction = 0.05
    """Share of the live logits."""


@settings
class RestartFreezeTeacher(_Teacher):
    """Frozen, but copied from the student anew from time to time."""

    kind: Literal["restart_freeze"] = "restart_freeze"
    """Frozen between copies of the student."""
    restart_every: PositiveInt
    """Optimiser steps between copies."""


TeacherConfig = Annotated[
    EmaTeacher | FrozenTeacher | LiveTeacher | TrustRegionTeacher | RestartFreezeTeacher,
    Field(discriminator="kind"),
]
"""Which weights the teacher has."""


@settings
class BatchConfig:
    """How many questions make a batch, a step and a micro-batch."""

    questions: PositiveInt = 4
    """Questions per rollout batch; each gets `rollout.sampling.num_attempts` attempts."""
    questions_per_step: Count = 0
    """Questions per optimiser step; 0 means all of the batch, which keeps pi_old equal to pi_now.
    """
    composition: Literal["by_question", "shuffled"] = "by_question"
    """What a step of several holds: by_question, all attempts at `questions_per_step` questions; or
    shuffled, as many attempts, drawn from the whole batch as in the authors' runs."""
    micro_batch_tokens: PositiveInt = 4096
    """Token budget of one packed micro-batch (the longer of student and teacher sequence counts).
    """
    logits_mib: Positive = 96.0
    """Memory for logits in the fused loss, MiB a rank, student's and teacher's together in float32;
    it decides how many response tokens are treated at one time."""

    def __post_init__(self) -> None:
        if self.questions_per_step and self.questions % self.questions_per_step:
            refuse(self, [("questions_per_step", "must divide {questions}")])


@settings
class DriftConfig:
    """How far the log-probabilities of the same weights may be apart."""

    engine_limit: Positive | None = None
    """Largest mean |log pi trainer - log pi engine| of the sampled tokens, nats/token: the metric
    importance/log_prob_gap. In bf16 it is 0.01 to 0.03; above 0.5 something is wrong. Tokens of
    older policy versions add what the policy has moved since. null: no limit."""
    fp8_limit: Positive | None = None
    """Largest mean |log pi in FP8 - log pi in bf16| of the trainer, nats/token, with
    `precision.fp8`. null: no limit."""
    fp8_every: Count = 10
    """Rollout batches between measurements of that, one more forward pass over a micro-batch each;
    the first is measured, too. 0: none."""
    patience: PositiveInt = 1
    """Optimiser steps in a row above a limit (measurements, for FP8) before it counts."""
    action: Literal["stop", "fall_back"] = "stop"
    """stop: the optimiser step is not taken and the run ends with an error. fall_back: what
    computes in FP8 goes on in bf16 after the step, engines first (they are restarted), then the
    trainer; when nothing is left, as stop."""

    def __post_init__(self) -> None:
        if self.fp8_limit is not None and not self.fp8_every:
            refuse(self, [("fp8_limit", "is never measured with {fp8_every}: raise that")])


@settings
class ActorConfig:
    """The groups that the actor reads; the run's configuration adds the others."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    teacher: TeacherConfig = field(default_factory=EmaTeacher)
    drift: DriftConfig = field(default_factory=DriftConfig)
