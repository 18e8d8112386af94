"""How the fused loss is computed: everything that is neither data nor objective, in one object."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist

_TILE = 64  # chunks are a multiple of it, as the tiles of matrix products are
_BYTES = 4  # of a logit: float32


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Options of `head_loss` and `head_log_probs`.

    Attributes:
        temperature: Of all distributions, the rollout temperature.
        chunk_tokens: C, the tokens whose logits exist at one time. Two buffers of [C, Vp] float32
            are alive (the full vocabulary takes C / 4 and more buffers); see `chunk_within`.
        tp_group: Tensor-parallel group; None for one rank.
        vocab_size: Real vocabulary size where the rows are padded to a multiple of TP; None for no
            padding.
        reduce_grad_hidden: Sum grad_hidden over the group. False leaves each rank its partial sum,
            for a caller whose own backward sums it (sequence parallel: the reduce-scatter of the
            gather).

    Raises:
        ValueError: temperature or chunk_tokens not positive.
    """

    temperature: float = 1.0
    chunk_tokens: int = 256
    tp_group: dist.ProcessGroup | None = None
    vocab_size: int | None = None
    reduce_grad_hidden: bool = True

    def __post_init__(self) -> None:
        if self.temperature <= 0.0 or self.chunk_tokens < 1:
            raise ValueError(
                f"HeadOptions: temperature {self.temperature:g} and chunk_tokens "
                f"{self.chunk_tokens} must be positive"
            )


DEFAULT = HeadOptions()


def chunk_within(memory_mib: float, rows: int) -> int:
    """The largest chunk whose two buffers [C, rows] float32 take at most `memory_mib`, in whole
    tiles of matrix products where it holds one; at least 1.
    """
    tokens = int(memory_mib * 2**20) // (2 * _BYTES * max(rows, 1))
    return max(1, tokens // _TILE * _TILE if tokens >= _TILE else tokens)
