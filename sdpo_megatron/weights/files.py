"""The safetensors files of a Hugging Face folder: an index of tensors, and slices on demand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdpo_megatron.errors import ModelFileError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the checkpoint; `dtype` is safetensors' name, e.g. BF16."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def index_folder(folder: str | Path) -> dict[str, TensorInfo]:
    """Every tensor in the folder's safetensors files, by name; reads the headers only.

    Raises:
        ModelFileError: No such files, an index that names a missing file, or a file that is not
            intact.
    """
    found: dict[str, TensorInfo] = {}
    for file in _files(Path(folder)):
        with _open(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                view = tensors.get_slice(name)
                found[name] = TensorInfo(file, tuple(view.get_shape()), str(view.get_dtype()))
    return found


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ModelFileError(
            f"model folder {folder} does not exist; give the path of a checkpoint folder"
        )
    index = folder / INDEX_NAME
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelFileError(
                f"{index} is not a readable index ({error!r}); fetch the model again"
            ) from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelFileError(
                f"{index} names files that are not there: {', '.join(missing)}; "
                "fetch the model again"
            )
        return [folder / name for name in names]
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    raise ModelFileError(
        f"{folder} holds neither {SINGLE_NAME} nor {INDEX_NAME}; only safetensors checkpoints "
        "are read (transformers' save_pretrained writes one)"
    )


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt", device="cpu") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size if file.exists() else 0
        raise ModelFileError(
            f"{file} is corrupt or cut short ({size} bytes on disk): {error}; fetch the model again"
        ) from error


class SliceReader:
    """Slices of tensors. A context manager: files stay open (memory-mapped) until it ends."""

    def __init__(self, index: dict[str, TensorInfo]) -> None:
        self._index = index
        self._open_files: dict[Path, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> SliceReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._open_files.clear()
        self._stack.close()

    def read(self, name: str, axis: int, start: int, stop: int) -> torch.Tensor:
        """Rows (axis 0) or columns (axis 1) [start, stop), in the file's dtype, on the CPU."""
        file = self._index[name].file
        if file not in self._open_files:
            self._open_files[file] = self._stack.enter_context(_open(file))
        view = self._open_files[file].get_slice(name)
        cut: torch.Tensor = view[start:stop] if axis == 0 else view[:, start:stop]
        return cut
