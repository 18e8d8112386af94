"""Cases for the fused loss: objective, sizes and seed make the same tensors in every process."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from sdpo_megatron.objectives import (
    HeadOptions,
    ObjectiveConfig,
    TeacherHead,
    TeacherTarget,
    TokenTargets,
    build_objective,
)
from sdpo_megatron.objectives.fused.head_loss import HeadLoss, head_loss


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison. Sizes: T tokens, H hidden, V vocabulary; `padding` rows are added on top of
    what TP needs.
    """

    config: ObjectiveConfig
    tokens: int = 7
    hidden: int = 6
    vocab: int = 23
    padding: int = 0
    temperature: float = 1.0
    chunk_tokens: int = 3
    seed: int = 0
    scale: float = 1.0  # of the logits
    levels: int = 0  # > 0: hidden states and weights are small integers, so that logits tie
    teacher: str = "single"  # single, trust_region, null_corrected
    empty_mask: bool = False
    dtype: torch.dtype = torch.float32


@dataclass
class Data:
    """Full tensors of a case (all rows of the head), in float32 values exact in its dtype."""

    hidden: torch.Tensor
    weight: torch.Tensor
    token_ids: torch.Tensor
    distill_weight: torch.Tensor
    policy_weight: torch.Tensor
    advantage: torch.Tensor
    rollout_log_probs: torch.Tensor
    old_log_probs: torch.Tensor | None
    sequence_ids: torch.Tensor
    loss_mask: torch.Tensor
    success: torch.Tensor
    position: torch.Tensor
    teacher: list[tuple[torch.Tensor, torch.Tensor, float]] | None = None
    student_coefficient: float = 0.0
    reference: list[tuple[torch.Tensor, torch.Tensor, float]] | None = None
    extra: dict = field(default_factory=dict)


def make(case: Case) -> Data:
    """The tensors of a case; the same in every process."""
    g = torch.Generator().manual_seed(case.seed)
    t, h, v = case.tokens, case.hidden, case.vocab

    def matrix(rows: int, factor: float) -> torch.Tensor:
        if case.levels:
            return torch.randint(-case.levels, case.levels + 1, (rows, h), generator=g).float()
        return (torch.randn(rows, h, generator=g) * factor).to(case.dtype).float()

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(t, generator=g) * (high - low) + low

    hidden, weight = matrix(t, case.scale), matrix(v, 1.0)
    mask = torch.rand(t, generator=g) < 0.8
    if case.empty_mask:
        mask = torch.zeros(t, dtype=torch.bool)
    sequence = torch.sort(torch.randint(0, 3, (t,), generator=g)).values
    data = Data(
        hidden=hidden,
        weight=weight,
        token_ids=torch.randint(0, v, (t,), generator=g),
        distill_weight=uniform(0.1, 1.0) * mask,
        policy_weight=uniform(0.1, 1.0) * mask,
        advantage=uniform(-1.0, 1.0),
        rollout_log_probs=uniform(-4.0, -0.5),
        old_log_probs=uniform(-4.0, -0.5) if case.config.off_policy else None,
        sequence_ids=sequence,
        loss_mask=mask,
        success=sequence == 1,
        position=torch.linspace(0, 0.99, t) if t else torch.zeros(0),
    )

    def near(own: torch.Tensor) -> torch.Tensor:
        """Near the student's, like a self-teacher's; where logits tie, other integers."""
        other = matrix(len(own), 1.0)
        return other if case.levels else (own + 0.3 * other).to(case.dtype).float()

    def head(coefficient: float) -> tuple[torch.Tensor, torch.Tensor, float]:
        return near(hidden), near(weight), coefficient

    if case.config.distillation is not None:
        beta = case.config.distillation.null_beta
        if case.teacher == "trust_region":
            data.teacher = [head(0.7), head(0.3)]
        elif beta is not None:
            data.teacher, data.student_coefficient = [head(beta), head(-beta)], 1.0
        else:
            data.teacher = [head(1.0)]
    if case.config.anchor is not None:
        data.reference = [head(1.0)]
    return data


def shard(matrix: torch.Tensor, world: int, rank: int, padding: int) -> torch.Tensor:
    """This rank's rows of a [V, H] matrix; padded rows hold numbers that must never be seen."""
    rows = -(-(matrix.shape[0] + padding) // world)
    whole = torch.full((rows * world, matrix.shape[1]), 1e3, dtype=matrix.dtype)
    whole[: matrix.shape[0]] = matrix
    return whole[rank * rows : (rank + 1) * rows].clone()


@dataclass
class Outcome:
    """Results of one rank: `grad_weight` covers its own rows."""

    loss: torch.Tensor
    grad_hidden: torch.Tensor
    grad_weight: torch.Tensor
    result: HeadLoss


def run(case: Case, group=None, rank: int = 0, world: int = 1, **options) -> Outcome:
    """The fused loss of a case on one rank, forward and backward."""
    data, dtype = make(case), case.dtype
    hidden = data.hidden.to(dtype).requires_grad_()
    weight = shard(data.weight, world, rank, case.padding).to(dtype).requires_grad_()

    def target(parts, student: float) -> TeacherTarget | None:
        if parts is None:
            return None
        heads = [
            TeacherHead(h.to(dtype), shard(w, world, rank, case.padding).to(dtype), c)
            for h, w, c in parts
        ]
        return TeacherTarget(heads, student)

    real = torch.float64 if dtype == torch.float64 else torch.float32
    names = ("distill_weight", "policy_weight", "advantage", "rollout_log_probs", "old_log_probs")
    floats = {n: getattr(data, n) for n in names}
    targets = TokenTargets(
        **{n: None if x is None else x.to(real) for n, x in floats.items()},
        token_ids=data.token_ids,
        sequence_ids=data.sequence_ids,
        loss_mask=data.loss_mask,
        success=data.success,
        position=data.position,
    )
    result = head_loss(
        hidden,
        weight,
        targets,
        build_objective(case.config),
        target(data.teacher, data.student_coefficient),
        reference=target(data.reference, 0.0),
        options=HeadOptions(
            temperature=case.temperature,
            chunk_tokens=case.chunk_tokens,
            tp_group=group,
            vocab_size=case.vocab,
            **options,
        ),
    )
    result.loss.backward()
    detached = HeadLoss(result.loss.detach(), result.sums, result.token_log_probs, result.token_kl)
    return Outcome(result.loss.detach(), hidden.grad, weight.grad, detached)
