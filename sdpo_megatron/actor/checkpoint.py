"""Checkpoints: every weight set as one reshardable tensor a parameter, written whole or not at all.

What is in one: the fp32 master weights, both Adam moments and the teacher's weight sets, each keyed
``{set}.{parameter}`` by Megatron's own sharding metadata, so another TP x PP x DP layout can load
it; and a common part with counters, random state, data position and policy version. The live
parameters are not in it: they are the master weights rounded to the compute dtype.

    checkpoints/step-000012/            Megatron dist_checkpointing (torch_dist)
    checkpoints/step-000012/complete.json   names and sizes of all files; written last

A folder without a matching complete.json is torn and never chosen. Writing goes to a ``.tmp``
folder that is renamed.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from sdpo_megatron.actor.agree import first_problem
from sdpo_megatron.actor.runtime import current_runtime
from sdpo_megatron.actor.weight_sets import ShardedWeights, WeightSet
from sdpo_megatron.errors import CheckpointError
from sdpo_megatron.files import put_in_place, write_whole

_NAME = re.compile(r"step-(\d{6,})$")
_SEAL = "complete.json"


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lives."""
    return root / f"step-{step:06d}"


def is_whole(folder: Path) -> bool:
    """Whether every file is there in the size it was written with."""
    try:
        sizes = json.loads((folder / _SEAL).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def whole_checkpoints(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every whole checkpoint, oldest first; skips torn ones and leftovers."""
    if not root.is_dir():
        return []
    found = [(int(m[1]), path) for path in root.iterdir() if (m := _NAME.search(path.name))]
    return sorted((step, path) for step, path in found if is_whole(path))


def save(
    root: Path,
    step: int,
    weights: ShardedWeights,
    chunks: Sequence[Any],
    sets: Mapping[str, WeightSet],
    common: Mapping[str, Any],
    *,
    keep: int,
    may_commit: Callable[[], None] = lambda: None,
) -> Path:
    """Write the checkpoint of `step`, then delete all but the newest `keep`; collective.

    `may_commit` is called on rank 0 just before the finished folder gets its name; what it raises
    leaves the earlier checkpoints as they are.

    Raises:
        CheckpointError: The disk is full or not writable; earlier checkpoints are untouched.
    """
    from megatron.core import dist_checkpointing

    folder = checkpoint_folder(root, step)
    scratch = folder.with_suffix(".tmp")
    first = torch.distributed.get_rank() == 0
    needed = _bytes_of(sets)

    def make_room() -> None:
        for left in root.glob("step-*.tmp"):  # by a kill, of this step or another
            shutil.rmtree(left, ignore_errors=True)
        scratch.mkdir(parents=True)
        _need_space(root, needed)

    def write() -> None:
        _write_in_this_process()
        dist_checkpointing.save(
            {"sets": _sharded(weights, chunks, sets), "common": dict(common)}, str(scratch)
        )
        if first:
            _seal(scratch)
            may_commit()
            put_in_place(scratch, folder)

    # The ranks agree after each: one that failed must not leave the others in a collective call.
    _agree(_problem_of(make_room) if first else None, scratch, step)
    _agree(_problem_of(write), scratch, step)
    if first:
        for _, old in whole_checkpoints(root)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def load(
    folder: Path, weights: ShardedWeights, chunks: Sequence[Any], names: Sequence[str]
) -> tuple[dict[str, WeightSet], dict[str, Any]]:
    """(weight sets by name, common part) of a whole checkpoint, cut for this rank; collective.

    Raises:
        CheckpointError: It is torn, or a set of `names` is not in it.
    """
    loaded: dict[str, WeightSet] = {}
    common: dict[str, Any] = {}
    for name in names:  # one after the other: only one is ever whole in memory
        whole, common = _read(folder, chunks, name)
        loaded[name] = weights.take_shards(whole)
    return loaded, common


def load_parameters(folder: Path, chunks: Sequence[Any], name: str) -> None:
    """Put one weight set into the parameters of models without an optimiser; collective.

    The set is rounded to the parameters' dtype.

    Args:
        name: master, or teacher_ema, teacher_initial, teacher_restarted where the run keeps them.

    Raises:
        CheckpointError: The checkpoint is torn, or has no such set.
    """
    whole, _ = _read(folder, chunks, name)
    with torch.no_grad():
        for chunk in chunks:
            for entry in _entries(chunk).values():
                entry.data.copy_(whole[id(entry.data)])


def _read(
    folder: Path, chunks: Sequence[Any], name: str
) -> tuple[dict[int, torch.Tensor], dict[str, Any]]:
    """({id of a parameter: its fp32 values in this set, in host memory}, common part)."""
    from megatron.core import dist_checkpointing

    if not is_whole(folder):
        raise CheckpointError(
            f"{folder}: not a whole checkpoint (no {_SEAL} that matches its files)"
        )
    entries = [_entries(chunk) for chunk in chunks]
    empty = {
        id(entry.data): torch.zeros(entry.data.shape, dtype=torch.float32)
        for found in entries
        for entry in found.values()
    }
    try:
        state = dist_checkpointing.load({"sets": {name: _named(name, entries, empty)}}, str(folder))
    except (Exception, CheckpointException) as error:
        raise CheckpointError(
            f"{folder}: cannot be loaded as {name} of this model ({_in_words(error)}). "
            "Resume with the same model and teacher.kind, or start a new run folder"
        ) from error
    values = {
        id(entry.data): state["sets"][name][str(i)][key]
        for i, found in enumerate(entries)
        for key, entry in found.items()
    }
    return values, state["common"]


def _sharded(
    weights: ShardedWeights, chunks: Sequence[Any], sets: Mapping[str, WeightSet]
) -> dict[str, dict[str, dict[str, Any]]]:
    """{set: {chunk: {entry: ShardedTensor with the set's gathered values}}}; collective.

    Megatron writes a parameter from one of the ranks that hold it; the others keep its shape alone.
    """
    from megatron.core.dist_checkpointing.mapping import is_main_replica

    entries = [_entries(chunk) for chunk in chunks]
    written_here = {
        id(entry.data)
        for found in entries
        for entry in found.values()
        if is_main_replica(entry.replica_id)
    }
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for name, values in sets.items():
        whole = {
            id(param): full.cpu() if id(param) in written_here else _shape_alone(full)
            for param, full in weights.full_parameters(values)
        }
        out[name] = _named(name, entries, whole)
    return out


def _shape_alone(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of this shape and dtype in the memory of one number."""
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)


def _named(
    name: str, entries: Sequence[Mapping[str, Any]], values: Mapping[int, torch.Tensor]
) -> dict[str, dict[str, Any]]:
    """{chunk: {entry: Megatron's metadata under the set's name, with these values}}."""
    return {
        str(i): {
            key: _renamed(entry, f"{name}.{entry.key}", values[id(entry.data)])
            for key, entry in found.items()
        }
        for i, found in enumerate(entries)
    }


def _entries(chunk: Any) -> dict[str, Any]:
    """Megatron's sharding metadata of each parameter (ShardedTensor or its factory), `data` being
    the parameter itself.
    """
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    model = getattr(chunk, "module", chunk)
    params = {id(p) for p in model.parameters()}
    return {
        key: entry
        for key, entry in model.sharded_state_dict().items()
        if isinstance(entry, ShardedTensor | ShardedTensorFactory) and id(entry.data) in params
    }


def _renamed(entry: Any, key: str, data: torch.Tensor) -> Any:
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    if isinstance(entry, ShardedTensorFactory):
        return replace(entry, key=key, data=data)
    return replace(entry, key=key, data=data, dtype=data.dtype)


def _write_in_this_process() -> None:
    """Megatron writes in forked processes and collects what they report through a manager process,
    for saving in the background (megatron-core 0.16.1, strategies/filesystem_async.py). Both
    outlive a rank that is killed, and wait for it for ever. We save in the foreground, where
    threads and a plain queue do.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    if not isinstance(filesystem_async._results_queue, queue.Queue):
        filesystem_async._results_queue = queue.Queue()
        filesystem_async.FileSystemWriterAsync.write_preloaded_data_multiproc = staticmethod(
            _write_buckets
        )


def _write_buckets(
    transform_list: list[Any],
    use_msc: bool,
    rank: int,
    write_buckets: list[Any],
    global_results_queue: queue.Queue[Any],
) -> None:
    """Takes the place of Megatron's function of the same arguments: a thread a file, and
    {number of the bucket: its results}, or the first exception, into the queue.
    """
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    def write(number: int, bucket: Any) -> tuple[int, Any]:
        results: queue.Queue[tuple[int, Any]] = queue.Queue()
        pending: queue.Queue[int] = queue.Queue()
        pending.put(number)
        FileSystemWriterAsync.write_preloaded_data(
            transform_list, number, bucket, results, pending, use_fsync=True, use_msc=use_msc
        )
        return results.get()

    with ThreadPoolExecutor(max(1, len(write_buckets))) as pool:
        found = dict(pool.map(write, range(len(write_buckets)), write_buckets))
    failed = [result for result in found.values() if isinstance(result, Exception)]
    global_results_queue.put(failed[0] if failed else found)


def _bytes_of(sets: Mapping[str, WeightSet]) -> int:
    """Of all ranks' shards in fp32; collective."""
    mine = sum(tensor.numel() * 4 for values in sets.values() for tensor in values)
    total = torch.tensor(mine, dtype=torch.int64, device=current_runtime().device)
    torch.distributed.all_reduce(total)
    return int(total)


def _need_space(root: Path, needed: int) -> None:
    """OSError when the file system cannot hold so many bytes, before one is written."""
    free = shutil.disk_usage(root).free
    if free < needed * 1.02:
        raise OSError(
            errno.ENOSPC,
            f"No space left on device: {needed / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB "
            "free",
        )


def _seal(folder: Path) -> None:
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    for name in files:
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())
    write_whole(folder / _SEAL, json.dumps({"files": files}, indent=1))


def _problem_of(action: Callable[[], None]) -> str | None:
    """Do it; what went wrong."""
    try:
        action()
    except (Exception, CheckpointException) as error:
        return _in_words(error)
    return None


def _in_words(error: BaseException) -> str:
    """torch's CheckpointException, which is no Exception, holds those of the ranks."""
    if isinstance(error, CheckpointException):
        return "; ".join(f"{type(e).__name__}: {e}" for e, _ in error.failures.values())
    return f"{type(error).__name__}: {error}"


def _agree(problem: str | None, scratch: Path, step: int) -> None:
    """Every rank raises when one of them failed; collective."""
    rank = torch.distributed.get_rank()
    failed = first_problem(problem and f"rank {rank}: {problem}")
    if failed:
        if rank == 0:
            shutil.rmtree(scratch, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {scratch.parent} ({failed}). "
            "Free space or make the folder writable, then start the same command again: it goes on "
            "from the last good one"
        )
