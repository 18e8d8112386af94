"""Load a Hugging Face checkpoint into Megatron model chunks.

One replica reads: the first data-parallel rank of each model-parallel position takes its slices
from the files and broadcasts them, parameter by parameter. So the file system is read once, however
many replicas there are, and nothing is held beside the parameters themselves.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from sdpo_megatron.errors import ModelFileError
from sdpo_megatron.weights.files import SliceReader, TensorInfo, index_folder
from sdpo_megatron.weights.layout import (
    Chunks,
    current_position,
    holds_first_copy,
    local_params,
)
from sdpo_megatron.weights.mapping import EMBED, HEAD, hf_shapes
from sdpo_megatron.weights.spec import ModelSpec

MAX_NAMED = 36  # tensors named in one error message
_FLOAT_DTYPES = {"F32", "BF16", "F16"}
# Frequencies that old versions of transformers saved with Llama; computed from the configuration
# everywhere now.
_DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def check_tensors(spec: ModelSpec, index: dict[str, TensorInfo], folder: str | Path) -> None:
    """Compare the files' tensors with what the model needs, before anything is loaded.

    Raises:
        ModelFileError: Names every missing, surplus, mis-shaped or non-float tensor (the first
            dozens of each).
    """
    needed = hf_shapes(spec)
    # Some tied checkpoints carry the head as well (Qwen3-0.6B); `load_hf_weights` checks that it is
    # the same.
    optional = {HEAD} if spec.tied else set()
    missing = [name for name in needed if name not in index]
    surplus = [
        n for n in index if n not in needed and n not in optional and not _DERIVED.fullmatch(n)
    ]
    misshaped = [
        f"{name} {list(index[name].shape)}, expected {list(shape)}"
        for name, shape in needed.items()
        if name in index and index[name].shape != shape
    ]
    not_float = [
        f"{n} {index[n].dtype}"
        for n in needed
        if n in index and index[n].dtype not in _FLOAT_DTYPES
    ]
    found = {
        "missing": missing,
        "surplus": surplus,
        "mis-shaped": misshaped,
        "not floating point": not_float,
    }
    parts = [_listing(problem, names) for problem, names in found.items() if names]
    if parts:
        raise ModelFileError(
            f"{folder}: the tensors do not fit config.json ({spec.model_type}, {spec.num_layers} "
            f"layers); nothing was loaded.\n  "
            + "\n  ".join(parts)
            + "\n  Use the config.json that belongs to these files, or fetch both again."
        )


def _listing(problem: str, names: list[str]) -> str:
    shown = ", ".join(names[:MAX_NAMED])
    more = f", and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{problem} ({len(names)}): {shown}{more}"


@torch.no_grad()
def load_hf_weights(chunks: Chunks, spec: ModelSpec, folder: str | Path) -> None:
    """Fill every parameter of this rank from the checkpoint in `folder`; collective.

    Values are cast to the parameters' dtype; rows of a padded vocabulary become zero.

    Args:
        chunks: Model chunks as `actor.model.gpt.build_model` returns them, before or after DDP
            wraps them. After the optimiser was built, its master weights must be reloaded by the
            caller.

    Raises:
        ModelFileError: The folder is missing, a file is corrupt, or the tensors do not fit; nothing
            was changed then. On every rank.
    """
    dense_first, expert_first = holds_first_copy()
    dense_group, expert_group = _replicas()
    index: dict[str, TensorInfo] = {}
    problem = None
    try:
        if dense_first or expert_first:
            index = _checked_index(spec, folder)
    except ModelFileError as error:
        problem = str(error)
    _fail_together(problem)
    with SliceReader(index) as reader:
        for param, tensor in local_params(chunks, spec, current_position()):
            first, group = (
                (expert_first, expert_group) if param.is_expert else (dense_first, dense_group)
            )
            if first:
                tensor.zero_()
                for piece in param.pieces:
                    values = reader.read(piece.hf, piece.axis, piece.hf_start, piece.hf_stop)
                    tensor.narrow(piece.axis, piece.start, piece.stop - piece.start).copy_(values)
            if group.size() > 1:
                torch.distributed.broadcast(tensor.data, group=group, group_src=0)


def _replicas() -> tuple[Any, Any]:
    """The groups of ranks with the same (dense, expert) parameters as this one."""
    from megatron.core import parallel_state as ps

    return (
        ps.get_data_parallel_group(with_context_parallel=True),
        ps.get_expert_data_parallel_group(),
    )


def _checked_index(spec: ModelSpec, folder: str | Path) -> dict[str, TensorInfo]:
    index = index_folder(folder)
    check_tensors(spec, index, folder)
    if spec.tied and HEAD in index:
        with SliceReader(index) as reader:
            _check_same_head(reader, spec, folder)
    return index


def _fail_together(problem: str | None) -> None:
    """A rank that raised alone would leave its replicas waiting for the first broadcast."""
    problems: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(problems, problem)
    if first := next((text for text in problems if text), None):
        raise ModelFileError(first)


def _check_same_head(
    reader: SliceReader, spec: ModelSpec, folder: str | Path, rows: int = 8192
) -> None:
    for start in range(0, spec.vocab, rows):
        stop = min(start + rows, spec.vocab)
        if not torch.equal(reader.read(HEAD, 0, start, stop), reader.read(EMBED, 0, start, stop)):
            raise ModelFileError(
                f"{folder}: tie_word_embeddings is true but {HEAD} differs from {EMBED}; if the "
                "head is its own matrix, set tie_word_embeddings to false in config.json, else "
                "remove it from the files"
            )
