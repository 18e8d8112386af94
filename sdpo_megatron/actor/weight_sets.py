"""Several weight sets in one module: live weights, and fp32 copies to swap into the same buffers.

A set is one fp32 tensor per parameter that this rank owns in the distributed optimiser, the size of
its shard: 4 bytes x parameters / data-parallel ranks. Swapping writes the shards into the parameter
buffers and all-gathers them, as the optimiser does after a step; going back does the same with the
live weights, bit for bit. Sets may lie in host memory: what is computed with them travels to the
device a piece at a time.
Upstream: `DistributedOptimizer._copy_main_params_to_model_params`, megatron-core 0.16.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

WeightSet = list[torch.Tensor]
"""fp32 [shard] per owned parameter, in the order of `ShardedWeights`."""


_PIECE = 1 << 24
"""Elements whose copies, on the device or in float64, exist at one time: up to 128 MiB each."""


@dataclass(frozen=True)
class Shard:
    """This rank's part of one parameter.

    Attributes:
        param: The whole model parameter (this TP/PP rank's).
        master: fp32 [n]: the optimiser's master weights, or, for fp32 parameters, a view of the
            buffer itself.
        buffer: [n] view of the parameter buffer, in the parameter's dtype.
        start, stop: Where the shard lies in the flattened parameter.
    """

    param: torch.nn.Parameter
    master: torch.Tensor
    buffer: torch.Tensor
    start: int
    stop: int


class ShardedWeights:
    """The owned shards of all parameters, and the swap."""

    def __init__(
        self, chunks: Sequence[Any], optimizer: Any, *, sets_on_host: bool = False
    ) -> None:
        """
        Args:
            chunks: Megatron DDP-wrapped model chunks.
            optimizer: What `get_megatron_optimizer` returned for them (distributed optimiser).
            sets_on_host: Sets made by `snapshot` and `kept` lie in host memory, pinned where there
                is a device.
        """
        self._chunks, self._sets_on_host = chunks, sets_on_host
        self.shards = [
            shard for part in distributed_optimizers(optimizer) for shard in _shards(part)
        ]

    def numel(self) -> int:
        """Elements that one weight set has on this rank."""
        return sum(shard.master.numel() for shard in self.shards)

    @torch.no_grad()
    def snapshot(self) -> WeightSet:
        """A copy of the live weights."""
        return [self._copied(shard.master.detach()) for shard in self.shards]

    @torch.no_grad()
    def kept(self, weights: WeightSet) -> WeightSet:
        """`weights` where sets lie; the same tensors if they are there."""
        if not self._sets_on_host:
            return weights
        return [values if _is_on_host(values) else self._copied(values) for values in weights]

    def _copied(self, values: torch.Tensor) -> torch.Tensor:
        if not self._sets_on_host:
            return values.clone().float()
        pinned = not _is_on_host(values)
        host = torch.empty(values.shape, dtype=torch.float32, pin_memory=pinned)
        return host.copy_(values)

    @torch.no_grad()
    def move(self, weights: WeightSet, rate: float) -> None:
        """theta' <- (1 - rate) theta' + rate theta, in fp32 and in place."""
        for kept, shard in zip(weights, self.shards, strict=True):
            live = shard.master.detach()
            for old, new in zip(kept.split(_PIECE), live.split(_PIECE), strict=True):
                here = old.to(new.device)
                here.lerp_(new.float(), rate)
                if here is not old:
                    old.copy_(here)

    @torch.no_grad()
    def distance_squared(self, weights: WeightSet) -> torch.Tensor:
        """[2] float64: |theta - theta'|^2 and |theta|^2 over this rank's shards; the sum over all
        ranks is that of the model, parameters that several ranks hold (norms under tensor
        parallelism, tied embeddings) counted once.
        """
        from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
        from megatron.core.transformer.module import param_is_not_shared

        out = torch.zeros(2, dtype=torch.float64, device=self.shards[0].master.device)
        for kept, shard in zip(weights, self.shards, strict=True):
            if not (
                param_is_not_shared(shard.param)
                and param_is_not_tensor_parallel_duplicate(shard.param)
            ):
                continue
            # A piece at a time: the float64 copies of a whole embedding would be gigabytes.
            for live, old in zip(
                shard.master.detach().split(_PIECE), kept.split(_PIECE), strict=True
            ):
                live, old = live.float(), old.to(live.device)
                out[0] += (live - old).double().square().sum()
                out[1] += live.double().square().sum()
        return out

    @contextmanager
    def swapped(self, weights: WeightSet) -> Iterator[None]:
        """While inside, the model computes with `weights`; collective over data-parallel ranks, no
        gradients may be pending.
        """
        with torch.no_grad():
            # For fp32 parameters the master *is* the buffer, so what would be overwritten is set
            # aside.
            live = [s.buffer.clone() if _is_view(s) else None for s in self.shards]
            for shard, kept in zip(self.shards, weights, strict=True):
                shard.buffer.copy_(kept)
            self._gather()
        try:
            yield
        finally:
            with torch.no_grad():
                for shard, saved in zip(self.shards, live, strict=True):
                    shard.buffer.copy_(shard.master if saved is None else saved)
                self._gather()

    @torch.no_grad()
    def restore(self, weights: WeightSet) -> None:
        """Make `weights` the live ones, masters and buffers; collective."""
        for shard, values in zip(self.shards, weights, strict=True):
            shard.master.data.copy_(values)
            shard.buffer.copy_(values)
        self._gather()

    def _gather(self) -> None:
        for chunk in self._chunks:
            chunk.start_param_sync(force_sync=True)


def distributed_optimizers(optimizer: Any) -> list[Any]:
    """The distributed optimisers inside what Megatron returns.

    Dense and expert parameters have one each.
    """
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def _shards(optimizer: Any) -> Iterator[Shard]:
    if getattr(optimizer, "is_stub_optimizer", False):
        return
    pairs = (
        (optimizer.model_float16_groups, optimizer.shard_fp32_from_float16_groups),
        (optimizer.model_fp32_groups, optimizer.shard_fp32_groups),
    )
    for params_by_group, masters_by_group in pairs:
        for params, masters in zip(params_by_group, masters_by_group, strict=True):
            for param, master in zip(params, masters, strict=True):
                ranges = optimizer._get_model_param_range_map(param)
                buffer_index, _, bucket = optimizer.model_param_gbuf_map[param]
                data = optimizer.buffers[buffer_index].buckets[bucket].param_data.view(-1)
                world = ranges["gbuf_world_in_bucket"]
                yield Shard(
                    param=param,
                    master=master,
                    buffer=data[world.start : world.end],
                    start=ranges["param"].start,
                    stop=ranges["param"].end,
                )


def _is_on_host(values: torch.Tensor) -> bool:
    return values.device.type == "cpu"


def _is_view(shard: Shard) -> bool:
    return shard.master.data_ptr() == shard.buffer.data_ptr()
