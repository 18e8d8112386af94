"""Named shared memory, and tensors in it as another process of this machine can be told of them.

SGLang unpickles tensors that it is sent and allows torch's own handles in them. torch has two for
memory of a CPU: a file descriptor, which needs a secret that only parent and child share, and a
name (its `file_system` strategy, kept by the process torch_shm_manager until nobody uses it), which
needs nothing. So a bucket gathered into named memory reaches an engine as a few hundred bytes.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import (
    rebuild_storage_filename,
    rebuild_typed_storage,
    reduce_tensor,
)

from sdpo_megatron.weights.bucket import Bucket

_FOLDER = "/dev/shm"


def free_bytes() -> int:
    """Shared memory that is left: containers often have 64 MiB in all."""
    space = os.statvfs(_FOLDER)
    return space.f_bavail * space.f_frsize


def shared_bytes(num_bytes: int) -> torch.Tensor:
    """A uint8 tensor in named shared memory.

    Raises:
        OSError: There is no room for it.
    """
    if (left := free_bytes()) < num_bytes:
        raise OSError(
            f"{_FOLDER} has {left >> 20} MiB left and a bucket needs "
            f"{num_bytes >> 20}: enlarge it, or set rollout.engine.transport=distributed"
        )
    storage = torch.UntypedStorage._new_using_filename_cpu(num_bytes)
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def handles(bucket: Bucket, *, gpu_seen_as: int = 0) -> bytes:
    """The bucket's (name, tensor) pairs, pickled as handles for one receiving process.

    The receiver must unpickle it once, at most: each set of handles counts as a user.

    Args:
        bucket: In memory of `shared_bytes`, or on a GPU.
        gpu_seen_as: What the receiver calls the GPU that the bucket is on.
    """
    stream = io.BytesIO()
    _Pickler(stream, gpu_seen_as).dump(list(bucket.tensors()))
    return stream.getvalue()


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, gpu: int):
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._gpu = gpu
        self._typed: dict[torch.dtype, torch.TypedStorage] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.UntypedStorage):
            manager, handle, size = obj._share_filename_cpu_()
            obj._shared_incref()
            return rebuild_storage_filename, (torch.UntypedStorage, manager, handle, size)
        if isinstance(obj, torch.storage.TypedStorage):
            return rebuild_typed_storage, (obj._untyped_storage, obj.dtype)
        if isinstance(obj, torch.Tensor):
            return self._of_gpu(obj) if obj.is_cuda else self._of_cpu(obj)
        return NotImplemented

    def _of_cpu(self, tensor: torch.Tensor) -> tuple[Any, Sequence[Any]]:
        # One object for each dtype, so that pickle writes the storage once.
        storage = self._typed.setdefault(
            tensor.dtype,
            torch.storage.TypedStorage(
                wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True
            ),
        )
        where = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        return torch._utils._rebuild_tensor_v2, (storage, *where, False, {})

    def _of_gpu(self, tensor: torch.Tensor) -> tuple[Any, Sequence[Any]]:
        rebuild, arguments = reduce_tensor(tensor)
        arguments = list(arguments)
        arguments[6] = self._gpu  # storage_device: an index among the receiver's visible GPUs
        return rebuild, tuple(arguments)
