"""What torch.distributed.checkpoint asks a planner: which rectangles to write, which to read."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.distributed.checkpoint import (
    ChunkStorageMetadata,
    DefaultSavePlanner,
    LoadPlan,
    LoadPlanner,
    Metadata,
    SavePlan,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import (
    ReadItem,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from sdpo_megatron.actor.checkpoint.pieces import Part

Pieces = Sequence[tuple[str, Part, torch.Tensor]]
"""(key in the checkpoint, rectangle, its values in the rectangle's shape)"""


class WritePlanner(DefaultSavePlanner):
    """Writes these rectangles; torch checks that those of all ranks tile each tensor."""

    def __init__(self, pieces: Pieces) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._pieces = {_index(key, piece): (piece, tensor) for key, piece, tensor in pieces}

    def create_local_plan(self) -> SavePlan:
        return SavePlan(
            [
                WriteItem(
                    index=index,
                    type=WriteItemType.SHARD,
                    tensor_data=TensorWriteData(
                        chunk=_chunk(piece),
                        properties=TensorProperties(dtype=tensor.dtype),
                        size=torch.Size(piece.shape),
                    ),
                )
                for index, (piece, tensor) in self._pieces.items()
            ]
        )

    def lookup_object(self, index: MetadataIndex) -> torch.Tensor:
        return self._pieces[index][1]


class ReadPlanner(LoadPlanner):
    """Fills these rectangles from whichever were written; what no written one covers stays."""

    def __init__(self, pieces: Pieces) -> None:
        self._by_key: dict[str, list[tuple[Part, torch.Tensor]]] = {}
        for key, piece, tensor in pieces:
            self._by_key.setdefault(key, []).append((piece, tensor))

    def plan(self, stored: Mapping[str, Any]) -> LoadPlan:
        """What to read of a checkpoint that holds `stored` (`Metadata.state_dict_metadata`).

        Raises:
            LookupError: A tensor is not in it, or has another shape.
        """
        missing = sorted(self._by_key.keys() - stored.keys())
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise LookupError(f"it has no {', '.join(missing[:3])}{more}")
        items: list[ReadItem] = []
        for key, wanted in self._by_key.items():
            _need_shape(key, wanted[0][0], stored[key])
            items += create_read_items_for_chunk_list(
                key, stored[key], [_chunk(piece) for piece, _ in wanted]
            )
        return LoadPlan(items)

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        index = read_item.dest_index
        assert index.index is not None
        _, tensor = self._by_key[index.fqn][index.index]
        for axis, (start, length) in enumerate(
            zip(read_item.dest_offsets, read_item.lengths, strict=True)
        ):
            tensor = tensor.narrow(axis, start, length)
        return tensor

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None: ...

    def set_up_planner(
        self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None: ...

    def create_local_plan(self) -> LoadPlan:
        raise NotImplementedError("each rank reads by itself: `plan`")

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise NotImplementedError("there are tensors alone")


def _need_shape(key: str, piece: Part, found: Any) -> None:
    shape = tuple(found.size) if isinstance(found, TensorStorageMetadata) else None
    same = shape == piece.shape
    if not same and not (piece.resizable and shape is not None and len(shape) == len(piece.shape)):
        raise LookupError(f"{key} is {list(shape or ())} in it, expected {list(piece.shape)}")


def _index(key: str, piece: Part) -> MetadataIndex:
    return MetadataIndex(key, torch.Size(piece.offset))


def _chunk(piece: Part) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(piece.offset), torch.Size(piece.sizes))
