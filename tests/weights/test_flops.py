"""Operations by hand, and against what torch counts while transformers runs."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sdpo_megatron.weights.flops import forward_flops
from sdpo_megatron.weights.spec import ModelSpec, MoeSpec

TINY: dict[str, Any] = {
    "model_type": "llama", "num_layers": 2, "hidden": 4, "ffn_hidden": 6, "num_heads": 2,
    "num_kv_heads": 1, "head_dim": 3, "vocab": 10, "max_position": 64, "norm_eps": 1e-6,
    "rope_theta": 1e4,
}  # fmt: skip


def test_a_sequence_by_hand() -> None:
    # A layer: q 4x6, k and v 4x3, o 6x4, and three matrices 4x6.
    # Three tokens see 1 + 2 + 3 = 6 tokens, scores and mix: 4 x 6 pairs x 2 heads x 3.
    # Logits of two tokens: 2 x 2 x 4 x 10.
    layers = 2 * 3 * 2 * (24 + 12 + 12 + 24 + 72)
    assert forward_flops(ModelSpec(**TINY), 3, 2) == layers + 2 * 4 * 6 * 6 + 160


def test_of_a_mixture_the_router_and_the_chosen_experts_count() -> None:
    moe = MoeSpec(num_experts=8, top_k=2, ffn_hidden=5, normalise_top_k=True)
    dense = forward_flops(ModelSpec(**TINY), 1, 0)
    mixed = forward_flops(ModelSpec(**TINY, moe=moe), 1, 0)
    assert mixed - dense == 2 * 2 * ((2 * 3 * 4 * 5 + 4 * 8) - 3 * 4 * 6)


def test_torch_counts_the_same_in_transformers() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, attn_implementation="eager",
    )  # fmt: skip
    model, tokens = LlamaForCausalLM(config), 11
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, tokens, dtype=torch.int64))
    spec = ModelSpec.from_config(config.to_dict() | {"rope_theta": 1e4})
    above_diagonal = tokens**2 - tokens * (tokens + 1) // 2  # eager attention computes and masks it
    masked = 4 * above_diagonal * spec.num_layers * spec.num_heads * spec.head_dim
    assert forward_flops(spec, tokens, tokens) == counter.get_total_flops() - masked
