"""One chunk of tokens: logits in, loss terms and the gradient with respect to the logits out.

Shapes: C tokens of the chunk, H hidden, V rows of this rank, K support, S entries a term sees (K,
or V when the support is complete).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdpo_megatron.objectives.logits import (
    compute_dtype,
    global_topk,
    maximum_of,
    normalise,
    project,
)
from sdpo_megatron.objectives.objective import Objective
from sdpo_megatron.objectives.shards import Normaliser, VocabShard
from sdpo_megatron.objectives.targets import TeacherTarget, TokenTargets
from sdpo_megatron.objectives.view import Distribution, TermResult, TokenView


@dataclass(frozen=True)
class Scored:
    """A target's own numbers at the response tokens. All [T] or [C].

    Attributes:
        log_probs: log q(y_t).
        entropy: Entropy of q at the token, in nats; not finite where a logit was not.
    """

    log_probs: Tensor
    entropy: Tensor

    def rows(self, start: int, end: int) -> Scored:
        """Tokens [start, end)."""
        return Scored(self.log_probs[start:end], self.entropy[start:end])


@dataclass(frozen=True)
class ChunkResult:
    """Attributes:
    result: Loss [C], sums and divergence of the chunk.
    log_probs: [C], log pi_now(y_t).
    finite: [C] by model name: a number that is finite exactly where all logits of the row were.
    logit_grad: [C, V], gradient of the chunk's loss with respect to the student's raw products (the
        temperature is inside), in the student's logit buffer; None where no gradient was asked for.
    """

    result: TermResult
    log_probs: Tensor
    finite: dict[str, Tensor]
    logit_grad: Tensor | None


class ChunkScorer:
    """Scores chunks one after the other in the same two buffers."""

    def __init__(
        self,
        objective: Objective,
        weight: Tensor,
        shard: VocabShard,
        temperature: float,
        teacher: TeacherTarget | None,
        reference: TeacherTarget | None,
        chunk_tokens: int,
    ) -> None:
        self.objective = objective
        self.weight = weight.detach()[: shard.rows]
        self.shard = shard
        self.factor = 1.0 / temperature
        self.teacher = teacher
        self.reference = reference
        self.complete = objective.top_k is None
        self.student_logits = weight.new_empty(
            (chunk_tokens, shard.rows), dtype=compute_dtype(weight)
        )
        targets = teacher is not None or reference is not None
        self.target_logits = torch.empty_like(self.student_logits) if targets else None

    def score(
        self,
        hidden: Tensor,
        start: int,
        targets: TokenTargets,
        teacher_scored: Scored | None,
        sequence_gap: Tensor | None,
        *,
        differentiate: bool,
    ) -> ChunkResult:
        """Score tokens [start, start + C).

        Args:
            hidden: [C, H], detached, the chunk's hidden states.
            start: Index of the chunk's first token in the micro-batch.
            targets: The chunk's tokens.
            teacher_scored: [C], when the teacher has been scored before: its head is not multiplied
                again.
            sequence_gap: [C], see `TokenView`.
            differentiate: Compute `logit_grad`.
        """
        size = len(targets)
        logits = self.student_logits[:size]
        project(logits, hidden, self.weight, factor=self.factor, add=False)
        values, ids, maximum = self._support(logits)
        query = torch.cat([ids, targets.token_ids[:, None]], dim=1)
        sums: dict[str, Tensor] = {}
        finite: dict[str, Tensor] = {}

        reference = teacher = None
        if self.reference is not None:
            reference, entropy = self._target(self.reference, start, query, logits, None)
            finite["reference"] = entropy
        if teacher_scored is not None:
            teacher, entropy = (
                Distribution(values[:, :0], teacher_scored.log_probs),
                teacher_scored.entropy,
            )
        elif self.teacher is not None:
            overlap = sums if self.objective.config.diagnostics and ids.shape[1] else None
            teacher, entropy = self._target(self.teacher, start, query, logits, overlap, targets)
        if teacher is not None:
            finite["teacher"] = entropy
            sums["teacher_entropy"] = (_distilled(targets) * entropy).sum()

        normaliser, sampled = normalise(
            self.shard,
            logits,
            maximum,
            targets.token_ids[:, None],
            exponentiate=differentiate and not self.complete,
        )
        finite["student"] = normaliser.entropy
        sums["student_entropy"] = (targets.loss_mask * normaliser.entropy).sum()
        log_z = normaliser.log_z
        if self.complete:
            values = logits.sub_(log_z[:, None])
        else:
            values = values - log_z[:, None]
        student = Distribution(values.detach(), (sampled[:, 0] - log_z).detach())
        result, grads = self._terms(
            student, teacher, reference, targets, sequence_gap, differentiate
        )
        result = TermResult(result.loss, {**result.sums, **sums}, result.kl)
        logit_grad = (
            self._logit_grad(logits, normaliser, query, *grads) if grads is not None else None
        )
        return ChunkResult(result, student.sampled, finite, logit_grad)

    def _support(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(values [C, K], global ids [C, K], this rank's maximum [C]); K is 0 when the support is
        complete or not needed.
        """
        if self.objective.top_k:
            return global_topk(self.shard, logits, self.objective.top_k)
        none = logits.new_empty((logits.shape[0], 0))
        return none, none.to(torch.int64), maximum_of(logits)

    def _target(
        self,
        target: TeacherTarget,
        start: int,
        query: Tensor,
        student_logits: Tensor,
        overlap: dict[str, Tensor] | None,
        targets: TokenTargets | None = None,
    ) -> tuple[Distribution, Tensor]:
        """(log-probs of a target at the support and at the sampled token, its entropy [C])."""
        logits = self.target_logits
        assert logits is not None
        logits = logits[: query.shape[0]]
        target_into(logits, target, start, self.shard.rows, self.factor, student_logits)
        if overlap is not None and targets is not None:
            _, own, maximum = global_topk(self.shard, logits, query.shape[1] - 1)
            shared = overlap_fraction(query[:, :-1], own).to(logits.dtype)
            overlap["topk_overlap"] = (_distilled(targets) * shared).sum()
        else:
            maximum = maximum_of(logits)
        normaliser, picked = normalise(self.shard, logits, maximum, query, exponentiate=False)
        picked = picked - normaliser.log_z[:, None]
        support = logits.sub_(normaliser.log_z[:, None]) if self.complete else picked[:, :-1]
        if self.complete and self.teacher is not None and target is self.reference:
            support = support.clone()  # the teacher's logits come into the same buffer next
        return Distribution(support, picked[:, -1]), normaliser.entropy

    def _terms(
        self,
        student: Distribution,
        teacher: Distribution | None,
        reference: Distribution | None,
        targets: TokenTargets,
        sequence_gap: Tensor | None,
        differentiate: bool,
    ) -> tuple[TermResult, tuple[Tensor | None, Tensor | None] | None]:
        """The objective on the chunk, and the gradients of its summed loss with respect to the
        student's log-probs.
        """
        with torch.set_grad_enabled(differentiate):
            support, sampled = student.support, student.sampled
            if differentiate:
                support, sampled = support.requires_grad_(), sampled.clone().requires_grad_()
            total = self._total_over_ranks if self.complete else _row_sum
            view = TokenView(
                Distribution(support, sampled),
                teacher,
                reference,
                targets,
                self.complete,
                total,
                sequence_gap,
            )
            result = self.objective(view)
            if not differentiate:
                return result, None
            grads = torch.autograd.grad(result.loss.sum(), [support, sampled], allow_unused=True)
        return TermResult(result.loss.detach(), result.sums, result.kl), (grads[0], grads[1])

    def _total_over_ranks(self, entries: Tensor) -> Tensor:
        """[C, V] -> [C] summed over all ranks; the gradient reaches this rank's entries only, as it
        should.
        """
        local = entries.sum(-1)
        return local + (self.shard.sum(local.detach()) - local.detach())

    def _logit_grad(
        self,
        logits: Tensor,
        normaliser: Normaliser,
        query: Tensor,
        support_grad: Tensor | None,
        sampled_grad: Tensor | None,
    ) -> Tensor:
        """The student's buffer becomes G = scatter(g) - (sum g) softmax, over the temperature."""
        ids, grads = [], []
        total = logits.new_zeros(logits.shape[0])
        if support_grad is not None:
            total = total + (
                self.shard.sum(support_grad.sum(-1)) if self.complete else support_grad.sum(-1)
            )
            if not self.complete:
                ids.append(query[:, :-1])
                grads.append(support_grad)
        if sampled_grad is not None:
            total = total + sampled_grad
            ids.append(query[:, -1:])
            grads.append(sampled_grad[:, None])
        with torch.no_grad():
            logits = logits.detach()
            if self.complete:  # the buffer holds log-probs
                logits.exp_().mul_(-self.factor * total[:, None])
                if support_grad is not None:
                    logits.add_(support_grad, alpha=self.factor)
            else:  # the buffer holds exp(logit - maximum)
                logits.mul_(-self.factor * (total * normaliser.local_scale)[:, None])
            if ids and self.shard.rows:
                local, here = self.shard.locate(torch.cat(ids, 1))
                logits.scatter_add_(
                    1, local, (self.factor * torch.cat(grads, 1)).masked_fill(~here, 0.0)
                )
        return logits


def target_into(
    out: Tensor,
    target: TeacherTarget,
    start: int,
    rows: int,
    factor: float,
    student_logits: Tensor | None,
) -> None:
    """out [C, V] = factor * the target's logits of tokens [start, start + C) on `rows` rows; the
    student's are scaled already.
    """
    for index, head in enumerate(target.heads):
        hidden = head.hidden.detach()[start : start + out.shape[0]]
        project(
            out,
            hidden,
            head.weight.detach()[:rows],
            factor=factor * head.coefficient,
            add=index > 0,
        )
    if target.student_coefficient:
        assert student_logits is not None
        out.add_(student_logits, alpha=target.student_coefficient)


def _row_sum(entries: Tensor) -> Tensor:
    return entries.sum(-1)


def _distilled(targets: TokenTargets) -> Tensor:
    """[C] bool: tokens that the distillation term trains on."""
    return targets.loss_mask & (targets.distill_weight != 0)


def overlap_fraction(first: Tensor, second: Tensor) -> Tensor:
    """[C, K] ids, [C, K] ids, no repeats within a row -> [C], the share of ids that are in both."""
    both = torch.cat([first, second], dim=1).sort(dim=1).values
    return (both[:, 1:] == both[:, :-1]).sum(1) / max(first.shape[1], 1)
