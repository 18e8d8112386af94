"""Load a Hugging Face checkpoint into Megatron model chunks: each rank reads its own slices."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from sdpo_megatron.errors import ModelFileError
from sdpo_megatron.weights.files import SliceReader, TensorInfo, index_folder
from sdpo_megatron.weights.layout import Chunks, current_position, local_params
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
    """Fill every parameter of this rank from the checkpoint in `folder`.

    Values are cast to the parameters' dtype; rows of a padded vocabulary become zero. Not a
    collective: ranks read on their own (file pages are shared on one host).

    Args:
        chunks: Model chunks as `actor.model.gpt.build_model` returns them, before or after DDP
            wraps them. After the optimiser was built, its master weights must be reloaded by the
            caller.

    Raises:
        ModelFileError: The folder is missing, a file is corrupt, or the tensors do not fit; nothing
            was changed then.
    """
    index = index_folder(folder)
    check_tensors(spec, index, folder)
    with SliceReader(index) as reader:
        if spec.tied and HEAD in index:
            _check_same_head(reader, spec, folder)
        for param, tensor in local_params(chunks, spec, current_position()):
            tensor.zero_()
            for piece in param.pieces:
                values = reader.read(piece.hf, piece.axis, piece.hf_start, piece.hf_stop)
                tensor.narrow(piece.axis, piece.start, piece.stop - piece.start).copy_(values)


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
