"""Rotary positions of packed sequences for Megatron's local layer spec.

T tokens, N heads, D head width. Megatron's own (`rope_utils`, megatron-core 0.16.1) takes cosines
and sines anew in every layer and makes eight tensors of the size of the queries; this one takes
them once a micro-batch and makes one.
"""

from __future__ import annotations

from typing import Any

import torch

_last: tuple[Any, ...] = (None, None, None)


def apply_packed_rotary(
    t: torch.Tensor,
    freqs: torch.Tensor,
    config: Any,
    cu_seqlens: torch.Tensor | None = None,
    mscale: float = 1.0,
    cp_group: Any = None,
) -> torch.Tensor:
    """Takes the place of `apply_rotary_pos_emb` in Megatron's attention.

    Args:
        t: [T, N, D], queries or keys.
        freqs: [longest, 1, 1, D], the angle of each position, its two halves equal.
        config: Megatron's TransformerConfig.
        cu_seqlens: [S + 1], where the sequences begin and end; positions restart in each.
        mscale: 1: no scaling of lengths is supported here.
        cp_group: Of one rank: context parallelism needs Transformer Engine.
    """
    assert cu_seqlens is not None, "only packed sequences are supported: give packed_seq_params"
    assert freqs.shape[-1] == t.shape[-1]
    assert not config.rotary_interleaved
    assert mscale == 1.0
    rotated: torch.Tensor = _Rotate.apply(t, *_cos_sin(freqs, cu_seqlens, t.dtype))  # type: ignore[no-untyped-call]
    return rotated


def _cos_sin(
    freqs: torch.Tensor, cu_seqlens: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """([T, 1, D], [T, 1, D / 2]); the same for all layers of a pass, so the last ones are kept."""
    global _last
    if not (_last[0] is freqs and _last[1] is cu_seqlens and _last[2] == dtype):
        lengths = cu_seqlens.diff().tolist()
        angles = torch.cat([freqs[:length, 0] for length in lengths])
        half = angles[..., : angles.shape[-1] // 2]
        _last = (freqs, cu_seqlens, dtype, angles.cos().to(dtype), half.sin().to(dtype))
    return _last[3], _last[4]


class _Rotate(torch.autograd.Function):
    """(a, b) -> (a cos - b sin, b cos + a sin); its transpose turns the other way."""

    @staticmethod
    def forward(ctx: Any, t: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(t, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        return _rotated(grad, *ctx.saved_tensors, -1.0), None, None


def _rotated(
    t: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: float
) -> torch.Tensor:
    half = t.shape[-1] // 2
    out = t * cos
    out[..., :half].addcmul_(t[..., half:], sin, value=-direction)
    out[..., half:].addcmul_(t[..., :half], sin, value=direction)
    return out
