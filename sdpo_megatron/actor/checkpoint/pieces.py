"""Which rectangles of the model's global tensors a rank's flat shards are.

Megatron's distributed optimiser gives a data-parallel rank a range [start, stop) of a flattened
parameter, wherever it begins and ends. Such a range is at most three rectangles of a matrix, the
end of one row, whole rows, the beginning of another, and torch.distributed.checkpoint takes
rectangles. So a rank writes and reads its own shards as they are; no parameter is ever gathered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sdpo_megatron.actor.weight_sets import ShardedWeights, WeightSet

_MOST = 1 << 24
"""Elements of the largest rectangle, 64 MiB. A reader takes rectangles whole: with larger ones, a
load into another layout would read, and hold, much that it does not want."""


@dataclass(frozen=True)
class Part:
    """A rectangle of a global tensor that lies in one stretch of a parameter of this rank.

    Most parameters are one; gate and up projection share a parameter and are two.

    Attributes:
        key: Megatron's name of the global tensor.
        shape: Of the global tensor, layers and experts stacked in front.
        offset, sizes: Of the rectangle in it.
        start: Where it begins in the flattened parameter.
        first: Whether this is the first copy apart from data-parallel ones, which share the
            writing: norms lie on every tensor-parallel rank, tied embeddings on two stages.
        resizable: Whether its shape may be another in another layout (a padded vocabulary).
    """

    key: str
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    sizes: tuple[int, ...]
    start: int
    first: bool
    resizable: bool

    @property
    def numel(self) -> int:
        return math.prod(self.sizes)

    def between(self, start: int, stop: int) -> Iterator[Part]:
        """Its rectangles that make up [start, stop) of the flattened parameter."""
        low = max(start - self.start, 0)
        high = min(stop - self.start, self.numel)
        for offset, sizes, begin in boxes(self.sizes, low, high):
            moved = tuple(a + b for a, b in zip(self.offset, offset, strict=True))
            yield replace(self, offset=moved, sizes=sizes, start=self.start + begin)


Box = tuple[tuple[int, ...], tuple[int, ...], int]
"""(offset, sizes, where it begins in the flattened array)"""


def boxes(sizes: Sequence[int], start: int, stop: int, most: int = _MOST) -> Iterator[Box]:
    """The rectangles, of at most `most` elements, that elements [start, stop) of a flattened array
    of these sizes are; in order. A row of the last axis may be cut.
    """
    if start >= stop:
        return
    if not sizes:
        yield (), (), start
        return
    row = math.prod(sizes[1:])
    at = start
    while at < stop:
        index, inside = divmod(at, row)
        rows = min((stop - at) // row, max(1, most // row))
        if not inside and rows and row <= most:
            yield (index, *(0 for _ in sizes[1:])), (rows, *sizes[1:]), at
            at += rows * row
            continue
        end = min(stop, (index + 1) * row)
        for offset, box, begin in boxes(sizes[1:], inside, end - index * row, most):
            yield (index, *offset), (1, *box), index * row + begin
        at = end


def parts_of(chunks: Sequence[Any]) -> dict[int, list[Part]]:
    """The parts of each parameter of this rank by its id; needs Megatron's parallel state.

    Args:
        chunks: Model chunks, DDP-wrapped or not.
    """
    found: dict[int, list[Part]] = {}
    for chunk in chunks:
        model = getattr(chunk, "module", chunk)
        params = {id(p): p for p in model.parameters()}
        for entry in model.sharded_state_dict().values():
            param = params.get(id(getattr(entry, "data", None)))
            if param is not None:
                found.setdefault(id(param), []).extend(_parts(entry, param))
        assert found.keys() >= params.keys(), "a parameter has no sharding metadata"
    return found


def _parts(entry: Any, param: torch.Tensor) -> Iterator[Part]:
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory, is_main_replica

    # A tensor without memory: its views say where the factory's pieces lie in the parameter.
    stand_in = torch.empty(param.shape, dtype=param.dtype, device="meta")
    built = replace(entry, data=stand_in)
    pieces = nested_values(built.build()) if isinstance(entry, ShardedTensorFactory) else [built]
    for piece in pieces:
        assert piece.data.is_contiguous(), f"{piece.key}: not one stretch of its parameter"
        yield Part(
            key=piece.key,
            shape=tuple(piece.global_shape),
            offset=tuple(piece.global_offset),
            sizes=(1,) * piece.prepend_axis_num + tuple(piece.local_shape),
            start=piece.data.storage_offset(),
            # (pipeline, tensor, data): the last one counts the copies that share the writing.
            first=is_main_replica((*piece.replica_id[:-1], 0)),
            resizable=piece.allow_shape_mismatch,
        )


def shard_pieces(
    weights: ShardedWeights, parts: Mapping[int, Sequence[Part]], values: WeightSet
) -> Iterator[tuple[Part, torch.Tensor]]:
    """(rectangle, view of this set's values in its shape) of everything that this rank owns."""
    for shard, owned in zip(weights.shards, values, strict=True):
        for part in parts[id(shard.param)]:
            for piece in part.between(shard.start, shard.stop):
                flat = owned[piece.start - shard.start :][: piece.numel]
                yield piece, flat.view(piece.sizes)
