"""The 64-bit hash that SGLang gives of a tensor on a GPU, in plain torch on any device.

SGLang 0.5.23 computes it by a Triton kernel (kernels/ops/memory/gpu_tensor_hash.py); a trainer that
compares needs the same number without SGLang, and where there is no GPU.

    word i of the tensor's bytes, little endian, filled up with zeros to a multiple of 4:
        k = fmix(word ^ (i * C + seed) ^ rotl(i, r))         for two triples (C, seed, r)
    tile of 8192 words:     h = fmix(sum of its k ^ number of bytes)      32 bits each
    tensor:                 splitmix(sum over tiles of h1 << 32 | h2)     64 bits

fmix is MurmurHash3's finaliser, splitmix that of SplitMix64. All sums are modulo their width.
"""

from __future__ import annotations

import torch

_SEED = 0x243F6A88
_TILE = 8192
_LOW = 0xFFFFFFFF
_WORDS_AT_ONCE = 512 * _TILE  # int64 temporaries of 32 MiB each
# (C, seed, r) of the upper and the lower half.
_HALVES = ((0x27D4EB2D, _SEED, 15), (0x165667B1, (_SEED * 0x9E3779B1 ^ 0xDEADBEEF) & _LOW, 13))


def gpu_hash(tensor: torch.Tensor) -> int:
    """The hash of a tensor's bytes in row order; below 2^64. 0 words hash as SGLang's kernel does
    without a tile.
    """
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if missing := -data.numel() % 4:
        data = torch.cat([data, data.new_zeros(missing)])
    words = data.view(torch.int32)
    total = 0
    for start in range(0, words.numel(), _WORDS_AT_ONCE):
        part = words[start : start + _WORDS_AT_ONCE].to(torch.int64) & _LOW
        place = torch.arange(start, start + part.numel(), device=words.device) & _LOW
        upper, lower = (
            int(_tiles(part, place, 4 * words.numel(), *half).sum()) for half in _HALVES
        )
        total += (upper << 32) + lower
    return _splitmix(total)


def _tiles(
    words: torch.Tensor, place: torch.Tensor, num_bytes: int, factor: int, seed: int, turn: int
) -> torch.Tensor:
    """[N], [N] -> [tiles], 32-bit numbers in int64."""
    turned = ((place << turn) | (place >> (32 - turn))) & _LOW
    mixed = _fmix(words ^ ((place * factor + seed) & _LOW) ^ turned)
    mixed = torch.nn.functional.pad(mixed, (0, -mixed.numel() % _TILE))
    return _fmix(mixed.view(-1, _TILE).sum(1) & _LOW ^ (num_bytes & _LOW))


def _fmix(x: torch.Tensor) -> torch.Tensor:
    # The product of two 32-bit numbers overflows int64 modulo 2^64: its low 32 bits are right.
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _LOW
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _LOW
    return x ^ (x >> 16)


def _splitmix(x: int) -> int:
    mask = (1 << 64) - 1
    x &= mask
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
    return x ^ (x >> 31)
