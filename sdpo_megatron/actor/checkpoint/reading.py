"""Reading checkpoints: each rank what it needs of it, whatever layout wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sdpo_megatron.actor.agree import first_problem, from_rank_0
from sdpo_megatron.actor.checkpoint.folder import COMMON, is_whole
from sdpo_megatron.actor.checkpoint.pieces import Part, parts_of, shard_pieces
from sdpo_megatron.actor.checkpoint.plans import Pieces, ReadPlanner
from sdpo_megatron.actor.weight_sets import ShardedWeights, WeightSet
from sdpo_megatron.errors import CheckpointError


def load(
    folder: Path,
    weights: ShardedWeights,
    parts: Mapping[int, Sequence[Part]],
    names: Sequence[str],
) -> tuple[dict[str, WeightSet], dict[str, Any]]:
    """(weight sets by name, common part) of a whole checkpoint, cut for this rank; collective.

    Args:
        parts: Of the model (`pieces.parts_of`).

    Raises:
        CheckpointError: It is torn, or a set of `names` is not in it.
    """
    index = _Index.read(folder)
    loaded: dict[str, WeightSet] = {}
    for name in names:  # one after the other: only one is ever in host memory
        values = [torch.zeros(s.master.numel(), dtype=torch.float32) for s in weights.shards]
        index.fill(
            name,
            [
                (f"{name}.{piece.key}", piece, tensor)
                for piece, tensor in shard_pieces(weights, parts, values)
            ],
        )
        loaded[name] = [
            value.to(shard.master.device)
            for value, shard in zip(values, weights.shards, strict=True)
        ]
    return loaded, index.common


def load_parameters(folder: Path, chunks: Sequence[Any], name: str) -> None:
    """Put one weight set into the parameters of models without an optimiser; collective.

    The set is rounded to the parameters' dtype.

    Args:
        name: master, or teacher_ema, teacher_initial, teacher_restarted where the run keeps them.

    Raises:
        CheckpointError: The checkpoint is torn, or has no such set.
    """
    index, parts = _Index.read(folder), parts_of(chunks)
    for chunk in chunks:
        for param in chunk.parameters():
            values = torch.zeros(param.numel(), dtype=torch.float32)
            pieces = [
                (
                    f"{name}.{piece.key}",
                    piece,
                    values[piece.start :][: piece.numel].view(piece.sizes),
                )
                for part in parts[id(param)]
                for piece in part.between(0, param.numel())
            ]
            index.fill(name, pieces)
            with torch.no_grad():
                param.copy_(values.view(param.shape))


class _Index:
    """What a checkpoint holds and where; rank 0 reads it and tells the others."""

    def __init__(self, folder: Path, metadata: Any, common: dict[str, Any]) -> None:
        from torch.distributed.checkpoint import FileSystemReader

        self._folder, self.common = folder, common
        self._stored = metadata.state_dict_metadata
        self._reader = FileSystemReader(folder)
        self._reader.set_up_storage_reader(metadata, is_coordinator=True)

    @classmethod
    def read(cls, folder: Path) -> _Index:
        """Collective.

        Raises:
            CheckpointError: The checkpoint is torn.
        """
        from torch.distributed.checkpoint import FileSystemReader

        found: tuple[Any, dict[str, Any]] | None = None
        problem = None
        if torch.distributed.get_rank() == 0:
            if is_whole(folder):
                metadata = FileSystemReader(folder).read_metadata()
                found = metadata, torch.load(folder / COMMON, weights_only=True)
            else:
                problem = "no seal that matches its files"
        if problem := first_problem(problem):
            raise CheckpointError(f"{folder}: not a whole checkpoint ({problem})")
        return cls(folder, *from_rank_0(found))  # type: ignore[misc]

    def fill(self, name: str, pieces: Pieces) -> None:
        """Read the values of these rectangles, of weight set `name`; collective.

        Raises:
            CheckpointError: One is not there, or has another shape.
        """
        planner, problem = ReadPlanner(pieces), None
        try:
            self._reader.read_data(planner.plan(self._stored), planner).wait()
        except (LookupError, OSError, RuntimeError, ValueError) as error:
            problem = f"rank {torch.distributed.get_rank()}: {error}"
        if problem := first_problem(problem):
            raise CheckpointError(
                f"{self._folder}: cannot be loaded as {name} of this model ({problem}). "
                "Resume with the same model and teacher.kind, or start a new run folder"
            )
