"""How many floating-point operations a model does, as the literature counts them for MFU.

Of a sequence of T tokens, in one forward pass (2 operations for each multiply-add):

    2 T L (q, k, v, o projections + feed-forward weights)     of L layers
    4 T (T + 1) / 2  L heads head_dim                         causal: scores and their mix of values
    2 R hidden vocab                                          LM head, at R response tokens alone

Of a mixture of experts the router and the `top_k` experts of a token count. A backward pass is two
forward ones. Embedding look-ups, norms, padding, recomputation and the optimiser are left out, as
in "PaLM" (arXiv 2204.02311, appendix B), which this differs from in the causal half of attention.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sdpo_megatron.weights.spec import ModelSpec

__all__ = ["forward_flops"]


Count = TypeVar("Count", float, NDArray[np.float64])


def forward_flops(spec: ModelSpec, tokens: Count, response_tokens: Count) -> Count:
    """Operations of one forward pass over a sequence, or over each of several.

    Args:
        spec: Of the whole model, whatever the parallel layout.
        tokens: T, prompt and response.
        response_tokens: R, those that logits are computed of.
    """
    heads = spec.num_heads * spec.head_dim
    attention = spec.hidden * (2 * heads + 2 * spec.num_kv_heads * spec.head_dim)
    per_token = 2.0 * spec.num_layers * (attention + _feed_forward(spec))
    pairs = tokens * (tokens + 1) / 2
    return (
        tokens * per_token
        + 4.0 * pairs * spec.num_layers * heads
        + 2.0 * response_tokens * spec.hidden * spec.vocab
    )


def _feed_forward(spec: ModelSpec) -> int:
    """Weights of a layer's feed-forward part that one token meets; it is gated: three matrices."""
    if spec.moe is None:
        return 3 * spec.hidden * spec.ffn_hidden
    experts = 3 * spec.hidden * spec.moe.ffn_hidden * spec.moe.top_k
    return experts + spec.hidden * spec.moe.num_experts
