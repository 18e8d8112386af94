"""Chunks of logits: the matrix products, and the one pass that normalises them.

Products of bf16 inputs are accumulated and returned in float32 (float64 inputs stay float64).
Shapes: C tokens of a chunk, H hidden, V the rows of this rank.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sdpo_megatron.objectives.shards import Normaliser, VocabShard, combine
from sdpo_megatron.objectives.topk import block_maxima, blocked_topk_first

# Elements of logits treated at once between reading and writing memory: half of a core's L2 cache;
# on a GPU, enough to fill it.
SLICE_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 25}
# rows of a bf16 head turned to float32 at a time on a CPU, which has no bf16 x bf16 -> float32
# product
UPCAST_ROWS = 4096
FAR_BELOW = -1e30  # added to a logit, takes it out of every sum; finite, so that 0 times it is 0
Keep = Literal["logits", "powers", "nothing"]


def compute_dtype(weight: Tensor) -> torch.dtype:
    """float64 for float64 weights (gradient checks), else float32."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def project(out: Tensor, hidden: Tensor, weight: Tensor, *, factor: float, add: bool) -> None:
    """out [C, V] = (out if add else 0) + factor * hidden [C, H] @ weight [V, H].T."""
    beta = 1.0 if add else 0.0
    hidden = hidden.to(weight.dtype)
    if weight.dtype == out.dtype and not add:
        torch.mm(hidden, weight.t(), out=out)
        if factor != 1.0:  # not inside the product: equal logits must stay equal
            out.mul_(factor)
    elif weight.dtype == out.dtype:
        torch.addmm(out, hidden, weight.t(), beta=beta, alpha=factor, out=out)
    elif weight.is_cuda and not add and factor == 1.0:
        torch.mm(hidden, weight.t(), out_dtype=out.dtype, out=out)
    elif weight.is_cuda:
        product = torch.mm(hidden, weight.t(), out_dtype=out.dtype)
        torch.add(product.mul_(factor), out, alpha=beta, out=out) if add else torch.mul(
            product, factor, out=out
        )
    else:
        wide = hidden.to(out.dtype)
        for start in range(0, weight.shape[0], UPCAST_ROWS):
            block = weight[start : start + UPCAST_ROWS].to(out.dtype)
            part = out[:, start : start + UPCAST_ROWS]
            torch.addmm(part, wide, block.t(), beta=beta, alpha=factor, out=part)


def slices(logits: Tensor) -> range:
    """Starts of row slices that fit the cache; the step is the height of a slice."""
    limit = SLICE_ELEMENTS.get(logits.device.type, SLICE_ELEMENTS["cuda"])
    return range(0, logits.shape[0], max(1, limit // max(1, logits.shape[1])))


def normalise(
    shard: VocabShard,
    logits: Tensor,
    maximum: Tensor,
    ids: Tensor,
    num_support: int,
    *,
    keep: Keep,
) -> tuple[Normaliser, Tensor]:
    """log Z, entropy and mass outside the support of each row of `logits` [C, V] over all ranks,
    and its logits at `ids`.

    Args:
        shard: Where this rank stands.
        logits: [C, V], this rank's.
        maximum: [C], the maximum of each row of `logits`.
        ids: [C, S], global ids.
        num_support: The first so many columns of `ids` are the support (no id twice).
        keep: What `logits` holds afterwards: "logits" (num_support must be 0), "powers", which is
            exp(logit - maximum) and 0 at the support, or "nothing" of use.

    Returns:
        The normaliser, and the logits [C, S] at the ids.
    """
    assert keep != "logits" or num_support == 0
    picked = shard.pick(logits, ids)
    rest, weighted = torch.zeros_like(maximum), torch.zeros_like(maximum)
    local, here = shard.locate(ids[:, :num_support])
    if num_support and shard.rows:
        # Out of the sums: exp gives 0 there, and 0 times a finite number is 0.
        logits.scatter_add_(1, local, here.to(logits.dtype) * FAR_BELOW)
    steps = slices(logits)
    for start in steps if shard.rows else ():
        rows = slice(start, start + steps.step)
        shifted = logits[rows] - maximum[rows, None]
        powers = torch.exp(shifted, out=logits[rows]) if keep == "powers" else shifted.exp()
        rest[rows] = powers.sum(-1)
        weighted[rows] = torch.linalg.vecdot(powers, shifted)
    total = rest
    if num_support and shard.rows:
        shifted = picked[:, :num_support] - maximum[:, None]
        powers = shifted.exp().masked_fill_(~here, 0.0)
        total = rest + powers.sum(-1)
        weighted = weighted + (powers * shifted).sum(-1)
    return combine(shard, maximum, rest, total, weighted, picked)


def maximum_of(logits: Tensor) -> Tensor:
    """[C, V] -> [C]; the lowest finite float where V is 0."""
    if logits.shape[1] == 0:
        return logits.new_full((logits.shape[0],), torch.finfo(logits.dtype).min)
    return logits.amax(-1)


def global_topk(shard: VocabShard, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Global ids [C, k] of the k largest logits of each row over all ranks, and this rank's maximum
    [C] of each row.
    """
    if shard.rows == 0:
        none = logits.new_empty((logits.shape[0], 0))
        return shard.merge_topk(none, none.to(torch.int64), k), maximum_of(logits)
    maxima = block_maxima(logits)
    values, ids = blocked_topk_first(logits, maxima, min(k, shard.rows))
    return shard.merge_topk(values, ids + shard.start, k), maxima.amax(-1)


def hidden_grad(out: Tensor, logit_grad: Tensor, weight: Tensor) -> None:
    """out [C, H] = logit_grad [C, V] @ weight [V, H]; the operands in the weight's dtype,
    accumulated in float32 or more.
    """
    if weight.shape[0] == 0:
        out.zero_()
    else:
        torch.mm(logit_grad.to(weight.dtype), weight, out=out)


def accumulate_weight_grad(
    total: Tensor, logit_grad: Tensor, hidden: Tensor, factor: float
) -> None:
    """total [V, H] += factor * logit_grad [C, V].T @ hidden [C, H], in total's dtype."""
    if total.is_cuda and hidden.dtype != total.dtype:
        product = torch.mm(logit_grad.to(hidden.dtype).t(), hidden, out_dtype=torch.float32)
        total.add_(product, alpha=factor)
    else:
        # A CPU multiplies in total's dtype, float32 for bf16 models: no partial sum is rounded.
        total.addmm_(logit_grad.to(total.dtype).t(), hidden.to(total.dtype), alpha=factor)
