"""Writing checkpoints: each rank its own shards, in a thread, while training goes on.

What happens, and on which thread:

    main     copies the shards to host memory (in the background only; nothing may change meanwhile)
    writing  rank 0 clears leftovers and makes the folder
             every rank writes one file of its rectangles, and syncs it
             rank 0 writes the index and the seal, asks `may_commit`, renames, deletes old ones
    main     all ranks hear together that it is done, or what went wrong

The writing threads agree over a process group of their own, so they disturb no collective of the
training. A thread, not Megatron's forked writers (megatron-core 0.16.1,
strategies/filesystem_async.py): those outlive a rank that is killed, and wait for it for ever.
A kill at any moment leaves the earlier checkpoints and a folder that nobody reads.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from sdpo_megatron.actor.agree import any_rank, first_problem
from sdpo_megatron.actor.checkpoint.folder import (
    COMMON,
    checkpoint_folder,
    clear_leftovers,
    keep_newest,
    need_space,
    seal,
)
from sdpo_megatron.actor.checkpoint.pieces import Part, parts_of, shard_pieces
from sdpo_megatron.actor.checkpoint.plans import WritePlanner
from sdpo_megatron.actor.runtime import current_runtime
from sdpo_megatron.actor.weight_sets import ShardedWeights, WeightSet
from sdpo_megatron.errors import CheckpointError
from sdpo_megatron.files import put_in_place


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is on the disk.

    Attributes:
        step: Steps done before it.
        folder: Where it is.
        num_bytes: Of all its files.
        seconds: From the call of `begin` to the folder's name.
    """

    step: int
    folder: Path
    num_bytes: int
    seconds: float


class CheckpointWriter:
    """Writes the checkpoints of one actor, one at a time. Construction and methods are collective.

    Attributes:
        parts: Of each parameter of this rank (`pieces.parts_of`).
    """

    def __init__(self, weights: ShardedWeights, chunks: Sequence[Any]) -> None:
        self.parts = parts_of(chunks)
        self._weights = weights
        self._group = torch.distributed.new_group(
            backend="gloo", timeout=timedelta(seconds=current_runtime().timeout_s)
        )
        self._writing: _Writing | None = None

    def begin(
        self,
        root: Path,
        step: int,
        sets: Mapping[str, WeightSet],
        common: Mapping[str, Any],
        *,
        keep: int,
        may_commit: Callable[[], None] = lambda: None,
        background: bool = True,
    ) -> None:
        """Begin to write the checkpoint of `step`; then all but the newest `keep` are deleted.

        Args:
            root: Folder of the run's checkpoints.
            sets: Weight sets by name; copied before this returns.
            common: Plain data and tensors, saved beside them.
            may_commit: Called on rank 0, from the writing thread, just before the finished folder
                gets its name; what it raises leaves the earlier checkpoints as they are.
            background: False writes the sets themselves, without a copy, before this returns.

        Raises:
            AssertionError: The one before has not been waited for with `finish`.
        """
        assert self._writing is None, "the checkpoint before this one is still being written"
        pieces = [
            (f"{name}.{piece.key}", piece, _on_host(tensor, copy=background))
            for name, values in sets.items()
            for piece, tensor in shard_pieces(self._weights, self.parts, values)
            if piece.first
        ]
        commit = _Commit(root, step, dict(common), keep, may_commit)
        self._writing = _Writing(pieces, commit, self._group)
        self._writing.start()
        if not background:
            self._writing.join()

    def finish(self, *, wait: bool) -> Saved | None:
        """What was begun, when it is done on all ranks; None when nothing was, or not yet.

        Args:
            wait: Until it is done.

        Raises:
            CheckpointError: The disk is full or not writable; earlier checkpoints are untouched.
        """
        writing = self._writing
        if writing is None:
            return None
        if wait:
            writing.join()
        elif any_rank(writing.is_alive()):
            return None
        self._writing = None
        if problem := first_problem(writing.problem):
            raise CheckpointError(
                f"the checkpoint of step {writing.commit.step} could not be written to "
                f"{writing.commit.root} ({problem}). Free space or make the folder writable, then "
                "start the same command again: it goes on from the last good one"
            )
        return writing.saved


@dataclass(frozen=True)
class _Commit:
    """What rank 0 does around the writing."""

    root: Path
    step: int
    common: dict[str, Any]
    keep: int
    may_commit: Callable[[], None]

    @property
    def folder(self) -> Path:
        return checkpoint_folder(self.root, self.step)

    @property
    def scratch(self) -> Path:
        return self.folder.with_suffix(".tmp")

    def make_room(self, needed: int) -> None:
        clear_leftovers(self.root)
        self.scratch.mkdir(parents=True)
        need_space(self.root, needed)

    def commit(self) -> int:
        """Give the folder its name; returns its bytes."""
        torch.save(self.common, self.scratch / COMMON)
        num_bytes = seal(self.scratch)
        self.may_commit()
        put_in_place(self.scratch, self.folder)
        keep_newest(self.root, self.keep)
        return num_bytes


class _Writing(threading.Thread):
    """One checkpoint being written. All ranks' threads end with the same `problem`."""

    def __init__(
        self, pieces: list[tuple[str, Part, torch.Tensor]], commit: _Commit, group: Any
    ) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self._pieces, self.commit, self._group = pieces, commit, group
        self._first = torch.distributed.get_rank() == 0
        self._began = time.monotonic()
        self.problem: str | None = None
        self.saved = Saved(commit.step, commit.folder, 0, 0.0)

    def run(self) -> None:
        current_runtime().enter_thread()
        try:
            self._write()
        except (Exception, CheckpointException) as error:
            self.problem = _in_words(error)
            if self._first:
                shutil.rmtree(self.commit.scratch, ignore_errors=True)
        self._pieces = []  # the copies are as large as this rank's share of the state

    def _write(self) -> None:
        from torch.distributed.checkpoint import FileSystemWriter, save

        needed = torch.tensor(sum(t.numel() * t.element_size() for _, _, t in self._pieces))
        torch.distributed.all_reduce(needed, group=self._group)
        self._on_first(lambda: self.commit.make_room(int(needed)))
        save(
            {},
            storage_writer=FileSystemWriter(self.commit.scratch),
            planner=WritePlanner(self._pieces),
            process_group=self._group,
        )
        num_bytes = self._on_first(self.commit.commit)
        if self._first:
            seconds = time.monotonic() - self._began
            self.saved = Saved(self.commit.step, self.commit.folder, num_bytes, seconds)

    def _on_first(self, action: Callable[[], Any]) -> Any:
        """Do it on rank 0; what goes wrong there is raised on every rank."""
        problem = result = None
        if self._first:
            try:
                result = action()
            except Exception as error:
                problem = f"rank 0: {_in_words(error)}"
        told = [problem]
        torch.distributed.broadcast_object_list(told, src=0, group=self._group)
        if told[0]:
            raise _OnRank0(told[0])
        return result


class _OnRank0(Exception):
    """Its text names what failed there."""


def _on_host(tensor: torch.Tensor, *, copy: bool) -> torch.Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=copy)


def _in_words(error: BaseException) -> str:
    """torch's CheckpointException, which is no Exception, holds those of the ranks."""
    if isinstance(error, _OnRank0):
        return str(error)
    if isinstance(error, CheckpointException):
        return "; ".join(
            f"rank {rank}: {type(found).__name__}: {found}"
            for rank, (found, _) in error.failures.items()
        )
    return f"{type(error).__name__}: {error}"
