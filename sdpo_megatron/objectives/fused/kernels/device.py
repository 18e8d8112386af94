"""The kernels themselves. C rows of a chunk, V logits of a row, B = ceil(V / 32) blocks.

A program treats a part of one row; of `join`, a whole row. Offsets within [C, V] are 64-bit: 2,000
rows of a large vocabulary exceed 2^31 bytes.
"""

import triton
import triton.language as tl

FAR_BELOW = tl.constexpr(-1e30)  # as passes.FAR_BELOW


@triton.jit
def order_key(value, index):
    """int64: greater for a larger value, and for a lower index among equals (topk.order_keys)."""
    value = tl.where(value == 0.0, 0.0, value)  # -0.0 equals 0.0
    bits = value.to(tl.int32, bitcast=True).to(tl.int64)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (bits << 32) + (0xFFFFFFFF - index.to(tl.int64))


@triton.jit
def scan_kernel(
    logits, maxima, sums, weighted, keys, width, blocks,
    WITH_KEYS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Of each block: max x, sum exp(x - max), sum exp(x - max) (x - max), the key of the max."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * TILE + tl.arange(0, TILE)
    place = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = place < width
    x = tl.load(logits + row * width + place, mask=inside, other=FAR_BELOW)
    top = tl.max(x, axis=1)
    shifted = tl.where(inside, x - top[:, None], 0.0)
    power = tl.where(inside, tl.exp(shifted), 0.0)
    out, real = row * blocks + block, block < blocks
    tl.store(maxima + out, top, mask=real)
    tl.store(sums + out, tl.sum(power, axis=1), mask=real)
    tl.store(weighted + out, tl.sum(power * shifted, axis=1), mask=real)
    if WITH_KEYS:
        tl.store(keys + out, order_key(top, block), mask=real)


@triton.jit
def candidates_kernel(
    logits, chosen, keys, width, count,
    BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Keys of all logits of the chosen blocks [C, count] -> [C, count * BLOCK]."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * TILE + tl.arange(0, TILE)
    real = slot < count
    block = tl.load(chosen + row * count + slot, mask=real, other=0)
    lane = tl.arange(0, BLOCK)[None, :]
    place = block[:, None] * BLOCK + lane
    x = tl.load(
        logits + row * width + place, mask=real[:, None] & (place < width), other=float("-inf")
    )
    out = row * count * BLOCK + slot[:, None] * BLOCK + lane
    tl.store(keys + out, order_key(x, place), mask=real[:, None])


@triton.jit
def join_kernel(
    logits, maximum, maxima, sums, weighted, touched, rest, rest_weighted, width, blocks, count,
    BLOCK: tl.constexpr, TILE: tl.constexpr, TOUCHED_TILE: tl.constexpr,
):  # fmt: skip
    """sum exp(x - m) and sum exp(x - m) (x - m) of a row, from its blocks; those of `touched`
    [C, count], in ascending order, hold logits that were lowered since: they are read again.
    """
    row = tl.program_id(0).to(tl.int64)
    m = tl.load(maximum + row)
    total = tl.zeros((TILE,), tl.float32)
    entropy = tl.zeros((TILE,), tl.float32)
    for start in range(0, blocks, TILE):
        block = start + tl.arange(0, TILE)
        real = block < blocks
        at = row * blocks + block
        gap = tl.where(real, tl.load(maxima + at, mask=real, other=0.0) - m, 0.0)
        scale = tl.exp(gap)
        part = tl.load(sums + at, mask=real, other=0.0)
        total += scale * part
        entropy += scale * (tl.load(weighted + at, mask=real, other=0.0) + part * gap)
    again = tl.zeros((TOUCHED_TILE,), tl.float32)
    again_entropy = tl.zeros((TOUCHED_TILE,), tl.float32)
    for start in range(0, count, TOUCHED_TILE):
        slot = start + tl.arange(0, TOUCHED_TILE)
        at = row * count + slot
        block = tl.load(touched + at, mask=slot < count, other=-1)
        before = tl.load(touched + at - 1, mask=(slot < count) & (slot > 0), other=-1)
        first = (slot < count) & (block != before)  # each block once
        place = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        real = first[:, None] & (place < width)
        x = tl.load(logits + row * width + place, mask=real, other=FAR_BELOW)
        shifted = x - m
        power = tl.exp(shifted)
        again += tl.sum(power, axis=1)
        again_entropy += tl.sum(power * shifted, axis=1)
    tl.store(rest + row, tl.sum(total, axis=0) + tl.sum(again, axis=0))
    tl.store(rest_weighted + row, tl.sum(entropy, axis=0) + tl.sum(again_entropy, axis=0))


@triton.jit
def gradient_kernel(
    logits, out, maximum, factor, token, extra, width,
    TILE: tl.constexpr,
):  # fmt: skip
    """out = factor exp(x - m), plus `extra` at `token` of each row; lowered logits give 0."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = place < width
    x = tl.load(logits + row * width + place, mask=inside, other=FAR_BELOW)
    value = tl.load(factor + row) * tl.exp(x - tl.load(maximum + row))
    value += tl.where(place == tl.load(token + row), tl.load(extra + row), 0.0)
    tl.store(out + row * width + place, value.to(out.dtype.element_ty), mask=inside)
