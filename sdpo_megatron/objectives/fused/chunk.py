"""One chunk of tokens: logits in, loss terms and the gradient with respect to the logits out.

Shapes: C tokens of the chunk, H hidden, V rows of this rank, K support, S entries a term sees (K,
or V when the support is complete).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdpo_megatron.objectives.fused.dispatch import passes_for
from sdpo_megatron.objectives.fused.logits import compute_dtype, project
from sdpo_megatron.objectives.fused.passes import Keep, Scan, global_topk, normalise
from sdpo_megatron.objectives.fused.shards import Normaliser, VocabShard
from sdpo_megatron.objectives.objective import Objective
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
        self.passes = passes_for(weight, complete=self.complete)
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
        ids, scan = self._support(logits)
        query = torch.cat([ids, targets.token_ids[:, None]], dim=1)
        sums: dict[str, Tensor] = {}
        finite: dict[str, Tensor] = {}

        reference = teacher = None
        if self.reference is not None:
            reference, entropy = self._target(self.reference, start, query, logits, None)
            finite["reference"] = entropy
        if teacher_scored is not None:
            scored, entropy = teacher_scored.log_probs, teacher_scored.entropy
            teacher = Distribution(scored.new_empty((size, 0)), scored, torch.zeros_like(scored))
        elif self.teacher is not None:
            overlap = sums if self.objective.config.diagnostics and ids.shape[1] else None
            teacher, entropy = self._target(self.teacher, start, query, logits, overlap, targets)
        if teacher is not None:
            finite["teacher"] = entropy
            sums["teacher_entropy"] = (_distilled(targets) * entropy).sum()

        keep: Keep = "logits" if self.complete else "powers" if differentiate else "nothing"
        normaliser, picked = normalise(
            self.passes, self.shard, logits, scan, query, ids.shape[1], keep=keep
        )
        finite["student"] = normaliser.entropy
        sums["student_entropy"] = (targets.loss_mask * normaliser.entropy).sum()
        student = self._distribution(normaliser, picked, logits)
        result, grads = self._terms(
            student, teacher, reference, targets, sequence_gap, differentiate
        )
        result = TermResult(result.loss, {**result.sums, **sums}, result.kl)
        logit_grad = (
            None
            if grads is None
            else self._logit_grad(logits, scan, normaliser, query, student, grads)
        )
        return ChunkResult(result, student.sampled, finite, logit_grad)

    def _support(self, logits: Tensor) -> tuple[Tensor, Scan]:
        """(global ids [C, K], scan of the logits); K = 0: support complete or not needed."""
        if self.objective.top_k:
            return global_topk(self.passes, self.shard, logits, self.objective.top_k)
        none = torch.empty((logits.shape[0], 0), dtype=torch.int64, device=logits.device)
        return none, self.passes.scan(logits, topk=False)

    def _distribution(self, normaliser: Normaliser, picked: Tensor, logits: Tensor) -> Distribution:
        """log-probs from picked logits [C, K + 1], or from all when the support is complete."""
        at_ids = normaliser.log_probs(picked)
        support = normaliser.log_probs_(logits) if self.complete else at_ids[:, :-1]
        return Distribution(support.detach(), at_ids[:, -1], normaliser.log_rest)

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
            own, scan = global_topk(self.passes, self.shard, logits, query.shape[1] - 1)
            shared = overlap_fraction(query[:, :-1], own).to(logits.dtype)
            overlap["topk_overlap"] = (_distilled(targets) * shared).sum()
        else:
            scan = self.passes.scan(logits, topk=False)
        keep: Keep = "logits" if self.complete else "nothing"
        normaliser, picked = normalise(
            self.passes, self.shard, logits, scan, query, query.shape[1] - 1, keep=keep
        )
        found = self._distribution(normaliser, picked, logits)
        if self.complete and self.teacher is not None and target is self.reference:
            # The teacher's logits come into the same buffer next.
            found = replace(found, support=found.support.clone())
        return found, normaliser.entropy

    def _terms(
        self,
        student: Distribution,
        teacher: Distribution | None,
        reference: Distribution | None,
        targets: TokenTargets,
        sequence_gap: Tensor | None,
        differentiate: bool,
    ) -> tuple[TermResult, Distribution | None]:
        """The chunk's objective; gradients of its summed loss with respect to student log-probs."""
        with torch.set_grad_enabled(differentiate):
            if differentiate:
                student = Distribution(
                    student.support.requires_grad_(),
                    student.sampled.clone().requires_grad_(),
                    student.log_rest.clone().requires_grad_(),
                )
            total = self._total_over_ranks if self.complete else _row_sum
            view = TokenView(
                student, teacher, reference, targets, self.complete, total, sequence_gap
            )
            result = self.objective(view)
            if not differentiate:
                return result, None
            leaves = (student.support, student.sampled, student.log_rest)
            grads = torch.autograd.grad(result.loss.sum(), leaves, allow_unused=True)
        found = Distribution(
            *(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True))
        )
        return TermResult(result.loss.detach(), result.sums, result.kl), found

    def _total_over_ranks(self, entries: Tensor) -> Tensor:
        """[C, V] -> [C] summed over all ranks.

        The gradient reaches this rank's entries only, as it should.
        """
        local = entries.sum(-1)
        # Exactly the collective's sum: local + (sum - local) would round differently on each rank.
        return self.shard.sum(local.detach()) + (local - local.detach())

    def _logit_grad(
        self,
        logits: Tensor,
        scan: Scan,
        normaliser: Normaliser,
        query: Tensor,
        student: Distribution,
        grads: Distribution,
    ) -> Tensor:
        """The gradient of the loss with respect to the raw products, in a buffer of the chunk's.

        With g the gradients with respect to log-probs, G their sum and m the mass outside the
        support, the gradient with respect to a logit is

            g_i - G p_i                   at an id of the support
            (g_rest / m - G) p_v          outside, since d log m / d logit_v = p_v / m - p_v

        plus g of the sampled token at its id; all over the temperature. Written like this, no two
        large numbers cancel where m is small.
        """
        if self.factor != 1.0:
            scaled = (grads.support, grads.sampled, grads.log_rest)
            grads = Distribution(*(grad * self.factor for grad in scaled))
        total = grads.support.sum(-1)
        if self.complete:
            total = self.shard.sum(total)
        total = total + grads.sampled + grads.log_rest
        logits = logits.detach()
        if self.complete:  # the buffer holds log-probs
            logits.exp_().mul_(-total[:, None]).add_(grads.support)
            if self.shard.rows:
                local, here = self.shard.locate(query[:, -1:])
                logits.scatter_add_(1, local, grads.sampled[:, None].masked_fill(~here, 0.0))
            return logits
        if not self.shard.rows:
            return logits
        share = torch.where(grads.log_rest != 0, grads.log_rest / student.log_rest.exp(), 0.0)
        at_support = grads.support - total[:, None] * student.support.exp()
        at_ids = torch.cat([at_support, grads.sampled[:, None]], dim=1)
        factor = (share - total) * normaliser.local_scale
        scratch = None if self.target_logits is None else self.target_logits[: len(logits)]
        return self.passes.logit_grad(self.shard, logits, scan, factor, query, at_ids, scratch)


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
