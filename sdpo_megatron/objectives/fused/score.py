"""log-probabilities of given tokens, without a gradient: log pi_old, log pi_reference, and whole
attempts for the sequence level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdpo_megatron.errors import NumericsError
from sdpo_megatron.objectives.fused.chunk import Scored, target_into
from sdpo_megatron.objectives.fused.dispatch import passes_for
from sdpo_megatron.objectives.fused.logits import compute_dtype
from sdpo_megatron.objectives.fused.options import DEFAULT, HeadOptions
from sdpo_megatron.objectives.fused.passes import normalise
from sdpo_megatron.objectives.fused.shards import VocabShard
from sdpo_megatron.objectives.targets import TeacherHead, TeacherTarget, first_nonfinite


def head_log_probs(
    hidden: Tensor, weight: Tensor, token_ids: Tensor, options: HeadOptions = DEFAULT
) -> Tensor:
    """log pi(y_t) of given tokens, [T] float32; arguments as in `head_loss`.

    Raises:
        NumericsError: NaN or infinity in logits; names the token.
    """
    shard = VocabShard.of(weight, options.vocab_size, options.tp_group)
    own = TeacherTarget([TeacherHead(hidden, weight)])
    scored = score_target(own, token_ids, shard, options)
    if (index := first_nonfinite(scored.entropy)) is not None:
        raise NumericsError(
            f"NaN or infinity in the logits that predict token {index} (id {int(token_ids[index])})"
        )
    return scored.log_probs


@torch.no_grad()
def score_target(
    target: TeacherTarget, token_ids: Tensor, shard: VocabShard, options: HeadOptions
) -> Scored:
    """log q(y_t) and entropy of a target without a student share; `token_ids` is [T]."""
    weight, tokens = target.heads[0].weight, token_ids.shape[0]
    passes, chunk = passes_for(weight, complete=False), options.chunk_tokens
    buffer = weight.new_empty((min(chunk, max(tokens, 1)), shard.rows), dtype=compute_dtype(weight))
    log_probs, entropies = [], []
    for start in range(0, max(tokens, 1), chunk):
        ids = token_ids[start : start + chunk, None]
        logits = buffer[: ids.shape[0]]
        factor = 1.0 / options.temperature
        target_into(logits, target, start, shard.rows, factor, student_logits=None)
        scan = passes.scan(logits, topk=False)
        normaliser, picked = normalise(passes, shard, logits, scan, ids, 0, keep="logits")
        log_probs.append(normaliser.log_probs(picked)[:, 0])
        entropies.append(normaliser.entropy)
    return Scored(torch.cat(log_probs), torch.cat(entropies))
