"""Layers of models that normalise at the end of attention and feed-forward layer (OLMo 3), from
Megatron's local ones. Imported once megatron may be.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel.layers import RowParallelLinear
from megatron.core.transformer.attention import SelfAttention

from sdpo_megatron.actor.model.layers.attention import window_of
from sdpo_megatron.actor.model.layers.norm import RMSNorm
from sdpo_megatron.actor.model.layers.rotary import half_of_layer


class NormedRowParallelLinear(RowParallelLinear):  # type: ignore[misc]
    """The last matrix of a layer and the norm of what it gives, before the residual is added."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **named: Any) -> None:
        """As RowParallelLinear, without a bias."""
        super().__init__(input_size, output_size, config=config, **named)
        self.post_norm = RMSNorm(config, output_size, eps=config.layernorm_epsilon)

    def forward(self, input_: torch.Tensor) -> tuple[torch.Tensor, None]:
        """[T, 1, in / ranks] -> ([T, 1, out], no bias)."""
        output, bias = super().forward(input_)
        assert bias is None, "a bias would have to be added before the norm"
        return self.post_norm(output), None


class SelfAttentionByLayer(SelfAttention):  # type: ignore[misc]
    """Self-attention with the rotary angles of its kind of layer."""

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, rotary_pos_emb: Any = None, **named: Any
    ) -> Any:
        """As SelfAttention; `rotary_pos_emb` holds one table, or the two of `RotaryByLayer`."""
        if rotary_pos_emb.shape[-1] == 2 * self.config.kv_channels:
            windowed = window_of(self.config, self.layer_number) is not None
            rotary_pos_emb = half_of_layer(rotary_pos_emb, windowed=windowed)
        return super().forward(hidden_states, *args, rotary_pos_emb=rotary_pos_emb, **named)
