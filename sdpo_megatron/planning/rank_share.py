"""What one rank of a layout holds of a model: parameters, and activations a token of a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sdpo_megatron.actor.model.config import ParallelConfig
from sdpo_megatron.weights.mapping import EMBED, FINAL_NORM, HEAD, hf_shapes
from sdpo_megatron.weights.spec import ModelSpec

BF16, FP32 = 2, 4
"""Bytes of a number."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters that one rank of a pipeline stage holds.

    Attributes:
        dense: Split by tensor parallelism, or whole on each rank of it.
        expert: Of experts, which have data-parallel groups of their own.
    """

    dense: int
    expert: int


def parameters_on(spec: ModelSpec, parallel: ParallelConfig, stage: int) -> Parameters:
    """Of pipeline stage `stage`, from the checkpoint's own shapes; biases are counted as if whole
    on each rank (they are negligible)."""
    first, last = stage == 0, stage == parallel.pipeline - 1
    per_stage = spec.num_layers // parallel.pipeline
    experts = parallel.expert * parallel.expert_tensor
    vocab = spec.padded_vocab(parallel.tensor) // parallel.tensor * spec.hidden
    dense = expert = 0
    for name, shape in hf_shapes(spec).items():
        if name in (EMBED, HEAD, FINAL_NORM) or int(name.split(".")[2]) >= per_stage:
            continue  # all stages have equally many layers, alike
        size = math.prod(shape)
        if ".experts." in name:
            expert += size
        elif len(shape) == 1 or name.endswith("mlp.gate.weight"):
            dense += size
        else:
            dense += size // parallel.tensor
    dense += vocab if first else 0
    dense += spec.hidden if last else 0
    if last and not (spec.tied and first):
        dense += vocab
    return Parameters(dense=dense, expert=expert // experts)


def num_parameters(spec: ModelSpec) -> int:
    """Of the whole model."""
    return sum(math.prod(shape) for shape in hf_shapes(spec).values())


def layer_activation_bytes(
    spec: ModelSpec, parallel: ParallelConfig, *, recomputes: bool = False
) -> int:
    """Bytes a token that one layer keeps for its backward pass, on one rank.

    Args:
        recomputes: Without what selective recomputation of the feed-forward layer makes anew; that
            of attention keeps what flash attention does.
    """
    t = parallel.tensor
    hidden = spec.hidden // (t if parallel.sequence_parallel else 1)
    query, key_value = spec.num_heads * spec.head_dim, 2 * spec.num_kv_heads * spec.head_dim
    qkv = (query + key_value) * (2 if spec.qk_norm else 1)
    numbers = 4 * hidden + (qkv + query) // t
    if recomputes and _keeps_no_feed_forward(parallel):
        pass  # its input is a norm's output, counted above
    elif spec.moe is None:
        numbers += 3 * spec.ffn_hidden // t
    else:  # routed evenly, so that a rank gets as many tokens as it sends
        both_ends = 2 * spec.hidden * parallel.expert_tensor
        numbers += spec.moe.top_k * (both_ends + 3 * spec.moe.ffn_hidden) // t
    return BF16 * numbers + FP32 * spec.num_heads // t


def _keeps_no_feed_forward(parallel: ParallelConfig) -> bool:
    return parallel.recompute == "selective" and "feed_forward" in parallel.recompute_parts
