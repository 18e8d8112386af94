"""Write the model as a Hugging Face checkpoint: safetensors, config, tokenizer and the like."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sdpo_megatron.errors import CheckpointError, ConfigError, SdpoError
from sdpo_megatron.files import draft_of, put_in_place
from sdpo_megatron.weights import fp8
from sdpo_megatron.weights.files import INDEX_NAME, SINGLE_NAME, index_folder
from sdpo_megatron.weights.gather import iter_hf_tensors
from sdpo_megatron.weights.layout import Chunks
from sdpo_megatron.weights.mapping import EMBED, HEAD, hf_shapes
from sdpo_megatron.weights.spec import CONFIG_NAME, ModelSpec, read_config

MAX_SHARD_BYTES = 2 * 1024**3
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".msgpack", ".h5"}

Progress = Callable[[int, int], None]
"""Called with (bytes written, bytes in all)."""


def checkpoint_dtype(spec: ModelSpec) -> torch.dtype:
    """The dtype that config.json names.

    Raises:
        ConfigError: It is none that we write.
    """
    if spec.dtype not in _DTYPES:
        raise ConfigError(
            f"dtype={spec.dtype!r} in config.json: expected one of {', '.join(_DTYPES)}"
        )
    return _DTYPES[spec.dtype]


def export_hf(
    chunks: Chunks,
    spec: ModelSpec,
    source_folder: str | Path,
    out_folder: str | Path,
    dtype: torch.dtype | None = None,
    *,
    in_fp8: bool = False,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write the model to `out_folder`, which appears complete or not at all.

    Collective over the world; rank 0 writes and must have room for one shard in memory. A load
    followed by an export in the checkpoint's dtype gives the same bits, tensor by tensor.

    Args:
        source_folder: The Hugging Face folder that the model came from: config.json, tokenizer and
            the like are taken from it.
        dtype: Of the written tensors; None means the one config.json names.
        in_fp8: Matrices of layers become block-wise FP8 (`weights.fp8`); `dtype` is of the others.
        overwrite: Replace `out_folder` where it exists.

    Raises:
        CheckpointError: On every rank: the folder exists, or it could not be written (disk full).
    """
    dtype = dtype or checkpoint_dtype(spec)
    out = Path(out_folder)
    if dist.get_rank() != 0:
        _raise_together(None)
        for _ in iter_hf_tensors(chunks, spec, dtype):
            pass
        _raise_together(None)
        return
    writer = _Writer(spec, Path(source_folder), out, dtype, in_fp8, max_shard_bytes, progress)
    _raise_together(_attempt(lambda: writer.start(overwrite)))
    failure: Exception | None = None
    for name, tensor in iter_hf_tensors(chunks, spec, dtype):
        # After a failure the other ranks still send: take what they send, then tell them.
        if failure is None:
            failure = _attempt(lambda name=name, tensor=tensor: writer.add(name, tensor))  # type: ignore[misc]
    if failure is None:
        failure = _attempt(writer.finish)
    if failure is not None:
        writer.discard()
    _raise_together(failure)


def _attempt(action: Callable[[], None]) -> Exception | None:
    from safetensors import SafetensorError  # how a full disk is reported while it writes

    try:
        action()
    except (OSError, SdpoError, SafetensorError) as error:
        return error
    return None


def _raise_together(failure: Exception | None) -> None:
    """Rank 0's failure becomes every rank's."""
    message = [None if failure is None else str(failure)]
    dist.broadcast_object_list(message, src=0)
    if message[0] is not None:
        raise CheckpointError(f"export failed: {message[0]}") from failure


class _Writer:
    """Rank 0's side: tensors become shards, written once complete; the folder is renamed last."""

    def __init__(
        self,
        spec: ModelSpec,
        source: Path,
        out: Path,
        dtype: torch.dtype,
        in_fp8: bool,
        max_shard_bytes: int,
        progress: Progress | None,
    ) -> None:
        self.spec, self.source, self.out, self.dtype = spec, source, out, dtype
        self.in_fp8 = in_fp8
        self.temporary = draft_of(out)
        self.max_shard_bytes, self.progress = max_shard_bytes, progress
        self.shards: list[list[str]] = []
        self.pending: dict[str, torch.Tensor] = {}
        self.total = self.written = 0
        self.copies_head = False

    def start(self, overwrite: bool) -> None:
        if self.out.exists() and not overwrite:
            raise CheckpointError(f"{self.out} exists; remove it or export to another folder")
        # Some tied checkpoints carry the head as well; what we write has the tensors that we read.
        self.copies_head = self.spec.tied and HEAD in index_folder(self.source)
        shapes = hf_shapes(self.spec)
        if self.copies_head:
            shapes[HEAD] = shapes[EMBED]
        written = {name: (shape, self.dtype) for name, shape in shapes.items()}
        if self.in_fp8:
            written = fp8.layout(shapes, self.dtype)
        sizes = {name: math.prod(shape) * kind.itemsize for name, (shape, kind) in written.items()}
        self.shards = list(_plan(sizes, self.max_shard_bytes))
        self.total = sum(sizes.values())
        self.temporary.mkdir(parents=True)
        copy_companions(self.source, self.temporary, self.dtype, in_fp8=self.in_fp8)
        self._write_index()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        parts = fp8.encode(name, tensor) if self.in_fp8 else [(name, tensor)]
        # A view would keep its whole bucket.
        self.pending |= {part: value.to("cpu", copy=True) for part, value in parts}
        if name == EMBED and self.copies_head:
            self.pending[HEAD] = self.pending[EMBED].clone()
        for number, names in enumerate(self.shards):
            if names and all(name in self.pending for name in names):
                self._write(number, {name: self.pending.pop(name) for name in names})
                self.shards[number] = []

    def finish(self) -> None:
        assert not self.pending, f"never written: {sorted(self.pending)}"
        put_in_place(self.temporary, self.out)

    def discard(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _write(self, number: int, tensors: dict[str, torch.Tensor]) -> None:
        from safetensors.torch import save_file

        save_file(tensors, str(self.temporary / self._name(number)), metadata={"format": "pt"})
        self.written += sum(tensor.nbytes for tensor in tensors.values())
        if self.progress is not None:
            self.progress(self.written, self.total)

    def _name(self, number: int) -> str:
        if len(self.shards) == 1:
            return SINGLE_NAME
        return f"model-{number + 1:05d}-of-{len(self.shards):05d}.safetensors"

    def _write_index(self) -> None:
        if len(self.shards) > 1:
            where = {
                name: self._name(number)
                for number, names in enumerate(self.shards)
                for name in names
            }
            write_index(self.temporary, where, self.total)


def copy_companions(
    source: Path, target: Path, dtype: torch.dtype, *, in_fp8: bool = False
) -> None:
    """What belongs to a checkpoint besides its weights: tokenizer and the like as they are, and
    config.json with the dtype that is written.
    """
    for file in sorted(source.iterdir()):
        skip = (
            file.suffix in _WEIGHT_SUFFIXES
            or file.name.endswith(".index.json")
            or file.name[0] == "."
        )
        if file.is_file() and not skip:
            shutil.copyfile(file, target / file.name)
    config: dict[str, Any] = read_config(source)
    name = "torch_dtype" if "torch_dtype" in config else "dtype"
    config[name] = str(dtype).removeprefix("torch.")
    if in_fp8:
        config["quantization_config"] = dict(fp8.QUANTIZATION_CONFIG)
    _write_json(target / CONFIG_NAME, config)


def write_index(folder: Path, where: dict[str, str], num_bytes: int) -> None:
    """Which file of `folder` holds which tensor."""
    index = {"metadata": {"total_size": num_bytes}, "weight_map": where}
    _write_json(folder / INDEX_NAME, index)


def _plan(sizes: dict[str, int], max_bytes: int) -> Iterator[list[str]]:
    """Tensors in order, in shards of at most `max_bytes` (a larger tensor has its own)."""
    names: list[str] = []
    size = 0
    for name, more in sizes.items():
        if names and size + more > max_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += more
    yield names


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
