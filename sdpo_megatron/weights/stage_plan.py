"""Who holds what of one pipeline stage, and which of its tensors travel in which bucket.

A pure function of model and layout: every rank of a stage computes the same plan without asking
anyone, and no rank computes another stage's. Of a stage's ranks only the first few matter: the
tensor-parallel group of the first data-parallel replica holds the first copy of every dense
parameter, the expert-parallel ranks of the first expert replica that of every expert. Megatron
numbers ranks "tp-cp-ep-dp-pp", so they are the first ranks of the stage's block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sdpo_megatron.weights.bucket import MIB, TensorMeta, total_bytes
from sdpo_megatron.weights.mapping import Param, Position, hf_shapes, params
from sdpo_megatron.weights.spec import ModelSpec

_AUTO_PARTS = 8
_AUTO_MIB = (16, 512)


@dataclass(frozen=True)
class StagePlan:
    """Attributes:
    positions: Where each holder stands, by its place in the stage's block of ranks.
    buckets: The tensors of each bucket, in the order in which they travel.
    moves: For each bucket and holder, the parameters that it contributes.
    """

    positions: tuple[Position, ...]
    buckets: tuple[tuple[TensorMeta, ...], ...]
    moves: tuple[tuple[tuple[Param, ...], ...], ...]

    @property
    def num_bytes(self) -> int:
        return sum(total_bytes(bucket) for bucket in self.buckets)


def plan_stage(
    spec: ModelSpec, layout: Position, dtype: torch.dtype, bucket_mib: int = 0
) -> StagePlan:
    """The plan of the stage that `layout` stands in.

    Args:
        spec: Of the whole model.
        layout: Any rank's position in that stage: its `pp` and the sizes count.
        dtype: Of what travels.
        bucket_mib: Most MiB of a bucket. One tensor is never cut, nor are those that one Megatron
            parameter holds together (q, k and v; gate and up): where they are larger, they are a
            bucket. 0: an eighth of the stage, between 16 and 512 MiB.
    """
    positions = tuple(_holders(layout))
    held = [
        [p for p in params(spec, at) if not p.is_copy and _is_first_copy(place, p, at)]
        for place, at in enumerate(positions)
    ]
    shapes = hf_shapes(spec)
    units = list(_units(held, {name: place for place, name in enumerate(shapes)}))
    metas = [[TensorMeta(name, shapes[name], dtype) for name in unit] for unit in units]
    limit = (bucket_mib or _auto_mib(sum(total_bytes(unit) for unit in metas))) * MIB
    buckets = tuple(_filled(metas, limit))
    where = {meta.name: number for number, bucket in enumerate(buckets) for meta in bucket}
    moves: list[list[list[Param]]] = [[[] for _ in positions] for _ in buckets]
    for place, mine in enumerate(held):
        for param in mine:
            if param.pieces:  # a shard of nothing but padding has none
                moves[where[param.pieces[0].hf]][place].append(param)
    return StagePlan(
        positions, buckets, tuple(tuple(tuple(part) for part in bucket) for bucket in moves)
    )


def _holders(layout: Position) -> Iterator[Position]:
    dense, experts = layout.tp_size, layout.etp_size * layout.ep_size
    for place in range(max(dense, experts)):
        yield Position(
            tp=place % layout.tp_size,
            tp_size=layout.tp_size,
            pp=layout.pp,
            pp_size=layout.pp_size,
            ep=place // layout.etp_size % layout.ep_size,
            ep_size=layout.ep_size,
            etp=place % layout.etp_size,
            etp_size=layout.etp_size,
        )


def _is_first_copy(place: int, param: Param, at: Position) -> bool:
    return place < (at.etp_size * at.ep_size if param.is_expert else at.tp_size)


def _units(held: list[list[Param]], order: dict[str, int]) -> Iterator[list[str]]:
    """Names that must travel together, since one parameter holds slices of each."""
    together: dict[str, list[str]] = {}
    for param in (param for mine in held for param in mine):
        names = list(dict.fromkeys(piece.hf for piece in param.pieces))
        if names:
            first = min(names, key=order.__getitem__)
            known = together.setdefault(first, [])
            known.extend(name for name in names if name not in known)
    for first in sorted(together, key=order.__getitem__):
        yield sorted(together[first], key=order.__getitem__)


def _filled(units: list[list[TensorMeta]], limit: int) -> Iterator[tuple[TensorMeta, ...]]:
    bucket: list[TensorMeta] = []
    for unit in units:
        if bucket and total_bytes(bucket) + total_bytes(unit) > limit:
            yield tuple(bucket)
            bucket = []
        bucket.extend(unit)
    if bucket:
        yield tuple(bucket)


def _auto_mib(num_bytes: int) -> int:
    low, high = _AUTO_MIB
    return min(high, max(low, num_bytes // (_AUTO_PARTS * MIB)))
