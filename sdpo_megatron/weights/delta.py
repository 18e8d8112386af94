"""The difference between two versions of the weights, for a site that has the first.

    delta = zstd(planes(new XOR old))          tensor by tensor, bit for bit

After a small step most bf16 weights are the same and the rest differ in their lowest bits, so the
XOR is mostly zeros; split into planes of bytes (all lowest bytes, then all next ones) those zeros
lie together. A delta is one file, and names the SHA-256 of every file that it gives back.

    file = length of the header (8 bytes, little endian), header (JSON), frames
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from sdpo_megatron.errors import CheckpointError
from sdpo_megatron.files import whole_folder, write_whole

SUFFIX = ".delta"
_LEVEL = 3
_LENGTH_BYTES = 8
_PIECE_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class DeltaInfo:
    """Attributes:
    base: Name of the folder that it needs, e.g. v000003.
    target: Name of the folder that it gives.
    num_bytes: Of the delta itself.
    raw_bytes: Of the files that it gives back.
    """

    base: str
    target: str
    num_bytes: int
    raw_bytes: int


def write_delta(base: Path, target: Path, out: Path) -> DeltaInfo:
    """Write what makes the folder `target` of the folder `base` to the file `out`.

    Weight files of the same name and size are XORed; anything else is carried whole.

    Raises:
        OSError: A full disk, say; nothing of `out` is left.
    """
    frames: list[bytes] = []
    files: list[dict[str, Any]] = []
    raw = 0
    for file in sorted(path for path in target.iterdir() if path.is_file()):
        data = np.fromfile(file, dtype=np.uint8)
        old = base / file.name
        weights = file.suffix == ".safetensors"
        differs = not (old.is_file() and old.stat().st_size == data.size)
        pieces = list(_encoded(data, None if differs else np.fromfile(old, np.uint8), weights))
        files.append(
            {
                "name": file.name,
                "size": int(data.size),
                "whole": differs,
                "planes": weights,
                "sha256": hashlib.sha256(data.data).hexdigest(),
                "frames": [len(piece) for piece in pieces],
            }
        )
        frames += pieces
        raw += data.size
    header = json.dumps({"base": base.name, "target": target.name, "files": files}).encode()
    content = b"".join([len(header).to_bytes(_LENGTH_BYTES, "little"), header, *frames])
    write_whole(out, content)
    return DeltaInfo(base.name, target.name, len(content), raw)


def read_info(delta: Path) -> DeltaInfo:
    """What a delta joins.

    Raises:
        CheckpointError: It is no delta, or torn.
    """
    header, _ = _header(delta)
    raw = sum(file["size"] for file in header["files"])
    return DeltaInfo(header["base"], header["target"], delta.stat().st_size, raw)


def apply_delta(base: Path, delta: Path, target: Path) -> None:
    """Make the folder `target`, which appears whole or not at all.

    Raises:
        CheckpointError: The delta is torn, needs another base, or gives other bytes than it was
            made of.
    """
    header, start = _header(delta)
    if header["base"] != base.name:
        raise CheckpointError(
            f"{delta} begins at {header['base']}, not at {base.name}: apply those before it first"
        )
    with delta.open("rb") as stream, whole_folder(target) as draft:
        stream.seek(start)
        for file in header["files"]:
            _restore(file, [stream.read(size) for size in file["frames"]], base, draft, delta)


def copy_base(source: Path, target: Path) -> None:
    """A whole folder, for a site that has none yet."""
    with whole_folder(target) as draft:
        for file in source.iterdir():
            if file.is_file():
                shutil.copyfile(file, draft / file.name)


def _restore(
    file: dict[str, Any], frames: list[bytes], base: Path, draft: Path, delta: Path
) -> None:
    old = None
    if not file["whole"]:
        if not (base / file["name"]).is_file():
            raise CheckpointError(f"{base} has no {file['name']}, which {delta} builds on")
        old = np.fromfile(base / file["name"], dtype=np.uint8)
    try:
        data = _decoded(frames, file, old)
    except (zstandard.ZstdError, ValueError) as error:
        raise CheckpointError(f"{delta} is torn at {file['name']}: {error}") from error
    if hashlib.sha256(data.data).hexdigest() != file["sha256"]:
        raise CheckpointError(
            f"{file['name']} made of {base} and {delta} is not the file that it was made of: "
            f"{base} is not the same everywhere"
        )
    data.tofile(draft / file["name"])


def _encoded(
    data: np.ndarray[Any, Any], old: np.ndarray[Any, Any] | None, planes: bool
) -> Iterator[bytes]:
    packer = zstandard.ZstdCompressor(level=_LEVEL)
    for start in range(0, data.size, _PIECE_BYTES):
        piece = data[start : start + _PIECE_BYTES]
        if old is not None:
            piece = piece ^ old[start : start + _PIECE_BYTES]
        yield packer.compress((_split(piece) if planes else piece).tobytes())


def _decoded(
    frames: list[bytes], file: dict[str, Any], old: np.ndarray[Any, Any] | None
) -> np.ndarray[Any, Any]:
    unpacker = zstandard.ZstdDecompressor()
    pieces = [np.frombuffer(unpacker.decompress(frame), np.uint8) for frame in frames]
    pieces = [_joined(piece) if file["planes"] else piece for piece in pieces]
    data = np.concatenate(pieces) if pieces else np.empty(0, np.uint8)
    if data.size != file["size"] or (old is not None and old.size != data.size):
        raise ValueError(f"{data.size} bytes where {file['size']} were written")
    return data if old is None else data ^ old


def _split(data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Even bytes, then odd ones (of bf16: low, then high), then what is left over."""
    pairs = data[: data.size // 2 * 2].reshape(-1, 2)
    return np.concatenate([pairs.T.reshape(-1), data[pairs.size :]])


def _joined(data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    half = data.size // 2
    pairs = data[: 2 * half].reshape(2, half)
    return np.concatenate([pairs.T.reshape(-1), data[2 * half :]])


def _header(delta: Path) -> tuple[dict[str, Any], int]:
    with delta.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise CheckpointError(f"{delta} is no delta, or torn: {error}") from error
    return header, _LENGTH_BYTES + length
