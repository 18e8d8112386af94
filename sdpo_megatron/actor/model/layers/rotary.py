"""Rotary positions of packed sequences for Megatron's local layer spec.

T tokens, N heads, D head width. Megatron's own (`rope_utils`, megatron-core 0.16.1) takes cosines
and sines anew in every layer and makes eight tensors of the size of the queries; this one takes
them once a micro-batch and makes one.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

_kept: list[tuple[Any, ...]] = []  # (freqs, cu_seqlens, dtype, cosines, sines)
_KEPT = 2  # kinds of layers that take turns in a pass


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
    """([T, 1, D], [T, 1, D / 2]); the same for all layers of a kind in a pass, so the last ones are
    kept.
    """
    for kept in _kept:
        if _same(kept[0], freqs) and kept[1] is cu_seqlens and kept[2] == dtype:
            return kept[3], kept[4]
    lengths = cu_seqlens.diff().tolist()
    angles = torch.cat([freqs[:length, 0] for length in lengths])
    half = angles[..., : angles.shape[-1] // 2]
    _kept.append((freqs, cu_seqlens, dtype, angles.cos().to(dtype), half.sin().to(dtype)))
    del _kept[:-_KEPT]
    return _kept[-1][3], _kept[-1][4]


def _same(kept: torch.Tensor, freqs: torch.Tensor) -> bool:
    """The same view of the same memory, which `kept` holds on to."""
    return kept is freqs or (kept.data_ptr() == freqs.data_ptr() and kept.shape == freqs.shape)


class RotaryByLayer(torch.nn.Module):
    """Two tables of angles side by side, for models whose layers differ: plain ones for layers with
    a window, scaled ones for the others. `half_of_layer` takes one.
    """

    def __init__(self, plain: Any, scaled_inv_freq: torch.Tensor) -> None:
        """
        Args:
            plain: Megatron's RotaryEmbedding.
            scaled_inv_freq: [D / 2], the inverse frequencies of the other table.
        """
        super().__init__()
        self.plain, self.scaled = plain, copy.copy(plain)  # its inv_freq is no buffer
        self.scaled.inv_freq = scaled_inv_freq

    def forward(self, *args: Any, **named: Any) -> torch.Tensor:
        """[longest, 1, 1, 2 D]."""
        return torch.cat([self.plain(*args, **named), self.scaled(*args, **named)], -1)

    def get_rotary_seq_len(self, *args: Any, **named: Any) -> int:
        """As Megatron's."""
        return int(self.plain.get_rotary_seq_len(*args, **named))


def half_of_layer(both: torch.Tensor, *, windowed: bool) -> torch.Tensor:
    """The angles [longest, 1, 1, D] of a layer, from `RotaryByLayer`."""
    plain, scaled = both.chunk(2, -1)
    return plain if windowed else scaled


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
