"""The plan of a rollout batch as a file: a header, then a line for each data-parallel rank.

    {"step": 12, "ranks": [[offset behind this line, length, crc32], ...]}
    {"files": [[name, crc32], ...], "steps": [{"counts", "flops", "lengths", "micro_batches"}, ...]}

A rank reads the header and its own line, and learns the files and places of its own samples, and
the sums over all of them. The file appears whole or not at all.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpo_megatron.actor.batches.counts import StepCounts
from sdpo_megatron.actor.batches.share import BatchPlan, StepShare, contents, filled
from sdpo_megatron.errors import GroupFileError
from sdpo_megatron.files import write_whole
from sdpo_megatron.nouns import GroupReceipt
from sdpo_megatron.objectives import GlobalCounts


@dataclass(frozen=True)
class RankPlan:
    """What one data-parallel rank is told.

    Attributes:
        plan: Its places: (number in `files`, place in that file).
        files: (name in the folder of groups, crc32 of the receipt).
    """

    plan: BatchPlan
    files: tuple[tuple[str, int], ...]


def write_plan(
    path: Path, step: int, plans: Sequence[BatchPlan], groups: Sequence[GroupReceipt]
) -> None:
    """Write the plans of all data-parallel ranks.

    Args:
        step: Of the run, from 1.
        plans: By rank; their places are (number in `groups`, place in that group's file).
        groups: All groups of the batch.

    Raises:
        GroupFileError: It could not be written: a full disk, say.
    """
    lines = [json.dumps(_rank_to_plain(plan, groups)).encode() + b"\n" for plan in plans]
    ranks, offset = [], 0
    for line in lines:
        ranks.append([offset, len(line), zlib.crc32(line)])
        offset += len(line)
    header = {"step": step, "ranks": ranks}
    try:
        write_whole(path, b"".join((json.dumps(header).encode(), b"\n", *lines)))
    except OSError as error:
        raise GroupFileError(
            f"{path}: the plan of step {step} could not be written: {error.strerror}. Free some "
            "space and go on from the last checkpoint."
        ) from error


def read_plan(path: Path, rank: int) -> RankPlan:
    """What data-parallel rank `rank` is told.

    Raises:
        GroupFileError: The file is missing or altered, or is for fewer ranks.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            if rank >= len(header["ranks"]):
                raise ValueError(f"it is for {len(header['ranks'])} ranks, this is rank {rank}")
            offset, length, crc32 = header["ranks"][rank]
            file.seek(offset, 1)
            line = file.read(length)
        if zlib.crc32(line) != crc32:
            raise ValueError(f"the checksum of rank {rank}'s line is wrong")
        return _rank_from_plain(json.loads(line))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise GroupFileError(
            f"{path}: the plan cannot be read: {error}. The run folder must lie on a file system "
            "that all machines of the run share"
        ) from error


def plan_to_bytes(plan: BatchPlan) -> bytes:
    """A rank's plan on its way to the other ranks of the model."""
    return json.dumps(_steps_to_plain(plan)).encode()


def plan_from_bytes(data: bytes | memoryview) -> BatchPlan:
    """The inverse of `plan_to_bytes`."""
    return _steps_from_plain(json.loads(bytes(data)))


def _rank_to_plain(plan: BatchPlan, groups: Sequence[GroupReceipt]) -> dict[str, Any]:
    used = dict.fromkeys(number for number, _ in contents(plan))
    numbers = {number: at for at, number in enumerate(used)}
    places = ((numbers[number], place) for number, place in contents(plan))
    return {
        "files": [[groups[number].file, groups[number].crc32] for number in used],
        "steps": _steps_to_plain(filled(plan, places)),
    }


def _rank_from_plain(plain: dict[str, Any]) -> RankPlan:
    files = tuple((name, crc32) for name, crc32 in plain["files"])
    return RankPlan(_steps_from_plain(plain["steps"]), files)


def _steps_to_plain(plan: BatchPlan) -> list[dict[str, Any]]:
    return [
        {
            "counts": [[of.tokens, of.samples] for of in (step.counts.distill, step.counts.policy)],
            "flops": step.flops,
            "lengths": dict(step.lengths),
            "micro_batches": step.micro_batches,
        }
        for step in plan
    ]


def _steps_from_plain(plain: list[dict[str, Any]]) -> BatchPlan:
    return tuple(
        StepShare(
            counts=StepCounts(*(GlobalCounts(tokens=t, samples=n) for t, n in step["counts"])),
            flops=step["flops"],
            lengths=step["lengths"],
            micro_batches=tuple(
                tuple((number, place) for number, place in part) for part in step["micro_batches"]
            ),
        )
        for step in plain
    )
