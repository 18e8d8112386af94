"""Exact top-K with a defined choice: the larger value first, the lower index among equals.

`torch.topk` chooses among equal values as it likes, so that the support of the loss could differ
between parallel layouts. Where there is a choice to make, every element gets a 64-bit key (value,
-index), and keys have no equals. And the K largest of a long row lie in the K blocks with the
largest maxima: one reduction over the row, then small problems only.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Near sqrt(V / K) for V = 49k to 152k and K = 20 to 100, and a multiple of the vector width.
BLOCK = 32


def topk_first(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k first of each row of `values` [C, N], k <= N, by (value descending, index ascending).

    Returns their values [C, k], descending, and indices [C, k] int64; equal values come in any
    order (float64: in order of index). NaN counts as the largest.
    """
    if values.dtype != torch.float32:
        ordered, indices = torch.sort(values, dim=-1, descending=True, stable=True)
        return ordered[:, :k].contiguous(), indices[:, :k].contiguous()
    if not values.is_cuda:  # on a GPU, asking whether there is a choice would wait for it
        top, indices = values.topk(k, dim=-1)
        if k == 0 or bool(((values >= top[:, -1:]).sum(-1) == k).all()):
            return top, indices
    best = order_keys(values, torch.arange(values.shape[-1], device=values.device))
    indices = key_ids(best.topk(k, dim=-1).values)
    return values.gather(-1, indices), indices


_LOW = 0xFFFFFFFF  # the lower half of a key holds the index, reversed


def order_keys(values: Tensor, ids: Tensor) -> Tensor:
    """float32 values and their ids (below 2^32) -> int64 keys: greater for a larger value, and for
    a lower id among equals.
    """
    # + 0.0 makes -0.0 equal to 0.0.
    bits = (values + 0.0).view(torch.int32).to(torch.int64)
    # Negative floats: flip, so that integers order like floats.
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (bits << 32) + (_LOW - ids)


def key_ids(keys: Tensor) -> Tensor:
    """The ids that `order_keys` was given."""
    return _LOW - (keys & _LOW)


def _blocks(values: Tensor, whole: int) -> Tensor:
    """[C, N] -> [C, whole / BLOCK, BLOCK], a view."""
    row, column = values.stride()
    return values.as_strided(
        (values.shape[0], whole // BLOCK, BLOCK), (row, column * BLOCK, column)
    )


def block_maxima(values: Tensor) -> Tensor:
    """[C, N] -> [C, ceil(N / BLOCK)], the largest value of each block of BLOCK neighbours (the last
    one may be shorter).
    """
    whole = values.shape[-1] // BLOCK * BLOCK
    maxima = [_blocks(values, whole).amax(-1)] if whole else []
    if whole < values.shape[-1]:
        maxima.append(values[:, whole:].amax(-1, keepdim=True))
    return torch.cat(maxima, dim=-1)


def blocked_topk_first(values: Tensor, maxima: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `topk_first`, given `maxima = block_maxima(values)`; reads only k blocks of each row.

    Why it is exact, ties included: were an element of the top k in a block that was not chosen,
    then k other blocks would come before that block in (maximum, lower index), and each of those
    holds an element that comes before it.
    """
    rows, length = values.shape
    if k * BLOCK >= length:
        return topk_first(values, k)
    # In ascending order, so that positions among the candidates are in order of index.
    blocks = topk_first(maxima, k)[1].sort(dim=-1).values
    ids = (blocks.unsqueeze(-1) * BLOCK + torch.arange(BLOCK, device=values.device)).view(
        rows, k * BLOCK
    )
    candidates = values.gather(-1, ids.clamp(max=length - 1))
    candidates = candidates.masked_fill(ids >= length, -torch.inf)
    top, position = topk_first(candidates, k)
    return top, ids.gather(-1, position)
