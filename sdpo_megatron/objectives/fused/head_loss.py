"""The fused loss: LM head -> support -> divergence -> gradients, a chunk of tokens at a time.

    hidden [T, H], weight [Vp, H]  ->  loss, d loss / d hidden, d loss / d weight

For each chunk of C tokens: student logits, their log Z and top-K ids over all tensor-parallel
ranks, the target's log-probs at the same ids, the terms of the objective on [C, K + 1] numbers, and
the gradient g of the loss with respect to the selected log-probs. Since log p_i = logit_i - log Z,
the gradient with respect to the logits is

    G = scatter(g) - (sum g) * softmax(logits)

which overwrites the student's logits and is multiplied into grad_hidden = G W and grad_weight +=
G^T hidden at once. The gradients are computed in the forward pass and scaled in the backward pass,
so no logits are kept or recomputed. Alive at any moment: one chunk of the student's logits and one
of the target's, [C, Vp] float32 each; nothing of shape [T, V].

Shapes: T response tokens, C of a chunk, H hidden, Vp rows of this rank, V vocabulary, K support.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sdpo_megatron.errors import NumericsError
from sdpo_megatron.objectives.fused.chunk import ChunkScorer, Scored
from sdpo_megatron.objectives.fused.logits import accumulate_weight_grad, compute_dtype, hidden_grad
from sdpo_megatron.objectives.fused.options import DEFAULT, HeadOptions
from sdpo_megatron.objectives.fused.score import score_target
from sdpo_megatron.objectives.fused.shards import VocabShard
from sdpo_megatron.objectives.objective import Objective
from sdpo_megatron.objectives.targets import (
    TeacherHead,
    TeacherTarget,
    TokenTargets,
    first_nonfinite,
)


@dataclass(frozen=True)
class HeadLoss:
    """What `head_loss` returns.

    Attributes:
        loss: 0-dim float32, the weighted sum; differentiable with respect to hidden and weight.
        sums: Sums over tokens by name, detached: add them over micro-batches and data-parallel
            ranks, then divide (`objectives.health`). The names depend on the objective only. Equal
            on all tensor-parallel ranks.
        token_log_probs: [T] float32, log pi_now(y_t), detached.
        token_kl: [T] float32, the unweighted divergence of each token, detached; None without a
            distillation term.
    """

    loss: Tensor
    sums: Mapping[str, Tensor]
    token_log_probs: Tensor
    token_kl: Tensor | None


def head_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: TokenTargets,
    objective: Objective,
    teacher: TeacherTarget | None = None,
    *,
    reference: TeacherTarget | None = None,
    options: HeadOptions = DEFAULT,
    main_grad: Tensor | None = None,
    grad_scale: float = 1.0,
) -> HeadLoss:
    """The objective on the response tokens of a micro-batch.

    Args:
        hidden: [T, H], final hidden states at the positions that predict the tokens; the same on
            all tensor-parallel ranks.
        weight: [Vp, H], this rank's rows of the LM head (the tied embedding, or not).
        targets: The tokens and their weights.
        objective: From `build_objective`.
        teacher: The distillation target; required exactly where `objective.needs_teacher`.
        reference: The target of the KL anchor; required exactly where `objective.needs_reference`.
        options: Temperature, layout and memory.
        main_grad: [Vp, H] buffer that takes the weight's gradient in the forward pass already, as
            Megatron's fused accumulation does; autograd then gets none for the weight, so that a
            tied embedding's own gradient is added by whoever adds such gradients. None: returned
            by autograd.
        grad_scale: What the backward pass will receive as the gradient of the loss; used, and
            checked, with main_grad only.

    Raises:
        ConfigError: top_k larger than the vocabulary.
        NumericsError: NaN or infinity in logits; names the token and its sequence. main_grad may be
            spoilt then.
        ValueError: shapes that do not fit, a target missing or surplus.
    """
    shard = VocabShard.of(weight, options.vocab_size, options.tp_group)
    objective.check(shard.size)
    needed = {
        "teacher": (objective.needs_teacher, teacher),
        "reference": (objective.needs_reference, reference),
    }
    _check(hidden, weight, targets, needed, shard.size)
    if objective.top_k is None:
        options = replace(options, chunk_tokens=max(1, options.chunk_tokens // 4))
    pass_ = _Pass(
        targets=targets,
        objective=objective,
        teacher=teacher,
        reference=reference,
        options=options,
        shard=shard,
        main_grad=main_grad,
        grad_scale=grad_scale,
        differentiate=torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad),
    )
    loss: Tensor = _HeadLossFunction.apply(hidden, weight, pass_)  # type: ignore[no-untyped-call]
    return HeadLoss(loss, pass_.sums, pass_.log_probs, pass_.kl)


@dataclass
class _Pass:
    """One call of `head_loss`: its settings, and its results besides the loss (autograd functions
    return tensors only).
    """

    targets: TokenTargets
    objective: Objective
    teacher: TeacherTarget | None
    reference: TeacherTarget | None
    options: HeadOptions
    shard: VocabShard
    main_grad: Tensor | None
    grad_scale: float
    differentiate: bool
    sums: dict[str, Tensor] = field(default_factory=dict)
    log_probs: Tensor = field(default_factory=lambda: torch.empty(0))
    kl: Tensor | None = None

    def run(self, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(loss, grad_hidden, grad_weight), the gradients None where nobody asked; fills `sums`,
        `log_probs` and `kl`.
        """
        tokens, rows = len(self.targets), self.shard.rows
        dtype = compute_dtype(weight)
        chunk_tokens = min(self.options.chunk_tokens, max(tokens, 1))
        teacher_scored, sequence_gap = self._sequence_gap(hidden, weight)
        scorer = ChunkScorer(
            self.objective,
            weight,
            self.shard,
            self.options.temperature,
            self.teacher if teacher_scored is None else None,
            self.reference,
            chunk_tokens,
        )
        grad_hidden = (
            torch.empty_like(hidden) if self.differentiate and hidden.requires_grad else None
        )
        grad_weight = (
            self._weight_buffer(weight, dtype)
            if self.differentiate and weight.requires_grad
            else None
        )
        scale = 1.0 if self.main_grad is None else self.grad_scale
        loss = torch.zeros((), dtype=dtype, device=weight.device)
        log_probs, kls, finite = [], [], []
        for start in range(
            0, max(tokens, 1), chunk_tokens
        ):  # no tokens: one empty chunk, so that the names are the same
            end = min(start + chunk_tokens, tokens)
            chunk = scorer.score(
                hidden[start:end],
                start,
                self.targets.rows(start, end),
                None if teacher_scored is None else teacher_scored.rows(start, end),
                None if sequence_gap is None else sequence_gap[start:end],
                differentiate=self.differentiate,
            )
            loss += chunk.result.loss.sum()
            for name, value in chunk.result.sums.items():
                self.sums[name] = self.sums[name] + value if name in self.sums else value
            log_probs.append(chunk.log_probs)
            finite.append(chunk.finite)
            if chunk.result.kl is not None:
                kls.append(chunk.result.kl)
            if chunk.logit_grad is not None and grad_hidden is not None:
                hidden_grad(grad_hidden[start:end], chunk.logit_grad, scorer.weight)
            if chunk.logit_grad is not None and grad_weight is not None:
                accumulate_weight_grad(
                    grad_weight[:rows], chunk.logit_grad, hidden[start:end], scale
                )
        self.log_probs = torch.cat(log_probs)
        self.kl = torch.cat(kls) if kls else None
        if self.kl is not None:
            self.sums["kl_top_tenth"] = _largest_tenth(self.kl, self.targets)
        self._check_finite(finite)
        if grad_hidden is not None and self.options.reduce_grad_hidden:
            grad_hidden = self.shard.sum(grad_hidden)
        return loss, grad_hidden, grad_weight

    def _weight_buffer(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.zeros_like(weight, dtype=dtype) if self.main_grad is None else self.main_grad

    def _sequence_gap(self, hidden: Tensor, weight: Tensor) -> tuple[Scored | None, Tensor | None]:
        """Sequence level: the teacher's scores, and the mean of log pi - log q over the trained
        tokens of each attempt, [T] each.
        """
        if not self.objective.needs_sequence_gap:
            return None, None
        assert self.teacher is not None
        ids = self.targets.token_ids
        own = TeacherTarget([TeacherHead(hidden, weight)])
        student = score_target(own, ids, self.shard, self.options)
        teacher = score_target(
            self.teacher.with_student(hidden, weight), ids, self.shard, self.options
        )
        mask, ids = self.targets.loss_mask.to(student.log_probs.dtype), self.targets.sequence_ids
        zeros = mask.new_zeros(int(ids.max()) + 1 if len(ids) else 0)
        gaps = zeros.index_add(0, ids, mask * (student.log_probs - teacher.log_probs))
        lengths = zeros.index_add(0, ids, mask)
        return teacher, (gaps / lengths.clamp(min=1.0))[ids]

    def _check_finite(self, chunks: list[dict[str, Tensor]]) -> None:
        for model in ("student", "teacher", "reference"):
            if model not in chunks[0]:
                continue
            index = first_nonfinite(torch.cat([chunk[model] for chunk in chunks]))
            if index is not None:
                raise NumericsError(
                    f"NaN or infinity in the {model}'s logits that predict token {index} of "
                    f"{len(self.targets)} "
                    f"(sequence {int(self.targets.sequence_ids[index])} of the micro-batch, "
                    f"token id {int(self.targets.token_ids[index])})"
                )


def _largest_tenth(kl: Tensor, targets: TokenTargets) -> Tensor:
    """Summed divergence of the tenth of the micro-batch's distilled tokens that have the most."""
    kept = kl[targets.loss_mask & (targets.distill_weight != 0)]
    return kept.topk(-(-kept.shape[0] // 10)).values.sum()


class _HeadLossFunction(torch.autograd.Function):
    """Gradients are ready after the forward pass; the backward pass scales and hands them out."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, pass_: _Pass) -> Tensor:
        loss, ctx.grad_hidden, ctx.grad_weight = pass_.run(
            hidden.detach().requires_grad_(hidden.requires_grad), weight
        )
        ctx.weight, ctx.pass_ = weight, pass_
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_hidden, grad_weight = ctx.grad_hidden, ctx.grad_weight
        if grad_hidden is not None:
            grad_hidden = _scaled(grad_hidden, grad_loss, grad_hidden.dtype)
        if grad_weight is not None and ctx.pass_.main_grad is None:
            grad_weight = _scaled(grad_weight, grad_loss, ctx.weight.dtype)
        elif grad_weight is not None:
            _check_scale(grad_loss, ctx.pass_.grad_scale)
            grad_weight = None  # it is in main_grad
        return grad_hidden, grad_weight, None


def _scaled(grad: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """grad * factor in `dtype`, in one pass and without a copy where there is nothing to do."""
    if grad.dtype == dtype and not factor.is_cuda and float(factor) == 1.0:
        return grad
    return torch.mul(grad, factor, out=torch.empty_like(grad, dtype=dtype))


def _check_scale(grad_loss: Tensor, expected: float) -> None:
    """main_grad was filled in the forward pass: its scale had to be known. No wait for a GPU."""
    same = torch.isclose(grad_loss, torch.full_like(grad_loss, expected), rtol=1e-5)
    torch._assert_async(same, "head_loss: the loss's gradient differs from the given grad_scale")


def _check(
    hidden: Tensor,
    weight: Tensor,
    targets: TokenTargets,
    targets_of: Mapping[str, tuple[bool, TeacherTarget | None]],
    vocab_size: int,
) -> None:
    """Raises ValueError for arguments that do not fit together."""
    tokens = len(targets)
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape != (tokens, weight.shape[1]):
        raise ValueError(
            f"head_loss: hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} do not fit "
            f"{tokens} tokens; "
            "expected [T, H] and [Vp, H]"
        )
    for name, (needed, target) in targets_of.items():
        if needed != (target is not None):
            raise ValueError(
                f"head_loss: the objective needs {'a' if needed else 'no'} {name}, got "
                f"{'one' if target else 'none'}"
            )
        for head in target.heads if target is not None else ():
            if head.hidden.shape[0] != tokens or head.weight.shape[0] != weight.shape[0]:
                raise ValueError(
                    f"head_loss: {name} hidden {tuple(head.hidden.shape)}, weight "
                    f"{tuple(head.weight.shape)}; "
                    f"expected {tokens} tokens and {weight.shape[0]} rows"
                )
    if (
        tokens
        and not 0 <= int(targets.token_ids.min()) <= int(targets.token_ids.max()) < vocab_size
    ):
        raise ValueError(
            f"head_loss: token ids must be in [0, {vocab_size}), got up to "
            f"{int(targets.token_ids.max())}"
        )
