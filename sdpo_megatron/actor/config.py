"""Settings of the actor: optimiser, teacher's weights, how attempts are cut into micro-batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from sdpo_megatron.actor.config_model import ParallelConfig, PrecisionConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.objectives import ObjectiveConfig

TeacherKind = Literal["ema", "frozen", "live", "trust_region", "restart_freeze"]
Cadence = Literal["per_optimizer_step", "per_rollout_batch"]
Decay = Literal["constant", "linear", "cosine"]


def _one_of(name: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise ConfigError(f"{name}={value!r}: expected one of {', '.join(get_args(choices))}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with fp32 master weights, sharded over data-parallel ranks (method.md section 4 gives
    the paper's values).
    """

    lr: float = 1e-5
    """Peak learning rate."""
    warmup_steps: int = 0
    """Optimiser steps of linear warm-up from 0."""
    decay: str = "constant"
    """constant, linear or cosine, from the peak to `min_lr` at `decay_steps`."""
    decay_steps: int = 0
    """Optimiser steps after which `min_lr` is reached; unused with constant."""
    min_lr: float = 0.0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip_grad: float = 1.0
    """Global gradient norm above which gradients are scaled down; 0 turns clipping off."""

    def __post_init__(self) -> None:
        _one_of("optimizer.decay", self.decay, Decay)
        for name in ("lr", "min_lr", "weight_decay", "clip_grad", "eps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"optimizer.{name}={getattr(self, name)}: must not be negative")
        if self.decay != "constant" and self.decay_steps <= self.warmup_steps:
            raise ConfigError(
                f"optimizer.decay={self.decay} needs optimizer.decay_steps > warmup_steps "
                f"({self.warmup_steps}), got {self.decay_steps}"
            )


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Which weights the teacher has (method.md section 2)."""

    kind: str = "ema"
    """ema, frozen, live, trust_region or restart_freeze."""
    rate: float = 0.05
    """EMA rate r in theta' <- (1-r) theta' + r theta; trust region: share r of the live logits."""
    cadence: str = "per_optimizer_step"
    """When an EMA moves: per_optimizer_step, or per_rollout_batch as in the authors' code."""
    restart_every: int = 0
    """restart_freeze: optimiser steps between re-copies from the student."""
    keep_hidden_on_host: bool = False
    """Keep the teacher's hidden states in (pinned) host memory between the two passes."""

    def __post_init__(self) -> None:
        _one_of("teacher.kind", self.kind, TeacherKind)
        _one_of("teacher.cadence", self.cadence, Cadence)
        if not 0.0 <= self.rate <= 1.0:
            raise ConfigError(f"teacher.rate={self.rate}: must be in [0, 1]")
        if (self.kind == "restart_freeze") != (self.restart_every > 0):
            raise ConfigError(
                f"teacher.kind={self.kind} with restart_every={self.restart_every}: restart_freeze "
                "needs "
                "restart_every >= 1 and no other kind takes it"
            )


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How many questions make a batch, a step and a micro-batch."""

    questions: int = 4
    """Questions per rollout batch; each gets `rollout.sampling.num_attempts` attempts."""
    questions_per_step: int = 0
    """Questions per optimiser step; 0 means all of the batch, which keeps pi_old equal to pi_now.
    """
    micro_batch_tokens: int = 4096
    """Token budget of one packed micro-batch (the longer of student and teacher sequence counts).
    """
    chunk_tokens: int = 256
    """Response tokens whose logits exist at one time in the fused loss."""

    def __post_init__(self) -> None:
        for name in ("questions", "micro_batch_tokens", "chunk_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"batch.{name}={getattr(self, name)}: must be at least 1")
        if self.questions_per_step < 0 or (
            self.questions_per_step and self.questions % self.questions_per_step
        ):
            raise ConfigError(
                f"batch.questions_per_step={self.questions_per_step} must divide "
                f"batch.questions={self.questions}"
            )


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    """The groups that the actor reads; the run's configuration adds the others."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
