"""A bucket: Hugging Face tensors, one after the other in one flat buffer of bytes.

It is what travels: one broadcast, one shared segment or one file each, whatever the number of
tensors in it. The layout is that of SGLang's `flattened_bucket`: no gaps, in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

MIB = 1024**2


@dataclass(frozen=True)
class TensorMeta:
    """One whole tensor under its Hugging Face name."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def dtype_name(self) -> str:
        """As SGLang and safetensors' torch binding spell it, e.g. bfloat16."""
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True, eq=False)
class Bucket:
    """Attributes:
    metas: Its tensors, in order.
    flat: Their bytes, uint8 [sum of `num_bytes`], on any device.
    """

    metas: tuple[TensorMeta, ...]
    flat: torch.Tensor

    @property
    def num_bytes(self) -> int:
        return self.flat.numel()

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) in order; each is a view of `flat`."""
        start = 0
        for meta in self.metas:
            stop = start + meta.num_bytes
            yield meta.name, self.flat[start:stop].view(meta.dtype).view(meta.shape)
            start = stop


def total_bytes(metas: Sequence[TensorMeta]) -> int:
    """Bytes of a bucket that holds `metas`."""
    return sum(meta.num_bytes for meta in metas)
