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

    def __init__(self, config: Any, softmax_scale: float | None = None, **_: Any) -> None:
        """
        Args:
            config: Megatron's TransformerConfig: kv_channels and context_parallel_size are read.
            softmax_scale: Scale of the scores; None means D ** -0.5.
        """
        super().__init__()
        assert config.context_parallel_size == 1, (
            "context parallelism needs Transformer Engine's attention"
        )
        self.scale = config.kv_channels**-0.5 if softmax_scale is None else softmax_scale

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

        Each token sees its own sequence up to itself. The sequences are those of
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
        outputs = [
            F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=self.scale, enable_gqa=grouped
            )
            for q, k, v in zip(*(_sequences(x, lengths) for x in (query, key, value)), strict=True)
        ]
        return torch.cat([out.squeeze(0).transpose(0, 1) for out in outputs]).flatten(1)


def _sequences(x: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
    """[T, heads, D] -> one view [1, heads, length, D] a sequence; empty ones are left out."""
    return [part.transpose(0, 1)[None] for part in x.split(lengths) if part.shape[0]]
