"""Causal attention over packed sequences for Megatron's local layer spec.

T tokens; N query heads and G key-value heads of this tensor-parallel rank; D head width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


class PackedAttention(torch.nn.Module):
    """torch SDPA, one call a sequence.

    Takes the packed ("thd") inputs of Transformer Engine's attention: a CPU and a GPU share one
    data path.
    """

    def __init__(
        self,
        config: Any,
        softmax_scale: float | None = None,
        *,
        layer_number: int = 1,
        rope_factor: float = 1.0,
        **_: Any,
    ) -> None:
        """
        Args:
            config: Megatron's TransformerConfig: kv_channels, context_parallel_size, window_size
                and window_attn_skip_freq are read.
            softmax_scale: Scale of the scores; None means D ** -0.5.
            layer_number: Of the whole model, from 1: decides whether the layer has a window.
            rope_factor: Of rotated queries and keys in layers without a window (YaRN's attention
                factor): their scores grow with its square.
        """
        super().__init__()
        assert config.context_parallel_size == 1, (
            "context parallelism needs Transformer Engine's attention"
        )
        self.scale = config.kv_channels**-0.5 if softmax_scale is None else softmax_scale
        self.window = window_of(config, layer_number)
        if self.window is None:
            self.scale *= rope_factor**2

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        attn_mask_type: Any = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> torch.Tensor:
        """query [T, N, D], key and value [T, G, D] -> [T, N * D].

        Each token sees its own sequence up to itself, or the last `window` tokens of it, itself
        included. The sequences are those of
        `packed_seq_params.cu_seqlens_q`; they must cover all T tokens, padding included.
        """
        assert packed_seq_params is not None, (
            "only packed sequences are supported: give packed_seq_params"
        )
        lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
        assert sum(lengths) == query.shape[0], (
            f"cu_seqlens cover {sum(lengths)} of {query.shape[0]} tokens"
        )
        grouped = query.shape[1] != key.shape[1]
        outputs = []
        for q, k, v in zip(*(_sequences(x, lengths) for x in (query, key, value)), strict=True):
            mask = self._mask(q.shape[2], q.device)
            outputs.append(
                F.scaled_dot_product_attention(
                    q,
                    k,
                    v,
                    attn_mask=mask,
                    is_causal=mask is None,
                    scale=self.scale,
                    enable_gqa=grouped,
                )
            )
        return torch.cat([out.squeeze(0).transpose(0, 1) for out in outputs]).flatten(1)

    def _mask(self, length: int, device: torch.device) -> torch.Tensor | None:
        """[length, length] bool, True where a token is seen; None where all before it are."""
        if self.window is None or length <= self.window:
            return None
        seen = torch.ones(length, length, dtype=torch.bool, device=device)
        return seen.tril_().triu_(1 - self.window)


def window_of(config: Any, layer_number: int) -> int | None:
    """How many tokens a token of this layer sees, itself included; None for all before it.

    Of Megatron's fields: window_size (to the left, to the right), and window_attn_skip_freq, 1 for
    each layer that has it.
    """
    if not config.window_size or not config.window_attn_skip_freq[layer_number - 1]:
        return None
    return int(config.window_size[0]) + 1


def _sequences(x: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
    """[T, heads, D] -> one view [1, heads, length, D] a sequence; empty ones are left out."""
    return [part.transpose(0, 1)[None] for part in x.split(lengths) if part.shape[0]]
