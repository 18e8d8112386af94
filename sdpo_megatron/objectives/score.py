"""log-probabilities of given tokens, without a gradient: log pi_old, log pi_reference, and whole
attempts for the sequence level.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from sdpo_megatron.errors import NumericsError
from sdpo_megatron.objectives.chunk import Scored, target_into
from sdpo_megatron.objectives.logits import compute_dtype, maximum_of, normalise
from sdpo_megatron.objectives.shards import VocabShard
from sdpo_megatron.objectives.targets import TeacherHead, TeacherTarget, first_nonfinite


def head_log_probs(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    *,
    temperature: float = 1.0,
    chunk_tokens: int = 256,
    tp_group: dist.ProcessGroup | None = None,
    vocab_size: int | None = None,
) -> Tensor:
    """log pi(y_t) of given tokens, [T] float32; arguments as in `head_loss`.

    Raises:
        NumericsError: NaN or infinity in logits; names the token.
    """
    shard = VocabShard.of(weight, vocab_size, tp_group)
    scored = score_target(
        TeacherTarget([TeacherHead(hidden, weight)]), token_ids, shard, temperature, chunk_tokens
    )
    if (index := first_nonfinite(scored.entropy)) is not None:
        raise NumericsError(
            f"NaN or infinity in the logits that predict token {index} (id {int(token_ids[index])})"
        )
    return scored.log_probs


@torch.no_grad()
def score_target(
    target: TeacherTarget,
    token_ids: Tensor,
    shard: VocabShard,
    temperature: float,
    chunk_tokens: int,
) -> Scored:
    """log q(y_t) and entropy of a target without a student share; `token_ids` is [T]."""
    weight, tokens = target.heads[0].weight, token_ids.shape[0]
    buffer = weight.new_empty(
        (min(chunk_tokens, max(tokens, 1)), shard.rows), dtype=compute_dtype(weight)
    )
    log_probs, entropies = [], []
    for start in range(0, max(tokens, 1), chunk_tokens):
        ids = token_ids[start : start + chunk_tokens, None]
        logits = buffer[: ids.shape[0]]
        target_into(logits, target, start, shard.rows, 1.0 / temperature, student_logits=None)
        normaliser, picked = normalise(shard, logits, maximum_of(logits), ids, 0, keep="logits")
        log_probs.append(normaliser.log_probs(picked)[:, 0])
        entropies.append(normaliser.entropy)
    return Scored(torch.cat(log_probs), torch.cat(entropies))
