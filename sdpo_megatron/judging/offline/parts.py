"""The output folder of a batch: its parts, and what they already hold.

Parts are there whole or not at all:

    OUT/shard-00002-of-00008/part-00000.jsonl     one line a verdict or failure, in input order
    OUT/shard-00002-of-00008/_INPUT.json          which input and split the parts belong to
    OUT/shard-00002-of-00008/_DONE.json           the counts, when the shard is finished
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.files import write_whole

DONE, INPUT = "_DONE.json", "_INPUT.json"
BLOCK = 2**20


class Parts:
    """One shard's folder. Only one process may write it at a time."""

    def __init__(self, output: Path, shard: int, num_shards: int) -> None:
        self.folder = output / f"shard-{shard:05d}-of-{num_shards:05d}"

    def claim(self, source: Path, part_size: int) -> None:
        """Make the folder, or check that its parts belong to the same input.

        Raises:
            ConfigError: They belong to another input file or part size.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        mine = {"sha256": _sha256(source), "part_size": part_size}
        note = self.folder / INPUT
        if note.exists():
            theirs = json.loads(note.read_text("utf-8"))
            if theirs != mine:
                raise ConfigError(
                    f"{self.folder} holds parts of another input or part size "
                    f"({theirs}, now {mine}); give another output folder, or remove this one"
                )
        write_whole(note, json.dumps(mine))

    def path(self, number: int) -> Path:
        """File of part `number`."""
        return self.folder / f"part-{number:05d}.jsonl"

    def read(self, number: int) -> list[dict[str, Any]] | None:
        """The lines of a part written before; None when there is none or it is not whole."""
        try:
            text = self.path(number).read_text("utf-8")
            return [json.loads(line) for line in text.splitlines()]
        # a part is renamed into place, so a torn one is a disk's fault
        except (FileNotFoundError, ValueError):
            return None

    def write(self, number: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write a part: whole, or not at all."""
        write_whole(self.path(number), "".join(json.dumps(line) + "\n" for line in lines))

    def finish(self, counts: Mapping[str, int]) -> None:
        """Mark the shard as finished."""
        write_whole(self.folder / DONE, json.dumps(dict(counts)))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
