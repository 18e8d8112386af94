"""The output folder of a batch: its parts, and what they already hold.

Parts are there whole or not at all:

    OUT/shard-00002-of-00008/part-00000.jsonl     one line a verdict or failure, in input order
    OUT/shard-00002-of-00008/_BASIS.json          what the verdicts rest on, see `basis`
    OUT/shard-00002-of-00008/_DONE.json           the counts, when the shard is finished
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.files import write_whole
from sdpo_megatron.judging.offline.basis import differences

DONE, BASIS = "_DONE.json", "_BASIS.json"


class Parts:
    """One shard's folder. Only one process may write it at a time."""

    def __init__(self, output: Path, shard: int, num_shards: int) -> None:
        self.folder = output / f"shard-{shard:05d}-of-{num_shards:05d}"

    def claim(self, basis: Mapping[str, Any]) -> None:
        """Make the folder, or check that its parts rest on the same.

        Raises:
            ConfigError: They rest on something else; the message names each difference.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        note = self.folder / BASIS
        try:
            theirs = json.loads(note.read_text("utf-8"))
        except FileNotFoundError:
            theirs = None
        except ValueError as error:
            raise ConfigError(f"{note} cannot be read: {error}; remove {self.folder}") from error
        if theirs is None and any(self.folder.glob("part-*")):
            raise ConfigError(
                f"{self.folder} holds parts, but no {BASIS} says what they rest on; give another "
                "output folder, or remove this one"
            )
        if theirs is not None and theirs != basis:
            raise ConfigError(
                f"{self.folder} holds verdicts that were made differently "
                f"({'; '.join(differences(theirs, dict(basis)))}); give another output folder, or "
                "remove this one"
            )
        (self.folder / DONE).unlink(missing_ok=True)
        write_whole(note, json.dumps(basis, indent=1))

    def path(self, number: int) -> Path:
        """File of part `number`."""
        return self.folder / f"part-{number:05d}.jsonl"

    def read(self, number: int) -> list[dict[str, Any]]:
        """The lines of a part written before; none when there is none or it is not whole."""
        try:
            text = self.path(number).read_text("utf-8")
            return [json.loads(line) for line in text.splitlines()]
        # a part is renamed into place, so a torn one is a disk's fault
        except (FileNotFoundError, ValueError):
            return []

    def write(self, number: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write a part: whole, or not at all."""
        write_whole(self.path(number), "".join(json.dumps(line) + "\n" for line in lines))

    def finish(self, counts: Mapping[str, int]) -> None:
        """Mark the shard as finished."""
        write_whole(self.folder / DONE, json.dumps(dict(counts)))
