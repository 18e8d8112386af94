"""What the loss is computed against: sampled tokens, distributions of teacher and reference.

Shapes: T response tokens of a micro-batch (prompt tokens never reach the loss), H hidden size, Vp
rows of the LM head that this tensor-parallel rank holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from sdpo_megatron.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TokenTargets:
    """The response tokens of a micro-batch, flat; the same on every tensor-parallel rank.

    Masks, per-sample weights and the denominator are already inside the two weights, so that the
    loss is a plain sum.

    Attributes:
        token_ids: [T] int64, the sampled tokens y_t.
        distill_weight: [T] float32, weight of the distillation term; 0 where it does not apply.
        policy_weight: [T] float32, weight of the policy-gradient term; 0 where it does not apply.
        advantage: [T] float32, group-relative advantage of the attempt that the token belongs to.
        rollout_log_probs: [T] float32, log pi_rollout(y_t) from the inference engine, after
            temperature.
        sequence_ids: [T] int64, index of the attempt within the micro-batch, from 0.
        loss_mask: [T] bool, True exactly on tokens that the student sampled.
        old_log_probs: [T] float32, log pi_old(y_t) of the training engine before the first
            optimiser step on this batch; None says that there is exactly one step per batch, so
            that pi_old is pi_now.
        success: [T] bool, whether the attempt succeeded (metrics only); None counts every attempt
            as failed.
        position: [T] float32 in [0, 1), place of the token in its response (metrics only); None
            counts all as 0.
    """

    token_ids: Tensor
    distill_weight: Tensor
    policy_weight: Tensor
    advantage: Tensor
    rollout_log_probs: Tensor
    sequence_ids: Tensor
    loss_mask: Tensor
    old_log_probs: Tensor | None = None
    success: Tensor | None = None
    position: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.token_ids.shape
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and value.shape != shape:
                raise ValueError(
                    f"TokenTargets.{item.name}: got {tuple(value.shape)}, expected {tuple(shape)} "
                    "as token_ids"
                )

    def __len__(self) -> int:
        return self.token_ids.shape[0]

    def rows(self, start: int, end: int) -> TokenTargets:
        """Tokens [start, end)."""
        cut: dict[str, Any] = {
            item.name: None if value is None else value[start:end]
            for item in fields(self)
            for value in [getattr(self, item.name)]
        }
        return TokenTargets(**cut)


@dataclass(frozen=True)
class TeacherHead:
    """One language-model head to take logits from: ``coefficient * hidden @ weight.T``. Never
    receives a gradient.

    Attributes:
        hidden: [T, H], final hidden states (after the last norm) at the positions that predict the
            response tokens.
        weight: [Vp, H], this rank's rows of the head.
        coefficient: Factor of these logits in the target.
    """

    hidden: Tensor
    weight: Tensor
    coefficient: float = 1.0


@dataclass(frozen=True)
class TeacherTarget:
    """A target whose logits are a linear combination of heads, plus `student_coefficient` times the
    student's own, detached.

    The coefficients must add up to 1: then adding a constant to all logits of a head changes
    nothing, as it should.
    """

    heads: Sequence[TeacherHead]
    student_coefficient: float = 0.0

    def __post_init__(self) -> None:
        total = self.student_coefficient + sum(head.coefficient for head in self.heads)
        if not self.heads:
            raise ConfigError("TeacherTarget: no heads; give at least one, or pass teacher=None")
        if abs(total - 1.0) > 1e-6:
            raise ConfigError(
                f"TeacherTarget: coefficients add up to {total:g}, expected 1 (student's included)"
            )

    def with_student(self, hidden: Tensor, weight: Tensor) -> TeacherTarget:
        """The same target with the student's share as one more head, for use where the student's
        logits are not at hand.
        """
        if not self.student_coefficient:
            return self
        return TeacherTarget([*self.heads, TeacherHead(hidden, weight, self.student_coefficient)])


def single(hidden: Tensor, weight: Tensor) -> TeacherTarget:
    """live, frozen, ema and restart_freeze: one weight set, one head."""
    return TeacherTarget([TeacherHead(hidden, weight)])


def trust_region(reference: TeacherHead, live: TeacherHead, rate: float) -> TeacherTarget:
    """logits = lerp(reference, live, rate): the geometric mixture of the two (method section 2).

    Raises:
        ConfigError: rate outside [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ConfigError(f"trust_region: rate {rate:g} is outside [0, 1]")
    return TeacherTarget(
        [replace(reference, coefficient=1.0 - rate), replace(live, coefficient=rate)]
    )


def null_corrected(content: TeacherTarget, null: TeacherTarget, beta: float) -> TeacherTarget:
    """student + beta * (content - null): only what the content of the teacher prompt adds is
    distilled (method section 8).

    `content` and `null` are the same teacher under the full template and under the template without
    content.

    Raises:
        ConfigError: beta not positive, or an argument that is corrected already.
    """
    if beta <= 0.0:
        raise ConfigError(f"null_corrected: beta {beta:g} must be positive")
    if content.student_coefficient or null.student_coefficient:
        raise ConfigError(
            "null_corrected: content and null must be plain targets, without a student coefficient"
        )
    plus = [replace(head, coefficient=beta * head.coefficient) for head in content.heads]
    minus = [replace(head, coefficient=-beta * head.coefficient) for head in null.heads]
    return TeacherTarget(plus + minus, student_coefficient=1.0)


def first_nonfinite(values: Tensor) -> int | None:
    """Index of the first NaN or infinity of a [T] tensor, or None. Synchronises the device once."""
    bad = ~torch.isfinite(values)
    return int(bad.nonzero()[0, 0]) if bool(bad.any()) else None
