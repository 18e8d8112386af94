"""What student and teacher think of given tokens, for people: log pi, log q, and the tokens that
the teacher would rather have seen.

A pass of its own over the few tokens that are asked about: it costs two products with the head
for them, and the loss, which runs for all tokens, nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdpo_megatron.objectives.fused.chunk import target_into
from sdpo_megatron.objectives.fused.dispatch import passes_for
from sdpo_megatron.objectives.fused.logits import compute_dtype
from sdpo_megatron.objectives.fused.options import HeadOptions
from sdpo_megatron.objectives.fused.passes import global_topk, normalise
from sdpo_megatron.objectives.fused.shards import VocabShard
from sdpo_megatron.objectives.targets import TeacherHead, TeacherTarget


@dataclass(frozen=True)
class TokenScores:
    """Of T tokens; natural logarithms, at the rollout temperature.

    Attributes:
        student: [T], log pi(y_t).
        teacher: [T], log q(y_t).
        alternatives: [T, N] int64, the N most probable tokens of the teacher, most probable first.
        student_at: [T, N], log pi of them.
        teacher_at: [T, N], log q of them.
    """

    student: Tensor
    teacher: Tensor
    alternatives: Tensor
    student_at: Tensor
    teacher_at: Tensor


@torch.no_grad()
def head_token_scores(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    teacher: TeacherTarget,
    num_alternatives: int,
    options: HeadOptions,
) -> TokenScores:
    """Score T >= 1 tokens; the arguments are those of `head_loss`.

    Collective over the tensor-parallel group, and the same on all its ranks. N is
    `num_alternatives`, or the vocabulary's size where that is less.
    """
    shard = VocabShard.of(weight, options.vocab_size, options.tp_group)
    passes, factor = passes_for(weight, complete=False), 1.0 / options.temperature
    target = teacher.with_student(hidden, weight)
    student = TeacherTarget([TeacherHead(hidden, weight)])
    size = min(num_alternatives, shard.size)
    tokens, chunk = token_ids.shape[0], options.chunk_tokens
    buffer = weight.new_empty((min(chunk, tokens), shard.rows), dtype=compute_dtype(weight))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, tokens, chunk):
        sampled = token_ids[start : start + chunk, None]
        logits = buffer[: sampled.shape[0]]
        target_into(logits, target, start, shard.rows, factor, student_logits=None)
        ids, scan = global_topk(passes, shard, logits, size)
        ids = _most_probable_first(shard, logits, ids)
        query = torch.cat([ids, sampled], dim=1)
        normaliser, picked = normalise(passes, shard, logits, scan, query, 0, keep="logits")
        of_teacher = normaliser.log_probs(picked)
        target_into(logits, student, start, shard.rows, factor, student_logits=None)
        scan = passes.scan(logits, topk=False)
        normaliser, picked = normalise(passes, shard, logits, scan, query, 0, keep="logits")
        found.append((ids, of_teacher, normaliser.log_probs(picked)))
    ids, of_teacher, of_student = (torch.cat(parts) for parts in zip(*found, strict=True))
    return TokenScores(
        student=of_student[:, -1],
        teacher=of_teacher[:, -1],
        alternatives=ids,
        student_at=of_student[:, :-1],
        teacher_at=of_teacher[:, :-1],
    )


def _most_probable_first(shard: VocabShard, logits: Tensor, ids: Tensor) -> Tensor:
    """The support of a loss has no order; a person wants one."""
    order = shard.sum(shard.pick(logits, ids)).argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order)
