"""The compiled helpers of `sgl_kernel` that a text model reaches on a CPU, in torch; any other name
raises when called."""

from __future__ import annotations

from typing import Any, NoReturn

import torch

__version__ = "0.0.0+cpu"

_WORD = 0xFFFFFFFF


def assign_req_to_token_pool_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """Write each request's new cache slots into its row of `req_to_token`.

    The slots are laid end to end in `out_cache_loc`.
    """
    taken = 0
    rows = zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist(), strict=True)
    for row, start, end in rows:
        slots = out_cache_loc[taken : taken + end - start]
        req_to_token[row, start:end] = slots.to(req_to_token.dtype)
        taken += end - start


def murmur_hash32(
    seed: torch.Tensor, positions: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """MurmurHash3 (32 bit, seed 0) of (seed low word, seed high word, position, column): the noise
    of seeded sampling.

    Args:
        seed: [B] 64-bit seeds. positions: [B]. columns: [V].

    Returns:
        [B, V] uint32. int64 products wrap, which keeps the low 32 bits right.
    """
    seed = seed.view(torch.int64) if seed.dtype == torch.uint64 else seed.long()
    state = torch.zeros_like(seed)
    for word in (seed, seed >> 32, positions.long()):
        state = _mix(state, word & _WORD)
    state = _mix(state[:, None], columns.long()[None, :] & _WORD) ^ 16  # 16: bytes hashed
    state = ((state ^ (state >> 16)) * 0x85EBCA6B) & _WORD
    state = ((state ^ (state >> 13)) * 0xC2B2AE35) & _WORD
    return (state ^ (state >> 16)).to(torch.uint32)


def _mix(state: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
    word = _rotate_left((word * 0xCC9E2D51) & _WORD, 15)
    state = _rotate_left(state ^ ((word * 0x1B873593) & _WORD), 13)
    return (state * 5 + 0xE6546B64) & _WORD


def _rotate_left(word: torch.Tensor, bits: int) -> torch.Tensor:
    return ((word << bits) | (word >> (32 - bits))) & _WORD


_library = torch.library.Library("sgl_kernel", "FRAGMENT")
_library.define("murmur_hash32_cpu(Tensor seed, Tensor positions, Tensor col_indices) -> Tensor")
_library.impl("murmur_hash32_cpu", murmur_hash32, "CPU")


def __getattr__(name: str) -> Any:
    if not name.endswith("_cpu"):  # CUDA kernels are looked for with hasattr: they must stay absent
        raise AttributeError(f"the CPU stand-in of sgl_kernel has no {name}")

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"sgl_kernel.{name} has no CPU stand-in: add it to serving/stand_ins/sgl_kernel"
        )

    return refuse
