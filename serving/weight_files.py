"""Whether a weights folder can be read at all, before an engine is asked to read it.

SGLang 0.5.23 keeps its weights when files are missing. But when one cannot be parsed it rolls back
from the path that has just failed, and its scheduler dies. So a torn file must never reach it.
"""

from __future__ import annotations

import json
from pathlib import Path

from sdpo_megatron.errors import SwapError

_LENGTH_BYTES = 8


def check_weight_files(folder: Path, number: int) -> None:
    """Read the header of every safetensors file and compare it with the file's size.

    `number` is the policy version's, for the message.

    Raises:
        SwapError: there is no such file, or one is torn or no safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SwapError(
            f"policy version {number}: no *.safetensors in {folder}; every engine keeps its weights"
        )
    for file in files:
        problem = _problem(file)
        if problem:
            raise SwapError(
                f"policy version {number}: {file}: {problem}; every engine keeps its weights"
            )


def _problem(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if length == 0 or _LENGTH_BYTES + length > size:
            return "not a safetensors file, or torn inside its header"
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return "not a safetensors file: its header is no JSON"
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = _LENGTH_BYTES + length + max(ends, default=0)
    return f"torn: {size} bytes, its header announces {expected}" if size != expected else ""
